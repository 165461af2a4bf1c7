package e2e

import (
	"bytes"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

const (
	// publicHost is where browsers believe the bot to be. Whatever process serves
	// answers.
	publicHost = "127.0.0.1:9"
	// canaryKey and canaryProvider are the secrets of the message extension.
	canaryKey      = "Y2FuYXJ5LWVuY3J5cHRpb24ta2V5LW9mLTMyLWJ5dGU="
	canaryProvider = "canary-provider-secret-8c11"
)

// extension is the configuration of a message extension at the world's provider.
func (w *world) extension() string {
	return `
message_extension:
  connection: wiki
  public_url: http://` + publicHost + `
  encryption_key: ` + canaryKey + `
  provider: {issuer: ` + w.url + `/provider, client_id: bot, client_secret: ` + canaryProvider + `, scopes: [profile]}
`
}

// browser is one whose requests for the bot go to, and all others where they say.
func browser(t *testing.T, to http.RoundTripper) *emulator.Browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &emulator.Browser{HTTP: &http.Client{Jar: jar, Transport: byHost{to}}}
}

type byHost struct{ bot http.RoundTripper }

func (b byHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == publicHost {
		return b.bot.RoundTrip(r)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// loop is a sign-in from a query to its result; between is called before each
// step but the first one. It returns the secrets that went by.
func loop(t *testing.T, user *emulator.Teams, b *emulator.Browser, between func()) []string {
	t.Helper()
	ctx := t.Context()
	compose := func(a emulator.Answer, err error, want string) emulator.Compose {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.Compose()
		if err != nil || c.Type != want {
			t.Fatalf("%s: %d %s, %v", want, a.Status, a.Body, err)
		}
		return c
	}
	asked, err := user.Query(ctx, "insertWiki", "lakers")
	c := compose(asked, err, "auth")
	between()
	at, err := b.Authorize(ctx, c.URL)
	if err != nil || at.Callback == "" {
		t.Fatalf("start: %+v, %v", at, err)
	}
	between()
	ended, err := b.Open(ctx, at.Callback)
	if err != nil || ended.Code == "" {
		t.Fatalf("callback: %s, %v", ended.Reason, err)
	}
	between()
	a, err := user.Reissue(ctx, asked.Sent, ended.Code)
	c = compose(a, err, "result")
	if len(c.Attachments) != 1 || !bytes.Contains(c.Attachments[0], []byte("Robin")) {
		t.Errorf("%s", a.Body)
	}
	between()
	a, err = user.Query(ctx, "insertWiki", "bulls")
	compose(a, err, "result")
	provider, err := url.Parse(at.Provider)
	if err != nil {
		t.Fatal(err)
	}
	return []string{ended.Code, provider.Query().Get("state"), provider.Query().Get("nonce"), canaryKey, canaryProvider}
}

// provided is a world with a third-party provider.
func (w *world) provided(t *testing.T) *emulator.Provider {
	t.Helper()
	p := emulator.NewProvider(emulator.ProviderConfig{
		ClientID: "bot", ClientSecret: tokensvc.NewSecret(canaryProvider), RedirectURL: "http://" + publicHost + "/auth/callback",
	})
	w.provider = p
	return p
}

// verifiers are what the bot has shown the provider.
func (w *world) verifiers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, e := range w.wire {
		form, err := url.ParseQuery(string(e.body))
		if err == nil && strings.HasSuffix(e.path(), "/provider/token") && form.Get("code_verifier") != "" {
			all = append(all, form.Get("code_verifier"))
		}
	}
	return all
}

// TestExtensionSurvivesKills kills the bot between any two steps of a popup, and
// starts it again on the same file. Then it looks for what went by.
func TestExtensionSurvivesKills(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	provider := w.provided(t)
	b := newBot(t, w, program(t, released), quick+w.extension())
	p := b.start(t)
	user := w.user(b.patient(t), "alice")
	secrets := loop(t, user, browser(t, b.patient(t).Transport), func() {
		p.kill()
		p = b.start(t)
	})
	// Signed out by chat, the next query asks again.
	if a, err := user.SendMessage(t.Context(), "logout"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("logout: %d, %v", a.Status, err)
	}
	a, err := user.Query(t.Context(), "insertWiki", "x")
	if c, e := a.Compose(); err != nil || e != nil || c.Type != "auth" {
		t.Errorf("after the logout: %s, %v", a.Body, err)
	}
	if provider.Count("revoke") == 0 {
		t.Error("the provider was not told of the logout")
	}
	secrets = append(append(secrets, provider.Secrets()...), w.verifiers()...)
	if len(secrets) < 9 {
		t.Fatalf("only %d secrets are known", len(secrets))
	}
	b.settled(t)
	var seen bytes.Buffer
	for _, args := range [][]string{
		{"inspect", "--store", "bolt:" + b.db},
		{"list", "--store", "bolt:" + b.db, "-o", "json"},
		{"export", "--store", "bolt:" + b.db, "-o", "jsonl"},
		{"doctor", "--config", b.config},
	} {
		out, errs, _ := b.run(t, args...)
		seen.WriteString(out + errs)
	}
	p.stopped(t)
	sound(t, b.open(t))
	seen.Write(b.log())
	err = filepath.WalkDir(filepath.Dir(b.db), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == b.config {
			return err
		}
		body, err := os.ReadFile(path)
		seen.Write(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets {
		if secret == "" || bytes.Contains(seen.Bytes(), []byte(secret)) {
			t.Errorf("%.20q… can be read where it must not", secret)
		}
	}
}

// TestExtensionOnInstances has two processes on one Postgres, one of which is
// killed between any two steps.
func TestExtensionOnInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.provided(t)
	f := newFleetIn(t, w, released, 2, quick+w.extension(), true)
	user := w.user(&http.Client{Transport: f}, "alice")
	victim := 0
	secrets := loop(t, user, browser(t, f), func() {
		f.kill(victim)
		if err := f.start(victim); err != nil {
			t.Fatal(err)
		}
		victim = 1 - victim
	})
	s := f.settled(t)
	page, err := s.List(t.Context(), store.Filter{})
	if err != nil || len(page.Attempts) != 1 || page.Attempts[0].State != store.Complete || page.Attempts[0].Method != store.MethodCompose {
		t.Errorf("%+v, %v", page.Attempts, err)
	}
	for _, b := range f.bots {
		for _, secret := range append(secrets, w.verifiers()...) {
			if bytes.Contains(b.log(), []byte(secret)) {
				t.Errorf("%.20q… is in the log", secret)
			}
		}
	}
	f.stop(t)
}
