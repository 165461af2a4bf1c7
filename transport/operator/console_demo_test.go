package operator_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// lookAt serves the pages of the browser tests at a fixed address, for a person to look
// at.
var lookAt = flag.String("console.look", "", "serve the console with the staged situations at `host:port` for ten minutes")

const (
	actToken  = "act-token-of-the-test"
	readToken = "read-token-of-the-test"
	demoApp   = "e3cb1c84-0000-4000-8000-0000000000b0"
)

// hostile is a text that must not harm a page: it has markup, reversed text, a terminal
// escape sequence, and is very long.
func hostile() string {
	return `<script>document.title="taken"</script><img src=x onerror="document.title='taken'">"'` +
		"\u202etxt.exe\u202c\u2066\u200f\x1b[31m\x00" + strings.Repeat("W", 10<<10)
}

// stage is a bot with an emulated Teams. Its clock can be set back, so that situations
// that it then stages are old.
type stage struct {
	store    *memstore.Store
	engine   *machine.Engine
	emulator *emulator.Server
	console  *httptest.Server
	botURL   string
	back     atomic.Int64 // how far behind the clock is
	failing  atomic.Bool  // the bot's own code fails
	ids      map[string]string
}

func (s *stage) now() time.Time { return time.Now().Add(-time.Duration(s.back.Load())) }

// chat is the bot: it does what the text of a message says.
type chat struct{}

func (chat) OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	if word, connection, _ := strings.Cut(turn.Activity().Text, " "); turn.Activity().Type == "message" && word == "login" {
		_, err := turn.SignIn(ctx, machine.WithConnection(connection))
		return nil, err
	}
	return nil, nil //nolint:nilnil // "not mine" in the interface's own words
}

// newStage builds a stage without any attempts.
func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{ids: map[string]string{}}
	s.store = memstore.New(s.now)
	s.emulator = emulator.New(emulator.Config{ClientID: demoApp, Connections: []emulator.Connection{
		{Name: "graph", DisplayName: "Microsoft Graph", SSO: true}, {Name: "github", DisplayName: "GitHub"},
	}})
	services := httptest.NewServer(s.emulator)
	t.Cleanup(services.Close)
	s.emulator.SetBaseURL(services.URL)
	credentials := tokensvc.Static(tokensvc.NewSecret("emulator"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: services.URL, Credentials: credentials})
	must(t, err)
	allowed, err := teams.NewAllowList([]string{strings.TrimPrefix(services.URL, "http://")}, false)
	must(t, err)
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: credentials, ServiceURLs: allowed})
	must(t, err)
	s.engine, err = machine.New(machine.Config{
		AppID: demoApp, Store: s.store, Tokens: tokens, Messenger: connector, Instance: "bot-a", Log: zerolog.Nop(), Clock: s.now,
		Connections: []machine.Connection{{Name: "graph", DisplayName: "Microsoft Graph"}, {Name: "github", DisplayName: "GitHub"}},
	})
	must(t, err)
	for _, name := range []string{"graph", "github"} {
		flow, err := s.engine.Flow(name)
		must(t, err)
		flow.OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
			if s.failing.Load() {
				return fmt.Errorf("no such table: users")
			}
			return nil
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h, err := teams.NewHandler(s.engine, teams.Config{InboundAuth: "none", Listener: l.Addr().String(), ServiceURLs: allowed, Log: zerolog.Nop()}, chat{})
	must(t, err)
	bot := httptest.NewUnstartedServer(h)
	bot.Listener.Close() //nolint:errcheck // it is replaced
	bot.Listener = l
	bot.Start()
	t.Cleanup(bot.Close)
	s.botURL = bot.URL + "/api/messages"

	reader := operator.NewDirect(s.store, operator.DefaultRules(), operator.Info{
		Live: true, Version: "v1.0.0", Instance: "bot-a", Names: []string{"graph", "github"},
	})
	handler := operator.NewHandler(operator.HandlerConfig{
		Reader: reader, Actor: operator.NewDirectActor(reader, s.engine), Ready: s.engine.Ready,
		Token: tokensvc.NewSecret(actToken), ReadToken: tokensvc.NewSecret(readToken), LinkLogin: true, Log: zerolog.Nop(),
	})
	s.console = httptest.NewUnstartedServer(handler)
	if *lookAt != "" {
		s.console.Listener.Close() //nolint:errcheck // it is replaced
		s.console.Listener, err = net.Listen("tcp", *lookAt)
		must(t, err)
	}
	s.console.Start()
	t.Cleanup(s.console.Close)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// user returns a Teams user with a chat of their own.
func (s *stage) user(name string) *emulator.Teams {
	t := s.emulator.Teams(s.botURL)
	short := strings.ToLower(strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'z' {
			return r
		}
		return -1
	}, name))
	short = short[:min(len(short), 12)]
	t.User = emulator.Account{ID: "29:1" + short + "x7Kq2mVd0", Name: name, AADObjectID: "0350c6a2-0000-4000-8000-" + fmt.Sprintf("%012x", len(s.ids)+1)}
	t.Conversation.ID = "a:1" + short + "x8fq"
	return t
}

// at plays a scene with the clock set back, and records the attempt that it leaves.
func (s *stage) at(t *testing.T, ago time.Duration, name string, who *emulator.Teams, connection string, act func(card emulator.Card)) {
	t.Helper()
	s.back.Store(int64(ago))
	defer s.back.Store(0)
	said, err := who.SendMessage(t.Context(), "login "+connection)
	must(t, err)
	if said.Status != http.StatusOK {
		t.Fatalf("%s: the message was answered %d %s", name, said.Status, said.Body)
	}
	card, _ := s.emulator.LastCard(who.Conversation.ID)
	if act != nil {
		act(card)
	}
	must(t, s.engine.Drain(t.Context()))
	page, err := s.store.List(t.Context(), store.Filter{User: who.User.ID, Limit: 1})
	must(t, err)
	if len(page.Attempts) == 0 {
		t.Fatalf("%s: no attempt", name)
	}
	s.ids[name] = page.Attempts[0].ID
}

// play stages the situations that operators meet.
func (s *stage) play(t *testing.T) {
	t.Helper()
	exchange := func(who *emulator.Teams, token string) func(emulator.Card) {
		return func(card emulator.Card) {
			_, err := who.TokenExchange(t.Context(), card.ExchangeID(), "graph", token)
			must(t, err)
		}
	}
	for i, name := range []string{"Megan Bowen", "Alex Wilber", "Lynne Robbins", "Diego Siciliani", "Pradeep Gupta"} {
		who := s.user(name)
		s.at(t, time.Duration(50-7*i)*time.Minute, name, who, "graph", exchange(who, "sso-"+name))
	}
	popup := s.user("Joni Sherman")
	s.at(t, 12*time.Minute, "popup", popup, "github", func(card emulator.Card) {
		code, err := popup.SignInWithPage(t.Context(), card.SignInLink)
		must(t, err)
		_, err = popup.VerifyState(t.Context(), code, card.ActivityID)
		must(t, err)
	})
	consent := s.user("Adele Vance")
	s.emulator.SetSSO("graph", http.StatusBadRequest)
	s.at(t, 6*time.Minute, "consent", consent, "graph", exchange(consent, jwtV1(demoApp, consent.User.AADObjectID)))
	s.emulator.SetSSO("graph", http.StatusOK)
	waiting := s.user("Isaiah Langer")
	s.at(t, 4*time.Minute, "waiting", waiting, "graph", nil)
	closed := s.user("Nestor Wilke")
	s.at(t, 90*time.Second, "closed", closed, "github", func(card emulator.Card) {
		_, err := closed.VerifyState(t.Context(), emulator.CancelledByUser, card.ActivityID)
		must(t, err)
	})
	wrong := s.user("Grady Archie")
	s.at(t, 20*time.Minute, "resource", wrong, "graph", func(emulator.Card) {
		_, err := wrong.Failure(t.Context(), "resourcematchfailed", "Resource match failed")
		must(t, err)
	})
	down := s.user("Patti Fernandez")
	s.emulator.SetSSO("graph", http.StatusServiceUnavailable)
	s.at(t, 25*time.Minute, "down", down, "graph", exchange(down, "sso-down"))
	s.emulator.SetSSO("graph", http.StatusOK)
	refused := s.user("Debra Berger")
	s.emulator.AddFault(emulator.Fault{Operation: emulator.OpPostActivity, Times: 1, Status: http.StatusForbidden, Code: "BotNotInConversationRoster"})
	s.at(t, 33*time.Minute, "card", refused, "graph", nil)
	region := s.user("Johanna Lorenz")
	s.emulator.AddFault(emulator.Fault{Operation: emulator.OpGetSignInResource, Times: 1, Status: http.StatusNotFound, Body: "not found"})
	s.at(t, 31*time.Minute, "region", region, "graph", nil)
	devices := s.user("Lidia Holloway")
	s.at(t, 28*time.Minute, "devices", devices, "graph", func(card emulator.Card) {
		for _, platform := range []string{"Windows", "iOS"} {
			_, err := devices.On(platform).TokenExchange(t.Context(), card.ExchangeID(), "graph", "sso-"+platform)
			must(t, err)
		}
	})
	without := s.user("Ben Walters")
	s.emulator.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Times: 1, Status: http.StatusForbidden, Code: "Forbidden"})
	_, err := without.SendMessage(t.Context(), "login graph")
	must(t, err)
	s.ids["without"] = without.User.ID
	callback := s.user("Henrietta Mueller")
	s.failing.Store(true)
	s.at(t, 9*time.Minute, "callback", callback, "graph", exchange(callback, "sso-callback"))
	s.failing.Store(false)
	bad := s.user("Hostile")
	s.at(t, 2*time.Minute, "hostile", bad, "graph", func(emulator.Card) {
		_, err := bad.Failure(t.Context(), "<b>bold</b>", "<i>said</i>")
		must(t, err)
	})
	s.poison(t)
	s.killed(t)
	now := s.user("Miriam Graham")
	s.at(t, 5*time.Second, "now", now, "graph", nil)
}

// poison writes hostile texts into the store, which the adapter would not accept.
func (s *stage) poison(t *testing.T) {
	t.Helper()
	s.rewrite(t, "hostile", func(a *store.Attempt, now time.Time) []store.Event {
		a.Conversation.ID, a.Conversation.UserName, a.Conversation.Tenant = hostile(), hostile(), hostile()
		a.Platform, a.ResourceURI, a.CardActivityID, a.Activity = hostile(), hostile(), hostile(), hostile()
		a.Failure = &store.Failure{Source: store.SourceClient, Operation: hostile(), Code: hostile(), Message: hostile()}
		return []store.Event{{
			Attempt: a.ID, Time: now, Instance: hostile(), Kind: store.EventNote, Row: hostile(), Invoke: hostile(), Code: hostile(),
			Platform: hostile(), Detail: hostile(), Actor: hostile(),
		}}
	})
}

// rewrite changes a stored attempt behind the engine's back.
func (s *stage) rewrite(t *testing.T, name string, change func(*store.Attempt, time.Time) []store.Event) {
	t.Helper()
	snap, err := s.store.Get(t.Context(), s.ids[name])
	must(t, err)
	a := snap.Attempts[0]
	a.Version++
	events := change(&a, snap.Now)
	for _, err := range s.store.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Events: events}}) {
		must(t, err)
	}
}

// killed leaves an attempt in the state in which an instance leaves it that dies during
// a call.
func (s *stage) killed(t *testing.T) {
	t.Helper()
	who := s.user("Lee Gu")
	s.at(t, 3*time.Minute, "killed", who, "graph", nil)
	s.rewrite(t, "killed", func(a *store.Attempt, now time.Time) []store.Event {
		from, then := a.State, now.Add(-170*time.Second)
		a.State, a.Entered, a.Invokes, a.Rounds = store.Exchanging, then, a.Invokes+1, a.Rounds+1
		a.Lease = store.Lease{Owner: "bot-b", Fence: a.Lease.Fence + 1, Until: then.Add(30 * time.Second)}
		return []store.Event{
			{Attempt: a.ID, Time: then, Instance: "bot-b", Kind: store.EventReceived, Invoke: machine.InvokeTokenExchange, Platform: "Windows"},
			{Attempt: a.ID, Time: then, Instance: "bot-b", Kind: store.EventTransition, Row: "B1", Version: a.Version, From: from, To: a.State},
		}
	})
}

// jwtV1 returns an SSO token like those of an app that still issues v1 tokens.
func jwtV1(app, oid string) string {
	return fakeJWT(fmt.Sprintf(`{"aud":"api://botid-%s","ver":"1.0","tid":"00000000-0000-4000-8000-00000000007e","oid":"%s","appid":"1fec8e78-bce4-4aaf-ab1b-5451cc387264","exp":4102444800}`, app, oid))
}

// attempt reads a staged attempt from the store.
func (s *stage) attempt(t *testing.T, name string) store.Attempt {
	t.Helper()
	snap, err := s.store.Get(t.Context(), s.ids[name])
	must(t, err)
	return snap.Attempts[0]
}

// printable encodes s for an environment variable.
func printable(s string) string { return strings.ReplaceAll(s, "\x00", "") }
