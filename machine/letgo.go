package machine

import (
	"context"
	"errors"
	"slices"
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
// worker, but the store may still hold one of them, and then all others would wait for
// its lease to end (S). So the process looks again as soon as the store answers, and
// recovers the attempt as after a crash. A look claims the attempt, too, and may be cut
// short like any call: any of the claims may be the one that the store holds.
type dropped struct {
	mu     sync.Mutex
	claims map[string][]claim // by attempt, oldest first
}

func (x *dropped) add(was claim) {
	if was.attempt == "" {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.put(was.attempt, append(x.claims[was.attempt], was))
}

func (x *dropped) put(attempt string, claims []claim) {
	if x.claims == nil {
		x.claims = map[string][]claim{}
	}
	x.claims[attempt] = claims
}

// again keeps the claims of an attempt for another look. Claims that were dropped
// during the last look, such as its own, are kept no longer than these: while no commit
// succeeds, the looks must come to an end.
func (x *dropped) again(claims []claim) {
	attempt, end := claims[0].attempt, claims[len(claims)-1].until
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, was := range x.claims[attempt] {
		if was.until.After(end) {
			was.until = end
		}
		claims = append(claims, was)
	}
	x.put(attempt, claims)
}

// take returns the dropped claims that are not over, and clears the list.
func (x *dropped) take(now time.Time) [][]claim {
	x.mu.Lock()
	defer x.mu.Unlock()
	var taken [][]claim
	for _, claims := range x.claims {
		claims = slices.DeleteFunc(claims, func(was claim) bool { return now.After(was.until) })
		if len(claims) > 0 {
			taken = append(taken, claims)
		}
	}
	x.claims = nil
	return taken
}

// letGo settles the attempts whose claims were dropped, and gives back the callbacks
// whose claims were lost. What fails because of the store is retried next time.
func (e *Engine) letGo(ctx context.Context) {
	_ = e.outbox.LetGo(ctx, func(each func(store.Delivery, time.Time)) error { return e.owed(ctx, each) })
	var jobs []func()
	for _, claims := range e.dropped.take(e.clock()) {
		leases := make([]store.Lease, len(claims))
		for i, was := range claims {
			leases[i] = was.lease
		}
		jobs = append(jobs, func() {
			err := e.sweepOne(ctx, claims[0].attempt, claims[0].key, leases...)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				e.dropped.again(claims)
			}
		})
	}
	atOnce(sweepers, jobs)
}
