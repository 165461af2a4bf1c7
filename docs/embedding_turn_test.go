package docs_test

// The code of docs/embedding.md about turns of users who are signed in.

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

// greeter greets whoever is signed in, by the token that the turn has.
func greeter() teams.Bot {
	return teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		token, ok := turn.UserToken("graph")
		if !ok {
			_, err := turn.SignIn(ctx, machine.WithConnection("graph"))
			return nil, err
		}
		claims, _ := token.Claims() // false: it is no JSON Web Token
		return nil, turn.Send(ctx, "Hello "+claims.Name)
	})
}

// TestTurnKnowsItsUser: what is fetched ahead is in the turn.
func TestTurnKnowsItsUser(t *testing.T) {
	user, emu := newOffice(t, []string{"graph"}, func(*machine.Engine) (teams.Bot, error) { return greeter(), nil })
	writes(t, user, "hello")
	card, err := emu.WaitForCard(t.Context(), user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	exchanges(t, user, &card)
	writes(t, user, "hello again")
	if _, err := emu.WaitForText(t.Context(), user.Conversation.ID, "Hello "+emulator.DefaultUser().Name); err != nil {
		t.Error(err)
	}
}

func guarded(eng *machine.Engine, report func(ctx context.Context, turn *machine.Turn, graph, github tokensvc.Token) error) (teams.Bot, error) {
	return teams.RequireSignIn(eng, teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		graph, _ := teams.TokenOf(ctx, "graph")
		github, _ := teams.TokenOf(ctx, "github")
		return nil, report(ctx, turn, graph, github)
	}), []string{"graph", "github"})
}

// TestGuardOfThePage: one message, two sign-ins, one report.
func TestGuardOfThePage(t *testing.T) {
	user, emu := newOffice(t, nil, func(eng *machine.Engine) (teams.Bot, error) {
		return guarded(eng, func(ctx context.Context, turn *machine.Turn, graph, github tokensvc.Token) error {
			if graph.Token.Empty() || github.Token.Empty() {
				t.Error("a token is missing")
			}
			return turn.Send(ctx, "Report of "+turn.Activity().Text)
		})
	})
	writes(t, user, "june")
	graph, err := emu.WaitForCard(t.Context(), user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	exchanges(t, user, &graph)
	github, err := emu.WaitForCard(t.Context(), user.Conversation.ID, graph.Seq)
	if err != nil {
		t.Fatal(err)
	}
	code, err := user.SignInWithPage(t.Context(), github.SignInLink)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := user.VerifyState(t.Context(), code, github.ActivityID); err != nil || a.Status != http.StatusOK {
		t.Fatalf("verifyState: %+v, %v", a, err)
	}
	if _, err := emu.WaitForText(t.Context(), user.Conversation.ID, "Report of june"); err != nil {
		t.Error(err)
	}
}

// newOffice is a user who writes to a bot with two connections, some of whose tokens are
// fetched ahead.
func newOffice(t *testing.T, ahead []string, write func(*machine.Engine) (teams.Bot, error)) (*emulator.Teams, *emulator.Server) {
	t.Helper()
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{
		{Name: "graph", SSO: true, Audience: "https://graph.microsoft.com"}, {Name: "github"},
	}})
	azure := httptest.NewServer(emu)
	t.Cleanup(azure.Close)
	emu.SetBaseURL(azure.URL)
	bot, err := teamsbot.New(teamsbot.Config{
		Engine: machine.Config{
			AppID: "00000000-0000-4000-8000-0000000000b0", Store: memstore.New(time.Now), Prefetch: ahead,
			Connections: []machine.Connection{{Name: "graph"}, {Name: "github"}},
		},
		ClientSecret: tokensvc.NewSecret("secret"), TokenServiceURL: azure.URL, LoginURL: azure.URL,
		ServiceURLs: []string{strings.TrimPrefix(azure.URL, "http://")}, InboundAuth: teams.InboundAuthNone,
	})
	if err != nil {
		t.Fatal(err)
	}
	code, err := write(bot.Engine())
	if err != nil {
		t.Fatal(err)
	}
	h, err := bot.Handler(code)
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
	go func() { ended <- bot.Serve(ctx, l, h) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return emu.Teams("http://" + l.Addr().String() + "/api/messages"), emu
}

func writes(t *testing.T, user *emulator.Teams, text string) {
	t.Helper()
	if a, err := user.SendMessage(t.Context(), text); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%s: %+v, %v", text, a, err)
	}
}

func exchanges(t *testing.T, user *emulator.Teams, card *emulator.Card) {
	t.Helper()
	if a, err := user.TokenExchange(t.Context(), card.ExchangeID(), card.Connection, "sso"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("tokenExchange: %+v, %v", a, err)
	}
}
