package outbox

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// lost are the owners of claims that came back with an error. The store may have kept
// such a claim; then nobody makes the callback until its lease is over.
type lost struct {
	mu     sync.Mutex
	owners map[string]time.Time // until when a lease of it can last, by our clock
}

func (l *lost) add(owner string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.owners == nil {
		l.owners = map[string]time.Time{}
	}
	l.owners[owner] = until
}

// known are the owners whose leases can still last.
func (l *lost) known(now time.Time) map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.owners, func(_ string, until time.Time) bool { return now.After(until) })
	return maps.Clone(l.owners)
}

func (l *lost) forget(owners map[string]time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for owner := range owners {
		delete(l.owners, owner)
	}
}

// LetGo gives back the rows that the store holds for this process though their claims
// came back with an error. owed reads the rows that are owed, all of them. An error is
// owed's: then LetGo is to be called again.
func (o *Outbox) LetGo(ctx context.Context, owed func(each func(row store.Delivery, now time.Time)) error) error {
	owners := o.lost.known(o.Clock())
	if len(owners) == 0 {
		return nil
	}
	err := owed(func(row store.Delivery, now time.Time) {
		if _, ok := owners[row.Owner]; ok && row.Status == store.DeliveryPending {
			o.giveBack(ctx, &held{row: row, now: now, since: o.Clock()})
		}
	})
	if err == nil {
		o.lost.forget(owners)
	}
	return err
}
