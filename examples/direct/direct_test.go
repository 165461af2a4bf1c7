package direct_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/examples/direct"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

const app = "00000000-0000-4000-8000-0000000000b0"

// TestDirect checks that a user who has not consented is told what to do, and is
// signed in by the client's next token afterwards. The Token Service gets no
// request.
func TestDirect(t *testing.T) {
	secret := tokensvc.NewSecret("secret")
	emu := emulator.New(emulator.Config{ClientID: app, ClientSecret: secret, Switches: emulator.Switches{NoConsent: true}})
	azure := httptest.NewServer(emu)
	defer azure.Close()
	emu.SetBaseURL(azure.URL)
	credentials, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{LoginURL: azure.URL, ClientID: app, ClientSecret: secret})
	if err != nil {
		t.Fatal(err)
	}
	st, err := boltstore.Open(filepath.Join(t.TempDir(), "signin.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	key := store.NewSecretKey(time.Now())
	bot, handler, err := direct.New(direct.Config{
		AppID: app, Credentials: credentials, Store: st, ConsentPage: "https://bot.example/consent",
		Keys: func() ([]store.SecretKey, error) { return []store.SecretKey{key}, nil },
	}, teamsbot.Config{
		TokenServiceURL: azure.URL, LoginURL: azure.URL,
		ServiceURLs: []string{strings.TrimPrefix(azure.URL, "http://")}, InboundAuth: teams.InboundAuthNone,
	})
	if err != nil {
		t.Fatal(err)
	}
	mux, err := bot.Handler(handler)
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- bot.Serve(ctx, l, mux) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	user := emu.Teams("http://" + l.Addr().String() + "/api/messages")
	say := func(want string) {
		t.Helper()
		if a, err := user.SendMessage(t.Context(), "when"); err != nil || a.Status != http.StatusOK {
			t.Fatalf("message: %+v, %v", a, err)
		}
		if want == "" {
			return
		}
		if _, err := emu.WaitForText(t.Context(), user.Conversation.ID, want); err != nil {
			t.Fatal(err)
		}
	}
	exchange := func(want int) {
		t.Helper()
		card, err := emu.WaitForCard(t.Context(), user.Conversation.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		a, err := user.TokenExchange(t.Context(), card.ExchangeID(), "calendar", emu.SSOToken(user.User.ID))
		if err != nil || a.Status != want {
			t.Fatalf("tokenExchange: %+v, %v", a, err)
		}
	}
	say("")
	exchange(http.StatusPreconditionFailed)
	if _, err := emu.WaitForText(t.Context(), user.Conversation.ID, "Use the button of the card"); err != nil {
		t.Fatal(err)
	}
	switches := emu.Switches()
	switches.NoConsent = false // the user has consented on the page
	emu.SetSwitches(switches)
	exchange(http.StatusOK)
	say("I may read your calendar until")
	if n := emu.Counts()[emulator.OpGetToken] + emu.Counts()[emulator.OpExchange]; n != 0 {
		t.Errorf("the Token Service was asked %d times", n)
	}
}
