package embed_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/examples/embed"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// TestEmbed signs a user in with the README's code, against the emulator.
func TestEmbed(t *testing.T) {
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}}})
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
	h, err := embed.Bot(t.Context(), st, tokens, connector, teams.Config{
		InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: hosts,
	})
	if err != nil {
		t.Fatal(err)
	}
	bot := httptest.NewServer(h)
	defer bot.Close()

	user := emu.Teams(bot.URL)
	if a, err := user.SendMessage(t.Context(), "hello"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", a, err)
	}
	card, err := emu.WaitForCard(t.Context(), user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err := user.TokenExchange(t.Context(), card.ExchangeID(), "graph", "sso-token")
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("tokenExchange: %+v, %v", a, err)
	}
	if _, err := emu.WaitForText(t.Context(), user.Conversation.ID, "You are signed in."); err != nil {
		t.Fatal(err)
	}
}

// TestReadme: the README shows this code, not some other.
func TestReadme(t *testing.T) {
	source, err := os.ReadFile("embed.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(source), "// readme:begin\n")
	code, _, ok := strings.Cut(code, "\t// readme:end")
	if !ok {
		t.Fatal("embed.go has no readme marks")
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(code), "\n") {
		if line = strings.TrimPrefix(line, "\t"); !strings.Contains(string(readme), line) {
			t.Errorf("README.md lacks %q", line)
		}
	}
}
