package machine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// demo is what the examples run on: a bot with one connection, "graph", and an
// emulated Teams with one user who speaks to it.
type demo struct {
	Engine   *machine.Engine
	User     *emulator.Teams
	Services *emulator.Server
	Code     teams.BotFunc // of the bot; it signs in whoever writes, unless changed

	close []func()
}

func newDemo(change func(*machine.Config)) *demo {
	d := &demo{Services: emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true, Audience: "https://graph.microsoft.com"}}})}
	web := httptest.NewServer(d.Services)
	d.close = append(d.close, web.Close)
	d.Services.SetBaseURL(web.URL)
	credentials := tokensvc.Static(tokensvc.NewSecret("the bot's own token"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: web.URL, Credentials: credentials})
	possible(err)
	hosts, err := teams.NewAllowList([]string{strings.TrimPrefix(web.URL, "http://")}, false)
	possible(err)
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: credentials, ServiceURLs: hosts})
	possible(err)
	cfg := machine.Config{
		AppID: "00000000-0000-0000-0000-000000000000", Store: memstore.New(time.Now), Tokens: tokens, Messenger: connector,
		Connections: []machine.Connection{{Name: "graph"}}, Log: zerolog.Nop(),
	}
	if change != nil {
		change(&cfg)
	}
	d.Engine, err = machine.New(cfg)
	possible(err)
	d.Code = func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := turn.SignIn(ctx, machine.WithConnection(cfg.Connections[0].Name))
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	possible(err)
	h, err := teams.NewHandler(d.Engine, teams.Config{
		InboundAuth: teams.InboundAuthNone, Listener: l.Addr().String(), ServiceURLs: hosts, Log: zerolog.Nop(),
	}, teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) { return d.Code(ctx, turn) }))
	possible(err)
	bot := httptest.NewUnstartedServer(h)
	possible(bot.Listener.Close())
	bot.Listener = l
	bot.Start()
	d.close = append(d.close, bot.Close, connector.CloseIdleConnections, tokens.CloseIdleConnections)
	d.User = d.Services.Teams(bot.URL + "/api/messages")
	return d
}

// Close ends the demo.
func (d *demo) Close() {
	possible(d.Engine.Drain(context.Background()))
	for _, end := range d.close {
		end()
	}
}

// Says is what the user writes.
func (d *demo) Says(text string) {
	_, err := d.User.SendMessage(context.Background(), text)
	possible(err)
}

// Card is the newest one that the user sees.
func (d *demo) Card() emulator.Card {
	card, ok := d.Services.LastCard(d.User.Conversation.ID)
	if !ok {
		possible(errors.New("no card"))
	}
	return card
}

// Exchanges is what the user's client does with the card: silent sign-on.
func (d *demo) Exchanges() {
	card := d.Card()
	_, err := d.User.TokenExchange(context.Background(), card.ExchangeID(), card.Connection, d.Services.SSOToken(d.User.User.ID))
	possible(err)
}

// Reads prints what the bot wrote to the user.
func (d *demo) Reads() {
	for _, a := range d.Services.Activities(d.User.Conversation.ID) {
		if a.Text != "" {
			fmt.Println("bot:", a.Text)
		}
	}
}

// possible is for what cannot fail here.
func possible(err error) {
	if err != nil {
		panic(err)
	}
}
