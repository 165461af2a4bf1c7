package machine_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Hooks, and so metrics and traces, see every silent sign-in, also those that do not
// read the store.
func TestHooksSeeEverySilentSignIn(t *testing.T) {
	var seen []string
	d := newDesk(t, func(cfg *machine.Config) {
		cfg.Hooks.OnEvent = func(_ context.Context, e store.Event) { seen = append(seen, string(e.Kind)+" "+e.Invoke) }
	})
	d.signIn("hello")
	d.exchange()
	d.drain()
	seen = nil
	for i := range 3 {
		if got := d.signIn("hello"); !got.SignedIn() {
			t.Fatalf("sign-in %d: %+v", i, got)
		}
	}
	want := "[received SignIn upstream GetToken received SignIn upstream GetToken received SignIn upstream GetToken]"
	if got := fmt.Sprint(seen); got != want {
		t.Errorf("the hooks saw %s", got)
	}
	if n := d.eng.SilentHits(); n != 3 {
		t.Errorf("%d silent hits, want 3", n)
	}
}

// A token that was fetched ahead is no call of the sign-in that finds it.
func TestFetchedAheadIsNoCall(t *testing.T) {
	var seen []string
	d := newDesk(t, func(cfg *machine.Config) {
		cfg.Prefetch = []string{"graph"}
		cfg.Hooks.OnEvent = func(_ context.Context, e store.Event) { seen = append(seen, string(e.Kind)+" "+e.Invoke) }
	})
	d.signIn("hello")
	d.exchange()
	d.drain()
	for range 2 { // the second one does not read the store
		seen = nil
		turn := d.eng.Turn(message("hello"))
		d.eng.Before(t.Context(), turn)
		if got, err := turn.SignIn(t.Context()); err != nil || !got.SignedIn() {
			t.Fatalf("%+v, %v", got, err)
		}
		if got := fmt.Sprint(seen); got != "[received SignIn]" {
			t.Errorf("the hooks saw %s", got)
		}
	}
}
