package e2e

import (
	"context"
	"net/http"
	"testing"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// TestTokenServiceDown checks that during an outage users are told and invokes
// are answered as rows A4, B3, B4 and C8 of the table say. When the service is
// back, the sweeper settles what the outage left open (E8).
func TestTokenServiceDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), quick)
	p := b.start(t)
	client := b.client(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	card := func(user *emulator.Teams) *emulator.Card {
		t.Helper()
		if _, err := user.SendMessage(ctx, "login graph"); err != nil {
			t.Fatal(err)
		}
		c, err := w.WaitForCard(ctx, user.Conversation.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	exchange := func(user *emulator.Teams, c *emulator.Card) (emulator.Answer, error) {
		return user.TokenExchange(ctx, c.ExchangeID(), connection, "sso-"+user.User.ID)
	}
	is := func(user *emulator.Teams, want store.State, reason store.Reason) {
		t.Helper()
		a := newest(t, b, user)
		if a.State != want || a.Reason != reason {
			t.Errorf("%s is %s %s, want %s %s", user.User.Name, a.State, a.Reason, want, reason)
		}
	}

	sso, popup, cut, open := w.user(client, "sso"), w.user(client, "popup"), w.user(client, "cut"), w.user(client, "open")
	ssoCard, popupCard, cutCard, openCard := card(sso), card(popup), card(cut), card(open)
	code, err := w.code(ctx, popupCard, "code-in-an-outage")
	if err != nil {
		t.Fatal(err)
	}

	// The bot dies while one exchange is in flight. The Token Service completes
	// that exchange, but nobody receives the answer.
	w.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Delay: patience})
	lost := make(chan error, 1)
	go func() {
		_, err := exchange(open, openCard)
		lost <- err
	}()
	if err := w.arrived(ctx, "/api/usertoken/exchange", 1); err != nil {
		t.Fatal(err)
	}
	p.kill()
	if err := <-lost; err == nil {
		t.Error("a killed bot answered")
	}
	eventually(t, "the exchange is done upstream", func() bool { return w.signedIn(open) })

	for _, op := range []emulator.Operation{emulator.OpGetToken, emulator.OpGetSignInResource, emulator.OpExchange} {
		if op == emulator.OpExchange {
			w.AddFault(emulator.Fault{Operation: op, Times: 1, Drop: true})
		}
		w.AddFault(emulator.Fault{Operation: op, Status: http.StatusServiceUnavailable})
	}
	p = b.start(t)

	late := w.user(client, "late")
	if a, err := late.SendMessage(ctx, "login graph"); err != nil || a.Status != http.StatusOK || w.told(late, unavailableText) != 1 {
		t.Errorf("A4: answered %d, %v; the user was told %v", a.Status, err, w.Activities(late.Conversation.ID))
	}
	if a, err := exchange(cut, cutCard); err != nil || a.Status != http.StatusPreconditionFailed || !failureDetail(t, a.Body) {
		t.Errorf("B3: answered %d %s, %v", a.Status, a.Body, err)
	}
	is(cut, store.CardSent, "")
	if a, err := exchange(sso, ssoCard); err != nil || a.Status != http.StatusServiceUnavailable || len(a.Body) != 0 {
		t.Errorf("B4: answered %d %s, %v", a.Status, a.Body, err)
	}
	is(sso, store.Failed, store.ReasonUpstreamUnavailable)
	if a, err := popup.VerifyState(ctx, code, popupCard.ActivityID); err != nil || a.Status != http.StatusServiceUnavailable || len(a.Body) != 0 {
		t.Errorf("C8: answered %d %s, %v", a.Status, a.Body, err)
	}
	is(popup, store.Failed, store.ReasonUpstreamUnavailable)
	for user, text := range map[*emulator.Teams]string{cut: useButtonText, sso: failedText, popup: failedText} {
		if n := w.told(user, text); n != 1 {
			t.Errorf("%s was told %d times %q, want 1", user.User.Name, n, text)
		}
	}
	eventually(t, "the sweeper asks the service that is down", func() bool {
		return w.count("/api/usertoken/GetToken", open, http.StatusServiceUnavailable) > 0
	})
	is(open, store.Exchanging, "")

	w.ClearFaults()
	if _, err := w.WaitForText(ctx, open.Conversation.ID, connectedText); err != nil {
		t.Fatalf("nobody told the user that the sign-in was recovered: %v", err)
	}
	is(open, store.Complete, "")
	if a := newest(t, b, open); a.Method != store.MethodRecovered {
		t.Errorf("the open attempt completed by %s, want %s", a.Method, store.MethodRecovered)
	}
	// A failure of the service does not use up the code, and a fresh SSO token
	// opens a linked attempt (B10).
	if a, err := popup.VerifyState(ctx, code, popupCard.ActivityID); err != nil || a.Status != http.StatusOK {
		t.Errorf("the code again: answered %d, %v", a.Status, err)
	}
	if a, err := sso.TokenExchange(ctx, ssoCard.ExchangeID(), connection, "sso-fresh"); err != nil || a.Status != http.StatusOK {
		t.Errorf("a fresh SSO token: answered %d, %v", a.Status, err)
	}
	if a, err := cut.TokenExchange(ctx, cutCard.ExchangeID(), connection, "sso-fresh"); err != nil || a.Status != http.StatusOK {
		t.Errorf("a fresh SSO token after a broken line: answered %d, %v", a.Status, err)
	}
	b.settled(t)
	p.stopped(t)
	sound(t, b.open(t))
	for _, user := range []*emulator.Teams{sso, popup, cut, open} {
		if n := w.connected(user); n != 1 {
			t.Errorf("%s was told %d times of the completion, want 1", user.User.Name, n)
		}
	}
}

// failureDetail reports whether the body of a 412 is what row B3 says.
func failureDetail(t *testing.T, body []byte) bool {
	t.Helper()
	object, ok := document(t, body).(map[string]any)
	detail, _ := object["failureDetail"].(string)
	return ok && object["connectionName"] == connection && object["id"] != "" && detail != "" && len(object) == 3
}

// newest returns the user's newest attempt.
func newest(t *testing.T, b *bot, user *emulator.Teams) operator.View {
	t.Helper()
	page, err := b.operator(t).List(t.Context(), operator.Query{User: user.User.ID})
	if err != nil || len(page.Attempts) == 0 {
		t.Fatalf("no attempt of %s: %v", user.User.Name, err)
	}
	return page.Attempts[0]
}
