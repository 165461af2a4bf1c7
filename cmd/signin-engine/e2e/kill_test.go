package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// atOnce is how many users sign in at the same time.
const atOnce = 16

// TestRandomKills kills the bot at random moments under load and starts it again
// on the same file. In the end every user who signed in upstream has a
// completion, and every card that was seen has an attempt.
func TestRandomKills(t *testing.T) {
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), quick)
	begun := time.Now()
	p := b.start(t)

	c := newCrowd(t, w, b.patient(t))
	for range *rounds {
		life := time.NewTimer(20*time.Millisecond + rand.N(500*time.Millisecond))
		<-life.C
		p.kill()
		p = b.start(t)
	}
	c.goHome(t)
	b.settled(t)
	p.stopped(t)

	s := b.open(t)
	sound(t, s)
	f := c.figures(t, s)
	t.Logf("%d kills in %s: %s", *rounds, time.Since(begun).Round(time.Second), f)
	if f.lost > 0 || f.incomplete > 0 || f.untold > 0 || f.odd > 0 {
		t.Errorf("lost, incomplete, untold and odd must be 0: %s", f)
	}
}

// crowd is a stream of users who come, sign in and go, atOnce at a time. Every
// other user has no SSO.
type crowd struct {
	w    *world
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	people []*person
	failed []error
}

func newCrowd(t *testing.T, w *world, client *http.Client) *crowd {
	t.Helper()
	c := &crowd{w: w, stop: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	for slot := range atOnce {
		c.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-c.stop:
					return
				default:
				}
				p := &person{w: w, teams: w.user(client, fmt.Sprintf("user-%d-%d", slot, n)), popup: (slot+n)%2 == 1}
				err := p.signIn(ctx)
				c.mu.Lock()
				c.people = append(c.people, p)
				if err != nil {
					c.failed = append(c.failed, err)
				}
				c.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); c.wg.Wait() })
	return c
}

// goHome lets everybody finish who has begun, and starts nobody else.
func (c *crowd) goHome(t *testing.T) {
	t.Helper()
	close(c.stop)
	c.wg.Wait()
	for _, err := range c.failed {
		t.Error(err)
	}
}

// figures sums up a run.
type figures struct {
	people     int
	cards      int // cards in chats
	attempts   int
	lost       int // cards without an attempt
	incomplete int // users with a token and without a completion
	untold     int // completed users who were never told
	doubled    int // messages beyond a user's first
	odd        int // messages that no try of a delivery accounts for
}

func (f figures) String() string {
	return fmt.Sprintf("%d users, %d cards, %d attempts; lost %d, incomplete %d, untold %d, odd %d; told twice %d",
		f.people, f.cards, f.attempts, f.lost, f.incomplete, f.untold, f.odd, f.doubled)
}

func (c *crowd) figures(t *testing.T, s store.Store) figures {
	t.Helper()
	f := figures{people: len(c.people)}
	complete := map[string]bool{} // by user
	tries := map[string]int{}     // tries of callbacks, by user
	asked := map[string]bool{}    // messages that an attempt answered, by activity id
	for cursor := ""; ; {
		page, err := s.List(t.Context(), store.Filter{Limit: 500, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		users := map[string]string{}
		for _, a := range page.Attempts {
			f.attempts++
			users[a.ID] = a.Key.User
			complete[a.Key.User] = complete[a.Key.User] || a.State == store.Complete
			events, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if e.Kind == store.EventReceived {
					asked[e.Activity] = true
				}
			}
		}
		for _, d := range completions(page.Deliveries) {
			tries[users[d.Attempt]] += d.Tries
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	told := map[string]int{} // by conversation
	for _, a := range c.w.Activities("") {
		switch {
		case a.Card != nil:
			f.cards++
			if !asked[a.ReplyToID] {
				f.lost++
			}
		case a.Text == connectedText:
			told[a.ConversationID]++
		}
	}
	for _, p := range c.people {
		user, texts := p.teams.User.ID, told[p.teams.Conversation.ID]
		if c.w.signedIn(p.teams) && !complete[user] {
			f.incomplete++
		}
		if complete[user] && texts == 0 && tries[user] > 0 {
			f.untold++
		}
		f.doubled += max(0, texts-1)
		if texts > tries[user] {
			f.odd++
		}
	}
	return f
}
