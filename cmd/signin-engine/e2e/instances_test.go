package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

const (
	instances  = 3
	duplicates = 3
	// paceOfSignIns is how many sign-ins a second the slowest machine manages.
	paceOfSignIns = 5
)

// TestInstances checks that three processes on one Postgres act as one bot. The
// invoke of each sign-in and its duplicates reach all of them at once. The token
// is exchanged once, the user is told once, and every invoke is answered 200.
func TestInstances(t *testing.T) {
	f := newFleet(t, instances, "", false)
	n := signIns()
	ctx, cancel := within(t, n)
	defer cancel()
	begun := time.Now()
	if err := f.each(ctx, n, nil, f.silently); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	s := f.settled(t)
	f.stop(t)
	sound(t, s)

	if got := f.w.Count(emulator.OpExchange); got != int64(n) {
		t.Errorf("%d exchanges upstream, want %d", got, n)
	}
	f.oneEach(t, n)
	rows := f.rows(t, s)
	if len(rows) != n {
		t.Errorf("%d users are complete, want %d", len(rows), n)
	}
	for user, r := range rows {
		if len(r) != 1 || r[0].Status != store.DeliveryDone || r[0].Tries != 1 {
			t.Errorf("the outbox holds %+v for %s, want one row delivered with one try", r, user)
		}
	}
	t.Logf("%d sign-ins on %d instances, each invoke %d times: %s, %.0f a second",
		n, instances, 1+duplicates, took.Round(time.Millisecond), float64(n)/took.Seconds())
}

// silently sends "login graph" and lets SSO run on every device at once.
func (f *fleet) silently(ctx context.Context, n int) error {
	user := f.user(n)
	if a, err := user.SendMessage(ctx, "login graph"); err != nil || a.Status != http.StatusOK {
		return fmt.Errorf("the message is answered %d, %w", a.Status, err)
	}
	card, err := f.w.WaitForCard(ctx, user.Conversation.ID, 0)
	if err != nil {
		return err
	}
	errs := make(chan error, 1+duplicates)
	var wg sync.WaitGroup
	for range 1 + duplicates {
		wg.Go(func() {
			a, err := user.TokenExchange(ctx, card.ExchangeID(), connection, "sso-"+user.User.ID)
			if err == nil && (a.Status != http.StatusOK || len(a.Body) > 0) {
				err = fmt.Errorf("the exchange is answered %d %s", a.Status, a.Body)
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// oneEach checks that each of n users was told once, after one exchange.
func (f *fleet) oneEach(t *testing.T, n int) {
	t.Helper()
	exchanges, told := map[string]int{}, map[string]int{}
	for _, r := range f.w.Requests(emulator.OpExchange) {
		exchanges[r.Query["userid"]]++
	}
	for _, a := range f.w.Activities("") {
		if a.Text == connectedText {
			told[a.ConversationID]++
		}
	}
	for i := 1; i <= n; i++ {
		u := f.user(i)
		if e, c := exchanges[u.User.ID], told[u.Conversation.ID]; e != 1 || c != 1 {
			t.Errorf("%s: %d exchanges, told %d times, want one of each", u.User.Name, e, c)
		}
	}
}

// TestInstancesFail is TestInstances while one process is killed and started
// again, and then the database restarts. The user may be told twice, but only by
// a second try of the same delivery.
func TestInstancesFail(t *testing.T) {
	f := newFleet(t, instances, quick, true)
	n := signIns()
	ctx, cancel := within(t, n)
	defer cancel()

	killed, restarted := make(chan struct{}), make(chan struct{})
	var mishaps sync.WaitGroup
	mishaps.Go(func() {
		if !happens(ctx, killed) {
			return
		}
		f.kill(0)
		if err := f.start(0); err != nil {
			t.Error(err)
		}
		if !happens(ctx, restarted) {
			return
		}
		if err := f.cluster.Restart(ctx, pgtest.Fast); err != nil {
			t.Error(err)
		}
	})
	var mu sync.Mutex
	people := &crowd{w: f.w}
	begun := time.Now()
	err := f.each(ctx, n, map[int]func(){
		max(1, n/3): func() { close(killed) },
		2 * n / 3:   func() { close(restarted) },
	}, func(ctx context.Context, i int) error {
		p := &person{w: f.w, teams: f.user(i)}
		mu.Lock()
		people.people = append(people.people, p)
		mu.Unlock()
		return p.insist(ctx)
	})
	took := time.Since(begun)
	if err != nil {
		cancel()
	}
	mishaps.Wait()
	if err != nil {
		t.Fatal(err)
	}
	s := f.settled(t)
	f.stop(t)
	sound(t, s)

	got := people.figures(t, s)
	if got.lost > 0 || got.incomplete > 0 || got.untold > 0 || got.odd > 0 {
		t.Errorf("lost, incomplete, untold and odd must be 0: %s", got)
	}
	rows := f.rows(t, s)
	if len(rows) != n {
		t.Errorf("%d users are complete, want %d", len(rows), n)
	}
	for user, r := range rows {
		if len(r) != 1 || r[0].Status != store.DeliveryDone {
			t.Errorf("the outbox holds %+v for %s, want one row that is delivered", r, user)
		}
	}
	t.Logf("%s: %s; %d exchanges upstream", took.Round(time.Millisecond), got, f.w.Count(emulator.OpExchange))
}

// happens waits until c is closed. It returns false if ctx is done first.
func happens(ctx context.Context, c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// insist repeats the sign-in until it works, as people do when a bot tells them
// that it is out of order.
func (p *person) insist(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.signIn(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// rows returns the outbox rows of completions, by user.
func (f *fleet) rows(t *testing.T, s store.Store) map[string][]store.Delivery {
	t.Helper()
	out := map[string][]store.Delivery{}
	for cursor := ""; ; {
		page, err := s.List(t.Context(), store.Filter{States: []store.State{store.Complete}, Limit: 500, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		users := map[string]string{}
		for _, a := range page.Attempts {
			users[a.ID] = a.Key.User
		}
		for _, d := range completions(page.Deliveries) {
			out[users[d.Attempt]] = append(out[users[d.Attempt]], d)
		}
		if cursor = page.Next; cursor == "" {
			return out
		}
	}
}

// signIns is how many sign-ins a test plays.
func signIns() int {
	if testing.Short() {
		return min(*howMany, 60)
	}
	return *howMany
}

// within is a context with time for n sign-ins.
func within(t *testing.T, n int) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), patience+time.Duration(n/paceOfSignIns)*time.Second)
}
