package operator_test

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func fakeJWT(claims string) string {
	enc := base64.RawURLEncoding
	return enc.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc.EncodeToString([]byte(claims)) + "." + enc.EncodeToString([]byte("signature"))
}

// answer is a response whose body was read.
type answer struct {
	StatusCode int
	Header     http.Header
	Cookies    []*http.Cookie
}

// ask sends a request without following redirects.
func ask(t *testing.T, method, url, body string, header http.Header) (answer, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must(t, err)
	req.Header = header
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	must(t, err)
	defer res.Body.Close() //nolint:errcheck // it was read
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return answer{res.StatusCode, res.Header, res.Cookies()}, string(b)
}

// TestLook serves the staged situations for a person to look at:
// go test -run TestLook -console.look=127.0.0.1:9980.
func TestLook(t *testing.T) {
	if *lookAt == "" {
		t.Skip("only with -console.look")
	}
	s := newStage(t)
	s.play(t)
	for name, id := range s.ids {
		t.Logf("%-18s /attempts/%s", name, id)
	}
	t.Logf("http://%s/login?token=%s", *lookAt, actToken)
	time.Sleep(10 * time.Minute)
}

const browserAccept = "text/html,application/xhtml+xml,*/*;q=0.8"

// web is a handler with its engine, for tests of the pages.
func web(t *testing.T, change func(*operator.HandlerConfig)) (*httptest.Server, *engine) {
	t.Helper()
	eng := &engine{}
	d := direct(fixture(t))
	cfg := operator.HandlerConfig{
		Reader: d, Actor: operator.NewDirectActor(d, eng), Clock: time.Now,
		Token: tokensvc.NewSecret(actToken), ReadToken: tokensvc.NewSecret(readToken),
	}
	if change != nil {
		change(&cfg)
	}
	s := httptest.NewServer(operator.NewHandler(cfg))
	t.Cleanup(s.Close)
	return s, eng
}

// logIn logs a browser in and returns its cookie.
func logIn(t *testing.T, s *httptest.Server, token, name string) *http.Cookie {
	t.Helper()
	res, body := form(t, s.URL+"/login", nil, url.Values{"token": {token}, "name": {name}, "next": {"/attempts"}})
	if res.StatusCode != http.StatusSeeOther || len(res.Cookies) != 1 {
		t.Fatalf("log in: %d %s", res.StatusCode, body)
	}
	return res.Cookies[0]
}

func form(t *testing.T, to string, cookie *http.Cookie, values url.Values) (answer, string) {
	t.Helper()
	h := http.Header{"Accept": {browserAccept}, "Content-Type": {"application/x-www-form-urlencoded"}}
	if cookie != nil {
		h.Set("Cookie", cookie.Name+"="+cookie.Value)
	}
	return ask(t, http.MethodPost, to, values.Encode(), h)
}

// see loads a page and returns its text and its form token.
func see(t *testing.T, to string, cookie *http.Cookie) (res answer, body, token string) {
	t.Helper()
	res, body = ask(t, http.MethodGet, to, "", http.Header{"Accept": {browserAccept}, "Cookie": {cookie.Name + "=" + cookie.Value}})
	_, rest, _ := strings.Cut(body, `name="form" value="`)
	token, _, _ = strings.Cut(rest, `"`)
	return res, body, token
}

func TestLoginAndItsCookie(t *testing.T) {
	s, _ := web(t, nil)
	res, _ := ask(t, http.MethodGet, s.URL+"/attempts?state=Failed", "", http.Header{"Accept": {browserAccept}})
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/login?next=%2Fattempts%3Fstate%3DFailed" {
		t.Errorf("a browser without a cookie: %d %s", res.StatusCode, res.Header.Get("Location"))
	}
	if res, body := ask(t, http.MethodGet, s.URL+"/attempts", "", http.Header{"Accept": {"*/*"}}); res.StatusCode != http.StatusUnauthorized || !strings.Contains(body, `"unauthorized"`) {
		t.Errorf("a client without a token: %d %s", res.StatusCode, body)
	}
	if res, body := form(t, s.URL+"/login", nil, url.Values{"token": {"wrong"}, "name": {"Ada"}}); res.StatusCode != http.StatusUnauthorized || len(res.Cookies) > 0 || strings.Contains(body, "wrong") {
		t.Errorf("a wrong token: %d", res.StatusCode)
	}
	if res, _ := form(t, s.URL+"/login", nil, url.Values{"token": {actToken}}); res.StatusCode != http.StatusBadRequest {
		t.Errorf("acting without a name: %d", res.StatusCode)
	}
	c := logIn(t, s, actToken, "Ada")
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || c.Path != "/" || strings.Contains(c.Value, actToken) {
		t.Errorf("cookie %+v", c)
	}
	for _, next := range []string{"//evil.example", "https://evil.example", `/\evil.example`, "/\tevil"} {
		if res, _ := form(t, s.URL+"/login", nil, url.Values{"token": {actToken}, "name": {"Ada"}, "next": {next}}); res.Header.Get("Location") != "/" {
			t.Errorf("next %q leads to %q", next, res.Header.Get("Location"))
		}
	}
	if res, _ := ask(t, http.MethodGet, s.URL+"/login?token="+actToken, "", http.Header{"Accept": {browserAccept}}); res.StatusCode != http.StatusOK || len(res.Cookies) > 0 {
		t.Errorf("a link logs in where none should: %d", res.StatusCode)
	}
	other, _ := web(t, func(c *operator.HandlerConfig) { c.Token = tokensvc.NewSecret("another") })
	if res, _, _ := see(t, other.URL+"/", c); res.StatusCode != http.StatusSeeOther {
		t.Errorf("a session outlives its token: %d", res.StatusCode)
	}
}

func TestPagesAreLockedDown(t *testing.T) {
	s, _ := web(t, nil)
	c := logIn(t, s, readToken, "")
	for path, status := range map[string]int{
		"/": 200, "/attempts": 200, "/attempts/" + stuckID: 200, "/users/29:1cg": 200, "/connections/graph": 200, "/diagram": 200,
		"/login": 200, "/attempts/01ZZ": 404, "/nothing": 404, "/attempts?state=Foo": 400, "/search?q=fc67": 303,
	} {
		res, body, _ := see(t, s.URL+path, c)
		if res.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, status)
		}
		if status == http.StatusSeeOther {
			continue
		}
		csp := res.Header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") ||
			res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, res.Header)
		}
		for _, bad := range []string{" style=", "<style", " onclick", "javascript:", actToken, readToken} {
			if strings.Contains(body, bad) {
				t.Errorf("%s: the page has %q", path, bad)
			}
		}
	}
	// A request that does not ask for a page gets JSON.
	for _, path := range []string{"/attempts", "/attempts/" + stuckID, "/overview", "/", "/users/29:1cg", "/connections/graph", "/events?orphans=true", "/search?q=fc67"} {
		for _, accept := range []string{"", "*/*", "application/json"} {
			res, body := ask(t, http.MethodGet, s.URL+path, "", http.Header{"Accept": {accept}, "Authorization": {"Bearer " + readToken}})
			if res.StatusCode != http.StatusOK || !strings.HasPrefix(body, "{") {
				t.Errorf("%s with Accept %q: %d %.60s", path, accept, res.StatusCode, body)
			}
		}
	}
}

// halves is a reader whose lists have a next page.
type halves struct{ operator.Reader }

func (h halves) List(ctx context.Context, q operator.Query) (operator.Page, error) {
	page, err := h.Reader.List(ctx, q)
	page.NextCursor = "01KPTCZ3RG4T9Q2V6W8XJ3M5N7"
	return page, err
}

// The pages say what their reader needs first.
func TestPagesNameWhatTheyShow(t *testing.T) {
	st := fixture(t)
	a := stuckAttempt()
	a.Version, a.Conversation.UserName = 2, "Ada Lovelace"
	commit(t, st, store.Commit{Put: []store.Attempt{a}})
	s, _ := web(t, func(c *operator.HandlerConfig) { c.Reader = direct(st) })
	c := logIn(t, s, readToken, "")
	for path, wants := range map[string][]string{
		"/users/29:1cg": {"<title>User Ada Lovelace"},
		"/":             {"2 things are wrong.", "tone-bad"},
	} {
		_, body, _ := see(t, s.URL+path, c)
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s lacks %q", path, want)
			}
		}
	}
}

func TestListsLeadToTheirNextPage(t *testing.T) {
	s, _ := web(t, func(c *operator.HandlerConfig) { c.Reader = halves{c.Reader} })
	c := logIn(t, s, readToken, "")
	for path, next := range map[string]string{
		"/attempts":          "/attempts?cursor=01KPTCZ3RG4T9Q2V6W8XJ3M5N7",
		"/users/29:1cg":      "/attempts?cursor=01KPTCZ3RG4T9Q2V6W8XJ3M5N7&amp;user=29%3A1cg",
		"/connections/graph": "/attempts?connection=graph&amp;cursor=01KPTCZ3RG4T9Q2V6W8XJ3M5N7",
	} {
		if _, body, _ := see(t, s.URL+path, c); !strings.Contains(body, `href="`+next+`"`) {
			t.Errorf("%s has no link to %s", path, next)
		}
	}
}

func TestActionsNeedTheirLevelAndTheirForm(t *testing.T) {
	s, eng := web(t, nil)
	to := s.URL + "/attempts/" + stuckID
	reader, actor := logIn(t, s, readToken, ""), logIn(t, s, actToken, "Ada")
	_, _, readerToken := see(t, to, reader)
	_, body, token := see(t, to, actor)
	if !strings.Contains(body, `formaction="/attempts/`+stuckID+`/reconcile"`) {
		t.Error("the one who may act sees no button")
	}
	reason := func(form string) url.Values { return url.Values{"form": {form}, "reason": {"ticket 7"}} }
	for name, got := range map[string]func() answer{
		"a reader":        func() answer { r, _ := form(t, to+"/cancel", reader, reason(readerToken)); return r },
		"without a token": func() answer { r, _ := form(t, to+"/cancel", actor, reason("")); return r },
		"another's token": func() answer { r, _ := form(t, to+"/cancel", actor, reason(readerToken)); return r },
		"JSON by the cookie": func() answer {
			r, _ := ask(t, http.MethodPost, to+"/cancel", `{"actor":"x","reason":"y"}`, http.Header{"Content-Type": {"application/json"}, "Cookie": {actor.Name + "=" + actor.Value}})
			return r
		},
		"from another site": func() answer {
			r, _ := ask(t, http.MethodPost, to+"/cancel", reason(token).Encode(), http.Header{
				"Content-Type": {"application/x-www-form-urlencoded"}, "Cookie": {actor.Name + "=" + actor.Value},
				"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"},
			})
			return r
		},
		"JSON of a reader": func() answer {
			r, _ := ask(t, http.MethodPost, to+"/cancel", `{"actor":"x","reason":"y"}`, http.Header{"Authorization": {"Bearer " + readToken}})
			return r
		},
		"a reader's snapshot": func() answer {
			r, _ := ask(t, http.MethodGet, s.URL+"/snapshot", "", http.Header{"Authorization": {"Bearer " + readToken}})
			return r
		},
	} {
		if res := got(); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", name, res.StatusCode)
		}
	}
	if res, body := form(t, to+"/cancel", actor, url.Values{"form": {token}}); res.StatusCode != http.StatusBadRequest || !strings.Contains(body, "enter a reason") {
		t.Errorf("without a reason: %d", res.StatusCode)
	}
	if len(eng.asked) > 0 {
		t.Fatalf("it was done all the same: %q", eng.asked)
	}
	res, _ := form(t, to+"/cancel", actor, reason(token))
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/attempts/"+stuckID+"?did=cancel" {
		t.Errorf("cancel: %d %s", res.StatusCode, res.Header.Get("Location"))
	}
	eng.err = machine.ErrLeaseHeld
	if res, body := form(t, to+"/reconcile", actor, reason(token)); res.StatusCode != http.StatusConflict || !strings.Contains(body, `role="alert"`) || !strings.Contains(body, "ticket 7") {
		t.Errorf("a lost race: %d", res.StatusCode)
	}
	want := []string{"cancel " + stuckID + " by Ada: ticket 7", "reconcile " + stuckID + " by Ada: ticket 7"}
	if !slices.Equal(eng.asked, want) {
		t.Errorf("asked %q", eng.asked)
	}
}

func TestActionOnAllThatMatch(t *testing.T) {
	s, eng := web(t, nil)
	c := logIn(t, s, actToken, "Ada")
	_, body, token := see(t, s.URL+"/attempts/act?action=redeliver&reason=client_failure", c)
	if !strings.Contains(body, "This affects 1 attempt.") {
		t.Errorf("the count is not shown first:\n%s", body)
	}
	if len(eng.asked) > 0 {
		t.Errorf("a look did something: %q", eng.asked)
	}
	fields := url.Values{"form": {token}, "action": {"redeliver"}, "reason": {"client_failure"}, "why": {"repaired"}}
	res, body := form(t, s.URL+"/attempts/act", c, fields)
	if res.StatusCode != http.StatusOK || !strings.Contains(body, "The action succeeded for 1 attempt.") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	fields.Set("reason", "expired")
	if _, body = form(t, s.URL+"/attempts/act", c, fields); !strings.Contains(body, "The action succeeded for 0 attempts.") {
		t.Errorf("the filter is not kept: %s", body)
	}
	if want := []string{"redeliver " + doneID + " by Ada: repaired"}; !slices.Equal(eng.asked, want) {
		t.Errorf("asked %q", eng.asked)
	}
}

func TestActorBehindAProxy(t *testing.T) {
	s, eng := web(t, func(c *operator.HandlerConfig) { c.TrustHeader = "X-Forwarded-User" })
	c := logIn(t, s, actToken, "somebody else")
	to := s.URL + "/attempts/" + stuckID
	_, _, token := see(t, to, c)
	values := url.Values{"form": {token}, "reason": {"ticket 7"}, "actor": {"somebody else"}}
	if res, _ := form(t, to+"/cancel", c, values); res.StatusCode != http.StatusForbidden {
		t.Errorf("without the header: %d", res.StatusCode)
	}
	res, _ := ask(t, http.MethodPost, to+"/cancel", values.Encode(), http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"}, "Cookie": {c.Name + "=" + c.Value},
		"X-Forwarded-User": {"eve@example.com\u202e"}, "X-Forwarded-Proto": {"https"}, "Accept": {browserAccept},
	})
	if res.StatusCode != http.StatusSeeOther || !slices.Equal(eng.asked, []string{"cancel " + stuckID + " by eve@example.com: ticket 7"}) {
		t.Errorf("%d %q", res.StatusCode, eng.asked)
	}
	// A JSON request does not get around it.
	eng.asked = nil
	res, _ = ask(t, http.MethodPost, to+"/cancel", `{"actor":"somebody else","reason":"ticket 8"}`, http.Header{
		"Authorization": {"Bearer " + actToken}, "X-Forwarded-User": {"eve@example.com"},
	})
	if res.StatusCode != http.StatusOK || !slices.Equal(eng.asked, []string{"cancel " + stuckID + " by eve@example.com: ticket 8"}) {
		t.Errorf("JSON: %d %q", res.StatusCode, eng.asked)
	}
	// A header that the configuration does not name is not trusted.
	s, eng = web(t, nil)
	c = logIn(t, s, actToken, "Ada")
	_, _, token = see(t, s.URL+"/attempts/"+stuckID, c)
	values.Set("form", token)
	ask(t, http.MethodPost, s.URL+"/attempts/"+stuckID+"/cancel", values.Encode(), http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"}, "Cookie": {c.Name + "=" + c.Value}, "X-Forwarded-User": {"eve"},
	})
	if !slices.Equal(eng.asked, []string{"cancel " + stuckID + " by Ada: ticket 7"}) {
		t.Errorf("asked %q", eng.asked)
	}
}

// A login and its forms are valid on other instances and after a restart. A proxy's own
// credentials do not disturb it. A visitor with read access can log out.
func TestLoginOutlivesTheProcess(t *testing.T) {
	s, _ := web(t, nil)
	actor, reader := logIn(t, s, actToken, "Ada"), logIn(t, s, readToken, "")
	to := "/attempts/" + stuckID
	_, _, token := see(t, s.URL+to, actor)
	other, eng := web(t, nil)
	res, _ := form(t, other.URL+to+"/cancel", actor, url.Values{"form": {token}, "reason": {"ticket 7"}})
	if res.StatusCode != http.StatusSeeOther || len(eng.asked) != 1 {
		t.Errorf("on another instance: %d %q", res.StatusCode, eng.asked)
	}
	res, _ = ask(t, http.MethodGet, s.URL+to, "", http.Header{
		"Accept": {browserAccept}, "Cookie": {actor.Name + "=" + actor.Value}, "Authorization": {"Basic cHJveHk6cHJveHk="},
	})
	if res.StatusCode != http.StatusOK {
		t.Errorf("behind a proxy with credentials of its own: %d", res.StatusCode)
	}
	if res, _ = form(t, s.URL+"/logout", reader, url.Values{}); res.StatusCode != http.StatusSeeOther {
		t.Errorf("log out of a reader: %d", res.StatusCode)
	}
}

// An endpoint without a token trusts everybody who reaches it, but not a host name that
// DNS could resolve to it, and not requests from another site.
func TestOpenEndpoint(t *testing.T) {
	s, eng := web(t, func(c *operator.HandlerConfig) { c.Token, c.ReadToken = tokensvc.Secret{}, tokensvc.Secret{} })
	res, body := ask(t, http.MethodGet, s.URL+"/attempts/"+stuckID, "", http.Header{"Accept": {browserAccept}})
	if res.StatusCode != http.StatusOK || len(res.Cookies) != 1 {
		t.Fatalf("%d", res.StatusCode)
	}
	_, rest, _ := strings.Cut(body, `name="form" value="`)
	token, _, _ := strings.Cut(rest, `"`)
	values := url.Values{"form": {token}, "reason": {"ticket 7"}, "actor": {"Ada"}}
	if res, _ := form(t, s.URL+"/attempts/"+stuckID+"/cancel", nil, values); res.StatusCode != http.StatusForbidden {
		t.Errorf("a form of another page: %d", res.StatusCode)
	}
	if res, _ := form(t, s.URL+"/attempts/"+stuckID+"/cancel", res.Cookies[0], values); res.StatusCode != http.StatusSeeOther || len(eng.asked) != 1 {
		t.Errorf("cancel: %d %q", res.StatusCode, eng.asked)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/overview", nil)
	must(t, err)
	req.Host = "rebound.example:80"
	rebound, err := http.DefaultClient.Do(req)
	must(t, err)
	defer rebound.Body.Close() //nolint:errcheck // only its status counts
	if rebound.StatusCode != http.StatusForbidden {
		t.Errorf("a name that DNS pointed here: %d", rebound.StatusCode)
	}
}

func TestStreamEndsWithTheServer(t *testing.T) {
	var body io.Closer
	t.Cleanup(func() { body.Close() }) //nolint:errcheck // the server has ended it
	d := direct(fixture(t))
	e := serve(t, operator.Endpoint{Network: "tcp", Address: "127.0.0.1:0"}, operator.HandlerConfig{Reader: d})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.String()+"/events?attempt="+stuckID, nil)
	must(t, err)
	req.Header.Set("Accept", "text/event-stream")
	res, err := http.DefaultClient.Do(req) //nolint:bodyclose // the clean-up closes it
	must(t, err)
	body = res.Body
	if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		t.Errorf("content type %q", got)
	}
	// The cleanup of serve runs before the body is closed. It fails the test if the
	// server does not stop in time.
}

func TestSearchTakesAnyID(t *testing.T) {
	d := direct(fixture(t))
	for _, id := range []string{stuckID, strings.ToLower(stuckID), "fc67", "1776827524158", "1776827500000", "29:1cg", "0350", "a:1xH", " fc67 "} {
		page, err := d.Search(t.Context(), id)
		if err != nil || len(page.Attempts) != 1 || page.Attempts[0].ID != stuckID {
			t.Errorf("%q: %v, %d attempts", id, err, len(page.Attempts))
		}
	}
	if page, err := d.Search(t.Context(), "nobody"); err != nil || len(page.Attempts) != 0 {
		t.Errorf("nobody: %v, %d", err, len(page.Attempts))
	}
	if page, err := d.Search(t.Context(), prefix); err != nil || len(page.Attempts) != 2 {
		t.Errorf("prefix: %v, %d", err, len(page.Attempts))
	}
}

// The first lines of an attempt's page say what happened and what to do, in the
// situations that operators meet.
func TestStories(t *testing.T) {
	st := newStage(t)
	st.play(t)
	d := operator.NewDirect(st.store, operator.DefaultRules(), operator.Info{})
	for name, want := range map[string][]string{
		"popup":    {"good", "is signed in, through the sign-in window", "Nothing to do."},
		"consent":  {"warn", "refused silent sign-on. The card's button still works", "requestedAccessTokenVersion to 2", "presses the card's button"},
		"waiting":  {"warn", "no Teams client has answered it", "webApplicationInfo"},
		"closed":   {"warn", "closed the sign-in window", "presses the card's button again"},
		"resource": {"bad", "reported resourcematchfailed", "Application ID URI"},
		"down":     {"bad", "answered Exchange with 503", "doctor"},
		"callback": {"bad", "own code has not handled the result yet", "no such table", "redeliver"},
		"killed":   {"bad", "is gone, and no other one has finished it", "bot-b", "reconcile"},
		"card":     {"bad", "BotNotInConversationRoster", "Install the app"},
		"region":   {"bad", "answered GetSignInResource with 404", "region"},
		"devices":  {"good", "silently by single sign-on", "Nothing to do."},
		"now":      {"wait", "no Teams client has answered it", "Nothing to do until the card expires"},
	} {
		detail, err := d.Get(t.Context(), st.ids[name])
		must(t, err)
		story := operator.StoryOf(detail)
		told := string(story.Tone) + "\n" + story.Headline + "\n" + strings.Join(story.Facts, "\n")
		for _, a := range story.Advice {
			told += "\n" + a.Because + " " + a.Do + " " + a.Command
		}
		for i, part := range want {
			if i == 0 && string(story.Tone) != part || !strings.Contains(told, part) {
				t.Errorf("%s: no %q in:\n%s", name, part, told)
			}
		}
	}
}
