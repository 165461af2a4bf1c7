package usertoken_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/usertoken"
)

const appID = "00000000-0000-4000-8000-0000000000b0"

// robin is the emulator's user on the connection "graph".
var robin = tokensvc.UserConnection{UserID: "29:1emulated-user", Connection: "graph", ChannelID: "msteams"}

// world is an engine in front of the emulator.
type world struct {
	emu   *emulator.Server
	url   string
	graph *machine.Flow
	turn  *machine.Turn
}

// newWorld makes a world whose connection has tokens for an audience.
func newWorld(audience string) (*world, func()) {
	emu := emulator.New(emulator.Config{
		ClientID: appID, ClientSecret: tokensvc.NewSecret("secret"),
		Connections: []emulator.Connection{{Name: "graph", SSO: true, Audience: audience}},
	})
	azure := httptest.NewServer(emu)
	emu.SetBaseURL(azure.URL)
	own, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: azure.URL, ClientID: appID, ClientSecret: tokensvc.NewSecret("secret"),
	})
	must(err)
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: azure.URL, Credentials: own})
	must(err)
	policy := machine.DefaultPolicy()
	policy.TokenCache = 5 * time.Minute
	eng, err := machine.New(machine.Config{
		AppID: appID, Store: exclusive{memstore.New(time.Now)}, Tokens: tokens, OnBehalfOf: own, Policy: &policy,
		Messenger: machinetest.NewConnector(func(string, ...any) {}), Log: zerolog.Nop(),
		Connections: []machine.Connection{{Name: "graph"}},
	})
	must(err)
	graph, err := eng.Flow("graph")
	must(err)
	turn := eng.Turn(&machine.Activity{Type: "message", Conversation: store.Conversation{
		Channel: "msteams", ID: "a:1", ServiceURL: azure.URL, UserID: robin.UserID,
	}})
	return &world{emu, azure.URL, graph, turn}, azure.Close
}

// exclusive is a store that no other process shares.
type exclusive struct{ store.Store }

func (exclusive) Exclusive() bool { return true }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A client of Graph that takes an [http.Client], for the user of a turn.
func ExampleClient() {
	w, done := newWorld("https://graph.microsoft.com")
	defer done()
	w.emu.PutToken(robin) // the user has signed in

	client := usertoken.Client(context.Background(), w.graph, w.turn)
	resp, err := client.Get(w.url + "/v1.0/me")
	must(err)
	defer resp.Body.Close() //nolint:errcheck // it was read
	var me struct{ DisplayName string }
	must(json.NewDecoder(resp.Body).Decode(&me))
	fmt.Println(me.DisplayName)
	// Output: Robin
}

// Without a sign-in there is no token.
func ExampleSource() {
	w, done := newWorld("")
	defer done()
	_, err := usertoken.Source(context.Background(), w.graph, w.turn).Token()
	fmt.Println(errors.Is(err, tokensvc.ErrNoToken))
	// Output: true
}

// The connection's token is made for the bot's own app. It is exchanged for one
// that Graph accepts.
func ExampleClient_onBehalfOf() {
	w, done := newWorld("api://" + appID)
	defer done()
	w.emu.PutToken(robin)

	client := usertoken.Client(context.Background(), w.graph, w.turn, machine.WithScopes("https://graph.microsoft.com/User.Read"))
	resp, err := client.Get(w.url + "/v1.0/me")
	must(err)
	defer resp.Body.Close() //nolint:errcheck // only the status matters
	fmt.Println(resp.StatusCode, w.emu.Count(emulator.OpAccessToken))
	// Output: 200 2
}

// TestRejectedTokenIsAskedForAgain checks that an answer 401 removes the token
// from the cache, and that no other answer does.
func TestRejectedTokenIsAskedForAgain(t *testing.T) {
	w, done := newWorld("")
	defer done()
	first := w.emu.PutToken(robin)
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+first {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer api.Close()
	client := usertoken.Client(t.Context(), w.graph, w.turn)
	for i, want := range []int{401, 200, 200} {
		if i == 1 { // the Token Service has a new token by now
			w.emu.DropToken(robin)
			w.emu.PutToken(robin)
		}
		resp, err := client.Get(api.URL)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("call %d: status %d, want %d", i+1, resp.StatusCode, want)
		}
	}
	if n := w.emu.Count(emulator.OpGetToken); n != 2 {
		t.Errorf("the Token Service was asked %d times, want 2", n)
	}
}

func TestOnBehalfOf(t *testing.T) {
	const mail = "https://graph.microsoft.com/Mail.Read"
	w, done := newWorld(appID)
	defer done()
	w.emu.PutToken(robin)
	exchanged := func(want int64) tokensvc.Token {
		t.Helper()
		tok, err := w.graph.Token(t.Context(), w.turn, machine.WithScopes(mail, "https://graph.microsoft.com/User.Read"))
		if err != nil {
			t.Fatal(err)
		}
		if n := w.emu.Count(emulator.OpAccessToken); n != want+1 { // one is for the bot's own token
			t.Errorf("Entra was asked %d times, want %d", n, want+1)
		}
		return tok
	}
	first := exchanged(1)
	claims, ok := first.Claims()
	if !ok || claims.Audience != "https://graph.microsoft.com" || claims.Account() != "Robin (robin@contoso.example)" || claims.Client != appID {
		t.Errorf("claims %+v", claims)
	}
	var all struct {
		Scopes string `json:"scp"`
	}
	if err := claims.Decode(&all); err != nil || all.Scopes != strings.Join(claims.Scopes, " ") || all.Scopes == "" {
		t.Errorf("scopes %q, %v", all.Scopes, err)
	}
	if err := claims.Decode(&all.Scopes); err == nil {
		t.Error("claims are no text")
	}
	if second := exchanged(1); second.Token.Reveal() != first.Token.Reveal() {
		t.Error("the second token is another one")
	}
	// The user signs out and in again: the token that was exchanged for the old
	// one must be gone.
	if err := w.graph.SignOut(t.Context(), w.turn); err != nil {
		t.Fatal(err)
	}
	if _, err := w.graph.Token(t.Context(), w.turn, machine.WithScopes(mail)); !errors.Is(err, tokensvc.ErrNoToken) {
		t.Errorf("after the sign-out: %v, want ErrNoToken", err)
	}
	w.emu.PutToken(robin)
	exchanged(2)
}

func TestOnBehalfOfRefused(t *testing.T) {
	for _, tt := range []struct {
		name, audience string
		noConsent      bool
		isAudience     bool
		code, says     string
	}{
		{name: "a token for Graph", audience: "https://graph.microsoft.com", isAudience: true, code: "AADSTS500131", says: "made for https://graph.microsoft.com"},
		{name: "an opaque token", audience: "", isAudience: true, says: "no JSON Web Token"},
		{name: "no consent", audience: appID, noConsent: true, code: "AADSTS65001", says: "AADSTS65001"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, done := newWorld(tt.audience)
			defer done()
			w.emu.PutToken(robin)
			w.emu.SetSwitches(emulator.Switches{NoConsent: tt.noConsent})
			_, err := w.graph.Token(t.Context(), w.turn, machine.WithScopes("https://graph.microsoft.com/User.Read"))
			if err == nil {
				t.Fatal("it was exchanged")
			}
			var refused *tokensvc.Error
			switch got := errors.As(err, &refused); {
			case errors.Is(err, tokensvc.ErrAudience) != tt.isAudience:
				t.Errorf("%v: ErrAudience %t, want %t", err, !tt.isAudience, tt.isAudience)
			case got != (tt.code != ""), got && (refused.Code != tt.code || refused.Consent != tt.noConsent):
				t.Errorf("%+v, want code %q", refused, tt.code)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q does not say %q", err, tt.says)
			}
		})
	}
}
