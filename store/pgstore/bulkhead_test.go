package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// signIn reads and writes as a sign-in of one user does.
func signIn(ctx context.Context, s store.Store, at time.Time, user string) error {
	a := storetest.NewAttempt(at, user, "graph")
	if _, err := s.Find(ctx, store.Query{User: a.Key.UserKey(), Connection: a.Key.Connection}); err != nil {
		return fmt.Errorf("find: %w", err)
	}
	for version := range 3 {
		if version > 0 {
			a = storetest.Next(a, store.CardSent, at)
		}
		if err := s.Apply(ctx, []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{storetest.Line(&a, store.None)}}})[0]; err != nil {
			return fmt.Errorf("version %d: %w", version, err)
		}
	}
	return nil
}

// signIns runs so many at once and returns how many failed, and how long the
// slowest of the others took.
func signIns(t *testing.T, s store.Store, at time.Time, name string, n int) (failed int, slowest time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			begun := time.Now()
			err := signIn(t.Context(), s, at, fmt.Sprintf("29:%s-%d", name, i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Logf("%s %d after %s: %v", name, i, time.Since(begun), err)
				failed++
				return
			}
			slowest = max(slowest, time.Since(begun))
		})
	}
	all.Wait()
	return failed, slowest
}

// TestDeadConnections: connections are dead, and nobody is told. New ones work.
func TestDeadConnections(t *testing.T) {
	pgtest.Long(t)
	for name, tc := range map[string]struct {
		dead  int
		idle  time.Duration // how long nobody had used them
		bound time.Duration // of a statement
	}{
		// Whoever waits for the dead one does so for long.
		"one of them": {dead: 1, bound: 30 * time.Second},
		"all":         {dead: -1, bound: pgstore.DefaultStatementTimeout},
		// Nobody was at it: nobody notices.
		"all, and idle": {dead: -1, bound: 30 * time.Second, idle: 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			c := pgtest.NewCluster(t)
			p := pgtest.NewProxy(t, c)
			dsn := pgtest.WithParam(p.DSN(), "schema", schemaOf(pgtest.Schema(t, c.DSN())))
			s := store.NewGroup(mustOpen(t, dsn, pgstore.WithStatementTimeout(tc.bound)))
			info, err := s.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if failed, _ := signIns(t, s, info.Now, "before", 32); failed > 0 {
				t.Fatalf("%d sign-ins failed", failed)
			}
			// Under way while it happens, and again until all is well.
			var under sync.WaitGroup
			stop := make(chan struct{})
			users := 8
			if time.Sleep(tc.idle); tc.idle > 0 {
				users = 0
			}
			for i := range users {
				under.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
							_ = signIn(t.Context(), s, info.Now, fmt.Sprintf("29:under-%d-%d", i, n))
						}
					}
				})
			}
			if n := p.Freeze(tc.dead); n == 0 {
				t.Fatal("no connection is there")
			}
			frozen := time.Now()
			for round := 0; ; round++ {
				failed, slowest := signIns(t, s, info.Now, fmt.Sprintf("round%d", round), 8)
				if failed == 0 && slowest < 2*time.Second {
					break
				}
				if time.Since(frozen) > 10*time.Second {
					t.Fatal("sign-ins do not become normal again")
				}
			}
			t.Logf("normal again %s after the connections had died", time.Since(frozen).Round(10*time.Millisecond))
			close(stop)
			p.Thaw()
			under.Wait()
		})
	}
}

// TestDeadConnectionIsFoundOut: who waits for a connection that is dead does not do
// so for as long as a statement may take.
func TestDeadConnectionIsFoundOut(t *testing.T) {
	pgtest.Long(t)
	for name, between := range map[string]func(*pgtest.Cluster) pgtest.Server{
		"direct":          func(c *pgtest.Cluster) pgtest.Server { return c },
		"behind a pooler": func(c *pgtest.Cluster) pgtest.Server { return pgtest.NewBouncer(t, c, pgtest.ByTransaction) },
	} {
		t.Run(name, func(t *testing.T) {
			c := pgtest.NewCluster(t)
			p := pgtest.NewProxy(t, between(c))
			dsn := pgtest.WithParam(p.DSN(), "schema", schemaOf(pgtest.Schema(t, c.DSN())))
			s := mustOpen(t, dsn, pgstore.WithStatementTimeout(time.Minute))
			a := insertOne(t, s)
			p.Freeze(-1)
			begun := time.Now()
			next := store.Commit{Put: []store.Attempt{storetest.Next(a, store.CardSent, a.Entered)}}
			if err := s.Apply(t.Context(), []store.Commit{next})[0]; !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("on a dead connection: %v, want ErrUnavailable", err)
			}
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("that took %s", took)
			}
			if err := s.Apply(t.Context(), []store.Commit{next})[0]; err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// TestLockedRow: somebody holds the row of one attempt. Whoever is in a group with
// it waits a little, whoever comes after does not.
func TestLockedRow(t *testing.T) {
	pgtest.Long(t)
	dsn := pgtest.Start(t)
	s := store.NewGroup(mustOpen(t, dsn, pgstore.WithStatementTimeout(10*time.Second)))
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	locked := storetest.NewAttempt(info.Now, "29:locked", "graph")
	if err := s.Commit(t.Context(), store.Commit{Put: []store.Attempt{locked}}); err != nil {
		t.Fatal(err)
	}
	tx := begin(t, dsn)
	mustExecIn(t, tx, dsn, `select from SCHEMA.attempts where id = '`+locked.ID+`' for update`)
	next := storetest.Next(locked, store.CardSent, info.Now)
	held := make(chan error, 1)
	go func() { held <- s.Commit(t.Context(), store.Commit{Put: []store.Attempt{next}}) }()
	waiting(t, tx)
	failed, slowest := signIns(t, s, info.Now, "beside", 32)
	if failed > 0 {
		t.Errorf("%d sign-ins failed", failed)
	}
	select {
	case err := <-held:
		t.Errorf("the commit of the locked row came back before the others: %v", err)
	default:
	}
	t.Logf("the slowest sign-in beside a locked row took %s", slowest)
	if err := <-held; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Commit: %v, want ErrUnavailable", err)
	}
	// In one group with it.
	var together sync.WaitGroup
	together.Go(func() {
		errs := s.Apply(t.Context(), []store.Commit{
			{Put: []store.Attempt{next}}, {Put: []store.Attempt{storetest.NewAttempt(info.Now, "29:neighbour", "graph")}},
		})
		if !errors.Is(errs[0], store.ErrUnavailable) || errs[1] != nil {
			t.Errorf("Apply = %v, want the first to be unavailable, the second to pass", errs)
		}
	})
	together.Wait()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), store.Commit{Put: []store.Attempt{next}}); err != nil {
		t.Errorf("Commit: %v", err)
	}
}

// TestStall: for some seconds no commit comes back. Whoever waits for one is not
// refused, and the connections stay: their sessions are at it.
func TestStall(t *testing.T) {
	pgtest.Long(t)
	for name, between := range map[string]func(*pgtest.Cluster) string{
		"direct":          func(c *pgtest.Cluster) string { return c.DSN() },
		"behind a pooler": func(c *pgtest.Cluster) string { return pgtest.NewBouncer(t, c, pgtest.ByTransaction).DSN() },
	} {
		t.Run(name, func(t *testing.T) {
			c := pgtest.NewCluster(t)
			dsn := pgtest.WithParam(between(c), "schema", schemaOf(pgtest.Schema(t, c.DSN())))
			var made atomic.Int64
			s := store.NewGroup(mustOpen(t, dsn, pgstore.WithPoolConfig(func(c *pgxpool.Config) {
				c.AfterConnect = func(context.Context, *pgx.Conn) error {
					made.Add(1)
					return nil
				}
			})))
			info, err := s.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if failed, _ := signIns(t, s, info.Now, "before", 32); failed > 0 {
				t.Fatalf("%d sign-ins failed", failed)
			}
			before := made.Load()
			configure(t, c, "synchronous_standby_names", "nobody")
			over := make(chan struct{})
			go func() {
				defer close(over)
				time.Sleep(5 * time.Second)
				configure(t, c, "synchronous_standby_names", "")
			}()
			failed, slowest := signIns(t, s, info.Now, "meanwhile", 32)
			<-over
			if failed > 0 || slowest < 4*time.Second {
				t.Errorf("%d of 32 sign-ins failed, the slowest of the others took %s", failed, slowest)
			}
			if n := made.Load() - before; n > 8 {
				t.Errorf("%d connections were made anew", n)
			}
		})
	}
}

// A statement that is slow while others are quick is waited for, behind a pooler too:
// its connection is not dead.
func TestSlowStatementIsNoDeadConnection(t *testing.T) {
	pgtest.Long(t)
	c := pgtest.NewCluster(t)
	for name, dsn := range map[string]string{"direct": c.DSN(), "pooler": pgtest.NewBouncer(t, c, pgtest.ByTransaction).DSN()} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, pgtest.WithParam(dsn, "schema", schemaOf(pgtest.Schema(t, c.DSN()))), pgstore.WithStatementTimeout(time.Minute))
			if err := s.Slow(t.Context(), 6*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}
