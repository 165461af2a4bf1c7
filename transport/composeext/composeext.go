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

// ErrTokenRefused is what a handler returns when the provider no longer takes the
// user's token: the user is signed out, and asked to sign in again.
var ErrTokenRefused = errors.New("the user's token is refused")

// Engine is what an extension asks of the machine; *machine.Engine is one.
type Engine interface {
	Authorize(ctx context.Context, turn *machine.Turn, ask machine.Ask) (machine.Access, error)
}

// Config of an [Extension]. Engine is required, and Popup or TokenService. An
// invoke whose handler is nil goes to Next.
type Config struct {
	Engine Engine
	// Popup is the connection that the bot signs its users in to by itself.
	Popup *popup.Popup
	// TokenService is a connection of the Token Service, used in place of Popup: its
	// sign-in link, six-digit codes, and the client's SSO token (M4, M5).
	TokenService string
	// Next gets every other activity; nil = such invokes are not known.
	Next  teams.Bot
	Words Words
	Log   zerolog.Logger

	OnQuery        func(ctx context.Context, r *Request, q Query) (Response, error)
	OnQueryLink    func(ctx context.Context, r *Request, link string) (Response, error)
	OnFetchTask    func(ctx context.Context, r *Request, a Action) (Response, error)
	OnSubmitAction func(ctx context.Context, r *Request, a Action) (Response, error)
	OnSelectItem   func(ctx context.Context, r *Request, item Item) (Response, error)
	OnCardAction   func(ctx context.Context, r *Request, a CardAction) (Response, error)
}

// Words are what users read. Empty members have a default.
type Words struct {
	SignIn      string // title of the action; "Sign In"
	CardText    string // of a card's sign-in; "Please Sign In"
	UnderWay    string // another device is at it
	Unavailable string // the Token Service or the provider does not answer
	Cancelled   string // the popup was closed, in a card
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

// Extension answers invokes. It is a teams.Bot, and may be used from many
// goroutines.
type Extension struct {
	cfg   Config
	own   string // name of the popup's connection; "" = none
	words Words
}

var _ teams.Bot = (*Extension)(nil)

// New checks cfg.
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

// Request is who asks, signed in.
type Request struct {
	Turn       *machine.Turn
	Connection string
	Token      tokensvc.Token
}

// OnActivity answers what there is a handler for, and hands the rest to Next.
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
		ask.Token = tokensvc.Secret{} // it is for the Token Service
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

// connection says which one an invoke is about (M3, M4, M5).
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

// notAuthorized: while the store is down Teams is to ask again (S). For the rest
// there is a sentence.
func (x *Extension) notAuthorized(turn *machine.Turn, inv *invoke, err error) (*machine.Answer, error) {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, machine.ErrUnknownConnection) {
		return nil, err
	}
	x.cfg.Log.Error().Err(err).Str("invoke", turn.Activity().Name).Str("activity", turn.Activity().ID).Msg("sign-in is not available")
	return ok(inv.sentence(http.StatusServiceUnavailable, x.words.Unavailable)), nil
}

// signIn is the answer to a user who is not signed in.
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
		// The engine asked for a link before there was an attempt.
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
