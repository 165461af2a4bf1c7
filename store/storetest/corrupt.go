package storetest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// damaged is a store in which two records cannot be decoded: one of an open attempt and
// one of an ended attempt. Sound records precede and follow them.
type damaged struct {
	Harness
	at                   time.Time
	before               time.Time     // old and ended have ended before it
	open, ended          store.Attempt // cannot be decoded
	first, last          store.Attempt // the oldest and the newest, open and due
	old                  store.Attempt // ended long ago
	sameUser, sameKey    store.Attempt // another connection of open's user; an older attempt of ended's key
	rowOfOpen, rowOfLast store.Delivery
}

// Corrupt tests that a record that cannot be decoded does not block others.
func Corrupt(t *testing.T, open New) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *damaged){
		"Get":    getBeside,
		"Find":   findBeside,
		"List":   listBeside,
		"Counts": countBeside,
		"Due":    dueBeside,
		"Claim":  claimBeside,
		"Purge":  purgeBeside,
		"Apply":  applyBeside,
		"Reopen": reopenBeside,
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			if h.Damage == nil {
				return // a backend without an encoding
			}
			test(t, damage(t, h))
		})
	}
	t.Run("Delivery", func(t *testing.T) { damagedDelivery(t, open(t)) })
}

// damagedDelivery tests that a delivery that cannot be decoded is skipped.
func damagedDelivery(t *testing.T, h Harness) {
	t.Helper()
	if h.DamageDelivery == nil {
		return
	}
	s := h.Store
	at := now(t, s)
	long := at.Add(-48 * time.Hour)
	var bad, good store.Attempt
	for i, a := range []*store.Attempt{&bad, &good} {
		*a = NewAttempt(long.Add(time.Duration(i)*time.Second), user(i), "graph")
		insert(t, s, *a)
		*a = Next(*a, store.Complete, long.Add(time.Minute))
		insert(t, s, *a)
	}
	one, two, other := Owed(&bad, 1, at.Add(-time.Hour)), Owed(&bad, 2, at.Add(-time.Minute)), Owed(&good, 1, at)
	must(t, s, store.Commit{Deliveries: []store.Delivery{one, two, other}})
	h.DamageDelivery(t, one.DeliveryKey)

	q := store.ClaimQuery{Owner: "bot-a", Limit: 1, Hold: longHold}
	wantClaimed(t, "behind one that cannot be decoded", claimOf(t, s, q), two)
	wantClaimed(t, "of another attempt", claimOf(t, s, q), other)
	q.Limit = 10
	wantClaimed(t, "no more", claimOf(t, s, q))
	q.Attempt = bad.ID
	wantClaimed(t, "of the attempt", claimOf(t, s, q))

	errs := s.Apply(t.Context(), []store.Commit{{Deliveries: []store.Delivery{one}}, {Drop: []string{bad.ID}}})
	if !errors.Is(errs[0], store.ErrConflict) || errs[1] != nil {
		t.Errorf("an insertion and a drop of it: %v; want ErrConflict, nil", errs)
	}
	page, err := s.List(t.Context(), store.Filter{})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if diff := cmp.Diff(ids([]store.Attempt{good, bad}), ids(page.Attempts)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	wantClaimed(t, "deliveries of the page", page.Deliveries, other, two)
	named(t, "List", page.Corrupt, bad.ID)
	c, err := s.Counts(t.Context(), at)
	if err != nil || c.Owed < 1 || c.Owed > 2 { // two was dropped; the undecodable one may be counted
		t.Errorf("Counts = %+v, %v", c, err)
	}
	if _, err := s.Purge(t.Context(), at, 0, false); err != nil {
		t.Errorf("Purge: %v", err)
	}
	if _, err := s.Get(t.Context(), good.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after the purge: %v, want ErrNotFound", err)
	}
}

func damage(t *testing.T, h Harness) *damaged {
	t.Helper()
	s := h.Store
	d := &damaged{Harness: h, at: now(t, s)}
	long := d.at.Add(-48 * time.Hour)
	d.before = long.Add(time.Hour)
	make1 := func(after time.Duration, n int, connection string) store.Attempt {
		a := NewAttempt(long.Add(after), user(n), connection)
		a.Lease.Until = a.Created.Add(time.Second)
		a.Expires = a.Lease.Until
		return a
	}
	d.first = make1(2*time.Second, 1, "graph")
	d.open = make1(time.Second, 2, "graph") // due first
	d.open.ID, d.open.ExchangeID = NewID(long.Add(3*time.Second)), "ex-bad"
	d.sameKey = make1(4*time.Second, 3, "graph")
	d.ended = make1(5*time.Second, 3, "graph")
	d.sameUser = make1(6*time.Second, 2, "github")
	d.sameUser.Lease.Until = time.Time{} // never due
	d.old = make1(7*time.Second, 4, "graph")
	d.last = make1(8*time.Second, 5, "graph")
	d.last.ExchangeID = "ex-good"
	for _, a := range []*store.Attempt{&d.first, &d.open, &d.sameKey, &d.ended, &d.sameUser, &d.old, &d.last} {
		must(t, s, store.Commit{Put: []store.Attempt{*a}, Events: []store.Event{Line(a, store.None)}})
		var to store.State
		switch a {
		case &d.open:
			to = store.CardSent
		case &d.sameKey:
			to = store.Failed
		case &d.ended, &d.old:
			to = store.Complete
		default:
			continue
		}
		*a = Next(*a, to, a.Created)
		insert(t, s, *a)
	}
	d.rowOfOpen, d.rowOfLast = Owed(&d.open, 1, d.at.Add(-time.Hour)), Owed(&d.last, 1, d.at.Add(-time.Minute))
	must(t, s, store.Commit{Deliveries: []store.Delivery{d.rowOfOpen, d.rowOfLast}})
	h.Damage(t, d.open.ID)
	h.Damage(t, d.ended.ID)
	return d
}

// sound returns the ids of the attempts that can be decoded, newest first.
func (d *damaged) sound() []string {
	return ids([]store.Attempt{d.last, d.old, d.sameUser, d.sameKey, d.first})
}

// named checks which records a read named as corrupt.
func named(t *testing.T, what string, corrupt []store.Corrupt, want ...string) {
	t.Helper()
	got := make([]string, 0, len(corrupt))
	for _, c := range corrupt {
		got = append(got, c.ID)
		if !errors.Is(c.Err, store.ErrCorrupt) {
			t.Errorf("%s: %s was passed over for %v, want ErrCorrupt", what, c.ID, c.Err)
		}
	}
	slices.SortFunc(want, func(a, b string) int { return strings.Compare(b, a) })
	slices.SortFunc(got, func(a, b string) int { return strings.Compare(b, a) })
	if diff := cmp.Diff(want, got, equateEmpty); diff != "" {
		t.Errorf("%s: passed over (-want +got):\n%s", what, diff)
	}
}

func getBeside(t *testing.T, d *damaged) {
	t.Helper()
	for _, id := range []string{d.open.ID, d.ended.ID} {
		if _, err := d.Store.Get(t.Context(), id); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("Get: %v, want ErrCorrupt", err)
		}
	}
	get(t, d.Store, d.first.ID)
}

func reopenBeside(t *testing.T, d *damaged) {
	t.Helper()
	if d.Reopen == nil {
		return
	}
	d.Store = d.Reopen(t)
	listBeside(t, d)
	dueBeside(t, d)
}

func findBeside(t *testing.T, d *damaged) {
	t.Helper()
	user := d.open.Key.UserKey()
	for what, q := range map[string]store.Query{
		"the open attempt of the connection": {User: user, Connection: "Graph"},
		"its exchange id":                    {User: user, ExchangeID: "ex-bad"},
		"its exchange id, sent by another":   {User: d.last.Key.UserKey(), Connection: "graph", ExchangeID: "ex-bad"},
	} {
		if _, err := d.Store.Find(t.Context(), q); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("Find %s: %v, want ErrCorrupt", what, err)
		}
	}
	for _, tc := range []struct {
		what    string
		q       store.Query
		want    []string
		corrupt []string
	}{
		{"of another user", store.Query{User: d.last.Key.UserKey(), Connection: "graph", ExchangeID: "ex-good"}, []string{d.last.ID}, nil},
		{"of another connection", store.Query{User: user, Connection: "github"}, []string{d.sameUser.ID}, nil},
		{"of the whole user", store.Query{User: user}, []string{d.sameUser.ID}, []string{d.open.ID}},
		{"of the whole user, one", store.Query{User: user, Limit: 1}, []string{d.sameUser.ID}, []string{d.open.ID}},
		{"behind one that ended", store.Query{User: d.ended.Key.UserKey(), Connection: "graph"}, []string{d.sameKey.ID}, []string{d.ended.ID}},
	} {
		snap, err := d.Store.Find(t.Context(), tc.q)
		if err != nil {
			t.Errorf("Find %s: %v", tc.what, err)
			continue
		}
		if diff := cmp.Diff(tc.want, ids(snap.Attempts)); diff != "" {
			t.Errorf("Find %s (-want +got):\n%s", tc.what, diff)
		}
		named(t, "Find "+tc.what, snap.Corrupt, tc.corrupt...)
	}
}

func listBeside(t *testing.T, d *damaged) {
	t.Helper()
	page, err := d.Store.List(t.Context(), store.Filter{})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if diff := cmp.Diff(d.sound(), ids(page.Attempts)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	named(t, "List", page.Corrupt, d.open.ID, d.ended.ID)
	wantClaimed(t, "deliveries of the page", page.Deliveries, d.rowOfLast)
	for limit := range len(d.sound()) {
		f := store.Filter{Limit: limit + 1}
		var got []string
		var corrupt []store.Corrupt
		for {
			page, err := d.Store.List(t.Context(), f)
			if err != nil {
				t.Fatalf("List by %d: %v", f.Limit, err)
			}
			got, corrupt = append(got, ids(page.Attempts)...), append(corrupt, page.Corrupt...)
			if f.Cursor = page.Next; f.Cursor == "" {
				break
			}
		}
		if diff := cmp.Diff(d.sound(), got); diff != "" {
			t.Errorf("List by %d (-want +got):\n%s", limit+1, diff)
		}
		named(t, "List by pages", corrupt, d.open.ID, d.ended.ID)
	}
	for what, tc := range map[string]struct {
		f    store.Filter
		want []string
	}{
		"open":                      {store.Filter{Open: true}, ids([]store.Attempt{d.last, d.sameUser, d.first})},
		"of a user":                 {store.Filter{User: d.open.Key.User}, []string{d.sameUser.ID}},
		"of a user by object id":    {store.Filter{User: d.open.Conversation.UserAAD}, []string{d.sameUser.ID}},
		"of a state":                {store.Filter{States: []store.State{store.CardSent, store.Complete}}, []string{d.old.ID}},
		"owed":                      {store.Filter{Owed: true}, []string{d.last.ID}},
		"with a prefix":             {store.Filter{IDPrefix: d.open.ID}, nil},
		"created in between":        {store.Filter{Since: d.first.Created, Until: d.last.Created}, ids([]store.Attempt{d.old, d.sameUser, d.sameKey, d.first})},
		"with a method that it has": {store.Filter{Method: store.MethodTokenExchange}, []string{d.old.ID}},
	} {
		page, err := d.Store.List(t.Context(), tc.f)
		if err != nil {
			t.Errorf("List %s: %v", what, err)
		}
		if diff := cmp.Diff(tc.want, ids(page.Attempts), equateEmpty); diff != "" {
			t.Errorf("List %s (-want +got):\n%s", what, diff)
		}
	}
}

func countBeside(t *testing.T, d *damaged) {
	t.Helper()
	c, err := d.Store.Counts(t.Context(), d.before.Add(-2*time.Hour))
	if err != nil {
		t.Fatalf("Counts: %v", err)
	}
	// A record that cannot be decoded may be counted under its last known state.
	if c.Open[store.Idle] != 3 || !c.Oldest[store.Idle].Equal(d.first.Entered) || c.Ended["Failed:superseded"] != 1 {
		t.Errorf("Counts = %+v", c)
	}
	if n := c.Ended["Complete:tokenExchange"]; n != 1 && n != 2 {
		t.Errorf("%d have ended in Complete, want 1, or 2 with the one that cannot be decoded", n)
	}
}

func dueBeside(t *testing.T, d *damaged) {
	t.Helper()
	expect := func(what string, limit int, hold time.Duration, want, corrupt []string) {
		t.Helper()
		snap, err := d.Store.Due(t.Context(), limit, hold)
		if err != nil {
			t.Fatalf("Due, %s: %v", what, err)
		}
		if diff := cmp.Diff(want, ids(snap.Attempts), equateEmpty); diff != "" {
			t.Errorf("Due, %s (-want +got):\n%s", what, diff)
		}
		named(t, "Due, "+what, snap.Corrupt, corrupt...)
	}
	expect("the first", 1, shortHold, nil, []string{d.open.ID})
	expect("the second", 1, longHold, []string{d.first.ID}, nil)
	d.pass(t, 2*shortHold)
	expect("after the hold of the first", 10, longHold, []string{d.last.ID}, []string{d.open.ID})
	expect("within the hold", 10, longHold, nil, nil)
}

func claimBeside(t *testing.T, d *damaged) {
	t.Helper()
	s := d.Store
	next := Owed(&d.last, 2, d.at)
	must(t, s, store.Commit{Deliveries: []store.Delivery{next}})
	of := func(got []store.Delivery) []store.Delivery {
		return slices.DeleteFunc(got, func(r store.Delivery) bool { return r.Attempt == d.open.ID })
	}
	got := of(claim(t, s, "bot-a", 10, longHold))
	wantClaimed(t, "beside the row of a record that cannot be decoded", got, d.rowOfLast)
	if len(got) == 1 {
		must(t, s, store.Commit{Acks: []store.Ack{answer(got[0], become(store.DeliveryDone))}})
	}
	wantClaimed(t, "the next round", of(claim(t, s, "bot-a", 10, longHold)), next)
}

func purgeBeside(t *testing.T, d *damaged) {
	t.Helper()
	purge := func(limit int, dry bool, want int) {
		t.Helper()
		if n, err := d.Store.Purge(t.Context(), d.before, limit, dry); err != nil || n != want {
			t.Fatalf("Purge(limit %d, dry %v) = %d, %v; want %d", limit, dry, n, err, want)
		}
	}
	purge(0, true, 2)
	purge(1, false, 1)
	purge(0, false, 1)
	purge(0, false, 0)
	for _, a := range []store.Attempt{d.old, d.sameKey} {
		if _, err := d.Store.Get(t.Context(), a.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get after the purge: %v, want ErrNotFound", err)
		}
	}
	for _, id := range []string{d.open.ID, d.ended.ID} {
		if _, err := d.Store.Get(t.Context(), id); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("Get after the purge: %v, want ErrCorrupt", err)
		}
	}
}

// applyBeside tests that a record that cannot be decoded still holds its key, and that
// others can be written.
func applyBeside(t *testing.T, d *damaged) {
	t.Helper()
	s := d.Store
	if err := apply(t, s, store.Commit{Put: []store.Attempt{NewAttempt(d.at, d.open.Key.User, "graph")}}); !errors.Is(err, store.ErrExists) {
		t.Errorf("a second attempt of its key: %v, want ErrExists", err)
	}
	insert(t, s, NewAttempt(d.at, d.ended.Key.User, "graph"), Next(d.first, store.CardSent, d.at), Next(d.sameUser, store.Complete, d.at))
	must(t, s, store.Commit{Events: []store.Event{{Attempt: d.open.ID, Kind: store.EventNote, Time: d.at, Detail: "seen"}}})
	lines, err := s.Events(t.Context(), store.EventFilter{Attempt: d.open.ID})
	if err != nil || len(lines) != 2 {
		t.Errorf("%d lines of it, %v; want 2", len(lines), err)
	}
}
