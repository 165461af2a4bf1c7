package embed_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/examples/embed"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

// TestEmbed signs a user in with the README's code, against the emulator.
func TestEmbed(t *testing.T) {
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}}})
	azure := httptest.NewServer(emu)
	defer azure.Close()
	emu.SetBaseURL(azure.URL)

	t.Chdir(t.TempDir())
	st, err := boltstore.Open("signin.db")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	address := freePort(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- embed.Run(ctx, teamsbot.Config{
			ClientSecret: tokensvc.NewSecret("secret"), TokenServiceURL: azure.URL, LoginURL: azure.URL,
			ServiceURLs: []string{strings.TrimPrefix(azure.URL, "http://")},
			Listen:      address, InboundAuth: teams.InboundAuthNone,
		}, st)
	}()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	waitReady(t, "http://"+address+"/readyz")

	user := emu.Teams("http://" + address + "/api/messages")
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

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// waitReady waits until the bot accepts activities.
func waitReady(t *testing.T, page string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(page)
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatal("the bot is not ready")
}

// TestReadme checks that the README shows exactly this code.
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
