// Package embed is a bot with the engine in it. It is the complete code of the
// README's example.
package embed

import (
	"context"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

// Run serves a bot with one connection. cfg has the bot's secret and address.
func Run(ctx context.Context, cfg teamsbot.Config, st store.Store) error {
	// readme:begin
	cfg.Engine = machine.Config{
		AppID: "00000000-0000-0000-0000-000000000000", Store: st,
		Connections: []machine.Connection{{Name: "graph"}},
	}
	cfg.OperatorAt = operator.SocketBeside("signin.db") // for signin-engine inspect
	bot, err := teamsbot.New(cfg)
	if err != nil {
		return err
	}
	graph, _ := bot.Engine().Flow("graph")
	graph.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		return turn.Send(ctx, "You are signed in.")
	})
	return bot.Run(ctx, teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := graph.SignIn(ctx, turn) // a token, or a card is on its way
		return nil, err
	}))
	// readme:end
}
