package storetest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// Outbox tests how deliveries are claimed, acknowledged and dropped.
func Outbox(t *testing.T, open New) {
	t.Helper()
	t.Run("Claim", func(t *testing.T) { claims(t, open(t)) })
	t.Run("Order", func(t *testing.T) { order(t, open(t).Store) })
	t.Run("OfOneAttempt", func(t *testing.T) { ofOneAttempt(t, open(t).Store) })
	t.Run("Statuses", func(t *testing.T) { statuses(t, open(t).Store) })
	t.Run("Insert", func(t *testing.T) { insertOnly(t, open(t).Store) })
	t.Run("Ack", func(t *testing.T) { acks(t, open(t).Store) })
	t.Run("AckIsAllOrNothing", func(t *testing.T) { acksWithOthers(t, open(t).Store) })
	t.Run("AckRace", func(t *testing.T) { ackRace(t, open(t)) })
	t.Run("Redeliver", func(t *testing.T) { redeliver(t, open(t).Store) })
	t.Run("Drop", func(t *testing.T) { drop(t, open(t).Store) })
	t.Run("ClaimRace", func(t *testing.T) { claimRace(t, open(t)) })
}

func claim(t *testing.T, s store.Store, owner string, limit int, hold time.Duration) []store.Delivery {
	t.Helper()
	return claimOf(t, s, store.ClaimQuery{Owner: owner, Limit: limit, Hold: hold})
}

func claimOf(t *testing.T, s store.Store, q store.ClaimQuery) []store.Delivery {
	t.Helper()
	got, err := s.Claim(t.Context(), q)
	if err != nil {
		t.Fatalf("Claim: %v", err)
	}
	return got
}

// keys returns the keys of deliveries, in order.
func keys(deliveries []store.Delivery) []store.DeliveryKey {
	out := make([]store.DeliveryKey, 0, len(deliveries))
	for i := range deliveries {
		out = append(out, deliveries[i].DeliveryKey)
	}
	return out
}

// wantClaimed compares what was claimed with what should have been, in order.
func wantClaimed(t *testing.T, what string, got []store.Delivery, want ...store.Delivery) {
	t.Helper()
	if diff := cmp.Diff(keys(want), keys(got), equateEmpty); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// answer returns an ack of a delivery as it was read, with a change.
func answer(d store.Delivery, change func(*store.Delivery)) store.Ack {
	a := store.Ack{Delivery: d.Clone(), By: d.Owner, Try: d.Tries}
	change(&a.Delivery)
	return a
}

// become is a change to a status.
func become(status store.DeliveryStatus) func(*store.Delivery) {
	return func(d *store.Delivery) { d.Status, d.Owner = status, "" }
}

// rows reads the deliveries of an attempt.
func rows(t *testing.T, s store.Store, id string) []store.Delivery {
	t.Helper()
	page, err := s.List(t.Context(), store.Filter{IDPrefix: id})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return page.Deliveries
}

// outbox checks the counts of the outbox.
func outbox(t *testing.T, s store.Store, owed, dead, undeliverable int) {
	t.Helper()
	c, err := s.Counts(t.Context(), now(t, s))
	if err != nil {
		t.Fatalf("Counts: %v", err)
	}
	if c.Owed != owed || c.Dead != dead || c.Undeliverable != undeliverable {
		t.Errorf("%d owed, %d dead, %d undeliverable; want %d, %d, %d", c.Owed, c.Dead, c.Undeliverable, owed, dead, undeliverable)
	}
}

func claims(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store
	at := now(t, s)
	var owed []store.Delivery
	for i, due := range []time.Duration{-time.Second, -2 * time.Second, longHold} {
		a := NewAttempt(at, user(i), "graph")
		d := Owed(&a, 1, at.Add(due))
		d.Failure = &store.Failure{Code: "x", Operation: "exchange"}
		must(t, s, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{d}})
		owed = append(owed, d)
	}
	late, later := owed[0], owed[1]

	first := claim(t, s, "bot-a", 1, longHold)
	wantClaimed(t, "the one that is due longest", first, later)
	if len(first) != 1 || first[0].Owner != "bot-a" || first[0].Tries != 1 || !first[0].NextAt.After(at) {
		t.Fatalf("claimed row %+v", first)
	}
	got := claim(t, s, "bot-b", 10, longHold)
	wantClaimed(t, "the other one", got, late)
	if len(got) != 1 || got[0].Failure == nil || *got[0].Failure != *late.Failure {
		t.Fatalf("claimed row %+v", got)
	}
	wantClaimed(t, "within the hold", claim(t, s, "bot-b", 10, longHold))
	must(t, s, store.Commit{Acks: []store.Ack{answer(first[0], func(d *store.Delivery) { d.NextAt = at })}})
	wantClaimed(t, "limit 0", claim(t, s, "bot-c", 0, longHold))
	wantClaimed(t, "given back", claim(t, s, "bot-a", 1, shortHold), later)
	h.pass(t, 2*shortHold)
	got = claim(t, s, "bot-c", 10, longHold)
	wantClaimed(t, "after the hold", got, later)
	if len(got) != 1 || got[0].Tries != 3 || got[0].Owner != "bot-c" {
		t.Errorf("claimed row %+v", got)
	}
}

// order tests that no round is claimed before the earlier rounds are settled.
func order(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	for i, settle := range []store.DeliveryStatus{
		store.DeliveryDone, store.DeliveryDead, store.DeliveryUndeliverable,
	} {
		t.Run(string(settle), func(t *testing.T) {
			a := NewAttempt(at, user(i), "graph")
			one, two, three := Owed(&a, 1, at.Add(-time.Second)), Owed(&a, 2, at.Add(-time.Hour)), Owed(&a, 3, at.Add(-time.Minute))
			one.Kind = store.DeliverFailure // its key comes after those of the others
			must(t, s, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{three, two, one}})

			got := claim(t, s, "bot-a", 10, longHold)
			wantClaimed(t, "only the first, though the others are due longer", got, one)
			if len(got) != 1 {
				t.FailNow()
			}
			wantClaimed(t, "while the first is held", claim(t, s, "bot-b", 10, longHold))
			must(t, s, store.Commit{Acks: []store.Ack{answer(got[0], func(d *store.Delivery) {
				d.Owner, d.NextAt, d.Error = "", at.Add(longHold), "no"
			})}})
			wantClaimed(t, "while the first waits for its next try", claim(t, s, "bot-b", 10, longHold))
			wantClaimed(t, "the same, of this attempt", claimOf(t, s, store.ClaimQuery{Owner: "bot-b", Attempt: a.ID, Limit: 10, Hold: longHold}))
			first := rows(t, s, a.ID)[2]
			must(t, s, store.Commit{Acks: []store.Ack{answer(first, become(settle))}})
			got = claim(t, s, "bot-b", 10, longHold)
			wantClaimed(t, "when the first is settled", got, two)
			if len(got) != 1 {
				t.FailNow()
			}
			must(t, s, store.Commit{Acks: []store.Ack{answer(got[0], become(store.DeliveryDone))}})
			wantClaimed(t, "when the second is settled", claim(t, s, "bot-c", 10, longHold), three)
		})
	}
	t.Run("made due again", func(t *testing.T) {
		a := NewAttempt(at, user(10), "graph")
		one, two := Owed(&a, 1, at), Owed(&a, 2, at)
		one.Status = store.DeliveryDead
		must(t, s, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{one, two}})
		must(t, s, store.Commit{Acks: []store.Ack{answer(one, func(d *store.Delivery) { d.Status, d.NextAt = store.DeliveryPending, at.Add(longHold) })}})
		wantClaimed(t, "behind one that is pending again", claim(t, s, "bot-a", 10, longHold))
	})
}

func ofOneAttempt(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	a, b := NewAttempt(at, user(1), "graph"), NewAttempt(at, user(2), "graph")
	b.ID = a.ID + "x" // one id is a prefix of the other
	ofA, ofB, next := Owed(&a, 1, at), Owed(&b, 1, at.Add(-time.Hour)), Owed(&b, 2, at)
	must(t, s, store.Commit{Put: []store.Attempt{a, b}, Deliveries: []store.Delivery{ofA, ofB, next}})
	q := store.ClaimQuery{Owner: "bot-a", Attempt: a.ID, Limit: 10, Hold: longHold}
	got := claimOf(t, s, q)
	wantClaimed(t, "of one attempt", got, ofA)
	if len(got) != 1 || got[0].Owner != "bot-a" || got[0].Tries != 1 {
		t.Errorf("claimed row %+v", got)
	}
	wantClaimed(t, "again", claimOf(t, s, q))
	q.Attempt = "never-stored"
	wantClaimed(t, "of nothing", claimOf(t, s, q))
	q.Attempt, q.Limit = b.ID, 0
	wantClaimed(t, "limit 0", claimOf(t, s, q))
	// Two deliveries of one round do not wait for each other.
	c := NewAttempt(at, user(3), "graph")
	one, two := Owed(&c, 1, at.Add(-time.Minute)), Owed(&c, 1, at.Add(-2*time.Minute))
	two.Kind = store.DeliverFailure
	must(t, s, store.Commit{Put: []store.Attempt{c}, Deliveries: []store.Delivery{one, two}})
	q.Attempt, q.Limit = c.ID, 1
	wantClaimed(t, "limit 1", claimOf(t, s, q), two)
	wantClaimed(t, "limit 1, again", claimOf(t, s, q), one)
	wantClaimed(t, "of any attempt", claim(t, s, "bot-a", 10, longHold), ofB)
}

func statuses(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	for i, tc := range []struct {
		status                    store.DeliveryStatus
		owed, dead, undeliverable int
	}{
		{store.DeliveryPending, 1, 0, 0},
		{store.DeliveryDone, 0, 0, 0},
		{store.DeliveryDropped, 0, 0, 0},
		{store.DeliveryNotOwed, 0, 0, 0},
		{store.DeliveryDead, 0, 1, 0},
		{store.DeliveryUndeliverable, 0, 1, 1},
	} {
		a := NewAttempt(at, user(i), "graph")
		d, inserted := Owed(&a, 1, at), Owed(&a, 2, at)
		must(t, s, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{d}})
		if tc.status == store.DeliveryPending {
			outbox(t, s, 1, 0, 0)
			wantClaimed(t, "pending", claim(t, s, "bot-a", 10, longHold), d)
			must(t, s, store.Commit{Acks: []store.Ack{answer(rows(t, s, a.ID)[0], become(store.DeliveryDone))}})
			continue
		}
		must(t, s, store.Commit{Acks: []store.Ack{answer(d, become(tc.status))}})
		outbox(t, s, tc.owed, tc.dead, tc.undeliverable)
		wantClaimed(t, "one that is "+string(tc.status), claim(t, s, "bot-a", 10, longHold))
		// The same for a delivery that was inserted with the status.
		inserted.Status = tc.status
		must(t, s, store.Commit{Deliveries: []store.Delivery{inserted}})
		if status := rows(t, s, a.ID)[1].Status; status != tc.status {
			t.Errorf("status %s, want %s", status, tc.status)
		}
		wantClaimed(t, "one that was inserted "+string(tc.status), claim(t, s, "bot-a", 10, longHold))
		if tc.status == store.DeliveryDead {
			must(t, s, store.Commit{Acks: []store.Ack{answer(inserted, become(store.DeliveryDone))}})
		}
	}
	outbox(t, s, 0, 1, 2)
}

// insertOnly tests that an insertion cannot replace a stored delivery.
func insertOnly(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	a := NewAttempt(at, user(1), "graph")
	d := Owed(&a, 1, at)
	must(t, s, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{d}})
	again := d
	again.Status, again.Error = store.DeliveryDead, "by another"
	if err := apply(t, s, store.Commit{Deliveries: []store.Delivery{again}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a key that is taken: %v, want ErrConflict", err)
	}
	two := Owed(&a, 2, at)
	if err := apply(t, s, store.Commit{Deliveries: []store.Delivery{two, two}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a key twice in a commit: %v, want ErrConflict", err)
	}
	if diff := cmp.Diff([]store.Delivery{d}, rows(t, s, a.ID)); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
	failure := d
	failure.Kind = store.DeliverFailure
	must(t, s, store.Commit{Deliveries: []store.Delivery{failure}}) // another key
	errs := s.Apply(t.Context(), []store.Commit{{Deliveries: []store.Delivery{two}}, {Deliveries: []store.Delivery{two}}})
	if errs[0] != nil || !errors.Is(errs[1], store.ErrConflict) {
		t.Errorf("a key in two commits: %v, want ErrConflict for the second", errs)
	}
}

func acks(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	a := NewAttempt(at, user(1), "graph")
	must(t, s, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{Owed(&a, 1, at)}})
	held := claim(t, s, "bot-a", 1, longHold)[0]
	refused := func(what string, ack store.Ack) {
		t.Helper()
		before := rows(t, s, a.ID)
		if err := apply(t, s, store.Commit{Acks: []store.Ack{ack}}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", what, err)
		}
		if diff := cmp.Diff(before, rows(t, s, a.ID)); diff != "" {
			t.Errorf("%s: the row changed (-before +after):\n%s", what, diff)
		}
	}
	done := answer(held, become(store.DeliveryDone))
	for what, change := range map[string]func(*store.Ack){
		"another owner":      func(a *store.Ack) { a.By = "bot-b" },
		"no owner":           func(a *store.Ack) { a.By = "" },
		"an earlier try":     func(a *store.Ack) { a.Try-- },
		"a later try":        func(a *store.Ack) { a.Try++ },
		"another round":      func(a *store.Ack) { a.Round++ },
		"another kind":       func(a *store.Ack) { a.Kind = store.DeliverFailure },
		"an unknown attempt": func(a *store.Ack) { a.Attempt = "never-stored" },
	} {
		wrong := done
		change(&wrong)
		refused(what, wrong)
	}
	if err := apply(t, s, store.Commit{Acks: []store.Ack{done, done}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a row that two acks name: %v, want ErrConflict", err)
	}
	two := Owed(&a, 2, at)
	if err := apply(t, s, store.Commit{Deliveries: []store.Delivery{two}, Acks: []store.Ack{answer(two, become(store.DeliveryDone))}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a row that the commit inserts: %v, want ErrConflict", err)
	}
	odd := done
	odd.Status = "odd"
	if err := apply(t, s, store.Commit{Acks: []store.Ack{odd}}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("an odd status: %v, want ErrInvalid", err)
	}

	// A retry: the whole row becomes what the ack says.
	retry := answer(held, func(d *store.Delivery) {
		d.Owner, d.NextAt, d.Error = "", at.Add(-time.Second), "timeout"
		d.Failure = &store.Failure{Source: store.SourceConnector, Status: 503}
	})
	must(t, s, store.Commit{Acks: []store.Ack{retry}})
	if diff := cmp.Diff([]store.Delivery{retry.Delivery}, rows(t, s, a.ID)); diff != "" {
		t.Errorf("after a try that failed (-want +got):\n%s", diff)
	}
	refused("after the row was given back", done)
	held = claim(t, s, "bot-b", 1, longHold)[0]
	refused("after another has claimed it", done)
	must(t, s, store.Commit{Acks: []store.Ack{answer(held, become(store.DeliveryDone))}})
	refused("a row that is done", answer(rows(t, s, a.ID)[0], become(store.DeliveryPending)))
	for i, status := range []store.DeliveryStatus{store.DeliveryDropped, store.DeliveryNotOwed} {
		d := Owed(&a, 10+i, at)
		d.Status = status
		must(t, s, store.Commit{Deliveries: []store.Delivery{d}})
		refused("a row that is "+string(status), answer(d, become(store.DeliveryPending)))
	}
}

// acksWithOthers tests that an ack and the rest of its commit are atomic.
func acksWithOthers(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	a, b := NewAttempt(at, user(1), "graph"), NewAttempt(at, user(2), "graph")
	must(t, s, store.Commit{Put: []store.Attempt{a, b}, Deliveries: []store.Delivery{Owed(&a, 1, at), Owed(&b, 1, at)}})
	got := claim(t, s, "bot-a", 2, longHold)
	if len(got) != 2 {
		t.Fatalf("claimed %d rows", len(got))
	}
	one, two := answer(got[0], become(store.DeliveryDone)), answer(got[1], become(store.DeliveryDone))
	late := two
	late.Try++
	line := store.Event{Attempt: a.ID, Time: at, Kind: store.EventCallback}
	for what, tc := range map[string]struct {
		c    store.Commit
		want error
	}{
		"a refused put": {store.Commit{Put: []store.Attempt{NewAttempt(at, user(1), "graph")}, Acks: []store.Ack{one}}, store.ErrExists},
		"a late put":    {store.Commit{Put: []store.Attempt{Next(Next(a, store.CardSent, at), store.CardSent, at)}, Acks: []store.Ack{late}}, store.ErrConflict},
		"a late ack": {store.Commit{
			Put: []store.Attempt{Next(a, store.CardSent, at)}, Events: []store.Event{line}, Deliveries: []store.Delivery{Owed(&a, 2, at)},
			Acks: []store.Ack{one, late}, Drop: []string{a.ID, b.ID}, Marks: []store.Mark{{Name: "m", Version: 1}},
		}, store.ErrConflict},
		"a mark that is missing": {store.Commit{Acks: []store.Ack{one}, Drop: []string{b.ID}, Marks: []store.Mark{{Name: "m", Version: 2}}}, store.ErrConflict},
	} {
		if err := apply(t, s, tc.c); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", what, err, tc.want)
		}
		for i, d := range []store.Delivery{rows(t, s, got[0].Attempt)[0], rows(t, s, got[1].Attempt)[0]} {
			if diff := cmp.Diff(got[i], d); diff != "" {
				t.Errorf("%s: a refused commit changed a delivery (-before +after):\n%s", what, diff)
			}
		}
	}
	if n := get(t, s, a.ID).Version; n != 1 {
		t.Errorf("a refused commit left version %d", n)
	}
	if n := len(rows(t, s, a.ID)); n != 1 {
		t.Errorf("refused commits left %d deliveries", n)
	}
	if lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID}); err != nil || len(lines) > 0 {
		t.Errorf("refused commits left %d lines, %v", len(lines), err)
	}
	if _, err := s.Mark(t.Context(), "m"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("refused commits left a mark: %v", err)
	}
	// Other commits of the call do not fail with it, and see the ones before them.
	errs := s.Apply(t.Context(), []store.Commit{
		{Acks: []store.Ack{one}, Events: []store.Event{line}}, {Acks: []store.Ack{late}}, {Acks: []store.Ack{one}}, {Acks: []store.Ack{two}},
	})
	for i, want := range []error{nil, store.ErrConflict, store.ErrConflict, nil} {
		if !errors.Is(errs[i], want) {
			t.Errorf("commit %d: %v, want %v", i, errs[i], want)
		}
	}
	outbox(t, s, 0, 0, 0)
}

// ackRace tests that one of several acks of the same try succeeds.
func ackRace(t *testing.T, h Harness) {
	t.Helper()
	at := now(t, h.Store)
	a := NewAttempt(at, user(1), "graph")
	must(t, h.Store, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{Owed(&a, 1, at)}})
	held := claim(t, h.Store, "bot-a", 1, longHold)[0]
	var won atomic.Int32
	race(t, h, func(s store.Store, n int) {
		ack := answer(held, func(d *store.Delivery) {
			d.Owner, d.Status = "", store.DeliveryDone
			if n%2 == 0 {
				d.Status, d.Tries = store.DeliveryPending, d.Tries+1
			}
		})
		switch err := s.Apply(t.Context(), []store.Commit{{Acks: []store.Ack{ack}}})[0]; {
		case err == nil:
			won.Add(1)
		case !errors.Is(err, store.ErrConflict):
			t.Errorf("Apply: %v, want ErrConflict", err)
		}
	})
	if won.Load() != 1 {
		t.Errorf("%d of %d acknowledged one try", won.Load(), racers)
	}
}

// redeliver tests that an operator can make dead and undeliverable deliveries pending
// again.
func redeliver(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	for i, status := range []store.DeliveryStatus{store.DeliveryDead, store.DeliveryUndeliverable} {
		a := NewAttempt(at, user(i), "graph")
		must(t, s, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{Owed(&a, 1, at)}})
		held := claim(t, s, "bot-a", 1, longHold)[0]
		must(t, s, store.Commit{Acks: []store.Ack{answer(held, func(d *store.Delivery) { d.Status = status })}})
		outbox(t, s, 0, 1-i, i)
		given := rows(t, s, a.ID)[0]
		again := answer(given, func(d *store.Delivery) { d.Status, d.Owner, d.NextAt = store.DeliveryPending, "", at })
		must(t, s, store.Commit{Acks: []store.Ack{again}})
		outbox(t, s, 1, 0, 0)
		if err := apply(t, s, store.Commit{Acks: []store.Ack{again}}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s, redelivered by two: %v, want ErrConflict for the second", status, err)
		}
		got := claim(t, s, "bot-b", 10, longHold)
		wantClaimed(t, string(status)+", redelivered", got, given)
		must(t, s, store.Commit{Acks: []store.Ack{answer(got[0], become(store.DeliveryDone))}})
		outbox(t, s, 0, 0, 0)
	}
}

// drop tests that a sign-out drops completions that have not been delivered.
func drop(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	a, b, other := NewAttempt(at, user(1), "graph"), NewAttempt(at, user(2), "graph"), NewAttempt(at, user(3), "graph")
	row := func(a *store.Attempt, round int, kind store.DeliveryKind, status store.DeliveryStatus) store.Delivery {
		d := Owed(a, round, at)
		d.Kind, d.Status, d.Failure = kind, status, &store.Failure{Code: "kept"}
		return d
	}
	must(t, s, store.Commit{
		Put: []store.Attempt{a, b, other},
		Deliveries: []store.Delivery{
			row(&a, 1, store.DeliverComplete, store.DeliveryPending), // will be held
			row(&a, 2, store.DeliverFailure, store.DeliveryPending),
			row(&a, 3, store.DeliverComplete, store.DeliveryPending),
			row(&b, 1, store.DeliverComplete, store.DeliveryDone),
			row(&b, 2, store.DeliverComplete, store.DeliveryDead),
			row(&b, 3, store.DeliverComplete, store.DeliveryUndeliverable),
			row(&b, 4, store.DeliverComplete, store.DeliveryNotOwed),
			row(&other, 1, store.DeliverComplete, store.DeliveryPending),
		},
	})
	held := claimOf(t, s, store.ClaimQuery{Owner: "bot-a", Attempt: a.ID, Limit: 1, Hold: longHold})
	if len(held) != 1 {
		t.Fatalf("claimed %d rows", len(held))
	}
	var want []store.Delivery
	for _, id := range []string{a.ID, b.ID, other.ID} {
		for _, d := range rows(t, s, id) {
			if id == a.ID && d.Kind == store.DeliverComplete {
				d.Status, d.Owner = store.DeliveryDropped, ""
			}
			want = append(want, d)
		}
	}
	must(t, s, store.Commit{Drop: []string{a.ID, b.ID, "never-stored", a.ID}})
	got := append(append(rows(t, s, a.ID), rows(t, s, b.ID)...), rows(t, s, other.ID)...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after the drop (-want +got):\n%s", diff)
	}
	outbox(t, s, 2, 1, 1)
	if err := apply(t, s, store.Commit{Acks: []store.Ack{answer(held[0], become(store.DeliveryDone))}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("an ack after the drop: %v, want ErrConflict", err)
	}
	if err := apply(t, s, store.Commit{Drop: []string{""}}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a drop without an id: %v, want ErrInvalid", err)
	}
	wantClaimed(t, "what stood behind it", claimOf(t, s, store.ClaimQuery{Owner: "bot-b", Attempt: a.ID, Limit: 10, Hold: longHold}),
		row(&a, 2, store.DeliverFailure, store.DeliveryPending))

	// The members of a commit apply in order: a drop comes after the commit's own
	// deliveries and acks, and changes them too.
	held = claimOf(t, s, store.ClaimQuery{Owner: "bot-b", Attempt: other.ID, Limit: 1, Hold: longHold})
	if len(held) != 1 {
		t.Fatalf("claimed %d rows", len(held))
	}
	must(t, s, store.Commit{
		Deliveries: []store.Delivery{row(&other, 2, store.DeliverComplete, store.DeliveryPending), row(&other, 3, store.DeliverFailure, store.DeliveryPending)},
		Acks:       []store.Ack{answer(held[0], func(d *store.Delivery) { d.Error = "failed" })},
		Drop:       []string{other.ID},
	})
	var left []store.DeliveryStatus
	for _, d := range rows(t, s, other.ID) {
		left = append(left, d.Status)
	}
	if diff := cmp.Diff([]store.DeliveryStatus{store.DeliveryDropped, store.DeliveryDropped, store.DeliveryPending}, left); diff != "" {
		t.Errorf("dropped in the commit that wrote them (-want +got):\n%s", diff)
	}
}

// claimRace tests that each delivery goes to one of several claimers.
func claimRace(t *testing.T, h Harness) {
	t.Helper()
	at := now(t, h.Store)
	const rows = 50
	var c store.Commit
	for i := range rows {
		a := NewAttempt(at, user(i), "graph")
		c.Put = append(c.Put, a)
		c.Deliveries = append(c.Deliveries, Owed(&a, 1, at), Owed(&a, 2, at))
	}
	must(t, h.Store, c)
	var mu sync.Mutex
	claimed := map[store.DeliveryKey]int{}
	race(t, h, func(s store.Store, _ int) {
		for {
			got, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "bot", Limit: 3, Hold: longHold})
			if err != nil {
				t.Errorf("Claim: %v", err)
				return
			}
			if len(got) == 0 {
				return
			}
			mu.Lock()
			for _, d := range got {
				claimed[d.DeliveryKey]++
			}
			mu.Unlock()
		}
	})
	// With SKIP LOCKED a claimer may see nothing while others have the rest locked.
	for _, d := range claim(t, h.Store, "bot", rows, longHold) {
		claimed[d.DeliveryKey]++
	}
	for _, d := range c.Deliveries {
		if n, want := claimed[d.DeliveryKey], 2-d.Round; n != want {
			t.Errorf("%s was claimed %d times, want %d", d.DeliveryKey, n, want)
		}
	}
}
