package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// The rhythm of Run beside the sweep.
const (
	flushEvery  = 250 * time.Millisecond // acknowledgements and audit lines nobody waits for
	outboxEvery = time.Second
	purgeEvery  = 10 * time.Minute
	batch       = 100 // attempts or callbacks taken at once
	workers     = 8   // upstream calls of the sweeper at once
)

// Run sweeps, recovers, redelivers and purges until ctx is done, then returns
// nil. Any number of processes may run over one store.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	every := func(d time.Duration, name string, do func(context.Context) error) {
		wg.Go(func() {
			tick := time.NewTicker(d)
			defer tick.Stop()
			for {
				if err := do(ctx); err != nil && ctx.Err() == nil {
					e.log.Error().Err(err).Msg(name)
					e.report(ctx, nil, err)
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	every(flushEvery, "flush", e.store.Flush)
	every(e.timeouts.Sweep, "sweep", e.Sweep)
	every(outboxEvery, "outbox", e.DeliverDue)
	every(purgeEvery, "purge", e.purge)
	wg.Wait()
	return nil
}

// Sweep settles every attempt that is due, once: E6, E7, E8. Run does it all
// the time.
func (e *Engine) Sweep(ctx context.Context) error {
	for {
		snap, err := e.store.Due(ctx, batch, e.timeouts.Lease)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		room := make(chan struct{}, workers)
		for i := range snap.Attempts {
			room <- struct{}{}
			wg.Go(func() {
				defer func() { <-room }()
				e.sweepOne(ctx, &snap.Attempts[i])
			})
		}
		wg.Wait()
		if len(snap.Attempts) < batch {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
	}
}

func (e *Engine) sweepOne(ctx context.Context, a *store.Attempt) {
	c := e.background(a)
	c.in.Event.Kind = Sweep
	out, err := c.drive(ctx)
	c.finish(ctx, out.attempt)
	var raced *IllegalTransitionError
	if err != nil && !errors.As(err, &raced) && ctx.Err() == nil {
		e.log.Error().Str("attempt", a.ID).Err(err).Msg("sweep")
	}
}

// background begins the handling of an attempt without a turn.
func (e *Engine) background(a *store.Attempt) *call {
	c := e.newCall()
	c.key = a.Key
	c.flow, _ = e.Flow(a.Key.Connection)
	c.locate = func(c *call, ctx context.Context) (sighting, error) {
		found, err := c.get(ctx, a.ID)
		return sighting{attempt: found}, err
	}
	return c
}

// DeliverDue brings every callback that is due, once. Run does it all the time.
func (e *Engine) DeliverDue(ctx context.Context) error {
	for {
		n, err := e.redeliver(ctx, batch)
		if err != nil || n < batch || ctx.Err() != nil {
			return err
		}
	}
}

// purge deletes what the retention is over for (E10).
func (e *Engine) purge(ctx context.Context) error {
	for {
		info, err := e.store.Info(ctx)
		if err != nil {
			return err
		}
		n, err := e.store.Purge(ctx, info.Now.Add(-e.timeouts.Retention), batch, false)
		if err != nil || n < batch {
			return err
		}
	}
}
