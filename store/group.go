package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a [Group].
const (
	// MaxGroup is the largest number of commits in one call of the backend.
	MaxGroup = 512
	// MaxLater is the largest number of commits that [Group.Later] keeps.
	MaxLater = 4096
	// groupTimeout bounds one call of the backend, since no caller's context ends it.
	groupTimeout = 30 * time.Second
	// closeTimeout bounds the last flush in Close.
	closeTimeout = 5 * time.Second
	// maxFlying is how many groups may be in flight at once to a [Concurrent] store.
	maxFlying = 3
	// groupPatience is how long the next group waits for the one before it: longer than a
	// group normally takes.
	groupPatience = 100 * time.Millisecond
)

// Group collects the commits of many goroutines: while one group is written, the next
// commits collect, and then go to the backend in one call. There is no delay. If a
// group takes long and the store is [Concurrent], the next one is written anyway. So a
// dead connection or a locked row delays only the commits of its own group. Groups are
// written in the background: a backend that hangs keeps no caller beyond its context. A
// Group is a [Store].
type Group struct {
	Store

	slots   chan struct{} // one value for each group in flight
	dropped atomic.Int64

	mu     sync.Mutex
	queue  []*pending
	later  []Commit
	leads  bool          // a goroutine is going to take what is in the queue
	flying int           // commits of Later in flight
	landed chan struct{} // closed when none of them is left
}

// flight is one group.
type flight struct {
	waiting []*pending
	commits []Commit // those of Later, then those of waiting
	later   int
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// pending is a commit that a caller waits for, or a caller of Flush.
type pending struct {
	ctx    context.Context //nolint:containedctx // of the caller, for its values
	commit *Commit         // nil: the caller waits for those of Later
	err    error
	done   chan struct{} // has room for one value, sent once err is set
}

// NewGroup wraps a store.
func NewGroup(s Store) *Group {
	flying := 1
	if IsConcurrent(s) {
		flying = maxFlying
	}
	return &Group{Store: s, slots: make(chan struct{}, flying)}
}

// Commit writes c and returns when it is durable, or with the store's refusal. If ctx
// ends first, its error is returned, and the commit may still be applied. c must not be
// changed after such a return.
func (g *Group) Commit(ctx context.Context, c Commit) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return g.wait(g.enqueue(ctx, &c)[0])
}

// Apply is [Store.Apply] in a group: the commits keep their order, but others may come
// between them.
func (g *Group) Apply(ctx context.Context, commits []Commit) []error {
	errs := make([]error, len(commits))
	if err := ctx.Err(); err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("apply: %w", err)
		}
		return errs
	}
	all := make([]*Commit, len(commits))
	for i := range commits {
		all[i] = &commits[i]
	}
	for i, p := range g.enqueue(ctx, all...) {
		errs[i] = g.wait(p)
	}
	return errs
}

// Later queues a commit without waiting: it is written with the next group, or by
// [Group.Flush]. Refusals are not reported. If the backend is unavailable, the commit
// is kept for the next try. Beyond [MaxLater] the oldest are dropped, see
// [Group.Dropped]. A caller that finds the queue full writes it.
func (g *Group) Later(ctx context.Context, c Commit) {
	g.mu.Lock()
	g.later = append(g.later, c)
	full := len(g.later) >= MaxLater
	g.mu.Unlock()
	if full {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), groupTimeout)
		defer cancel()
		_ = g.Flush(ctx) // what it could not write is kept, or dropped and counted
		g.mu.Lock()
		g.trim()
		g.mu.Unlock()
	}
}

// Dropped returns how many commits of Later were dropped.
func (g *Group) Dropped() int64 { return g.dropped.Load() }

// Flush writes the commits of Later. After an error the remaining ones are kept for the
// next try.
func (g *Group) Flush(ctx context.Context) error {
	for {
		g.mu.Lock()
		left, flying, landed := len(g.later), g.flying, g.landed
		g.mu.Unlock()
		var err error
		switch {
		case left > 0:
			err = g.wait(g.enqueue(ctx, nil)[0])
		case flying > 0:
			select {
			case <-landed:
			case <-ctx.Done():
				err = ctx.Err()
			}
		default:
			return nil
		}
		if err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
}

// Exclusive reports whether the store belongs to this process alone; see
// [Exclusive].
func (g *Group) Exclusive() bool { return IsExclusive(g.Store) }

// Concurrent reports whether several calls at once are faster; see [Concurrent].
func (g *Group) Concurrent() bool { return IsConcurrent(g.Store) }

// Close writes the commits of Later and waits for running groups, both within five
// seconds, and closes the store.
func (g *Group) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := g.Flush(ctx)
	for range cap(g.slots) {
		select {
		case g.slots <- struct{}{}:
			defer func() { <-g.slots }()
		case <-ctx.Done():
		}
	}
	return errors.Join(err, g.Store.Close())
}

// enqueue queues commits, and has a group written unless one is about to be.
func (g *Group) enqueue(ctx context.Context, commits ...*Commit) []*pending {
	ps := make([]*pending, len(commits))
	for i, c := range commits {
		ps[i] = &pending{ctx: ctx, commit: c, done: make(chan struct{}, 1)}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, ps...)
	if !g.leads && len(ps) > 0 {
		g.next()
	}
	return ps
}

// next has the next group written, if anybody waits. The caller holds g.mu.
func (g *Group) next() {
	if g.leads = len(g.queue) > 0; g.leads {
		go g.lead(g.queue[0].ctx)
	}
}

// wait returns p's result.
func (g *Group) wait(p *pending) error {
	select {
	case <-p.done:
		return p.err
	case <-p.ctx.Done():
		g.forget(p)
		return fmt.Errorf("commit: %w", p.ctx.Err())
	}
}

// forget removes p from the queue if its group has not been taken yet. Without its
// caller it might stay there until the next commit.
func (g *Group) forget(p *pending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = slices.DeleteFunc(g.queue, func(q *pending) bool { return q == p })
}

// lead writes one group. The next one follows when it is done or, for a [Concurrent]
// store, after groupPatience.
func (g *Group) lead(ctx context.Context) {
	pass := sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.next()
	})
	defer pass()
	g.slots <- struct{}{}
	defer func() { <-g.slots }()

	// Let others that are about to commit join this group.
	runtime.Gosched()
	f := g.board()
	defer func() {
		clear(f.commits)
		clear(f.waiting)
		flights.Put(f)
	}()
	if cap(g.slots) > 1 {
		next := time.AfterFunc(groupPatience, pass)
		defer next.Stop()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), groupTimeout)
	defer cancel()
	errs := g.write(ctx, f.commits)
	kept := g.keep(f.commits[:f.later], errs[:f.later])
	errs = errs[f.later:]
	for _, p := range f.waiting {
		if p.commit == nil {
			p.err = kept
		} else {
			p.err, errs = errs[0], errs[1:]
		}
		p.done <- struct{}{}
	}
}

// board takes the next group from the queues. Later's commits come first: they may be
// older than the waiting ones.
func (g *Group) board() *flight {
	f, _ := flights.Get().(*flight)
	g.mu.Lock()
	defer g.mu.Unlock()
	// Later may take at least half of a group, so that it does not starve.
	f.later = min(len(g.later), max(MaxGroup/2, MaxGroup-len(g.queue)))
	waiting := min(len(g.queue), MaxGroup-f.later)
	f.commits = append(f.commits[:0], g.later[:f.later]...)
	f.waiting = append(f.waiting[:0], g.queue[:waiting]...)
	for _, p := range f.waiting {
		if p.commit != nil {
			f.commits = append(f.commits, *p.commit)
		}
	}
	g.later, g.queue = slices.Delete(g.later, 0, f.later), slices.Delete(g.queue, 0, waiting)
	if f.later > 0 && g.flying == 0 {
		g.landed = make(chan struct{})
	}
	g.flying += f.later
	return f
}

// write calls the backend's Apply. It returns a panic as errors, so that waiting
// callers get an answer.
func (g *Group) write(ctx context.Context, commits []Commit) (errs []error) {
	if len(commits) == 0 {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			errs = make([]error, len(commits))
			for i := range errs {
				errs[i] = fmt.Errorf("%w: the backend panicked: %v", ErrUnavailable, p)
			}
		}
	}()
	return g.Store.Apply(ctx, commits)
}

// keep puts back those of Later's commits that the backend could not write.
func (g *Group) keep(later []Commit, errs []error) error {
	if len(later) == 0 {
		return nil
	}
	var failed error
	var again []Commit
	for i, err := range errs {
		if err != nil && !refused(err) {
			again = append(again, later[i])
			failed = err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if failed != nil {
		g.later = append(again, g.later...)
		g.trim()
	}
	if g.flying -= len(later); g.flying == 0 {
		close(g.landed)
	}
	return failed
}

// trim drops the oldest commits beyond [MaxLater]. The caller holds g.mu.
func (g *Group) trim() {
	if over := len(g.later) - MaxLater; over > 0 {
		g.later = slices.Clone(g.later[over:])
		g.dropped.Add(int64(over))
	}
}

// refused reports whether the store refused the commit for good, so that a retry is
// useless.
func refused(err error) bool {
	for _, target := range []error{ErrNotFound, ErrExists, ErrConflict, ErrDuplicate, ErrInvalid, ErrReadOnly, ErrCorrupt} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
