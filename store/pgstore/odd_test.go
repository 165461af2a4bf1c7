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

// TestOddTexts: of what is no text for Postgres the rest is kept, and it is found
// as it was given.
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
		kept := strings.NewReplacer("\x00", "\uFFFD", "\xff\xfe", "\uFFFD\uFFFD").Replace(odd)
		a.Key.User, a.Key.Connection, a.ExchangeID = "29:"+kept, "conn"+kept, kept
		a.Conversation.ID, a.Conversation.UserID = "a:1"+a.Key.User, a.Key.User
		a.Conversation.Tenant, a.Conversation.UserAAD, a.Platform, a.Failure.Code, a.Failure.Message = kept, kept, kept, kept, kept
		if diff := cmp.Diff(a, snap.Attempts[0]); diff != "" {
			t.Errorf("attempt %d (-put +got):\n%s", i, diff)
		}
		for _, f := range []store.Filter{{User: "29:" + odd}, {User: odd}, {Connection: "conn" + odd}, {Tenant: odd}, {FailureCode: odd}, {Platform: odd}} {
			if page, err := s.List(t.Context(), f); err != nil || len(page.Attempts) != 1 {
				t.Errorf("List %d by %+v: %d attempts, %v", i, f, len(page.Attempts), err)
			}
		}
		lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID})
		if err != nil || len(lines) != 1 || lines[0].Detail != kept {
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
