package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/playground"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

// Default addresses of dev, and the app id of its bot.
const (
	devListen   = "127.0.0.1:3978"
	devEmulator = "127.0.0.1:3979"
	devOperator = "127.0.0.1:3980"
	devAppID    = "00000000-0000-4000-8000-0000000000b0"
)

// The connections of dev: the first signs in silently, the second through the
// popup, and the third belongs to the message extension.
const (
	devSSO   = "graph"
	devPopup = "github"
	devWiki  = "wiki"
)

func (c *cli) devCommand() *cobra.Command {
	var once, show bool
	var listen, emulated string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try it on this machine: a bot, emulated services, two sign-ins",
		Long: `Runs the reference bot together with an emulator of the Token Service, the Bot
Connector, Entra and Graph, all on loopback and with the store in ./signin.db.
At the start one user signs in silently (SSO) and one through the popup. Then it
runs until Ctrl-C. Open the playground in a browser to sign in by hand: a
Teams-like chat with the bot, and beside it what the engine does.

--once plays the two sign-ins, prints their timelines and ends. It exits with 0,
or with 1 if a sign-in did not complete.`,
		Example: `  signin-engine dev
  signin-engine dev --once --store memory:
  signin-engine dev --print-config > bot.yaml`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if once && show {
				return usage("dev: --once and --print-config exclude each other")
			}
			cfg, err := c.settings(cmd)
			if err != nil {
				return err
			}
			services := devServices()
			d := &dev{cli: c, cfg: cfg, log: c.logger(quiet(cmd, cfg.Log)), emulator: emulator.New(services), provider: services.Provider}
			at, err := d.addresses(listen, emulated)
			if err != nil {
				return err
			}
			if show {
				d.configure(at)
				return d.printConfig()
			}
			if err = d.listen(cmd.Context(), at); err != nil {
				return err
			}
			return d.run(cmd.Context(), once)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&once, "once", false, "play the sign-ins, print the timelines, end")
	f.BoolVar(&show, "print-config", false, "print the settings as YAML, for serve, and end")
	f.StringVar(&listen, "listen", devListen, "`host:port` of the bot")
	f.StringVar(&emulated, "emulator", devEmulator, "`host:port` of the emulator")
	c.idsFlag(cmd)
	return cmd
}

// quiet keeps the log out of the timelines unless the user set its level.
func quiet(cmd *cobra.Command, l config.Log) config.Log {
	if !cmd.Flags().Changed("log-level") {
		l.Level = "warn"
	}
	return l
}

func devServices() emulator.Config {
	return emulator.Config{
		ClientID: devAppID,
		Connections: []emulator.Connection{
			{Name: devSSO, DisplayName: "Microsoft Graph", SSO: true},
			{Name: devPopup, DisplayName: "GitHub"},
		},
		Provider: emulator.NewProvider(emulator.ProviderConfig{ClientID: devWiki}),
	}
}

// dev is the bot, the services around it, and their listeners.
type dev struct {
	*cli
	cfg      config.Config
	log      zerolog.Logger
	emulator *emulator.Server
	provider *emulator.Provider // the message extension's provider

	playground *playground.Playground

	bot, services, operators net.Listener
	socket                   net.Listener // nil unless the store is a file
}

// addresses are the host:port on which dev serves the bot, the emulator and the
// operator endpoint.
type addresses struct{ bot, services, operators string }

// addresses takes the addresses from the flags, and checks that all are on
// loopback.
func (d *dev) addresses(bot, services string) (addresses, error) {
	at := addresses{bot, services, devOperator}
	if d.cfg.Operator != "" {
		e, err := operator.ParseEndpoint(d.cfg.Operator)
		if err != nil || e.Network != "tcp" {
			return at, usage("dev: --operator: %q is no host:port", d.cfg.Operator)
		}
		at.operators = e.Address
	}
	for _, l := range []struct{ flag, address string }{
		{"listen", at.bot}, {"emulator", at.services}, {"operator", at.operators},
	} {
		if err := teams.CheckListener(l.address); err != nil {
			return at, usage("dev: --%s: %q is no loopback address", l.flag, l.address)
		}
	}
	return at, nil
}

// listen opens the listeners and puts their addresses into the settings.
func (d *dev) listen(ctx context.Context, at addresses) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.closeListeners())
		}
	}()
	for _, l := range []struct {
		flag, address, usual string
		into                 *net.Listener
	}{
		{"listen", at.bot, devListen, &d.bot},
		{"emulator", at.services, devEmulator, &d.services},
		{"operator", at.operators, devOperator, &d.operators},
	} {
		if *l.into, err = d.listenOrFree(ctx, l.flag, l.address, l.usual); err != nil {
			return err
		}
	}
	d.configure(addresses{d.bot.Addr().String(), d.services.Addr().String(), d.operators.Addr().String()})
	return nil
}

// listenOrFree takes a free port, and says so, if the default is taken.
func (d *dev) listenOrFree(ctx context.Context, flag, address, usual string) (net.Listener, error) {
	l, err := listenTCP(ctx, address)
	if err == nil || address != usual || !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	if l, err = listenTCP(ctx, "127.0.0.1:0"); err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(d.stderr, "signin-engine: %s is busy, --%s is %s\n", address, flag, l.Addr())
	return l, err
}

func (d *dev) closeListeners() error {
	var all error
	for _, l := range []net.Listener{d.bot, d.services, d.operators, d.socket} {
		if l != nil {
			all = errors.Join(all, l.Close())
		}
	}
	return all
}

// configure writes the settings of a bot that uses the emulator.
func (d *dev) configure(at addresses) {
	services := "http://" + at.services
	d.emulator.SetBaseURL(services)
	c := &d.cfg
	c.AppID = devAppID
	c.Listen = at.bot
	c.TokenServiceURL, c.LoginURL = services, services
	c.OutboundAuth = config.OutboundCredentials
	c.ClientSecretFile, c.CertificateFile, c.ManagedIdentity, c.Federated = "", "", "", config.Federated{}
	c.ClientSecret = tokensvc.NewSecret(rand.Text()) // of a bot that exists only in this process
	c.InboundAuth = config.AuthNone
	c.ServiceURLs = []string{at.services}
	c.Operator = "http://" + at.operators
	if c.OperatorToken.Empty() {
		c.OperatorToken = tokensvc.NewSecret(rand.Text())
	}
	c.Connections = []config.Connection{
		{Name: devSSO, DisplayName: "Microsoft Graph", Profile: &config.Profile{Command: "my ad user", URL: services + "/v1.0/me"}},
		{Name: devPopup, DisplayName: "GitHub"},
	}
	c.MessageExtension = &config.MessageExtension{
		Connection: devWiki, PublicURL: "http://" + c.Listen,
		EncryptionKey: tokensvc.NewSecret(randomKey()), // also only in this process: the emulated provider forgets its users when it ends
		TeamsJSURL:    services + playground.ClientScript, TeamsJSIntegrity: playground.ClientIntegrity(),
		Provider: config.Provider{Issuer: services + "/provider", ClientID: devWiki, Scopes: []string{"profile"}},
	}
	d.provider.SetRedirectURL(c.MessageExtension.PublicURL + "/auth/callback")
}

func randomKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails since Go 1.24
	return base64.StdEncoding.EncodeToString(key)
}

// printConfig prints the settings with which serve runs against this emulator,
// without those that keep their defaults. An emulator needs no secret.
func (d *dev) printConfig() error {
	connections := make([]any, len(d.cfg.Connections))
	for i, c := range d.cfg.Connections {
		m := map[string]any{"name": c.Name, "display_name": c.DisplayName}
		if c.Profile != nil {
			m["profile"] = map[string]any{"command": c.Profile.Command, "url": c.Profile.URL}
		}
		connections[i] = m
	}
	ext := d.cfg.MessageExtension
	extension := map[string]any{
		"connection": ext.Connection, "public_url": ext.PublicURL, "encryption_key": randomKey(),
		"provider": map[string]any{"issuer": ext.Provider.Issuer, "client_id": ext.Provider.ClientID, "scopes": ext.Provider.Scopes},
	}
	out, err := yaml.Parser().Marshal(map[string]any{
		"message_extension": extension,
		"app_id":            d.cfg.AppID, "listen": d.cfg.Listen, "store": d.cfg.Store.String(),
		"token_service_url": d.cfg.TokenServiceURL, "login_url": d.cfg.LoginURL,
		"inbound_auth": d.cfg.InboundAuth, "outbound_auth": config.AuthNone, "service_urls": d.cfg.ServiceURLs, "connections": connections,
	})
	if err != nil {
		return err
	}
	return d.printf("# bot       http://%s/api/messages\n# emulator  %s\n# operator  %s\n%s",
		d.cfg.Listen, d.cfg.TokenServiceURL, d.cfg.Operator, out)
}

// run serves everything and plays the sign-ins. It then keeps serving unless once
// is set.
func (d *dev) run(ctx context.Context, once bool) error {
	s, err := newService(ctx, d.cfg, d.cfg.Listen, d.log)
	if err != nil {
		return errors.Join(err, d.closeListeners())
	}
	doors, err := d.doors(ctx, s)
	if err != nil {
		return errors.Join(err, d.closeListeners(), s.close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() {
		played := make(chan error, 1)
		go func() { played <- d.playground.Run(ctx) }()
		err := s.run(ctx, d.bot, doors...)
		stop()
		served <- errors.Join(err, <-played)
	}()

	if !once {
		err = d.welcome()
	}
	if err == nil {
		err = d.play(ctx, s, once)
	}
	if once || err != nil && !errors.Is(err, errIncomplete) {
		stop()
		return errors.Join(err, <-served)
	}
	if err != nil {
		report(d.stderr, err)
	}
	if err = d.goodbye(); err != nil {
		stop()
	}
	return errors.Join(err, <-served)
}

// doors lists what is served beside the bot: the emulator, the operator endpoint
// on TCP, and for a bbolt store the socket through which inspect reads it.
func (d *dev) doors(ctx context.Context, s *service) ([]teamsbot.Door, error) {
	endpoint, err := operator.ParseEndpoint(d.cfg.Operator)
	if err != nil {
		return nil, err
	}
	client := operator.NewClient(endpoint, d.cfg.OperatorToken)
	s.release = append(s.release, func() { _ = client.Close() }) // nothing but idle connections to close
	d.playground = playground.New(playground.Config{
		Emulator: d.emulator, BotURL: "http://" + d.cfg.Listen + "/api/messages", Operator: client,
		ConsoleURL: d.consoleLink(), Connections: []string{devSSO, devPopup}, Extension: true,
	})
	services := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if playground.Serves(r.URL.Path) {
			d.playground.ServeHTTP(w, r)
			return
		}
		d.emulator.ServeHTTP(w, r)
	})
	access := operator.HandlerConfig{Token: d.cfg.OperatorToken, ReadToken: d.cfg.OperatorReadToken, LinkLogin: true}
	doors := []teamsbot.Door{{Listener: d.services, Handler: services}, {Listener: d.operators, Handler: s.bot.Operators(access)}}
	if d.cfg.Store.Backend != config.Bolt {
		return doors, nil
	}
	if d.socket, err = operator.SocketBeside(d.cfg.Store.Path).Listen(ctx); err != nil {
		return nil, err
	}
	return append(doors, teamsbot.Door{Listener: d.socket, Handler: s.bot.Operators(operator.HandlerConfig{})}), nil
}

func (d *dev) welcome() error {
	return d.printf("bot       http://%s/api/messages\nemulator  %s\noperator  %s\nstore     %s\n\n",
		d.cfg.Listen, d.cfg.TokenServiceURL, d.cfg.Operator, d.cfg.Store)
}

// consoleLink is a link that logs a browser in to the console. Its token lives as
// long as this process.
func (d *dev) consoleLink() string {
	return d.cfg.Operator + "/login?" + url.Values{"token": {d.cfg.OperatorToken.Reveal()}, "name": {"dev"}}.Encode()
}

// goodbye prints what a person can open and which commands can follow. It names
// the program as dev was called, since it may not be on the PATH.
func (d *dev) goodbye() error {
	return d.printf(`
Open these in a browser:
  playground  %s/
  console     %s
Type next, in another terminal:
  %s%s inspect%s
Stop with Ctrl-C.
`, d.cfg.TokenServiceURL, d.consoleLink(), d.tokenEnv(), operator.Quote(os.Args[0]), d.storeFlag())
}

// tokenEnv puts the token in front of a command that has to ask the operator
// endpoint, because the store is in memory. The link to the console contains the
// same token.
func (d *dev) tokenEnv() string {
	if d.cfg.Store.Backend != config.Memory {
		return ""
	}
	return "SIGNIN_ENGINE_OPERATOR_TOKEN=" + d.cfg.OperatorToken.Reveal() + " "
}

// storeFlag names the store, unless commands find it by default.
func (d *dev) storeFlag() string {
	switch where := d.cfg.Store.String(); {
	case d.cfg.Store.Backend == config.Memory:
		return " --operator " + d.cfg.Operator
	case where == config.Default().Store.String():
		return ""
	default:
		return " --store " + operator.Quote(where)
	}
}

// play signs one user in silently and one through the popup, over HTTP as Teams
// would. It prints the resulting attempts.
func (d *dev) play(ctx context.Context, s *service, whole bool) error {
	reader := operator.NewDirect(s.store, operator.DefaultRules(), operator.Info{})
	incomplete := false
	for _, scene := range []struct {
		title, connection string
		act               func(context.Context, *emulator.Teams) error
	}{
		{"Silent sign-in (SSO)", devSSO, d.playSSO},
		{"Popup sign-in", devPopup, d.playPopup},
	} {
		user := d.user(scene.connection)
		err := scene.act(ctx, user)
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		// The last audit lines may still wait for a commit that carries them.
		if e := s.bot.Engine().Drain(ctx); e != nil {
			return e
		}
		page, e := reader.List(ctx, operator.Query{User: user.User.ID, Connection: scene.connection, Limit: 1})
		if e != nil {
			return e
		}
		show := d.printScene
		if !whole {
			show = d.printShort
		}
		if err = show(ctx, reader, scene.title, page, err); err != nil {
			return err
		}
		incomplete = incomplete || len(page.Attempts) == 0 || page.Attempts[0].State != store.Complete
	}
	if incomplete {
		return errIncomplete
	}
	return nil
}

// user makes a Teams user who is new at every start. A user with a token from an
// earlier run would be signed in without a card.
func (d *dev) user(connection string) *emulator.Teams {
	t := d.emulator.Teams("http://" + d.cfg.Listen + "/api/messages")
	t.User.ID = "29:1" + strings.ToLower(rand.Text())
	t.User.Name = "Robin (" + connection + ")"
	t.Conversation.ID = "a:1" + strings.ToLower(rand.Text())
	return t
}

func (d *dev) playSSO(ctx context.Context, t *emulator.Teams) error {
	card, err := d.ask(ctx, t, devSSO)
	if err != nil {
		return err
	}
	answer, err := t.TokenExchange(ctx, card.ExchangeID(), devSSO, "sso-"+rand.Text())
	return answered("signin/tokenExchange", answer, err)
}

func (d *dev) playPopup(ctx context.Context, t *emulator.Teams) error {
	card, err := d.ask(ctx, t, devPopup)
	if err != nil {
		return err
	}
	code, err := t.SignInWithPage(ctx, card.SignInLink)
	if err != nil {
		return err
	}
	answer, err := t.VerifyState(ctx, code, card.ActivityID)
	return answered("signin/verifyState", answer, err)
}

// ask sends the message "login" and waits for the card.
func (d *dev) ask(ctx context.Context, t *emulator.Teams, connection string) (emulator.Card, error) {
	answer, err := t.SendMessage(ctx, "login "+connection)
	if err = answered("message", answer, err); err != nil {
		return emulator.Card{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeouts.Upstream)
	defer cancel()
	return d.emulator.WaitForCard(ctx, t.Conversation.ID, 0)
}

func answered(what string, a emulator.Answer, err error) error {
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("%s was answered %d", what, a.Status)
	}
	return err
}

// printShort says in one line which states the attempt of a scene went through.
func (d *dev) printShort(ctx context.Context, reader operator.Reader, title string, page operator.Page, failed error) error {
	if failed != nil {
		return d.printf("%s: it broke off: %v\n", title, failed)
	}
	if len(page.Attempts) == 0 {
		return d.printf("%s: no attempt was stored\n", title)
	}
	detail, err := reader.Get(ctx, page.Attempts[0].ID)
	if err != nil {
		return err
	}
	way := "new"
	for _, e := range detail.Events {
		if e.Kind == store.EventTransition && e.From != e.To {
			way += " → " + string(e.To)
		}
	}
	return d.printf("%-20s %s\n", title, way)
}

func (d *dev) printScene(ctx context.Context, reader operator.Reader, title string, page operator.Page, failed error) error {
	if err := d.printf("== %s\n\n", title); err != nil {
		return err
	}
	if failed != nil {
		if err := d.printf("It broke off: %v\n\n", failed); err != nil {
			return err
		}
	}
	if len(page.Attempts) == 0 {
		return d.printf("No attempt was stored.\n\n")
	}
	detail, err := reader.Get(ctx, page.Attempts[0].ID)
	if err != nil {
		return err
	}
	if err = d.printDetail(detail); err != nil {
		return err
	}
	return d.printf("\n")
}
