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
// commits collect, and then go to the backend in one call. There is no delay and no
// goroutine: the first caller writes for the others. If a group takes long and the
// store is [Concurrent], the next one is written anyway. So a dead connection or a
// locked row delays only the commits of its own group. A Group is a [Store].
type Group struct {
	Store

	// turn holds a token; whoever takes it writes one group.
	turn    chan struct{}
	slots   chan struct{} // one value for each group in flight
	dropped atomic.Int64

	mu     sync.Mutex
	queue  []*pending
	later  []Commit
	flying int           // commits of Later in flight
	landed chan struct{} // closed when none of them is left
}

// flight is one group.
type flight struct {
	waiting []*pending
	commits []Commit
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// pending is a commit that a caller waits for.
type pending struct {
	commit Commit
	err    error
	done   chan struct{} // has room for one value, sent once err is set
}

func newPending(c Commit) *pending { return &pending{commit: c, done: make(chan struct{}, 1)} }

// NewGroup wraps a store.
func NewGroup(s Store) *Group {
	flying := 1
	if IsConcurrent(s) {
		flying = maxFlying
	}
	g := &Group{Store: s, turn: make(chan struct{}, 1), slots: make(chan struct{}, flying)}
	g.turn <- struct{}{}
	return g
}

// Commit writes c and returns when it is durable, or with the store's refusal. If ctx
// ends first, its error is returned, and the commit may still be applied. c must not be
// changed after such a return.
func (g *Group) Commit(ctx context.Context, c Commit) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	p := newPending(c)
	g.enqueue(p)
	return g.wait(ctx, p)
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
	ps := make([]*pending, len(commits))
	for i := range commits {
		ps[i] = newPending(commits[i])
	}
	g.enqueue(ps...)
	for i, p := range ps {
		errs[i] = g.wait(ctx, p)
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
			if err = g.take(ctx, g.turn); err == nil {
				err = g.lead(ctx)
			}
		case flying > 0:
			err = g.take(ctx, landed)
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

// Close writes the commits of Later, within five seconds, and closes the store.
func (g *Group) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return errors.Join(g.Flush(ctx), g.Store.Close())
}

func (g *Group) enqueue(ps ...*pending) {
	g.mu.Lock()
	g.queue = append(g.queue, ps...)
	g.mu.Unlock()
}

// wait returns p's result. It writes groups itself while nobody else does.
func (g *Group) wait(ctx context.Context, p *pending) error {
	for {
		select {
		case <-p.done:
			return p.err
		default:
		}
		select {
		case <-p.done:
			return p.err
		case <-g.turn:
			// Either p is still queued, or the writer before us has settled it.
			select {
			case <-p.done:
				g.turn <- struct{}{}
				return p.err
			default:
			}
			_ = g.lead(ctx) // an error on Later's commits does not concern p
			// Let the next writer run first: the backend is free.
			runtime.Gosched()
		case <-ctx.Done():
			g.forget(p)
			return fmt.Errorf("commit: %w", ctx.Err())
		}
	}
}

// forget removes p from the queue if its group has not been taken yet. Without its
// caller it might stay there until the next commit.
func (g *Group) forget(p *pending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = slices.DeleteFunc(g.queue, func(q *pending) bool { return q == p })
}

// take waits for a turn, or for Later's commits in flight.
func (g *Group) take(ctx context.Context, from chan struct{}) error {
	select {
	case <-from:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the running group: %w", ctx.Err())
	}
}

// lead writes one group. It passes the turn on when the group is done or, for a
// [Concurrent] store, after groupPatience. The error is the backend's on commits of
// Later that are kept for the next try.
func (g *Group) lead(ctx context.Context) error {
	pass := sync.OnceFunc(func() { g.turn <- struct{}{} })
	defer pass()
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the running groups: %w", ctx.Err())
	}
	defer func() { <-g.slots }()

	// Let others that are about to commit join this group.
	runtime.Gosched()
	f, later := g.board()
	defer func() {
		clear(f.commits)
		clear(f.waiting)
		flights.Put(f)
	}()
	if len(f.commits) == 0 {
		return nil
	}
	if cap(g.slots) > 1 {
		next := time.AfterFunc(groupPatience, pass)
		defer next.Stop()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), groupTimeout)
	defer cancel()
	errs := g.write(ctx, f.commits)
	for i, p := range f.waiting {
		p.err = errs[later+i]
		p.done <- struct{}{}
	}
	return g.keep(f.commits[:later], errs[:later])
}

// board takes the next group from the queues. Later's commits come first: they may be
// older than the waiting ones.
func (g *Group) board() (f *flight, later int) {
	f, _ = flights.Get().(*flight)
	g.mu.Lock()
	defer g.mu.Unlock()
	// Later may take at least half of a group, so that it does not starve.
	later = min(len(g.later), max(MaxGroup/2, MaxGroup-len(g.queue)))
	waiting := min(len(g.queue), MaxGroup-later)
	f.commits = append(f.commits[:0], g.later[:later]...)
	f.waiting = append(f.waiting[:0], g.queue[:waiting]...)
	for _, p := range f.waiting {
		f.commits = append(f.commits, p.commit)
	}
	g.later, g.queue = slices.Delete(g.later, 0, later), slices.Delete(g.queue, 0, waiting)
	if later > 0 && g.flying == 0 {
		g.landed = make(chan struct{})
	}
	g.flying += later
	return f, later
}

// write calls the backend's Apply. It returns a panic as errors, so that waiting
// callers get an answer.
func (g *Group) write(ctx context.Context, commits []Commit) (errs []error) {
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
