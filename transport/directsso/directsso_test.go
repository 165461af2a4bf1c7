package directsso_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/directsso"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

const app = "00000000-0000-4000-8000-0000000000b0"

// patience bounds how long a test waits for a message of the bot.
const patience = time.Minute

var key = bytes.Repeat([]byte{7}, 32)

// keys always returns the same keys.
func keys(all ...[]byte) func() ([]store.SecretKey, error) {
	return func() (out []store.SecretKey, err error) {
		for _, k := range all {
			out = append(out, store.SecretKey{Secret: k})
		}
		return out, nil
	}
}

// bot is a running bot whose only connection bypasses the Token Service.
type bot struct {
	emu   *emulator.Server
	user  *emulator.Teams
	store *memstore.Store
	sso   *directsso.Service

	mu    sync.Mutex
	now   time.Time
	marks []store.Mark
	down  bool // the store fails to read and write tokens
}

// Apply, Mark and Secret make bot the store of the service. They record what is
// written.
func (b *bot) Apply(ctx context.Context, commits []store.Commit) []error {
	b.mu.Lock()
	down := b.down
	for _, c := range commits {
		b.marks = append(b.marks, c.Marks...)
	}
	b.mu.Unlock()
	if down {
		return slices.Repeat([]error{store.ErrUnavailable}, len(commits))
	}
	return b.store.Apply(ctx, commits)
}

func (b *bot) Mark(ctx context.Context, name string) (store.Mark, error) {
	b.mu.Lock()
	down := b.down
	b.mu.Unlock()
	if down {
		return store.Mark{}, store.ErrUnavailable
	}
	return b.store.Mark(ctx, name)
}

func (b *bot) setDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}
func (b *bot) Secret() []byte { return b.store.Secret() }

func (b *bot) seen() []store.Mark {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.marks)
}

func (b *bot) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bot) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// source gives the bot's own token and exchanges those of users.
type source interface {
	tokensvc.TokenSource
	machine.OnBehalfOf
}

func newBot(t *testing.T, others ...string) *bot {
	t.Helper()
	return newBotOf(t, func(login *httptest.Server) (source, error) {
		return tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
			LoginURL: login.URL, ClientID: app, ClientSecret: tokensvc.NewSecret("secret"), HTTPClient: login.Client(),
		})
	}, others...)
}

func newBotOf(t *testing.T, prove func(login *httptest.Server) (source, error), others ...string) *bot {
	t.Helper()
	b := &bot{now: time.Now(), store: memstore.New(time.Now)}
	cfg := emulator.Config{ClientID: app}
	for _, name := range others {
		cfg.Connections = append(cfg.Connections, emulator.Connection{Name: name})
	}
	b.emu = emulator.New(cfg)
	azure := httptest.NewServer(b.emu)
	t.Cleanup(azure.Close)
	b.emu.SetBaseURL(azure.URL)
	login := httptest.NewTLSServer(b.emu)
	t.Cleanup(login.Close)
	credentials, err := prove(login)
	if err != nil {
		t.Fatal(err)
	}
	b.sso, err = directsso.New(directsso.Config{
		AppID: app, Connection: "graph", Scopes: []string{"https://graph.microsoft.com/User.Read"},
		SignInLink: "https://bot.example/consent?lang=en", Tenant: "contoso", OnBehalfOf: credentials,
		Store: b, Keys: keys(key), Clock: b.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	connections := []machine.Connection{{Name: "graph", Tokens: b.sso}}
	for _, name := range others {
		connections = append(connections, machine.Connection{Name: name})
	}
	served, err := teamsbot.New(teamsbot.Config{
		Engine:      machine.Config{AppID: app, Store: b.store, Connections: connections},
		Credentials: credentials, TokenServiceURL: azure.URL, LoginURL: azure.URL,
		ServiceURLs: []string{strings.TrimPrefix(azure.URL, "http://")}, InboundAuth: teams.InboundAuthNone,
	})
	if err != nil {
		t.Fatal(err)
	}
	flow, err := served.Engine().Flow("graph")
	if err != nil {
		t.Fatal(err)
	}
	flow.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, token tokensvc.Token) error {
		claims, _ := token.Claims()
		return turn.Send(ctx, "Connected: "+claims.Audience)
	})
	flow.OnSignInFailure(func(ctx context.Context, turn *machine.Turn, _ *machine.Failure) error {
		return turn.Send(ctx, "refused: "+turn.Refusal().Code+" "+turn.Refusal().Kind)
	})
	h, err := served.Handler(teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		if turn.Activity().Text == "logout" {
			return nil, errors.Join(turn.SignOut(ctx, "graph"), turn.Send(ctx, "Signed out."))
		}
		connection := "graph"
		if slices.Contains(others, turn.Activity().Text) {
			connection = turn.Activity().Text
		}
		got, err := turn.SignIn(ctx, machine.WithConnection(connection))
		if err == nil && got.SignedIn() {
			err = turn.Send(ctx, "token")
		}
		return nil, err
	}))
	if err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- served.Serve(ctx, l, h) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	b.user = b.emu.Teams("http://" + l.Addr().String() + "/api/messages")
	return b
}

func (b *bot) say(t *testing.T, text, want string) {
	t.Helper()
	a, err := b.user.SendMessage(t.Context(), text)
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("%s: %+v, %v", text, a, err)
	}
	if want == "" {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := b.emu.WaitForText(ctx, b.user.Conversation.ID, want); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// exchange sends the invoke that Teams sends for a card, and returns the status.
func (b *bot) exchange(t *testing.T, card *emulator.Card) int {
	t.Helper()
	a, err := b.user.TokenExchange(t.Context(), card.ExchangeID(), "graph", b.emu.SSOToken(b.user.User.ID))
	if err != nil {
		t.Fatal(err)
	}
	return a.Status
}

func (b *bot) card(t *testing.T, after int64) emulator.Card {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	card, err := b.emu.WaitForCard(ctx, b.user.Conversation.ID, after)
	if err != nil {
		t.Fatal(err)
	}
	return card
}

// TestDirectSSO plays a whole life: the bot's card, a silent exchange, a token
// that is kept until it expires, and a sign-out. The Token Service gets no
// request.
func TestDirectSSO(t *testing.T) {
	b := newBot(t)
	b.say(t, "hello", "")
	card := b.card(t, 0)
	link, err := url.Parse(card.SignInLink)
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"lang": {"en"}, "scope": {"https://graph.microsoft.com/User.Read"}, "clientId": {app}, "tenantId": {"contoso"},
	}
	if link.Host != "bot.example" || link.Query().Encode() != want.Encode() || card.TokenExchangeResource.URI != "api://botid-"+app {
		t.Errorf("card %+v", card)
	}
	if got := b.exchange(t, &card); got != http.StatusOK {
		t.Fatalf("exchange: %d", got)
	}
	b.say(t, "hello", "token")
	b.say(t, "hello", "Connected: https://graph.microsoft.com")
	status := func(want bool) {
		t.Helper()
		got, err := b.sso.GetTokenStatus(t.Context(), b.user.User.ID, "msteams")
		if err != nil || len(got) != 1 || got[0].Connection != "graph" || got[0].HasToken != want {
			t.Errorf("status %+v, %v, want %t", got, err, want)
		}
	}
	status(true)
	page, err := b.store.List(t.Context(), store.Filter{})
	if err != nil || len(page.Attempts) != 1 || page.Attempts[0].Method != store.MethodTokenExchange {
		t.Fatalf("%+v, %v", page.Attempts, err)
	}

	b.pass(2 * time.Hour) // the token has expired, and the next card signs in silently
	b.say(t, "hello", "")
	second := b.card(t, card.Seq)
	if got := b.exchange(t, &second); got != http.StatusOK {
		t.Fatalf("exchange after the end of the token: %d", got)
	}

	b.say(t, "logout", "Signed out.")
	about := tokensvc.UserConnection{UserID: b.user.User.ID, Connection: "graph", ChannelID: "msteams"}
	if _, err := b.sso.GetToken(t.Context(), about, tokensvc.Secret{}); !errors.Is(err, tokensvc.ErrNoToken) {
		t.Errorf("after the sign-out: %v", err)
	}
	status(false)
	for op, n := range b.emu.Counts() {
		if n > 0 && (op == emulator.OpGetToken || op == emulator.OpExchange || op == emulator.OpSignOut || op == emulator.OpGetSignInResource) {
			t.Errorf("the Token Service was asked: %s, %d times", op, n)
		}
	}
}

// TestConsent checks that the exchange is refused without consent, so that the
// user can use the button. After consent, the user is signed in silently.
func TestConsent(t *testing.T) {
	b := newBot(t)
	switches := b.emu.Switches()
	switches.NoConsent = true
	b.emu.SetSwitches(switches)
	b.say(t, "hello", "")
	card := b.card(t, 0)
	if got := b.exchange(t, &card); got != http.StatusPreconditionFailed {
		t.Errorf("without consent: %d", got)
	}
	switches.NoConsent = false
	b.emu.SetSwitches(switches)
	b.say(t, "hello", "refused: AADSTS65001 consent_required")
	again, err := b.user.TokenExchange(t.Context(), card.ExchangeID(), "graph", b.emu.SSOToken(b.user.User.ID))
	if err != nil || again.Status != http.StatusOK {
		t.Errorf("with consent: %d, %v", again.Status, err)
	}
}

// TestPageEnds checks what happens when the page behind the button calls
// notifySuccess. Teams sends what the page passed, but no connection treats it as
// a code. The invoke is not answered as a failure, and the sign-in goes on (C17).
func TestPageEnds(t *testing.T) {
	b := newBot(t)
	b.say(t, "hello", "")
	card := b.card(t, 0)
	a, err := b.user.VerifyState(t.Context(), "consented", card.ActivityID)
	if err != nil || a.Status != http.StatusOK {
		t.Errorf("what the page gave is answered %d, %v", a.Status, err)
	}
	if got := b.exchange(t, &card); got != http.StatusOK {
		t.Errorf("exchange: %d", got)
	}
}

// TestPageEndsBesideAnotherConnection checks that what the page passed is not
// offered as a code to another connection whose card is in the chat.
func TestPageEndsBesideAnotherConnection(t *testing.T) {
	b := newBot(t, "github")
	b.say(t, "github", "")
	first := b.card(t, 0)
	b.say(t, "hello", "")
	card := b.card(t, first.Seq)
	asked := b.emu.Counts()[emulator.OpGetToken]
	a, err := b.user.VerifyState(t.Context(), "consented", card.ActivityID)
	if err != nil || a.Status != http.StatusOK {
		t.Errorf("what the page gave is answered %d, %v", a.Status, err)
	}
	if n := b.emu.Counts()[emulator.OpGetToken] - asked; n != 0 {
		t.Errorf("another connection was asked %d times", n)
	}
}

// TestStoreKeepsNothing checks that nobody is signed in while the store fails,
// and that the same card signs the user in afterwards.
func TestStoreKeepsNothing(t *testing.T) {
	b := newBot(t)
	b.say(t, "hello", "")
	card := b.card(t, 0)
	b.setDown(true)
	if got := b.exchange(t, &card); got != http.StatusPreconditionFailed {
		t.Errorf("exchange: %d", got)
	}
	about := tokensvc.UserConnection{UserID: b.user.User.ID, Connection: "graph", ChannelID: "msteams"}
	var failed *tokensvc.Error
	if _, err := b.sso.GetToken(t.Context(), about, tokensvc.Secret{}); !errors.As(err, &failed) || errors.Is(err, tokensvc.ErrNoToken) || failed.Op != tokensvc.OpGetToken {
		t.Errorf("GetToken: %v, want a failure that is not the want of a token", err)
	}
	if _, err := b.sso.GetTokenStatus(t.Context(), about.UserID, about.ChannelID); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("GetTokenStatus: %v", err)
	}
	if err := b.sso.SignOut(t.Context(), about); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("SignOut: %v", err)
	}
	b.setDown(false)
	if got := b.exchange(t, &card); got != http.StatusOK {
		t.Errorf("exchange: %d", got)
	}
	b.say(t, "hello", "token")
}

// TestAnotherUsersToken checks that another user's token is refused whatever the
// policy says, since it would be stored as a token of whoever sent it.
func TestAnotherUsersToken(t *testing.T) {
	b := newBot(t)
	b.say(t, "hello", "")
	card := b.card(t, 0)
	stolen := b.emu.SSOToken("29:somebody-else")
	b.user.User.AADObjectID = "11111111-0000-4000-8000-000000000001"
	a, err := b.user.TokenExchange(t.Context(), card.ExchangeID(), "graph", stolen)
	if err != nil || a.Status != http.StatusForbidden {
		t.Errorf("%d, %v", a.Status, err)
	}
	if marks := b.seen(); len(marks) > 0 {
		t.Errorf("something was kept: %d records", len(marks))
	}
}

// TestTokensAreSealed checks that a stored token is sealed and bound to its user,
// and does not open with another key.
func TestTokensAreSealed(t *testing.T) {
	b := newBot(t)
	b.say(t, "hello", "")
	card := b.card(t, 0)
	if got := b.exchange(t, &card); got != http.StatusOK {
		t.Fatalf("exchange: %d", got)
	}
	about := tokensvc.UserConnection{UserID: b.user.User.ID, Connection: "Graph", ChannelID: "msteams"}
	tok, err := b.sso.GetToken(t.Context(), about, tokensvc.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	marks := b.seen()
	if len(marks) == 0 {
		t.Error("nothing was kept")
	}
	for _, m := range marks {
		for _, secret := range []string{tok.Token.Reveal(), about.UserID} {
			if strings.Contains(m.Name, secret) || bytes.Contains(m.Value, []byte(secret)) {
				t.Errorf("the record %q shows what it was made from", m.Name)
			}
		}
	}
	other, err := directsso.New(directsso.Config{
		AppID: app, Connection: "graph", Scopes: []string{"s"}, SignInLink: "https://bot.example/consent",
		OnBehalfOf: nobody{}, Store: b, Keys: keys(bytes.Repeat([]byte{8}, 32)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.GetToken(t.Context(), about, tokensvc.Secret{}); !errors.Is(err, tokensvc.ErrNoToken) {
		t.Errorf("with another key: %v", err)
	}
	stranger := about
	stranger.UserID = "29:somebody-else"
	if _, err := b.sso.GetToken(t.Context(), stranger, tokensvc.Secret{}); !errors.Is(err, tokensvc.ErrNoToken) {
		t.Errorf("of another user: %v", err)
	}
	if _, err := b.sso.GetToken(t.Context(), about, tokensvc.NewSecret("123456")); !errors.Is(err, tokensvc.ErrNoToken) {
		t.Errorf("with a code: %v", err)
	}
}

// TestKeysAreReadAgain checks that keys can be rotated while the bot runs: an
// older key still opens what it sealed. A key file that is missing for a moment
// does no harm.
func TestKeysAreReadAgain(t *testing.T) {
	now := time.Now()
	current, gone := keys(key), false
	st := memstore.New(time.Now)
	direct, err := directsso.New(directsso.Config{
		AppID: app, Connection: "graph", Scopes: []string{"s"}, SignInLink: "https://bot.example/consent",
		OnBehalfOf: everybody{}, Store: st, Clock: func() time.Time { return now },
		Keys: func() ([]store.SecretKey, error) {
			if gone {
				return nil, errors.New("no such file")
			}
			return current()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	about := func(user string) tokensvc.UserConnection {
		return tokensvc.UserConnection{UserID: user, Connection: "graph", ChannelID: "msteams"}
	}
	signIn := func(user string) {
		t.Helper()
		if _, err := direct.Exchange(t.Context(), about(user), tokensvc.NewSecret("sso")); err != nil {
			t.Fatal(err)
		}
	}
	there := func(user string) bool {
		_, err := direct.GetToken(t.Context(), about(user), tokensvc.Secret{})
		return err == nil
	}
	newer := bytes.Repeat([]byte{9}, 32)
	signIn("29:alice")
	current = keys(newer, key)
	now = now.Add(5 * time.Second)
	signIn("29:bob")
	gone = true
	now = now.Add(5 * time.Second)
	if !there("29:alice") || !there("29:bob") {
		t.Error("a token does not open with the keys that were there last")
	}
	gone, current = false, keys(newer)
	now = now.Add(5 * time.Second)
	if there("29:alice") || !there("29:bob") {
		t.Error("the older key opens although it was removed, or the newer one did not seal")
	}
}

func TestNewRefuses(t *testing.T) {
	good := directsso.Config{
		AppID: app, Connection: "graph", Scopes: []string{"s"}, SignInLink: "https://bot.example/consent",
		OnBehalfOf: nobody{}, Store: memstore.New(time.Now), Keys: keys(key),
	}
	if _, err := directsso.New(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*directsso.Config){
		"AppID is missing":      func(c *directsso.Config) { c.AppID = "" },
		"Connection is missing": func(c *directsso.Config) { c.Connection = "" },
		"Scopes is missing":     func(c *directsso.Config) { c.Scopes = nil },
		"OnBehalfOf is missing": func(c *directsso.Config) { c.OnBehalfOf = nil },
		"Store is missing":      func(c *directsso.Config) { c.Store = nil },
		"Keys is missing":       func(c *directsso.Config) { c.Keys = nil },
		"a key has 3 bytes":     func(c *directsso.Config) { c.Keys = keys([]byte{1, 2, 3}) },
		"no keys":               func(c *directsso.Config) { c.Keys = keys() },
		"keys: no such file": func(c *directsso.Config) {
			c.Keys = func() ([]store.SecretKey, error) { return nil, errors.New("no such file") }
		},
		"SignInLink is not an absolute": func(c *directsso.Config) { c.SignInLink = "consent" },
		"SignInLink has to be https":    func(c *directsso.Config) { c.SignInLink = "http://bot.example/consent" },
	} {
		cfg := good
		change(&cfg)
		if _, err := directsso.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

type nobody struct{}

func (nobody) OnBehalfOf(context.Context, tokensvc.Secret, []string) (tokensvc.Token, error) {
	return tokensvc.Token{}, tokensvc.ErrAudience
}

type everybody struct{}

func (everybody) OnBehalfOf(context.Context, tokensvc.Secret, []string) (tokensvc.Token, error) {
	return tokensvc.Token{Token: tokensvc.NewSecret("access")}, nil
}
