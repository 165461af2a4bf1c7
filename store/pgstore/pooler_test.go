package pgstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestPooler runs the suites through a PgBouncer that nobody has configured: what
// a session is told or remembers is gone with the next transaction, and whoever
// comes next must not find it.
func TestPooler(t *testing.T) {
	pgtest.Long(t)
	for pooling, suites := range map[pgtest.Pooling][]func(*testing.T, storetest.New){
		pgtest.BySession:     {storetest.Semantics},
		pgtest.ByTransaction: {storetest.Semantics, storetest.Groups, storetest.Outbox, storetest.Due, storetest.Lists, storetest.Purge, storetest.Marks},
	} {
		t.Run(string(pooling), func(t *testing.T) {
			c := pgtest.NewCluster(t)
			b := pgtest.NewBouncer(t, c, pooling)
			harness := func(t *testing.T) storetest.Harness {
				t.Helper()
				schema := schemaOf(pgtest.Schema(t, c.DSN()))
				dsn, direct := pgtest.WithParam(b.DSN(), "schema", schema), pgtest.WithParam(c.DSN(), "schema", schema)
				s := mustOpen(t, dsn)
				return storetest.Harness{
					Store: store.NewGroup(s),
					Second: func(t *testing.T) store.Store {
						t.Helper()
						return store.NewGroup(mustOpen(t, dsn))
					},
					Damage: damage(direct), DamageDelivery: damageDelivery(direct),
				}
			}
			for _, suite := range suites {
				suite(t, harness)
			}
			// What we tell a session stays between us.
			conn, err := pgx.Connect(t.Context(), b.DSN()+"&default_query_exec_mode=exec")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(t.Context()) }()
			var path, seqscan string
			if err := conn.QueryRow(t.Context(), `select current_setting('search_path'), current_setting('enable_seqscan')`).Scan(&path, &seqscan); err != nil {
				t.Fatal(err)
			}
			if path != `"$user", public` || seqscan != "on" {
				t.Errorf("the next client of the pooler finds search_path %s, enable_seqscan %s", path, seqscan)
			}
		})
	}
}

// TestPoolerComesBetween: the address of an open store begins to lead to a pooler.
func TestPoolerComesBetween(t *testing.T) {
	pgtest.Long(t)
	c := pgtest.NewCluster(t)
	b := pgtest.NewBouncer(t, c, pgtest.ByTransaction)
	schema := schemaOf(pgtest.Schema(t, c.DSN()))
	var mu sync.Mutex
	now := pgtest.WithParam(c.DSN(), "schema", schema)
	s := mustOpen(t, now, pgstore.WithAddress(func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		return now, nil
	}))
	a := insertOne(t, s)
	mu.Lock()
	now = pgtest.WithParam(b.DSN(), "schema", schema)
	mu.Unlock()
	if _, err := c.TerminateBackends(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for a.Version < 20 {
		next := storetest.Next(a, store.CardSent, a.Entered)
		switch err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{next}}})[0]; {
		case err == nil:
			a = next
		case time.Now().After(deadline):
			t.Fatalf("Apply: %v", err)
		}
	}
}

// TestListenBehindPooler: with an address of its own for LISTEN a waiter is woken,
// and without one it finds out by looking.
func TestListenBehindPooler(t *testing.T) {
	pgtest.Long(t)
	c := pgtest.NewCluster(t)
	b := pgtest.NewBouncer(t, c, pgtest.ByTransaction)
	schema := schemaOf(pgtest.Schema(t, c.DSN()))
	dsn := pgtest.WithParam(b.DSN(), "schema", schema)
	for name, opts := range map[string][]pgstore.Option{
		"listening": {pgstore.WithPollInterval(time.Hour), pgstore.WithListenAddress(c.DSN())},
		"polling":   {pgstore.WithPollInterval(20 * time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			waiter, writer := mustOpen(t, dsn, opts...), mustOpen(t, dsn)
			info, err := writer.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			a := storetest.NewAttempt(info.Now, "29:"+name, "graph")
			if err := writer.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0]; err != nil {
				t.Fatal(err)
			}
			woken := make(chan error, 1)
			id := a.ID
			go func() { woken <- waiter.Changed(t.Context(), id, 300) }()
			deadline := time.After(patience)
			for {
				// The first 300 wake the listener, who looks and waits on: only a later
				// one ends it, and is announced when it listens.
				a = storetest.Next(a, store.CardSent, a.Entered)
				if err := writer.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0]; err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-woken:
					if err != nil {
						t.Errorf("Changed: %v", err)
					}
					return
				case <-deadline:
					t.Fatalf("nobody was woken; version %d", a.Version)
				default:
				}
			}
		})
	}
}

// TestStartTogether: three instances start at once on an empty database that
// prefers another isolation.
func TestStartTogether(t *testing.T) {
	pgtest.Long(t)
	c := pgtest.NewCluster(t)
	if err := pgtest.Exec(t.Context(), c.DSN(), `alter database postgres set default_transaction_isolation = 'serializable'`); err != nil {
		t.Fatal(err)
	}
	b := pgtest.NewBouncer(t, c, pgtest.ByTransaction)
	for name, server := range map[string]string{"direct": c.DSN(), "pooled": b.DSN()} {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.WithParam(server, "schema", schemaOf(pgtest.Schema(t, c.DSN())))
			var started sync.WaitGroup
			for range 3 {
				started.Go(func() {
					s, err := pgstore.Open(t.Context(), dsn, pgstore.WithPoolConfig(func(c *pgxpool.Config) { c.MaxConns = 4 }))
					if err != nil {
						t.Errorf("Open: %v", err)
						return
					}
					defer func() { _ = s.Close() }()
					info, err := s.Info(t.Context())
					if err != nil {
						t.Errorf("Info: %v", err)
						return
					}
					var wrote sync.WaitGroup
					for range 8 {
						wrote.Go(func() {
							a := storetest.NewAttempt(info.Now, "29:one", "graph")
							// One of them gets the key, the others are told so: none is
							// refused for the sake of isolation.
							if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0]; err != nil && !isExists(err) {
								t.Errorf("Apply: %v", err)
							}
						})
					}
					wrote.Wait()
				})
			}
			started.Wait()
		})
	}
}

func isExists(err error) bool { return errors.Is(err, store.ErrExists) }
