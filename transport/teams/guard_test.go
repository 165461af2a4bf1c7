package teams_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
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
	"github.com/signin-engine/signin-engine/transport/teams"
)

// guarded is a bot behind a guard for two connections, with the emulator.
type guarded struct {
	emu *emulator.Server
	url string
	st  store.Store

	beside machine.CompleteHandler // another callback for graph, after the guard's own; nil: none

	all    bool // the guard names no connections
	nested bool // one guard for each connection, nested
	routes bool // one guard for each of two routes, and a route without a guard
	policy *machine.Policy
	opts   []teams.GuardOption

	mu    sync.Mutex
	heard []string
	where string // the service URL of the last turn
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{st: memstore.New(time.Now)}
	g.emu = emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}, {Name: "github"}}})
	azure := httptest.NewServer(g.emu)
	t.Cleanup(azure.Close)
	g.emu.SetBaseURL(azure.URL)
	g.url = azure.URL
	return g
}

// start starts one process of the bot. The caller calls stop to end it.
func (g *guarded) start(t *testing.T, instance string) (bot *httptest.Server, stop func()) {
	t.Helper()
	bearer := tokensvc.Static(tokensvc.NewSecret("bot"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: g.url, Credentials: bearer})
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
	eng, err := machine.New(machine.Config{
		AppID: "app", Store: g.st, Tokens: tokens, Messenger: connector, Instance: instance, Policy: g.policy,
		Connections: []machine.Connection{{Name: "graph"}, {Name: "github"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var code teams.Bot = teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		text := instance + ": " + turn.Activity().Text
		for _, name := range []string{"Graph", "github"} {
			if tok, ok := teams.TokenOf(ctx, name); !ok || tok.Token.Empty() {
				text += " without " + name
			}
		}
		if _, ok := teams.TokenOf(ctx, "jira"); ok {
			text += " with jira"
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.heard, g.where = append(g.heard, text), turn.Conversation().ServiceURL
		return nil, nil
	})
	connections := []string{"graph", "github"}
	if g.nested {
		if code, err = teams.RequireSignIn(eng, code, connections[1:]); err != nil {
			t.Fatal(err)
		}
		connections = connections[:1]
	}
	if g.all {
		connections = nil
	}
	if _, err := teams.RequireSignIn(eng, code, []string{"slack"}); !errors.Is(err, machine.ErrUnknownConnection) {
		t.Errorf("an unknown connection: %v", err)
	}
	var front teams.Bot
	if front, err = teams.RequireSignIn(eng, code, connections, g.opts...); err != nil {
		t.Fatal(err)
	}
	if g.routes {
		front = g.routed(t, eng, front)
	}
	if g.beside != nil {
		graph, err := eng.Flow("graph")
		if err != nil {
			t.Fatal(err)
		}
		graph.OnSignInComplete(g.beside)
	}
	h, err := teams.NewHandler(eng, teams.Config{InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: hosts}, front)
	if err != nil {
		t.Fatal(err)
	}
	bot = httptest.NewServer(h)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = eng.Run(ctx) }()
	return bot, func() { bot.Close(); cancel(); <-done }
}

// routed is a bot with three routes: messages about mail pass through a guard for
// graph, those about issues through another bot, and those that log in through
// none.
func (g *guarded) routed(t *testing.T, eng *machine.Engine, issues teams.Bot) teams.Bot {
	t.Helper()
	mail, err := teams.RequireSignIn(eng, teams.BotFunc(func(_ context.Context, turn *machine.Turn) (*machine.Answer, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.heard = append(g.heard, "mail: "+turn.Activity().Text)
		return nil, nil
	}), []string{"graph"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := teams.RequireSignIn(eng, mail, []string{"Graph"}); err == nil || !strings.Contains(err.Error(), `another guard is named "graph": give one of them a name with GuardName`) {
		t.Errorf("a second guard of the same connections: %v", err)
	}
	if _, err := teams.RequireSignIn(eng, mail, []string{"graph"}, teams.GuardName("calendar")); err != nil {
		t.Errorf("a second guard with a name of its own: %v", err)
	}
	return teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		switch text := turn.Activity().Text; {
		case strings.HasPrefix(text, "mail"):
			return mail.OnActivity(ctx, turn)
		case strings.HasPrefix(text, "issues"):
			return issues.OnActivity(ctx, turn)
		default:
			_, err := turn.SignIn(ctx, machine.WithConnection("graph"))
			return nil, err
		}
	})
}

func (g *guarded) said() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.heard)
}

// ask sends a message that requires a sign-in with graph, and returns its card.
func (g *guarded) ask(t *testing.T, user *emulator.Teams, text string) emulator.Card {
	t.Helper()
	if a, err := user.SendMessage(t.Context(), text); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", a, err)
	}
	return g.card(t, user, 0)
}

// card returns the first card that came after another.
func (g *guarded) card(t *testing.T, user *emulator.Teams, after int64) emulator.Card {
	t.Helper()
	c, err := g.emu.WaitForCard(t.Context(), user.Conversation.ID, after)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange signs in to graph by SSO.
func (*guarded) exchange(t *testing.T, user *emulator.Teams, c emulator.Card) {
	t.Helper()
	if a, err := user.TokenExchange(t.Context(), c.ExchangeID(), "graph", "sso"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("tokenExchange: %+v, %v", a, err)
	}
}

// redeem signs in by the button.
func (*guarded) redeem(t *testing.T, user *emulator.Teams, c emulator.Card) {
	t.Helper()
	code, err := user.SignInWithPage(t.Context(), c.SignInLink)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := user.VerifyState(t.Context(), code, c.ActivityID); err != nil || a.Status != http.StatusOK {
		t.Fatalf("verifyState: %+v, %v", a, err)
	}
}

// TestGuardOverRestarts sends one message that requires two sign-ins, each on
// another process. The bot must get the message once.
func TestGuardOverRestarts(t *testing.T) {
	g := newGuarded(t)
	bot, stop := g.start(t, "a")
	user := g.emu.Teams(bot.URL)
	graph := g.ask(t, user, "show my issues")
	stop()

	bot, stop = g.start(t, "b")
	user.BotURL = bot.URL
	g.exchange(t, user, graph)
	github := g.card(t, user, graph.Seq)
	stop()
	if said := g.said(); len(said) != 0 {
		t.Fatalf("the bot heard %q before the second sign-in", said)
	}

	bot, stop = g.start(t, "c")
	defer stop()
	user.BotURL = bot.URL
	g.redeem(t, user, github)
	want := []string{"c: show my issues"}
	for end := time.Now().Add(time.Minute); len(g.said()) == 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if said := g.said(); !slices.Equal(said, want) {
		t.Errorf("the bot heard %q, want %q", said, want)
	}
	// From now on messages pass straight through.
	if a, err := user.SendMessage(t.Context(), "again"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", a, err)
	}
	if said := g.said(); !slices.Equal(said, append(want, "c: again")) {
		t.Errorf("the bot heard %q", said)
	}
}

// With GuardWhen only the activities that it names need the sign-in.
func TestGuardWhen(t *testing.T) {
	g := newGuarded(t)
	g.opts = []teams.GuardOption{teams.GuardWhen(func(a *machine.Activity) bool { return strings.HasPrefix(a.Text, "my ") })}
	bot, stop := g.start(t, "a")
	defer stop()
	user := g.emu.Teams(bot.URL)
	if a, err := user.SendMessage(t.Context(), "hello"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", a, err)
	}
	want := []string{"a: hello without Graph without github"}
	if said := g.said(); !slices.Equal(said, want) {
		t.Errorf("the bot heard %q, want %q", said, want)
	}
	g.ask(t, user, "my issues")
	if said := g.said(); !slices.Equal(said, want) {
		t.Errorf("before the sign-in the bot heard %q, want %q", said, want)
	}
}

// TestGuardRunsOnce repeats the callback of the first sign-in after the second
// one. By then the bot has received the message, and must not get it twice.
func TestGuardRunsOnce(t *testing.T) {
	g := newGuarded(t)
	made := make(chan struct{})
	g.beside = func(context.Context, *machine.Turn, tokensvc.Token) error {
		if len(g.said()) == 0 {
			return errors.New("not yet")
		}
		close(made)
		return nil
	}
	bot, stop := g.start(t, "a")
	defer stop()
	user := g.emu.Teams(bot.URL)
	graph := g.ask(t, user, "show my issues")
	g.exchange(t, user, graph)
	github := g.card(t, user, graph.Seq)
	g.redeem(t, user, github)
	select {
	case <-made:
	case <-time.After(time.Minute):
		t.Fatal("the first callback was not made again")
	}
	if said := g.said(); !slices.Equal(said, []string{"a: show my issues"}) {
		t.Errorf("the bot heard %q", said)
	}
}

// TestGuardBehindAGuard checks that a nested guard takes up the activity, too:
// when the outer guard lets it through, the activity has not reached the bot yet.
func TestGuardBehindAGuard(t *testing.T) {
	g := newGuarded(t)
	g.nested = true
	bot, stop := g.start(t, "a")
	user := g.emu.Teams(bot.URL)
	graph := g.ask(t, user, "show my issues")
	g.exchange(t, user, graph)
	github := g.card(t, user, graph.Seq)
	g.redeem(t, user, github)
	stop() // makes the callbacks that are owed
	if said := g.said(); !slices.Equal(said, []string{"a: show my issues"}) {
		t.Errorf("the bot heard %q", said)
	}
	// That the inner guard asked for another sign-in is no error of the callback.
	page, err := g.st.List(t.Context(), store.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range page.Deliveries {
		if d.Status != store.DeliveryDone || d.Tries != 1 || d.Error != "" {
			t.Errorf("callback %s: %s after %d tries: %s", d.DeliveryKey, d.Status, d.Tries, d.Error)
		}
	}
}

// TestGuardsOfRoutes has a guard in front of each route. A message must reach the
// route that it was for. A sign-in that the bot itself asked for brings no
// message back.
func TestGuardsOfRoutes(t *testing.T) {
	for text, want := range map[string][]string{
		"mail of today":    {"mail: mail of today"},
		"issues of mine":   {"a: issues of mine"},
		"login, if you do": nil,
	} {
		g := newGuarded(t)
		g.routes = true
		bot, stop := g.start(t, "a")
		user := g.emu.Teams(bot.URL)
		graph := g.ask(t, user, text)
		g.exchange(t, user, graph)
		if strings.HasPrefix(text, "issues") {
			github := g.card(t, user, graph.Seq)
			g.redeem(t, user, github)
		}
		stop() // makes the callbacks that are owed
		if said := g.said(); !slices.Equal(said, want) {
			t.Errorf("%s: the bot heard %q, want %q", text, said, want)
		}
	}
}

// TestGuardAsksNoMore checks that a callback which is repeated after the bot got
// the activity asks for no sign-in, even if the user's tokens are gone.
func TestGuardAsksNoMore(t *testing.T) {
	g := newGuarded(t)
	made, gone := make(chan struct{}), false
	var user *emulator.Teams
	g.beside = func(context.Context, *machine.Turn, tokensvc.Token) error {
		switch {
		case len(g.said()) == 0:
			return errors.New("not yet")
		case !gone:
			gone = true
			for _, name := range []string{"graph", "github"} {
				g.emu.DropToken(tokensvc.UserConnection{UserID: user.User.ID, Connection: name, ChannelID: "msteams"})
			}
			return errors.New("once more")
		default:
			close(made)
			return nil
		}
	}
	bot, stop := g.start(t, "a")
	user = g.emu.Teams(bot.URL)
	graph := g.ask(t, user, "show my issues")
	g.exchange(t, user, graph)
	github := g.card(t, user, graph.Seq)
	g.redeem(t, user, github)
	select {
	case <-made:
	case <-time.After(time.Minute):
		t.Fatal("the callback was not made again")
	}
	stop()
	if last, _ := g.emu.LastCard(user.Conversation.ID); last.Seq != github.Seq {
		t.Error("another card went out for an activity that the bot has had")
	}
}

// TestGuardOfAll checks that a guard which names no connections requires all of
// them, and that an unknown connection is an error. Activities that need no
// sign-in pass.
func TestGuardOfAll(t *testing.T) {
	g := newGuarded(t)
	g.all = true
	bot, stop := g.start(t, "a")
	user := g.emu.Teams(bot.URL)
	if a, err := user.Invoke(t.Context(), "some/invoke", "", json.RawMessage(`{}`)); err != nil || a.Status != http.StatusNotImplemented {
		t.Errorf("an invoke: %+v, %v", a, err)
	}
	if said := g.said(); !slices.Equal(said, []string{"a:  without Graph without github"}) {
		t.Errorf("the bot heard %q", said)
	}
	graph := g.ask(t, user, "show my issues")
	g.exchange(t, user, graph)
	g.redeem(t, user, g.card(t, user, graph.Seq))
	stop() // makes the callbacks that are owed
	if said := g.said(); len(said) != 2 || said[1] != "a: show my issues" {
		t.Errorf("the bot heard %q", said)
	}
}

// TestGuardCardThatCameTooLate has two callbacks that take up the same message at
// the same time. One looks for a token before the user has signed in, and sends a
// card. The other finds the token and must let the message through nevertheless.
func TestGuardCardThatCameTooLate(t *testing.T) {
	g := newGuarded(t)
	tries := 0
	var user *emulator.Teams
	g.beside = func(context.Context, *machine.Turn, tokensvc.Token) error {
		if tries++; tries == 1 {
			return errors.New("once more") // the guard's callback is next and sends the card for github
		}
		g.emu.PutToken(tokensvc.UserConnection{UserID: user.User.ID, Connection: "github", ChannelID: "msteams"})
		return nil
	}
	bot, stop := g.start(t, "a")
	user = g.emu.Teams(bot.URL)
	g.exchange(t, user, g.ask(t, user, "show my issues"))
	for end := time.Now().Add(time.Minute); len(g.said()) == 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	if said := g.said(); !slices.Equal(said, []string{"a: show my issues"}) {
		t.Errorf("the bot heard %q", said)
	}
}

// TestGuardTokenThatCameAnotherWay checks that a message which waits for a card is
// answered when the next one finds that the user is signed in.
func TestGuardTokenThatCameAnotherWay(t *testing.T) {
	g := newGuarded(t)
	bot, stop := g.start(t, "a")
	user := g.emu.Teams(bot.URL)
	g.ask(t, user, "show my issues")
	if a, err := user.SendMessage(t.Context(), "anything new?"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", a, err)
	}
	for _, connection := range []string{"graph", "github"} {
		g.emu.PutToken(tokensvc.UserConnection{UserID: user.User.ID, Connection: connection, ChannelID: "msteams"})
	}
	if a, err := user.SendMessage(t.Context(), "hello?"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", a, err)
	}
	for end := time.Now().Add(10 * time.Second); len(g.said()) < 3 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	if said := g.said(); !slices.Equal(said, []string{"a: hello?", "a: show my issues", "a: anything new?"}) {
		t.Errorf("the bot heard %q", said)
	}
}

// TestGuardKeepsEveryMessage checks that a user who sends more messages while a
// sign-in is pending gets an answer to each, in order and once, after one
// sign-in.
func TestGuardKeepsEveryMessage(t *testing.T) {
	for name, cooldown := range map[string]time.Duration{"a card for each": 0, "one card": time.Minute} {
		t.Run(name, func(t *testing.T) { keepsEveryMessage(t, cooldown) })
	}
}

func keepsEveryMessage(t *testing.T, cooldown time.Duration) {
	t.Helper()
	g := newGuarded(t)
	policy := machine.DefaultPolicy()
	policy.ResendCooldown = cooldown
	g.policy = &policy
	bot, stop := g.start(t, "a")
	user := g.emu.Teams(bot.URL)
	first := g.ask(t, user, "show my issues")
	if a, err := user.SendMessage(t.Context(), "and my mail"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", a, err)
	}
	stop()
	bot, stop = g.start(t, "b")
	user.BotURL = bot.URL
	graph := first
	if cooldown == 0 {
		graph = g.card(t, user, first.Seq)
	}
	g.exchange(t, user, graph)
	g.redeem(t, user, g.card(t, user, graph.Seq))
	stop() // makes the callbacks that are owed
	if said := g.said(); !slices.Equal(said, []string{"b: show my issues", "b: and my mail"}) {
		t.Errorf("the bot heard %q", said)
	}
}

// TestGuardAfterAMove checks that a message which is taken up is answered where the user
// can be reached by then: the service URL may have moved since it was sent.
func TestGuardAfterAMove(t *testing.T) {
	g := newGuarded(t)
	bot, stop := g.start(t, "a")
	user := g.emu.Teams(bot.URL)
	graph := g.ask(t, user, "show my issues")
	moved := httptest.NewServer(g.emu)
	defer moved.Close()
	user.ServiceURL = moved.URL + "/"
	g.exchange(t, user, graph)
	g.redeem(t, user, g.card(t, user, graph.Seq))
	stop() // makes the callbacks that are owed
	if g.where != user.ServiceURL {
		t.Errorf("the bot answers at %q, want %q", g.where, user.ServiceURL)
	}
}
