package extension_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/examples/extension"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// TestExtension signs a user in from a query, against the emulator.
func TestExtension(t *testing.T) {
	provider := emulator.NewProvider(emulator.ProviderConfig{ClientID: "bot", ClientSecret: tokensvc.NewSecret("secret")})
	emu := emulator.New(emulator.Config{Provider: provider})
	azure := httptest.NewServer(emu)
	defer azure.Close()
	emu.SetBaseURL(azure.URL)

	st, err := boltstore.Open(filepath.Join(t.TempDir(), "signin.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	bearer := tokensvc.Static(tokensvc.NewSecret("bot"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: azure.URL, Credentials: bearer})
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := teams.NewAllowList(nil, true)
	if err != nil {
		t.Fatal(err)
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: bearer, ServiceURLs: hosts})
	if err != nil {
		t.Fatal(err)
	}
	var handler http.Handler
	bot := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	defer bot.Close()
	provider.SetRedirectURL(bot.URL + "/auth/callback")
	handler, err = extension.Bot(t.Context(), st, tokens, connector, extension.Config{
		AppID: "app", PublicURL: bot.URL, Key: bytes.Repeat([]byte{1}, 32),
		Provider: popup.Provider{Issuer: azure.URL + "/provider", ClientID: "bot", ClientSecret: tokensvc.NewSecret("secret")},
		Teams:    teams.Config{InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: hosts},
	})
	if err != nil {
		t.Fatal(err)
	}

	user := emu.Teams(bot.URL + "/api/messages")
	a, err := user.Search(t.Context(), emulator.NewBrowser(), "search", "lakers")
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Compose()
	if err != nil || got.Type != "result" || !strings.Contains(string(a.Body), "found for Robin") {
		t.Errorf("%s, %v", a.Body, err)
	}
}
