package tokensvc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

const (
	botJWT     = "bot-bearer-s3cret"
	ssoJWT     = "eyJ.sso.s3cret"
	codeDigits = "745254"
	heldJWT    = "user-token-s3cret"
)

var user = tokensvc.UserConnection{UserID: "29:1cg/+ &=", Connection: "graph & more", ChannelID: "msteams"}

// serve starts a server with one handler and a client of it.
func serve(t *testing.T, h http.HandlerFunc) *tokensvc.Client {
	t.Helper()
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	return client(t, tokensvc.Config{BaseURL: web.URL, Credentials: tokensvc.Static(tokensvc.NewSecret(botJWT))})
}

func client(t *testing.T, cfg tokensvc.Config) *tokensvc.Client {
	t.Helper()
	c, err := tokensvc.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// say ignores that the client is gone, as some tests make it.
func say(w io.Writer, body string) { _, _ = io.WriteString(w, body) }

// calls are all operations, reduced to their error.
func calls(c *tokensvc.Client) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		tokensvc.OpGetToken: func(ctx context.Context) error {
			_, err := c.GetToken(ctx, user, tokensvc.NewSecret(codeDigits))
			return err
		},
		tokensvc.OpGetSignInResource: func(ctx context.Context) error {
			_, err := c.GetSignInResource(ctx, tokensvc.State{Connection: "graph"})
			return err
		},
		tokensvc.OpExchange: func(ctx context.Context) error {
			_, err := c.Exchange(ctx, user, tokensvc.NewSecret(ssoJWT))
			return err
		},
		tokensvc.OpSignOut: func(ctx context.Context) error { return c.SignOut(ctx, user) },
		tokensvc.OpGetTokenStatus: func(ctx context.Context) error {
			_, err := c.GetTokenStatus(ctx, user.UserID, user.ChannelID)
			return err
		},
		tokensvc.OpGetTokenOrSignInResource: func(ctx context.Context) error {
			_, _, err := c.GetTokenOrSignInResource(ctx, user, tokensvc.State{}, tokensvc.NewSecret(codeDigits))
			return err
		},
		tokensvc.OpGetAadTokens: func(ctx context.Context) error {
			_, err := c.GetAadTokens(ctx, user, []string{"https://graph.microsoft.com/"})
			return err
		},
	}
}

func TestRequestsOnTheWire(t *testing.T) {
	type seen struct {
		method, path, body, auth string
		query                    url.Values
	}
	var last atomic.Pointer[seen]
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.ContentLength != int64(len(body)) {
			t.Errorf("%s %s: Content-Length %d of %d bytes", r.Method, r.URL.Path, r.ContentLength, len(body))
		}
		last.Store(&seen{r.Method, r.URL.Path, string(body), r.Header.Get("Authorization"), r.URL.Query()})
		w.WriteHeader(http.StatusTeapot)
	})
	uc := url.Values{"userid": {user.UserID}, "connectionName": {user.Connection}, "channelId": {user.ChannelID}}
	with := func(extra ...string) url.Values {
		v := url.Values{}
		for key, value := range uc {
			v[key] = value
		}
		for i := 0; i < len(extra); i += 2 {
			v.Set(extra[i], extra[i+1])
		}
		return v
	}
	want := map[string]seen{
		tokensvc.OpGetToken: {method: "GET", path: "/api/usertoken/GetToken", query: with("code", codeDigits)},
		tokensvc.OpGetSignInResource: {
			method: "GET", path: "/api/botsignin/GetSignInResource",
			query: url.Values{"state": {tokensvc.State{Connection: "graph"}.Encode()}},
		},
		tokensvc.OpExchange: {method: "POST", path: "/api/usertoken/exchange", query: uc, body: `{"token":"` + ssoJWT + `"}`},
		tokensvc.OpSignOut:  {method: "DELETE", path: "/api/usertoken/SignOut", query: uc},
		tokensvc.OpGetTokenStatus: {
			method: "GET", path: "/api/usertoken/GetTokenStatus",
			query: url.Values{"userid": {user.UserID}, "channelId": {"msteams"}},
		},
		tokensvc.OpGetTokenOrSignInResource: {
			method: "GET", path: "/api/usertoken/GetTokenOrSignInResource",
			query: with("code", codeDigits, "state", tokensvc.State{}.Encode()),
		},
		tokensvc.OpGetAadTokens: {
			method: "POST", path: "/api/usertoken/GetAadTokens", query: uc,
			body: `{"resourceUrls":["https://graph.microsoft.com/"]}`,
		},
	}
	for op, do := range calls(c) {
		if err := do(t.Context()); err == nil {
			t.Errorf("%s: no error on 418", op)
		}
		got, w := last.Load(), want[op]
		w.auth = "Bearer " + botJWT
		if fmt.Sprint(*got) != fmt.Sprint(w) {
			t.Errorf("%s\n got %v\nwant %v", op, *got, w)
		}
	}

	if err := c.SignOut(t.Context(), tokensvc.UserConnection{UserID: "u"}); err == nil {
		t.Error("SignOut: no error on 418")
	}
	if got := last.Load().query.Encode(); got != "userid=u" {
		t.Errorf("SignOut everywhere: query %q", got)
	}
	if _, err := c.GetTokenStatus(t.Context(), "u", "msteams", "a", "b"); err == nil {
		t.Error("GetTokenStatus: no error on 418")
	}
	if got := last.Load().query.Get("include"); got != "a,b" {
		t.Errorf("include = %q", got)
	}
}

func TestTolerantReading(t *testing.T) {
	const camel = `{"channelId":"msteams","connectionName":"Graph","token":"` + heldJWT +
		`","expiration":"2026-04-22T04:12:00Z","properties":{"a":"b","n":1},"new":[1]}`
	const pascal = `{"ChannelId":"msteams","ConnectionName":"Graph","Token":"` + heldJWT +
		`","Expiration":"2026-04-22T04:12:00.0000000Z","Properties":{"a":"b","n":null}}`
	for name, body := range map[string]string{"camelCase": camel, "PascalCase": pascal} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { say(w, body) })
			for _, get := range []func() (tokensvc.Token, error){
				func() (tokensvc.Token, error) { return c.GetToken(t.Context(), user, tokensvc.Secret{}) },
				func() (tokensvc.Token, error) {
					return c.Exchange(t.Context(), user, tokensvc.NewSecret(ssoJWT))
				},
			} {
				tok, err := get()
				if err != nil {
					t.Fatal(err)
				}
				if tok.Token.Reveal() != heldJWT || tok.Connection != "Graph" || tok.ChannelID != "msteams" ||
					!tok.Expiration.Equal(time.Date(2026, 4, 22, 4, 12, 0, 0, time.UTC)) || tok.Properties["a"] != "b" {
					t.Errorf("token %+v", tok)
				}
			}
		})
	}
	t.Run("bare", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			say(w, `{"token":"x","expiration":"soon","properties":[]}`)
		})
		tok, err := c.GetToken(t.Context(), user, tokensvc.Secret{})
		if err != nil || tok.Connection != user.Connection || tok.ChannelID != "msteams" || !tok.Expiration.IsZero() {
			t.Errorf("token %+v, %v", tok, err)
		}
	})
}

func TestSignInResource(t *testing.T) {
	for name, tc := range map[string]struct {
		body      string
		sso, post bool
	}{
		"all":    {`{"signInLink":"https://l","tokenExchangeResource":{"id":"i","uri":"u","providerId":"p"},"tokenPostResource":{"SasUrl":"https://s"}}`, true, true},
		"popup":  {`{"SignInLink":"https://l","tokenExchangeResource":null,"tokenPostResource":{}}`, false, false},
		"no SSO": {`{"signInLink":"https://l","tokenPostResource":{"sasUrl":"https://s"}}`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { say(w, tc.body) })
			res, err := c.GetSignInResource(t.Context(), tokensvc.State{})
			if err != nil {
				t.Fatal(err)
			}
			if res.SignInLink.Reveal() != "https://l" || (res.TokenExchangeResource != nil) != tc.sso || (res.TokenPostResource != nil) != tc.post {
				t.Errorf("resource %+v", res)
			}
			if tc.sso && *res.TokenExchangeResource != (tokensvc.TokenExchangeResource{ID: "i", URI: "u", ProviderID: "p"}) {
				t.Errorf("exchange resource %+v", *res.TokenExchangeResource)
			}
		})
	}
}

func TestOtherAnswers(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/usertoken/GetTokenStatus":
			say(w, `[{"ChannelId":"msteams","connectionName":"graph","hasToken":true,"serviceProviderDisplayName":"Graph"}]`)
		case "/api/usertoken/GetAadTokens":
			say(w, `{"https://a":{"token":"ta"},"https://b":null,"https://c":{}}`)
		case "/api/usertoken/GetTokenOrSignInResource":
			if r.URL.Query().Get("code") != "" {
				say(w, `{"tokenResponse":{"token":"t"}}`)
				return
			}
			say(w, `{"signInResource":{"signInLink":"https://l"},"tokenResponse":null}`)
		case "/api/usertoken/SignOut":
			w.WriteHeader(http.StatusNoContent)
		}
	})
	ctx := t.Context()
	statuses, err := c.GetTokenStatus(ctx, "u", "msteams")
	if want := (tokensvc.TokenStatus{ChannelID: "msteams", Connection: "graph", HasToken: true, DisplayName: "Graph"}); err != nil || len(statuses) != 1 || statuses[0] != want {
		t.Errorf("status %+v, %v", statuses, err)
	}
	tokens, err := c.GetAadTokens(ctx, user, []string{"https://a", "https://b"})
	if err != nil || len(tokens) != 1 || tokens["https://a"].Token.Reveal() != "ta" {
		t.Errorf("AAD tokens %+v, %v", tokens, err)
	}
	tok, res, err := c.GetTokenOrSignInResource(ctx, user, tokensvc.State{}, tokensvc.NewSecret("1"))
	if err != nil || res != nil || tok == nil || tok.Token.Reveal() != "t" {
		t.Errorf("combined: %+v %+v %v", tok, res, err)
	}
	tok, res, err = c.GetTokenOrSignInResource(ctx, user, tokensvc.State{}, tokensvc.Secret{})
	if err != nil || tok != nil || res == nil || res.SignInLink.Reveal() != "https://l" {
		t.Errorf("combined: %+v %+v %v", tok, res, err)
	}
	if err := c.SignOut(ctx, user); err != nil {
		t.Error(err)
	}
}

func TestNoToken(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
	}{
		"404":                {404, ""},
		"404 with a body":    {404, `{"error":{"code":"NotFound"}}`},
		"204":                {204, ""},
		"empty 200":          {200, ""},
		"blank 200":          {200, "\r\n  "},
		"null":               {200, "null"},
		"200 without token":  {200, `{"connectionName":"graph"}`},
		"200 and empty":      {200, `{"token":""}`},
		"200 and null token": {200, `{"token":null}`},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				say(w, tc.body)
			})
			if _, err := c.GetToken(t.Context(), user, tokensvc.Secret{}); !errors.Is(err, tokensvc.ErrNoToken) {
				t.Errorf("GetToken: %v", err)
			}
			_, err := c.Exchange(t.Context(), user, tokensvc.NewSecret(ssoJWT))
			var fail *tokensvc.Error
			if !errors.As(err, &fail) || errors.Is(err, tokensvc.ErrNoToken) {
				t.Fatalf("Exchange: %v", err)
			}
			if want := max(tc.status, 200); fail.Status != want && (tc.status != 204 || fail.Status != 200) {
				t.Errorf("Exchange: status %d", fail.Status)
			}
		})
	}
}

func TestErrorAnswers(t *testing.T) {
	const echo = `,"echo":"` + ssoJWT + codeDigits + `"}`
	for name, tc := range map[string]struct {
		status int
		header string
		body   string
		code   string
		retry  time.Duration
	}{
		"bare 500":        {status: 500},
		"code":            {status: 400, body: `{"error":{"code":"BadArgument","message":"m"}` + echo, code: "BadArgument"},
		"Pascal":          {status: 403, body: `{"Error":{"Code":"Nope"}}`, code: "Nope"},
		"flat":            {status: 401, body: `{"error":"invalid_client"}`, code: "invalid_client"},
		"odd code":        {status: 400, body: `{"error":{"code":"user 29:1cg said ` + ssoJWT + `"}}`},
		"HTML":            {status: 502, body: "<html>" + ssoJWT},
		"retry seconds":   {status: 429, header: "7", retry: 7 * time.Second},
		"retry date":      {status: 503, header: time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)},
		"retry nonsense":  {status: 503, header: "soon"},
		"retry for ages":  {status: 503, header: "99999999999", retry: 24 * time.Hour},
		"redirect":        {status: 302},
		"412 of Exchange": {status: 412, body: `{"error":{"code":"ConsentRequired"}}`, code: "ConsentRequired"},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
				if tc.header != "" {
					w.Header().Set("Retry-After", tc.header)
				}
				w.WriteHeader(tc.status)
				say(w, tc.body)
			})
			for op, do := range calls(c) {
				err := do(t.Context())
				var fail *tokensvc.Error
				if !errors.As(err, &fail) {
					t.Fatalf("%s: %v", op, err)
				}
				if fail.Op != op || fail.Status != tc.status || fail.HTTPStatus() != tc.status || fail.Code != tc.code || fail.RetryAfter != tc.retry {
					t.Errorf("%s: %+v", op, fail)
				}
				redactedIn(t, err)
			}
		})
	}
}

func TestRetryAfterDate(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	var fail *tokensvc.Error
	if err := c.SignOut(t.Context(), user); !errors.As(err, &fail) || fail.RetryAfter < 50*time.Minute || fail.RetryAfter > time.Hour {
		t.Errorf("%+v", fail)
	}
}

func TestUnreadableAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		body string
		want int
	}{
		"malformed": {`{"token":"` + heldJWT, 200},
		"array":     {`"` + heldJWT + `"`, 200},
		"too long":  {`{"token":"` + strings.Repeat("x", 1<<20) + `"}`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { say(w, tc.body) })
			for op, do := range calls(c) {
				if op == tokensvc.OpSignOut && name != "too long" {
					continue // its body says nothing
				}
				err := do(t.Context())
				var fail *tokensvc.Error
				if !errors.As(err, &fail) || fail.Status != tc.want || errors.Is(err, tokensvc.ErrNoToken) {
					t.Errorf("%s: %v", op, err)
				}
				redactedIn(t, err)
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	t.Run("dropped", func(t *testing.T) {
		c := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		noAnswer(t, c, t.Context(), nil)
	})
	t.Run("cut off", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			say(w, `{"token":"`+heldJWT)
		})
		noAnswer(t, c, t.Context(), io.ErrUnexpectedEOF)
	})
	t.Run("refused", func(t *testing.T) {
		web := httptest.NewServer(http.NotFoundHandler())
		web.Close()
		noAnswer(t, client(t, tokensvc.Config{BaseURL: web.URL}), t.Context(), nil)
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := serve(t, func(http.ResponseWriter, *http.Request) {})
		noAnswer(t, c, ctx, context.Canceled)
	})
	t.Run("too late", func(t *testing.T) {
		release := make(chan struct{})
		web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		defer web.Close()
		defer close(release)
		noAnswer(t, client(t, tokensvc.Config{BaseURL: web.URL, Timeout: 20 * time.Millisecond}), t.Context(), context.DeadlineExceeded)
	})
	t.Run("no bearer", func(t *testing.T) {
		cause := errors.New("no network")
		c := client(t, tokensvc.Config{BaseURL: tokensvc.PublicURL, Credentials: failing{cause}})
		noAnswer(t, c, t.Context(), cause)
	})
}

type failing struct{ err error }

func (f failing) Token(context.Context) (tokensvc.Secret, error) { return tokensvc.Secret{}, f.err }

func noAnswer(t *testing.T, c *tokensvc.Client, ctx context.Context, cause error) { //nolint:revive // t first, as in every helper
	t.Helper()
	for op, do := range calls(c) {
		err := do(ctx)
		var fail *tokensvc.Error
		if !errors.As(err, &fail) || fail.Op != op || fail.Status != 0 || cause != nil && !errors.Is(err, cause) {
			t.Errorf("%s: %v", op, err)
		}
		var located *url.Error
		if errors.As(err, &located) {
			t.Errorf("%s: the URL is in it", op)
		}
		redactedIn(t, err)
	}
}

// redactedIn prints v in every way there is.
func redactedIn(t *testing.T, v any) {
	t.Helper()
	asJSON, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprintf("%v %+v %#v %s %q ", v, v, v, v, v) + string(asJSON)
	if e, ok := v.(error); ok {
		printed += e.Error()
	}
	for _, secret := range []string{botJWT, ssoJWT, codeDigits, heldJWT, "s3cret", "29:1cg", "29%3A", "userid="} {
		if strings.Contains(printed, secret) {
			t.Errorf("%q is in %s", secret, printed)
		}
	}
}

func TestSecretsArePrintedNowhere(t *testing.T) {
	s := tokensvc.NewSecret(heldJWT)
	cred, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{ClientID: "id", ClientSecret: s})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{
		s, &s,
		[]tokensvc.Secret{s},
		tokensvc.Token{Token: s},
		map[string]tokensvc.Secret{"k": s},
		tokensvc.SignInResource{SignInLink: s, TokenPostResource: &tokensvc.TokenPostResource{SasURL: s}},
		tokensvc.ClientCredentialsConfig{ClientSecret: s},
		cred, tokensvc.Static(s),
	} {
		redactedIn(t, v)
	}
	if s.Reveal() != heldJWT || s.Empty() || !(tokensvc.Secret{}).Empty() || tokensvc.NewSecret("") != (tokensvc.Secret{}) {
		t.Error("Reveal or Empty is wrong")
	}
}

func TestConnectionsAreReused(t *testing.T) {
	for _, status := range []int{200, 404, 500} {
		var connections atomic.Int32
		web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			say(w, `{"token":"`+strings.Repeat("x", 10_000)+`"}`)
		}))
		web.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
		web.Start()
		c := client(t, tokensvc.Config{BaseURL: web.URL})
		for range 20 {
			_, err := c.GetToken(t.Context(), user, tokensvc.Secret{})
			if (err == nil) != (status == 200) {
				t.Error(err)
			}
		}
		if n := connections.Load(); n != 1 {
			t.Errorf("status %d: %d connections for 20 calls in a row", status, n)
		}
		web.Close()
	}
}

func TestConcurrentCalls(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		say(w, fmt.Sprintf(`{"token":%q}`, r.URL.Query().Get("userid")))
	})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			id := fmt.Sprint(i)
			tok, err := c.GetToken(t.Context(), tokensvc.UserConnection{UserID: id}, tokensvc.Secret{})
			if err != nil || tok.Token.Reveal() != id {
				t.Errorf("user %s: %v", id, err)
			}
		})
	}
	wg.Wait()
}

func TestNew(t *testing.T) {
	bearer := tokensvc.Static(tokensvc.NewSecret(botJWT))
	for name, tc := range map[string]struct {
		cfg tokensvc.Config
		ok  bool
	}{
		"public":                 {tokensvc.Config{BaseURL: tokensvc.PublicURL, Credentials: bearer}, true},
		"loopback":               {tokensvc.Config{BaseURL: "http://127.0.0.1:1/"}, true},
		"localhost":              {tokensvc.Config{BaseURL: "http://LOCALHOST"}, true},
		"loopback six":           {tokensvc.Config{BaseURL: "http://[::1]:80"}, true},
		"no credentials":         {tokensvc.Config{BaseURL: tokensvc.PublicURL}, false},
		"no URL":                 {tokensvc.Config{Credentials: bearer}, false},
		"not HTTP":               {tokensvc.Config{BaseURL: "ftp://x", Credentials: bearer}, false},
		"with a password":        {tokensvc.Config{BaseURL: "https://" + "a:s3cret@x", Credentials: bearer}, false},
		"malformed and a secret": {tokensvc.Config{BaseURL: "https://a:s3cret@x:port", Credentials: bearer}, false},
		"no credentials, by IP":  {tokensvc.Config{BaseURL: "http://10.0.0.1"}, false},
		"no host":                {tokensvc.Config{BaseURL: "https:///api", Credentials: bearer}, false},
		"query":                  {tokensvc.Config{BaseURL: "https://x?a=b", Credentials: bearer}, false},
		"negative":               {tokensvc.Config{BaseURL: "http://localhost", Timeout: -1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tokensvc.New(tc.cfg)
			if (err == nil) != tc.ok {
				t.Errorf("error %v", err)
			}
			redactedIn(t, err)
		})
	}
}

func TestBaseURLWithAPath(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		say(w, fmt.Sprintf(`{"token":%q}`, r.URL.Path))
	}))
	defer web.Close()
	tok, err := client(t, tokensvc.Config{BaseURL: web.URL + "/emu/"}).GetToken(t.Context(), user, tokensvc.Secret{})
	if err != nil || tok.Token.Reveal() != "/emu/api/usertoken/GetToken" {
		t.Errorf("%q, %v", tok.Token.Reveal(), err)
	}
}
