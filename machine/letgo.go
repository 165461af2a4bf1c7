package machine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// claim is one that a call has taken, or has tried to take.
type claim struct {
	attempt string
	key     store.Key
	lease   store.Lease
	until   time.Time // the end of the lease, by our clock: then the sweeper sees to it
}

// claims notes the claim of a decision before it is written: the store may keep it
// and lose the answer.
func (c *call) claims(before *store.Attempt, d *table.Decision) {
	a := d.Attempt
	if a == nil || a.Lease.Owner != c.eng.instance || before != nil && a.Lease.Fence == before.Lease.Fence {
		return
	}
	c.claim = claim{attempt: a.ID, key: a.Key, lease: a.Lease, until: c.eng.clock().Add(c.eng.timeouts.Lease)}
}

// dropped are the claims whose calls the store has cut short. Nobody is at work
// under them, but the store may hold them, and then all others would wait for the end
// of a lease (S). So the process looks again as soon as the store answers, and
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
		return // another call has taken over since, and was cut short too
	}
	x.claims[was.attempt] = was
}

// again keeps a claim for another look. One that the last look itself has dropped
// takes its place, but lasts no longer.
func (x *dropped) again(was claim) {
	x.mu.Lock()
	if now, ok := x.claims[was.attempt]; ok {
		was.lease = now.lease
	}
	x.mu.Unlock()
	x.add(was)
}

// take returns the claims that are to be looked at, and forgets them.
func (x *dropped) take() map[string]claim {
	x.mu.Lock()
	defer x.mu.Unlock()
	taken := x.claims
	x.claims = nil
	return taken
}

// letGo settles the attempts whose claims were dropped, and gives back the callbacks
// whose claims were lost. What the store does not answer for is tried again the next
// time.
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
