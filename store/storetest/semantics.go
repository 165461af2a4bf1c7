package storetest

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// Semantics tests every method on its own: results, errors and their reasons.
func Semantics(t *testing.T, open New) {
	t.Helper()
	t.Run("RoundTrip", func(t *testing.T) {
		s := open(t).Store
		at := now(t, s)
		a := NewAttempt(at, user(1), "Graph")
		a.ExchangeID, a.SSOOffered, a.CardActivityID, a.Platform = "ex-1", true, "card", "Web"
		a.Activity, a.ResourceURI, a.NoSSOUntil = "activity", "api://bot", at.Add(time.Hour)
		a.Failure = &store.Failure{Source: store.SourceTokenService, Operation: "exchange", Status: 412, Code: "x", Message: "ü"}
		a.Diagnosis = store.Diagnosis{Audience: store.Holds, Version: store.Fails, Fresh: store.Fails}
		a.TokenMark, a.CodeMark, a.Request = []byte{1}, []byte{2}, []byte{3, 0, 255}
		a.CheckAt, a.Checks, a.Generation = at.Add(time.Second), 2, 7
		must(t, s, store.Commit{Put: []store.Attempt{a}})
		if diff := cmp.Diff(a, get(t, s, a.ID)); diff != "" {
			t.Errorf("stored attempt (-put +got):\n%s", diff)
		}
		// The engine relies on this to recognize its own write when the answer was lost.
		if got := get(t, s, a.ID); !reflect.DeepEqual(a, got) {
			t.Errorf("put %#v, read %#v: equal, but not in every member", a, got)
		}
	})
	t.Run("Times", func(t *testing.T) {
		s := open(t).Store
		at := now(t, s)
		a := NewAttempt(at, user(1), "graph")
		a.Created = at.Add(999 * time.Nanosecond).In(time.FixedZone("x", 3600))
		a.Lease.Until = time.Time{}
		must(t, s, store.Commit{Put: []store.Attempt{a}})
		got := get(t, s, a.ID)
		if got.Created != store.Time(at) {
			t.Errorf("Created = %v, want %v", got.Created, at)
		}
		if !got.Lease.Until.IsZero() {
			t.Errorf("zero time came back as %v", got.Lease.Until)
		}
		if n := now(t, s); n != store.Time(n) {
			t.Errorf("Now = %v is not UTC microseconds", n)
		}
	})
	t.Run("Copies", func(t *testing.T) {
		s := open(t).Store
		a := NewAttempt(now(t, s), user(1), "graph")
		a.TokenMark, a.Failure = []byte("mark"), &store.Failure{Code: "x"}
		must(t, s, store.Commit{Put: []store.Attempt{a}})
		a.TokenMark[0], a.Failure.Code = 'X', "changed by the writer"
		first := get(t, s, a.ID)
		first.TokenMark[1], first.Failure.Code = 'X', "changed by a reader"
		got := get(t, s, a.ID)
		if string(got.TokenMark) != "mark" || got.Failure.Code != "x" {
			t.Errorf("stored record was changed from outside: %q %+v", got.TokenMark, got.Failure)
		}
		secret := s.Secret()
		secret[0]++
		if s.Secret()[0] == secret[0] {
			t.Error("the secret was changed from outside")
		}
	})
	t.Run("WhoseItIs", func(t *testing.T) {
		// The second commit does not name the attempt's user, and the third names another.
		s := open(t).Store
		at := now(t, s)
		a := NewAttempt(at, user(1), "graph")
		other := Next(a, store.CardSent, at)
		other.Key.User = user(2)
		errs := s.Apply(t.Context(), []store.Commit{
			{Put: []store.Attempt{a}},
			{Events: []store.Event{{Attempt: a.ID, Time: at, Kind: store.EventNote, Detail: "a line"}}},
			{Put: []store.Attempt{other}},
		})
		for i, want := range []error{nil, nil, store.ErrNotFound} {
			if !errors.Is(errs[i], want) {
				t.Errorf("commit %d: %v, want %v", i, errs[i], want)
			}
		}
	})
	t.Run("Refusals", func(t *testing.T) { refusals(t, open(t).Store) })
	t.Run("Find", func(t *testing.T) { find(t, open(t).Store) })
	t.Run("ExchangeIDs", func(t *testing.T) { exchangeIDs(t, open(t).Store) })
	t.Run("Events", func(t *testing.T) { events(t, open(t).Store) })
	t.Run("Trail", func(t *testing.T) { trailed(t, open(t).Store) })
	t.Run("Info", func(t *testing.T) {
		s := open(t).Store
		info, err := s.Info(t.Context())
		if err != nil || info.Backend == "" || info.Where == "" || info.Schema < 1 || info.Now.IsZero() {
			t.Errorf("Info = %+v, %v", info, err)
		}
		if len(s.Secret()) != 32 {
			t.Errorf("secret of %d bytes", len(s.Secret()))
		}
	})
	t.Run("Keys", func(t *testing.T) { secretKeys(t, open(t).Store) })
	t.Run("Probe", func(t *testing.T) {
		s := open(t).Store
		for range 3 {
			// A busy disk may make the store unready for a moment.
			deadline := time.Now().Add(time.Minute)
			for err := s.Probe(t.Context()); err != nil; err = s.Probe(t.Context()) {
				if time.Now().After(deadline) {
					t.Fatalf("Probe: %v", err)
				}
			}
		}
		c, err := s.Counts(t.Context(), now(t, s).Add(-time.Hour))
		if lines, err2 := s.Trail(t.Context(), store.TrailQuery{}); err != nil || err2 != nil || len(c.Open)+len(c.Ended)+len(lines.Events) > 0 {
			t.Errorf("a probe left %+v, %v, %v, %v", c, lines, err, err2)
		}
	})
	t.Run("Context", func(t *testing.T) {
		s := open(t).Store
		a := NewAttempt(now(t, s), user(1), "graph")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range s.Apply(ctx, []store.Commit{{Put: []store.Attempt{a}}}) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Apply: %v, want Canceled", err)
			}
		}
		for what, call := range calls(s, a.ID) {
			if err := call(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want Canceled", what, err)
			}
		}
		if _, err := s.Get(t.Context(), a.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("after a cancelled Apply: %v, want ErrNotFound", err)
		}
	})
	t.Run("Closed", func(t *testing.T) {
		s := open(t).Store
		a := NewAttempt(now(t, s), user(1), "graph")
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		if err := apply(t, s, store.Commit{Put: []store.Attempt{a}}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Apply: %v, want ErrUnavailable", err)
		}
		for what, call := range calls(s, a.ID) {
			if err := call(t.Context()); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s: %v, want ErrUnavailable", what, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// calls are the methods that return an error, except Apply and Changed.
func calls(s store.Store, id string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Find": func(ctx context.Context) error { return second(s.Find(ctx, store.Query{})) },
		"Get":  func(ctx context.Context) error { return second(s.Get(ctx, id)) },
		"Due":  func(ctx context.Context) error { return second(s.Due(ctx, 1, longHold)) },
		"Claim": func(ctx context.Context) error {
			return second(s.Claim(ctx, store.ClaimQuery{Owner: "bot-a", Limit: 1}))
		},
		"Purge":  func(ctx context.Context) error { return second(s.Purge(ctx, time.Now(), 1, false)) },
		"Mark":   func(ctx context.Context) error { return second(s.Mark(ctx, "m")) },
		"List":   func(ctx context.Context) error { return second(s.List(ctx, store.Filter{})) },
		"Events": func(ctx context.Context) error { return second(s.Events(ctx, store.EventFilter{Orphans: true})) },
		"Trail":  func(ctx context.Context) error { return second(s.Trail(ctx, store.TrailQuery{})) },
		"Counts": func(ctx context.Context) error { return second(s.Counts(ctx, time.Now())) },
		"Info":   func(ctx context.Context) error { return second(s.Info(ctx)) },
		"Probe":  s.Probe,
	}
}

func second[T any](_ T, err error) error { return err }

func refusals(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	stored := NewAttempt(at, user(1), "graph")
	insert(t, s, stored)
	must(t, s, store.Commit{Marks: []store.Mark{{Name: "taken", Version: 1, Expires: at.Add(time.Hour)}}})
	fresh := func() store.Attempt { return NewAttempt(at, user(2), "graph") }
	with := func(a store.Attempt, change func(*store.Attempt)) []store.Attempt {
		change(&a)
		return []store.Attempt{a}
	}
	for _, tc := range []struct {
		name   string
		commit store.Commit
		want   error
	}{
		{"id taken", store.Commit{Put: with(stored, func(a *store.Attempt) { a.Key.Connection = "another" })}, store.ErrExists},
		{"another user", store.Commit{Put: with(Next(stored, store.CardSent, at), func(a *store.Attempt) { a.Key.User = user(2) })}, store.ErrNotFound},
		{"another connection", store.Commit{Put: with(Next(stored, store.CardSent, at), func(a *store.Attempt) { a.Key.Connection = "another" })}, store.ErrNotFound},
		{"key taken", store.Commit{Put: with(fresh(), func(a *store.Attempt) { a.Key = stored.Key })}, store.ErrExists},
		{"absent", store.Commit{Put: with(fresh(), func(a *store.Attempt) { a.Version = 2 })}, store.ErrNotFound},
		{"version behind", store.Commit{Put: with(stored, func(a *store.Attempt) { a.Version = 3 })}, store.ErrConflict},
		{"event of nothing", store.Commit{Events: []store.Event{{Attempt: "nope", Kind: store.EventNote}}}, store.ErrNotFound},
		{"delivery of nothing", store.Commit{Deliveries: []store.Delivery{Owed(&store.Attempt{ID: "nope"}, 1, at)}}, store.ErrNotFound},
		{"mark taken", store.Commit{Marks: []store.Mark{{Name: "taken", Version: 1, Expires: at.Add(time.Hour)}}}, store.ErrDuplicate},
		{"mark twice", store.Commit{Marks: []store.Mark{{Name: "m", Version: 1}, {Name: "m", Version: 1}}}, store.ErrDuplicate},
		{"no id", store.Commit{Put: with(fresh(), func(a *store.Attempt) { a.ID = "" })}, store.ErrInvalid},
		{"NUL in id", store.Commit{Put: with(fresh(), func(a *store.Attempt) { a.ID = "a\x00b" })}, store.ErrInvalid},
		{"no version", store.Commit{Put: with(fresh(), func(a *store.Attempt) { a.Version = 0 })}, store.ErrInvalid},
		{"no state", store.Commit{Put: with(fresh(), func(a *store.Attempt) { a.State = store.None })}, store.ErrInvalid},
		{"odd state", store.Commit{Put: with(fresh(), func(a *store.Attempt) { a.State = "Odd" })}, store.ErrInvalid},
		{"odd delivery", store.Commit{
			Deliveries: []store.Delivery{{DeliveryKey: store.DeliveryKey{Attempt: stored.ID, Kind: "odd"}, Status: store.DeliveryPending}},
		}, store.ErrInvalid},
		{"nameless mark", store.Commit{Marks: []store.Mark{{Version: 1}}}, store.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// The valid rest of the commit must not be written either.
			beside := NewAttempt(at, user(3), "graph")
			tc.commit.Put = append([]store.Attempt{beside}, tc.commit.Put...)
			tc.commit.Events = append(tc.commit.Events, store.Event{Kind: store.EventNote, Time: at})
			tc.commit.Marks = append([]store.Mark{{Name: "beside", Version: 1}}, tc.commit.Marks...)
			if err := apply(t, s, tc.commit); !errors.Is(err, tc.want) {
				t.Errorf("Apply: %v, want %v", err, tc.want)
			}
			if _, err := s.Get(t.Context(), beside.ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("half of a refused commit is there: %v", err)
			}
		})
	}
	if diff := cmp.Diff(stored, get(t, s, stored.ID)); diff != "" {
		t.Errorf("refused commits changed the attempt:\n%s", diff)
	}
	if lines, err := s.Events(t.Context(), store.EventFilter{Orphans: true}); err != nil || len(lines) > 0 {
		t.Errorf("refused commits left %d lines, %v", len(lines), err)
	}
	must(t, s, store.Commit{Marks: []store.Mark{{Name: "beside", Version: 1}}})
	if _, err := s.Get(t.Context(), "nope"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get: %v, want ErrNotFound", err)
	}
}

func find(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	// Three attempts of graph, of which the last is open, and two ended ones of github.
	var all []store.Attempt
	for i, conn := range []string{"graph", "graph", "github", "github", "graph"} {
		a := NewAttempt(at.Add(time.Duration(i)*time.Second), user(1), conn)
		insert(t, s, a)
		if i < 4 {
			a = Next(a, store.Failed, at)
			insert(t, s, a)
		}
		all = append(all, a)
	}
	insert(t, s, NewAttempt(at, user(2), "graph"))
	want := func(i ...int) []string {
		var out []string
		for _, i := range i {
			out = append(out, all[i].ID)
		}
		return out
	}
	u := all[0].Key.UserKey()
	other := u
	other.App = "app-2"
	for _, tc := range []struct {
		name string
		q    store.Query
		want []string
	}{
		{"all", store.Query{User: u}, want(4, 3, 2, 1, 0)},
		{"connection: the open one", store.Query{User: u, Connection: "graph"}, want(4)},
		{"connection: any case", store.Query{User: u, Connection: "GRAPH"}, want(4)},
		{"connection: the newest", store.Query{User: u, Connection: "github"}, want(3)},
		{"connection: more", store.Query{User: u, Connection: "graph", Limit: 2}, want(4, 1)},
		{"limit", store.Query{User: u, Limit: 2}, want(4, 3)},
		{"unknown connection", store.Query{User: u, Connection: "none"}, nil},
		{"another app", store.Query{User: other}, nil},
		{"nobody", store.Query{}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			snap, err := s.Find(t.Context(), tc.q)
			if err != nil {
				t.Fatalf("Find: %v", err)
			}
			if diff := cmp.Diff(tc.want, ids(snap.Attempts), equateEmpty); diff != "" {
				t.Errorf("Find (-want +got):\n%s", diff)
			}
			if snap.Now.Before(at) {
				t.Errorf("Now = %v, before %v", snap.Now, at)
			}
			if snap.ByExchangeID != nil {
				t.Error("ByExchangeID without an exchange id")
			}
		})
	}
	t.Run("open attempts first and never cut", func(t *testing.T) {
		// An open attempt older than ended ones, and more open ones than Limit.
		for _, conn := range []string{"a", "b"} {
			insert(t, s, NewAttempt(at.Add(-time.Minute), user(1), conn))
		}
		snap, err := s.Find(t.Context(), store.Query{User: u, Limit: 1})
		if err != nil || len(snap.Attempts) != 3 {
			t.Fatalf("Find: %d attempts, %v; want 3", len(snap.Attempts), err)
		}
		for i := range snap.Attempts {
			if snap.Attempts[i].State.Terminal() {
				t.Errorf("attempt %d is %s", i, snap.Attempts[i].State)
			}
		}
	})
}

func exchangeIDs(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	old := NewAttempt(at, user(1), "graph")
	old.ExchangeID = "ex-1"
	insert(t, s, old)
	expect := func(q store.Query, id string) {
		t.Helper()
		snap, err := s.Find(t.Context(), q)
		switch {
		case err != nil:
			t.Errorf("Find: %v", err)
		case id == "" && snap.ByExchangeID != nil:
			t.Errorf("ByExchangeID = %s, want none", snap.ByExchangeID.ID)
		case id != "" && (snap.ByExchangeID == nil || snap.ByExchangeID.ID != id):
			t.Errorf("ByExchangeID = %v, want %s", snap.ByExchangeID, id)
		}
	}
	anyone := store.UserKey{App: App, Channel: "msteams", User: user(9)}
	elsewhere := anyone
	elsewhere.App = "app-2"
	expect(store.Query{User: anyone, ExchangeID: "ex-1"}, old.ID)
	expect(store.Query{User: elsewhere, ExchangeID: "ex-1"}, "")
	expect(store.Query{User: anyone, ExchangeID: "ex-2"}, "")

	// The names of two apps do not run together with their ids.
	joined := NewAttempt(at, user(2), "graph")
	joined.Key.App, joined.ExchangeID = App+"e", "x-1"
	insert(t, s, joined)
	expect(store.Query{User: anyone, ExchangeID: "ex-1"}, old.ID)
	elsewhere.App = joined.Key.App
	expect(store.Query{User: elsewhere, ExchangeID: "x-1"}, joined.ID)

	// After superseding, the old card's id still leads to the old attempt.
	old = Next(old, store.Failed, at)
	next := NewAttempt(at, user(1), "graph")
	next.ExchangeID = "ex-2"
	must(t, s, store.Commit{Put: []store.Attempt{old, next}})
	expect(store.Query{User: anyone, ExchangeID: "ex-1"}, old.ID)
	expect(store.Query{User: anyone, ExchangeID: "ex-2"}, next.ID)

	// A linked attempt takes the id over.
	next = Next(next, store.CardSent, at)
	next.ExchangeID = "ex-1"
	insert(t, s, next)
	expect(store.Query{User: anyone, ExchangeID: "ex-1"}, next.ID)
	expect(store.Query{User: anyone, ExchangeID: "ex-2"}, next.ID)

	// It keeps the id when the old attempt is written again, as at a sign-out.
	insert(t, s, Next(old, store.Failed, at))
	expect(store.Query{User: anyone, ExchangeID: "ex-1"}, next.ID)
}

func events(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	a, b := NewAttempt(at, user(1), "graph"), NewAttempt(at, user(2), "graph")
	note := func(id, detail string, after time.Duration) store.Event {
		return store.Event{Attempt: id, Kind: store.EventNote, Detail: detail, Code: "code", Time: at.Add(after), Duration: time.Millisecond + 1}
	}
	must(t, s, store.Commit{
		Put: []store.Attempt{a, b},
		Events: []store.Event{
			note(a.ID, "a1", 0), note(b.ID, "b1", time.Second), note("", "o1", 2*time.Second), note(a.ID, "a2", 3*time.Second),
		},
	})
	must(t, s, store.Commit{Events: []store.Event{note(a.ID, "a3", 4*time.Second), note("", "o2", 5*time.Second)}})
	for _, tc := range []struct {
		name string
		f    store.EventFilter
		want []string
		seqs []int64
	}{
		{"attempt", store.EventFilter{Attempt: a.ID}, []string{"a1", "a2", "a3"}, []int64{1, 2, 3}},
		{"another", store.EventFilter{Attempt: b.ID}, []string{"b1"}, []int64{1}},
		{"orphans", store.EventFilter{Orphans: true}, []string{"o1", "o2"}, nil},
		{"after", store.EventFilter{Attempt: a.ID, After: 1}, []string{"a2", "a3"}, []int64{2, 3}},
		{"after the last", store.EventFilter{Attempt: a.ID, After: 3}, nil, nil},
		{"limit", store.EventFilter{Attempt: a.ID, Limit: 2}, []string{"a1", "a2"}, []int64{1, 2}},
		{"since", store.EventFilter{Attempt: a.ID, Since: at.Add(3 * time.Second)}, []string{"a2", "a3"}, []int64{2, 3}},
		{"unknown", store.EventFilter{Attempt: "nope"}, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lines, err := s.Events(t.Context(), tc.f)
			if err != nil {
				t.Fatalf("Events: %v", err)
			}
			var details []string
			for i, e := range lines {
				details = append(details, e.Detail)
				if tc.seqs != nil && e.Seq != tc.seqs[i] {
					t.Errorf("line %d has Seq %d, want %d", i, e.Seq, tc.seqs[i])
				}
				if e.Duration != time.Millisecond || e.Code != "code" {
					t.Errorf("Duration = %v, Code = %q", e.Duration, e.Code)
				}
			}
			if diff := cmp.Diff(tc.want, details); diff != "" {
				t.Errorf("Events (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := s.Events(t.Context(), store.EventFilter{}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("of neither an attempt nor none: %v, want ErrInvalid", err)
	}
	t.Run("orphans by cursor", func(t *testing.T) {
		first, err := s.Events(t.Context(), store.EventFilter{Orphans: true, Limit: 1})
		if err != nil || len(first) != 1 {
			t.Fatalf("Events: %d, %v", len(first), err)
		}
		rest, err := s.Events(t.Context(), store.EventFilter{Orphans: true, After: first[0].Seq})
		if err != nil || len(rest) != 1 || rest[0].Detail != "o2" {
			t.Errorf("Events after %d: %+v, %v", first[0].Seq, rest, err)
		}
	})
}

// trailed tests Trail.
func trailed(t *testing.T, s store.Store) {
	t.Helper()
	at := now(t, s)
	a, b := NewAttempt(at, user(1), "graph"), NewAttempt(at, user(2), "graph")
	note := func(id, detail string, after time.Duration) store.Event {
		return store.Event{Attempt: id, Kind: store.EventNote, Detail: detail, Time: at.Add(after), Duration: time.Millisecond}
	}
	read := func(q store.TrailQuery) (details []string, out store.Trail) {
		t.Helper()
		out, err := s.Trail(t.Context(), q)
		if err != nil || out.Next == "" {
			t.Fatalf("Trail %+v: %+v, %v", q, out, err)
		}
		for _, e := range out.Events {
			details = append(details, e.Detail)
		}
		return details, out
	}
	expect := func(what string, want, got []string) {
		t.Helper()
		if diff := cmp.Diff(want, got, equateEmpty); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	none, empty := read(store.TrailQuery{})
	expect("nothing", nil, none)
	must(t, s, store.Commit{Put: []store.Attempt{a}, Events: []store.Event{note(a.ID, "a1", 0)}})
	must(t, s, store.Commit{Put: []store.Attempt{b}, Events: []store.Event{note(b.ID, "b1", time.Second)}})
	must(t, s, store.Commit{Events: []store.Event{note("", "o1", 2*time.Second)}})
	must(t, s, store.Commit{Events: []store.Event{note(a.ID, "a2", 3*time.Second)}})
	all := []string{"a1", "b1", "o1", "a2"}
	got, end := read(store.TrailQuery{})
	expect("all", all, got)
	got, end2 := read(store.TrailQuery{Cursor: empty.Next})
	expect("all, from a cursor", all, got)
	if a2 := end.Events[3]; a2.Attempt != a.ID || a2.Seq != 2 || a2.Duration != time.Millisecond || !a2.Time.Equal(at.Add(3*time.Second)) {
		t.Errorf("the last line is %+v", a2)
	}
	got, _ = read(store.TrailQuery{Since: at.Add(time.Second)})
	expect("since", all[1:], got)
	for _, begin := range []string{"", empty.Next} {
		var pages []string
		for q := (store.TrailQuery{Limit: 2, Cursor: begin}); ; {
			got, page := read(q)
			pages = append(pages, got...)
			if q.Cursor = page.Next; !page.More {
				break
			}
			if len(got) != q.Limit {
				t.Fatalf("a page of %d lines, want %d", len(got), q.Limit)
			}
		}
		expect("by pages", all, pages)
	}
	// A line that is written late.
	must(t, s, store.Commit{Events: []store.Event{note("", "late", -time.Hour)}})
	for _, cursor := range []string{end.Next, end2.Next} {
		got, page := read(store.TrailQuery{Cursor: cursor})
		expect("what came since", []string{"late"}, got)
		got, _ = read(store.TrailQuery{Cursor: page.Next})
		expect("nothing more", nil, got)
	}
	got, _ = read(store.TrailQuery{Cursor: end.Next, Since: at})
	expect("what came and happened since", nil, got)
	if _, err := s.Trail(t.Context(), store.TrailQuery{Cursor: "no cursor"}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a cursor that is none: %v, want ErrInvalid", err)
	}
}
