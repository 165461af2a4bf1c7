package pgstore_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// waiting returns when somebody waits for the transaction.
func waiting(t *testing.T, tx pgx.Tx) {
	t.Helper()
	for blocked := false; !blocked; {
		err := tx.QueryRow(t.Context(), `select exists (select from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid)))`).Scan(&blocked)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOvertaken: what a commit has read of a delivery is no longer so when it
// comes to write. Nothing of it is written, and its neighbours pass.
func TestOvertaken(t *testing.T) {
	ack := func(_ *store.Attempt, held store.Delivery) store.Commit {
		done := held
		done.Status = store.DeliveryDone
		return store.Commit{Acks: []store.Ack{{Delivery: done, By: held.Owner, Try: held.Tries}}}
	}
	for name, tc := range map[string]struct {
		first  string // of the other transaction, which has the row
		commit func(a *store.Attempt, held store.Delivery) store.Commit
	}{
		"an ack by a drop":  {`update SCHEMA.deliveries set status = 'dropped', owner = ''`, ack},
		"an ack by a claim": {`update SCHEMA.deliveries set owner = 'bot-b', tries = tries + 1`, ack},
		"an insertion by another": {
			`insert into SCHEMA.deliveries select home, created, next_at, tries, 2, fanout, attempt, kind, status, owner, error, failure, refusal from SCHEMA.deliveries`,
			func(a *store.Attempt, _ store.Delivery) store.Commit {
				return store.Commit{Deliveries: []store.Delivery{storetest.Owed(a, 2, a.Created)}}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.Start(t)
			s := mustOpen(t, dsn)
			a, held := owing(t, s, "29:x")
			before := query[string](t, dsn, `select version || ' ' || lines from `+schemaOf(dsn)+`.attempts`)[0]
			tx := begin(t, dsn)
			mustExecIn(t, tx, dsn, tc.first)
			c := tc.commit(&a, held)
			c.Put = []store.Attempt{storetest.Next(a, store.Complete, a.Entered)}
			c.Events = []store.Event{{Attempt: a.ID, Kind: store.EventCallback, Time: a.Entered}}
			neighbour := storetest.NewAttempt(a.Created, "29:neighbour", "graph")
			applied := make(chan []error, 1)
			go func() { applied <- s.Apply(t.Context(), []store.Commit{c, {Put: []store.Attempt{neighbour}}}) }()
			waiting(t, tx)
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if errs := <-applied; !errors.Is(errs[0], store.ErrConflict) || errs[1] != nil {
				t.Errorf("results %v, want ErrConflict and nil", errs)
			}
			if after := query[string](t, dsn, `select version || ' ' || lines from `+schemaOf(dsn)+`.attempts where id = $1`, a.ID)[0]; after != before {
				t.Errorf("version and lines are %s, %s before", after, before)
			}
			if lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID}); err != nil || len(lines) != 0 {
				t.Errorf("%d lines, %v", len(lines), err)
			}
		})
	}
}

// TestSignOutAndAck: sign-outs and acknowledgements of the same rows from two
// instances never wait for each other in a circle.
func TestSignOutAndAck(t *testing.T) {
	// A circle ends with lock_timeout, as an error, and not with the server's choice
	// of a victim, which is tried again.
	dsn := pgtest.WithParam(pgtest.Start(t), "deadlock_timeout", "1min")
	s, other := mustOpen(t, dsn), mustOpen(t, dsn)
	for range 30 {
		a, held := owing(t, s, "29:x")
		done := held
		done.Status = store.DeliveryDone
		line := store.Event{Attempt: a.ID, Kind: store.EventNote, Time: a.Entered}
		acked, dropped := make(chan error, 1), make(chan error, 1)
		go func() {
			acked <- s.Apply(t.Context(), []store.Commit{{Events: []store.Event{line}, Acks: []store.Ack{{Delivery: done, By: held.Owner, Try: held.Tries}}}})[0]
		}()
		go func() {
			dropped <- other.Apply(t.Context(), []store.Commit{{Events: []store.Event{line}, Drop: []string{a.ID}}})[0]
		}()
		if err := <-acked; err != nil && !errors.Is(err, store.ErrConflict) {
			t.Errorf("the ack: %v", err)
		}
		if err := <-dropped; err != nil {
			t.Errorf("the sign-out: %v", err)
		}
	}
}
