package composeext

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// ErrTokenRefused is the error that a handler returns if the provider no longer
// accepts the user's token. The extension then signs the user out, and asks the user
// to sign in again.
var ErrTokenRefused = errors.New("the user's token is refused")

// Engine has the method of *machine.Engine that an extension calls.
type Engine interface {
	Authorize(ctx context.Context, turn *machine.Turn, ask machine.Ask) (machine.Access, error)
}

// Config configures an [Extension]. Engine is required, and Popup or TokenService or
// both.
type Config struct {
	Engine Engine
	// Popup is a connection whose users the bot signs in by itself.
	Popup *popup.Popup
	// TokenService is the name of a connection of the Token Service. Users sign in
	// with its link, six-digit codes or an SSO token (M4, M5). If Popup is set too,
	// sign-ins begin with TokenService, and Popup only accepts its own codes.
	TokenService string
	// Next gets every activity without a handler here. If it is nil, such an invoke
	// is answered as an unknown one.
	Next  teams.Bot
	Words Words
	Log   zerolog.Logger

	// The handlers. An invoke whose handler is nil goes to Next. A handler runs only
	// for a user who is signed in. Its error fails the invoke, except
	// [ErrTokenRefused].

	OnQuery        func(ctx context.Context, r *Request, q Query) (Response, error)
	OnQueryLink    func(ctx context.Context, r *Request, link string) (Response, error)
	OnFetchTask    func(ctx context.Context, r *Request, a Action) (Response, error)
	OnSubmitAction func(ctx context.Context, r *Request, a Action) (Response, error)
	OnSelectItem   func(ctx context.Context, r *Request, item Item) (Response, error)
	OnCardAction   func(ctx context.Context, r *Request, a CardAction) (Response, error)
}

// Words are the texts that users read. An empty one has the default.
type Words struct {
	SignIn      string // title of the sign-in action; default "Sign In"
	CardText    string // text of a sign-in in a card; default "Please Sign In"
	UnderWay    string // the user is signing in on another device; default "You are signing in on another device. Try again in a moment."
	Unavailable string // the Token Service or the provider does not answer; default "Sign-in is not available right now."
	Cancelled   string // the user closed the popup of a card; default "You are not signed in."
}

func (w Words) orDefault() Words {
	for _, d := range []struct {
		word *string
		text string
	}{
		{&w.SignIn, "Sign In"},
		{&w.CardText, "Please Sign In"},
		{&w.UnderWay, "You are signing in on another device. Try again in a moment."},
		{&w.Unavailable, "Sign-in is not available right now."},
		{&w.Cancelled, "You are not signed in."},
	} {
		if *d.word == "" {
			*d.word = d.text
		}
	}
	return w
}

// Extension answers the invokes of a message extension and of Adaptive Cards. It is
// a teams.Bot. It may be used from many goroutines.
type Extension struct {
	cfg   Config
	own   string // name of the popup's connection; "" = no popup
	words Words
}

var _ teams.Bot = (*Extension)(nil)

// New returns an extension. It returns an error if a required member of cfg is missing,
// or if both connections have the same name.
func New(cfg Config) (*Extension, error) {
	x := &Extension{cfg: cfg, words: cfg.Words.orDefault()}
	if cfg.Popup != nil {
		x.own = cfg.Popup.Connection()
	}
	switch {
	case cfg.Engine == nil:
		return nil, errors.New("composeext: Config.Engine is missing")
	case x.own == "" && cfg.TokenService == "":
		return nil, errors.New("composeext: neither Config.Popup nor Config.TokenService says how users sign in")
	case strings.EqualFold(x.own, cfg.TokenService):
		return nil, fmt.Errorf("composeext: %q is the popup's connection and the Token Service's", x.own)
	}
	return x, nil
}

// Request is an invoke of a user who is signed in.
type Request struct {
	Turn       *machine.Turn
	Connection string         // connection that the token belongs to
	Token      tokensvc.Token // the user's token
}

// OnActivity answers the invokes that have a handler, and passes every other activity
// to Next.
func (x *Extension) OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	if inv := x.invoke(turn.Activity()); inv != nil {
		return x.answer(ctx, turn, inv)
	}
	if x.cfg.Next == nil {
		return nil, nil
	}
	return x.cfg.Next.OnActivity(ctx, turn)
}

// answer signs the user in and runs the handler.
func (x *Extension) answer(ctx context.Context, turn *machine.Turn, inv *invoke) (*machine.Answer, error) {
	ctx = popup.WithCaller(ctx, turn.Conversation().UserAAD)
	ask := machine.Ask{
		Connection: x.connection(inv), Via: inv.via,
		State: inv.state, ExchangeID: inv.exchangeID, Token: inv.token,
	}
	if strings.EqualFold(ask.Connection, x.own) {
		ask.Token = tokensvc.Secret{} // an SSO token is for the Token Service only
	}
	for try := 0; ; try++ {
		got, err := x.cfg.Engine.Authorize(ctx, turn, ask)
		if err != nil {
			return x.notAuthorized(turn, inv, err)
		}
		if got.Token.Token.Empty() {
			return x.signIn(turn, inv, &ask, got)
		}
		out, err := inv.run(ctx, &Request{Turn: turn, Connection: ask.Connection, Token: got.Token})
		if err == nil {
			return ok(out), nil
		}
		if !errors.Is(err, ErrTokenRefused) || try > 0 {
			return nil, fmt.Errorf("%s: %w", turn.Activity().Name, err)
		}
		if err := turn.SignOut(ctx, ask.Connection); err != nil {
			return nil, fmt.Errorf("%s: %w", turn.Activity().Name, err)
		}
		ask.State, ask.Token, ask.ExchangeID = tokensvc.Secret{}, tokensvc.Secret{}, ""
	}
}

// connection returns the connection that an invoke is for (M3, M4, M5). With both a
// popup and a Token Service connection, the form of the code tells whose it is.
func (x *Extension) connection(inv *invoke) string {
	switch service := x.cfg.TokenService; {
	case service == "":
		return x.own
	case x.own == "", inv.state.Empty(), inv.cancelled(), sixDigits(inv.state.Reveal()):
		return service
	default:
		return x.own
	}
}

func sixDigits(code string) bool {
	if len(code) != codeDigits {
		return false
	}
	for i := range len(code) {
		if code[i] < '0' || code[i] > '9' {
			return false
		}
	}
	return true
}

// notAuthorized answers an invoke after an error of Authorize. It returns the error
// while the store is unavailable (S), so that Teams repeats the invoke. Other errors
// get a sentence for the user.
func (x *Extension) notAuthorized(turn *machine.Turn, inv *invoke, err error) (*machine.Answer, error) {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, machine.ErrUnknownConnection) {
		return nil, err
	}
	x.cfg.Log.Error().Err(err).Str("invoke", turn.Activity().Name).Str("activity", turn.Activity().ID).Msg("sign-in is not available")
	return ok(inv.sentence(http.StatusServiceUnavailable, x.words.Unavailable)), nil
}

// signIn returns the answer for a user who is not signed in.
func (x *Extension) signIn(turn *machine.Turn, inv *invoke, ask *machine.Ask, got machine.Access) (*machine.Answer, error) {
	switch {
	case got.Cancelled:
		return ok(inv.empty(x.words.Cancelled)), nil
	case got.Refused != 0 && !ask.Token.Empty():
		return inv.tokenRefused(ask, got.Refused), nil
	case got.Refused != 0 && inv.via == store.OriginCardAction:
		return ok(cardError(http.StatusUnauthorized, typeInvalidCode, "")), nil
	case got.Pending == machine.UnderWay:
		return ok(inv.sentence(http.StatusConflict, x.words.UnderWay)), nil
	}
	if strings.EqualFold(ask.Connection, x.own) {
		// The link in got names no attempt, because the engine asks for a link before
		// it creates one.
		link, err := x.cfg.Popup.Link(turn, got.Attempt)
		if err != nil {
			return nil, err
		}
		got.Resource = tokensvc.SignInResource{SignInLink: tokensvc.NewSecret(link)}
	}
	if inv.via == store.OriginCardAction {
		return ok(loginRequest(x.words, ask.Connection, got.Resource)), nil
	}
	return ok(authAction(x.words, got.Resource)), nil
}

func ok(body any) *machine.Answer { return &machine.Answer{Status: http.StatusOK, Body: body} }
