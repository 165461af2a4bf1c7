package pgstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// probed checks what a probe says, and that a commit would have said the same.
func probed(t *testing.T, s *pgstore.Store, want error, words ...string) {
	t.Helper()
	if want == nil {
		eventually(t, s, true)
	} else if err := s.Probe(t.Context()); !errors.Is(err, want) {
		t.Errorf("Probe: %v, want %v", err, want)
	} else {
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("Probe: %v, does not say %q", err, word)
			}
		}
	}
	commit := store.Commit{Put: []store.Attempt{storetest.NewAttempt(time.Now(), "29:"+rand.Text(), "graph")}}
	if got := s.Apply(t.Context(), []store.Commit{commit})[0]; !errors.Is(got, want) {
		t.Errorf("Apply: %v, want %v", got, want)
	}
}

// TestProbe: what keeps a commit from being written is found out without one.
func TestProbe(t *testing.T) {
	t.Run("read-only sessions", func(t *testing.T) {
		dsn := pgtest.Start(t)
		probed(t, mustOpen(t, dsn), nil)
		server, schema := split(dsn)
		dsn = pgtest.WithParam(pgtest.WithParam(server, "default_transaction_read_only", "on"), "schema", schema)
		probed(t, mustOpen(t, dsn), store.ErrUnavailable, "read-only")
	})
	t.Run("opened for reading", func(t *testing.T) {
		dsn := pgtest.Start(t)
		mustOpen(t, dsn)
		probed(t, mustOpen(t, dsn, pgstore.WithReadOnly()), store.ErrReadOnly)
	})
	t.Run("rights", func(t *testing.T) {
		dsn := pgtest.Start(t)
		probed(t, mustOpen(t, dsn), nil)
		_, schema := split(dsn)
		role, password := "role_"+schema, rand.Text()
		mustExec(t, dsn, `create role `+role+` login password '`+password+`'; grant usage on schema SCHEMA to `+role+`;
			grant select on all tables in schema SCHEMA to `+role)
		t.Cleanup(func() { mustExecCleanup(t, dsn, `drop owned by `+role+`; drop role `+role) })
		s := mustOpen(t, pgtest.WithParam(pgtest.WithParam(dsn, "user", role), "password", password))
		probed(t, s, store.ErrUnavailable, "insert on attempts", "delete on marks")
		if err := s.Probe(t.Context()); strings.Contains(err.Error(), "select on") {
			t.Errorf("Probe: %v, names a right that is there", err)
		}
		mustExec(t, dsn, `grant insert, update, delete on all tables in schema SCHEMA to `+role)
		probed(t, s, nil)
		mustExec(t, dsn, `revoke update on SCHEMA.exchange_ids from `+role)
		if err := s.Probe(t.Context()); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "may not update on exchange_ids (") {
			t.Errorf("Probe: %v, want update on exchange_ids", err)
		}
	})
	t.Run("schema version", func(t *testing.T) {
		dsn := pgtest.Start(t)
		s := mustOpen(t, dsn)
		mustExec(t, dsn, `insert into SCHEMA.schema_migrations values (999, 'future', 999)`)
		if err := s.Probe(t.Context()); !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), "999") {
			t.Errorf("Probe: %v, want ErrSchema", err)
		}
		mustExec(t, dsn, `drop schema SCHEMA cascade`)
		if err := s.Probe(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Probe of nothing: %v, want ErrUnavailable", err)
		}
	})
	t.Run("in time", func(t *testing.T) {
		dsn := pgtest.Start(t)
		s := mustOpen(t, dsn)
		mustExecIn(t, begin(t, dsn), dsn, `lock table SCHEMA.schema_migrations`)
		begun := time.Now()
		if err := s.Probe(t.Context()); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Probe: %v, want ErrUnavailable", err)
		}
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("it took %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := s.Probe(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Probe: %v, want its context's error", err)
		}
	})
}

// TestProbeFollows: the server turns read-only and writable again under an open
// store.
func TestProbeFollows(t *testing.T) {
	c := pgtest.NewCluster(t)
	s := mustOpen(t, c.DSN())
	probed(t, s, nil)
	eventually := func(ok func(error) bool) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for err := s.Probe(t.Context()); !ok(err); err = s.Probe(t.Context()) {
			if time.Now().After(deadline) {
				t.Fatalf("Probe: %v", err)
			}
		}
	}
	configure(t, c, "default_transaction_read_only", "on")
	eventually(func(err error) bool { return err != nil })
	probed(t, s, store.ErrUnavailable, "read-only")
	configure(t, c, "default_transaction_read_only", "off")
	eventually(func(err error) bool { return err == nil })
	probed(t, s, nil)

	if err := c.Standby(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	probed(t, s, store.ErrUnavailable, "standby")
	if _, err := s.Find(t.Context(), store.Query{}); err != nil {
		t.Errorf("Find on a standby: %v", err)
	}
	if err := c.Standby(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	eventually(func(err error) bool { return err == nil })
	probed(t, s, nil)
}
