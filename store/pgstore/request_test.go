package pgstore

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestRequestIsWrittenOnce: the activity that asked is the larger part of a row. A
// commit that does not change it leaves it where it is.
func TestRequestIsWrittenOnce(t *testing.T) {
	s, err := Open(t.Context(), pgtest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asked := make([]byte, 100<<10)
	_, _ = rand.Read(asked) // never fails, by its contract; it cannot be compressed
	a := storetest.NewAttempt(info.Now, "29:somebody", "graph")
	a.Request = asked
	// written writes the attempt and returns how much stands beside the rows now.
	written := func(next store.Attempt) (n int) {
		t.Helper()
		if err := errors.Join(s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{next}}})...); err != nil {
			t.Fatal(err)
		}
		snap, err := s.Get(t.Context(), a.ID)
		if err != nil || !slices.Equal(snap.Attempts[0].Request, next.Request) {
			t.Fatalf("kept %d bytes, %v; want %d", len(snap.Attempts[0].Request), err, len(next.Request))
		}
		err = s.use(t.Context(), "test", func(_ context.Context, conn *pgxpool.Conn) error {
			return conn.QueryRow(t.Context(), `select pg_relation_size(reltoastrelid) from pg_class where oid = 'attempts'::regclass`).Scan(&n)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := written(a)
	for _, to := range []store.State{store.CardSent, store.Exchanging, store.Complete} {
		a = storetest.Next(a, to, info.Now)
		a.Request = slices.Clone(asked)
		if now := written(a); now != before {
			t.Errorf("%s wrote %d bytes, want none", to, now-before)
		}
	}
	a = storetest.Next(a, store.Complete, info.Now)
	a.Request = asked[1:]
	if now := written(a); now == before {
		t.Error("another request was not written")
	}
	a = storetest.Next(a, store.Complete, info.Now)
	a.Request = nil
	written(a)
}
