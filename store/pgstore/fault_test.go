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
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// load writes attempts from many goroutines until it is stopped, and remembers
// the version of each that was acknowledged last.
type load struct {
	stop  chan struct{}
	wg    sync.WaitGroup
	acked atomic.Int64

	mu   sync.Mutex
	last map[string]store.Attempt
}

func startLoad(t *testing.T, s store.Store, at time.Time, writers int) *load {
	t.Helper()
	l := &load{stop: make(chan struct{}), last: map[string]store.Attempt{}}
	for n := range writers {
		l.wg.Go(func() {
			for i := 0; ; i++ {
				a := storetest.NewAttempt(at, fmt.Sprintf("29:%d-%d", n, i), "graph")
				for _, to := range []store.State{store.Idle, store.CardSent, store.Exchanging, store.Complete} {
					from := a.State
					if to != store.Idle {
						a = storetest.Next(a, to, at)
					}
					if !l.write(t, s, &a, from) {
						return
					}
				}
			}
		})
	}
	return l
}

// write commits one version, again and again while the store is down. It is
// false when the load ends.
func (l *load) write(t *testing.T, s store.Store, a *store.Attempt, from store.State) bool {
	t.Helper()
	c := store.Commit{Put: []store.Attempt{*a}, Events: []store.Event{storetest.Line(a, from)}}
	for lost := false; ; {
		select {
		case <-l.stop:
			return false
		default:
		}
		err := s.Apply(context.WithoutCancel(t.Context()), []store.Commit{c})[0]
		switch {
		case err == nil:
		case errors.Is(err, store.ErrUnavailable):
			lost = true // it may be there all the same
			continue
		case lost && (errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists)):
		default:
			t.Errorf("Apply: %v", err)
			return false
		}
		l.mu.Lock()
		l.last[a.ID] = *a
		l.mu.Unlock()
		l.acked.Add(1)
		return true
	}
}

// more waits until n further commits are acknowledged.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(60 * time.Second)
	defer timeout.Stop()
	for want := l.acked.Load() + n; l.acked.Load() < want; {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatal("the store does not recover")
		}
	}
}

// check ends the load and compares what was acknowledged with what is there.
func (l *load) check(t *testing.T, s store.Store) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	for id, a := range l.last {
		snap, err := s.Get(t.Context(), id)
		if err != nil {
			t.Fatalf("Get of an acknowledged attempt: %v", err)
		}
		if got := snap.Attempts[0]; got.Version < a.Version {
			t.Errorf("%s is at version %d, %d was acknowledged", id, got.Version, a.Version)
		}
		lines, err := s.Events(t.Context(), store.EventFilter{Attempt: id})
		if err != nil || int64(len(lines)) != snap.Attempts[0].Version {
			t.Errorf("%s: version %d has %d lines, %v", id, snap.Attempts[0].Version, len(lines), err)
		}
	}
	t.Logf("%d commits acknowledged, %d attempts", l.acked.Load(), len(l.last))
}

// TestServerFaults takes the server down under load. The store stays open, and
// nothing that was acknowledged is lost.
func TestServerFaults(t *testing.T) {
	c := pgtest.NewCluster(t)
	for name, fault := range map[string]func() error{
		"terminate": func() error { _, err := c.TerminateBackends(t.Context()); return err },
		"fast":      func() error { return c.Restart(t.Context(), pgtest.Fast) },
		"immediate": func() error { return c.Restart(t.Context(), pgtest.Immediate) },
		"down": func() error {
			if err := c.Stop(pgtest.Immediate); err != nil {
				return err
			}
			return c.Start(t.Context())
		},
		// It waits for every session to end: those of the pool do, since none
		// lives long here.
		"smart": func() error { return c.Restart(t.Context(), pgtest.Smart) },
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, pgtest.Schema(t, c.DSN()), pgstore.WithPoolConfig(func(c *pgxpool.Config) {
				c.MaxConnLifetime, c.HealthCheckPeriod = 200*time.Millisecond, 50*time.Millisecond
			}))
			info, err := s.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			l := startLoad(t, store.NewGroup(s), info.Now, 8)
			for range 2 {
				l.more(t, 50)
				if err := fault(); err != nil {
					t.Errorf("fault: %v", err)
					break
				}
			}
			l.more(t, 50)
			l.check(t, s)
		})
	}
}

// TestUnreachable: a server that is gone is an error in time, for every method.
func TestUnreachable(t *testing.T) {
	c := pgtest.NewCluster(t)
	s := mustOpen(t, c.DSN())
	a := insertOne(t, s)
	if err := c.Stop(pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Apply":   func() error { return s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0] },
		"Find":    func() error { _, err := s.Find(t.Context(), store.Query{}); return err },
		"Get":     func() error { _, err := s.Get(t.Context(), a.ID); return err },
		"Due":     func() error { _, err := s.Due(t.Context(), 1, time.Second); return err },
		"Claim":   func() error { _, err := s.Claim(t.Context(), "x", 1, time.Second); return err },
		"Changed": func() error { return s.Changed(t.Context(), a.ID, 1) },
		"Purge":   func() error { _, err := s.Purge(t.Context(), a.Created, 1, false); return err },
		"List":    func() error { _, err := s.List(t.Context(), store.Filter{}); return err },
		"Events":  func() error { _, err := s.Events(t.Context(), store.EventFilter{}); return err },
		"Counts":  func() error { _, err := s.Counts(t.Context(), a.Created); return err },
		"Info":    func() error { _, err := s.Info(t.Context()); return err },
	} {
		if err := call(); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
	}
}

// TestPoolExhausted: who gets no connection in time is told so.
func TestPoolExhausted(t *testing.T) {
	s := mustOpen(t, pgtest.Start(t), pgstore.WithAcquireTimeout(50*time.Millisecond),
		pgstore.WithPoolConfig(func(c *pgxpool.Config) { c.MaxConns = 1 }))
	a := insertOne(t, s)
	d := storetest.Owed(&a, 1, a.Created)
	if err := s.Apply(t.Context(), []store.Commit{{Deliveries: []store.Delivery{d}}})[0]; err != nil {
		t.Fatal(err)
	}
	err := s.AckInTx(t.Context(), d, func(ctx context.Context, _ pgx.Tx) error {
		if _, err := s.Info(ctx); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Info while the pool is empty: %v, want ErrUnavailable", err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("AckInTx: %v", err)
	}
	if _, err := s.Info(t.Context()); err != nil {
		t.Errorf("Info: %v", err)
	}
}

// TestStatementTimeout: a call that others hold up ends in time.
func TestStatementTimeout(t *testing.T) {
	dsn := pgtest.Start(t)
	s, quick := mustOpen(t, dsn), mustOpen(t, dsn, pgstore.WithStatementTimeout(100*time.Millisecond))
	a := insertOne(t, s)
	d := storetest.Owed(&a, 1, a.Created)
	if err := s.Apply(t.Context(), []store.Commit{{Deliveries: []store.Delivery{d}}})[0]; err != nil {
		t.Fatal(err)
	}
	err := s.AckInTx(t.Context(), d, func(ctx context.Context, _ pgx.Tx) error {
		err := quick.Apply(ctx, []store.Commit{{Deliveries: []store.Delivery{d}}})[0] // the row is locked
		var pg *pgconn.PgError
		if !errors.Is(err, store.ErrUnavailable) || !errors.As(err, &pg) || pg.Code != "57014" {
			t.Errorf("Apply: %v, want ErrUnavailable with SQLSTATE 57014", err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("AckInTx: %v", err)
	}
}

// TestDeadlock: two instances that lock two rows in opposite orders. The server
// ends one of them; the store tries again.
func TestDeadlock(t *testing.T) {
	dsn := pgtest.Start(t)
	s, other := mustOpen(t, dsn), mustOpen(t, dsn)
	a := insertOne(t, s)
	b := storetest.NewAttempt(a.Created, "29:other", "graph")
	first, second := storetest.Owed(&a, 1, a.Created), storetest.Owed(&b, 1, a.Created)
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{b}, Deliveries: []store.Delivery{first, second}}})[0]; err != nil {
		t.Fatal(err)
	}
	var applied error
	err := s.AckInTx(t.Context(), first, func(ctx context.Context, tx pgx.Tx) error {
		var pid int
		if err := tx.QueryRow(ctx, `select pg_backend_pid()`).Scan(&pid); err != nil {
			return err
		}
		// The other one takes the second row, then waits for the first.
		done := make(chan struct{})
		go func() {
			defer close(done)
			applied = other.Apply(ctx, []store.Commit{{Put: []store.Attempt{storetest.Next(b, store.CardSent, b.Created)}, Deliveries: []store.Delivery{second, first}}})[0]
		}()
		defer func() { go func() { <-done }() }()
		for blocked := false; !blocked; {
			if err := tx.QueryRow(ctx, `select exists (select from pg_locks where not granted and $1 = any (pg_blocking_pids(pid)))`, pid).Scan(&blocked); err != nil {
				return err
			}
		}
		// Now we want what it has. One of the two is ended.
		_, err := tx.Exec(ctx, `update attempts set lines = lines where id = $1`, b.ID)
		return err
	})
	var pg *pgconn.PgError
	if err != nil && (!errors.As(err, &pg) || pg.Code != "40P01") {
		t.Errorf("AckInTx: %v", err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		snap, err := s.Get(t.Context(), b.ID)
		if err == nil && snap.Attempts[0].Version == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the commit did not come through: %v", applied)
		}
	}
}
