package playground_test

import (
	"bytes"
	"context"
	"flag"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/bot"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/playground"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/browsertest"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

var lookAt = flag.String("playground.look", "", "serve the playground at `host:port` for ten minutes")

const appID = "00000000-0000-4000-8000-0000000000b0"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a small dev: the bot, the services around it, and the playground on
// their listener.
func world(t *testing.T) string {
	t.Helper()
	provider := emulator.NewProvider(emulator.ProviderConfig{ClientID: "wiki"})
	emu := emulator.New(emulator.Config{ClientID: appID, Provider: provider, Connections: []emulator.Connection{
		{Name: "graph", DisplayName: "Microsoft Graph", SSO: true}, {Name: "github", DisplayName: "GitHub"},
	}})
	var play atomic.Pointer[playground.Playground]
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if playground.Serves(r.URL.Path) {
			play.Load().ServeHTTP(w, r)
			return
		}
		emu.ServeHTTP(w, r)
	}))
	if *lookAt != "" {
		l, err := net.Listen("tcp", *lookAt)
		must(t, err)
		web.Listener.Close() //nolint:errcheck // it is replaced
		web.Listener = l
	}
	web.Start()
	t.Cleanup(web.Close)
	emu.SetBaseURL(web.URL)

	st := memstore.New(time.Now)
	credentials := tokensvc.Static(tokensvc.NewSecret("emulator"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: web.URL, Credentials: credentials})
	must(t, err)
	allowed, err := teams.NewAllowList([]string{strings.TrimPrefix(web.URL, "http://")}, false)
	must(t, err)
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: credentials, ServiceURLs: allowed})
	must(t, err)
	botListener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	public := "http://" + botListener.Addr().String()
	provider.SetRedirectURL(public + "/auth/callback")
	own, err := popup.New(popup.Config{
		AppID: appID, Connection: "wiki", PublicURL: public, Store: st, Keys: [][]byte{bytes.Repeat([]byte{7}, 32)}, Log: zerolog.Nop(),
		TeamsJSURL: web.URL + playground.ClientScript, TeamsJSIntegrity: playground.ClientIntegrity(),
		Provider: popup.Provider{Issuer: web.URL + "/provider", ClientID: "wiki", Scopes: []string{"profile"}},
	})
	must(t, err)
	eng, err := machine.New(machine.Config{
		AppID: appID, Store: st, Tokens: tokens, Messenger: connector, Log: zerolog.Nop(),
		Connections: []machine.Connection{{Name: "graph", DisplayName: "Microsoft Graph"}, {Name: "github", DisplayName: "GitHub"}, {Name: "wiki", Tokens: own}},
	})
	must(t, err)
	chat, err := bot.New(eng, []config.Connection{{Name: "graph", DisplayName: "Microsoft Graph"}, {Name: "github", DisplayName: "GitHub"}}, web.Client())
	must(t, err)
	extension := composeext.Config{Engine: eng, Popup: own, Next: chat, Log: zerolog.Nop()}
	must(t, chat.Handlers(&extension))
	front, err := composeext.New(extension)
	must(t, err)
	h, err := teams.NewHandler(eng, teams.Config{InboundAuth: config.AuthNone, Listener: botListener.Addr().String(), ServiceURLs: allowed, Log: zerolog.Nop()}, front)
	must(t, err)
	mux := http.NewServeMux()
	mux.Handle("/api/messages", h)
	mux.Handle("/auth/", own)
	botServer := httptest.NewUnstartedServer(mux)
	botServer.Listener.Close() //nolint:errcheck // it is replaced
	botServer.Listener = botListener
	botServer.Start()
	t.Cleanup(botServer.Close)

	reader := operator.NewDirect(st, operator.DefaultRules(), operator.Info{Live: true})
	console := httptest.NewServer(operator.NewHandler(operator.HandlerConfig{
		Reader: reader, Actor: operator.NewDirectActor(reader, eng), Token: tokensvc.NewSecret("act"), LinkLogin: true, Clock: time.Now,
	}))
	t.Cleanup(console.Close)
	client := operator.NewClient(operator.Endpoint{Network: "tcp", Address: strings.TrimPrefix(console.URL, "http://")}, tokensvc.NewSecret("act"))
	t.Cleanup(func() { must(t, client.Close()) })
	play.Store(playground.New(playground.Config{
		Emulator: emu, BotURL: botServer.URL + "/api/messages", Operator: client, Connections: []string{"graph", "github"}, Extension: true,
		ConsoleURL: console.URL + "/login?token=act&name=playground",
	}))
	run(t, eng.Run)
	run(t, play.Load().Run)
	return web.URL
}

// run runs what until the test ends.
func run(t *testing.T, what func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- what(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
}

func do(t *testing.T, base string, values url.Values) {
	t.Helper()
	res, err := http.PostForm(base+"/playground/do", values)
	must(t, err)
	must(t, res.Body.Close())
	if res.StatusCode != http.StatusOK || res.Request.URL.RawQuery != "" {
		t.Errorf("%v: %d %s", values, res.StatusCode, res.Request.URL)
	}
}

// wait loads the page until it shows all of these texts.
func wait(t *testing.T, base string, texts ...string) {
	t.Helper()
	const patience = 15 * time.Second
	var page string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		res, err := http.Get(base + "/")
		must(t, err)
		var b strings.Builder
		buf := make([]byte, 32<<10)
		for {
			n, err := res.Body.Read(buf)
			b.Write(buf[:n])
			if err != nil {
				break
			}
		}
		must(t, res.Body.Close())
		page = b.String()
		missing := ""
		for _, text := range texts {
			if !strings.Contains(page, text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
	}
	t.Fatalf("the page never showed %q:\n%s", texts, page)
}

func TestPlayWithoutABrowser(t *testing.T) {
	base := world(t)
	do(t, base, url.Values{"do": {"device-add"}, "name": {"iOS"}})
	do(t, base, url.Values{"do": {"say"}, "text": {"login graph"}})
	wait(t, base, "login graph", "signin/tokenExchange", "Connected to Microsoft Graph", "is signed in, silently by single sign-on")

	do(t, base, url.Values{"do": {"new"}})
	do(t, base, url.Values{"do": {"device"}, "device": {"Windows"}, "reaction": {"fail:resourcematchfailed"}})
	do(t, base, url.Values{"do": {"say"}, "text": {"login graph"}})
	wait(t, base, "signin/failure resourcematchfailed", "Sign-in to Microsoft Graph failed: resourcematchfailed", "Application ID URI")

	do(t, base, url.Values{"do": {"new"}})
	do(t, base, url.Values{"do": {"place"}, "place": {"groupChat"}})
	do(t, base, url.Values{"do": {"device"}, "device": {"Windows"}, "token": {"v1"}})
	do(t, base, url.Values{"do": {"say"}, "text": {"login graph"}})
	wait(t, base, "issues v1.0 tokens", "Use the Sign In button")
	do(t, base, url.Values{"do": {"code"}, "code": {"000000"}})
	wait(t, base, "412 Precondition Failed")
	do(t, base, url.Values{"do": {"close"}})
	wait(t, base, "CancelledByUser")

	do(t, base, url.Values{"do": {"new"}})
	do(t, base, url.Values{"do": {"trouble"}, "operation": {"Exchange"}, "status": {"503"}, "times": {"1"}})
	wait(t, base, "exchange an SSO token: 503, once")
	do(t, base, url.Values{"do": {"say"}, "text": {"login graph"}})
	wait(t, base, "everything works.", "503 Service Unavailable")
	do(t, base, url.Values{"do": {"again"}})
	wait(t, base, "once more", "is signed in, silently")
}

// TestSearchWithoutABrowser covers the message extension, as far as that needs no
// browser.
func TestSearchWithoutABrowser(t *testing.T) {
	base := world(t)
	do(t, base, url.Values{"do": {"search-again"}}) // nothing was searched for yet
	do(t, base, url.Values{"do": {"search"}, "q": {"lakers"}})
	wait(t, base, "composeExtension/query", "<code>auth</code>", `data-extension="true"`, "/auth/start?")
	do(t, base, url.Values{"do": {"search-code"}, "code": {"guessed"}})
	wait(t, base, "with the popup&#39;s code", "<code>auth</code>", "code_mismatch")
	do(t, base, url.Values{"do": {"search-code"}, "code": {"guessed"}, "who": {"other"}})
	wait(t, base, "to Somebody else", "<code>auth</code>")
	do(t, base, url.Values{"do": {"search-failed"}, "reason": {"<b>denied</b>"}})
	wait(t, base, "&lt;b&gt;denied&lt;/b&gt;")
	do(t, base, url.Values{"do": {"search-cancel"}})
	wait(t, base, "CancelledByUser", "An empty list.")
}

func TestPlaygroundIsForThisMachine(t *testing.T) {
	base := world(t)
	for name, change := range map[string]func(*http.Request){
		"a name that DNS pointed here": func(r *http.Request) { r.Host = "rebound.example" },
		"another site":                 func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/playground/do", strings.NewReader("do=new"))
		must(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		change(req)
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		must(t, res.Body.Close())
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
	}
}

// TestPlaygroundInBrowser uses the playground in a real Chromium: see
// testdata/playground.mjs.
func TestPlaygroundInBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser is not for short runs")
	}
	browsertest.Run(t, "testdata/playground.mjs", "PLAYGROUND="+world(t))
}

// TestLook keeps the playground up so that a person can look: go test -run
// TestLook -playground.look=127.0.0.1:9981.
func TestLook(t *testing.T) {
	if *lookAt == "" {
		t.Skip("only with -playground.look")
	}
	t.Log(world(t))
	time.Sleep(10 * time.Minute)
}
