package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// TestCheck checks that inspect --check reports each fault around the bot under
// its own name, with a command that works when it is pasted. What is nobody's
// fault is not reported.
func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), quick)
	p := b.start(t)
	client := b.client(t)
	ctx := t.Context()
	login := func(id string) *emulator.Teams {
		t.Helper()
		user := w.user(client, id)
		if a, err := user.SendMessage(ctx, "login graph"); err != nil || a.Status != http.StatusOK {
			t.Fatalf("%s: %d, %v", id, a.Status, err)
		}
		return user
	}
	// check runs inspect --check until it agrees, since audit lines may be
	// written a little later.
	check := func(when string, want int, says string) string {
		t.Helper()
		var stdout, stderr string
		var code int
		eventually(t, when, func() bool {
			stdout, stderr, code = b.run(t, "inspect", "--check", "--store", "bolt:"+b.db)
			return code == want && strings.Contains(stdout, says)
		})
		clean(t, when, []byte(stdout+stderr))
		return stdout
	}
	// paste runs the command that an advice contains.
	paste := func(stdout, begins string) string {
		t.Helper()
		for line := range strings.Lines(stdout) {
			command, ok := strings.CutPrefix(strings.TrimSpace(line), "signin-engine ")
			if !ok || !strings.HasPrefix(command, begins) {
				continue
			}
			out, stderr, code := b.run(t, strings.Fields(command)...)
			if code != 0 {
				t.Errorf("%s: exit %d: %s", command, code, stderr)
			}
			return out
		}
		t.Errorf("no command %q in\n%s", begins, stdout)
		return ""
	}

	// A user has blocked the bot: the engine tries once, and nothing is stuck
	// (field report 14).
	robin := login("robin")
	card, err := w.WaitForCard(ctx, robin.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.AddFault(emulator.Fault{
		Operation: emulator.OpPostActivity, Activity: emulator.TextActivity, Status: http.StatusForbidden, Code: "ConversationBlockedByUser",
	})
	if a, err := robin.TokenExchange(ctx, card.ExchangeID(), connection, "sso"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("tokenExchange: %d, %v", a.Status, err)
	}
	w.ClearFaults()
	eventually(t, "the callback is closed after one try", func() bool {
		return newest(t, b, robin).Callback == (operator.CallbackView{Status: "undeliverable", Tries: 1})
	})
	check("a user has blocked the bot", 0, "Nothing is stuck.")

	// An administrator has blocked the bot for a tenant (field report 13).
	w.AddFault(emulator.Fault{
		Operation: emulator.OpPostActivity, Activity: emulator.CardActivity, Status: http.StatusForbidden, Code: "BotDisabledByAdmin",
	})
	for n := range 8 {
		login("tenant-" + string(rune('a'+n)))
	}
	w.ClearFaults()
	said := check("the bot is blocked for a tenant", 5, "failure-burst")
	if out := paste(said, "explain"); !strings.Contains(out, "An administrator of the user's tenant has blocked the app") {
		t.Errorf("explain: %s", out)
	}
	out, _, code := b.run(t, "list", "--failure-code", "BotDisabledByAdmin", "-o", "jsonl", "--store", "bolt:"+b.db)
	if code != 0 || strings.Count(out, `"operation":"Send","http_status":403,"code":"BotDisabledByAdmin"`) != 8 {
		t.Errorf("list --failure-code: exit %d: %s", code, out)
	}

	// The Token Service does not answer (field report 2).
	w.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Status: http.StatusInternalServerError})
	for n := range 5 {
		login("lost-" + string(rune('a'+n)))
	}
	w.ClearFaults()
	check("the Token Service does not answer", 5, "GetToken: 500 InternalServerError (5 times)")

	// Codes arrive that no attempt waits for.
	for n := range 20 {
		stranger := w.user(client, "stranger-"+string(rune('a'+n)))
		if a, err := stranger.VerifyState(ctx, "123456", ""); err != nil || a.Status != http.StatusPreconditionFailed {
			t.Fatalf("a code of nobody's: %d, %v", a.Status, err)
		}
	}
	said = check("codes of nobody's", 5, "20 invokes")
	if out := paste(said, "watch --events"); strings.Count(out, " received ") < 20 {
		t.Errorf("watch: %s", out)
	}

	// Entra does not accept the client secret any more (field report 16).
	p.stopped(t)
	w.AddFault(emulator.Fault{Operation: emulator.OpAccessToken, Status: http.StatusUnauthorized, Code: "invalid_client"})
	b.start(t)
	login("late")
	said = check("Entra takes the secret no more", 5, "AccessToken: 401 invalid_client (1 time)")
	if out := paste(said, "explain invalid_client"); !strings.Contains(out, "create a new one and set client_secret") {
		t.Errorf("explain: %s", out)
	}
	if stdout, _, code := b.run(t, "doctor", "--config", b.config); code != 1 || !strings.Contains(stdout, "invalid_client: see explain invalid_client") {
		t.Errorf("doctor: exit %d: %s", code, stdout)
	}
	w.ClearFaults()
	login("later")
	eventually(t, "it is over with the first call that works", func() bool {
		stdout, _, _ := b.run(t, "inspect", "--check", "--store", "bolt:"+b.db)
		return !strings.Contains(stdout, "credentials")
	})
}
