package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

// TestTwoConnections runs the whole program. One connection signs in silently,
// and the other through the popup. Operators see both, and in the end the store
// is closed.
func TestTwoConnections(t *testing.T) {
	t.Chdir(t.TempDir())
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{
		{Name: "GraphConnection", DisplayName: "Azure AD v2", SSO: true}, {Name: "GitHubConnection", DisplayName: "GitHub"},
	}})
	azure := httptest.NewServer(emu)
	defer azure.Close()
	emu.SetBaseURL(azure.URL)

	address := freePort(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, teamsbot.Config{
			Engine: machine.Config{AppID: "00000000-0000-4000-8000-0000000000b0"}, ClientSecret: tokensvc.NewSecret("secret"),
			TokenServiceURL: azure.URL, LoginURL: azure.URL, ServiceURLs: []string{strings.TrimPrefix(azure.URL, "http://")},
			Listen: address, InboundAuth: teams.InboundAuthNone,
		})
	}()
	waitReady(t, "http://"+address+"/readyz", ended)

	user := emu.Teams("http://" + address + "/api/messages")
	say := func(text, want string) {
		t.Helper()
		if a, err := user.SendMessage(t.Context(), text); err != nil || a.Status != http.StatusOK {
			t.Fatalf("%s: %+v, %v", text, a, err)
		}
		if _, err := emu.WaitForText(t.Context(), user.Conversation.ID, want); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	if a, err := user.SendMessage(t.Context(), "login graph"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("login graph: %+v, %v", a, err)
	}
	card, err := emu.WaitForCard(t.Context(), user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := user.TokenExchange(t.Context(), card.ExchangeID(), "GraphConnection", "sso"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("tokenExchange: %+v, %v", a, err)
	}
	say("login graph", "Connected to Graph (GraphConnection)!")
	say("login graph", "Already signed in to Graph.")
	say("status", "OAuth connections:\n- **GraphConnection** (Azure AD v2): connected\n- **GitHubConnection** (GitHub): not connected")

	if a, err := user.SendMessage(t.Context(), "login github"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("login github: %+v, %v", a, err)
	}
	if card, err = emu.WaitForCard(t.Context(), user.Conversation.ID, 1); err != nil {
		t.Fatal(err)
	}
	code, err := user.SignInWithPage(t.Context(), card.SignInLink)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := user.VerifyState(t.Context(), code, card.ActivityID); err != nil || a.Status != http.StatusOK {
		t.Fatalf("verifyState: %+v, %v", a, err)
	}
	say("login github", "Connected to GitHub (GitHubConnection)!")

	operators := operator.NewClient(operator.SocketBeside("signin.db"), tokensvc.Secret{})
	page, err := operators.List(t.Context(), operator.Query{States: []store.State{store.Complete}})
	if err != nil || len(page.Attempts) != 2 {
		t.Fatalf("the operators' socket shows %d attempts, %v", len(page.Attempts), err)
	}
	if err = operators.Close(); err != nil {
		t.Fatal(err)
	}
	say("logout", "Signed out from all services.")
	say("status", "OAuth connections:\n- **GraphConnection** (Azure AD v2): not connected\n- **GitHubConnection** (GitHub): not connected")

	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	st, err := boltstore.Open("signin.db") // fails unless the bot has closed the file
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
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
func waitReady(t *testing.T, page string, ended <-chan error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatal(fmt.Errorf("the bot ended: %w", err))
		default:
		}
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
