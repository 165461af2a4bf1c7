package composeext_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// everything has a handler for every invoke. Each answers with what it got.
func everything(c *composeext.Config) {
	c.OnQueryLink = func(_ context.Context, _ *composeext.Request, link string) (composeext.Response, error) {
		return composeext.List(composeext.Thumbnail("link", link)), nil
	}
	c.OnFetchTask = func(_ context.Context, _ *composeext.Request, a composeext.Action) (composeext.Response, error) {
		return composeext.Task("continue", map[string]string{"url": "https://bot.example/" + a.CommandID}), nil
	}
	c.OnSubmitAction = func(_ context.Context, _ *composeext.Request, a composeext.Action) (composeext.Response, error) {
		return composeext.List(composeext.Thumbnail(a.CommandID, string(a.Data))), nil
	}
	c.OnSelectItem = func(_ context.Context, _ *composeext.Request, item composeext.Item) (composeext.Response, error) {
		return composeext.List(composeext.Thumbnail("item", string(item))), nil
	}
	c.OnCardAction = func(_ context.Context, r *composeext.Request, a composeext.CardAction) (composeext.Response, error) {
		return composeext.Card(map[string]string{"type": "AdaptiveCard", "for": r.Turn.Conversation().UserID, "verb": a.Verb}), nil
	}
}

func viaTokenService(w *world) { w.service, w.extend = graph, everything }

// Each invoke of a message extension needs a sign-in, and then has its own answer.
func TestInvokes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, value, want string }{
		{"composeExtension/queryLink", `{"url":"https://wiki.example/lakers"}`, `"text":"https://wiki.example/lakers"`},
		{"composeExtension/fetchTask", `{"commandId":"create","commandContext":"compose","context":{"theme":"dark"}}`, `{"task":{"type":"continue","value":{"url":"https://bot.example/create"}}}`},
		{"composeExtension/submitAction", `{"commandId":"create","data":{"n":1}}`, `"text":"{\"n\":1}"`},
		{"COMPOSEEXTENSION/submitaction", `{"CommandId":"create","Data":{"n":1}}`, `"text":"{\"n\":1}"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(w *world) { w.extend = everything })
			user := w.user("")
			a, err := user.Invoke(t.Context(), tt.name, "", value(t, tt.value))
			c := w.compose(a, err)
			w.want(c, "auth")
			ended := w.open(emulator.NewBrowser(), c.URL)
			got, err := user.Reissue(t.Context(), a.Sent, ended.Code)
			if err != nil || got.Status != http.StatusOK || !strings.Contains(string(got.Body), tt.want) {
				t.Errorf("%d %s, %v", got.Status, got.Body, err)
			}
			closed, err := w.user("other").Reissue(t.Context(), a.Sent, emulator.CancelledByUser)
			if c := w.compose(closed, err); c.Type != "result" || len(c.Attachments) != 0 {
				t.Errorf("closed: %s", closed.Body)
			}
		})
	}
}

// The value of a tapped result is the bot's own object, whose members mean nothing here.
func TestSelectItem(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.extend = everything })
	user := w.user("")
	item := value(t, `{"state":"California","authentication":{"token":"not a token"}}`)
	a, err := user.Invoke(t.Context(), "composeExtension/selectItem", "", item)
	w.want(w.compose(a, err), "auth")
	w.signIn(user)
	a, err = user.Invoke(t.Context(), "composeExtension/selectItem", "", item)
	if err != nil || !strings.Contains(string(a.Body), "California") {
		t.Errorf("%d %s, %v", a.Status, a.Body, err)
	}
	trail, err := w.store.Trail(t.Context(), store.TrailQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range trail.Events {
		if e.Invoke == "composeExtension/selectItem" && (strings.HasPrefix(e.Row, "B") || strings.HasPrefix(e.Row, "C")) {
			t.Errorf("it was read as a code or a token: %s %s", e.Row, e.Detail)
		}
	}
}

// An invoke without a handler goes to the bot.
func TestNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.extend = func(c *composeext.Config) { c.Next = nothing{} } })
	user := w.user("")
	for _, name := range []string{"composeExtension/fetchTask", "composeExtension/setting", "task/fetch", "adaptiveCard/action"} {
		a, err := user.Invoke(t.Context(), name, "", value(t, `{}`))
		if err != nil || a.Status != http.StatusTeapot {
			t.Errorf("%s: %d, %v", name, a.Status, err)
		}
	}
	w = newWorld(t)
	a, err := w.user("").Invoke(t.Context(), "task/fetch", "", value(t, `{}`))
	if err != nil || a.Status != http.StatusNotImplemented {
		t.Errorf("%d, %v", a.Status, err)
	}
}

type nothing struct{}

func (nothing) OnActivity(context.Context, *machine.Turn) (*machine.Answer, error) {
	return &machine.Answer{Status: http.StatusTeapot}, nil
}

// Values of unexpected types are no error. The invoke asks for a sign-in.
func TestOddValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.extend = everything })
	user := w.user("")
	for _, v := range []string{
		`null`, `{}`, `[]`, `"x"`, `7`, `{"state":null}`, `{"state":{}}`, `{"state":[1]}`, `{"state":482913}`, `{"parameters":7}`,
		`{"authentication":"x"}`, `{"authentication":{"token":7}}`, `{"queryOptions":{"skip":-1,"count":"x"}}`, `{"commandId":{}}`,
	} {
		a, err := user.Invoke(t.Context(), "composeExtension/query", "", value(t, v))
		w.want(w.compose(a, err), "auth")
		a, err = user.Invoke(t.Context(), "adaptiveCard/action", "", value(t, v))
		if err != nil || a.Status != http.StatusOK || !strings.Contains(string(a.Body), `"statusCode":401`) {
			t.Errorf("%s: %d %s, %v", v, a.Status, a.Body, err)
		}
	}
}

// A handler gets the query as it was sent, in whatever form its numbers are.
func TestQueryOptions(t *testing.T) {
	t.Parallel()
	var got composeext.Query
	w := newWorld(t, func(w *world) {
		w.extend = func(c *composeext.Config) {
			c.OnQuery = func(_ context.Context, _ *composeext.Request, q composeext.Query) (composeext.Response, error) {
				got = q
				return composeext.List(composeext.Thumbnail("a", "b")), nil
			}
		}
	})
	user := w.user("")
	w.signIn(user)
	for options, want := range map[string][2]int{
		`{"skip":25,"count":10}`:        {25, 10},
		`{"skip":"25","count":"10"}`:    {25, 10},
		`{"skip":-1,"count":"x"}`:       {0, 0},
		`{"skip":null,"count":9999999}`: {0, 9999999},
	} {
		a, err := user.Invoke(t.Context(), "composeExtension/query", "", value(t,
			`{"commandId":"find","parameters":[{"name":"a","value":"b"}],"queryOptions":`+options+`}`))
		w.want(w.compose(a, err), "result")
		if got.CommandID != "find" || got.Param("a") != "b" || got.Skip != want[0] || got.Count != want[1] {
			t.Errorf("%s: %+v, want %v", options, got, want)
		}
	}
}

// A member of an unexpected type does not hide the others: the code is read.
func TestOddValueBesideACode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.extend = everything })
	a, err := w.user("").Invoke(t.Context(), "adaptiveCard/action", "", value(t, `{"queryOptions":{"skip":"abc","count":[]},"state":"482913"}`))
	if err != nil || !strings.Contains(string(a.Body), "invalidAuthCode") {
		t.Errorf("%d %s, %v", a.Status, a.Body, err)
	}
}

// Sign-in with the Token Service: six digits, and the client's SSO token (M4, M5).
func TestTokenService(t *testing.T) {
	t.Parallel()
	t.Run("code", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, viaTokenService)
		user := w.user("")
		asked, c := w.query(user, "lakers")
		w.want(c, "silentAuth")
		if !strings.HasPrefix(c.URL, w.azure+"/api/oauth/signin") {
			t.Errorf("URL %s", c.URL)
		}
		w.want(w.reissue(user, asked, "000000"), "silentAuth")
		code, err := user.SignInWithPage(t.Context(), c.URL)
		if err != nil {
			t.Fatal(err)
		}
		w.want(w.reissue(user, asked, code), "result")
		if a := w.newest(); a.Key.Connection != graph || a.Method != store.MethodCompose {
			t.Errorf("%s, %s", a.Key.Connection, a.Method)
		}
	})
	t.Run("token", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, viaTokenService)
		user := w.user("")
		link, err := user.Invoke(t.Context(), "composeExtension/queryLink", "", value(t, `{"url":"https://wiki.example/x"}`))
		w.want(w.compose(link, err), "silentAuth")
		a, err := user.ReissueWithToken(t.Context(), link.Sent, "", graph, "canary-sso-token")
		w.want(w.compose(a, err), "result")
		if strings.Contains(w.logs.String(), "canary-sso-token") {
			t.Error("the token is in the log")
		}
	})
	t.Run("token refused", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, viaTokenService)
		user := w.user("")
		w.emu.SetSSO(graph, http.StatusPreconditionFailed)
		asked, c := w.query(user, "lakers")
		w.want(c, "silentAuth")
		a, err := user.ReissueWithToken(t.Context(), asked.Sent, "", graph, "sso-token")
		if err != nil || a.Status != http.StatusPreconditionFailed {
			t.Fatalf("%d %s, %v", a.Status, a.Body, err)
		}
		// The silent sign-in has failed, so the user is asked.
		asked, c = w.query(user, "lakers")
		w.want(c, "auth")
		code, err := user.SignInWithPage(t.Context(), c.URL)
		if err != nil {
			t.Fatal(err)
		}
		w.want(w.reissue(user, asked, code), "result")
	})
	t.Run("service down", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, viaTokenService)
		user := w.user("")
		asked, _ := w.query(user, "lakers")
		w.emu.SetDown(true)
		a, err := user.ReissueWithToken(t.Context(), asked.Sent, "", graph, "sso-token")
		if err != nil || a.Status != http.StatusServiceUnavailable {
			t.Errorf("%d %s, %v", a.Status, a.Body, err)
		}
		_, c := w.query(user, "lakers")
		w.want(c, "message")
	})
}

// card is the answer to a card action.
type card struct {
	StatusCode int
	Type       string
	Value      json.RawMessage
}

func (w *world) card(a emulator.Answer, err error) card {
	w.t.Helper()
	var c card
	if err != nil || a.Status != http.StatusOK || json.Unmarshal(a.Body, &c) != nil {
		w.t.Fatalf("%d %s, %v", a.Status, a.Body, err)
	}
	return c
}

const execute = `{"action":{"type":"Action.Execute","verb":"refresh","id":"r","data":{}},"trigger":"automatic"}`

func TestCardAction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, viaTokenService)
	user := w.user("")
	asked, err := user.Invoke(t.Context(), "adaptiveCard/action", "", value(t, execute))
	login := w.card(asked, err)
	if login.StatusCode != 401 || login.Type != "application/vnd.microsoft.activity.loginRequest" {
		t.Fatalf("%+v", login)
	}
	var oauth struct {
		Text           string
		ConnectionName string
		Resource       struct{ ID, URI string } `json:"tokenExchangeResource"`
		Buttons        []struct{ Type, Title, Value string }
	}
	if err := json.Unmarshal(login.Value, &oauth); err != nil || oauth.ConnectionName != graph || oauth.Text == "" ||
		oauth.Resource.ID == "" || len(oauth.Buttons) != 1 || oauth.Buttons[0].Type != "signin" {
		t.Fatalf("%+v, %v", oauth, err)
	}

	w.emu.SetSSO(graph, http.StatusPreconditionFailed)
	a, err := user.ReissueWithToken(t.Context(), asked.Sent, oauth.Resource.ID, graph, "sso-token")
	if c := w.card(a, err); c.StatusCode != 412 || c.Type != "application/vnd.microsoft.error.preconditionFailed" {
		t.Errorf("%+v", c)
	}
	a, err = user.Reissue(t.Context(), asked.Sent, "000000")
	if c := w.card(a, err); c.StatusCode != 401 || c.Type != "application/vnd.microsoft.error.invalidAuthCode" || c.Value != nil {
		t.Errorf("%+v", c)
	}
	a, err = user.Reissue(t.Context(), asked.Sent, emulator.CancelledByUser)
	if c := w.card(a, err); c.StatusCode != 200 || c.Type != "application/vnd.microsoft.activity.message" {
		t.Errorf("%+v", c)
	}
	code, err := user.SignInWithPage(t.Context(), oauth.Buttons[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	a, err = user.Reissue(t.Context(), asked.Sent, code)
	if c := w.card(a, err); c.StatusCode != 200 || c.Type != "application/vnd.microsoft.card.adaptive" || !strings.Contains(string(c.Value), `"refresh"`) {
		t.Errorf("%+v", c)
	}
	if got := w.newest(); got.Method != store.MethodAdaptiveCard || got.Origin != store.OriginCardAction {
		t.Errorf("%s, %s", got.Method, got.Origin)
	}
}

// A code of the Token Service that a client sends as a number has lost its leading
// zeros.
func TestCodeAsANumber(t *testing.T) {
	t.Parallel()
	w := newWorld(t, viaTokenService)
	user := w.user("")
	asked, err := user.Invoke(t.Context(), "adaptiveCard/action", "", value(t, execute))
	if c := w.card(asked, err); c.StatusCode != 401 {
		t.Fatalf("%+v", c)
	}
	about := tokensvc.UserConnection{UserID: user.User.ID, Connection: graph, ChannelID: "msteams"}
	code := w.emu.IssueCode(about)
	for !strings.HasPrefix(code, "0") {
		code = w.emu.IssueCode(about)
	}
	again := asked.Sent
	again.Value = json.RawMessage(strings.Replace(execute, "{", `{"state":`+strings.TrimLeft(code, "0")+`,`, 1))
	a, err := user.Send(t.Context(), again)
	if c := w.card(a, err); c.StatusCode != 200 {
		t.Errorf("code %s as a number: %+v", code, c)
	}
}

// A card in a group refreshes itself for several users at once. Each of them is signed
// in separately.
func TestCardOfSeveralUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, viaTokenService)
	var all sync.WaitGroup
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		user := w.user(name)
		user.Conversation = emulator.Conversation{ID: "19:g@thread.v2", Type: "groupChat", IsGroup: true}
		all.Go(func() {
			asked, err := user.Invoke(t.Context(), "adaptiveCard/action", "", value(t, execute))
			if err != nil {
				t.Error(err)
				return
			}
			a, err := user.ReissueWithToken(t.Context(), asked.Sent, "", graph, "sso-of-"+name)
			if err != nil || !strings.Contains(string(a.Body), `"for":"29:`+name+`"`) {
				t.Errorf("%s: %d %s, %v", name, a.Status, a.Body, err)
			}
		})
	}
	all.Wait()
	page, err := w.store.List(t.Context(), store.Filter{})
	if err != nil || len(page.Attempts) != 4 {
		t.Errorf("%d attempts, %v", len(page.Attempts), err)
	}
	for _, a := range page.Attempts {
		if a.State != store.Complete {
			t.Errorf("%s: %s", a.Key.User, a.State)
		}
	}
}

// A card whose users sign in with the bot's own popup.
func TestCardActionWithPopup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.extend = everything })
	user, eve := w.user("alice"), w.user("eve")
	asked, err := user.Invoke(t.Context(), "adaptiveCard/action", "", value(t, execute))
	login := w.card(asked, err)
	var oauth struct{ Buttons []struct{ Value string } }
	if err := json.Unmarshal(login.Value, &oauth); err != nil || len(oauth.Buttons) != 1 {
		t.Fatalf("%s, %v", login.Value, err)
	}
	ended := w.open(emulator.NewBrowser(), oauth.Buttons[0].Value)
	a, err := eve.Reissue(t.Context(), asked.Sent, ended.Code)
	if c := w.card(a, err); c.StatusCode != 401 || !strings.HasSuffix(c.Type, "invalidAuthCode") {
		t.Errorf("%+v", c)
	}
	a, err = user.Reissue(t.Context(), asked.Sent, ended.Code)
	if c := w.card(a, err); c.StatusCode != 200 {
		t.Errorf("%+v", c)
	}
}

func TestConfigs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := w.instances[0].popup
	for what, cfg := range map[string]composeext.Config{
		"no engine":     {Popup: own},
		"no connection": {Engine: w.instances[0].eng},
		"one for both":  {Engine: w.instances[0].eng, Popup: own, TokenService: "WIKI"},
	} {
		if _, err := composeext.New(cfg); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	for what, cfg := range map[string]composeext.Config{
		"a popup":                           {Engine: w.instances[0].eng, Popup: own},
		"a connection of the Token Service": {Engine: w.instances[0].eng, TokenService: graph},
		"both":                              {Engine: w.instances[0].eng, Popup: own, TokenService: graph},
	} {
		if _, err := composeext.New(cfg); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	good := popup.Config{
		AppID: "app", Connection: wiki, PublicURL: "https://bot.example.com/teams", Store: w.store, Keys: [][]byte{make([]byte, 32)},
		Provider: popup.Provider{Issuer: "https://login.example.com", ClientID: "x"},
	}
	if _, err := popup.New(good); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(c *popup.Config){
		"app_id: is missing":         func(c *popup.Config) { c.AppID = "" },
		"connection: is missing":     func(c *popup.Config) { c.Connection = "" },
		"store: is missing":          func(c *popup.Config) { c.Store = nil },
		"public_url: needs https":    func(c *popup.Config) { c.PublicURL = "http://bot.example.com" },
		"public_url: is missing":     func(c *popup.Config) { c.PublicURL = "" },
		"public_url: has a query":    func(c *popup.Config) { c.PublicURL = "https://bot.example.com?x=1" },
		"public_url: not of":         func(c *popup.Config) { c.PublicURL = "bot.example.com" },
		"encryption_key: is missing": func(c *popup.Config) { c.Keys = nil },
		"encryption_key: 5 bytes":    func(c *popup.Config) { c.Keys = [][]byte{make([]byte, 5)} },
		"teamsjs_integrity: is missing": func(c *popup.Config) {
			c.TeamsJSURL = "https://cdn.example/teams.js"
		},
		"teamsjs_integrity: not of": func(c *popup.Config) { c.TeamsJSIntegrity = "md5-x" },
		"teamsjs_url: needs https":  func(c *popup.Config) { c.TeamsJSURL = "http://cdn.example/teams.js" },
		"code_lifetime":             func(c *popup.Config) { c.CodeLifetime = -time.Second },
		"width and height":          func(c *popup.Config) { c.Width = -1 },
		"provider.client_id:":       func(c *popup.Config) { c.Provider.ClientID = "" },
		"provider: issuer, or":      func(c *popup.Config) { c.Provider.Issuer = "" },
		"provider.issuer: needs":    func(c *popup.Config) { c.Provider.Issuer = "http://login.example.com" },
		"provider.issuer: stands":   func(c *popup.Config) { c.Provider.TokenURL = "https://x.example/token" },
	} {
		cfg := good
		change(&cfg)
		if _, err := popup.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	everythingWrong := popup.Config{TeamsJSIntegrity: "x"}
	if n := strings.Count(everythingWrong.Validate().Error(), "\n"); n < 6 {
		t.Errorf("only %d lines: %v", n, everythingWrong.Validate())
	}
	for text, want := range map[string]bool{
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=": true,
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA":  true,
		"AAAA": false, "": false, "!": false,
	} {
		if _, err := popup.ParseKey(text); (err == nil) != want {
			t.Errorf("ParseKey(%q): %v", text, err)
		}
	}
}

// The host of the library is part of the Content-Security-Policy, in which some
// characters of a URL have another meaning.
func TestTeamsJSHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for url, want := range map[string]string{
		"https://cdn.example/teams.js":              "",
		"https://CDN-1.example:8443/a;b,c/teams.js": "",
		"https://xn--bcher-kva.example/teams.js":    "",
		"http://127.0.0.1:3979/teams.js":            "",
		"https://cdn.example;x/teams.js":            `the host "cdn.example;x"`,
		"https://cdn.example,x/teams.js":            `the host "cdn.example,x"`,
		"https://'self'/teams.js":                   `the host "'self'"`,
		`https://cdn"example/teams.js`:              `the host "cdn\"example"`,
		"https://*.example/teams.js":                `the host "*.example"`,
		"https://*/teams.js":                        `the host "*"`,
		"https://cdn.example:/teams.js":             `the host "cdn.example:"`,
		"https://bücher.example/teams.js":           `the host "bücher.example"`,
		"http://[::1]:3979/teams.js":                "",
		"https://cdn example/teams.js":              "no URL",
		"https://cdn%20example/teams.js":            "no URL",
		"https://cdn.example:*/teams.js":            "no URL",
	} {
		cfg := popup.Config{
			AppID: "app", Connection: wiki, PublicURL: "https://bot.example.com", Store: w.store, Keys: [][]byte{make([]byte, 32)},
			Provider:   popup.Provider{Issuer: "https://login.example.com", ClientID: "x"},
			TeamsJSURL: url, TeamsJSIntegrity: popup.DefaultTeamsJSIntegrity,
		}
		_, err := popup.New(cfg)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", url, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), "teamsjs_url: "+want)):
			t.Errorf("%s: %v, want teamsjs_url: %s", url, err, want)
		}
	}
}

// The store fails after the provider's code was redeemed: the user sees a reason, and the
// credentials that could not be kept are revoked.
func TestStoreFailsAfterRedeem(t *testing.T) {
	t.Parallel()
	broken := &brokenStore{}
	w := newWorld(t, func(w *world) {
		w.store = broken.around(w.now)
		w.front = func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/provider/token" {
					broken.set(true)
				}
				next.ServeHTTP(rw, r)
			})
		}
	})
	user := w.user("")
	_, c := w.query(user, "lakers")
	got := w.open(emulator.NewBrowser(), c.URL)
	if got.Status != http.StatusServiceUnavailable || got.Reason != "not_available" || got.Code != "" {
		t.Errorf("%d %s, code %q", got.Status, got.Reason, got.Code)
	}
	if w.provider.Count("revoke") == 0 {
		t.Error("the credentials were not revoked")
	}
}

// A sign-out that meets another write of the same user goes on behind it.
func TestSignOutGoesOnAfterAConflict(t *testing.T) {
	t.Parallel()
	broken := &brokenStore{}
	w := newWorld(t, func(w *world) { w.store = broken.around(w.now) })
	user := w.user("")
	w.signIn(user)
	broken.conflicts.Store(2)
	w.signOut(user)
	_, c := w.query(user, "lakers")
	w.want(c, "auth")
}

// A slash at the end of the public address is not doubled.
func TestPublicAddressEndsWithASlash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.configure = func(c *popup.Config) { c.PublicURL += "/" } })
	w.signIn(w.user(""))
}

// What has no handler goes to the next bot.
func TestInvokesWithoutAHandler(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	next := 0
	x, err := composeext.New(composeext.Config{
		Engine: w.instances[0].eng, TokenService: graph,
		Next: teams.BotFunc(func(context.Context, *machine.Turn) (*machine.Answer, error) {
			next++
			return nil, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{
		"composeExtension/query", "composeExtension/queryLink", "composeExtension/fetchTask", "composeExtension/submitAction",
		"composeExtension/selectItem", "adaptiveCard/action",
	}
	for _, name := range names {
		act := *w.turn(w.user("")).Activity()
		act.Type, act.Name, act.Value = "invoke", name, value(t, `{"url":"https://example.com","commandId":"c"}`)
		if a, err := x.OnActivity(t.Context(), w.instances[0].eng.Turn(&act)); a != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	if next != len(names) {
		t.Errorf("the next bot got %d of %d", next, len(names))
	}
}

// On https no other host can set the cookie, and no other site can use it.
func TestCookie(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.configure = func(c *popup.Config) { c.PublicURL = "https://bot.example.com" }
	})
	link := w.link(w.user(""))
	at, err := emulator.NewBrowser().Authorize(t.Context(), strings.Replace(link, "https://bot.example.com", w.public, 1))
	if err != nil || at.Provider == "" {
		t.Fatalf("%+v, %v", at, err)
	}
	if !strings.Contains(at.Provider, "code_challenge_method=S256") || !strings.Contains(at.Provider, "redirect_uri=https%3A%2F%2Fbot.example.com%2Fauth%2Fcallback") {
		t.Errorf("provider %s", at.Provider)
	}
	cookie := at.Start.Get("Set-Cookie")
	for _, want := range []string{"__Host-signin-", "Path=/", "HttpOnly", "Secure", "SameSite=Lax", "Max-Age=600"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("cookie %q lacks %s", cookie, want)
		}
	}
	if strings.Contains(cookie, "Domain=") {
		t.Errorf("cookie %q", cookie)
	}
}

// While the store is down, the answer makes Teams send the invoke again (S).
func TestStoreDown(t *testing.T) {
	t.Parallel()
	for name, reads := range map[string]bool{"nothing works": false, "reads work": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storeDown(t, &brokenStore{reads: reads})
		})
	}
}

func storeDown(t *testing.T, broken *brokenStore) {
	t.Helper()
	w := newWorld(t, func(w *world) { w.store = broken.around(w.now) })
	user, b := w.user(""), emulator.NewBrowser()
	asked, c := w.query(user, "lakers")
	broken.set(true)
	a, err := user.Query(t.Context(), "insertWiki", "x")
	refused := a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") == "1"
	if err != nil || refused == broken.reads { // the attempt that is pending needs no write
		t.Errorf("%d %s, %v", a.Status, a.Body, err)
	}
	if got := w.open(b, c.URL); got.Reason != "not_available" || got.Status != http.StatusServiceUnavailable {
		t.Errorf("start: %d %s", got.Status, got.Reason)
	}
	broken.set(false)
	at, err := b.Authorize(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	broken.set(true)
	if got, err := b.Open(t.Context(), at.Callback); err != nil || got.Reason != "not_available" {
		t.Errorf("callback: %s, %v", got.Reason, err)
	}
	broken.set(false)
	// The callback still works.
	got, err := b.Open(t.Context(), at.Callback)
	if err != nil || got.Code == "" {
		t.Fatalf("%s, %v", got.Reason, err)
	}
	w.want(w.reissue(user, asked, got.Code), "result")
}
