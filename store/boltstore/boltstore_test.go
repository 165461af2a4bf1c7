package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/storetest"
)

func mustOpen(t *testing.T, path string, opts ...boltstore.Option) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path, opts...)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// newerState makes a record what a newer program may have written: a later field
// counts, and this one is a state that nobody knows here.
func newerState(record []byte) []byte { return append(record, 7<<1, 99<<1) }

func cutOff(record []byte) []byte { return record[:len(record)-1] }

// TestConformance runs with tables so small that a file is always half in the log
// and half in the tree.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		t.Helper()
		var offset atomic.Int64
		start := time.Now()
		path := filepath.Join(t.TempDir(), "signin.db")
		clock := func() time.Time { return start.Add(time.Duration(offset.Load())) }
		s := mustOpen(t, path, boltstore.WithClock(clock), boltstore.WithoutSync(), boltstore.WithLog(3000))
		return storetest.Harness{
			Store:   s,
			Advance: func(d time.Duration) { offset.Add(int64(d)) },
			Reopen: func(t *testing.T) store.Store {
				t.Helper()
				if err := s.Close(); err != nil {
					t.Fatalf("Close: %v", err)
				}
				s = mustOpen(t, path, boltstore.WithClock(clock), boltstore.WithoutSync(), boltstore.WithLog(3000))
				return s
			},
			Damage: func(t *testing.T, id string) {
				t.Helper()
				if err := s.Damage(t.Context(), id, newerState); err != nil {
					t.Fatal(err)
				}
			},
			DamageDelivery: func(t *testing.T, k store.DeliveryKey) {
				t.Helper()
				if err := s.DamageDelivery(t.Context(), k, cutOff); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestConformanceGrouped runs the suites as the engine runs the store: grouped,
// on the real clock, synced.
func TestConformanceGrouped(t *testing.T) {
	for _, suite := range []func(*testing.T, storetest.New){
		storetest.Semantics, storetest.Groups, storetest.Concurrency, storetest.Outbox, storetest.Due, storetest.Changed, storetest.Marks,
	} {
		suite(t, func(t *testing.T) storetest.Harness {
			t.Helper()
			return storetest.Harness{Store: store.NewGroup(mustOpen(t, filepath.Join(t.TempDir(), "signin.db")))}
		})
	}
}

// TestDamage runs the suite with other damage than a newer program's.
func TestDamage(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"cut off": cutOff,
		"empty":   func([]byte) []byte { return nil },
		"format":  func(record []byte) []byte { record[0] = 77; return record },
		"noise":   func(record []byte) []byte { return bytes.Repeat([]byte{0xff}, len(record)) },
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Corrupt(t, func(t *testing.T) storetest.Harness {
				t.Helper()
				s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync())
				return storetest.Harness{
					Store: s,
					Damage: func(t *testing.T, id string) {
						t.Helper()
						if err := s.Damage(t.Context(), id, change); err != nil {
							t.Fatal(err)
						}
					},
					DamageDelivery: func(t *testing.T, k store.DeliveryKey) {
						t.Helper()
						if err := s.DamageDelivery(t.Context(), k, change); err != nil {
							t.Fatal(err)
						}
					},
				}
			})
		})
	}
}

// TestRequestIsWrittenOnce: the activity that asked is the larger part of a
// record. A commit that does not change it leaves it where it is.
func TestRequestIsWrittenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.db")
	s := mustOpen(t, path, boltstore.WithoutSync())
	at := time.Now()
	a := storetest.NewAttempt(at, "29:somebody", "graph")
	apply := func(change func()) {
		t.Helper()
		change()
		if err := errors.Join(s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})...); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(want string) {
		t.Helper()
		snap, err := s.Get(t.Context(), a.ID)
		if err != nil || string(snap.Attempts[0].Request) != want {
			t.Fatalf("kept %q, %v; want %q", snap.Attempts[0].Request, err, want)
		}
	}
	next := func(to store.State, request []byte) func() {
		return func() {
			a = storetest.Next(a, to, at)
			a.Request = request
		}
	}
	asked := []byte("what was asked")
	apply(func() { a.Request = asked })
	kept("what was asked")
	if there, err := s.ReplaceRequest(t.Context(), a.ID, []byte("still there")); err != nil || !there {
		t.Fatalf("there is no row of the activity: %v", err)
	}
	apply(next(store.CardSent, asked))
	kept("still there") // not written again

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path, boltstore.WithoutSync()) // what it knew is gone
	apply(next(store.CardSent, []byte("something else")))
	kept("something else")
	apply(next(store.CardSent, nil))
	kept("")
	apply(next(store.Failed, asked))
	kept("what was asked")
	if n, err := s.Purge(t.Context(), at.Add(time.Hour), 0, false); err != nil || n != 1 {
		t.Fatalf("purged %d, %v; want 1", n, err)
	}
	if there, err := s.ReplaceRequest(t.Context(), a.ID, nil); err != nil || there {
		t.Errorf("the activity outlived its attempt: %v", err)
	}
}

// TestDamagedIndex: a row of the open index that cannot be read refuses who asks
// for its key, and nobody else.
func TestDamagedIndex(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync())
	at := time.Now()
	bad, good := storetest.NewAttempt(at, "29:bad", "graph"), storetest.NewAttempt(at, "29:good", "graph")
	bad.Lease.Until, good.Lease.Until = at.Add(-2*time.Second), at.Add(-time.Second)
	early := storetest.NewAttempt(at, "29:early", "graph") // stays filed under the lease
	early.Lease.Until = bad.Lease.Until
	puts := []store.Attempt{bad, good, early, storetest.Next(early, store.CardSent, at)}
	if err := errors.Join(s.Apply(t.Context(), []store.Commit{{Put: puts}})...); err != nil {
		t.Fatal(err)
	}
	for _, k := range []store.Key{bad.Key, early.Key} {
		if err := s.DamageOpen(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	errs := s.Apply(t.Context(), []store.Commit{
		{Put: []store.Attempt{storetest.Next(good, store.CardSent, at)}},
		{Put: []store.Attempt{storetest.Next(bad, store.CardSent, at)}},
		{Put: []store.Attempt{storetest.Next(bad, store.Complete, at)}},
		{Put: []store.Attempt{storetest.NewAttempt(at, "29:third", "graph")}},
	})
	for i, want := range []error{nil, store.ErrCorrupt, store.ErrCorrupt, nil} {
		if !errors.Is(errs[i], want) {
			t.Errorf("commit %d: %v, want %v", i, errs[i], want)
		}
	}
	snap, err := s.Due(t.Context(), 10, time.Minute)
	if err != nil || len(snap.Attempts) != 0 || len(snap.Corrupt) != 2 {
		t.Errorf("Due: %v, %v, %v", snap.Attempts, snap.Corrupt, err)
	}
	c, err := s.Counts(t.Context(), at)
	if err != nil || c.Open[store.CardSent] != 1 || c.Open[store.Idle] != 1 {
		t.Errorf("Counts: %+v, %v", c, err)
	}
	if page, err := s.List(t.Context(), store.Filter{Open: true}); err != nil || len(page.Attempts) != 2 {
		t.Errorf("List: %d attempts, %v; want 2", len(page.Attempts), err)
	}
}

// TestHealed: a record that was set aside and can be decoded again goes on as if
// nothing had been, in the due index too.
func TestHealed(t *testing.T) {
	now := time.Now()
	s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync(), boltstore.WithClock(func() time.Time { return now }))
	a := storetest.NewAttempt(now, "29:a", "graph")
	a.Lease.Until = now.Add(-time.Second)
	put := func(a store.Attempt) {
		t.Helper()
		if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0]; err != nil {
			t.Fatal(err)
		}
	}
	due := func(attempts, corrupt int) {
		t.Helper()
		snap, err := s.Due(t.Context(), 10, time.Minute)
		if err != nil || len(snap.Attempts) != attempts || len(snap.Corrupt) != corrupt {
			t.Errorf("Due: %v, %v, %v; want %d attempts, %d set aside", snap.Attempts, snap.Corrupt, err, attempts, corrupt)
		}
	}
	damage := func(change func([]byte) []byte) {
		t.Helper()
		if err := s.Damage(t.Context(), a.ID, change); err != nil {
			t.Fatal(err)
		}
	}
	put(a)
	damage(newerState)
	due(0, 1)
	due(0, 0)
	damage(func(record []byte) []byte { return record[:len(record)-2] })
	due(0, 0)
	now = now.Add(2 * time.Minute)
	due(1, 0)
	damage(newerState)
	now = now.Add(2 * time.Minute)
	due(0, 1)
	damage(func(record []byte) []byte { return record[:len(record)-2] })
	put(storetest.Next(a, store.Complete, now))
	now = now.Add(2 * time.Minute)
	due(0, 0)
}

// TestDamagedLines: audit lines that cannot be decoded are passed over by reads of
// many, and by Purge.
func TestDamagedLines(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync())
	at := time.Now().Add(-time.Hour)
	bad, good := storetest.NewAttempt(at, "29:bad", "graph"), storetest.NewAttempt(at.Add(time.Second), "29:good", "graph")
	orphan := store.Event{Kind: store.EventNote, Time: at}
	err := s.Apply(t.Context(), []store.Commit{{
		Put: []store.Attempt{bad, good}, Events: []store.Event{storetest.Line(&bad, store.None), storetest.Line(&good, store.None), orphan, orphan, orphan},
	}})[0]
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DamageLines(t.Context(), 1, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Events(t.Context(), store.EventFilter{Attempt: bad.ID}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Events of the attempt: %v, want ErrCorrupt", err)
	}
	count := func(f store.EventFilter, want int) {
		t.Helper()
		if lines, err := s.Events(t.Context(), f); err != nil || len(lines) != want {
			t.Errorf("Events: %d lines, %v; want %d", len(lines), err, want)
		}
	}
	all := func(want int) {
		t.Helper()
		if lines, err := s.Trail(t.Context(), store.TrailQuery{}); err != nil || len(lines.Events) != want {
			t.Errorf("Trail: %d lines, %v; want %d", len(lines.Events), err, want)
		}
	}
	count(store.EventFilter{Orphans: true}, 2)
	all(3)
	if _, err := s.Purge(t.Context(), time.Now(), 0, false); err != nil {
		t.Errorf("Purge: %v", err)
	}
	all(1)
}

// TestStalePending: a row of the index under a time at which its delivery is not
// due is passed over.
func TestStalePending(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync())
	at := time.Now()
	a := storetest.NewAttempt(at, "29:a", "graph")
	d := storetest.Owed(&a, 1, at.Add(time.Hour))
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Deliveries: []store.Delivery{d}}})[0]; err != nil {
		t.Fatal(err)
	}
	d.NextAt = at.Add(-time.Hour)
	if err := s.FilePending(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "bot-a", Limit: 1, Hold: time.Hour}); err != nil || len(got) > 0 {
		t.Errorf("Claim = %+v, %v; want none", got, err)
	}
}

// TestDamagedWhileOthersWait: what waits behind a delivery that cannot be decoded
// any more need not wait for it.
func TestDamagedWhileOthersWait(t *testing.T) {
	now := time.Now()
	s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync(), boltstore.WithClock(func() time.Time { return now }))
	a := storetest.NewAttempt(now, "29:a", "graph")
	one, two := storetest.Owed(&a, 1, now), storetest.Owed(&a, 2, now)
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Deliveries: []store.Delivery{one, two}}})[0]; err != nil {
		t.Fatal(err)
	}
	claim := func(want ...int) {
		t.Helper()
		got, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "bot-a", Limit: 10, Hold: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		var rounds []int
		for _, d := range got {
			rounds = append(rounds, d.Round)
		}
		if !slices.Equal(rounds, want) {
			t.Errorf("claimed rounds %v, want %v", rounds, want)
		}
	}
	claim(1)
	claim()
	if err := s.DamageDelivery(t.Context(), one.DeliveryKey, cutOff); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Minute)
	claim(2)
	claim()
}

// TestDamagedDelivery: a delivery that cannot be decoded refuses its ack alone,
// and keeps its attempt from being purged: where it is filed is not known.
func TestDamagedDelivery(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync())
	at := time.Now().Add(-time.Hour)
	var rows []store.Delivery
	for _, user := range []string{"29:bad", "29:good"} {
		a := storetest.NewAttempt(at, user, "graph")
		rows = append(rows, storetest.Owed(&a, 1, at))
		c := store.Commit{Put: []store.Attempt{a, storetest.Next(a, store.Complete, at)}, Deliveries: rows[len(rows)-1:]}
		if err := s.Apply(t.Context(), []store.Commit{c})[0]; err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DamageDelivery(t.Context(), rows[0].DeliveryKey, cutOff); err != nil {
		t.Fatal(err)
	}
	errs := s.Apply(t.Context(), []store.Commit{{Acks: []store.Ack{{Delivery: rows[0]}}}, {Acks: []store.Ack{{Delivery: rows[1]}}}})
	if !errors.Is(errs[0], store.ErrCorrupt) || errs[1] != nil {
		t.Errorf("Apply: %v; want ErrCorrupt, nil", errs)
	}
	for i := range 2 {
		if n, err := s.Purge(t.Context(), time.Now(), 0, false); err != nil || n != 1-i {
			t.Errorf("Purge = %d, %v; want %d", n, err, 1-i)
		}
	}
	if _, err := s.Get(t.Context(), rows[0].Attempt); err != nil {
		t.Errorf("Get: %v", err)
	}
}

// TestManyWait: deliveries that have come due before their turn are met once, and
// hide nothing that stands behind them, however many there are.
func TestManyWait(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync())
	at := time.Now()
	const waiting = 5000
	var commits []store.Commit
	owe := func(n int, rounds ...store.Delivery) {
		a := storetest.NewAttempt(at, fmt.Sprint("29:", n), "graph")
		c := store.Commit{Put: []store.Attempt{a}}
		for i, d := range rounds {
			d.DeliveryKey = store.DeliveryKey{Attempt: a.ID, Kind: store.DeliverComplete, Round: i + 1}
			d.Status, d.Created = store.DeliveryPending, at
			c.Deliveries = append(c.Deliveries, d)
		}
		commits = append(commits, c)
	}
	for n := range waiting {
		owe(n, store.Delivery{NextAt: at.Add(time.Hour)}, store.Delivery{NextAt: at.Add(-time.Hour)})
	}
	owe(waiting, store.Delivery{NextAt: at.Add(-time.Minute)})
	if err := errors.Join(s.Apply(t.Context(), commits)...); err != nil {
		t.Fatal(err)
	}
	q := store.ClaimQuery{Owner: "bot-a", Limit: 10, Hold: time.Hour}
	got, err := s.Claim(t.Context(), q)
	if err != nil || len(got) != 1 || got[0].Attempt != commits[waiting].Put[0].ID {
		t.Fatalf("Claim = %+v, %v; want the one that waits for nobody", got, err)
	}
	if n := s.Pending(t.Context()); n != waiting+1 {
		t.Errorf("%d deliveries are filed under a time, want %d: the first of each attempt", n, waiting+1)
	}
	if c, err := s.Counts(t.Context(), at); err != nil || c.Owed != 2*waiting+1 {
		t.Errorf("%d owed, %v; want %d", c.Owed, err, 2*waiting+1)
	}
	first := commits[7].Deliveries[0]
	done := first
	done.Status = store.DeliveryDone
	if err := s.Apply(t.Context(), []store.Commit{{Acks: []store.Ack{{Delivery: done}}}})[0]; err != nil {
		t.Fatal(err)
	}
	if got, err = s.Claim(t.Context(), q); err != nil || len(got) != 1 || got[0].DeliveryKey != commits[7].Deliveries[1].DeliveryKey {
		t.Errorf("Claim = %+v, %v; want the second round", got, err)
	}
}

func TestChangedParks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.db")
	storetest.ChangedParks(t, func() store.Store { return mustOpen(t, path, boltstore.WithoutSync()) })
}

// TestDueFiledEarly: cards that wait stay filed under the end of the lease with
// which they were sent, until then. Then they are filed anew, all of them, and
// nobody is taken for due before it is.
func TestDueFiledEarly(t *testing.T) {
	now := time.Now()
	s, err := boltstore.Open(filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync(), boltstore.WithClock(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const waiting = 5000
	var last store.Attempt
	for n := range waiting {
		commits := signIn(n)[:3]
		last = commits[2].Put[0]
		for _, err := range s.Apply(t.Context(), commits) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	due := func() int {
		t.Helper()
		snap, err := s.Due(t.Context(), 100, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return len(snap.Attempts)
	}
	for _, tc := range []struct {
		at   time.Time
		want int
	}{
		{last.Lease.Until.Add(time.Second), 0},
		{last.Expires.Add(time.Second), 100},
		{last.Expires.Add(time.Second), 100},
	} {
		now = tc.at
		if got := due(); got != tc.want {
			t.Errorf("at %s: %d attempts are due, want %d", tc.at, got, tc.want)
		}
	}
}
