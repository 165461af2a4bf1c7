package machine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// A user writes to the bot and is signed in silently: the card, the client's SSO
// token, the handler.
func Example() {
	d := newDemo(nil)
	defer d.Close()
	graph, _ := d.Engine.Flow("graph")
	graph.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		return turn.Send(ctx, "You are signed in.")
	})

	d.Says("hello")
	d.Exchanges()
	d.Reads()
	// Output:
	// bot: You are signed in.
}

// What an engine needs; everything else has a default.
func ExampleConfig() {
	_, err := machine.New(machine.Config{AppID: "00000000-0000-0000-0000-000000000000"})
	fmt.Println(err)
	// Output:
	// machine: Config.Store is missing
}

func ExampleConnection() {
	d := newDemo(func(cfg *machine.Config) {
		cfg.Connections = []machine.Connection{
			{Name: "graph", DisplayName: "Microsoft Graph", ButtonText: "Sign in to Graph"},
			{Name: "github", DisplayName: "GitHub", NoSSO: true}, // its users always press the button
		}
	})
	defer d.Close()
	d.Says("hello")
	fmt.Println(d.Card().ButtonTitle)
	// Output:
	// Sign in to Graph
}

// Handlers of the whole bot hear of every connection.
func ExampleEngine() {
	d := newDemo(nil)
	defer d.Close()
	d.Engine.OnSignIn(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		fmt.Println("signed in to", turn.Connection(), "by", turn.Method())
		return nil
	})
	d.Says("hello")
	d.Exchanges()
	// Output:
	// signed in to graph by tokenExchange
}

// A sign-in remembers what it is for, over restarts and on any instance.
func ExampleEngine_OnSignInFor() {
	d := newDemo(nil)
	defer d.Close()
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := turn.SignIn(ctx, machine.WithPurpose("report"))
		return nil, err
	}
	possible(d.Engine.OnSignInFor("report", func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		var asked struct{ Text string }
		if err := json.Unmarshal(turn.Request(), &asked); err != nil {
			return err
		}
		return turn.Send(ctx, "Here is the report on "+asked.Text+".")
	}))

	d.Says("sales")
	d.Exchanges()
	d.Reads()
	// Output:
	// bot: Here is the report on sales.
}

// Code that needs the user's token asks the flow for it, and never keeps it.
func ExampleFlow() {
	d := newDemo(nil)
	defer d.Close()
	graph, _ := d.Engine.Flow("graph")
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		if turn.Activity().Text == "bye" {
			return nil, graph.SignOut(ctx, turn)
		}
		result, err := graph.SignIn(ctx, turn)
		if err != nil || !result.SignedIn() {
			return nil, err
		}
		return nil, turn.Send(ctx, "I have your token: "+result.Token.Token.String())
	}
	d.Says("hello") // a card comes
	d.Exchanges()
	d.Says("hello again")
	d.Says("bye")
	d.Reads()
	// Output:
	// bot: I have your token: [redacted]
}

func ExampleTurn() {
	d := newDemo(nil)
	defer d.Close()
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		in, err := turn.SignedIn(ctx, "")
		if err != nil {
			return nil, err
		}
		return nil, turn.Send(ctx, fmt.Sprintf("You wrote %q in a %s chat; signed in: %t.", turn.Activity().Text, turn.Conversation().Type, in))
	}
	d.Says("status")
	d.Reads()
	// Output:
	// bot: You wrote "status" in a personal chat; signed in: false.
}

// A connection whose token is fetched ahead: each turn knows at its beginning who is
// signed in, without a call of its own.
func ExampleTurn_UserToken() {
	d := newDemo(func(cfg *machine.Config) { cfg.Prefetch = []string{"graph"} })
	defer d.Close()
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		token, ok := turn.UserToken("graph")
		if !ok {
			_, err := turn.SignIn(ctx)
			return nil, err
		}
		claims, _ := token.Claims()
		return nil, turn.Send(ctx, fmt.Sprintf("Hello %s, your token for %s is good now: %t", claims.Name, claims.Audience, time.Now().Before(claims.Expires)))
	}
	d.Says("hello")
	d.Exchanges()
	d.Says("hello again")
	d.Reads()
	// Output:
	// bot: Hello Robin, your token for https://graph.microsoft.com is good now: true
}

func ExampleSignInOption() {
	d := newDemo(nil)
	defer d.Close()
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := turn.SignIn(ctx, machine.WithCardText("To see your mail, sign in."), machine.WithButtonText("Go on"))
		return nil, err
	}
	d.Says("mail")
	fmt.Println(d.Card().Text, d.Card().ButtonTitle)
	// Output:
	// To see your mail, sign in. Go on
}

// A sign-in that is not finished says what it waits for.
func ExampleSignInResult() {
	d := newDemo(nil)
	defer d.Close()
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		result, err := turn.SignIn(ctx)
		fmt.Printf("signed in: %t, waits for: %q\n", result.SignedIn(), result.Pending)
		return nil, err
	}
	d.Says("hello")
	d.Exchanges()
	d.Says("hello again")
	// Output:
	// signed in: false, waits for: "card sent"
	// signed in: true, waits for: ""
}

func ExamplePending() {
	words := map[machine.Pending]string{
		machine.NotPending: "You are signed in.",
		machine.CardSent:   "", // the card says it
		machine.CardOut:    "Please use the Sign In button of the card above.",
		machine.UnderWay:   "You are being signed in on another device.",
	}
	fmt.Println(words[machine.CardOut])
	// Output:
	// Please use the Sign In button of the card above.
}

// A handler may be called again, after a crash or an error; its key stays the
// same.
func ExampleCompleteHandler() {
	d := newDemo(nil)
	defer d.Close()
	var welcome machine.CompleteHandler = func(ctx context.Context, turn *machine.Turn, token tokensvc.Token) error {
		if token.Token.Empty() {
			return nil // signed out since
		}
		return d.Engine.Once(ctx, turn.DeliveryKey()+"/welcome", func(context.Context) error {
			fmt.Println("welcome, once")
			return nil
		})
	}
	d.Engine.OnSignIn(welcome)
	d.Says("hello")
	d.Exchanges()
	// Output:
	// welcome, once
}

func ExampleFailureHandler() {
	d := newDemo(nil)
	defer d.Close()
	var explain machine.FailureHandler = func(_ context.Context, turn *machine.Turn, failure *machine.Failure) error {
		switch {
		case failure != nil: // the user's Teams client said so
			fmt.Println("client:", failure.Code)
		case turn.Refusal() != nil: // an upstream did
			fmt.Println("upstream:", turn.Refusal().Status)
		}
		return nil
	}
	d.Engine.OnSignInFailure(explain)
	d.Says("hello")
	_, err := d.User.Failure(context.Background(), "resourcematchfailed", "Resource match failed")
	possible(err)
	// Output:
	// client: resourcematchfailed
}

func ExampleFailure() {
	d := newDemo(nil)
	defer d.Close()
	d.Engine.OnSignInFailure(func(_ context.Context, _ *machine.Turn, failure *machine.Failure) error {
		fmt.Printf("%s: %s\n", failure.Code, failure.Message)
		return nil
	})
	d.Says("hello")
	_, err := d.User.Failure(context.Background(), "interactionrequired", "Multi-factor is needed")
	possible(err)
	// Output:
	// interactionrequired: Multi-factor is needed
}

// A refused exchange leaves the card's button working.
func ExampleRefusal() {
	d := newDemo(nil)
	defer d.Close()
	d.Engine.OnSignInFailure(func(_ context.Context, turn *machine.Turn, _ *machine.Failure) error {
		r := turn.Refusal()
		fmt.Println(r.Operation, r.Status, r.Kind, "ended:", r.Ended)
		return nil
	})
	d.Services.AddFault(emulator.Fault{Operation: emulator.OpExchange, Status: http.StatusPreconditionFailed, Code: "consent_required"})
	d.Says("hello")
	d.Exchanges()
	// Output:
	// Exchange 412 consent_required ended: false
}

func ExamplePolicy() {
	p := machine.DefaultPolicy()
	p.GroupCard = machine.Everyone // in a group all see the card
	p.MaxCodeTries = 5
	fmt.Println(p.Validate())
	// Output:
	// <nil>
}

// A choice that a policy does not have is refused, with those that it has.
func ExampleChoice() {
	p := machine.DefaultPolicy()
	p.PopupClosed = machine.Adopt
	fmt.Println(p.Validate())
	// Output:
	// policy.popup_closed: "adopt" is neither "keep" nor "fail"
}

func ExampleTimeouts() {
	t := machine.DefaultTimeouts()
	t.Upstream = t.Lease
	fmt.Println(t.Validate())
	// Output:
	// timeouts.upstream: 30s is not shorter than timeouts.lease (30s)
}

// Hooks see what happens, for metrics and traces.
func ExampleHooks() {
	d := newDemo(func(cfg *machine.Config) {
		cfg.Hooks.OnEvent = func(_ context.Context, e store.Event) {
			if e.Kind == store.EventTransition {
				fmt.Printf("%s: %s\n", e.Row, e.To)
			}
		}
	})
	defer d.Close()
	d.Says("hello")
	d.Exchanges()
	// Output:
	// A3: Idle
	// A6: CardSent
	// B1: Exchanging
	// B2: Complete
}

// An invoke is answered with a status and, where there is something to say, a
// body. A bot's own code answers in the same way.
func ExampleAnswer() {
	answer := machine.Answer{Status: http.StatusOK, Body: map[string]string{"hello": "world"}}
	body, err := json.Marshal(answer.Body)
	fmt.Println(answer.Status, string(body), err)
	// Output:
	// 200 {"hello":"world"} <nil>
}

// A transport of your own fills in an activity and hands it to the engine.
func ExampleActivity() {
	d := newDemo(nil)
	defer d.Close()
	answer, mine := d.Engine.HandleInvoke(context.Background(), &machine.Activity{
		Type: "invoke", Name: machine.InvokeVerifyState, ID: "1776827524158", Value: json.RawMessage(`{}`),
		Conversation: store.Conversation{Channel: "msteams", ID: "a:1xH4", UserID: "29:1cgs", Tenant: "3f3d"},
	})
	fmt.Println(mine, answer.Status) // it brings no code
	// Output:
	// true 404
}

// printer is a messenger that only prints.
type printer struct{ machine.Messenger }

func (p printer) Send(ctx context.Context, to store.Conversation, m machine.Message) (string, error) {
	if m.Card != nil {
		fmt.Println("a card for", m.Card.Connection)
	}
	return p.Messenger.Send(ctx, to, m)
}

// What goes out to users can be seen, or changed, on its way.
func ExampleMessenger() {
	d := newDemo(func(cfg *machine.Config) { cfg.Messenger = printer{cfg.Messenger} })
	defer d.Close()
	d.Says("hello")
	// Output:
	// a card for graph
}

// Everything that is neither a text nor a card is an activity of its own.
func ExampleMessage() {
	m := machine.Message{Raw: json.RawMessage(`{"type":"message","text":"**Done**","textFormat":"markdown"}`)}
	fmt.Println(json.Valid(m.Raw), m.ReplyTo == "")
	// Output:
	// true true
}

func ExampleOAuthCard() {
	m := machine.Message{Card: &machine.OAuthCard{
		Text: "Please Sign In", Connection: "graph", Button: "Sign In",
		Resource: tokensvc.SignInResource{SignInLink: tokensvc.NewSecret("https://token.botframework.com/…")},
	}}
	fmt.Println(m.Card.Connection, m.Card.Resource.SignInLink)
	// Output:
	// graph [redacted]
}

// counted is a Token Service that counts exchanges.
type counted struct {
	machine.TokenService
	exchanges *int
}

func (c counted) Exchange(ctx context.Context, uc tokensvc.UserConnection, sso tokensvc.Secret) (tokensvc.Token, error) {
	*c.exchanges++
	return c.TokenService.Exchange(ctx, uc, sso)
}

// However many devices answer a card, there is one exchange.
func ExampleTokenService() {
	exchanges := 0
	d := newDemo(func(cfg *machine.Config) { cfg.Tokens = counted{cfg.Tokens, &exchanges} })
	defer d.Close()
	d.Says("hello")
	for range 3 {
		d.Exchanges()
	}
	fmt.Println(exchanges)
	// Output:
	// 1
}

// Callbacks run in a transaction of the store where it is a Transactor: Postgres is.
func ExampleTransactor() {
	d := newDemo(func(cfg *machine.Config) {
		_, can := cfg.Store.(machine.Transactor)
		cfg.TxCallbacks = can
		fmt.Println("in memory:", can)
	})
	defer d.Close()
	// Output:
	// in memory: false
}

// behalf stands in for tokensvc.ClientCredentials, which asks Entra.
type behalf struct{}

func (behalf) OnBehalfOf(_ context.Context, _ tokensvc.Secret, scopes []string) (tokensvc.Token, error) {
	return tokensvc.Token{Token: tokensvc.NewSecret("for " + strings.Join(scopes, " "))}, nil
}

func ExampleOnBehalfOf() {
	d := newDemo(func(cfg *machine.Config) { cfg.OnBehalfOf = behalf{} })
	defer d.Close()
	d.Engine.OnSignIn(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		token, err := turn.Token(ctx, turn.Connection(), machine.WithScopes("Mail.Read"))
		fmt.Println(token.Token.Reveal(), err)
		return nil
	})
	d.Says("hello")
	d.Exchanges()
	// Output:
	// for Mail.Read <nil>
}

// Without Config.OnBehalfOf there is nobody to exchange a token.
func ExampleTokenOption() {
	d := newDemo(nil)
	defer d.Close()
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := turn.Token(ctx, "graph")
		fmt.Println(errors.Is(err, tokensvc.ErrNoToken))
		_, err = turn.Token(ctx, "graph", machine.WithScopes("Mail.Read"))
		fmt.Println(err != nil)
		return nil, nil //nolint:nilnil // nothing to answer
	}
	d.Says("mail")
	// Output:
	// true
	// true
}

// A message extension asks who its user is; [transport/composeext] does so for you.
func ExampleAsk() {
	d := newDemo(nil)
	defer d.Close()
	access := asks(d, machine.Ask{Connection: "graph", Via: store.OriginCompose})
	fmt.Println(access.Token.Token.Empty(), access.Pending)
	// Output:
	// true card sent
}

// asks makes a query of the demo's user.
func asks(d *demo, ask machine.Ask) machine.Access {
	turn := d.Engine.Turn(&machine.Activity{
		Type: "invoke", Name: "composeExtension/query", ID: "1776827524158",
		Conversation: store.Conversation{
			ServiceURL: d.Services.ServiceURL(), Channel: "msteams", Type: "personal", ID: d.User.Conversation.ID, UserID: d.User.User.ID,
		},
	})
	access, err := d.Engine.Authorize(context.Background(), turn, ask)
	possible(err)
	return access
}

// Without a token, Resource has the address that the user is sent to.
func ExampleAccess() {
	d := newDemo(nil)
	defer d.Close()
	access := asks(d, machine.Ask{Connection: "graph", Via: store.OriginCompose})
	fmt.Println(access.Attempt != "", access.Resource.SignInLink.Empty(), access.Refused)
	// Output:
	// true false 0
}

// vault hands out codes of its own.
type vault struct{ machine.TokenService }

func (vault) Redeem(_ context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, []store.Mark, error) {
	if code.Reveal() != "open sesame" {
		return tokensvc.Token{}, nil, tokensvc.ErrNoToken
	}
	return tokensvc.Token{Connection: uc.Connection, Token: tokensvc.NewSecret("treasure")}, nil, nil
}

// A connection whose users the bot signs in itself; [transport/composeext/popup]
// is one.
func ExampleRedeemer() {
	var own machine.Redeemer = vault{}
	_, _, err := own.Redeem(context.Background(), tokensvc.UserConnection{}, tokensvc.NewSecret("please"))
	fmt.Println(err)
	// Output:
	// no token
}

// Wait tells how a sign-in ended, on any instance.
func ExampleSignInError() {
	d := newDemo(nil)
	defer d.Close()
	var attempt string
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		result, err := turn.SignIn(ctx)
		attempt = result.Attempt
		return nil, err
	}
	d.Says("hello")
	_, err := d.User.Failure(context.Background(), "resourcematchfailed", "Resource match failed")
	possible(err)

	graph, _ := d.Engine.Flow("graph")
	_, err = graph.Wait(context.Background(), attempt)
	var ended *machine.SignInError
	fmt.Println(errors.As(err, &ended), ended.Reason, ended.Failure.Code)
	// Output:
	// true client_failure resourcematchfailed
}

// The body of a refused exchange, as Teams reads it.
func ExampleExchangeResponse() {
	body, err := json.Marshal(machine.ExchangeResponse{ID: "fc67", ConnectionName: "graph", FailureDetail: "consent is missing"})
	fmt.Println(string(body), err)
	// Output:
	// {"id":"fc67","connectionName":"graph","failureDetail":"consent is missing"} <nil>
}

// Who ends an attempt, and why, is kept in its audit trail.
func ExampleOperator() {
	d := newDemo(nil)
	defer d.Close()
	var attempt string
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		result, err := turn.SignIn(ctx)
		attempt = result.Attempt
		return nil, err
	}
	d.Says("hello")
	a, err := d.Engine.Cancel(context.Background(), attempt, machine.Operator{Actor: "ada", Reason: "asked by phone"})
	fmt.Println(a.State, a.Reason, err)
	// Output:
	// Failed operator <nil>
}

func ExampleRotation() {
	d := newDemo(nil)
	defer d.Close()
	r, err := d.Engine.RotateKey(context.Background(), machine.Operator{Actor: "ada", Reason: "yearly"})
	fmt.Println("keys that are still read:", r.Older, err)
	// Output:
	// keys that are still read: 1 <nil>
}
