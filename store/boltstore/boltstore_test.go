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
