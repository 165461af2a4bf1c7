package pgstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// mustExecCleanup is mustExec after the test's context has ended.
func mustExecCleanup(tb testing.TB, dsn, sql string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server, _ := split(dsn)
	if err := pgtest.Exec(ctx, server, sql); err != nil {
		tb.Errorf("exec: %v", err)
	}
}

// query reads values past the store.
func query[T any](t *testing.T, dsn, sql string, args ...any) []T {
	t.Helper()
	server, _ := split(dsn)
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// owing is an attempt that has ended, and a claimed row that is owed for it.
func owing(t *testing.T, s store.Store, user string) (store.Attempt, store.Delivery) {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := storetest.NewAttempt(info.Now, user, "graph")
	done := storetest.Next(a, store.Complete, info.Now)
	c := store.Commit{Put: []store.Attempt{a, done}, Deliveries: []store.Delivery{storetest.Owed(&a, 1, info.Now)}}
	if err := s.Apply(t.Context(), []store.Commit{c})[0]; err != nil {
		t.Fatal(err)
	}
	rows, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "bot-a", Attempt: a.ID, Limit: 1, Hold: time.Hour})
	if err != nil || len(rows) != 1 {
		t.Fatalf("Claim = %+v, %v", rows, err)
	}
	return done, rows[0]
}

// TestAckInTx is the handler's writes and the acknowledgement, together or not
// at all.
func TestAckInTx(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	mustExec(t, dsn, `create table SCHEMA.told (key text primary key)`)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := storetest.NewAttempt(info.Now, "29:x", "graph")
	row := storetest.Owed(&a, 1, info.Now)
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Deliveries: []store.Delivery{row}}})[0]; err != nil {
		t.Fatal(err)
	}
	claimed, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "bot-a", Limit: 1, Hold: time.Hour})
	if err != nil || len(claimed) != 1 {
		t.Fatalf("Claim = %+v, %v", claimed, err)
	}
	tell := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into told values ($1)`, row.String())
		return err
	}
	check := func(owed, told int) {
		t.Helper()
		c, err := s.Counts(t.Context(), info.Now)
		if err != nil || c.Owed != owed {
			t.Errorf("Owed %d, %v; want %d", c.Owed, err, owed)
		}
		var n int
		server, schema := split(dsn)
		conn, err := pgx.Connect(t.Context(), server)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(t.Context()) }()
		if err := conn.QueryRow(t.Context(), `select count(*) from `+schema+`.told`).Scan(&n); err != nil || n != told {
			t.Errorf("told %d, %v; want %d", n, err, told)
		}
	}
	never := func(context.Context, pgx.Tx) error {
		t.Error("the handler ran")
		return nil
	}
	if err := s.AckInTx(t.Context(), row, never); !errors.Is(err, store.ErrConflict) {
		t.Errorf("with a row that was claimed since: %v, want ErrConflict", err)
	}
	failed := errors.New("no")
	err = s.AckInTx(t.Context(), claimed[0], func(ctx context.Context, tx pgx.Tx) error { return errors.Join(tell(ctx, tx), failed) })
	if !errors.Is(err, failed) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a handler that fails: %v", err)
	}
	check(1, 0)
	if err := s.AckInTx(t.Context(), claimed[0], tell); err != nil {
		t.Errorf("AckInTx: %v", err)
	}
	check(0, 1)
	if err := s.AckInTx(t.Context(), claimed[0], never); !errors.Is(err, store.ErrConflict) {
		t.Errorf("twice: %v, want ErrConflict", err)
	}
	page, err := s.List(t.Context(), store.Filter{IDPrefix: a.ID})
	if err != nil || len(page.Deliveries) != 1 || page.Deliveries[0].Status != store.DeliveryDone || page.Deliveries[0].Tries != 1 {
		t.Errorf("the row is %+v, %v", page.Deliveries, err)
	}
}
