// Package embed is the engine inside somebody's own bot: the code of the
// README, whole.
package embed

import (
	"context"
	"net/http"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// Bot is a bot with one connection. It runs the engine until ctx is done.
func Bot(ctx context.Context, st store.Store, tokens *tokensvc.Client, connector *teams.Connector, cfg teams.Config) (http.Handler, error) {
	// readme:begin
	eng, err := machine.New(machine.Config{
		AppID: "00000000-0000-0000-0000-000000000000", Store: st, Tokens: tokens, Messenger: connector,
		Connections: []machine.Connection{{Name: "graph"}}, Log: zerolog.Nop(),
	})
	if err != nil {
		return nil, err
	}
	graph, _ := eng.Flow("graph")
	graph.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		return turn.Send(ctx, "You are signed in.")
	})
	go func() { _ = eng.Run(ctx) }() // sweeper, recovery, redelivery: yours to start and to stop
	return teams.NewHandler(eng, cfg, teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := graph.SignIn(ctx, turn) // a token, or a card is on its way
		return nil, err
	}))
	// readme:end
}
