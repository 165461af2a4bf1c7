package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
)

// Model runs random operations on a store and on memstore, and compares everything that
// can be read from both.
func Model(t *testing.T, open New) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		h := open(t)
		m := &model{h: h, real: h.Store}
		defer func() { _ = m.real.Close() }()
		m.start = now(t, h.Store)
		m.clock = m.start
		m.twin = memstore.New(func() time.Time { return m.clock })
		if h.Advance == nil {
			// The two clocks differ slightly, so holds end at roughly the same time.
			m.opts = append(m.opts, cmpopts.EquateApproxTime(time.Minute))
		}
		rt.Repeat(map[string]func(*rapid.T){
			"apply": m.apply,
			"due":   m.due,
			"claim": m.claim,
			"purge": m.purge,
			"time":  func(rt *rapid.T) { m.advance(rt) },
			"reopen": func(*rapid.T) {
				if h.Reopen != nil {
					m.real = h.Reopen(t)
				}
			},
			"": func(rt *rapid.T) { m.compare(rt) },
		})
	})
}

type model struct {
	h     Harness
	real  store.Store
	twin  *memstore.Store
	start time.Time
	clock time.Time // the twin's
	known []string  // ids used so far
	opts  []gocmp.Option
}

// tick sets the twin's clock to the store's.
func (m *model) tick(rt *rapid.T) {
	info, err := m.real.Info(rt.Context())
	if err != nil {
		rt.Fatalf("Info: %v", err)
	}
	m.clock = info.Now
}

func (m *model) advance(rt *rapid.T) {
	if m.h.Advance != nil {
		m.h.Advance(time.Duration(rapid.IntRange(1, 90).Draw(rt, "minutes")) * time.Minute)
	}
}

func (m *model) at(rt *rapid.T, label string) time.Time {
	return store.Time(m.start.Add(time.Duration(rapid.IntRange(-120, 120).Draw(rt, label)) * time.Minute))
}

func (m *model) id(rt *rapid.T) string {
	if len(m.known) > 0 && rapid.IntRange(0, 9).Draw(rt, "known") > 0 {
		return rapid.SampledFrom(m.known).Draw(rt, "id")
	}
	return NewID(m.start)[:10] + "ZZZZZZZZZZZZZZZZ" // hardly ever stored
}

// userOf returns the user of an id: uniqueness across users is not tested.
func userOf(id string) string {
	if id != "" && id[len(id)-1]%2 == 0 {
		return "u2"
	}
	return "u1"
}

func (m *model) attempt(rt *rapid.T) store.Attempt {
	conn := rapid.SampledFrom([]string{"a", "A", "b"}).Draw(rt, "connection")
	var a store.Attempt
	if rapid.IntRange(0, 2).Draw(rt, "insert") == 0 || len(m.known) == 0 {
		a = NewAttempt(m.at(rt, "created"), "", conn)
		// The id is deterministic, so that rapid can shrink a failure.
		a.ID = fmt.Sprintf("%s%016d", a.ID[:10], len(m.known))
		a.Key.User = userOf(a.ID)
		m.known = append(m.known, a.ID)
	} else {
		id := m.id(rt)
		snap, err := m.twin.Get(rt.Context(), id)
		if err != nil {
			created := m.start
			if u, err := ulid.Parse(id); err == nil {
				created = u.Timestamp()
			}
			a = NewAttempt(created, userOf(id), conn)
			a.ID = id
		} else {
			a = snap.Attempts[0]
		}
		a.Version += int64(rapid.SampledFrom([]int{1, 1, 1, 1, 0, 2}).Draw(rt, "version"))
		if a.Version > 1 && rapid.IntRange(0, 9).Draw(rt, "other key") == 0 {
			a.Key.User, a.Key.Connection = rapid.SampledFrom([]string{"u1", "u2"}).Draw(rt, "user"), conn
		}
	}
	a.State = rapid.SampledFrom([]store.State{
		store.Idle, store.CardSent, store.Exchanging, store.Verifying, store.Complete, store.Failed, store.Failed,
	}).Draw(rt, "state")
	a.Entered = a.Created.Add(time.Duration(rapid.IntRange(0, 120).Draw(rt, "entered")) * time.Minute)
	a.Lease.Until = m.at(rt, "lease")
	a.Expires = m.at(rt, "expires")
	if a.ExchangeID = rapid.SampledFrom([]string{"", "x1", "x2", "x3"}).Draw(rt, "exchange id"); a.ExchangeID != "" {
		a.ExchangeID += a.Key.User
	}
	a.Conversation.UserAAD = rapid.SampledFrom([]string{"", "aad1", "AAD1", "aad2"}).Draw(rt, "aad")
	a.Method = rapid.SampledFrom([]store.Method{"", store.MethodSilent}).Draw(rt, "method")
	return a
}

func (m *model) commit(rt *rapid.T) store.Commit {
	var c store.Commit
	for range rapid.SampledFrom([]int{0, 1, 1, 1, 2, 3}).Draw(rt, "puts") {
		c.Put = append(c.Put, m.attempt(rt))
	}
	for i := range rapid.IntRange(0, 3).Draw(rt, "events") {
		e := store.Event{Kind: store.EventNote, Time: m.clock, Detail: fmt.Sprint(i)}
		if rapid.Bool().Draw(rt, "of an attempt") {
			e.Attempt = m.id(rt)
		}
		c.Events = append(c.Events, e)
	}
	for range rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(rt, "deliveries") {
		d := Owed(&store.Attempt{ID: m.id(rt)}, rapid.IntRange(1, 4).Draw(rt, "round"), m.at(rt, "next at"))
		d.Status = rapid.SampledFrom([]store.DeliveryStatus{
			store.DeliveryPending, store.DeliveryPending, store.DeliveryDone, store.DeliveryDead, store.DeliveryUndeliverable,
		}).Draw(rt, "status")
		d.Kind = rapid.SampledFrom([]store.DeliveryKind{store.DeliverComplete, store.DeliverFailure}).Draw(rt, "kind")
		c.Deliveries = append(c.Deliveries, d)
	}
	for range rapid.SampledFrom([]int{0, 1, 1, 2}).Draw(rt, "acks") {
		if ack, ok := m.ack(rt); ok {
			c.Acks = append(c.Acks, ack)
		}
	}
	if rapid.IntRange(0, 4).Draw(rt, "drops") == 0 {
		c.Drop = append(c.Drop, m.id(rt))
	}
	if rapid.IntRange(0, 2).Draw(rt, "marked") == 0 {
		c.Marks = append(c.Marks, m.mark(rt))
	}
	if ids := aboutOf(&c); len(ids) > 0 && rapid.Bool().Draw(rt, "says whose") {
		if u := userOf(ids[0]); !slices.ContainsFunc(ids, func(id string) bool { return userOf(id) != u }) {
			c.User = store.UserKey{App: App, Channel: "msteams", User: u}
		}
	}
	return c
}

// aboutOf returns the attempts that a commit is about, besides its Puts.
func aboutOf(c *store.Commit) []string {
	ids := slices.Clone(c.Drop)
	for i := range c.Events {
		ids = append(ids, c.Events[i].Attempt)
	}
	for i := range c.Deliveries {
		ids = append(ids, c.Deliveries[i].Attempt)
	}
	for i := range c.Acks {
		ids = append(ids, c.Acks[i].Attempt)
	}
	return slices.DeleteFunc(ids, func(id string) bool { return id == "" })
}

// ack returns an ack of a stored row, which mostly matches it.
func (m *model) ack(rt *rapid.T) (store.Ack, bool) {
	page, err := m.twin.List(rt.Context(), store.Filter{Limit: 1000})
	if err != nil {
		rt.Fatalf("List: %v", err)
	}
	if len(page.Deliveries) == 0 {
		return store.Ack{}, false
	}
	d := rapid.SampledFrom(page.Deliveries).Draw(rt, "acknowledged")
	ack := store.Ack{Delivery: d, By: d.Owner, Try: d.Tries}
	switch rapid.IntRange(0, 9).Draw(rt, "wrong") {
	case 0:
		ack.By += "x"
	case 1:
		ack.Try++
	}
	ack.Owner = rapid.SampledFrom([]string{"", "", "bot"}).Draw(rt, "owner")
	ack.NextAt = m.at(rt, "next at")
	ack.Status = rapid.SampledFrom([]store.DeliveryStatus{
		store.DeliveryPending, store.DeliveryPending, store.DeliveryDone, store.DeliveryDead, store.DeliveryUndeliverable, store.DeliveryDropped,
	}).Draw(rt, "status")
	return ack, true
}

// markNames are the names of all marks.
func markNames() []string { return []string{"m1", "m2"} }

// mark returns a mark that inserts, replaces or removes; mostly it matches the stored
// version.
func (m *model) mark(rt *rapid.T) store.Mark {
	mark := store.Mark{Name: rapid.SampledFrom(markNames()).Draw(rt, "mark"), Version: 1}
	if had, err := m.twin.Mark(rt.Context(), mark.Name); err == nil && rapid.IntRange(0, 3).Draw(rt, "replaced") > 0 {
		mark.Version = had.Version + int64(rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(rt, "version"))
		mark.Gone = rapid.IntRange(0, 3).Draw(rt, "gone") == 0
	}
	mark.Value = []byte(rapid.SampledFrom([]string{"", "value", "another"}).Draw(rt, "value"))
	if rapid.Bool().Draw(rt, "with an end") {
		mark.Expires = m.at(rt, "end")
	}
	return mark
}

func (m *model) apply(rt *rapid.T) {
	m.tick(rt)
	var commits []store.Commit
	for range rapid.IntRange(1, 3).Draw(rt, "commits") {
		commits = append(commits, m.commit(rt))
	}
	want := m.twin.Apply(rt.Context(), commits)
	got := m.real.Apply(rt.Context(), commits)
	for i := range commits {
		if !errors.Is(reason(got[i]), reason(want[i])) {
			rt.Fatalf("commit %d: %v, want %v", i, got[i], want[i])
		}
	}
}

// reason returns the error value of package store in err.
func reason(err error) error {
	if err == nil {
		return nil
	}
	for _, target := range []error{
		store.ErrNotFound, store.ErrExists, store.ErrConflict, store.ErrDuplicate, store.ErrInvalid, store.ErrUnavailable,
	} {
		if errors.Is(err, target) {
			return target
		}
	}
	return err
}

func (m *model) due(rt *rapid.T) {
	m.tick(rt)
	limit := rapid.IntRange(0, 3).Draw(rt, "limit")
	want, err1 := m.twin.Due(rt.Context(), limit, longHold)
	got, err2 := m.real.Due(rt.Context(), limit, longHold)
	if err := errors.Join(err1, err2); err != nil {
		rt.Fatalf("Due: %v", err)
	}
	m.equal(rt, "Due", want.Attempts, got.Attempts)
}

func (m *model) claim(rt *rapid.T) {
	m.tick(rt)
	q := store.ClaimQuery{Owner: "bot", Limit: rapid.IntRange(0, 3).Draw(rt, "limit"), Hold: longHold}
	if rapid.IntRange(0, 3).Draw(rt, "of one attempt") == 0 {
		q.Attempt = m.id(rt)
	}
	want, err1 := m.twin.Claim(rt.Context(), q)
	got, err2 := m.real.Claim(rt.Context(), q)
	if err := errors.Join(err1, err2); err != nil {
		rt.Fatalf("Claim: %v", err)
	}
	m.equal(rt, "Claim", want, got)
}

func (m *model) purge(rt *rapid.T) {
	m.tick(rt)
	before := m.at(rt, "before")
	limit, dry := rapid.IntRange(0, 2).Draw(rt, "limit"), rapid.Bool().Draw(rt, "dry")
	want, err1 := m.twin.Purge(rt.Context(), before, limit, dry)
	got, err2 := m.real.Purge(rt.Context(), before, limit, dry)
	if err := errors.Join(err1, err2); err != nil || got != want {
		rt.Fatalf("Purge = %d, %v; want %d", got, err, want)
	}
	if limit > 0 && !dry { // the two may have purged different attempts
		want, err1 = m.twin.Purge(rt.Context(), before, 0, false)
		got, err2 = m.real.Purge(rt.Context(), before, 0, false)
		if err := errors.Join(err1, err2); err != nil || got != want {
			rt.Fatalf("the rest of Purge = %d, %v; want %d", got, err, want)
		}
	}
}

// compare compares both through every read.
func (m *model) compare(rt *rapid.T) {
	m.tick(rt)
	for _, u := range []string{"u1", "u2"} {
		for _, q := range []store.Query{
			{ExchangeID: "x1u1"},
			{ExchangeID: "x2u2", Limit: 2},
			{ExchangeID: "x3u1", Connection: "a"},
			{Connection: "B", Limit: 2},
		} {
			q.User = store.UserKey{App: App, Channel: "msteams", User: u}
			want, err1 := m.twin.Find(rt.Context(), q)
			got, err2 := m.real.Find(rt.Context(), q)
			m.same(rt, "Find", err1, err2)
			m.equal(rt, "Find", want.Attempts, got.Attempts)
			m.equal(rt, "Find by exchange id", want.ByExchangeID, got.ByExchangeID)
		}
	}
	for _, f := range []store.Filter{
		{},
		{Limit: 2},
		{Open: true},
		{Owed: true, Limit: 2},
		{User: "u1"},
		{User: "aad1"},
		{User: "AAD2", Limit: 1},
		{States: []store.State{store.Idle, store.Failed}},
		{Since: m.start.Add(-time.Hour), Until: m.start.Add(time.Hour)},
		{EnteredUntil: m.start, Limit: 3},
	} {
		for {
			want, err1 := m.twin.List(rt.Context(), f)
			got, err2 := m.real.List(rt.Context(), f)
			m.same(rt, "List", err1, err2)
			want.Now, got.Now = time.Time{}, time.Time{}
			m.equal(rt, "List", want, got)
			if f.Cursor = want.Next; f.Cursor == "" {
				break
			}
		}
	}
	for _, id := range slices.Concat([]string{""}, m.known) {
		f := store.EventFilter{Attempt: id, Orphans: id == ""}
		want, err1 := m.twin.Events(rt.Context(), f)
		got, err2 := m.real.Events(rt.Context(), f)
		m.same(rt, "Events", err1, err2)
		m.equal(rt, "Events", numbered(want), numbered(got))
	}
	for _, name := range markNames() {
		want, err1 := m.twin.Mark(rt.Context(), name)
		got, err2 := m.real.Mark(rt.Context(), name)
		m.same(rt, "Mark", err1, err2)
		m.equal(rt, "Mark", want, got)
	}
	for _, q := range []store.TrailQuery{{}, {Limit: 2}, {Since: m.start.Add(time.Minute)}} {
		m.equal(rt, "Trail", trail(rt, m.twin, q), trail(rt, m.real, q))
	}
	for _, since := range []time.Duration{-3 * time.Hour, -30 * time.Minute, time.Hour} {
		want, err1 := m.twin.Counts(rt.Context(), m.start.Add(since))
		got, err2 := m.real.Counts(rt.Context(), m.start.Add(since))
		m.same(rt, "Counts", err1, err2)
		want.Now, got.Now = time.Time{}, time.Time{}
		m.equal(rt, "Counts", want, got)
	}
}

func (m *model) same(rt *rapid.T, what string, want, got error) {
	if !errors.Is(reason(got), reason(want)) {
		rt.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func (m *model) equal(rt *rapid.T, what string, want, got any) {
	if reflect.DeepEqual(want, got) {
		return
	}
	if diff := gocmp.Diff(want, got, append(m.opts, equateEmpty)...); diff != "" {
		rt.Fatalf("%s (-twin +store):\n%s", what, diff)
	}
}

// numbered numbers lines without an attempt by their position, since a store is free to
// choose their Seq.
func numbered(lines []store.Event) []store.Event {
	for i := range lines {
		if lines[i].Attempt == "" {
			lines[i].Seq = int64(i)
		}
	}
	return lines
}

// trail reads the trail page by page, and sorts the lines, since a store is free to
// order those that were written together.
func trail(rt *rapid.T, s store.Store, q store.TrailQuery) []store.Event {
	var out []store.Event
	for more := true; more; {
		t, err := s.Trail(rt.Context(), q)
		if err != nil {
			rt.Fatalf("Trail: %v", err)
		}
		out, more, q.Cursor = append(out, t.Events...), t.More, t.Next
	}
	slices.SortStableFunc(out, func(a, b store.Event) int {
		return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Attempt, b.Attempt))
	})
	return numbered(out)
}
