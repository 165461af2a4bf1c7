package emulator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

const (
	graph  = "graph"
	github = "github"
	userID = "29:1cg"
)

var (
	onGraph  = tokensvc.UserConnection{UserID: userID, Connection: graph, ChannelID: "msteams"}
	onGithub = tokensvc.UserConnection{UserID: userID, Connection: github, ChannelID: "msteams"}
	sso      = tokensvc.NewSecret("sso.jwt")
	state    = tokensvc.State{
		Connection: graph, ActivityID: "1", BotID: "28:b", ChannelID: "msteams", ConversationID: "a:1",
		UserID: userID, MsAppID: "app",
	}
)

func secret(s string) tokensvc.Secret { return tokensvc.NewSecret(s) }

// start serves an emulator with one SSO and one popup connection.
func start(t *testing.T, cfg emulator.Config) (*emulator.Server, *tokensvc.Client, string) {
	t.Helper()
	if cfg.Connections == nil {
		cfg.Connections = []emulator.Connection{{Name: graph, DisplayName: "Graph", SSO: true}, {Name: github}}
	}
	emu := emulator.New(cfg)
	web := httptest.NewServer(emu)
	t.Cleanup(web.Close)
	emu.SetBaseURL(web.URL)
	c, err := tokensvc.New(tokensvc.Config{BaseURL: web.URL, Credentials: tokensvc.Static(secret("bot"))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return emu, c, web.URL
}

// request sends a bare HTTP request, like a client in another language. It has a bearer
// token unless header sets another one.
func request(t *testing.T, method, link, contentType, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, link, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Authorization", "Bearer bot")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer), resp.Header
}

func wantStatus(t *testing.T, err error, status int) {
	t.Helper()
	_ = failure(t, err, status)
}

// failure is wantStatus that returns the error.
func failure(t *testing.T, err error, status int) *tokensvc.Error {
	t.Helper()
	var fail *tokensvc.Error
	if !errors.As(err, &fail) {
		t.Fatalf("error %v, want status %d", err, status)
	}
	if fail.Status != status {
		t.Errorf("error %v, want status %d", err, status)
	}
	return fail
}

func wantNoToken(t *testing.T, c *tokensvc.Client, uc tokensvc.UserConnection, code string) {
	t.Helper()
	if _, err := c.GetToken(t.Context(), uc, secret(code)); !errors.Is(err, tokensvc.ErrNoToken) {
		t.Errorf("GetToken(%s, code %q): %v, want no token", uc.Connection, code, err)
	}
}

func wantToken(t *testing.T, c *tokensvc.Client, uc tokensvc.UserConnection, code string) tokensvc.Token {
	t.Helper()
	tok, err := c.GetToken(t.Context(), uc, secret(code))
	if err != nil {
		t.Fatalf("GetToken(%s): %v", uc.Connection, err)
	}
	return tok
}

func TestPopup(t *testing.T) {
	emu, c, base := start(t, emulator.Config{})
	ctx := t.Context()
	popup := state
	popup.Connection = github
	res, err := c.GetSignInResource(ctx, popup)
	if err != nil {
		t.Fatal(err)
	}
	if res.TokenExchangeResource != nil || res.TokenPostResource == nil {
		t.Errorf("resource of a popup connection: %+v", res)
	}
	code, err := emulator.SignInWithPage(ctx, nil, res.SignInLink.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if len(code) != 6 || strings.Trim(code, "0123456789") != "" {
		t.Errorf("code %q", code)
	}
	wantNoToken(t, c, onGithub, "") // not before the bot has redeemed the code
	other := onGithub
	other.UserID = "29:other"
	wantNoToken(t, c, other, code)
	wantNoToken(t, c, onGraph, code)
	tok := wantToken(t, c, onGithub, code)
	if tok.Connection != github || tok.ChannelID != "msteams" || time.Until(tok.Expiration) < 50*time.Minute {
		t.Errorf("token %+v", tok)
	}
	wantNoToken(t, c, onGithub, code) // a code can be used once
	if again := wantToken(t, c, onGithub, ""); again.Token.Reveal() != tok.Token.Reveal() {
		t.Error("the stored token is another")
	}
	elsewhere := onGithub
	elsewhere.ChannelID = "webchat"
	wantNoToken(t, c, elsewhere, "")

	status, body, _ := request(t, "GET", base+"/v1.0/me", "", "", "Authorization", "Bearer "+tok.Token.Reveal())
	if status != 200 || !strings.Contains(body, `"displayName":"Robin"`) {
		t.Errorf("me: %d %s", status, body)
	}
	if err := c.SignOut(ctx, onGithub); err != nil {
		t.Fatal(err)
	}
	wantNoToken(t, c, onGithub, "")
	status, body, _ = request(t, "GET", base+"/v1.0/me", "", "", "Authorization", "Bearer "+tok.Token.Reveal())
	if status != 401 || !strings.Contains(body, "InvalidAuthenticationToken") {
		t.Errorf("me after sign-out: %d %s", status, body)
	}
	if n := emu.Count(emulator.OpGetToken); n != 8 {
		t.Errorf("%d GetToken", n)
	}
}

func TestSSO(t *testing.T) {
	emu, c, _ := start(t, emulator.Config{})
	ctx := t.Context()
	res, err := c.GetSignInResource(ctx, state)
	if err != nil {
		t.Fatal(err)
	}
	if r := res.TokenExchangeResource; r == nil || r.ID == "" || r.URI != "api://botid-app" || r.ProviderID == "" {
		t.Errorf("exchange resource %+v", r)
	}
	bare := state
	bare.MsAppID = ""
	if res, err = c.GetSignInResource(ctx, bare); err != nil || res.TokenExchangeResource != nil {
		t.Errorf("without MsAppId: %+v, %v", res, err)
	}
	tok, err := c.Exchange(ctx, onGraph, sso)
	if err != nil {
		t.Fatal(err)
	}
	if got := wantToken(t, c, onGraph, ""); got.Token.Reveal() != tok.Token.Reveal() {
		t.Error("the exchanged token was not stored")
	}
	_, err = c.Exchange(ctx, onGithub, sso)
	wantStatus(t, err, 400)
	unknown := onGraph
	unknown.Connection = "none"
	_, err = c.Exchange(ctx, unknown, sso)
	wantStatus(t, err, 404)

	emu.SetSSO("GRAPH", 412)
	_, err = c.Exchange(ctx, onGraph, sso)
	if fail := failure(t, err, 412); fail.Code != "ConsentRequired" {
		t.Errorf("code %q", fail.Code)
	}
	emu.SetSSOToken("after.consent", 200)
	if _, err = c.Exchange(ctx, onGraph, secret("after.consent")); err != nil {
		t.Error(err)
	}
	emu.SetSSO(graph, 0)
	emu.SetSSOToken("sso.jwt", 403)
	_, err = c.Exchange(ctx, onGraph, sso)
	wantStatus(t, err, 403)
}

func TestExchangeBodyIsStrict(t *testing.T) {
	_, _, base := start(t, emulator.Config{})
	link := base + "/api/usertoken/exchange?userId=u&ConnectionName=Graph&channelid=msteams"
	for body, want := range map[string]int{
		`{"token":"t"}`:                          200,
		`{"uri":"https://graph.microsoft.com/"}`: 200,
		`{"exchangeRequest":{"token":"t"}}`:      400,
		`{"token":"t","uri":"u"}`:                400,
		`{"token":""}`:                           400,
		`{"token":null}`:                         400,
		`{}`:                                     400,
		`"t"`:                                    400,
		``:                                       400,
	} {
		status, answer, _ := request(t, "POST", link, "application/json", body)
		if status != want {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
}

// TestPublishedClients checks the behaviour that clients in other languages rely on
// (docs/protocol.md §3).
func TestPublishedClients(t *testing.T) {
	emu, _, base := start(t, emulator.Config{})
	api := base + "/api/usertoken/"
	for _, link := range []string{
		"GetToken?userid=u&connectionName=graph&channelId=msteams",
		"GetToken?userId=u&connectionname=graph&ChannelID=msteams&code=123456",
		"gettoken?USERID=u&connectionName=graph",
	} {
		if status, body, _ := request(t, "GET", api+link, "", ""); status != 404 || body != "" {
			t.Errorf("%s: %d %q, want 404 and an empty body", link, status, body)
		}
	}
	if status, body, _ := request(t, "DELETE", api+"SignOut?userId=u", "", ""); status != 200 || body != "" {
		t.Errorf("SignOut: %d %q", status, body)
	}
	emu.PutToken(tokensvc.UserConnection{UserID: "u", Connection: "Graph", ChannelID: "msteams"})
	for _, key := range []string{"include", "includeFilter", "INCLUDE"} {
		status, body, _ := request(t, "GET", api+"GetTokenStatus?userid=u&channelId=msteams&"+key+"=x,GRAPH", "", "")
		want := `[{"channelId":"msteams","connectionName":"graph","hasToken":true,"serviceProviderDisplayName":"Graph"}]`
		if status != 200 || strings.TrimSpace(body) != want {
			t.Errorf("%s: %d %s", key, status, body)
		}
	}
	if status, body, _ := request(t, "GET", api+"GetTokenStatus?userid=u&channelId=msteams", "", ""); status != 200 || strings.Count(body, "hasToken") != 2 {
		t.Errorf("GetTokenStatus: %d %s", status, body)
	}
	for _, link := range []string{"GetToken?connectionName=graph", "GetToken?userid=u", "GetTokenStatus"} {
		status, body, _ := request(t, "GET", api+link, "", "")
		if status != 400 || !strings.HasPrefix(body, `{"error":{"code":"BadArgument","message":`) {
			t.Errorf("%s: %d %s", link, status, body)
		}
	}
	for _, link := range []string{"?state=%C2%A7", "", "?state=e30="} {
		if status, _, _ := request(t, "GET", base+"/api/botsignin/GetSignInResource"+link, "", ""); status != 400 {
			t.Errorf("state %q: %d", link, status)
		}
	}
	if status, _, _ := request(t, "PUT", api+"GetToken", "", ""); status != 404 {
		t.Errorf("PUT GetToken: %d", status)
	}
	if status, _, _ := request(t, "POST", api+"exchange", "", strings.Repeat("x", 1<<20+1)); status != 413 {
		t.Errorf("long body: %d", status)
	}
}

func TestCombinedLookupAndAadTokens(t *testing.T) {
	emu, c, base := start(t, emulator.Config{})
	ctx := t.Context()
	tok, res, err := c.GetTokenOrSignInResource(ctx, onGraph, state, tokensvc.Secret{})
	if err != nil || tok != nil || res.TokenExchangeResource == nil {
		t.Fatalf("%+v %+v %v", tok, res, err)
	}
	tok, res, err = c.GetTokenOrSignInResource(ctx, onGraph, state, secret(emu.IssueCode(onGraph)))
	if err != nil || tok == nil || res != nil {
		t.Fatalf("%+v %+v %v", tok, res, err)
	}
	const resource = "https://graph.microsoft.com/"
	tokens, err := c.GetAadTokens(ctx, onGraph, []string{resource})
	if err != nil || len(tokens) != 1 {
		t.Fatalf("%v, %v", tokens, err)
	}
	auth := "Bearer " + tokens[resource].Token.Reveal()
	if status, _, _ := request(t, "GET", base+"/v1.0/me", "", "", "Authorization", auth); status != 200 {
		t.Errorf("me: %d", status)
	}
	emu.DropToken(onGraph)
	if status, _, _ := request(t, "GET", base+"/v1.0/me", "", "", "Authorization", auth); status != 401 {
		t.Errorf("me after sign-out: %d", status)
	}
	_, err = c.GetAadTokens(ctx, onGraph, []string{resource})
	wantStatus(t, err, 404)
}

func TestReplacedTokensStayGood(t *testing.T) {
	emu, _, base := start(t, emulator.Config{})
	me := func(token string) int {
		status, _, _ := request(t, "GET", base+"/v1.0/me", "", "", "Authorization", "Bearer "+token)
		return status
	}
	first := emu.PutToken(onGraph)
	second := emu.PutToken(onGraph)
	if a, b := me(first), me(second); a != 200 || b != 200 {
		t.Errorf("before: %d, %d", a, b)
	}
	for range 40 {
		second = emu.PutToken(onGraph)
	}
	if a, b := me(first), me(second); a != 401 || b != 200 {
		t.Errorf("after many: %d, %d", a, b)
	}
	emu.DropToken(onGraph)
	if b := me(second); b != 401 {
		t.Errorf("after the sign-out: %d", b)
	}
}

func TestCodeSwitches(t *testing.T) {
	t.Run("probing leaves the code", func(t *testing.T) {
		emu, c, _ := start(t, emulator.Config{})
		code := emu.IssueCode(onGithub)
		wantNoToken(t, c, onGraph, code)
		wantToken(t, c, onGithub, code)
	})
	t.Run("probing spends the code", func(t *testing.T) {
		emu, c, _ := start(t, emulator.Config{Switches: emulator.Switches{WrongConnectionSpendsCode: true}})
		code := emu.IssueCode(onGithub)
		wantNoToken(t, c, onGraph, code)
		wantNoToken(t, c, onGithub, code)
	})
	t.Run("a wrong code returns what is stored", func(t *testing.T) {
		emu, c, _ := start(t, emulator.Config{})
		stored := emu.PutToken(onGraph)
		wantNoToken(t, c, onGraph, "000000")
		emu.SetSwitches(emulator.Switches{WrongCodeReturnsStored: true})
		if tok := wantToken(t, c, onGraph, "000000"); tok.Token.Reveal() != stored {
			t.Error("another token")
		}
		wantNoToken(t, c, onGithub, "000000")
	})
	t.Run("expiry", func(t *testing.T) {
		now := &clock{now: time.Now()}
		pass := now.pass
		emu, c, _ := start(t, emulator.Config{Now: now.Now, TokenLifetime: time.Minute})
		late, early := emu.IssueCode(onGraph), emu.IssueCode(onGithub)
		pass(10*time.Minute - time.Second)
		wantToken(t, c, onGithub, early)
		pass(time.Second)
		wantNoToken(t, c, onGraph, late)
		if !emu.HasToken(onGithub) {
			t.Error("the token expired early")
		}
		pass(time.Minute)
		wantNoToken(t, c, onGithub, "")
	})
}

func TestSignInPage(t *testing.T) {
	emu, c, base := start(t, emulator.Config{Users: []emulator.User{{ID: userID, Name: "<Kim>"}}})
	res, err := c.GetSignInResource(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	link := res.SignInLink.Reveal()
	if !strings.HasPrefix(link, base+"/api/oauth/signin?signin=") {
		t.Errorf("link %s", link)
	}
	status, page, header := request(t, "GET", link, "", "")
	if status != 200 || !strings.Contains(page, "&lt;Kim&gt;") || !strings.Contains(page, "Graph") || strings.Contains(page, "data-code") {
		t.Errorf("page: %d %s", status, page)
	}
	if header.Get("Cross-Origin-Opener-Policy") != "" || !strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("header %v", header)
	}
	const form = "application/x-www-form-urlencoded"
	status, page, _ = request(t, "POST", link, form, "answer=signin")
	if status != 200 || !strings.Contains(page, "window.opener.postMessage") || !strings.Contains(page, "data-code") {
		t.Errorf("button: %d %s", status, page)
	}
	status, page, _ = request(t, "POST", link, form, "answer=cancel")
	if status != 200 || !strings.Contains(page, emulator.CancelledByUser) || strings.Contains(page, "data-code") {
		t.Errorf("cancel: %d %s", status, page)
	}
	for _, method := range []string{"GET", "POST"} {
		if status, page, _ := request(t, method, base+"/api/oauth/signin?signin=none", form, ""); status != 404 || !strings.Contains(page, "does not know") {
			t.Errorf("unknown link: %d %s", status, page)
		}
	}
	if _, err := emu.Teams("").SignInWithPage(t.Context(), base+"/api/oauth/signin?signin=none"); err == nil || strings.Contains(err.Error(), "signin=") {
		t.Errorf("unknown link: %v", err)
	}
}

func TestPostToken(t *testing.T) {
	emu, c, _ := start(t, emulator.Config{})
	res, err := c.GetSignInResource(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	link := res.TokenPostResource.SasURL.Reveal()
	if status, _, _ := request(t, "POST", link+"0", "application/json", `{"token":"t"}`); status != 403 {
		t.Errorf("forged: %d", status)
	}
	if status, body, _ := request(t, "POST", link, "application/json", `{"token":"t"}`, "Authorization", ""); status != 200 || !emu.HasToken(onGraph) {
		t.Errorf("%d %s", status, body)
	}
	if status, _, _ := request(t, "POST", link, "application/json", `{"body":{"token":"t"}}`); status != 400 {
		t.Errorf("wrapped: %d", status)
	}
}

// A SAS URL is valid for about a minute.
func TestPostTokenExpires(t *testing.T) {
	now := &clock{now: time.Now()}
	emu, c, _ := start(t, emulator.Config{Now: now.Now})
	res, err := c.GetSignInResource(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	link := res.TokenPostResource.SasURL.Reveal()
	now.pass(62 * time.Second)
	if status, _, _ := request(t, "POST", link, "application/json", `{"token":"t"}`); status != 403 || emu.HasToken(onGraph) {
		t.Errorf("after a minute: %d", status)
	}
	if res, err = c.GetSignInResource(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	now.pass(58 * time.Second)
	if status, body, _ := request(t, "POST", res.TokenPostResource.SasURL.Reveal(), "application/json", `{"token":"t"}`); status != 200 {
		t.Errorf("within a minute: %d %s", status, body)
	}
}

// clock is a clock that the test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestEntra(t *testing.T) {
	emu, _, base := start(t, emulator.Config{ClientID: "app", ClientSecret: secret("cl1ent"), Bearer: emulator.BearerIssued})
	login := func(id, value string) (*tokensvc.ClientCredentials, error) {
		return tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{LoginURL: base, ClientID: id, ClientSecret: secret(value)})
	}
	good, err := login("app", "cl1ent")
	if err != nil {
		t.Fatal(err)
	}
	c, err := tokensvc.New(tokensvc.Config{BaseURL: base, Credentials: good})
	if err != nil {
		t.Fatal(err)
	}
	wantNoToken(t, c, onGraph, "")
	if requests := emu.Requests(emulator.OpAccessToken); len(requests) != 1 || strings.Contains(requests[0].Body, "cl1ent") {
		t.Errorf("%+v", requests)
	}
	for _, pair := range [][2]string{{"app", "wrong"}, {"other", "cl1ent"}} {
		bad, err := login(pair[0], pair[1])
		if err != nil {
			t.Fatal(err)
		}
		_, err = bad.Token(t.Context())
		if fail := failure(t, err, 401); fail.Code != "invalid_client" {
			t.Errorf("%v: code %q", pair, fail.Code)
		}
	}
	stranger, err := tokensvc.New(tokensvc.Config{BaseURL: base, Credentials: tokensvc.Static(secret("other"))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stranger.GetToken(t.Context(), onGraph, tokensvc.Secret{})
	wantStatus(t, err, 401)
	status, body, _ := request(t, "POST", base+"/t/oauth2/v2.0/token", "application/x-www-form-urlencoded", "grant_type=password")
	if status != 400 || !strings.Contains(body, "unsupported_grant_type") {
		t.Errorf("grant: %d %s", status, body)
	}
}

// TestBearer checks that all operations of the Token Service and the connector need a
// bearer token (docs/protocol.md §3).
func TestBearer(t *testing.T) {
	guarded := []struct{ method, path, body string }{
		{"GET", "/api/usertoken/GetToken?userid=u&connectionName=graph&channelId=msteams", ""},
		{"GET", "/api/botsignin/GetSignInResource?state=" + url.QueryEscape(state.Encode()), ""},
		{"POST", "/api/usertoken/exchange?userid=u&connectionName=graph&channelId=msteams", `{"token":"t"}`},
		{"DELETE", "/api/usertoken/SignOut?userid=u", ""},
		{"GET", "/api/usertoken/GetTokenStatus?userid=u&channelId=msteams", ""},
		{"GET", "/api/usertoken/GetTokenOrSignInResource?userid=u&connectionName=graph&channelId=msteams&state=" + url.QueryEscape(state.Encode()), ""},
		{"POST", "/api/usertoken/GetAadTokens?userid=u&connectionName=graph&channelId=msteams", `{"resourceUrls":["r"]}`},
		{"POST", "/v3/conversations/a/activities", `{"type":"message"}`},
		{"PUT", "/v3/conversations/a/activities/1", `{"type":"message"}`},
		{"DELETE", "/v3/conversations/a/activities/1", ""},
		{"POST", "/v3/conversations", `{"bot":{"id":"b"},"members":[{"id":"u"}]}`},
	}
	emu, _, base := start(t, emulator.Config{})
	_, _, open := start(t, emulator.Config{Bearer: emulator.BearerOptional})
	for _, r := range guarded {
		for _, header := range []string{"", "Bearer ", "Basic Ym90OmJvdA=="} {
			status, body, _ := request(t, r.method, base+r.path, "application/json", r.body, "Authorization", header)
			if status != 401 || !strings.HasPrefix(body, `{"error":{"code":"Unauthorized"`) {
				t.Errorf("%s %s, Authorization %q: %d %s", r.method, r.path, header, status, body)
			}
		}
		if status, _, _ := request(t, r.method, base+r.path, "application/json", r.body, "Authorization", "bearer anything"); status == 401 {
			t.Errorf("%s %s with a bearer: %d", r.method, r.path, status)
		}
		if status, _, _ := request(t, r.method, open+r.path, "application/json", r.body, "Authorization", ""); status == 401 {
			t.Errorf("%s %s where it is optional: %d", r.method, r.path, status)
		}
	}
	if n := len(emu.Activities("")); n != 2 {
		t.Errorf("%d activities were taken", n)
	}
}

func TestFaults(t *testing.T) {
	emu, c, base := start(t, emulator.Config{})
	get := func(ctx context.Context) error {
		_, err := c.GetToken(ctx, onGraph, tokensvc.Secret{})
		return err
	}
	t.Run("next two", func(t *testing.T) {
		emu.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Times: 2, Status: 429, RetryAfter: 1500 * time.Millisecond})
		for range 2 {
			if fail := failure(t, get(t.Context()), 429); fail.RetryAfter != 2*time.Second || fail.Code != "TooManyRequests" {
				t.Errorf("%+v", fail)
			}
		}
		wantNoToken(t, c, onGraph, "")
	})
	t.Run("of one connection until cleared", func(t *testing.T) {
		emu.AddFault(emulator.Fault{Connection: "GRAPH", Status: 500, Code: "Odd"})
		for range 3 {
			if fail := failure(t, get(t.Context()), 500); fail.Code != "Odd" {
				t.Errorf("%+v", fail)
			}
		}
		_, err := c.GetSignInResource(t.Context(), state)
		wantStatus(t, err, 500)
		wantNoToken(t, c, onGithub, "")
		if n := len(emu.Faults()); n != 1 {
			t.Errorf("%d faults", n)
		}
		emu.ClearFaults()
		wantNoToken(t, c, onGraph, "")
	})
	t.Run("200 without a token", func(t *testing.T) {
		emu.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Status: 200, Body: "{}"})
		_, err := c.Exchange(t.Context(), onGraph, sso)
		wantStatus(t, err, 200)
	})
	t.Run("dropped", func(t *testing.T) {
		emu.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Drop: true})
		_, err := c.Exchange(t.Context(), onGraph, sso)
		wantStatus(t, err, 0)
		if emu.HasToken(onGraph) {
			t.Error("the exchange took effect")
		}
		last := emu.Requests(emulator.OpExchange)
		if n := len(last); last[n-1].Status != 0 {
			t.Errorf("recorded %+v", last[n-1])
		}
	})
	t.Run("dropped after the effect", func(t *testing.T) {
		emu.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Drop: true, AfterEffect: true})
		_, err := c.Exchange(t.Context(), onGraph, sso)
		wantStatus(t, err, 0)
		if !emu.HasToken(onGraph) {
			t.Error("the exchange took no effect")
		}
		emu.DropToken(onGraph)
	})
	t.Run("late", func(t *testing.T) {
		emu.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Times: 1, Delay: 30 * time.Millisecond})
		begun := time.Now()
		wantNoToken(t, c, onGraph, "")
		if d := time.Since(begun); d < 30*time.Millisecond {
			t.Errorf("after %s", d)
		}
		emu.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Times: 1, Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("connector", func(t *testing.T) {
		emu.AddFault(emulator.Fault{Operation: emulator.OpPostActivity, Times: 1, Status: 502})
		status, _, _ := request(t, "POST", base+"/v3/conversations/a/activities", "application/json", `{"type":"message"}`)
		if status != 502 || len(emu.Activities("a")) != 0 {
			t.Errorf("%d", status)
		}
	})
	t.Run("one kind of activity", func(t *testing.T) {
		post := func(body string) int {
			status, _, _ := request(t, "POST", base+"/v3/conversations/kinds/activities", "application/json", body)
			return status
		}
		onGraph, onGithub, text := card(`{"connectionName":"graph"}`), card(`{"connectionName":"github"}`), `{"type":"message","text":"hi"}`
		emu.AddFault(emulator.Fault{Operation: emulator.OpPostActivity, Activity: emulator.CardActivity, Connection: graph, Status: 403})
		emu.AddFault(emulator.Fault{Operation: emulator.OpPostActivity, Activity: emulator.TextActivity, Status: 502})
		if a, b, c, d := post(onGraph), post(onGithub), post(text), post(`{"type":"typing"}`); a != 403 || b != 200 || c != 502 || d != 201 {
			t.Errorf("%d, %d, %d, %d", a, b, c, d)
		}
		emu.ClearFaults()
	})
	t.Run("an expiry of its own", func(t *testing.T) {
		past := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
		emu.PutToken(onGraph)
		for _, op := range []emulator.Operation{emulator.OpGetToken, emulator.OpExchange, emulator.OpGetTokenOrSignInResource, emulator.OpGetAadTokens} {
			emu.AddFault(emulator.Fault{Operation: op, Times: 1, Expiration: past})
		}
		got, err := c.GetToken(t.Context(), onGraph, tokensvc.Secret{})
		exchanged, err2 := c.Exchange(t.Context(), onGraph, sso)
		combined, _, err3 := c.GetTokenOrSignInResource(t.Context(), onGraph, state, tokensvc.Secret{})
		aad, err4 := c.GetAadTokens(t.Context(), onGraph, []string{"r"})
		if err := errors.Join(err, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		for _, e := range []time.Time{got.Expiration, exchanged.Expiration, combined.Expiration, aad["r"].Expiration} {
			if !e.Equal(past) {
				t.Errorf("expires at %v", e)
			}
		}
		if later := wantToken(t, c, onGraph, ""); !later.Expiration.After(time.Now()) {
			t.Errorf("afterwards: %v", later.Expiration)
		}
		emu.DropToken(onGraph)
	})
	t.Run("Entra", func(t *testing.T) {
		emu.AddFault(emulator.Fault{Operation: emulator.OpAccessToken, Times: 1, Status: 401, Code: "invalid_client"})
		status, body, _ := request(t, "POST", base+"/t/oauth2/v2.0/token", "application/x-www-form-urlencoded", "grant_type=client_credentials&client_id=a")
		if status != 401 || !strings.HasPrefix(body, `{"error":"invalid_client","error_description":`) {
			t.Errorf("%d %s", status, body)
		}
	})
	t.Run("down", func(t *testing.T) {
		emu.SetDown(true)
		wantStatus(t, get(t.Context()), 503)
		if status, _, _ := request(t, "GET", base+"/v1.0/me", "", ""); status != 503 {
			t.Errorf("me: %d", status)
		}
		emu.SetDown(false)
		wantNoToken(t, c, onGraph, "")
	})
}

func card(content string) string {
	return `{"type":"message","replyToId":"1","attachments":[{"contentType":"application/vnd.microsoft.card.oauth","content":` + content + `}]}`
}

func TestConnector(t *testing.T) {
	emu, _, base := start(t, emulator.Config{})
	const conversation = "a:1xH/4;messageid=1"
	activities := base + "/amer/tenant/v3/conversations/" + url.PathEscape(conversation) + "/activities"
	const good = `{"text":"Please Sign In","connectionName":"graph","buttons":[{"type":"signin","title":"Sign In","value":"https://l"}],` +
		`"tokenExchangeResource":{"id":"x1","uri":"u","providerId":"p"},"tokenPostResource":{"sasUrl":"https://s"}}`
	for name, tc := range map[string]struct {
		method, link, body string
		want               int
	}{
		"reply":          {"POST", activities + "/1776827520098", `{"type":"message","text":"hello"}`, 201},
		"proactive":      {"POST", activities, `{"type":"typing"}`, 201},
		"card":           {"POST", activities, card(good), 200},
		"null":           {"POST", activities, card(`{"connectionName":"graph","tokenExchangeResource":null}`), 400},
		"null inside":    {"POST", activities, card(`{"connectionName":"graph","tokenPostResource":{"sasUrl":null}}`), 400},
		"no content":     {"POST", activities, card(`null`), 400},
		"null elsewhere": {"POST", activities, `{"type":"message","name":null}`, 201},
		"no type":        {"POST", activities, `{}`, 400},
		"no JSON":        {"POST", activities, `x`, 400},
		"update":         {"PUT", activities + "/17", `{"type":"message","text":"edited"}`, 200},
		"delete":         {"DELETE", activities + "/17", ``, 200},
		"update what":    {"PUT", activities, `{"type":"message"}`, 404},
		"elsewhere":      {"POST", base + "/v3/conversations/a/members", `{}`, 404},
	} {
		status, body, _ := request(t, tc.method, tc.link, "application/json", tc.body)
		if status != tc.want {
			t.Errorf("%s: %d %s", name, status, body)
		}
		if strings.HasPrefix(name, "null i") && strings.TrimSpace(body) != `{"error":{"code":"ServiceError","message":"Unknown"}}` {
			t.Errorf("%s: %s", name, body)
		}
	}
	if n := len(emu.Activities(conversation)); n != 5 {
		t.Errorf("%d activities", n)
	}
	got, ok := emu.LastCard(conversation)
	if !ok || got.ExchangeID() != "x1" || got.SignInLink != "https://l" || got.Connection != graph || got.ActivityID == "" ||
		got.Text != "Please Sign In" || got.ButtonTitle != "Sign In" {
		t.Errorf("card %+v", got)
	}
	if a, err := emu.WaitForText(t.Context(), conversation, "edit"); err != nil || a.ID != "17" || a.Operation != emulator.OpUpdateActivity {
		t.Errorf("%+v, %v", a, err)
	}

	create := func(body string) (int, string) {
		status, answer, _ := request(t, "POST", base+"/v3/conversations", "application/json", body)
		return status, answer
	}
	first, id := create(`{"bot":{"id":"28:b"},"members":[{"id":"29:u"}],"isGroup":false}`)
	second, same := create(`{"bot":{"id":"28:b"},"members":[{"id":"29:u"}]}`)
	if first != 201 || second != 201 || id != same || !strings.Contains(id, `"id":"a:1`) {
		t.Errorf("personal chat: %d %s, %d %s", first, id, second, same)
	}
	if status, _ := create(`{"members":[]}`); status != 400 {
		t.Errorf("without members: %d", status)
	}
}

func TestTargetedActivities(t *testing.T) {
	emu, _, base := start(t, emulator.Config{})
	const group = "19:g@thread.v2"
	activities := base + "/v3/conversations/" + url.PathEscape(group) + "/activities"
	const to = `"recipient":{"id":"29:u","name":"Kim","isTargeted":true},"conversation":{"id":"19:g@thread.v2","conversationType":"groupChat"}`
	targeted := strings.Replace(card(`{"connectionName":"graph"}`), "{", "{"+to+",", 1)
	for name, tc := range map[string]struct {
		method, link, body string
		want               int
	}{
		"card":                {"POST", activities + "/1?isTargetedActivity=true", targeted, 200},
		"update":              {"PUT", activities + "/1?istargetedactivity=True", `{"type":"message","text":"t",` + to + `}`, 200},
		"without the query":   {"POST", activities, `{"type":"message","text":"all",` + to + `}`, 201},
		"without a recipient": {"POST", activities + "?isTargetedActivity=true", `{"type":"message"}`, 400},
		"in a personal chat":  {"POST", activities + "?isTargetedActivity=true", `{"type":"message","recipient":{"id":"u"},"conversation":{"conversationType":"personal"}}`, 400},
		"without the mark":    {"POST", activities + "?isTargetedActivity=true", `{"type":"message","text":"bare","recipient":{"id":"29:u"}}`, 201},
		"the query says no":   {"POST", activities + "?isTargetedActivity=false", `{"type":"message","text":"no"}`, 201},
	} {
		if status, body, _ := request(t, tc.method, tc.link, "application/json", tc.body); status != tc.want {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	shown, ok := emu.LastCard(group)
	if !ok || !shown.Targeted || shown.RecipientID != "29:u" {
		t.Errorf("card %+v", shown)
	}
	want := map[string]bool{"": true, "t": true, "all": false, "bare": true, "no": false}
	all := emu.Activities(group)
	if len(all) != len(want) {
		t.Errorf("%d activities", len(all))
	}
	for _, a := range all {
		if a.Targeted != want[a.Text] || a.Targeted && a.Recipient.ID != "29:u" {
			t.Errorf("%q: targeted %v, recipient %+v", a.Text, a.Targeted, a.Recipient)
		}
		if marked := a.Text != "bare" && a.Text != "no"; a.Recipient.IsTargeted != marked {
			t.Errorf("%q: recipient %+v", a.Text, a.Recipient)
		}
	}
}

func TestWaitForCard(t *testing.T) {
	emu, _, base := start(t, emulator.Config{Record: -1})
	ctx := t.Context()
	post := func(id string) {
		request(t, "POST", base+"/v3/conversations/a/activities", "application/json",
			card(`{"connectionName":"graph","tokenExchangeResource":{"id":"`+id+`"}}`))
	}
	got := make(chan emulator.Card)
	go func() {
		defer close(got)
		var after int64
		for range 2 {
			c, err := emu.WaitForCard(ctx, "a", after)
			if err != nil {
				t.Error(err)
				return
			}
			after = c.Seq
			got <- c
		}
	}()
	for _, id := range []string{"one", "two"} {
		post(id)
		if c := <-got; c.ExchangeID() != id {
			t.Errorf("card %+v, want %s", c, id)
		}
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := emu.WaitForCard(over, "b", 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(emu.Requests()) != 0 || emu.Count(emulator.OpPostActivity) != 2 {
		t.Error("recorded although it is off, or not counted")
	}
}

func TestRecording(t *testing.T) {
	emu, c, _ := start(t, emulator.Config{Record: 3})
	if _, err := c.GetSignInResource(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	wantNoToken(t, c, onGraph, "123456")
	all := emu.Requests()
	if len(all) != 2 || all[0].State == nil || *all[0].State != state || all[0].Status != 200 ||
		all[1].Query["userid"] != userID || all[1].Query["code"] != "123456" || all[1].Status != 404 || all[1].Path != "/api/usertoken/GetToken" {
		t.Errorf("%+v", all)
	}
	for range 5 {
		wantNoToken(t, c, onGithub, "")
	}
	if all = emu.Requests(); len(all) != 3 || all[0].Seq >= all[2].Seq {
		t.Errorf("ring: %+v", all)
	}
	if len(emu.Requests(emulator.OpExchange)) != 0 || emu.Count(emulator.OpGetToken) != 6 {
		t.Error("filter or count is wrong")
	}
	emu.SetRecording(false)
	wantNoToken(t, c, onGithub, "")
	if all = emu.Requests(); len(all) != 3 {
		t.Errorf("recorded although it is off: %d", len(all))
	}
	emu.ResetRequests()
	if len(emu.Requests()) != 0 || emu.Count(emulator.OpGetToken) != 0 {
		t.Error("not forgotten")
	}
}

func TestControl(t *testing.T) {
	emu, c, base := start(t, emulator.Config{})
	ctl := base + "/emulator/"
	call := func(method, path, body string, want int, into any) {
		t.Helper()
		status, answer, _ := request(t, method, ctl+path, "application/json", body)
		if status != want {
			t.Fatalf("%s %s: %d %s", method, path, status, answer)
		}
		if into != nil {
			if err := json.Unmarshal([]byte(answer), into); err != nil {
				t.Fatalf("%s %s: %v in %s", method, path, err, answer)
			}
		}
	}
	call("PUT", "switches", `{"wrongCodeReturnsStored":true,"sso":{"graph":412}}`, 200, nil)
	var switches emulator.Switches
	call("GET", "switches", "", 200, &switches)
	if !switches.WrongCodeReturnsStored || switches.SSO[graph] != 412 {
		t.Errorf("%+v", switches)
	}
	call("PUT", "switches", `{"wrongCodeReturnStored":true}`, 400, nil)
	call("POST", "faults", `{"operation":"GetToken","times":1,"status":503,"retryAfter":"3s","delay":"1ms"}`, 204, nil)
	call("POST", "faults", `{"operation":"PostActivity","activity":"card","times":1,"expiration":"2020-01-01T00:00:00Z"}`, 204, nil)
	call("POST", "faults", `{"operation":"PostActivity","activity":"cart"}`, 400, nil)
	call("POST", "faults", `{"delay":"long"}`, 400, nil)
	call("POST", "faults", `{"statos":500}`, 400, nil)
	var faults struct{ Faults []emulator.Fault }
	call("GET", "faults", "", 200, &faults)
	want := emulator.Fault{Operation: emulator.OpGetToken, Times: 1, Status: 503, RetryAfter: 3 * time.Second, Delay: time.Millisecond}
	ofCards := emulator.Fault{
		Operation: emulator.OpPostActivity, Activity: emulator.CardActivity, Times: 1, Expiration: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if len(faults.Faults) != 2 || faults.Faults[0] != want || faults.Faults[1] != ofCards {
		t.Errorf("%+v", faults)
	}
	_, err := c.GetToken(t.Context(), onGraph, tokensvc.Secret{})
	if fail := failure(t, err, 503); fail.RetryAfter != 3*time.Second {
		t.Errorf("%+v", fail)
	}
	call("DELETE", "faults", "", 204, nil)

	const uc = `{"userId":"29:1cg","connection":"graph","channelId":"msteams"}`
	var issued struct{ Code, Token string }
	call("POST", "codes", uc, 200, &issued)
	wantToken(t, c, onGraph, issued.Code)
	call("POST", "tokens", uc, 200, &issued)
	if got := wantToken(t, c, onGraph, ""); got.Token.Reveal() != issued.Token {
		t.Error("another token")
	}
	var counts map[emulator.Operation]int
	call("GET", "counts", "", 200, &counts)
	if counts[emulator.OpGetToken] != 3 || len(counts) != 1 {
		t.Errorf("%v", counts)
	}
	var requests struct{ Requests []emulator.Request }
	call("GET", "requests?operation=GetToken", "", 200, &requests)
	if len(requests.Requests) != 3 {
		t.Errorf("%+v", requests)
	}
	call("GET", "card?conversation=a", "", 404, nil)
	request(t, "POST", base+"/v3/conversations/a/activities", "application/json", card(`{"connectionName":"graph"}`))
	var shown emulator.Card
	call("GET", "card?conversation=a&wait=1s", "", 200, &shown)
	call("GET", fmt.Sprintf("card?conversation=a&after=%d", shown.Seq), "", 404, nil)
	call("GET", "card?conversation=a&wait=x", "", 400, nil)
	call("GET", "card?conversation=a&after=x", "", 400, nil)
	var activities struct{ Activities []emulator.Activity }
	call("GET", "activities?conversation=a", "", 200, &activities)
	if len(activities.Activities) != 1 || activities.Activities[0].Card == nil || !bytes.Contains(activities.Activities[0].Raw, []byte("attachments")) {
		t.Errorf("%+v", activities)
	}
	call("DELETE", "requests", "", 204, nil)
	call("POST", "reset", "", 204, nil)
	if len(emu.Requests()) != 0 || emu.HasToken(onGraph) || emu.Switches().WrongCodeReturnsStored {
		t.Error("reset left something")
	}
	call("GET", "nothing", "", 404, nil)
	status, _, _ := request(t, "POST", ctl+"reset", "", "", "Origin", "https://elsewhere.example", "Sec-Fetch-Site", "cross-site")
	if status != 403 {
		t.Errorf("another origin: %d", status)
	}
}

func TestAnyConnection(t *testing.T) {
	_, c, _ := start(t, emulator.Config{Connections: []emulator.Connection{}})
	if _, err := c.Exchange(t.Context(), onGraph, sso); err != nil {
		t.Fatal(err)
	}
	statuses, err := c.GetTokenStatus(t.Context(), userID, "msteams")
	if err != nil || len(statuses) != 1 || statuses[0].Connection != graph || !statuses[0].HasToken {
		t.Errorf("%+v, %v", statuses, err)
	}
	if err := c.SignOut(t.Context(), tokensvc.UserConnection{UserID: userID}); err != nil {
		t.Error(err)
	}
	wantNoToken(t, c, onGraph, "")
}

func TestSeedRepeats(t *testing.T) {
	run := func() string {
		emu := emulator.New(emulator.Config{Seed: 7, BaseURL: "http://emulator"})
		teams := emu.Teams("http://bot")
		return emu.IssueCode(onGraph) + emu.PutToken(onGraph) + teams.Conversation.ID
	}
	if a, b := run(), run(); a != b {
		t.Errorf("%s is not %s", a, b)
	}
}

func TestConcurrentUse(t *testing.T) {
	emu, c, base := start(t, emulator.Config{Record: 10})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			uc := tokensvc.UserConnection{UserID: fmt.Sprint("29:", i), Connection: graph, ChannelID: "msteams"}
			if _, err := c.Exchange(t.Context(), uc, sso); err != nil {
				t.Error(err)
			}
			if _, err := c.GetToken(t.Context(), uc, tokensvc.Secret{}); err != nil {
				t.Error(err)
			}
			request(t, "POST", base+"/v3/conversations/a/activities", "application/json", card(`{"connectionName":"graph"}`))
			emu.SetSSO(graph, 0)
			emu.AddFault(emulator.Fault{Operation: emulator.OpMe})
			emu.Requests()
			emu.LastCard("a")
			if err := c.SignOut(t.Context(), uc); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := emu.Count(emulator.OpExchange); n != 16 {
		t.Errorf("%d exchanges", n)
	}
}
