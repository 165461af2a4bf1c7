package machine_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// A sign-in's purpose reaches the handler that it was for, and no other; where the
// activity is not kept there is none.
func TestPurpose(t *testing.T) {
	for _, tt := range []struct {
		name    string
		purpose string
		keep    bool
		want    string
	}{
		{"its own", "report", true, "report: hello"},
		{"another", "mail", true, ""},
		{"none", "", true, ""},
		{"not kept", "report", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t, func(cfg *machine.Config) { cfg.Policy.KeepRequest = tt.keep })
			got, every := "", ""
			d.eng.OnSignIn(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				every = turn.Purpose()
				return nil
			})
			report := func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				got += turn.Purpose() + ": " + strings.TrimSuffix(strings.TrimPrefix(string(turn.Request()), `{"text":"`), `"}`)
				return nil
			}
			if err := d.eng.OnSignInFor("report", report); err != nil {
				t.Fatal(err)
			}
			if err := d.eng.OnSignInFor("report", report); err == nil || err.Error() != `the purpose "report" has a handler already` {
				t.Errorf("a second handler: %v", err)
			}
			if err := d.eng.OnSignInFor("", report); err == nil {
				t.Error("the empty purpose has a handler")
			}
			if _, err := d.eng.Turn(message("hello")).SignIn(t.Context(), machine.WithPurpose(tt.purpose)); err != nil {
				t.Fatal(err)
			}
			d.exchange()
			if got != tt.want {
				t.Errorf("the handler got %q, want %q", got, tt.want)
			}
			if want := map[bool]string{true: tt.purpose}[tt.keep]; every != want {
				t.Errorf("a handler for every sign-in sees the purpose %q, want %q", every, want)
			}
		})
	}
}

func TestPurposeWithNUL(t *testing.T) {
	d := newDesk(t, nil)
	_, err := d.eng.Turn(message("hello")).SignIn(t.Context(), machine.WithPurpose("a\x00b"))
	if err == nil || err.Error() != "sign in: the purpose has a NUL character" {
		t.Errorf("%v", err)
	}
}

// What the user asked while a sign-in was pending comes back in order, each activity
// to the handler of its purpose. A store that cannot be read then is waited for.
func TestPurposesOfSupersededAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &unreadable{}
		d := newDesk(t, func(cfg *machine.Config) { broken.Store, cfg.Store = cfg.Store, broken })
		var got []string
		keys := map[string]bool{}
		for _, purpose := range []string{"report", "mail"} {
			err := d.eng.OnSignInFor(purpose, func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				got = append(got, turn.Purpose()+" "+string(turn.Request()))
				keys[turn.DeliveryKey()] = true
				if len(got) == 3 {
					return errors.New("once more")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, asked := range []struct{ text, purpose string }{{"one", "report"}, {"two", "mail"}, {"three", ""}, {"four", "report"}} {
			act := message(asked.text)
			act.ID = asked.text
			if _, err := d.eng.Turn(act).SignIn(t.Context(), machine.WithPurpose(asked.purpose)); err != nil {
				t.Fatal(err)
			}
		}
		broken.down = true
		answer, _ := d.eng.HandleInvoke(t.Context(), activity("invoke", machine.InvokeTokenExchange, "", `{"id":"x-4","connectionName":"graph","token":"jwt"}`))
		if answer.Status != 200 || len(got) > 0 {
			t.Fatalf("%d, %q", answer.Status, got)
		}
		broken.down = false
		if rows := d.rows(); len(rows) != 1 || rows[0].Status != store.DeliveryPending {
			t.Fatalf("the callback is not owed: %+v", rows)
		}
		d.deliver(2 * time.Second)
		d.deliver(2 * time.Second)
		want := []string{`report {"text":"one"}`, `mail {"text":"two"}`, `report {"text":"four"}`}
		if !slices.Equal(got, slices.Concat(want, want)) {
			t.Errorf("the handlers got %q, want %q twice", got, want)
		}
		// Each activity has a key of its own, which is the same in the second try.
		if own := d.rows()[0].String(); len(keys) != len(want) || !keys[own] {
			t.Errorf("the keys are %q, want %d with %s", slices.Sorted(maps.Keys(keys)), len(want), own)
		}
	})
}

// unreadable is a store whose superseded attempts cannot be read while it is down.
type unreadable struct {
	store.Store
	down bool
}

func (u *unreadable) Get(ctx context.Context, id string) (store.Snapshot, error) {
	snap, err := u.Store.Get(ctx, id)
	if u.down && err == nil && snap.Attempts[0].Reason == store.ReasonSuperseded {
		return store.Snapshot{}, store.ErrUnavailable
	}
	return snap, err
}
