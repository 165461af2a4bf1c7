package teams_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// The middleware checks the connector's tokens in front of any handler.
func ExampleAuthenticator_Middleware() {
	cloud, _ := tokensvc.CloudNamed(tokensvc.CloudGCCHigh)
	auth, err := teams.NewAuthenticator(teams.AuthConfig{
		AppID: "00000000-0000-0000-0000-000000000000", Cloud: cloud, Log: zerolog.Nop(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	messages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _ := teams.CallerOf(r.Context())
		_, _ = fmt.Fprintln(w, "an activity of", caller.Channel) // the body is still unread
	})
	mux := http.NewServeMux()
	mux.Handle("POST /api/messages", auth.Middleware(messages))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if auth.Ready(r.Context()) != nil { // no signing keys yet
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
}

func ExampleNewAllowList() {
	list, err := teams.NewAllowList([]string{"*.bots.example.net", "connector:3979"}, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, serviceURL := range []string{
		"https://smba.trafficmanager.net/amer/",
		"http://smba.trafficmanager.net/amer/",
		"http://connector:3979/",
		"https://evil.example/",
	} {
		fmt.Println(list.Check(serviceURL))
	}
	_, err = teams.NewAllowList([]string{"*"}, false)
	fmt.Println(err)
	// Output:
	// <nil>
	// teams: service URL is not allowed: host "smba.trafficmanager.net" needs https
	// <nil>
	// teams: service URL is not allowed: host "evil.example" is not listed
	// teams: service host "*": * must be the leftmost label of a longer name
}

// bot is code behind the engine that only answers messages.
type bot struct{}

func (bot) OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	if turn.Activity().Type != "message" {
		return nil, nil //nolint:nilnil // the handler answers an unknown invoke with 501
	}
	return nil, turn.Send(ctx, "hello")
}

func ExampleBot() {
	var code teams.Bot = bot{}
	answer, err := code.OnActivity(context.Background(), engine().Turn(&machine.Activity{Type: "invoke"}))
	fmt.Println(answer == nil, err)
	// Output:
	// true <nil>
}

// A function can be a bot.
func ExampleBotFunc() {
	code := teams.BotFunc(func(_ context.Context, turn *machine.Turn) (*machine.Answer, error) {
		return &machine.Answer{Status: http.StatusOK, Body: turn.Activity().Type}, nil
	})
	answer, err := code.OnActivity(context.Background(), engine().Turn(&machine.Activity{Type: "invoke"}))
	fmt.Println(answer.Status, answer.Body, err)
	// Output:
	// 200 invoke <nil>
}

// deaf is an engine that answers no invokes.
type deaf struct{ teams.Engine }

func (deaf) HandleInvoke(context.Context, *machine.Activity) (machine.Answer, bool) {
	return machine.Answer{}, false
}

// An engine can be wrapped. This one leaves all invokes to the bot.
func ExampleEngine() {
	handler, err := teams.NewHandler(deaf{engine()}, teams.Config{InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:3978", Log: zerolog.Nop()},
		teams.BotFunc(func(_ context.Context, turn *machine.Turn) (*machine.Answer, error) {
			return &machine.Answer{Status: http.StatusOK, Body: turn.Activity().Name}, nil
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/api/messages", strings.NewReader(`{
		"type":"invoke","id":"1","name":"my/invoke","channelId":"msteams","serviceUrl":"https://smba.trafficmanager.net/amer/",
		"from":{"id":"29:1cgs"},"recipient":{"id":"28:bot"},"conversation":{"id":"a:1xH4"}}`)))
	fmt.Println(answer.Code, answer.Body)
	// Output:
	// 200 "my/invoke"
}

// A handler without authentication has to be configured expressly, and works on
// loopback only.
func ExampleConfig() {
	_, err := teams.NewHandler(deaf{engine()}, teams.Config{InboundAuth: teams.InboundAuthNone, Listener: "0.0.0.0:3978"}, bot{})
	fmt.Println(err)
	// Output:
	// teams: inbound_auth: none works on a loopback listener only, and "0.0.0.0:3978" is not one
}

// Limits of a handler and of the server that it runs in.
func ExampleLimits() {
	limits := teams.DefaultLimits()
	limits.SignInsPerMinute = 10
	server := limits.Server("127.0.0.1:3978", http.NotFoundHandler())
	fmt.Println(limits.Validate(), server.Addr)
	// Output:
	// <nil> 127.0.0.1:3978
}

// Several bots in one process can share a count of refused requests.
func ExampleRefusals() {
	refusals := teams.NewRefusals(zerolog.Nop())
	refusals.Note(teams.WhyTokenMissing, http.StatusUnauthorized)
	refusals.Note(teams.WhyTokenMissing, http.StatusUnauthorized)
	fmt.Println(refusals.Count(teams.WhyTokenMissing))
	// Output:
	// 2
}

func ExampleRefusalSnapshot() {
	refusals := teams.NewRefusals(zerolog.Nop())
	refusals.Note(teams.WhyTokenMissing, http.StatusUnauthorized)
	snapshot := refusals.Snapshot()
	fmt.Println(len(snapshot.Reasons), len(snapshot.Hosts))
	// Output:
	// 1 0
}

func ExampleRefused() {
	refusals := teams.NewRefusals(zerolog.Nop())
	refusals.Note(teams.WhyTokenMissing, http.StatusUnauthorized)
	for _, r := range refusals.Snapshot().Reasons {
		fmt.Println(r.What, r.Count, r.First.Equal(r.Last))
	}
	// Output:
	// token_missing 1 true
}

// All reasons are known from the start, so that a dashboard can name them.
func ExampleWhy() {
	fmt.Println(slices.Contains(teams.Whys(), teams.WhyTokenMissing))
	// Output:
	// true
}

func ExampleServiceURLError() {
	list, err := teams.NewAllowList(nil, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	var wrong *teams.ServiceURLError
	err = list.Check("https://evil.example/")
	fmt.Println(errors.As(err, &wrong), errors.Is(err, teams.ErrServiceURL), wrong.Host)
	// Output:
	// true true evil.example
}

// An allow-list for the connector's tokens, with another host besides
// Microsoft's.
func ExampleAuthConfig() {
	list, err := teams.NewAllowList([]string{"*.bots.example.net"}, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	auth, err := teams.NewAuthenticator(teams.AuthConfig{
		AppID: "00000000-0000-0000-0000-000000000000", ServiceURLs: list, Log: zerolog.Nop(),
	})
	fmt.Println(auth != nil, err)
	// Output:
	// true <nil>
}

// Agents of one tenant and one app are accepted besides the connector.
func ExampleAgentic() {
	_, err := teams.NewAuthenticator(teams.AuthConfig{
		AppID: "00000000-0000-0000-0000-000000000000", Log: zerolog.Nop(),
		Agentic: &teams.Agentic{
			Tenant:  "3f3d0000-0000-4000-8000-00000000007e",
			Callers: []string{"5c9e0000-0000-4000-8000-0000000000a1"},
		},
	})
	fmt.Println(err)
	// Output:
	// <nil>
}

// Once a request's token was checked, its context tells who sent it.
func ExampleCaller() {
	_, checked := teams.CallerOf(context.Background())
	fmt.Println(checked)
	// Output:
	// false
}

// connector returns a messenger, and the address of a connector that refuses
// everything.
func connector() (messenger *teams.Connector, to store.Conversation, end func()) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"error":{"code":"BotNotInConversationRoster"}}`)
	}))
	list, err := teams.NewAllowList([]string{strings.TrimPrefix(web.URL, "http://")}, false)
	if err != nil {
		panic(err)
	}
	messenger, err = teams.NewConnector(teams.ConnectorConfig{Tokens: tokensvc.Static(tokensvc.NewSecret("bot")), ServiceURLs: list})
	if err != nil {
		panic(err)
	}
	return messenger, store.Conversation{ServiceURL: web.URL, Channel: "msteams", ID: "a:1xH4"}, func() { messenger.CloseIdleConnections(); web.Close() }
}

// The bot's own token goes to allowed hosts only.
func ExampleConnector() {
	messenger, to, end := connector()
	defer end()
	to.ServiceURL = "https://evil.example/"
	_, err := messenger.Send(context.Background(), to, machine.Message{Text: "hello"})
	fmt.Println(errors.Is(err, teams.ErrServiceURL))
	// Output:
	// true
}

func ExampleConnectorConfig() {
	_, err := teams.NewConnector(teams.ConnectorConfig{
		Tokens:  tokensvc.Static(tokensvc.NewSecret("the bot's own token")), // or tokensvc.NewClientCredentials
		Timeout: 5 * time.Second,
	})
	fmt.Println(err)
	// Output:
	// <nil>
}

func ExampleConnectorError() {
	messenger, to, end := connector()
	defer end()
	_, err := messenger.Send(context.Background(), to, machine.Message{Text: "hello"})
	var refused *teams.ConnectorError
	fmt.Println(errors.As(err, &refused), refused.Op, refused.Status, refused.Code)
	// Output:
	// true Send 403 BotNotInConversationRoster
}

// engine has the connection "graph". No user has a token.
func engine() *machine.Engine {
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: tokensvc.PublicCloud().TokenServiceURL, Credentials: tokensvc.Static(tokensvc.NewSecret("bot"))})
	if err != nil {
		panic(err)
	}
	messenger, err := teams.NewConnector(teams.ConnectorConfig{Tokens: tokensvc.Static(tokensvc.NewSecret("bot"))})
	if err != nil {
		panic(err)
	}
	eng, err := machine.New(machine.Config{
		AppID: "00000000-0000-0000-0000-000000000000", Store: memstore.New(time.Now), Tokens: tokens, Messenger: messenger,
		Connections: []machine.Connection{{Name: "graph"}}, Log: zerolog.Nop(),
	})
	if err != nil {
		panic(err)
	}
	return eng
}

// Behind a guard the bot's code runs only for users who are signed in, and finds
// the token in its context.
func ExampleGuard() {
	code := teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		token, _ := teams.TokenOf(ctx, "graph")
		return nil, turn.Send(ctx, "Your token is "+token.Token.String())
	})
	guard, err := teams.RequireSignIn(engine(), code, []string{"graph"})
	fmt.Println(guard != nil, err) // give it to NewHandler in place of code
	// Output:
	// true <nil>
}

// Only some messages require a sign-in.
func ExampleGuardOption() {
	guard, err := teams.RequireSignIn(engine(), bot{}, []string{"graph"}, teams.GuardWhen(func(a *machine.Activity) bool {
		return strings.HasPrefix(a.Text, "my ")
	}))
	fmt.Println(guard != nil, err)
	// Output:
	// true <nil>
}
