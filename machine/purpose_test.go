package machine_test

import (
	"context"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/machine"
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
