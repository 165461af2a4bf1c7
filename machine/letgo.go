package machine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// claim is a claim that a call has taken, or has tried to take.
type claim struct {
	attempt string
	key     store.Key
	lease   store.Lease
	until   time.Time // the end of the lease, by the local clock; then the sweeper takes over
}

// claims notes the claim of a decision before it is written: the store may keep the
// claim and its answer may be lost.
func (c *call) claims(before *store.Attempt, d *table.Decision) {
	a := d.Attempt
	if a == nil || a.Lease.Owner != c.eng.instance || before != nil && a.Lease.Fence == before.Lease.Fence {
		return
	}
	c.claim = claim{attempt: a.ID, key: a.Key, lease: a.Lease, until: c.eng.clock().Add(c.eng.timeouts.Lease)}
}

// dropped holds the claims of calls that a store error has ended. They have no
// worker, but the store may still hold them, and then all others would wait for the
// lease to end (S). So the process looks again as soon as the store answers, and
// recovers the attempt as after a crash.
type dropped struct {
	mu     sync.Mutex
	claims map[string]claim // by attempt
}

func (x *dropped) add(was claim) {
	if was.attempt == "" {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.claims == nil {
		x.claims = map[string]claim{}
	}
	if now, ok := x.claims[was.attempt]; ok && now.lease.Fence > was.lease.Fence {
		return // a later claim of the attempt was dropped too
	}
	x.claims[was.attempt] = was
}

// again keeps a claim for another look. If the last look dropped a claim of its own,
// that one's lease is kept instead, but only as long as the first claim's.
func (x *dropped) again(was claim) {
	x.mu.Lock()
	if now, ok := x.claims[was.attempt]; ok {
		was.lease = now.lease
	}
	x.mu.Unlock()
	x.add(was)
}

// take returns the dropped claims and clears the list.
func (x *dropped) take() map[string]claim {
	x.mu.Lock()
	defer x.mu.Unlock()
	taken := x.claims
	x.claims = nil
	return taken
}

// letGo settles the attempts whose claims were dropped, and gives back the callbacks
// whose claims were lost. What fails because of the store is retried next time.
func (e *Engine) letGo(ctx context.Context) {
	_ = e.outbox.LetGo(ctx, func(each func(store.Delivery, time.Time)) error { return e.owed(ctx, each) })
	var jobs []func()
	for _, was := range e.dropped.take() {
		if e.clock().After(was.until) {
			continue
		}
		jobs = append(jobs, func() {
			err := e.sweepOne(ctx, was.attempt, was.key, was.lease)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				e.dropped.again(was)
			}
		})
	}
	atOnce(sweepers, jobs)
}
