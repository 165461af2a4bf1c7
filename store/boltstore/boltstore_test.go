package boltstore_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/storetest"
)

func mustOpen(t *testing.T, path string, opts ...boltstore.Option) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path, opts...)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// TestConformance runs with tables so small that a file is always half in the log
// and half in the tree.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		t.Helper()
		var offset atomic.Int64
		start := time.Now()
		path := filepath.Join(t.TempDir(), "signin.db")
		clock := func() time.Time { return start.Add(time.Duration(offset.Load())) }
		s := mustOpen(t, path, boltstore.WithClock(clock), boltstore.WithoutSync(), boltstore.WithTable(3000))
		return storetest.Harness{
			Store:   s,
			Advance: func(d time.Duration) { offset.Add(int64(d)) },
			Reopen: func(t *testing.T) store.Store {
				t.Helper()
				if err := s.Close(); err != nil {
					t.Fatalf("Close: %v", err)
				}
				s = mustOpen(t, path, boltstore.WithClock(clock), boltstore.WithoutSync(), boltstore.WithTable(3000))
				return s
			},
		}
	})
}

// TestConformanceGrouped runs the suites as the engine runs the store: grouped,
// on the real clock, synced.
func TestConformanceGrouped(t *testing.T) {
	for _, suite := range []func(*testing.T, storetest.New){
		storetest.Semantics, storetest.Groups, storetest.Concurrency, storetest.Outbox, storetest.Due, storetest.Changed, storetest.Marks,
	} {
		suite(t, func(t *testing.T) storetest.Harness {
			t.Helper()
			return storetest.Harness{Store: store.NewGroup(mustOpen(t, filepath.Join(t.TempDir(), "signin.db")))}
		})
	}
}

func TestChangedParks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.db")
	storetest.ChangedParks(t, func() store.Store { return mustOpen(t, path, boltstore.WithoutSync()) })
}

// TestDueFiledEarly: cards that wait stay filed under the end of the lease with
// which they were sent, until then. Then they are filed anew, all of them, and
// nobody is taken for due before it is.
func TestDueFiledEarly(t *testing.T) {
	now := time.Now()
	s, err := boltstore.Open(filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync(), boltstore.WithClock(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const waiting = 5000
	var last store.Attempt
	for n := range waiting {
		commits := signIn(n)[:3]
		last = commits[2].Put[0]
		for _, err := range s.Apply(t.Context(), commits) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	due := func() int {
		t.Helper()
		snap, err := s.Due(t.Context(), 100, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return len(snap.Attempts)
	}
	for _, tc := range []struct {
		at   time.Time
		want int
	}{
		{last.Lease.Until.Add(time.Second), 0},
		{last.Expires.Add(time.Second), 100},
		{last.Expires.Add(time.Second), 100},
	} {
		now = tc.at
		if got := due(); got != tc.want {
			t.Errorf("at %s: %d attempts are due, want %d", tc.at, got, tc.want)
		}
	}
}
