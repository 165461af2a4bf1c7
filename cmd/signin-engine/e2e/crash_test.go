package e2e

import (
	"context"
	"testing"

	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
)

// TestCrashPoints ends the bot at every point of state-machine.md §5, starts it
// again and lets the clients go on as Teams does.
func TestCrashPoints(t *testing.T) {
	type way struct {
		name  string
		popup bool
	}
	sso, popup := way{"sso", false}, way{"popup", true}
	for _, c := range []struct {
		name, failpoint string
		ways            []way
		callbacks       int // begun for the one completion
		texts           int // that got through
	}{
		{"resource", "before POST card", []way{sso, popup}, 1, 1},
		{"card", "after POST card", []way{sso, popup}, 1, 1},
		{"claim", "before exchange", []way{sso}, 1, 1},
		{"claim", "before GetToken with code", []way{popup}, 1, 1},
		{"upstream", "after exchange", []way{sso}, 1, 1},
		{"upstream", "after GetToken with code", []way{popup}, 1, 1},
		{"settled", "before callback", []way{sso, popup}, 2, 1},
		{"told", "after callback", []way{sso, popup}, 2, 2}, // the one place where a text may come twice
	} {
		for _, way := range c.ways {
			t.Run(c.name+" "+way.name, func(t *testing.T) {
				t.Parallel()
				crash(t, c.failpoint, way.popup, c.callbacks, c.texts)
			})
		}
	}
}

func crash(t *testing.T, failpoint string, popup bool, callbacks, texts int) {
	t.Helper()
	w := newWorld(t, !popup)
	b := newBot(t, w, program(t, mined), quick)
	p := &person{w: w, teams: w.user(b.patient(t), "robin"), popup: popup}
	first := b.start(t, "SIGNIN_ENGINE_FAILPOINT="+failpoint)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.signIn(ctx) }()
	select {
	case <-first.exited:
		if !first.killed() {
			t.Fatalf("the process ended otherwise: %v", first.err)
		}
	case err := <-done:
		t.Fatalf("the process was not killed; the sign-in ended with %v", err)
	}
	second := b.start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.settled(t)
	second.stopped(t)

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

// sound checks the invariants of state-machine.md §8 that a store shows.
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

// completions are the rows that owe the news of a completion.
func completions(rows []store.Delivery) []store.Delivery {
	var out []store.Delivery
	for _, r := range rows {
		if r.Kind == store.DeliverComplete {
			out = append(out, r)
		}
	}
	return out
}
