package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/signin-engine/signin-engine/store"
)

var equateEmpty = cmpopts.EquateEmpty()

const racers = 8

// race runs fn in many goroutines at once, on both instances if there are two.
func race(t *testing.T, h Harness, fn func(s store.Store, n int)) {
	t.Helper()
	stores := []store.Store{h.Store}
	if h.Second != nil {
		stores = append(stores, h.Second(t))
	}
	var wg sync.WaitGroup
	start := make(chan struct{})
	for n := range racers {
		wg.Go(func() {
			<-start
			fn(stores[n%len(stores)], n)
		})
	}
	close(start)
	wg.Wait()
}

// Uniqueness tests that a key has at most one open attempt.
func Uniqueness(t *testing.T, open New) {
	t.Helper()
	s := open(t).Store
	at := now(t, s)
	first := NewAttempt(at, user(1), "Graph")
	insert(t, s, first)

	second := NewAttempt(at, user(1), "gRAPH")
	if err := apply(t, s, store.Commit{Put: []store.Attempt{second}}); !errors.Is(err, store.ErrExists) {
		t.Errorf("the key in another case: %v, want ErrExists", err)
	}
	if err := apply(t, s, store.Commit{Put: []store.Attempt{second, Next(first, store.Failed, at)}}); !errors.Is(err, store.ErrExists) {
		t.Errorf("new before old ends: %v, want ErrExists", err)
	}
	must(t, s, store.Commit{Put: []store.Attempt{Next(first, store.Failed, at), second}})

	reopened := Next(Next(first, store.Failed, at), store.CardSent, at)
	if err := apply(t, s, store.Commit{Put: []store.Attempt{reopened}}); !errors.Is(err, store.ErrExists) {
		t.Errorf("a second attempt of the key opened by an update: %v, want ErrExists", err)
	}
	twins := []store.Attempt{NewAttempt(at, user(2), "x"), NewAttempt(at, user(2), "X")}
	if err := apply(t, s, store.Commit{Put: twins}); !errors.Is(err, store.ErrExists) {
		t.Errorf("two in one commit: %v, want ErrExists", err)
	}
	// Other users, connections and apps do not collide.
	third := NewAttempt(at, user(1), "graph")
	third.Key.App = "app-2"
	insert(t, s, NewAttempt(at, user(1), "github"), NewAttempt(at, user(2), "graph"), third)
	// An attempt's whole life in one commit.
	whole := NewAttempt(at, user(5), "graph")
	must(t, s, store.Commit{Put: []store.Attempt{whole, Next(whole, store.CardSent, at), Next(Next(whole, store.CardSent, at), store.Complete, at)}})
	insert(t, s, NewAttempt(at, user(5), "graph"))
}

// Groups tests that the commits of one Apply are independent, except for their order.
func Groups(t *testing.T, open New) {
	t.Helper()
	s := open(t).Store
	at := now(t, s)
	a, b := NewAttempt(at, user(1), "graph"), NewAttempt(at, user(2), "graph")
	dup := NewAttempt(at, user(1), "graph")
	a2 := Next(a, store.CardSent, at)
	errs := s.Apply(t.Context(), []store.Commit{
		{Put: []store.Attempt{a}, Events: []store.Event{Line(&a, store.None)}},
		{Put: []store.Attempt{dup}, Events: []store.Event{{Kind: store.EventNote, Time: at}}},
		{Put: []store.Attempt{a2}, Events: []store.Event{Line(&a2, store.Idle)}},
		{Put: []store.Attempt{a2}},
		{Put: []store.Attempt{Next(b, store.CardSent, at)}},
		{Put: []store.Attempt{b}},
		{Marks: []store.Mark{{Name: "m", Version: 1}}},
		{Marks: []store.Mark{{Name: "m", Version: 1}}},
		{},
	})
	want := []error{nil, store.ErrExists, nil, store.ErrConflict, store.ErrNotFound, nil, nil, store.ErrDuplicate, nil}
	if len(errs) != len(want) {
		t.Fatalf("%d results for %d commits", len(errs), len(want))
	}
	for i := range want {
		if !errors.Is(errs[i], want[i]) {
			t.Errorf("commit %d: %v, want %v", i, errs[i], want[i])
		}
	}
	if got := get(t, s, a.ID); got.Version != 2 || got.State != store.CardSent {
		t.Errorf("attempt is %s, version %d", got.State, got.Version)
	}
	get(t, s, b.ID)
	lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID})
	if err != nil || len(lines) != 2 || lines[0].To != store.Idle || lines[1].To != store.CardSent {
		t.Errorf("audit trail %+v, %v", lines, err)
	}
	if orphans, err := s.Events(t.Context(), store.EventFilter{Orphans: true}); err != nil || len(orphans) > 0 {
		t.Errorf("a refused commit left %d lines, %v", len(orphans), err)
	}
	if errs := s.Apply(t.Context(), nil); len(errs) != 0 {
		t.Errorf("no commits, %d results", len(errs))
	}
}

// Concurrency tests that one of several writers wins and that nothing is lost.
func Concurrency(t *testing.T, open New) {
	t.Helper()
	t.Run("Insert", func(t *testing.T) {
		h := open(t)
		at := now(t, h.Store)
		var won atomic.Int32
		race(t, h, func(s store.Store, _ int) {
			a := NewAttempt(at, user(1), "graph")
			switch err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0]; {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, store.ErrExists):
				t.Errorf("Apply: %v, want ErrExists", err)
			}
		})
		if won.Load() != 1 {
			t.Errorf("%d of %d won", won.Load(), racers)
		}
	})
	t.Run("CompareAndSet", func(t *testing.T) {
		h := open(t)
		at := now(t, h.Store)
		a := NewAttempt(at, user(1), "graph")
		insert(t, h.Store, a)
		const rounds = 20
		var wins [rounds + 2]atomic.Int32
		race(t, h, func(s store.Store, n int) {
			for cur := a; cur.Version <= rounds; {
				next := Next(cur, store.CardSent, at)
				line := Line(&next, cur.State)
				line.Instance = fmt.Sprint(n)
				switch err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{next}, Events: []store.Event{line}}})[0]; {
				case err == nil:
					wins[next.Version].Add(1)
				case !errors.Is(err, store.ErrConflict):
					t.Errorf("Apply: %v, want ErrConflict", err)
					return
				}
				snap, err := s.Get(t.Context(), a.ID)
				if err != nil {
					t.Errorf("Get: %v", err)
					return
				}
				cur = snap.Attempts[0]
			}
		})
		lines, err := h.Store.Events(t.Context(), store.EventFilter{Attempt: a.ID})
		if err != nil {
			t.Fatalf("Events: %v", err)
		}
		for i, e := range lines {
			if e.Seq != int64(i)+1 || e.Version != int64(i)+2 {
				t.Errorf("line %d: Seq %d, version %d", i, e.Seq, e.Version)
			}
		}
		for v := 2; v <= rounds+1; v++ {
			if n := wins[v].Load(); n != 1 {
				t.Errorf("version %d was written %d times", v, n)
			}
		}
	})
	t.Run("Events", func(t *testing.T) {
		h := open(t)
		a := NewAttempt(now(t, h.Store), user(1), "graph")
		insert(t, h.Store, a)
		const each = 25
		race(t, h, func(s store.Store, n int) {
			for i := range each {
				detail := fmt.Sprintf("%d-%d", n, i)
				lines := []store.Event{{Attempt: a.ID, Kind: store.EventNote, Detail: detail}, {Kind: store.EventNote, Detail: detail}}
				if err := s.Apply(t.Context(), []store.Commit{{Events: lines}})[0]; err != nil {
					t.Errorf("Apply: %v", err)
				}
			}
		})
		for _, f := range []store.EventFilter{{Attempt: a.ID}, {Orphans: true}} {
			lines, err := h.Store.Events(t.Context(), f)
			if err != nil {
				t.Fatalf("Events: %v", err)
			}
			seen := map[string]bool{}
			for i, e := range lines {
				seen[e.Detail] = true
				if i > 0 && e.Seq <= lines[i-1].Seq {
					t.Errorf("Seq %d after %d", e.Seq, lines[i-1].Seq)
				}
			}
			if len(lines) != racers*each || len(seen) != racers*each {
				t.Errorf("%d lines, %d different; want %d", len(lines), len(seen), racers*each)
			}
		}
	})
	t.Run("ManyKeys", func(t *testing.T) {
		h := open(t)
		at := now(t, h.Store)
		const each = 10
		race(t, h, func(s store.Store, n int) {
			for i := range each {
				a := NewAttempt(at, user(n*each+i), "graph")
				for _, to := range []store.State{store.Idle, store.CardSent, store.Exchanging, store.Complete} {
					if to != store.Idle {
						a = Next(a, to, at)
					}
					if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{Line(&a, to)}}})[0]; err != nil {
						t.Errorf("Apply: %v", err)
					}
				}
			}
		})
		c, err := h.Store.Counts(t.Context(), at.Add(-1))
		if err != nil || len(c.Open) != 0 || c.Ended["Complete:tokenExchange"] != racers*each {
			t.Errorf("Counts = %+v, %v", c, err)
		}
	})
}

// sameIDs compares ids in any order.
func sameIDs(a, b []string) bool {
	return cmp.Equal(a, b, equateEmpty, cmpopts.SortSlices(strings.Compare))
}
