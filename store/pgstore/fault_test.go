package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	pgtest.Long(t)
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
		"Apply": func() error { return s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0] },
		"Find":  func() error { _, err := s.Find(t.Context(), store.Query{}); return err },
		"Get":   func() error { _, err := s.Get(t.Context(), a.ID); return err },
		"Due":   func() error { _, err := s.Due(t.Context(), 1, time.Second); return err },
		"Claim": func() error {
			_, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "x", Limit: 1, Hold: time.Second})
			return err
		},
		"Changed": func() error { return s.Changed(t.Context(), a.ID, 1) },
		"Purge":   func() error { _, err := s.Purge(t.Context(), a.Created, 1, false); return err },
		"List":    func() error { _, err := s.List(t.Context(), store.Filter{}); return err },
		"Events":  func() error { _, err := s.Events(t.Context(), store.EventFilter{Orphans: true}); return err },
		"Counts":  func() error { _, err := s.Counts(t.Context(), a.Created); return err },
		"Info":    func() error { _, err := s.Info(t.Context()); return err },
		"Mark":    func() error { _, err := s.Mark(t.Context(), "m"); return err },
		"Probe":   func() error { return s.Probe(t.Context()) },
		"AckInTx": func() error {
			return s.AckInTx(t.Context(), storetest.Owed(&a, 1, a.Created), func(context.Context, pgx.Tx) error { return nil })
		},
	} {
		if err := call(); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
	}
}

// begin begins a transaction of somebody else.
func begin(t *testing.T, dsn string) pgx.Tx {
	t.Helper()
	server, _ := split(dsn)
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func schemaOf(dsn string) string {
	_, schema := split(dsn)
	return schema
}

// mustExecIn is mustExec in a transaction.
func mustExecIn(t *testing.T, tx pgx.Tx, dsn, sql string, args ...any) {
	t.Helper()
	if _, err := tx.Exec(t.Context(), strings.ReplaceAll(sql, "SCHEMA", schemaOf(dsn)), args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// lock takes the rows of the outbox from everybody else.
func lock(t *testing.T, dsn string) pgx.Tx {
	t.Helper()
	tx := begin(t, dsn)
	mustExecIn(t, tx, dsn, `select from SCHEMA.deliveries for update`)
	return tx
}

// TestPoolExhausted: who gets no connection in time is told so.
func TestPoolExhausted(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn, pgstore.WithAcquireTimeout(100*time.Millisecond),
		pgstore.WithPoolConfig(func(c *pgxpool.Config) { c.MaxConns = 1 }))
	a := insertOne(t, s)
	d := storetest.Owed(&a, 1, a.Created)
	if err := s.Apply(t.Context(), []store.Commit{{Deliveries: []store.Delivery{d}}})[0]; err != nil {
		t.Fatal(err)
	}
	tx := lock(t, dsn)
	done := d
	done.Status = store.DeliveryDone
	acked := make(chan error, 1)
	go func() { acked <- s.Apply(t.Context(), []store.Commit{{Acks: []store.Ack{{Delivery: done}}}})[0] }()
	for busy := false; !busy; {
		_, err := s.Info(t.Context())
		busy = err != nil
		if busy && (!errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)) {
			t.Errorf("Info while the pool is empty: %v, want ErrUnavailable", err)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-acked; err != nil {
		t.Errorf("Apply: %v", err)
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
	lock(t, dsn)
	done := d
	done.Status = store.DeliveryDone
	err := quick.Apply(t.Context(), []store.Commit{{Acks: []store.Ack{{Delivery: done}}}})[0]
	var pg *pgconn.PgError
	if !errors.Is(err, store.ErrUnavailable) || !errors.As(err, &pg) || pg.Code != "57014" {
		t.Errorf("Apply: %v, want ErrUnavailable with SQLSTATE 57014", err)
	}
}

// TestDeadlock: two transactions that lock two rows in opposite orders. The
// server ends one of them; the store tries again.
func TestDeadlock(t *testing.T) {
	dsn := pgtest.Start(t)
	s, other := mustOpen(t, dsn), mustOpen(t, dsn)
	a := insertOne(t, s)
	b := storetest.NewAttempt(a.Created, "29:other", "graph")
	d := storetest.Owed(&a, 1, a.Created)
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{b}, Deliveries: []store.Delivery{d}}})[0]; err != nil {
		t.Fatal(err)
	}
	tx := lock(t, dsn)
	// The store takes the second attempt, then waits for the row.
	applied := make(chan error, 1)
	go func() {
		applied <- other.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{storetest.Next(b, store.CardSent, b.Created)}, Drop: []string{a.ID}}})[0]
	}()
	waiting(t, tx)
	// Now we want what it has. One of the two is ended.
	_, err := tx.Exec(t.Context(), `update `+schemaOf(dsn)+`.attempts set lines = lines where id = $1`, b.ID)
	var pg *pgconn.PgError
	if err != nil && (!errors.As(err, &pg) || pg.Code != "40P01") {
		t.Errorf("the other transaction: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-applied; err != nil {
		t.Errorf("Apply: %v", err)
	}
	if snap, err := s.Get(t.Context(), b.ID); err != nil || snap.Attempts[0].Version != 2 {
		t.Errorf("the attempt is %+v, %v", snap.Attempts, err)
	}
}
