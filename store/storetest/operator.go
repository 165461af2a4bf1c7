package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// Lists tests the operator's reads: filters, order, paging, counts.
func Lists(t *testing.T, open New) {
	t.Helper()
	t.Run("Filters", func(t *testing.T) { filters(t, open(t).Store) })
	t.Run("Pages", func(t *testing.T) { pages(t, open(t).Store) })
	t.Run("Counts", func(t *testing.T) { counts(t, open(t).Store) })
	t.Run("Owed", func(t *testing.T) { owed(t, open(t).Store) })
	t.Run("OddIDs", func(t *testing.T) { oddIDs(t, open(t).Store) })
	t.Run("Clocks", func(t *testing.T) { clocks(t, open(t).Store) })
}

// owed tests the list of attempts with pending, dead or undeliverable deliveries.
func owed(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s).Add(-time.Hour)
	statuses := []store.DeliveryStatus{
		store.DeliveryPending, store.DeliveryDone, store.DeliveryDead, store.DeliveryDropped, store.DeliveryNotOwed, store.DeliveryPending,
		store.DeliveryUndeliverable,
	}
	var want []string
	for i, status := range statuses {
		a := NewAttempt(at.Add(time.Duration(i)*time.Minute), user(i), "graph")
		insert(t, s, a)
		one, two := Owed(&a, 1, at), Owed(&a, 2, at)
		one.Status, two.Status = status, status
		must(t, s, store.Commit{Deliveries: []store.Delivery{one, two}})
		if one.Owed() {
			want = append([]string{a.ID}, want...)
		}
	}
	var got []string
	f := store.Filter{Owed: true, Limit: 2}
	for {
		page, err := s.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Attempts {
			got = append(got, a.ID)
		}
		if f.Cursor = page.Next; f.Cursor == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("owed (-want +got):\n%s", diff)
	}
	page, err := s.List(t.Context(), store.Filter{Owed: true, User: user(2)})
	if err != nil || len(page.Attempts) != 1 || page.Attempts[0].Key.User != user(2) {
		t.Errorf("owed to one user: %+v, %v", page.Attempts, err)
	}
}

func filters(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s).Add(-time.Hour)
	// By index: 0 Idle, 1 Failed, 2 Complete, 3 CardSent.
	var all []store.Attempt
	for i := range 4 {
		a := NewAttempt(at.Add(time.Duration(i)*10*time.Minute), user(i), "graph")
		a.Activity, a.CardActivityID = fmt.Sprint("activity-", i), fmt.Sprint("card-", i)
		insert(t, s, a)
		switch i {
		case 1:
			a = Next(a, store.Failed, a.Created.Add(time.Minute))
			a.Reason, a.Failure, a.Platform = store.ReasonClientFailure, &store.Failure{Code: "invokeerror"}, "iOS"
			insert(t, s, a)
		case 2:
			a = Next(a, store.Complete, a.Created.Add(time.Minute))
			a.Conversation.Tenant = "tenant-2"
			insert(t, s, a)
			must(t, s, store.Commit{Deliveries: []store.Delivery{Owed(&a, 2, at), Owed(&a, 1, at)}})
		case 3:
			a = Next(a, store.CardSent, a.Created.Add(time.Minute))
			a.Lease.Owner = "bot-z"
			insert(t, s, a)
		}
		all = append(all, a)
	}
	for _, tc := range []struct {
		name string
		f    store.Filter
		want []int
	}{
		{"none", store.Filter{}, []int{3, 2, 1, 0}},
		{"id prefix", store.Filter{IDPrefix: all[1].ID[:20]}, []int{1}},
		{"whole id", store.Filter{IDPrefix: all[2].ID}, []int{2}},
		{"MRI", store.Filter{User: user(2)}, []int{2}},
		{"AAD id, any case", store.Filter{User: "aad-" + user(2)}, []int{2}},
		{"nobody", store.Filter{User: "no"}, nil},
		{"user and state", store.Filter{User: user(2), Open: true}, nil},
		{"connection", store.Filter{Connection: "GRAPH"}, []int{3, 2, 1, 0}},
		{"tenant", store.Filter{Tenant: "tenant-2"}, []int{2}},
		{"conversation", store.Filter{Conversation: all[1].Conversation.ID}, []int{1}},
		{"activity", store.Filter{Activity: "activity-2"}, []int{2}},
		{"activity of the card", store.Filter{Activity: "card-3"}, []int{3}},
		{"no activity", store.Filter{Activity: "no"}, nil},
		{"open", store.Filter{Open: true}, []int{3, 0}},
		{"complete", store.Filter{States: []store.State{store.Complete}}, []int{2}},
		{"ended", store.Filter{States: []store.State{store.Complete, store.Failed}}, []int{2, 1}},
		{"open states", store.Filter{States: []store.State{store.CardSent, store.Verifying}}, []int{3}},
		{"mixed states", store.Filter{States: []store.State{store.Idle, store.Failed}}, []int{1, 0}},
		{"open and failed", store.Filter{States: []store.State{store.Failed}, Open: true}, nil},
		{"reason", store.Filter{Reason: store.ReasonClientFailure}, []int{1}},
		{"failure code", store.Filter{FailureCode: "invokeerror"}, []int{1}},
		{"method", store.Filter{Method: store.MethodTokenExchange}, []int{2}},
		{"platform", store.Filter{Platform: "iOS"}, []int{1}},
		{"instance", store.Filter{Instance: "bot-z"}, []int{3}},
		{"since", store.Filter{Since: all[2].Created}, []int{3, 2}},
		{"until", store.Filter{Until: all[2].Created}, []int{1, 0}},
		{"since and until", store.Filter{Since: all[1].Created, Until: all[3].Created}, []int{2, 1}},
		{"entered until", store.Filter{EnteredUntil: all[2].Entered}, []int{1, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			page, err := s.List(t.Context(), tc.f)
			if err != nil {
				t.Fatalf("List: %v", err)
			}
			var want []store.Attempt
			for _, i := range tc.want {
				want = append(want, all[i])
			}
			if diff := cmp.Diff(want, page.Attempts, equateEmpty); diff != "" {
				t.Errorf("List (-want +got):\n%s", diff)
			}
			if page.Next != "" || page.Now.IsZero() {
				t.Errorf("Next = %q, Now = %v", page.Next, page.Now)
			}
		})
	}
	page, err := s.List(t.Context(), store.Filter{User: user(2)})
	if err != nil || len(page.Deliveries) != 2 || page.Deliveries[0].Round != 1 || page.Deliveries[1].Attempt != all[2].ID {
		t.Errorf("deliveries of the page: %+v, %v", page.Deliveries, err)
	}
}

func pages(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	const total = 11
	var want []string
	for i := range total {
		a := NewAttempt(at.Add(time.Duration(i)*time.Second), user(1), fmt.Sprint("c", i))
		insert(t, s, a)
		want = append([]string{a.ID}, want...)
	}
	for _, f := range []store.Filter{{}, {User: user(1)}, {User: "aad-" + user(1)}, {Open: true}, {IDPrefix: want[0][:1]}} {
		for _, limit := range []int{1, 3, total, total + 1} {
			f.Limit, f.Cursor = limit, ""
			var got []string
			for {
				page, err := s.List(t.Context(), f)
				if err != nil {
					t.Fatalf("List: %v", err)
				}
				got = append(got, ids(page.Attempts)...)
				if page.Next == "" {
					break
				}
				if len(page.Attempts) != limit {
					t.Fatalf("a page of %d, want %d", len(page.Attempts), limit)
				}
				f.Cursor = page.Next
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("limit %d (-want +got):\n%s", limit, diff)
			}
		}
	}
}

func counts(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	old, young := NewAttempt(at, user(1), "graph"), NewAttempt(at, user(2), "graph")
	old.Entered = at.Add(-time.Minute)
	insert(t, s, old, young)
	for i := range 3 {
		a := NewAttempt(at, user(10+i), "graph")
		insert(t, s, a, Next(a, store.Complete, at.Add(-time.Duration(i)*10*time.Minute)))
	}
	failed := NewAttempt(at, user(20), "graph")
	insert(t, s, failed, Next(failed, store.Failed, at))
	c, err := s.Counts(t.Context(), at.Add(-15*time.Minute))
	if err != nil {
		t.Fatalf("Counts: %v", err)
	}
	want := store.Counts{
		Now:    c.Now,
		Open:   map[store.State]int{store.Idle: 2},
		Oldest: map[store.State]time.Time{store.Idle: old.Entered},
		Ended:  map[string]int{"Complete:tokenExchange": 2, "Failed:superseded": 1},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("Counts (-want +got):\n%s", diff)
	}
	// An ended attempt that is written again still counts once.
	again := Next(Next(failed, store.Failed, at), store.Failed, at)
	insert(t, s, again)
	if c, err = s.Counts(t.Context(), at.Add(-time.Minute)); err != nil || c.Ended["Failed:superseded"] != 1 {
		t.Errorf("Ended = %v, %v", c.Ended, err)
	}
}

// oddIDs tests ids that are not ULIDs, one of which is a prefix of another.
func oddIDs(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	want := []string{"zü", "ab", "a", "A"}
	for i, id := range want {
		a := NewAttempt(at, user(i), "graph")
		a.ID = id
		must(t, s, store.Commit{Put: []store.Attempt{a}, Events: []store.Event{Line(&a, store.None)}})
	}
	page, err := s.List(t.Context(), store.Filter{})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if diff := cmp.Diff(want, ids(page.Attempts)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	if lines, err := s.Events(t.Context(), store.EventFilter{Attempt: "a"}); err != nil || len(lines) != 1 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

// clocks tests bounds on times with ids that were made up to a minute before or after
// the attempt's own times.
func clocks(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s).Add(-48 * time.Hour)
	var want []string
	for i, off := range []time.Duration{-50 * time.Second, 0, 50 * time.Second} {
		a := NewAttempt(at, user(i), "graph")
		a.ID = NewID(at.Add(off))
		insert(t, s, a, Next(a, store.Failed, at))
		want = append([]string{a.ID}, want...)
	}
	page, err := s.List(t.Context(), store.Filter{Since: at, Until: at.Add(time.Millisecond)})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if diff := cmp.Diff(want, ids(page.Attempts)); diff != "" {
		t.Errorf("created in that millisecond (-want +got):\n%s", diff)
	}
	if n, err := s.Purge(t.Context(), at.Add(time.Millisecond), 0, false); n != len(want) || err != nil {
		t.Errorf("Purge: %d, %v; want %d", n, err, len(want))
	}
}

// Purge tests what a purge deletes and what it leaves.
func Purge(t *testing.T, open New) {
	t.Helper()
	s := open(t).Store
	at := now(t, s)
	long := at.Add(-48 * time.Hour)
	before := at.Add(-24 * time.Hour)
	var old []store.Attempt
	for i := range 5 {
		a := NewAttempt(long.Add(time.Duration(i)*time.Second), user(i), "graph")
		a.ExchangeID = fmt.Sprint("first-", i)
		must(t, s, store.Commit{Put: []store.Attempt{a}, Events: []store.Event{Line(&a, store.None)}})
		a = Next(a, store.Complete, long.Add(time.Minute))
		a.ExchangeID = fmt.Sprint("second-", i)
		dead := Owed(&a, 2, long)
		dead.Status = store.DeliveryDead
		undeliverable := Owed(&a, 3, long)
		undeliverable.Status = store.DeliveryUndeliverable
		must(t, s, store.Commit{
			Put: []store.Attempt{a}, Events: []store.Event{Line(&a, store.Idle)},
			Deliveries: []store.Delivery{Owed(&a, 1, long), dead, undeliverable},
		})
		old = append(old, a)
	}
	open1 := NewAttempt(long, user(20), "graph")
	fresh := NewAttempt(long, user(21), "graph")
	// A newer attempt has taken over one exchange id.
	heir := NewAttempt(at, user(0), "graph")
	heir.ExchangeID = "first-0"
	insert(t, s, open1, fresh, Next(fresh, store.Failed, at), heir)
	must(t, s, store.Commit{Events: []store.Event{{Kind: store.EventNote, Time: long, Detail: "old"}, {Kind: store.EventNote, Time: at, Detail: "new"}}})

	purge := func(limit int, dry bool, want int) {
		t.Helper()
		if n, err := s.Purge(t.Context(), before, limit, dry); err != nil || n != want {
			t.Fatalf("Purge(limit %d, dry %v) = %d, %v; want %d", limit, dry, n, err, want)
		}
	}
	purge(0, true, 5)
	purge(3, true, 3)
	purge(2, false, 2)
	purge(0, true, 3)
	purge(0, false, 3)
	purge(0, false, 0)

	for i := range old {
		a := &old[i]
		if _, err := s.Get(t.Context(), a.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get after purge: %v, want ErrNotFound", err)
		}
		if lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID}); err != nil || len(lines) > 0 {
			t.Errorf("%d lines are left, %v", len(lines), err)
		}
		for _, id := range []string{"first-", "second-"} {
			snap, err := s.Find(t.Context(), store.Query{User: a.Key.UserKey(), ExchangeID: fmt.Sprint(id, i)})
			if err != nil {
				t.Fatalf("Find: %v", err)
			}
			if isHeir := id == "first-" && i == 0; isHeir != (snap.ByExchangeID != nil) {
				t.Errorf("%s%d leads to %v", id, i, snap.ByExchangeID)
			}
		}
	}
	for _, id := range []string{open1.ID, fresh.ID, heir.ID} {
		get(t, s, id)
	}
	page, err := s.List(t.Context(), store.Filter{})
	if err != nil || len(page.Attempts) != 3 || len(page.Deliveries) != 0 {
		t.Errorf("List: %d attempts, %d deliveries, %v", len(page.Attempts), len(page.Deliveries), err)
	}
	if got := claim(t, s, "bot", 10, longHold); len(got) > 0 {
		t.Errorf("claimed deliveries of purged attempts: %+v", got)
	}
	c, err := s.Counts(t.Context(), long.Add(-time.Hour))
	if err != nil || c.Owed+c.Dead+c.Undeliverable != 0 || c.Ended["Complete:tokenExchange"] != 0 || c.Ended["Failed:superseded"] != 1 {
		t.Errorf("Counts = %+v, %v", c, err)
	}
	lines, err := s.Trail(t.Context(), store.TrailQuery{})
	if err != nil || len(lines.Events) != 1 || lines.Events[0].Detail != "new" {
		t.Errorf("lines left: %+v, %v", lines, err)
	}
	must(t, s, store.Commit{Events: []store.Event{{Kind: store.EventNote, Time: at}}})
	orphans, err := s.Events(t.Context(), store.EventFilter{Orphans: true})
	if err != nil || len(orphans) != 2 || orphans[1].Seq <= orphans[0].Seq {
		t.Errorf("orphans after a purge: %+v, %v", orphans, err)
	}
}

// Reopen tests that acknowledged writes are there after the store was closed.
func Reopen(t *testing.T, open New) {
	t.Helper()
	h := open(t)
	if h.Reopen == nil {
		return
	}
	s := h.Store
	at := now(t, s)
	a := NewAttempt(at, user(1), "graph")
	a.ExchangeID = "ex"
	must(t, s, store.Commit{
		Put: []store.Attempt{a}, Events: []store.Event{Line(&a, store.None), {Kind: store.EventNote, Time: at}},
		Deliveries: []store.Delivery{Owed(&a, 1, at)}, Marks: []store.Mark{{Name: "m", Version: 1, Value: []byte("value")}},
	})
	secret, rotated := s.Secret(), append(allKeys(t, s), store.NewSecretKey(at))
	if err := s.SwapKeys(t.Context(), rotated[:1], rotated); err != nil {
		t.Fatal(err)
	}
	s = h.Reopen(t)
	if diff := cmp.Diff(rotated, allKeys(t, s)); diff != "" {
		t.Errorf("keys (-swapped +got):\n%s", diff)
	}
	if !cmp.Equal(secret, s.Secret()) {
		t.Error("another secret")
	}
	if diff := cmp.Diff(a, get(t, s, a.ID)); diff != "" {
		t.Errorf("attempt (-put +got):\n%s", diff)
	}
	if lines, err := s.Trail(t.Context(), store.TrailQuery{}); err != nil || len(lines.Events) != 2 {
		t.Errorf("%d lines, %v", len(lines.Events), err)
	}
	if m, err := s.Mark(t.Context(), "m"); err != nil || m.Version != 1 || string(m.Value) != "value" {
		t.Errorf("mark: %+v, %v", m, err)
	}
	if err := apply(t, s, store.Commit{Marks: []store.Mark{{Name: "m", Version: 1}}}); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("mark: %v, want ErrDuplicate", err)
	}
	if got := claim(t, s, "bot", 10, longHold); len(got) != 1 {
		t.Errorf("%d deliveries", len(got))
	}
	insert(t, s, Next(a, store.CardSent, at))
}
