package pgstore_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestMain also sees to it that a closed store leaves no goroutine behind.
func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func mustOpen(tb testing.TB, dsn string, opts ...pgstore.Option) *pgstore.Store {
	tb.Helper()
	s, err := pgstore.Open(tb.Context(), dsn, opts...)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return s
}

func harness(t *testing.T) storetest.Harness {
	t.Helper()
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	return storetest.Harness{
		Store: s,
		Reopen: func(t *testing.T) store.Store {
			t.Helper()
			if err := s.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
			s = mustOpen(t, dsn)
			return s
		},
		Second: func(t *testing.T) store.Store {
			t.Helper()
			return mustOpen(t, dsn)
		},
		Damage:         damage(dsn),
		DamageDelivery: damageDelivery(dsn),
	}
}

// damage makes the record of an attempt one that cannot be decoded.
func damage(dsn string) func(*testing.T, string) {
	return func(t *testing.T, id string) {
		t.Helper()
		mustExec(t, dsn, `update SCHEMA.attempts set detail = `+notDecodable+` where id = '`+id+`'`)
	}
}

// damageDelivery does the same to a delivery.
func damageDelivery(dsn string) func(*testing.T, store.DeliveryKey) {
	return func(t *testing.T, k store.DeliveryKey) {
		t.Helper()
		mustExec(t, dsn, fmt.Sprintf(`update SCHEMA.deliveries set failure = %s where attempt = '%s' and kind = '%s' and round = %d`,
			notDecodable, k.Attempt, k.Kind, k.Round))
	}
}

func TestConformance(t *testing.T) { storetest.Run(t, harness) }

// TestConformanceGrouped runs the suites as the engine runs the store.
func TestConformanceGrouped(t *testing.T) {
	pgtest.Long(t)
	for _, suite := range []func(*testing.T, storetest.New){
		storetest.Semantics, storetest.Groups, storetest.Concurrency, storetest.Outbox, storetest.Due, storetest.Changed, storetest.Marks,
	} {
		suite(t, func(t *testing.T) storetest.Harness {
			t.Helper()
			dsn := pgtest.Start(t)
			return storetest.Harness{
				Store: store.NewGroup(mustOpen(t, dsn)),
				Second: func(t *testing.T) store.Store {
					t.Helper()
					return store.NewGroup(mustOpen(t, dsn))
				},
			}
		})
	}
}
