package pgstore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestHashPartitions runs the suites on attempts that are partitioned by the
// hash of the user, as a distributed database would keep them: the constraints
// hold and no query changes.
func TestHashPartitions(t *testing.T) {
	for _, suite := range []func(*testing.T, storetest.New){
		storetest.Semantics, storetest.Uniqueness, storetest.Groups, storetest.Concurrency, storetest.Outbox, storetest.Due, storetest.Lists, storetest.Purge, storetest.Corrupt,
	} {
		suite(t, func(t *testing.T) storetest.Harness {
			t.Helper()
			dsn := pgtest.Start(t)
			mustOpen(t, dsn)
			mustExec(t, dsn, `set search_path = SCHEMA;
				create table whole (like attempts including all) partition by hash (user_hash);
				create table part0 partition of whole for values with (modulus 2, remainder 0);
				create table part1 partition of whole for values with (modulus 2, remainder 1);
				drop table attempts;
				alter table whole rename to attempts`)
			return storetest.Harness{
				Store: mustOpen(t, dsn), Damage: damage(dsn), DamageDelivery: damageDelivery(dsn),
				Second: func(t *testing.T) store.Store {
					t.Helper()
					return mustOpen(t, dsn)
				},
			}
		})
	}
}

// TestOddTexts: what is no text for Postgres is kept and found all the same.
func TestOddTexts(t *testing.T) {
	s := mustOpen(t, pgtest.Start(t))
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, odd := range []string{"a\x00b", "\xff\xfe", "ü'\"\\"} {
		a := storetest.NewAttempt(info.Now, "29:"+odd, "conn"+odd)
		a.Conversation.Tenant, a.Conversation.UserAAD, a.Platform, a.ExchangeID = odd, odd, odd, odd
		a.Failure = &store.Failure{Code: odd, Message: odd}
		if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{{Attempt: a.ID, Detail: odd, Time: info.Now}}}})[0]; err != nil {
			t.Fatalf("Apply %d: %v", i, err)
		}
		snap, err := s.Find(t.Context(), store.Query{User: a.Key.UserKey(), Connection: a.Key.Connection, ExchangeID: odd})
		if err != nil || len(snap.Attempts) != 1 || snap.ByExchangeID == nil {
			t.Fatalf("Find %d: %+v, %v", i, snap, err)
		}
		if diff := cmp.Diff(a, snap.Attempts[0]); diff != "" {
			t.Errorf("attempt %d (-put +got):\n%s", i, diff)
		}
		for _, f := range []store.Filter{{User: a.Key.User}, {User: odd}, {Connection: a.Key.Connection}, {Tenant: odd}, {FailureCode: odd}, {Platform: odd}} {
			if page, err := s.List(t.Context(), f); err != nil || len(page.Attempts) != 1 {
				t.Errorf("List %d by %+v: %d attempts, %v", i, f, len(page.Attempts), err)
			}
		}
		lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID})
		if err != nil || len(lines) != 1 || lines[0].Detail != odd {
			t.Errorf("Events %d: %+v, %v", i, lines, err)
		}
		bad := a
		bad.ID = "\xff"
		if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{bad}}})[0]; !errors.Is(err, store.ErrInvalid) {
			t.Errorf("an id that is no text: %v, want ErrInvalid", err)
		}
	}
}

// TestPoison: a value that Postgres refuses fails its own commit only.
func TestPoison(t *testing.T) {
	s := mustOpen(t, pgtest.Start(t))
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first, odd, last := storetest.NewAttempt(info.Now, "29:1", "graph"), storetest.NewAttempt(info.Now, "29:2", "graph"), storetest.NewAttempt(info.Now, "29:3", "graph")
	odd.Created = time.Date(-50000, 1, 1, 0, 0, 0, 0, time.UTC)
	errs := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{first}}, {Put: []store.Attempt{odd}}, {Put: []store.Attempt{last}}})
	if errs[0] != nil || errs[1] == nil || errs[2] != nil {
		t.Errorf("results %v, want the second to fail", errs)
	}
	if !errors.Is(errs[1], store.ErrInvalid) {
		t.Errorf("a time beyond the calendar: %v, want ErrInvalid", errs[1])
	}
	page, err := s.List(t.Context(), store.Filter{})
	if err != nil || len(page.Attempts) != 2 {
		t.Errorf("%d attempts, %v", len(page.Attempts), err)
	}
}

// TestHugeGroup: more than fits anywhere but into one statement.
func TestHugeGroup(t *testing.T) {
	s := mustOpen(t, pgtest.Start(t))
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var commits []store.Commit
	for i := range 2 * store.MaxGroup {
		a := storetest.NewAttempt(info.Now, strings.Repeat("x", i%50)+string(rune('a'+i%26))+info.Now.String()+strings.Repeat("y", i/50), "graph")
		a.Request = make([]byte, 4000)
		commits = append(commits, store.Commit{Put: []store.Attempt{a, storetest.Next(a, store.Failed, info.Now)}})
	}
	for i, err := range s.Apply(t.Context(), commits) {
		if err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
	if n, err := s.Purge(t.Context(), info.Now.Add(time.Second), 0, false); err != nil || n != len(commits) {
		t.Errorf("Purge = %d, %v; want %d", n, err, len(commits))
	}
}

// TestKeyGivenUp: an attempt that takes another key leaves the old one to the
// next commit of the same call.
func TestKeyGivenUp(t *testing.T) {
	s := mustOpen(t, pgtest.Start(t))
	a := insertOne(t, s)
	heir := storetest.NewAttempt(a.Created, a.Key.User, a.Key.Connection)
	moved := storetest.Next(a, store.CardSent, a.Created)
	moved.Key.User = "29:another"
	for i, err := range s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{moved}}, {Put: []store.Attempt{heir}}}) {
		if err != nil {
			t.Errorf("commit %d: %v", i, err)
		}
	}
}
