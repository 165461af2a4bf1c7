// Package storetest has the tests that every backend of package store must pass. Each
// suite tests one guarantee; [Run] runs them all.
//
// The suites do not assume that they control the store's clock. They read the time from
// the store, and move its clock only if the harness can.
package storetest

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/signin-engine/signin-engine/store"
)

// Harness gives the suites one empty store.
type Harness struct {
	// Store is open and empty; the harness closes it when the test ends.
	Store store.Store
	// Advance moves the store's clock forward. If it is nil, the suites wait in real
	// time.
	Advance func(d time.Duration)
	// Reopen closes the store and opens it again. Nil for a backend that does not
	// persist.
	Reopen func(t *testing.T) store.Store
	// Second opens the same data a second time, as another instance would. Nil for a
	// backend of one process.
	Second func(t *testing.T) store.Store
	// Damage makes an attempt's record undecodable, by writing what a newer program or a
	// bad disk might have left there. Nil for a backend without an encoding.
	Damage func(t *testing.T, id string)
	// DamageDelivery makes a delivery undecodable. Nil as for Damage.
	DamageDelivery func(t *testing.T, k store.DeliveryKey)
}

// New makes a harness for one test.
type New func(t *testing.T) Harness

// Run runs every suite.
func Run(t *testing.T, open New) {
	t.Helper()
	for _, suite := range []struct {
		name string
		run  func(*testing.T, New)
	}{
		{"Semantics", Semantics},
		{"Uniqueness", Uniqueness},
		{"Groups", Groups},
		{"Concurrency", Concurrency},
		{"Outbox", Outbox},
		{"Due", Due},
		{"Changed", Changed},
		{"Marks", Marks},
		{"Lists", Lists},
		{"Purge", Purge},
		{"Reopen", Reopen},
		{"Corrupt", Corrupt},
		{"Model", Model},
	} {
		t.Run(suite.name, func(t *testing.T) { suite.run(t, open) })
	}
}

// App is the bot of all records in the suites.
const App = "app-1"

// NewID makes a ULID for a time.
func NewID(at time.Time) string {
	return ulid.MustNew(ulid.Timestamp(at), rand.Reader).String()
}

// NewAttempt returns a complete, valid Idle attempt of a user, to be inserted. at is the
// store's time.
func NewAttempt(at time.Time, user, connection string) store.Attempt {
	at = store.Time(at)
	return store.Attempt{
		ID:      NewID(at),
		Version: 1,
		Key:     store.Key{App: App, Channel: "msteams", User: user, Connection: connection},
		State:   store.Idle,
		Origin:  store.OriginSignIn,
		Conversation: store.Conversation{
			ServiceURL: "https://smba.trafficmanager.net/emea/", Channel: "msteams", ID: "a:1" + user, Type: "personal",
			Tenant: "tenant-1", BotID: "28:bot", UserID: user, UserAAD: "AAD-" + user, Locale: "en-US",
		},
		Created: at,
		Entered: at,
		Expires: at.Add(15 * time.Minute),
		Lease:   store.Lease{Owner: "bot-a", Fence: 1, Until: at.Add(30 * time.Second)},
	}
}

// Next returns the attempt's next version, in a state that it entered at a time. A
// terminal state gets a method or a reason.
func Next(a store.Attempt, to store.State, at time.Time) store.Attempt {
	n := a.Clone()
	n.Version++
	n.State = to
	n.Entered = store.Time(at)
	switch to {
	case store.Complete:
		n.Method = store.MethodTokenExchange
	case store.Failed:
		n.Reason = store.ReasonSuperseded
	case store.Idle, store.CardSent, store.Exchanging, store.Verifying, store.None:
	}
	return n
}

// Line returns a transition's audit line.
func Line(a *store.Attempt, from store.State) store.Event {
	return store.Event{
		Attempt: a.ID, Time: a.Entered, Instance: "bot-a", Kind: store.EventTransition, Row: "B1",
		Version: a.Version, From: from, To: a.State, Duration: 1500 * time.Microsecond,
	}
}

// Owed returns a pending delivery of the attempt's completion.
func Owed(a *store.Attempt, round int, at time.Time) store.Delivery {
	return store.Delivery{
		DeliveryKey: store.DeliveryKey{Attempt: a.ID, Kind: store.DeliverComplete, Round: round},
		Status:      store.DeliveryPending, Created: store.Time(at), NextAt: store.Time(at),
	}
}

// now asks the store for its time.
func now(t *testing.T, s store.Store) time.Time {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatalf("Info: %v", err)
	}
	return info.Now
}

// pass lets d pass on the store's clock.
func (h *Harness) pass(t *testing.T, d time.Duration) {
	t.Helper()
	if h.Advance != nil {
		h.Advance(d)
		return
	}
	for end := now(t, h.Store).Add(d); now(t, h.Store).Before(end); {
		timer := time.NewTimer(d / 10)
		select {
		case <-timer.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// apply writes one commit.
func apply(t *testing.T, s store.Store, c store.Commit) error {
	t.Helper()
	errs := s.Apply(t.Context(), []store.Commit{c})
	if len(errs) != 1 {
		t.Fatalf("Apply of 1 commit has %d results", len(errs))
	}
	return errs[0]
}

// must writes one commit, which must succeed.
func must(t *testing.T, s store.Store, c store.Commit) {
	t.Helper()
	if err := apply(t, s, c); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

// insert stores new attempts, each in a commit of its own.
func insert(t *testing.T, s store.Store, attempts ...store.Attempt) {
	t.Helper()
	for i := range attempts {
		must(t, s, store.Commit{Put: attempts[i : i+1]})
	}
}

// get reads one attempt.
func get(t *testing.T, s store.Store, id string) store.Attempt {
	t.Helper()
	snap, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatalf("Get(%s): %v", id, err)
	}
	if len(snap.Attempts) != 1 {
		t.Fatalf("Get(%s): %d attempts", id, len(snap.Attempts))
	}
	return snap.Attempts[0]
}

// ids returns the ids of attempts, in order.
func ids(attempts []store.Attempt) []string {
	out := make([]string, 0, len(attempts))
	for i := range attempts {
		out = append(out, attempts[i].ID)
	}
	return out
}

// user returns the id of the nth user.
func user(n int) string { return fmt.Sprintf("29:user-%d", n) }
