package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// The rhythm of Run beside the sweep.
const (
	flushEvery = 250 * time.Millisecond // deferred acknowledgements and audit lines, dropped claims
	purgeEvery = 10 * time.Minute
	batch      = 100  // attempts taken at once
	purgeBatch = 1000 // attempts deleted in one go
	sweepers   = 8    // attempts swept at once
)

// runGrace is how long Run waits at its end for callbacks that are under way.
const runGrace = 10 * time.Second

// Run sweeps, recovers, redelivers and purges until ctx is done. Any number of
// processes may run over one store.
//
// When ctx is done, Run finishes its work: it claims nothing more, waits up to ten
// seconds for running callbacks, including those of invokes, and writes the pending
// acknowledgements and audit lines. So stop the listener, cancel Run, wait for it, and
// close the store, in this order. The error says what Run could not finish.
func (e *Engine) Run(ctx context.Context) error {
	// Work that has begun is finished: its calls do not end with ctx.
	work := context.WithoutCancel(ctx)
	var wg sync.WaitGroup
	every := func(d time.Duration, name string, do func() error) {
		wg.Go(func() {
			tick := time.NewTicker(d)
			defer tick.Stop()
			for {
				if err := do(); err != nil {
					e.log.Error().Err(err).Msg(name)
					e.report(work, nil, err)
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	if err := e.takeOver(work); err != nil {
		e.log.Error().Err(err).Msg("take over from an earlier process")
		e.report(work, nil, err)
	}
	every(flushEvery, "flush", func() error { return e.store.Flush(work) })
	every(flushEvery, "let go", func() error { e.letGo(work); return nil })
	every(e.timeouts.Sweep, "sweep", func() error { return e.sweep(work, ctx.Done()) })
	every(e.timeouts.Sweep, "keys", func() error { return e.loadKeys(work) })
	every(purgeEvery, "purge", func() error { return e.purge(work, ctx.Done()) })
	wg.Go(func() { e.outbox.Run(ctx) })
	if e.cache != nil && e.cache.shared {
		wg.Go(func() { e.watchDrops(ctx) })
	}
	wg.Wait()
	return e.Drain(work)
}

// Drain waits up to ten seconds for running callbacks, and writes the pending
// acknowledgements and audit lines. [Engine.Run] ends with it.
func (e *Engine) Drain(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, runGrace)
	defer cancel()
	unfinished := e.outbox.Wait(grace)
	if unfinished != nil {
		e.log.Warn().Err(unfinished).Msg("callbacks are left to the outbox")
		unfinished = fmt.Errorf("drain: %w", unfinished)
	}
	if err := e.store.Flush(ctx); err != nil {
		return errors.Join(unfinished, fmt.Errorf("drain: %w", err))
	}
	return unfinished
}

// takeOver settles what an earlier process held in a store that only one process
// owns. That process is gone, so its leases no longer count.
func (e *Engine) takeOver(ctx context.Context) error {
	if e.since.IsZero() {
		return nil
	}
	err := e.pages(ctx, store.Filter{Open: true}, func(p *store.Page) error {
		for i := range p.Attempts {
			if a := &p.Attempts[i]; e.earlier(a.Lease.Until, e.timeouts.Lease) {
				e.swept(ctx, a)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("attempts: %w", err)
	}
	err = e.owed(ctx, func(row store.Delivery, now time.Time) {
		if row.Status == store.DeliveryPending && row.Owner != "" && e.earlier(row.NextAt, e.timeouts.OutboxLease) {
			ack := store.Ack{Delivery: row, By: row.Owner, Try: row.Tries}
			ack.Owner, ack.NextAt = "", now
			e.store.Later(ctx, store.Commit{Acks: []store.Ack{ack}})
		}
	})
	if err != nil {
		return fmt.Errorf("callbacks: %w", err)
	}
	return e.store.Flush(ctx)
}

// ownedSince is when this process began to own the store. If the store's clock was set
// back meanwhile, the leases of this process are earlier, too.
func (e *Engine) ownedSince(now time.Time) time.Time {
	if e.since.IsZero() {
		return e.since
	}
	if set := now.Add(-e.clock().Sub(e.began)); set.Before(e.since) {
		return set
	}
	return e.since
}

// earlier reports whether a lease that ends at until was taken before this
// process began to own the store.
func (e *Engine) earlier(until time.Time, lease time.Duration) bool {
	return !until.IsZero() && until.Add(-lease).Before(e.since)
}

// owed reads the callbacks that are owed, with the store's clock.
func (e *Engine) owed(ctx context.Context, each func(row store.Delivery, now time.Time)) error {
	return e.pages(ctx, store.Filter{Owed: true}, func(p *store.Page) error {
		for _, row := range p.Deliveries {
			each(row, p.Now)
		}
		return nil
	})
}

// pages reads a whole list.
func (e *Engine) pages(ctx context.Context, f store.Filter, each func(*store.Page) error) error {
	f.Limit = batch
	for {
		p, err := e.store.List(ctx, f)
		if err != nil {
			return err
		}
		if err := each(&p); err != nil {
			return err
		}
		if p.Next == "" {
			return nil
		}
		f.Cursor = p.Next
	}
}

// Sweep expires or recovers every attempt that is due, once: E6, E7, E8. Run does it
// continuously.
func (e *Engine) Sweep(ctx context.Context) error {
	e.letGo(ctx)
	return e.sweep(ctx, nil)
}

func (e *Engine) sweep(ctx context.Context, stop <-chan struct{}) error {
	for {
		snap, err := e.store.Due(ctx, batch, e.timeouts.Lease)
		if err != nil {
			return err
		}
		e.setAside(snap.Corrupt)
		jobs := make([]func(), len(snap.Attempts))
		for i := range snap.Attempts {
			jobs[i] = func() { e.swept(ctx, &snap.Attempts[i]) }
		}
		atOnce(sweepers, jobs)
		if len(snap.Attempts)+len(snap.Corrupt) < batch || stopped(stop) {
			return ctx.Err()
		}
	}
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// atOnce runs all jobs, n at a time.
func atOnce(n int, jobs []func()) {
	var wg sync.WaitGroup
	room := make(chan struct{}, n)
	for _, job := range jobs {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			job()
		})
	}
	wg.Wait()
}

// sweepOne settles one attempt if it is due, or if it is held by one of the leases
// letGo, whose owner has stopped working.
func (e *Engine) sweepOne(ctx context.Context, id string, k store.Key, letGo ...store.Lease) error {
	c := e.background(k)
	out, err := c.drive(ctx, byID(id), table.Event{Kind: table.Sweep, LetGo: letGo})
	c.finish(ctx, out.attempt)
	return err
}

func (e *Engine) swept(ctx context.Context, a *store.Attempt) {
	if err := e.sweepOne(ctx, a.ID, a.Key); err != nil && !errors.Is(err, store.ErrNotFound) {
		e.log.Error().Str("attempt", a.ID).Err(err).Msg("sweep")
	}
}

// setAside logs unreadable records.
func (e *Engine) setAside(records []store.Corrupt) {
	for _, r := range records {
		e.log.Error().Str("attempt", r.ID).Err(r.Err).Msg("a record cannot be read and is set aside")
	}
}

// DeliverDue makes every callback that is due, once. Run does it continuously.
func (e *Engine) DeliverDue(ctx context.Context) error { return e.outbox.Due(ctx) }

// purge deletes what is past its retention (E10), and logs what the store's
// administrator should fix.
func (e *Engine) purge(ctx context.Context, stop <-chan struct{}) error {
	info, err := e.store.Info(ctx)
	if err != nil {
		return err
	}
	for _, warning := range info.Warnings {
		e.log.Warn().Str("store", info.Where).Msg(warning)
	}
	before := info.Now.Add(-e.timeouts.Retention)
	for {
		n, err := e.store.Purge(ctx, before, purgeBatch, false)
		if err != nil || stopped(stop) {
			return err
		}
		if n < purgeBatch {
			return e.forgetKeys(ctx)
		}
	}
}
