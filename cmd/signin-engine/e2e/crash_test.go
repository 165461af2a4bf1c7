package e2e

import (
	"context"
	"testing"

	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
)

// TestCrashPoints kills the bot at every crash point of docs/state-machine.md §5
// and starts it again. The clients meanwhile act as Teams does.
func TestCrashPoints(t *testing.T) {
	const sso, popup = "sso", "popup"
	for _, c := range []struct {
		name, way  string
		failpoints []string // one per process, in turn
		callbacks  int      // tries of the callback for the one completion
		texts      int      // messages that reached the user
	}{
		{"resource", sso, []string{"before POST card"}, 1, 1},
		{"resource", popup, []string{"before POST card"}, 1, 1},
		{"card", sso, []string{"after POST card"}, 1, 1},
		{"card", popup, []string{"after POST card"}, 1, 1},
		{"claim", sso, []string{"before exchange"}, 1, 1},
		{"claim", popup, []string{"before GetToken with code"}, 1, 1},
		{"upstream", sso, []string{"after exchange"}, 1, 1},
		{"upstream", popup, []string{"after GetToken with code"}, 1, 1},
		{"recovery", popup, []string{"after GetToken with code", "after GetToken again"}, 1, 1},
		{"settled", sso, []string{"before callback"}, 2, 1},
		{"settled", popup, []string{"before callback"}, 2, 1},
		// Only here can the user get the message again, once for each time the
		// bot dies.
		{"told", sso, []string{"after callback"}, 2, 2},
		{"told", popup, []string{"after callback", "after callback"}, 3, 3},
	} {
		t.Run(c.name+" "+c.way, func(t *testing.T) {
			t.Parallel()
			crash(t, c.failpoints, c.way == popup, c.callbacks, c.texts)
		})
	}
}

func crash(t *testing.T, failpoints []string, popup bool, callbacks, texts int) {
	t.Helper()
	w := newWorld(t, !popup)
	b := newBot(t, w, program(t, mined), quick)
	p := &person{w: w, teams: w.user(b.patient(t), "robin"), popup: popup}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.signIn(ctx) }()
	for _, name := range failpoints {
		doomed := b.start(t, "SIGNIN_ENGINE_FAILPOINT="+name)
		select {
		case <-doomed.exited:
		case <-ctx.Done():
			t.Fatalf("the process does not come to %q", name)
		}
		if !doomed.killed() {
			t.Fatalf("the process ended otherwise: %v", doomed.err)
		}
	}
	last := b.start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.settled(t)
	last.stopped(t)

	if p.cards != 1 {
		t.Errorf("it took the user %d cards: the first one must do", p.cards)
	}
	if got := w.connected(p.teams); got != texts {
		t.Errorf("the user was told %d times, want %d", got, texts)
	}
	s := b.open(t)
	sound(t, s)
	page, err := s.List(t.Context(), store.Filter{User: p.teams.User.ID})
	if err != nil {
		t.Fatal(err)
	}
	var complete []store.Attempt
	for _, a := range page.Attempts {
		if a.State == store.Complete {
			complete = append(complete, a)
		}
	}
	if len(complete) != 1 {
		t.Fatalf("%d attempts are complete, want 1: %+v", len(complete), page.Attempts)
	}
	rows := completions(page.Deliveries)
	if len(rows) != 1 || rows[0].Attempt != complete[0].ID || rows[0].Status != store.DeliveryDone || rows[0].Tries != callbacks {
		t.Errorf("the outbox holds %+v, want one row of %s delivered with %d tries", rows, complete[0].ID, callbacks)
	}
}

// sound checks those invariants of docs/state-machine.md §8 that a store shows.
func sound(t *testing.T, s store.Store) {
	t.Helper()
	bad, err := machinetest.Violations(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bad {
		t.Errorf("invariant %s", b)
	}
}

// completions selects the rows for the callback of a completion.
func completions(rows []store.Delivery) []store.Delivery {
	var out []store.Delivery
	for _, r := range rows {
		if r.Kind == store.DeliverComplete {
			out = append(out, r)
		}
	}
	return out
}
