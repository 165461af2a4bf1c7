// Package direct is a bot with a connection that the Azure Bot resource does not
// have. The bot itself exchanges the client's SSO token, for a token that can
// read the user's calendar.
package direct

import (
	"context"
	"fmt"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/directsso"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

// Config is what the bot needs besides its wiring.
type Config struct {
	AppID       string
	Credentials *tokensvc.ClientCredentials // of the bot; they also exchange the users' tokens
	Store       store.Store
	Keys        func() ([]store.SecretKey, error) // for the stored tokens; the first one seals, each can open
	ConsentPage string                            // URL of the bot's page behind the card's button
}

// New wires the bot and returns it with its handler. The handler answers "when"
// with the time until which the bot may read the user's calendar.
func New(cfg Config, wiring teamsbot.Config) (*teamsbot.Bot, teams.Bot, error) {
	calendar, err := directsso.New(directsso.Config{
		AppID: cfg.AppID, Connection: "calendar",
		Scopes:     []string{"https://graph.microsoft.com/Calendars.Read"},
		SignInLink: cfg.ConsentPage, OnBehalfOf: cfg.Credentials,
		Store: cfg.Store, Keys: cfg.Keys,
	})
	if err != nil {
		return nil, nil, err
	}
	wiring.Credentials = cfg.Credentials
	wiring.Engine = machine.Config{
		AppID: cfg.AppID, Store: cfg.Store, Keys: cfg.Keys,
		Connections: []machine.Connection{{Name: "calendar", Tokens: calendar}},
	}
	bot, err := teamsbot.New(wiring)
	if err != nil {
		return nil, nil, err
	}
	flow, err := bot.Engine().Flow("calendar")
	if err != nil {
		return nil, nil, err
	}
	flow.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, tok tokensvc.Token) error {
		return turn.Send(ctx, until(tok))
	})
	flow.OnSignInFailure(func(ctx context.Context, turn *machine.Turn, _ *machine.Failure) error {
		if refusal := turn.Refusal(); refusal != nil && refusal.Kind == store.KindConsent {
			return turn.Send(ctx, "Use the button of the card, and allow me to read your calendar.")
		}
		return nil
	})
	return bot, teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		got, err := flow.SignIn(ctx, turn) // a token, or a card is on its way
		if err == nil && got.SignedIn() {
			err = turn.Send(ctx, until(got.Token))
		}
		return nil, err
	}), nil
}

func until(tok tokensvc.Token) string {
	return fmt.Sprintf("I may read your calendar until %s.", tok.Expiration.UTC().Format("15:04 UTC"))
}
