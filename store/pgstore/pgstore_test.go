package pgstore_test

import (
	"os"
	"testing"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

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
	}
}

func TestConformance(t *testing.T) { storetest.Run(t, harness) }
