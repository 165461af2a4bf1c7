package e2e

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// The secrets of this test, and the beginnings of those that the emulator
// makes: user tokens, bot tokens, sign-in links, SAS URLs.
const (
	canaryJWT     = "eyJhbGciOiJub25lIn0.canary-sso-jwt-91c4.x"
	canaryCode    = "canary-code-77d1"
	canaryUser    = "user-token-"
	canaryBot     = "bot-token-"
	canaryLink    = "/api/oauth/signin?signin="
	canarySAS     = "/api/sas/postToken?expiry="
	canaryRefused = canaryJWT + "-refused"
)

// TestSecretsStayInside lets secrets go every way they have, the rough ones
// too, and looks for them wherever a person can look.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), quick)
	p := b.start(t)
	client := b.client(t)
	ctx := t.Context()

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
	answered := func(what string, want int) func(emulator.Answer, error) {
		return func(a emulator.Answer, err error) {
			t.Helper()
			if err != nil || a.Status != want {
				t.Errorf("%s: answered %d %s, %v; want %d", what, a.Status, a.Body, err, want)
			}
			clean(t, "the answer to "+what, a.Body)
		}
	}
	verify := func(user *emulator.Teams, c *emulator.Card, alias string) (emulator.Answer, error) {
		code, err := w.code(ctx, c, alias)
		if err != nil {
			return emulator.Answer{}, err
		}
		return user.VerifyState(ctx, code, c.ActivityID)
	}

	silent := w.user(client, "silent")
	answered("a silent sign-in", http.StatusOK)(silent.TokenExchange(ctx, card(silent).ExchangeID(), connection, canaryJWT))
	answered("the profile", http.StatusOK)(silent.SendMessage(ctx, "my ad user"))

	popup := w.user(client, "popup")
	c := card(popup)
	answered("a wrong code", http.StatusPreconditionFailed)(popup.VerifyState(ctx, canaryCode+"-wrong", c.ActivityID))
	w.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Times: 2, Drop: true}) // Go names the URL of such a request
	answered("a code on a broken line", http.StatusPreconditionFailed)(popup.VerifyState(ctx, canaryCode+"-dropped", c.ActivityID))
	w.ClearFaults()
	answered("a code", http.StatusOK)(verify(popup, c, canaryCode))

	refused := w.user(client, "refused")
	c = card(refused)
	w.AddFault(emulator.Fault{
		Operation: emulator.OpExchange, Times: 1, Status: http.StatusBadRequest,
		Body: `{"error":{"code":"BadArgument","message":"bad token ` + canaryRefused + `"}}`,
	})
	answered("a refused exchange", http.StatusPreconditionFailed)(refused.TokenExchange(ctx, c.ExchangeID(), connection, canaryRefused))
	w.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Status: http.StatusOK, Body: `{"token":`})
	answered("a garbled exchange", http.StatusPreconditionFailed)(refused.TokenExchange(ctx, c.ExchangeID(), connection, canaryRefused+"-2"))
	w.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Status: http.StatusInternalServerError})
	answered("a failed exchange", http.StatusInternalServerError)(refused.TokenExchange(ctx, c.ExchangeID(), connection, canaryRefused+"-3"))

	for _, status := range []int{http.StatusBadRequest, http.StatusInternalServerError, 0} {
		w.AddFault(emulator.Fault{Operation: emulator.OpPostActivity, Times: 1, Status: status, Drop: status == 0})
		answered("a card that does not arrive", http.StatusOK)(w.user(client, "cardless").SendMessage(ctx, "login graph"))
	}
	w.ClearFaults()
	odd := w.user(client, "odd")
	answered("an odd value", http.StatusBadRequest)(odd.Invoke(ctx, "signin/tokenExchange", "", []string{canaryJWT}))
	answered("an odd code", http.StatusNotFound)(odd.Invoke(ctx, "signin/verifyState", "", []string{canaryCode}))
	answered("a foreign connection", http.StatusOK)(odd.TokenExchange(ctx, "foreign", "elsewhere", canaryJWT))
	if status, answer, err := post(ctx, client, []byte(`{"type":"invoke","value":{"token":"`+canaryJWT+`"}`)); err != nil || status != http.StatusBadRequest {
		t.Errorf("malformed JSON: answered %d %s, %v", status, answer, err)
	}
	onTheWire(t, w)

	// What operators see of it, while it runs and afterwards.
	b.settled(t)
	id := firstAttempt(t, b)
	look(t, b, id)
	for _, path := range []string{"/info", "/overview", "/attempts?limit=200", "/attempts/" + id, "/events?limit=1000", "/snapshot", "/metrics", "/healthz"} {
		clean(t, "GET "+path, operatorJSON(t, b, path))
	}
	p.stopped(t)
	look(t, b, id)
	clean(t, "the log", b.log())
	err := filepath.WalkDir(filepath.Dir(b.db), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == b.config {
			return err
		}
		content, err := os.ReadFile(path)
		clean(t, filepath.Base(path), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onTheWire: a search for something that was never there proves nothing.
func onTheWire(t *testing.T, w *world) {
	t.Helper()
	var all bytes.Buffer
	for _, e := range w.requests() {
		all.WriteString(e.target + " " + e.bearer + "\n")
		all.Write(e.body)
		all.Write(e.answer)
	}
	for _, secret := range secrets() {
		if !bytes.Contains(all.Bytes(), []byte(secret)) {
			t.Errorf("%s was never on the wire", secret)
		}
	}
}

func secrets() []string {
	return []string{
		canaryJWT, canaryRefused, canaryCode, canaryCode + "-wrong", canaryCode + "-dropped",
		canaryUser, canaryBot, canaryLink, canarySAS, clientSecret,
	}
}

// clean fails if a secret is in it.
func clean(t *testing.T, where string, content []byte) {
	t.Helper()
	for _, secret := range secrets() {
		if i := bytes.Index(content, []byte(secret)); i >= 0 {
			t.Errorf("%s holds %q: …%q…", where, secret, content[max(0, i-80):min(len(content), i+80)])
		}
	}
}

// look runs the reading commands in all their formats.
func look(t *testing.T, b *bot, id string) {
	t.Helper()
	for _, command := range []string{
		"inspect", "inspect -o json", "inspect --check", "inspect " + id, "inspect " + id + " -o json",
		"inspect " + id + " --diagram", "diagram --attempt " + id,
		"list", "list -o wide", "list -o json", "list -o jsonl", "list -o csv",
		"export", "export -o csv", "export --anonymize",
	} {
		stdout, stderr, code := b.run(t, append(strings.Fields(command), "--store", "bolt:"+b.db)...)
		if code != 0 && (command != "inspect --check" || code != 5) {
			t.Errorf("%s: exit %d: %s", command, code, stderr)
		}
		clean(t, command, []byte(stdout+stderr))
	}
	stdout, stderr, _ := b.run(t, "doctor", "--config", b.config)
	clean(t, "doctor", []byte(stdout+stderr))
}

// firstAttempt is the id of the attempt with the longest story.
func firstAttempt(t *testing.T, b *bot) string {
	t.Helper()
	page, err := b.operator(t).List(t.Context(), operator.Query{User: "29:refused"})
	if err != nil || len(page.Attempts) == 0 {
		t.Fatalf("no attempts: %v", err)
	}
	return page.Attempts[len(page.Attempts)-1].ID
}

// operatorJSON is the raw answer of the operator endpoint.
func operatorJSON(t *testing.T, b *bot, path string) []byte {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", b.db+".sock")
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://operator"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("GET %s: status %d, %v: %s", path, resp.StatusCode, err, body)
	}
	return body
}
