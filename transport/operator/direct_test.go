package operator_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func TestGetByPrefix(t *testing.T) {
	d := direct(fixture(t))
	for _, tc := range []struct {
		id   string
		want string
		err  error
	}{
		{id: stuckID, want: stuckID},
		{id: "01jsd4k2q80000000000000002", want: doneID},
		{id: prefix, err: operator.ErrAmbiguous},
		{id: "01ZZ", err: store.ErrNotFound},
		{id: "", err: operator.ErrBadRequest},
	} {
		got, err := d.Get(t.Context(), tc.id)
		if !errors.Is(err, tc.err) || got.ID != tc.want {
			t.Errorf("%q: %s, %v; want %s, %v", tc.id, got.ID, err, tc.want, tc.err)
		}
	}
}

func TestListFilters(t *testing.T) {
	d := direct(fixture(t))
	for name, tc := range map[string]struct {
		query operator.Query
		want  []string
	}{
		"all, newest first": {operator.Query{}, []string{doneID, stuckID}},
		"connection":        {operator.Query{Connection: "GRAPH"}, []string{stuckID}},
		"age":               {operator.Query{AgeGT: time.Minute}, []string{stuckID}},
		"stuck":             {operator.Query{Stuck: true}, []string{doneID, stuckID}},
		"stuck and failed":  {operator.Query{Stuck: true, States: []store.State{store.Failed}}, []string{doneID}},
		"code":              {operator.Query{FailureCode: "resourcematchfailed"}, []string{doneID}},
		"nobody":            {operator.Query{User: "29:9"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			page, err := d.List(t.Context(), tc.query)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range page.Attempts {
				got = append(got, v.ID)
			}
			if !equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestStuckPages(t *testing.T) {
	d := direct(fixture(t))
	first, err := d.List(t.Context(), operator.Query{Stuck: true, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Attempts) != 1 || first.NextCursor == "" {
		t.Fatalf("first page: %d attempts, cursor %q", len(first.Attempts), first.NextCursor)
	}
	second, err := d.List(t.Context(), operator.Query{Stuck: true, Limit: 1, Cursor: first.NextCursor})
	if err != nil {
		t.Fatal(err)
	}
	if len(second.Attempts) != 1 || second.Attempts[0].ID != stuckID {
		t.Fatalf("second page: %+v", second.Attempts)
	}
}

// The overview has findings of the rules about many attempts.
func TestOverviewKnowsTheFleet(t *testing.T) {
	st := fixture(t)
	for i := range 4 {
		a := doneAttempt()
		a.ID = "01JSD4K2Q9000000000000000" + string(rune('1'+i))
		commit(t, st, store.Commit{Put: []store.Attempt{a}})
	}
	o, err := direct(st).Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]int{}
	for _, f := range o.Stuck {
		rules[f.Rule]++
	}
	if rules["flapping"] != 1 || rules["failure-burst"] != 1 || rules["lease-expired"] != 1 || rules["callback-lag"] != 1 {
		t.Errorf("stuck: %v", rules)
	}
}

// TestCallbackDue checks that only a callback that is due counts.
func TestCallbackDue(t *testing.T) {
	now := morning()
	st := fixture(t)
	due := func(want time.Duration) {
		t.Helper()
		if got, err := direct(st).CallbackDue(t.Context()); err != nil || got != want {
			t.Errorf("due for %s, want %s: %v", got, want, err)
		}
	}
	due(0) // one callback is delivered, one is dead
	owe := func(id string, round int, nextAt time.Time) {
		t.Helper()
		commit(t, st, store.Commit{Deliveries: []store.Delivery{{
			DeliveryKey: store.DeliveryKey{Attempt: id, Kind: store.DeliverFailure, Round: round},
			Status:      store.DeliveryPending, Created: now.Add(-time.Hour), NextAt: nextAt,
		}}})
	}
	owe(stuckID, 1, now.Add(time.Minute)) // waits for the time of its next try
	owe(stuckID, 2, now.Add(-time.Hour))  // waits for round 1
	due(0)
	owe(doneID, 3, now.Add(-time.Minute))
	due(time.Minute)
}

// sick is a store of which one read fails.
type sick struct {
	store.Store
	reads, fail int // fail is the number of the read that fails, from 1; 0: none
}

func (s *sick) read() error {
	if s.reads++; s.reads == s.fail {
		return store.ErrUnavailable
	}
	return nil
}

func (s *sick) List(ctx context.Context, f store.Filter) (store.Page, error) {
	if err := s.read(); err != nil {
		return store.Page{}, err
	}
	return s.Store.List(ctx, f)
}

func (s *sick) Get(ctx context.Context, id string) (store.Snapshot, error) {
	if err := s.read(); err != nil {
		return store.Snapshot{}, err
	}
	return s.Store.Get(ctx, id)
}

func (s *sick) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	if err := s.read(); err != nil {
		return store.Snapshot{}, err
	}
	return s.Store.Find(ctx, q)
}

func (s *sick) Events(ctx context.Context, f store.EventFilter) ([]store.Event, error) {
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.Events(ctx, f)
}

func (s *sick) Trail(ctx context.Context, q store.TrailQuery) (store.Trail, error) {
	if err := s.read(); err != nil {
		return store.Trail{}, err
	}
	return s.Store.Trail(ctx, q)
}

func (s *sick) Counts(ctx context.Context, since time.Time) (store.Counts, error) {
	if err := s.read(); err != nil {
		return store.Counts{}, err
	}
	return s.Store.Counts(ctx, since)
}

func (s *sick) Info(ctx context.Context) (store.Info, error) {
	if err := s.read(); err != nil {
		return store.Info{}, err
	}
	return s.Store.Info(ctx)
}

// A query whose reads did not all work is an error: half an overview would look like a
// healthy one.
func TestNoReadFailsInSilence(t *testing.T) {
	st := fixture(t)
	for name, query := range map[string]func(*operator.Direct) error{
		"overview": func(d *operator.Direct) error { _, err := d.Overview(t.Context()); return err },
		"info":     func(d *operator.Direct) error { _, err := d.Info(t.Context()); return err },
		"list":     func(d *operator.Direct) error { _, err := d.List(t.Context(), operator.Query{}); return err },
		"by age": func(d *operator.Direct) error {
			_, err := d.List(t.Context(), operator.Query{AgeGT: time.Minute})
			return err
		},
		"stuck":  func(d *operator.Direct) error { _, err := d.List(t.Context(), operator.Query{Stuck: true}); return err },
		"get":    func(d *operator.Direct) error { _, err := d.Get(t.Context(), stuckID); return err },
		"prefix": func(d *operator.Direct) error { _, err := d.Get(t.Context(), stuckID[:20]); return err },
		"search": func(d *operator.Direct) error { _, err := d.Get(t.Context(), "fc67"); return err },
		"events": func(d *operator.Direct) error { _, err := d.Events(t.Context(), operator.EventQuery{}); return err },
		"orphans": func(d *operator.Direct) error {
			_, err := d.Events(t.Context(), operator.EventQuery{Orphans: true})
			return err
		},
	} {
		counted := &sick{Store: st}
		_ = query(direct(counted))
		if counted.reads == 0 {
			t.Errorf("%s reads nothing", name)
		}
		for n := range counted.reads {
			if err := query(direct(&sick{Store: st, fail: n + 1})); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s: read %d of %d fails, and the result is %v", name, n+1, counted.reads, err)
			}
		}
	}
}

// Trails and lists of lines are longer than a page.
func TestMoreLinesThanAPage(t *testing.T) {
	st := fixture(t)
	const n = 2500
	var lines []store.Event
	for i := range n {
		lines = append(lines, store.Event{Attempt: stuckID, Time: morning(), Kind: store.EventNote, Status: i})
	}
	for range n {
		lines = append(lines, store.Event{Time: morning(), Kind: store.EventReceived, Invoke: "SignIn", Key: store.Key{App: "e3cb1c84", Channel: "msteams", User: "29:other"}})
	}
	last := store.Key{App: "e3cb1c84", Channel: "msteams", User: "29:last"}
	commit(t, st, store.Commit{Events: append(lines, store.Event{Time: morning(), Kind: store.EventReceived, Invoke: "SignIn", Key: last})})
	d := direct(st)
	got, err := d.Get(t.Context(), stuckID)
	if err != nil || len(got.Events) != n+2 {
		t.Fatalf("%d lines, %v; want %d", len(got.Events), err, n+2)
	}
	for i, e := range got.Events {
		if i >= 2 && e.Status != i-2 {
			t.Fatalf("line %d is that of %d", i, e.Status)
		}
	}
	if _, lines, err := operator.StoryWithout(t.Context(), d, last.User); err != nil || len(lines) != 1 {
		t.Errorf("%d lines of the last user, %v", len(lines), err)
	}
}
