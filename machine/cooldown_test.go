package machine

import (
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// TestComposeCooldown: a message extension asks with every keystroke, so its
// attempts have a cool-down of their own (A10, M1).
func TestComposeCooldown(t *testing.T) {
	def, err := define(Table())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, c := range []struct {
		origin store.Origin
		age    time.Duration
		row    string
	}{
		{store.OriginCompose, 29 * time.Second, "A10"},
		{store.OriginCompose, 31 * time.Second, "A11"},
		{store.OriginSignIn, 0, "A11"},
	} {
		policy, timeouts := DefaultPolicy(), DefaultTimeouts()
		d, err := def.step(&Input{
			Attempt: &store.Attempt{State: store.CardSent, Origin: c.origin, Entered: now.Add(-c.age), Expires: now.Add(time.Hour)},
			Event:   Event{Kind: NoToken}, Now: now, Policy: &policy, Timeouts: &timeouts, NewID: "new",
		})
		if err != nil || d.Rule.Row != c.row {
			t.Errorf("%s after %s: %+v, %v; want row %s", c.origin, c.age, d.Rule, err, c.row)
		}
	}
}
