package composeext_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
)

// The whole sign-in: query, popup, code, query. Each request reaches another instance.
func TestLoop(t *testing.T) {
	t.Parallel()
	for name, provider := range map[string]with{
		"OAuth":                          func(*world) {},
		"OpenID Connect":                 func(w *world) { w.oidc = true },
		"OpenID Connect, name elsewhere": func(w *world) { w.oidc, w.bareIDToken = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, provider)
			user := w.user("")
			asked, c := w.query(user, "lakers")
			w.want(c, "auth")
			if !strings.HasPrefix(c.URL, w.public+"/auth/start?") || !strings.Contains(c.URL, "width=600") || !strings.Contains(c.URL, "height=") {
				t.Errorf("URL %s", c.URL)
			}
			ended := w.open(emulator.NewBrowser(), c.URL)
			if ended.Status != http.StatusOK || len(ended.Code) != 22 {
				t.Fatalf("%d, code of %d characters: %s", ended.Status, len(ended.Code), ended.Page)
			}
			c = w.reissue(user, asked, ended.Code)
			w.want(c, "result")
			// The answer is for the original parameters.
			if len(c.Attachments) != 1 || !strings.Contains(string(c.Attachments[0]), `"Robin`) || !strings.Contains(string(c.Attachments[0]), "insertWiki lakers") {
				t.Errorf("attachments %s", c.Attachments)
			}
			if a := w.newest(); a.State != store.Complete || a.Method != store.MethodCompose || a.Origin != store.OriginCompose {
				t.Errorf("%s, %s, %s", a.State, a.Method, a.Origin)
			}
			_, c = w.query(user, "bulls")
			w.want(c, "result")
			// Teams may repeat queries, even those with a code.
			w.want(w.reissue(user, asked, ended.Code), "result")
			if n := w.provider.Count("token"); n != 1 {
				t.Errorf("%d codes redeemed", n)
			}
		})
	}
}

func TestKeystrokes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	answers, err := user.Type(t.Context(), "insertWiki", "lakers")
	if err != nil {
		t.Fatal(err)
	}
	var last emulator.Compose
	for _, a := range answers {
		last = w.compose(a, nil)
		w.want(last, "auth")
	}
	page, err := w.store.List(t.Context(), store.Filter{})
	if err != nil || len(page.Attempts) != 1 {
		t.Fatalf("%d attempts, %v", len(page.Attempts), err)
	}
	// The popup of the first keystroke is as valid as that of the last one.
	first := w.open(emulator.NewBrowser(), w.compose(answers[0], nil).URL)
	w.want(w.reissue(user, answers[len(answers)-1], first.Code), "result")
	answers, err = user.Type(t.Context(), "insertWiki", "bulls")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		w.want(w.compose(a, nil), "result")
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	asked, _ := w.query(user, "lakers")
	a, err := user.Reissue(t.Context(), asked.Sent, emulator.CancelledByUser)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"composeExtension":{"type":"result","attachmentLayout":"list","attachments":[]}}`
	if got := strings.TrimSpace(string(a.Body)); a.Status != http.StatusOK || got != want {
		t.Errorf("%d %s", a.Status, got)
	}
	if got := w.newest(); got.State != store.CardSent || !got.PopupClosed {
		t.Errorf("%s, closed %v", got.State, got.PopupClosed)
	}
}

func TestDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	_, c := w.query(user, "lakers")
	b := emulator.NewBrowser()
	b.Deny = true
	got := w.open(b, c.URL)
	if got.Code != "" || got.Reason != "access_denied" || !strings.Contains(got.Page, "The user said no.") {
		t.Errorf("%q, %q: %s", got.Code, got.Reason, got.Page)
	}
	// The user can try again with the same link.
	b.Deny = false
	if got := w.open(b, c.URL); got.Code == "" {
		t.Errorf("again: %s", got.Reason)
	}
}

// The page shows the provider's text as plain text.
func TestMarkupOfTheProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.provider.Refuse("server_error", `<script>alert(1)</script><img src=x onerror=alert(2)>" onload="x`)
	_, c := w.query(w.user(""), "lakers")
	got := w.open(emulator.NewBrowser(), c.URL)
	if got.Reason != "provider_error" || !strings.Contains(got.Page, "&lt;script&gt;") {
		t.Errorf("%s: %s", got.Reason, got.Page)
	}
	if strings.Contains(got.Page, "<script>alert") || strings.Contains(got.Page, "<img") {
		t.Errorf("markup in the page: %s", got.Page)
	}
	// A callback without a popup shows nothing of its query.
	stranger, err := emulator.NewBrowser().Open(t.Context(), w.public+"/auth/callback?state=x&error=oops&error_description=call+0900")
	if err != nil {
		t.Fatal(err)
	}
	if stranger.Status != http.StatusBadRequest || strings.Contains(stranger.Page, "0900") || strings.Contains(stranger.Page, "oops") {
		t.Errorf("%d: %s", stranger.Status, stranger.Page)
	}
}

func TestProviderDown(t *testing.T) {
	t.Parallel()
	for name, oidc := range map[string]bool{"OAuth": false, "OpenID Connect": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(w *world) { w.oidc = oidc })
			user, b := w.user(""), emulator.NewBrowser()
			asked, c := w.query(user, "lakers")
			if oidc {
				w.provider.SetDown(true)
				if got := w.open(b, c.URL); got.Reason != "provider_unavailable" || got.Status != http.StatusBadGateway {
					t.Errorf("discovery: %d %s", got.Status, got.Reason)
				}
				w.provider.SetDown(false)
				w.advance(time.Second) // that instance looks no sooner
			}
			at, err := b.Authorize(t.Context(), c.URL)
			if err != nil {
				t.Fatal(err)
			}
			w.provider.SetDown(true)
			got, err := b.Open(t.Context(), at.Callback)
			if err != nil || got.Reason != "provider_unavailable" {
				t.Errorf("token: %s, %v", got.Reason, err)
			}
			w.provider.SetDown(false)
			got = w.open(b, c.URL)
			w.want(w.reissue(user, asked, got.Code), "result")
		})
	}
}

// A discovery that failed counts for a second: a provider that is down is not asked by
// everybody who opens a popup.
func TestDiscoveryIsNotRepeated(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	w := newWorld(t, func(w *world) {
		w.oidc = true
		w.front = func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
					asked.Add(1)
				}
				next.ServeHTTP(rw, r)
			})
		}
	})
	w.instances = w.instances[:1]
	_, c := w.query(w.user(""), "lakers")
	w.provider.SetDown(true)
	w.freeze(time.Now())
	before := asked.Load()
	for range 5 {
		if got := w.open(emulator.NewBrowser(), c.URL); got.Reason != "provider_unavailable" || got.Status != http.StatusBadGateway {
			t.Errorf("%d %s", got.Status, got.Reason)
		}
	}
	if n := asked.Load() - before; n != 1 {
		t.Errorf("%d discoveries, want 1", n)
	}
	w.provider.SetDown(false)
	w.freeze(w.now().Add(time.Second))
	before = asked.Load()
	for range 3 { // one that works counts for good
		if got := w.open(emulator.NewBrowser(), c.URL); got.Code == "" {
			t.Errorf("%d %s", got.Status, got.Reason)
		}
	}
	if n := asked.Load() - before; n != 1 {
		t.Errorf("%d discoveries, want 1", n)
	}
}

// The ways to use a code of somebody else, or one that is no longer valid.
func TestCodesRefused(t *testing.T) {
	t.Parallel()
	t.Run("another user's", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		alice, eve := w.user("alice"), w.user("eve")
		asked, c := w.query(alice, "lakers")
		code := w.open(emulator.NewBrowser(), c.URL).Code
		stolen, _ := w.query(eve, "lakers")
		w.want(w.reissue(eve, stolen, code), "auth")
		if a := w.newest(); a.Key.User != "29:eve" || a.State != store.CardSent || !strings.Contains(w.details(a.ID), "code_mismatch") {
			t.Errorf("%+v: %s", a.Key, w.details(a.ID))
		}
		// The code is still valid for its own user.
		w.want(w.reissue(alice, asked, code), "result")
		// Eve cannot use it afterwards either.
		w.want(w.reissue(eve, stolen, code), "auth")
		if strings.Contains(w.logs.String(), code) {
			t.Error("the code is in the log")
		}
	})
	t.Run("of the same MRI with another Entra id", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		alice := w.user("alice")
		_, c := w.query(alice, "lakers")
		code := w.open(emulator.NewBrowser(), c.URL).Code
		other := w.user("alice")
		other.User.AADObjectID = "aad-mallory"
		asked, _ := w.query(other, "lakers")
		w.want(w.reissue(other, asked, code), "auth")
	})
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		user := w.user("")
		asked, c := w.query(user, "lakers")
		code := w.open(emulator.NewBrowser(), c.URL).Code
		w.advance(5*time.Minute + time.Second)
		w.want(w.reissue(user, asked, code), "auth")
	})
	t.Run("used, and signed out since", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		user := w.user("")
		asked, c := w.query(user, "lakers")
		code := w.open(emulator.NewBrowser(), c.URL).Code
		w.want(w.reissue(user, asked, code), "result")
		w.signOut(user)
		w.want(w.reissue(user, asked, code), "auth")
	})
	t.Run("used, and the credentials are gone since", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(w *world) { w.tokenLifetime = time.Minute })
		user := w.user("")
		asked, c := w.query(user, "lakers")
		code := w.open(emulator.NewBrowser(), c.URL).Code
		w.want(w.reissue(user, asked, code), "result")
		for _, s := range w.provider.Secrets() {
			if strings.Contains(s, "-refresh-") {
				w.revokeAtProvider(s)
			}
		}
		w.advance(2 * time.Minute)
		_, c = w.query(user, "lakers")
		w.want(c, "auth")
		w.want(w.reissue(user, asked, code), "auth")
	})
	t.Run("expired by our clock, and not by the store's", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(w *world) { w.store = memstore.New(nil) })
		user := w.user("")
		asked, c := w.query(user, "lakers")
		code := w.open(emulator.NewBrowser(), c.URL).Code
		w.advance(5*time.Minute + time.Second)
		w.want(w.reissue(user, asked, code), "auth")
	})
	t.Run("made before a sign-out", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		user := w.user("")
		w.signIn(user)
		// A second popup of the same user is open during the sign-out.
		link := w.link(user)
		code := w.open(emulator.NewBrowser(), link).Code
		w.signOut(user)
		asked, _ := w.query(user, "lakers")
		w.want(w.reissue(user, asked, code), "auth")
	})
	t.Run("guessed and garbled", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		user := w.user("")
		asked, c := w.query(user, "lakers")
		code := w.open(emulator.NewBrowser(), c.URL).Code
		for _, wrong := range []string{"123456", "x", code + "A", code[1:], strings.ToUpper(code) + "x", "\x00", strings.Repeat("a", 4096)} {
			w.want(w.reissue(user, asked, wrong), "auth")
		}
		w.want(w.reissue(user, asked, code), "result")
	})
}

// A code that reaches many instances at once is spent once, and all get an answer.
func TestCodeAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	asked, c := w.query(user, "lakers")
	code := w.open(emulator.NewBrowser(), c.URL).Code
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			a, err := user.Reissue(t.Context(), asked.Sent, code)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := a.Compose(); err != nil || got.Type != "result" {
				t.Errorf("%v: %d %s", err, a.Status, a.Body)
			}
		})
	}
	all.Wait()
	if a := w.newest(); a.State != store.Complete || strings.Count(w.details(a.ID), "C3 ") != 1 {
		t.Errorf("%s: %s", a.State, w.details(a.ID))
	}
}

// flipped returns a text with one character changed.
func flipped(text string) string {
	b := []byte(text)
	at := len(b) / 2
	if b[at]++; b[at] > 'z' || b[at] == 'Z'+1 || b[at] == '9'+1 {
		b[at] = 'a'
	}
	return string(b)
}

// The ways to return a state of another browser.
func TestStatesRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user, b := w.user(""), emulator.NewBrowser()
	asked, c := w.query(user, "lakers")
	at, err := b.Authorize(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	if state := regexp.MustCompile(`state=([^&]+)`).FindStringSubmatch(at.Callback); len(state) != 2 || len(state[1]) < 43 {
		t.Fatalf("callback %s", at.Callback)
	}
	if got, err := emulator.NewBrowser().Open(t.Context(), at.Callback); err != nil || got.Reason != "other_browser" || got.Status != http.StatusForbidden {
		t.Errorf("another browser's: %d %s, %v", got.Status, got.Reason, err)
	}
	// A popup of the attacker's own, whose code is put into the victim's callback.
	eve := emulator.NewBrowser()
	_, evil := w.query(w.user("eve"), "lakers")
	theirs, err := eve.Authorize(t.Context(), evil.URL)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Open(t.Context(), theirs.Callback); err != nil || got.Reason != "other_browser" {
		t.Errorf("the attacker's callback in the victim's browser: %s, %v", got.Reason, err)
	}
	for what, change := range map[string]func(url.Values){
		"tampered": func(q url.Values) { q.Set("state", flipped(q.Get("state"))) },
		"missing":  func(q url.Values) { q.Del("state") },
		"empty":    func(q url.Values) { q.Set("state", "") },
		"long":     func(q url.Values) { q.Set("state", strings.Repeat("x", 8000)) },
	} {
		u, err := url.Parse(at.Callback)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		change(q)
		u.RawQuery = q.Encode()
		if got, err := b.Open(t.Context(), u.String()); err != nil || got.Reason != "state_unknown" || got.Status != http.StatusBadRequest {
			t.Errorf("%s: %d %s, %v", what, got.Status, got.Reason, err)
		}
	}
	// The popup still works after all of that.
	good, err := b.Open(t.Context(), at.Callback)
	if err != nil || good.Code == "" {
		t.Fatalf("%s, %v", good.Reason, err)
	}
	if again, err := b.Open(t.Context(), at.Callback); err != nil || again.Reason != "state_unknown" || again.Code != "" {
		t.Errorf("used: %s, %v", again.Reason, err)
	}
	w.want(w.reissue(user, asked, good.Code), "result")

	// If the provider's codes of two popups are swapped, their verifiers do not match.
	one, err := b.Authorize(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.Authorize(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	swapped, _ := url.Parse(one.Callback)
	from, _ := url.Parse(other.Callback)
	q := swapped.Query()
	q.Set("code", from.Query().Get("code"))
	swapped.RawQuery = q.Encode()
	if got, err := b.Open(t.Context(), swapped.String()); err != nil || got.Code != "" || got.Reason != "provider_error" {
		t.Errorf("swapped: %q %s, %v", got.Code, got.Reason, err)
	}
	u, _ := url.Parse(c.URL)
	q = u.Query()
	q.Set("ticket", flipped(q.Get("ticket")))
	u.RawQuery = q.Encode()
	if got := w.open(b, u.String()); got.Reason != "link_over" {
		t.Errorf("tampered link: %s", got.Reason)
	}
	// A state expires.
	late, err := b.Authorize(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	w.advance(11 * time.Minute)
	if got, err := b.Open(t.Context(), late.Callback); err != nil || got.Reason != "state_unknown" {
		t.Errorf("late: %s, %v", got.Reason, err)
	}
	w.advance(5 * time.Minute)
	if got := w.open(b, c.URL); got.Reason != "link_over" {
		t.Errorf("late link: %s", got.Reason)
	}
}

// The headers and the content of the page.
func TestPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	_, c := w.query(user, "lakers")
	got := w.open(emulator.NewBrowser(), c.URL)
	if policy := got.Header.Get("Content-Security-Policy"); policy != "default-src 'none'; script-src 'self' https://res.cdn.office.net; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" {
		t.Errorf("policy %q", policy)
	}
	for header, want := range map[string]string{
		"Cross-Origin-Opener-Policy": "", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
		"X-Frame-Options": "DENY",
	} {
		if v := got.Header.Get(header); v != want {
			t.Errorf("%s: %q, want %q", header, v, want)
		}
	}
	if regexp.MustCompile(`<script[^>]*>[^<]|\son[a-z]+=|<style|style=`).MatchString(got.Page) {
		t.Errorf("inline script or style: %s", got.Page)
	}
	if !strings.Contains(got.Page, `integrity="sha384-`) {
		t.Error("no integrity")
	}
	for _, secret := range append(w.provider.Secrets(), "canary-client-secret") {
		if strings.Contains(got.Page, secret) {
			t.Errorf("the page holds %.20s", secret)
		}
	}
	for asset, kind := range map[string]string{"page.js": "text/javascript", "page.css": "text/css"} {
		a, err := emulator.NewBrowser().Open(t.Context(), w.public+"/auth/"+asset)
		if err != nil || a.Status != http.StatusOK || !strings.HasPrefix(a.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: %d %s, %v", asset, a.Status, a.Header.Get("Content-Type"), err)
		}
	}
	if a, err := emulator.NewBrowser().Open(t.Context(), w.public+"/auth/other"); err != nil || a.Status != http.StatusNotFound {
		t.Errorf("%d, %v", a.Status, err)
	}
}

// A provider may identify its users by numbers. The digits are kept: not 1.2345678e+07.
func TestNumberedUser(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"id":12345678,"login":"octo"}`:                         "12345678",
		`{"id":12345678901234567890,"login":"octo"}`:             "12345678901234567890",
		`{"sub":"u-1","id":7,"login":"octo"}`:                    "u-1",
		`{"sub":null,"id":{"odd":1},"login":"octo"}`:             "",
		`{"sub":"","id":"` + "octo\\u0000" + `","login":"octo"}`: "octo ",
	} {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		t.Cleanup(api.Close)
		subject := "nobody"
		w := newWorld(t, func(w *world) {
			w.configure = func(c *popup.Config) { c.Provider.ProfileURL = api.URL }
			w.extend = func(c *composeext.Config) {
				c.OnQuery = func(_ context.Context, r *composeext.Request, _ composeext.Query) (composeext.Response, error) {
					subject = r.Token.Properties["subject"]
					return composeext.List(composeext.Thumbnail("octo", "")), nil
				}
			}
		})
		w.signIn(w.user(""))
		if subject != want {
			t.Errorf("%s: subject %q, want %q", body, subject, want)
		}
	}
}

// An answer of another provider is refused (RFC 9207), be it a code or an error.
func TestAnswerOfAnotherProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.oidc = true })
	user, b := w.user(""), emulator.NewBrowser()
	_, c := w.query(user, "lakers")
	for what, change := range map[string]func(url.Values){
		"code":  func(q url.Values) { q.Set("iss", "https://evil.example") },
		"error": func(q url.Values) { q.Set("iss", "https://evil.example"); q.Set("error", "call 555-0100") },
		"ours":  func(q url.Values) { q.Set("iss", w.issuer); q.Set("error", "access_denied") },
		// The provider says that all its answers have the iss parameter.
		"nobody's code":  func(q url.Values) { q.Del("iss") },
		"nobody's error": func(q url.Values) { q.Del("iss"); q.Set("error", "call 555-0100") },
	} {
		at, err := b.Authorize(t.Context(), c.URL)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(at.Callback)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		change(q)
		u.RawQuery = q.Encode()
		want := "failed"
		if what == "ours" {
			want = "access_denied"
		}
		if got, err := b.Open(t.Context(), u.String()); err != nil || got.Reason != want || strings.Contains(got.Page, "555-0100") {
			t.Errorf("%s: %q, %v: %s", what, got.Reason, err, got.Page)
		}
	}
}

// A provider that does not announce the iss parameter (RFC 9207) need not send it.
func TestAnswerWithoutIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.oidc, w.noIssuer = true, true })
	user, b := w.user(""), emulator.NewBrowser()
	asked, c := w.query(user, "lakers")
	at, err := b.Authorize(t.Context(), c.URL)
	if err != nil || strings.Contains(at.Callback, "iss=") {
		t.Fatalf("%q, %v", at.Callback, err)
	}
	got, err := b.Open(t.Context(), at.Callback)
	if err != nil {
		t.Fatal(err)
	}
	w.want(w.reissue(user, asked, got.Code), "result")
}

// shown records how each request to a provider sends the client's secret.
type shown struct {
	mu      sync.Mutex
	by      map[string][]string // methods by the end of the path
	refused bool                // the provider refuses all requests
	listed  string              // method in the discovery document; "" = those of the emulator
}

const (
	inHeader = "header"
	inBody   = "body"
	nowhere  = "nowhere"
)

func (s *shown) front(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch page := path.Base(r.URL.Path); {
		case page == "token" || page == "revoke":
			way := nowhere
			if _, _, ok := r.BasicAuth(); ok {
				way = inHeader
			} else if r.PostFormValue("client_secret") != "" {
				way = inBody
			}
			s.mu.Lock()
			s.by[page] = append(s.by[page], way)
			s.mu.Unlock()
			if s.refused {
				http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
				return
			}
		case page == "openid-configuration" && s.listed != "":
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			var document map[string]any
			_ = json.Unmarshal(rec.Body.Bytes(), &document)
			document["token_endpoint_auth_methods_supported"] = strings.Fields(s.listed)
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(document)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// A code is sent once, with the method of the settings or the discovery document. After
// a refusal the other method is not tried.
func TestTokenAuthMethod(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		oidc, public, refused bool
		listed, method        string
		want                  string
	}{
		"plain":                         {want: inHeader},
		"plain, refused":                {refused: true, want: inHeader},
		"plain, set to post":            {method: popup.AuthPost, want: inBody},
		"plain, public":                 {public: true, want: nowhere},
		"discovered":                    {oidc: true, want: inHeader},
		"discovered, refused":           {oidc: true, refused: true, want: inHeader},
		"discovered, post":              {oidc: true, listed: popup.AuthPost, want: inBody},
		"discovered, no methods":        {oidc: true, listed: " ", want: inHeader},
		"discovered, set to post":       {oidc: true, method: popup.AuthPost, want: inBody},
		"discovered post, set to basic": {oidc: true, listed: popup.AuthPost, method: popup.AuthBasic, want: inHeader},
		"discovered, public":            {oidc: true, public: true, want: nowhere},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &shown{by: map[string][]string{}, refused: c.refused, listed: c.listed}
			w := newWorld(t, func(w *world) {
				w.oidc, w.publicClient, w.front = c.oidc, c.public, s.front
				w.configure = func(cfg *popup.Config) { cfg.Provider.TokenAuthMethod = c.method }
			})
			user := w.user("")
			asked, answer := w.query(user, "lakers")
			got := w.open(emulator.NewBrowser(), answer.URL)
			want := map[string][]string{"token": {c.want}}
			if c.refused {
				if got.Reason != "provider_error" {
					t.Errorf("reason %q, want provider_error", got.Reason)
				}
			} else {
				w.want(w.reissue(user, asked, got.Code), "result")
				w.signOut(user)
				want["revoke"] = []string{c.want, c.want} // refresh token, access token
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if diff := cmp.Diff(want, s.by); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Methods that do nothing, and addresses without a page.
func TestMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, c := w.query(w.user(""), "lakers")
	link := strings.TrimPrefix(c.URL, w.public)
	for request, want := range map[string]int{
		"HEAD " + link: http.StatusOK, "HEAD /auth/page.js": http.StatusOK, "HEAD /auth/other": http.StatusNotFound, "GET /auth/other": http.StatusNotFound,
		"POST " + link: http.StatusMethodNotAllowed, "OPTIONS " + link: http.StatusMethodNotAllowed, "TRACE " + link: http.StatusMethodNotAllowed,
	} {
		method, path, _ := strings.Cut(request, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, w.public+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want || len(resp.Cookies()) != 0 || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %d, want %d: %v", request, resp.StatusCode, want, resp.Header)
		}
	}
}

// No secret is in the log or readable in the store.
func TestCanaries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.oidc = true })
	user, b := w.user(""), emulator.NewBrowser()
	asked, c := w.query(user, "lakers")
	at, err := b.Authorize(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	ended, err := b.Open(t.Context(), at.Callback)
	if err != nil {
		t.Fatal(err)
	}
	w.want(w.reissue(user, asked, ended.Code), "result")
	w.advance(2 * time.Hour)
	_, c = w.query(user, "lakers")
	w.want(c, "result")
	w.signOut(user)
	provider, _ := url.Parse(at.Provider)
	secrets := append(w.provider.Secrets(), ended.Code, provider.Query().Get("state"), "canary-client-secret", "canary-bot-token")
	page, err := w.store.List(t.Context(), store.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := w.store.Trail(t.Context(), store.TrailQuery{})
	if err != nil {
		t.Fatal(err)
	}
	rows, _ := json.Marshal(page)
	lines, _ := json.Marshal(events)
	for _, secret := range secrets {
		for where, text := range map[string]string{"log": w.logs.String(), "attempts": string(rows), "events": string(lines)} {
			if secret == "" || strings.Contains(text, secret) {
				t.Errorf("%s holds %.24s…", where, secret)
			}
		}
	}
}

// An id token of another popup is refused.
func TestForgedNonce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.oidc = true })
	_, c := w.query(w.user(""), "lakers")
	w.provider.ForgeNonce("another")
	if got := w.open(emulator.NewBrowser(), c.URL); got.Code != "" || got.Reason != "failed" {
		t.Errorf("%q, %q", got.Code, got.Reason)
	}
	w.provider.ForgeNonce("")
	if got := w.open(emulator.NewBrowser(), c.URL); got.Code == "" {
		t.Errorf("%q", got.Reason)
	}
}

// The older envelope has the user in another place (M9).
func TestOlderEnvelope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	legacy := func(user, state string) emulator.Compose {
		t.Helper()
		body := `{"name":"composeExtension/query","type":"invoke","value":{"commandId":"insertWiki","parameters":[{"name":"searchKeyword","value":"lakers"}],` +
			`"state":"` + state + `","queryOptions":{"skip":0,"count":25}},"address":{"id":"f:1","channelId":"msteams",` +
			`"user":{"id":"29:` + user + `","aadObjectId":"aad-` + user + `"},"conversation":{"id":"19:x@thread.skype"},` +
			`"bot":{"id":"28:b"},"serviceUrl":"https://smba.trafficmanager.net/amer-client-ss.msg/","useAuth":true},"source":"msteams"}`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.public+"/api/messages", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		got, err := io.ReadAll(resp.Body)
		return w.compose(emulator.Answer{Status: resp.StatusCode, Body: got}, err)
	}
	c := legacy("alice", "")
	w.want(c, "auth")
	code := w.open(emulator.NewBrowser(), c.URL).Code
	w.want(legacy("eve", code), "auth")
	c = legacy("alice", code)
	w.want(c, "result")
	if !strings.Contains(string(c.Attachments[0]), "lakers") {
		t.Errorf("%s", c.Attachments)
	}
	// Both envelopes stand for the same user.
	alice := w.user("alice")
	_, c = w.query(alice, "bulls")
	w.want(c, "result")
}
