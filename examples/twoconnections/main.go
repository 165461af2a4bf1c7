// Command twoconnections is a complete bot with two connections, Microsoft Graph
// and GitHub. Users can log in to each, ask for their status, and log out of
// both.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := zerolog.New(os.Stderr).With().Timestamp().Logger()
	if err := run(ctx, teamsbot.Config{
		Engine:       machine.Config{AppID: os.Getenv("APP_ID"), Log: log},
		ClientSecret: tokensvc.NewSecret(os.Getenv("CLIENT_SECRET")),
	}); err != nil {
		log.Fatal().Err(err).Msg("the bot ended")
	}
}

func run(ctx context.Context, cfg teamsbot.Config) error {
	st, err := boltstore.Open("signin.db")
	if err != nil {
		return err
	}
	cfg.Engine.Store = st
	cfg.Engine.Connections = []machine.Connection{
		{Name: "GraphConnection", CardText: "Sign in to your Microsoft account", ButtonText: "Sign In to Graph"},
		{Name: "GitHubConnection", CardText: "Sign in to your GitHub account", ButtonText: "Sign In to GitHub"},
	}
	cfg.OperatorAt = operator.SocketBeside("signin.db") // signin-engine inspect finds it
	bot, err := teamsbot.New(cfg)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	for _, service := range []string{"Graph", "GitHub"} {
		flow, _ := bot.Engine().Flow(service + "Connection")
		flow.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			return turn.Send(ctx, fmt.Sprintf("Connected to %s (%s)!", service, flow.Name()))
		})
	}
	return errors.Join(bot.Run(ctx, teams.BotFunc(onActivity)), st.Close())
}

func onActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	switch strings.ToLower(strings.TrimSpace(turn.Activity().Text)) {
	case "login graph":
		return nil, login(ctx, turn, "Graph")
	case "login github":
		return nil, login(ctx, turn, "GitHub")
	case "status":
		statuses, err := turn.ConnectionStatus(ctx)
		text := "OAuth connections:"
		for _, s := range statuses {
			word := map[bool]string{true: "connected", false: "not connected"}[s.HasToken]
			text += fmt.Sprintf("\n- **%s** (%s): %s", s.Connection, s.DisplayName, word)
		}
		return nil, say(ctx, turn, text, err)
	case "logout":
		return nil, say(ctx, turn, "Signed out from all services.", turn.SignOut(ctx, "GraphConnection", "GitHubConnection"))
	}
	return nil, nil
}

func login(ctx context.Context, turn *machine.Turn, service string) error {
	result, err := turn.SignIn(ctx, machine.WithConnection(service+"Connection"))
	if err == nil && !result.SignedIn() {
		return nil // a card is in the chat, and the flow's handler is called when the sign-in ends
	}
	return say(ctx, turn, "Already signed in to "+service+".", err)
}

// say sends a text, unless an earlier step failed.
func say(ctx context.Context, turn *machine.Turn, text string, err error) error {
	if err != nil {
		text = "Sign-in is not available right now."
	}
	return errors.Join(err, turn.Send(ctx, text))
}
