package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// longHold is for tests that check that something is held, shortHold for those that wait
// for the end of a hold.
const (
	longHold  = time.Hour
	shortHold = 50 * time.Millisecond
)

func due(t *testing.T, s store.Store, limit int, hold time.Duration) []string {
	t.Helper()
	snap, err := s.Due(t.Context(), limit, hold)
	if err != nil {
		t.Fatalf("Due: %v", err)
	}
	return ids(snap.Attempts)
}

// Due tests the sweeper's read.
func Due(t *testing.T, open New) {
	t.Helper()
	h := open(t)
	s := h.Store
	at := now(t, s)
	ended := func(n int, ago time.Duration) store.Attempt {
		a := NewAttempt(at, user(n), "graph")
		a.Lease.Until = at.Add(-ago)
		return a
	}
	older, old := ended(1, 2*time.Second), ended(2, time.Second)
	live := NewAttempt(at, user(3), "graph")
	terminal := ended(4, time.Minute)
	backingOff := ended(5, time.Minute)
	backingOff.State, backingOff.CheckAt = store.Exchanging, at.Add(longHold)
	never := ended(6, 0)
	never.Lease.Until = time.Time{}
	expired := NewAttempt(at, user(7), "graph")
	expired.State, expired.Expires = store.CardSent, at.Add(-time.Minute)
	insert(t, s, older, old, live, terminal, Next(terminal, store.Failed, at), backingOff, never, expired)

	if diff := cmp.Diff([]string{expired.ID}, due(t, s, 1, longHold)); diff != "" {
		t.Errorf("the oldest (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{older.ID, old.ID}, due(t, s, 10, longHold)); diff != "" {
		t.Errorf("the rest (-want +got):\n%s", diff)
	}
	if got := due(t, s, 10, longHold); len(got) > 0 {
		t.Errorf("within the hold: %v", got)
	}
	again := []store.Attempt{ended(8, time.Second), ended(9, time.Second)}
	insert(t, s, again...)
	for _, what := range []string{"two more", "after the hold"} {
		if got := due(t, s, 10, shortHold); !sameIDs(got, ids(again)) {
			t.Errorf("%s: %v", what, got)
		}
		h.pass(t, 2*shortHold)
	}
	due(t, s, 10, longHold)
	// A write ends the hold and sets a new time.
	next := Next(old, store.CardSent, at)
	next.Expires = at.Add(-time.Minute)
	must(t, s, store.Commit{Put: []store.Attempt{next, Next(older, store.Failed, at)}})
	if diff := cmp.Diff([]string{old.ID}, due(t, s, 10, longHold)); diff != "" {
		t.Errorf("after a write (-want +got):\n%s", diff)
	}
	if got := due(t, s, 0, longHold); len(got) > 0 {
		t.Errorf("limit 0: %v", got)
	}

	t.Run("Race", func(t *testing.T) {
		h := open(t)
		at := now(t, h.Store)
		const rows = 40
		for i := range rows {
			a := NewAttempt(at, user(i), "graph")
			a.Lease.Until = at.Add(-time.Second)
			insert(t, h.Store, a)
		}
		var mu sync.Mutex
		seen := map[string]int{}
		note := func(ids []string) {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				seen[id]++
			}
		}
		race(t, h, func(s store.Store, _ int) {
			for {
				snap, err := s.Due(t.Context(), 3, longHold)
				if err != nil {
					t.Errorf("Due: %v", err)
				}
				if len(snap.Attempts) == 0 {
					return
				}
				note(ids(snap.Attempts))
			}
		})
		note(due(t, h.Store, rows, longHold))
		if len(seen) != rows {
			t.Errorf("%d of %d were due", len(seen), rows)
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s was due to %d callers", id, n)
			}
		}
	})
}

// Changed tests that waiters are woken.
func Changed(t *testing.T, open New) {
	t.Helper()
	h := open(t)
	s := h.Store
	at := now(t, s)
	a := NewAttempt(at, user(1), "graph")
	insert(t, s, a)

	if err := s.Changed(t.Context(), a.ID, 0); err != nil {
		t.Errorf("already newer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), shortHold)
	defer cancel()
	if err := s.Changed(ctx, a.ID, 1); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing happened: %v, want DeadlineExceeded (or a false hint)", err)
	}

	writer := s
	if h.Second != nil {
		writer = h.Second(t)
	}
	var wg sync.WaitGroup
	for range racers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for {
				if err := s.Changed(ctx, a.ID, 1); err != nil {
					t.Errorf("Changed: %v", err)
					return
				}
				snap, err := s.Get(ctx, a.ID)
				if err != nil {
					t.Errorf("Get: %v", err)
					return
				}
				if snap.Attempts[0].Version == 2 {
					return
				}
			}
		})
	}
	insert(t, writer, Next(a, store.CardSent, at))
	wg.Wait()

	// A mark that wakes. The waiter may register after a write, so the mark is written
	// until the waiter has woken.
	woken := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		woken <- s.Changed(ctx, "bell of storetest", 0)
	}()
	for version := int64(1); ; version++ {
		must(t, writer, store.Commit{Marks: []store.Mark{{Name: "bell of storetest", Version: version, Wakes: true}}})
		select {
		case err := <-woken:
			if err != nil {
				t.Errorf("a mark that wakes: %v", err)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ChangedParks tests, in a synctest bubble, that a waiter sleeps until a commit wakes it.
// It is only for backends without a network.
func ChangedParks(t *testing.T, open func() store.Store) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := open()
		a := NewAttempt(time.Now(), user(1), "graph")
		insert(t, s, a)
		woken := make(chan error, 1)
		go func() { woken <- s.Changed(t.Context(), a.ID, 1) }()
		synctest.Wait()
		select {
		case err := <-woken:
			t.Fatalf("returned before anything happened: %v", err)
		default:
		}
		insert(t, s, Next(a, store.CardSent, time.Now()))
		if err := <-woken; err != nil {
			t.Errorf("Changed: %v", err)
		}
		go func() { woken <- s.Changed(t.Context(), a.ID, 2) }()
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-woken; err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Changed on a store that closes: %v", err)
		}
	})
}
