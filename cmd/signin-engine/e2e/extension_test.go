package e2e

import (
	"bytes"
	"context"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

const (
	// publicHost is the bot's host as browsers see it. Whichever process serves
	// answers its requests.
	publicHost = "127.0.0.1:9"
	// canaryKey and canaryProvider are the secrets of the message extension.
	canaryKey      = "Y2FuYXJ5LWVuY3J5cHRpb24ta2V5LW9mLTMyLWJ5dGU="
	canaryProvider = "canary-provider-secret-8c11"
)

// unhurried is like quick, but gives a provider on a busy machine time to answer.
const unhurried = `
policy: {duplicate_wait: 8s, callback_budget: 400ms}
timeouts: {upstream: 5s, lease: 6500ms, outbox_lease: 6s, sweep: 200ms}
`

// extension is the configuration of a message extension that uses the world's
// provider.
func (w *world) extension() string {
	return `
message_extension:
  connection: wiki
  public_url: http://` + publicHost + `
  encryption_key: ` + canaryKey + `
  provider: {issuer: ` + w.url + `/provider, client_id: bot, client_secret: ` + canaryProvider + `, scopes: [profile]}
`
}

// browser makes a browser that sends requests for the bot through to, and all
// others directly.
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

// loop plays a sign-in from a query to its result. It calls between before each
// step but the first, and returns the secrets that were used.
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
	link := c.URL
	between()
	at, err := b.Authorize(ctx, link)
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
	secrets := []string{ended.Code, provider.Query().Get("state"), provider.Query().Get("nonce"), canaryKey, canaryProvider}
	return append(secrets, keepsake(t, link, at.Start)...)
}

// keepsake returns the ticket in a link to the start page, and the cookies that
// the page set.
func keepsake(t *testing.T, link string, start http.Header) []string {
	t.Helper()
	at, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{at.Query().Get("ticket")}
	for _, c := range (&http.Response{Header: start}).Cookies() {
		secrets = append(secrets, c.Value)
	}
	if len(secrets) != 2 || slices.Contains(secrets, "") {
		t.Fatalf("a start page without a ticket, or with %d cookies", len(secrets)-1)
	}
	return secrets
}

// provided adds a third-party provider to the world.
func (w *world) provided(t *testing.T) *emulator.Provider {
	t.Helper()
	p := emulator.NewProvider(emulator.ProviderConfig{
		ClientID: "bot", ClientSecret: tokensvc.NewSecret(canaryProvider), RedirectURL: "http://" + publicHost + "/auth/callback",
	})
	w.provider = p
	return p
}

// verifiers returns the code verifiers that the bot sent to the provider.
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
// each time starts it again on the same file. At the end it searches for the
// secrets that were used.
func TestExtensionSurvivesKills(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	provider := w.provided(t)
	b := newBot(t, w, program(t, released), unhurried+w.extension())
	p := b.start(t)
	user := w.user(b.patient(t), "alice")
	secrets := loop(t, user, browser(t, b.patient(t).Transport), func() {
		p.kill()
		p = b.start(t)
	})
	// After a sign-out by chat, the next query asks for a sign-in again.
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

// TestExtensionOnInstances runs two processes on one Postgres. Between any two
// steps it kills one of them.
func TestExtensionOnInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.provided(t)
	f := newFleetIn(t, w, released, 2, unhurried+w.extension(), true)
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
	seen := newSearch()
	seen.also(secrets...)
	seen.also(append(w.provider.Secrets(), w.verifiers()...)...)
	for _, b := range f.bots {
		seen.in(t, "log", b.log())
	}
	seen.database(t, f.cluster)
	f.stop(t)
}

// TestExtensionCrashPoints kills the bot while it redeems the security code: once
// before it looks the code up, and once after. Teams then sends the query and the
// code again. The code has not been used up, so it is still accepted.
func TestExtensionCrashPoints(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"before GetToken with code", "after GetToken with code"} {
		t.Run(point+" bolt", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			w.provided(t)
			b := newBot(t, w, program(t, mined), unhurried+w.extension())
			p := b.start(t)
			user := w.user(b.patient(t), "alice")
			bring := broughtLater(t, user, browser(t, b.patient(t).Transport))
			p.kill()
			p = b.start(t, "SIGNIN_ENGINE_FAILPOINT="+point)
			answer := bring()
			select {
			case <-p.exited:
			case <-time.After(patience):
				t.Fatalf("the process does not come to %q", point)
			}
			p = b.start(t)
			wantResult(t, <-answer)
			b.settled(t)
			p.stopped(t)
			sound(t, b.open(t))
		})
		t.Run(point+" postgres", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			w.provided(t)
			f := newFleetIn(t, w, mined, 2, unhurried+w.extension(), true)
			user := w.user(&http.Client{Transport: f}, "alice")
			bring := broughtLater(t, user, browser(t, f))
			for i, b := range f.bots {
				f.kill(i)
				if _, err := b.tryStart("SIGNIN_ENGINE_STORE="+f.address, "SIGNIN_ENGINE_FAILPOINT="+point); err != nil {
					t.Fatal(err)
				}
			}
			answer, deaths := bring(), 0
			var got emulator.Answer
			eventually(t, "the query is answered", func() bool {
				for i, b := range f.bots {
					if b.serving() == nil {
						deaths++
						if err := f.start(i); err != nil {
							t.Fatal(err)
						}
					}
				}
				select {
				case got = <-answer:
					return true
				default:
					return false
				}
			})
			if deaths == 0 {
				t.Errorf("no process came to %q", point)
			}
			wantResult(t, got)
			f.settled(t)
			for i, b := range f.bots { // one may still have its failpoint, or be dead
				if b.serving() == nil {
					if err := f.start(i); err != nil {
						t.Fatal(err)
					}
				}
			}
			f.stop(t)
		})
	}
}

// broughtLater goes through a popup. The function that it returns sends the query
// with the code; the channel delivers the answer.
func broughtLater(t *testing.T, user *emulator.Teams, b *emulator.Browser) func() <-chan emulator.Answer {
	t.Helper()
	asked, err := user.Query(t.Context(), "insertWiki", "lakers")
	if err != nil {
		t.Fatal(err)
	}
	c, err := asked.Compose()
	if err != nil {
		t.Fatalf("%v: %s", err, asked.Body)
	}
	ended, err := b.Popup(t.Context(), c.URL)
	if err != nil || ended.Code == "" {
		t.Fatalf("popup: %s, %v", ended.Reason, err)
	}
	return func() <-chan emulator.Answer {
		answer := make(chan emulator.Answer, 1)
		go func() {
			a, err := user.Reissue(context.WithoutCancel(t.Context()), asked.Sent, ended.Code)
			if err != nil {
				a.Body = []byte(err.Error())
			}
			answer <- a
		}()
		return answer
	}
}

func wantResult(t *testing.T, a emulator.Answer) {
	t.Helper()
	if c, err := a.Compose(); err != nil || c.Type != "result" || !bytes.Contains(a.Body, []byte("Robin")) {
		t.Errorf("%d %s, %v", a.Status, a.Body, err)
	}
}
