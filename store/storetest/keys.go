package storetest

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

func allKeys(t *testing.T, s store.Store) []store.SecretKey {
	t.Helper()
	ring, err := s.Keys(t.Context())
	if err != nil || ring.Now.IsZero() {
		t.Fatal(ring.Now, err)
	}
	return ring.Keys
}

// secretKeys tests that a new store has one key, that a swap needs the current keys, and
// that one of several concurrent swaps succeeds.
func secretKeys(t *testing.T, s store.Store) {
	t.Helper()
	first := allKeys(t, s)
	if len(first) != 1 || !slices.Equal(first[0].Secret, s.Secret()) || !first[0].Made.IsZero() {
		t.Fatalf("a new store has the keys %v", first)
	}
	const racers = 8
	var wg sync.WaitGroup
	var won atomic.Int64
	for range racers {
		wg.Go(func() {
			next := append(slices.Clone(first), store.NewSecretKey(now(t, s)))
			switch err := s.SwapKeys(t.Context(), first, next); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, store.ErrConflict):
				t.Errorf("swap: %v, want ErrConflict", err)
			}
		})
	}
	wg.Wait()
	two := allKeys(t, s)
	if won.Load() != 1 || len(two) != 2 || cmp.Diff(first[0], two[0]) != "" {
		t.Fatalf("%d have won, the keys are %v", won.Load(), two)
	}
	two[0].Secret[0]++
	if allKeys(t, s)[0].Secret[0] == two[0].Secret[0] {
		t.Error("a key was changed from outside")
	}
	two = allKeys(t, s)
	if err := s.SwapKeys(t.Context(), first, two); !errors.Is(err, store.ErrConflict) {
		t.Errorf("keys as they were: %v, want ErrConflict", err)
	}
	if err := s.SwapKeys(t.Context(), two, two[1:]); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(two[1:], allKeys(t, s)); diff != "" {
		t.Errorf("after the first key was forgotten (-want +got):\n%s", diff)
	}
}
