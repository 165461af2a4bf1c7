package e2e

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// TestDirect covers a connection that bypasses the Token Service. The reference
// bot itself exchanges the client's SSO token. It stores the result sealed, and
// the process that follows a kill still has it.
func TestDirect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(canaryMarks+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBot(t, w, program(t, released), `  - name: calendar
    display_name: Calendar
    direct: {scopes: ["https://graph.microsoft.com/Calendars.Read"], link: https://bot.example/consent}
encryption_key_file: `+keys+"\n")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p := b.start(t)
	user := w.user(b.client(t), "direct")
	user.User = emulator.Account{ID: seedUser, Name: "Rido", AADObjectID: seedAAD}
	say := func(text, want string) {
		t.Helper()
		if a, err := user.SendMessage(ctx, text); err != nil || a.Status != http.StatusOK {
			t.Fatalf("%s: %d, %v", text, a.Status, err)
		}
		if want == "" {
			return
		}
		if _, err := w.WaitForText(ctx, user.Conversation.ID, want); err != nil {
			t.Fatalf("%s: %v; the user reads %+v", text, err, w.Activities(user.Conversation.ID))
		}
	}
	exchange := func(card *emulator.Card) int {
		t.Helper()
		a, err := user.TokenExchange(ctx, card.ExchangeID(), "calendar", w.SSOToken(user.User.ID))
		if err != nil {
			t.Fatal(err)
		}
		return a.Status
	}

	switches := w.Switches()
	switches.NoConsent = true
	w.SetSwitches(switches)
	say("login calendar", "")
	card, err := w.WaitForCard(ctx, user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(card.SignInLink, "https://bot.example/consent?") || card.TokenExchangeResource.URI != "api://botid-"+appID {
		t.Errorf("card %+v", card)
	}
	if got := exchange(&card); got != http.StatusPreconditionFailed {
		t.Errorf("without consent: %d", got)
	}
	switches.NoConsent = false
	w.SetSwitches(switches)
	if got := exchange(&card); got != http.StatusOK {
		t.Errorf("with consent: %d", got)
	}
	say("status", "**calendar** (Calendar): connected")
	manifest := filepath.Join(t.TempDir(), "manifest.json")
	if err := os.WriteFile(manifest, []byte(`{"validDomains": ["bot.example"], "webApplicationInfo": {"id": "`+appID+`", "resource": "api://wrong"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, _ := b.run(t, "doctor", "--config", b.config, "--manifest", manifest)
	for _, want := range []string{
		`(?m)^connections +ok +2 configured$`,
		`(?m)^manifest, calendar +fail +webApplicationInfo.resource is api://wrong, and .* is api://botid-` + appID,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("doctor does not say %q:\n%s", want, out)
		}
	}

	p.kill()
	p = b.start(t)
	say("login calendar", "Already signed in to Calendar.")
	say("logout calendar", "Signed out from Calendar.")
	p.stopped(t)

	for _, e := range w.requests() {
		if e.path() != "/botframework.com/oauth2/v2.0/token" && strings.Contains(e.target, "connectionName=calendar") {
			t.Errorf("the Token Service was asked: %s %s", e.method, e.target)
		}
		if bytes.Contains(e.body, []byte("on_behalf_of")) && e.status == http.StatusOK {
			_, rest, _ := bytes.Cut(e.answer, []byte(`"access_token":"`))
			token, _, _ := bytes.Cut(rest, []byte(`"`))
			file, err := os.ReadFile(b.db)
			if err != nil || len(token) == 0 || bytes.Contains(file, token) {
				t.Errorf("the token of %d bytes is in the file as it is, or could not be looked for: %v", len(token), err)
			}
		}
	}
}
