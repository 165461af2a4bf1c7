package outbox

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// lost are the claims that came back with an error. The store may have kept such a
// claim; then nobody makes the callback until its lease is over.
type lost struct {
	mu     sync.Mutex
	claims map[lostClaim]time.Time // until when its lease can last, by our clock
}

// lostClaim is a claim of a row that is not known, by an owner who has no other; or one
// of a row that was to be written with its owner, the instance. The end of its lease
// tells that row from the one of the next try, should the store have kept nothing.
type lostClaim struct {
	owner string
	row   store.DeliveryKey // zero: not known
	until int64             // in Unix microseconds; 0: not known
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

// known are the claims whose leases can still last.
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

// Lost notes that the commit of a row that this process was to hold came back with an
// error.
func (o *Outbox) Lost(row store.Delivery) {
	o.lost.add(claimOf(&row), o.Clock().Add(o.Lease))
}

// LetGo gives back the rows that the store holds for this process though their claims
// came back with an error. owed reads the rows that are owed, all of them. An error is
// owed's: then LetGo is to be called again.
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
