package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/signin-engine/signin-engine/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder notes what arrives in which group. Its other methods are not called.
type recorder struct {
	store.Store

	gate chan struct{} // each Apply takes one, unless nil
	mu   sync.Mutex
	seen [][]string
	err  func(name string) error
}

func named(name string) store.Commit { return store.Commit{Marks: []store.Mark{{Name: name}}} }

func (r *recorder) Apply(ctx context.Context, commits []store.Commit) []error {
	if r.gate != nil {
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := make([]error, len(commits))
	var names []string
	for i := range commits {
		name := commits[i].Marks[0].Name
		names = append(names, name)
		if r.err != nil {
			errs[i] = r.err(name)
		}
		if ctx.Err() != nil {
			errs[i] = ctx.Err()
		}
	}
	r.seen = append(r.seen, names)
	return errs
}

func (r *recorder) groups() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

func (r *recorder) Close() error { return nil }

func TestGroupGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{gate: make(chan struct{})}
		g := store.NewGroup(r)
		var wg sync.WaitGroup
		commit := func(name string) {
			wg.Go(func() {
				if err := g.Commit(t.Context(), named(name)); err != nil {
					t.Errorf("Commit %s: %v", name, err)
				}
			})
			synctest.Wait()
		}
		commit("leader")
		g.Later(t.Context(), named("line"))
		for i := range 5 {
			commit(fmt.Sprint(i))
		}
		r.gate <- struct{}{}
		r.gate <- struct{}{}
		wg.Wait()
		want := [][]string{{"leader"}, {"line", "0", "1", "2", "3", "4"}}
		if got := r.groups(); !slices.EqualFunc(got, want, slices.Equal[[]string]) {
			t.Errorf("groups %v, want %v", got, want)
		}
	})
}

func TestGroupResults(t *testing.T) {
	r := &recorder{err: func(name string) error {
		if name == "bad" {
			return fmt.Errorf("no: %w", store.ErrConflict)
		}
		return nil
	}}
	g := store.NewGroup(r)
	errs := g.Apply(t.Context(), []store.Commit{named("a"), named("bad"), named("b")})
	if errs[0] != nil || !errors.Is(errs[1], store.ErrConflict) || errs[2] != nil {
		t.Errorf("results %v", errs)
	}
	if len(r.groups()) != 1 {
		t.Errorf("groups %v, want one", r.groups())
	}
}

func TestGroupCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{gate: make(chan struct{})}
		g := store.NewGroup(r)
		var wg sync.WaitGroup
		commit := func(ctx context.Context, name string, want error) {
			wg.Go(func() {
				if err := g.Commit(ctx, named(name)); !errors.Is(err, want) {
					t.Errorf("Commit %s: %v, want %v", name, err, want)
				}
			})
			synctest.Wait()
		}
		first, cancelFirst := context.WithCancel(t.Context())
		gone, cancelGone := context.WithCancel(t.Context())
		commit(first, "first", context.Canceled)
		commit(gone, "gone", context.Canceled)
		commit(t.Context(), "follower", nil)
		cancelFirst() // the one who started the group: it is written all the same
		cancelGone()  // one who waits: taken back
		synctest.Wait()
		r.gate <- struct{}{}
		r.gate <- struct{}{}
		wg.Wait()
		want := [][]string{{"first"}, {"follower"}}
		if got := r.groups(); !slices.EqualFunc(got, want, slices.Equal[[]string]) {
			t.Errorf("groups %v, want %v", got, want)
		}
		if err := g.Commit(gone, named("late")); !errors.Is(err, context.Canceled) {
			t.Errorf("Commit with a context that is done: %v", err)
		}
	})
}

func TestGroupBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{gate: make(chan struct{})}
		g := store.NewGroup(r)
		const n = store.MaxGroup + store.MaxGroup/2
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := g.Commit(t.Context(), named(fmt.Sprint(i))); err != nil {
					t.Errorf("Commit: %v", err)
				}
			})
		}
		synctest.Wait()
		for range store.MaxGroup {
			g.Later(t.Context(), named("line"))
		}
		close(r.gate) // from now on nothing is held up
		wg.Wait()
		if err := g.Flush(t.Context()); err != nil {
			t.Errorf("Flush: %v", err)
		}
		total := 0
		for _, group := range r.groups() {
			total += len(group)
			if len(group) > store.MaxGroup {
				t.Errorf("a group of %d", len(group))
			}
		}
		if total != n+store.MaxGroup {
			t.Errorf("%d commits arrived, want %d", total, n+store.MaxGroup)
		}
	})
}

func TestGroupLater(t *testing.T) {
	down := true
	r := &recorder{err: func(name string) error {
		switch {
		case down:
			return fmt.Errorf("down: %w", store.ErrUnavailable)
		case name == "refused":
			return fmt.Errorf("no: %w", store.ErrNotFound)
		}
		return nil
	}}
	g := store.NewGroup(r)
	g.Later(t.Context(), named("a"))
	g.Later(t.Context(), named("refused"))
	if err := g.Flush(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Flush while down: %v, want ErrUnavailable", err)
	}
	down = false
	r.seen = nil
	if err := g.Flush(t.Context()); err != nil {
		t.Errorf("Flush: %v", err)
	}
	if err := g.Flush(t.Context()); err != nil {
		t.Errorf("Flush of nothing: %v", err)
	}
	if want := [][]string{{"a", "refused"}}; !slices.EqualFunc(r.seen, want, slices.Equal[[]string]) {
		t.Errorf("groups %v, want %v", r.seen, want)
	}
	down = true
	for i := range store.MaxLater + 10 {
		g.Later(t.Context(), named(fmt.Sprint(i)))
	}
	if d := g.Dropped(); d < 9 || d > 11 {
		t.Errorf("%d dropped, want the oldest ten or so", d)
	}
	down = false
	r.seen = nil
	if err := g.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	var all []string
	for _, group := range r.seen {
		all = append(all, group...)
	}
	if len(all) == 0 || all[len(all)-1] != fmt.Sprint(store.MaxLater+9) {
		t.Errorf("the newest line is lost: %d arrived", len(all))
	}
}

func TestNotifierLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n store.Notifier
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := n.Wait(ctx, "id", func() (bool, error) { return false, nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait: %v, want DeadlineExceeded", err)
		}
		n.Wake("id")
		n.Close()
		if err := n.Wait(t.Context(), "id", func() (bool, error) { return false, nil }); err != nil {
			t.Errorf("Wait when closed: %v", err)
		}
	})
}

// exclusive is a backend of one process.
type exclusive struct{ store.Store }

func (exclusive) Exclusive() bool { return true }

func TestGroupIsAsExclusiveAsItsStore(t *testing.T) {
	if !store.IsExclusive(store.NewGroup(exclusive{})) {
		t.Error("a group hides that its store belongs to one process")
	}
	if store.IsExclusive(store.NewGroup(&recorder{})) {
		t.Error("a group says that a shared store belongs to one process")
	}
}

// panicking is a backend that panics on its first write.
type panicking struct {
	store.Store
	calls atomic.Int32
}

func (p *panicking) Apply(_ context.Context, commits []store.Commit) []error {
	if p.calls.Add(1) == 1 {
		panic("page 7 is not a leaf")
	}
	return make([]error, len(commits))
}

func TestGroupOutlivesAPanic(t *testing.T) {
	g := store.NewGroup(&panicking{})
	if err := g.Commit(t.Context(), store.Commit{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("commit during the panic: %v", err)
	}
	if err := g.Commit(t.Context(), store.Commit{}); err != nil {
		t.Errorf("commit after it: %v", err)
	}
}

// crowd is a recorder that takes many calls at once; a commit called stuck waits
// for release.
type crowd struct {
	recorder
	release chan struct{}
}

func (*crowd) Concurrent() bool { return true }

func (c *crowd) Apply(ctx context.Context, commits []store.Commit) []error {
	for i := range commits {
		if commits[i].Marks[0].Name == "stuck" {
			<-c.release
		}
	}
	return c.recorder.Apply(ctx, commits)
}

// TestGroupGoesAroundAStuckOne: who is in one group with a commit that does not
// come back waits for it, and nobody else; nor does whoever flushes keep others.
func TestGroupGoesAroundAStuckOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{release: make(chan struct{})}
		g := store.NewGroup(c)
		if !store.IsConcurrent(g) {
			t.Error("a group hides that its store takes several calls at once")
		}
		g.Later(t.Context(), named("stuck"))
		flushed := make(chan error, 1)
		go func() { flushed <- g.Flush(t.Context()) }()
		synctest.Wait()
		begun := time.Now()
		for i := range 5 {
			if err := g.Commit(t.Context(), named(fmt.Sprint(i))); err != nil {
				t.Errorf("commit %d: %v", i, err)
			}
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("five commits took %s beside a stuck one", took)
		}
		select {
		case err := <-flushed:
			t.Errorf("Flush = %v while one of Later's commits is on its way", err)
		default:
		}
		// As many as may be stuck are: the next one waits, and not for ever.
		stuck := make(chan error, 2)
		for range 2 {
			go func() { stuck <- g.Commit(t.Context(), named("stuck")) }()
			time.Sleep(time.Second)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Commit(short, named("late")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a commit behind three stuck ones: %v", err)
		}
		close(c.release)
		for range 2 {
			if err := <-stuck; err != nil {
				t.Error(err)
			}
		}
		if err := <-flushed; err != nil {
			t.Errorf("Flush: %v", err)
		}
		if err := g.Commit(t.Context(), named("after")); err != nil {
			t.Error(err)
		}
	})
}

// counting is a recorder that counts the calls it has at once.
type counting struct {
	recorder
	now, most atomic.Int32
}

func (c *counting) Apply(ctx context.Context, commits []store.Commit) []error {
	c.most.Store(max(c.most.Load(), c.now.Add(1)))
	defer c.now.Add(-1)
	time.Sleep(time.Minute / 4)
	return c.recorder.Apply(ctx, commits)
}

// TestGroupOfOneWriter: a store that writes one group at a time gets one at a
// time, however long that takes.
func TestGroupOfOneWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		g := store.NewGroup(c)
		var done sync.WaitGroup
		for i := range 3 {
			done.Go(func() { _ = g.Commit(t.Context(), named(fmt.Sprint(i))) })
			synctest.Wait()
		}
		done.Wait()
		if most := c.most.Load(); most != 1 {
			t.Errorf("%d groups at once", most)
		}
	})
}

// TestGroupOfAStuckOneWaits: those who are in a group that does not come back use no
// processor meanwhile, and each of them ends with its own context.
func TestGroupOfAStuckOneWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{release: make(chan struct{})}
		g := store.NewGroup(c)
		var callers sync.WaitGroup
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*time.Second)
			callers.Go(func() {
				defer cancel()
				if err := g.Commit(ctx, named("stuck")); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("caller %d: %v", i, err)
				}
			})
			synctest.Wait() // the first one is in a group of its own, the others follow together
		}
		callers.Wait() // a caller that looks again and again would stop the clock here
		close(c.release)
		if err := g.Close(); err != nil { // waits for the group
			t.Error(err)
		}
		if got := c.groups(); len(got) != 2 || len(got[0])+len(got[1]) != 3 {
			t.Errorf("groups %v, want one of one commit and one of two", got)
		}
	})
}
