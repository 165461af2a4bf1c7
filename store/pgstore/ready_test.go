package pgstore_test

import (
	"context"
	"errors"
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

// configure changes a setting of a whole server.
func configure(t *testing.T, c *pgtest.Cluster, name, value string) {
	t.Helper()
	if err := c.Configure(t.Context(), name, value); err != nil {
		t.Fatal(err)
	}
}

// patience is how long a test waits for what has to come: writes of other tests may
// keep the disk busy for seconds.
const patience = 2 * time.Minute

// eventually waits until a probe says what it should.
func eventually(t *testing.T, s store.Store, ready bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := s.Probe(t.Context())
		if (err == nil) == ready {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Probe: %v", err)
		}
	}
}

// TestProbeHangingCommit: the server takes a write and its commit does not come
// back, since no standby confirms it. Nothing that can be asked for shows that.
func TestProbeHangingCommit(t *testing.T) {
	pgtest.Long(t)
	c := pgtest.NewCluster(t)
	s := mustOpen(t, pgtest.Schema(t, c.DSN()), pgstore.WithStatementTimeout(3*time.Second))
	a := insertOne(t, s)
	configure(t, c, "synchronous_standby_names", "nobody")
	applied := make(chan error, 1)
	go func() {
		applied <- s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{storetest.Next(a, store.CardSent, a.Entered)}}})[0]
	}()
	eventually(t, s, false)
	select {
	case err := <-applied:
		t.Errorf("Apply = %v: the probe only followed it", err)
	default:
	}
	if err := <-applied; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Apply: %v, want ErrUnavailable", err)
	}
	configure(t, c, "synchronous_standby_names", "")
	eventually(t, s, true)
}

// counter counts statements.
type counter struct{ n atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}

func (*counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestProbeAsksForItself: an instance that is not ready gets no traffic, so nobody
// else would find out that the server takes writes again. What could not be
// acknowledged meanwhile is kept.
func TestProbeAsksForItself(t *testing.T) {
	pgtest.Long(t)
	c := pgtest.NewCluster(t)
	var statements counter
	s := mustOpen(t, pgtest.Schema(t, c.DSN()), pgstore.WithPoolConfig(func(c *pgxpool.Config) { c.ConnConfig.Tracer = &statements }))
	a := insertOne(t, s)
	owed := storetest.Owed(&a, 1, a.Created)
	if err := s.Apply(t.Context(), []store.Commit{{Deliveries: []store.Delivery{owed}}})[0]; err != nil {
		t.Fatal(err)
	}
	g := store.NewGroup(s)
	configure(t, c, "default_transaction_read_only", "on")
	eventually(t, s, false)
	done := owed
	done.Status = store.DeliveryDone
	g.Later(t.Context(), store.Commit{Acks: []store.Ack{{Delivery: done}}})
	g.Later(t.Context(), store.Commit{Events: []store.Event{{Attempt: a.ID, Kind: store.EventNote, Time: a.Created}}})
	if err := g.Flush(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Flush: %v, want ErrUnavailable", err)
	}
	// Nobody calls the store, and it asks.
	deadline := time.Now().Add(patience)
	for before := statements.n.Load(); statements.n.Load() < before+4; {
		if time.Now().After(deadline) {
			t.Fatal("nobody asks whether the server takes writes again")
		}
		time.Sleep(10 * time.Millisecond)
	}
	configure(t, c, "default_transaction_read_only", "off")
	eventually(t, s, true)
	for err := g.Flush(t.Context()); err != nil; err = g.Flush(t.Context()) {
		if time.Now().After(deadline) {
			t.Fatalf("Flush: %v", err)
		}
	}
	lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID})
	if err != nil || len(lines) != 1 || g.Dropped() != 0 {
		t.Errorf("%d lines, %v, %d dropped", len(lines), err, g.Dropped())
	}
	if err := s.Apply(t.Context(), []store.Commit{{Acks: []store.Ack{{Delivery: done}}}})[0]; !errors.Is(err, store.ErrConflict) {
		t.Errorf("the acknowledgement again: %v, want ErrConflict", err)
	}
}
