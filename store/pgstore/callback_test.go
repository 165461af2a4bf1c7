package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
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
		_, err := tx.Exec(ctx, `insert into `+schemaOf(dsn)+`.told values ($1)`, row.String())
		return err
	}
	check := func(owed, told int) {
		t.Helper()
		c, err := s.Counts(t.Context(), info.Now)
		if err != nil || c.Owed != owed {
			t.Errorf("Owed %d, %v; want %d", c.Owed, err, owed)
		}
		if n := query[int](t, dsn, `select count(*) from `+schemaOf(dsn)+`.told`)[0]; n != told {
			t.Errorf("told %d, want %d", n, told)
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

// TestAckInTxHoldsNothing: while a handler runs, commits about its attempt go
// through at once, from inside the handler as from anywhere else. What they do
// to the row decides what becomes of the handler's writes.
func TestAckInTxHoldsNothing(t *testing.T) {
	for _, isolation := range []string{"read committed", "repeatable read", "serializable"} {
		for name, tc := range map[string]struct {
			commit func(store.Attempt, store.Delivery) store.Commit
			want   error
		}{
			"sign-out": {func(a store.Attempt, _ store.Delivery) store.Commit {
				return store.Commit{
					Put:    []store.Attempt{storetest.Next(a, store.Complete, a.Entered)},
					Events: []store.Event{{Attempt: a.ID, Kind: store.EventNote, Time: a.Entered}},
					Drop:   []string{a.ID},
				}
			}, store.ErrConflict},
			"acknowledged by another": {func(a store.Attempt, d store.Delivery) store.Commit {
				ack := store.Ack{Delivery: d, By: d.Owner, Try: d.Tries}
				ack.Status = store.DeliveryDead
				return store.Commit{Put: []store.Attempt{storetest.Next(a, store.Complete, a.Entered)}, Acks: []store.Ack{ack}}
			}, store.ErrConflict},
			"written": {func(a store.Attempt, d store.Delivery) store.Commit {
				next := d
				next.Round, next.Owner = 2, ""
				return store.Commit{
					Put:        []store.Attempt{storetest.Next(a, store.Complete, a.Entered)},
					Events:     []store.Event{{Attempt: a.ID, Kind: store.EventNote, Time: a.Entered}},
					Deliveries: []store.Delivery{next},
				}
			}, nil},
		} {
			t.Run(isolation+"/"+name, func(t *testing.T) {
				server, schema := split(pgtest.Start(t))
				dsn := pgtest.WithParam(pgtest.WithParam(server, "default_transaction_isolation", isolation), "schema", schema)
				s := mustOpen(t, dsn)
				mustExec(t, dsn, `create table SCHEMA.told (key text primary key)`)
				a, row := owing(t, s, "29:x")
				err := s.AckInTx(t.Context(), row, func(ctx context.Context, tx pgx.Tx) error {
					if _, err := tx.Exec(ctx, `insert into `+schema+`.told values ($1)`, row.String()); err != nil {
						return err
					}
					// Whoever waited for the handler would end with lock_timeout.
					if err := s.Apply(ctx, []store.Commit{tc.commit(a, row)})[0]; err != nil {
						t.Errorf("Apply within the handler: %v", err)
					}
					if _, err := s.Find(ctx, store.Query{User: a.Key.UserKey(), Connection: a.Key.Connection}); err != nil {
						t.Errorf("Find within the handler: %v", err)
					}
					return nil
				})
				if !errors.Is(err, tc.want) {
					t.Errorf("AckInTx: %v, want %v", err, tc.want)
				}
				want := 1
				if tc.want != nil {
					want = 0
				}
				if n := query[int](t, dsn, `select count(*) from `+schema+`.told`)[0]; n != want {
					t.Errorf("%d of the handler's writes are there, want %d", n, want)
				}
			})
		}
	}
}

// TestHandlersOwnTrouble: where the server refuses what the handler did, and the
// row is still ours, that is no conflict.
func TestHandlersOwnTrouble(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	_, row := owing(t, s, "29:x")
	err := s.AckInTx(t.Context(), row, func(ctx context.Context, tx pgx.Tx) error {
		_, _ = tx.Exec(ctx, `select no_such_column`) // and goes on
		return nil
	})
	if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrConflict) {
		t.Errorf("a transaction that is broken: %v, want ErrUnavailable", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = s.AckInTx(t.Context(), row, func(context.Context, pgx.Tx) error { panic("no") })
	}()
	if err := s.AckInTx(t.Context(), row, func(context.Context, pgx.Tx) error { return nil }); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

// TestHandlerBacklog: however many handlers are at it, the store's own calls
// find connections, and the handlers take their turns.
func TestHandlerBacklog(t *testing.T) {
	for conns, opts := range map[int][]pgstore.Option{
		pgstore.DefaultHandlerConns: nil,
		2:                           {pgstore.WithHandlerConns(2)},
	} {
		t.Run(fmt.Sprint(conns), func(t *testing.T) {
			handlerBacklog(t, conns, append(opts, pgstore.WithPoolConfig(func(c *pgxpool.Config) { c.MaxConns = 2 })))
		})
	}
}

func handlerBacklog(t *testing.T, conns int, opts []pgstore.Option) {
	t.Helper()
	s := mustOpen(t, pgtest.Start(t), opts...)
	const backlog = 8
	var attempts []store.Attempt
	var rows []store.Delivery
	for n := range backlog {
		a, row := owing(t, s, fmt.Sprintf("29:%d", n))
		attempts, rows = append(attempts, a), append(rows, row)
	}
	enter, leave := make(chan int, backlog), make(chan struct{})
	var handlers sync.WaitGroup
	for n := range backlog {
		handlers.Go(func() {
			err := s.AckInTx(t.Context(), rows[n], func(ctx context.Context, tx pgx.Tx) error {
				enter <- n
				<-leave
				_, err := tx.Exec(ctx, `select 1`)
				return err
			})
			if err != nil {
				t.Errorf("AckInTx: %v", err)
			}
		})
	}
	for range conns {
		<-enter
	}
	// None of them goes before leave is closed.
	for n := range backlog {
		a := &attempts[n]
		if snap, err := s.Find(t.Context(), store.Query{User: a.Key.UserKey()}); err != nil || len(snap.Attempts) != 1 {
			t.Errorf("Find: %+v, %v", snap, err)
		}
		c := store.Commit{Put: []store.Attempt{storetest.Next(*a, store.Complete, a.Entered)}}
		if err := s.Apply(t.Context(), []store.Commit{c})[0]; err != nil {
			t.Errorf("Apply: %v", err)
		}
	}
	if n := len(enter); n > 0 {
		t.Errorf("%d handlers run at once, want %d", conns+n, conns)
	}
	close(leave)
	handlers.Wait()
	if c, err := s.Counts(t.Context(), attempts[0].Created); err != nil || c.Owed != 0 {
		t.Errorf("%d are still owed, %v", c.Owed, err)
	}
}

// TestHandlerSettings: a handler's session is as the database and the address
// make it, and there is none before a handler wants one.
func TestHandlerSettings(t *testing.T) {
	dsn := pgtest.Start(t)
	server, schema := split(dsn)
	name := "app_" + schema
	server = pgtest.WithParam(server, "application_name", name)
	s := mustOpen(t, pgtest.WithParam(server, "schema", schema))
	_, row := owing(t, s, "29:x")
	const sessions = `select count(*) from pg_stat_activity where application_name = $1`
	before := query[int](t, dsn, sessions, name)[0]
	const settings = `select name || '=' || setting from pg_settings where source not in ('override') order by name`
	want := query[string](t, pgtest.WithParam(server, "schema", "none"), settings)
	err := s.AckInTx(t.Context(), row, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, settings)
		if err != nil {
			return err
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("settings (-the database's +the handler's):\n%s", diff)
		}
		return err
	})
	if err != nil {
		t.Errorf("AckInTx: %v", err)
	}
	if after := query[int](t, dsn, sessions, name)[0]; after != before+1 {
		t.Errorf("%d sessions, %d before the first handler", after, before)
	}
}
