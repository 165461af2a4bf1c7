package outbox

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// lost holds the claims that returned an error. The store may have kept such a claim;
// then no process makes the callback until its lease ends.
type lost struct {
	mu     sync.Mutex
	claims map[lostClaim]time.Time // the latest end of the lease, by the local clock
}

// lostClaim is a claim of an unknown row by an owner that has no other claim, or the
// claim of a row that was to be written with the instance as its owner. In case the
// store kept nothing, the end of the lease tells that row from the next try's.
type lostClaim struct {
	owner string
	row   store.DeliveryKey // zero if unknown
	until int64             // in Unix microseconds; 0 if unknown
}

func claimOf(row *store.Delivery) lostClaim {
	return lostClaim{row.Owner, row.DeliveryKey, row.NextAt.UnixMicro()}
}

func (l *lost) add(c lostClaim, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.claims == nil {
		l.claims = map[lostClaim]time.Time{}
	}
	l.claims[c] = until
}

// known returns the claims whose leases may still be live.
func (l *lost) known(now time.Time) map[lostClaim]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.claims, func(_ lostClaim, until time.Time) bool { return now.After(until) })
	return maps.Clone(l.claims)
}

func (l *lost) forget(claims map[lostClaim]time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range claims {
		delete(l.claims, c)
	}
}

// Lost notes that the commit of a row that this process was to hold returned an
// error.
func (o *Outbox) Lost(row store.Delivery) {
	o.lost.add(claimOf(&row), o.Clock().Add(o.Lease))
}

// LetGo gives back the rows that the store holds for this process although their
// claims returned an error. owed has to read all rows that are owed. An error is
// owed's; LetGo then has to be called again.
func (o *Outbox) LetGo(ctx context.Context, owed func(each func(row store.Delivery, now time.Time)) error) error {
	claims := o.lost.known(o.Clock())
	if len(claims) == 0 {
		return nil
	}
	err := owed(func(row store.Delivery, now time.Time) {
		_, unknown := claims[lostClaim{owner: row.Owner}]
		_, known := claims[claimOf(&row)]
		if (unknown || known) && row.Status == store.DeliveryPending {
			o.giveBack(ctx, &held{row: row, now: now, since: o.Clock()})
		}
	})
	if err == nil {
		o.lost.forget(claims)
	}
	return err
}
