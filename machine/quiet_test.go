package machine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
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

// Hooks see the lines of callbacks that the outbox makes, and of a key's rotation.
func TestHooksSeeTheOutbox(t *testing.T) {
	t.Parallel()
	var seen []string
	broken := true
	d := newDesk(t, func(cfg *machine.Config) {
		cfg.Hooks.OnEvent = func(_ context.Context, e store.Event) {
			if e.Kind == store.EventCallback || e.Kind == store.EventOperator {
				seen = append(seen, string(e.Kind)+" "+e.Invoke+" "+e.Detail)
			}
		}
	})
	d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
		if broken {
			return errors.New("no database")
		}
		return nil
	})
	d.signIn("hello")
	d.exchange()
	broken = false
	d.deliver(1100 * time.Millisecond)
	if _, err := d.eng.RotateKey(t.Context(), machine.Operator{Actor: "eve", Reason: "ticket 7"}); err != nil {
		t.Fatal(err)
	}
	said := func(i int, start, end string) bool {
		return strings.HasPrefix(seen[i], start) && strings.HasSuffix(seen[i], end)
	}
	if len(seen) != 3 || !said(0, "callback ", "pending: no database") || !said(1, "callback ", "delivered") || !said(2, "operator rotate-key ", "ticket 7") {
		t.Errorf("the hooks saw %q", seen)
	}
}
