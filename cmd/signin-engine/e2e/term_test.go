package e2e

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
)

// brisk lets a test see recovery soon. Leases keep their default length: a
// process that is stopped gives its leases back, so nobody waits for one.
const brisk = `
timeouts: {sweep: 200ms}
`

// TestTermUnderLoad stops the bot by SIGTERM again and again while users sign in.
// Each time the process exits without an error. It leaves no attempt in the
// middle of a call, and no callback that was begun but not acknowledged. So in
// the end no user was told twice.
func TestTermUnderLoad(t *testing.T) {
	w := newWorld(t, true)
	b := newBot(t, w, program(t, served()), brisk)
	begun := time.Now()
	p := b.start(t)
	c := newCrowd(t, w, b.patient(t))
	for range termRounds() {
		load(t)
		p.stopped(t)
		if t.Failed() {
			return
		}
		s, err := boltstore.Open(b.db, boltstore.WithReadOnly())
		if err != nil {
			t.Fatal(err)
		}
		leftBehind(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		p = b.start(t)
	}
	c.goHome(t)
	b.settled(t)
	p.stopped(t)
	s := b.open(t)
	sound(t, s)
	toldOnce(t, c, s)
	calm(t, b)
	t.Logf("%d stops in %s: %s", termRounds(), time.Since(begun).Round(time.Second), c.figures(t, s))
}

// TestTermUnderLoadPostgres is the same with two processes on one Postgres, which
// are stopped in turn. Each finishes what it has begun.
func TestTermUnderLoadPostgres(t *testing.T) {
	f := newFleetOf(t, served(), 2, brisk, true)
	begun := time.Now()
	c := newCrowd(t, f.w, &http.Client{Transport: f})
	for n := range termRounds() {
		load(t)
		i := n % len(f.bots)
		f.bots[i].serving().stopped(t)
		if t.Failed() {
			return
		}
		if err := f.start(i); err != nil {
			t.Fatal(err)
		}
	}
	c.goHome(t)
	s := f.settled(t)
	f.stop(t)
	sound(t, s)
	toldOnce(t, c, s)
	for _, b := range f.bots {
		calm(t, b)
	}
	t.Logf("%d stops in %s: %s", termRounds(), time.Since(begun).Round(time.Second), c.figures(t, s))
}

// served builds the program with the race detector if the test itself has it.
func served() func() (string, error) {
	if raceDetector {
		return raced
	}
	return released
}

func termRounds() int {
	if testing.Short() {
		return min(*terms, 3)
	}
	return *terms
}

// load waits for a short random time while users sign in.
func load(t *testing.T) {
	t.Helper()
	moment := time.NewTimer(50*time.Millisecond + rand.N(300*time.Millisecond))
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-t.Context().Done():
	}
}

// leftBehind reports what a process that was stopped must not leave behind.
func leftBehind(t *testing.T, s store.Store) {
	t.Helper()
	each(t, s, store.Filter{Open: true}, func(p *store.Page) {
		for _, a := range p.Attempts {
			if a.State != store.CardSent {
				t.Errorf("%s is left in %s", a.ID, a.State)
			}
		}
	})
	each(t, s, store.Filter{Owed: true}, func(p *store.Page) {
		for _, d := range p.Deliveries {
			if d.Status == store.DeliveryPending && (d.Owner != "" || d.Tries > 0) {
				t.Errorf("the callback %s was begun %d times by %q and is not acknowledged", d.DeliveryKey, d.Tries, d.Owner)
			}
		}
	})
}

// toldOnce reports users who were told twice, and callbacks that took more than
// one try.
func toldOnce(t *testing.T, c *crowd, s store.Store) {
	t.Helper()
	f := c.figures(t, s)
	if f.lost > 0 || f.incomplete > 0 || f.untold > 0 || f.odd > 0 || f.doubled > 0 {
		t.Errorf("lost, incomplete, untold, odd and told twice must be 0: %s", f)
	}
	each(t, s, store.Filter{}, func(p *store.Page) {
		for _, d := range p.Deliveries {
			if d.Status == store.DeliveryDone && d.Tries != 1 {
				t.Errorf("the callback %s took %d tries", d.DeliveryKey, d.Tries)
			}
		}
	})
}

// each reads all pages of a list.
func each(t *testing.T, s store.Store, f store.Filter, see func(*store.Page)) {
	t.Helper()
	for f.Limit = 500; ; {
		page, err := s.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		see(&page)
		if f.Cursor = page.Next; f.Cursor == "" {
			return
		}
	}
}

// calm reports errors and data races in the bot's log.
func calm(t *testing.T, b *bot) {
	t.Helper()
	for line := range bytes.Lines(b.log()) {
		if bytes.Contains(line, []byte(`"level":"error"`)) || bytes.Contains(line, []byte("DATA RACE")) {
			t.Errorf("the bot's log: %s", line)
			return
		}
	}
}
