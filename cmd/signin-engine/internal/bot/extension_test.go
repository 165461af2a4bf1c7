package bot_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/bot"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// newExtensionChat makes a bot whose message extension has its own popup.
func newExtensionChat(t *testing.T) (*chat, *emulator.Provider) {
	t.Helper()
	provider := emulator.NewProvider(emulator.ProviderConfig{ClientID: "bot"})
	services := emulator.New(emulator.Config{
		Connections: []emulator.Connection{{Name: "graph", DisplayName: "Microsoft Graph", SSO: true}}, Provider: provider,
	})
	upstream := httptest.NewServer(services)
	t.Cleanup(upstream.Close)
	services.SetBaseURL(upstream.URL)
	mux := http.NewServeMux()
	listener := httptest.NewServer(mux)
	t.Cleanup(listener.Close)
	provider.SetRedirectURL(listener.URL + "/auth/callback")

	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st := memstore.New(time.Now)
	own, err := popup.New(popup.Config{
		AppID: "bot", Connection: "wiki", PublicURL: listener.URL, Store: st, Keys: [][]byte{bytes.Repeat([]byte{7}, 32)},
		Provider: popup.Provider{Issuer: upstream.URL + "/provider", ClientID: "bot"}, Log: zerolog.Nop(),
	})
	fail(err)
	token := tokensvc.Static(tokensvc.NewSecret("bot"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: upstream.URL, Credentials: token})
	fail(err)
	allowed, err := teams.NewAllowList([]string{strings.TrimPrefix(upstream.URL, "http://")}, false)
	fail(err)
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: token, ServiceURLs: allowed})
	fail(err)
	eng, err := machine.New(machine.Config{
		AppID: "bot", Store: st, Tokens: tokens, Messenger: connector, Log: zerolog.Nop(),
		Connections: []machine.Connection{{Name: "graph"}, {Name: "wiki", Tokens: own}},
	})
	fail(err)
	b, err := bot.New(eng, []config.Connection{{Name: "graph", DisplayName: "Microsoft Graph"}}, upstream.Client())
	fail(err)
	cfg := composeext.Config{Engine: eng, Popup: own, Next: b, Log: zerolog.Nop()}
	fail(b.Handlers(&cfg))
	front, err := composeext.New(cfg)
	fail(err)
	h, err := teams.NewHandler(eng, teams.Config{InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: allowed}, front)
	fail(err)
	mux.Handle("/api/messages", h)
	mux.Handle("/auth/", own)
	user := services.Teams(listener.URL + "/api/messages")
	user.Platform = "Web"
	return &chat{t, services, user}, provider
}

// search signs in as the users of a message extension do.
func (c *chat) search() {
	c.t.Helper()
	a, err := c.user.Search(c.t.Context(), emulator.NewBrowser(), "insertWiki", "lakers")
	if got, e := a.Compose(); err != nil || e != nil || got.Type != "result" {
		c.t.Fatalf("search: %d %s, %v %v", a.Status, a.Body, err, e)
	}
}

// TestCommandsOfAnExtension checks that the chat commands know the connection of
// a message extension: they say whether the user is signed in, and sign the user
// out. Only a search can sign in.
func TestCommandsOfAnExtension(t *testing.T) {
	c, provider := newExtensionChat(t)
	const status = "OAuth connections:\n- **graph** (Microsoft Graph): not connected\n- **wiki** (wiki): "
	c.want(c.say("help"), "You can say:\n- help\n- login\n- status\n- logout\n- login graph\n- logout graph\n- logout wiki")
	c.want(c.say("login wiki"), "Search with the message extension to sign in to wiki.")
	c.want(c.say("login"), "[card graph]")
	before := len(c.services.Activities(c.user.Conversation.ID))
	c.search()
	c.want(c.written(before)) // the result is on the screen
	c.want(c.say("status"), status+"connected")
	c.want(c.say("login wiki"), "Already signed in to wiki.")

	c.want(c.say("logout wiki"), "Signed out from wiki.")
	if provider.Count("revoke") == 0 {
		t.Error("the provider was not told")
	}
	c.want(c.say("status"), status+"not connected")

	c.search()
	provider.SetDown(true)
	c.want(c.say("logout"), "Signed out from all connections.") // the engine forgets the user even if the provider is down
	c.want(c.say("status"), status+"not connected")
	provider.SetDown(false)
	a, err := c.user.Query(t.Context(), "insertWiki", "x")
	if got, e := a.Compose(); err != nil || e != nil || got.Type != "auth" {
		t.Errorf("after the logout: %d %s, %v %v", a.Status, a.Body, err, e)
	}
	before = len(c.services.Activities(c.user.Conversation.ID))
	a, err = c.user.Reissue(t.Context(), a.Sent, "wrong")
	if got, e := a.Compose(); err != nil || e != nil || got.Type != "auth" {
		t.Errorf("a wrong code: %d %s, %v %v", a.Status, a.Body, err, e)
	}
	c.want(c.written(before)) // this, too, is on the screen
}
