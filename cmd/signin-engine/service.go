package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/bot"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/directsso"
	"github.com/signin-engine/signin-engine/transport/metrics"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
	"github.com/signin-engine/signin-engine/transport/traces"
	"github.com/signin-engine/signin-engine/transport/upstream"
)

// service is a bot with its store, as serve and dev run it.
type service struct {
	cfg     config.Config
	log     zerolog.Logger
	store   store.Store
	bot     *teamsbot.Bot
	handler http.Handler // serves the bot's listener
	release []func()     // close idle connections
	ways    *upstream.Set
	metrics *metrics.Metrics
}

// openStore opens the store for writing.
func openStore(ctx context.Context, cfg config.Config) (store.Store, error) {
	switch where := cfg.Store; where.Backend {
	case config.Memory:
		return memstore.New(time.Now), nil
	case config.Postgres:
		return openPostgres(ctx, cfg)
	default:
		st, err := boltstore.Open(where.Path)
		switch {
		case errors.Is(err, store.ErrLocked):
			return nil, fmt.Errorf("%w: %s is held by another process: stop it, or use another --store", store.ErrLocked, where.Path)
		case err != nil:
			return nil, fmt.Errorf("open %s: %w", where.Path, err)
		}
		return st, nil
	}
}

// readyStore opens a store that takes commits. It waits for the store as long as
// the settings say.
func readyStore(ctx context.Context, cfg config.Config, log zerolog.Logger) (store.Store, error) {
	until := time.Now().Add(cfg.WaitForStore)
	for told := false; ; told = true {
		st, err := openStore(ctx, cfg)
		if err == nil {
			if err = st.Probe(ctx); err == nil {
				return st, nil
			}
			if cfg.Store.Backend == config.Postgres {
				err = postgresError(err)
			}
			err = errors.Join(err, st.Close())
		}
		if ctx.Err() != nil || !time.Now().Before(until) {
			return nil, err
		}
		if !told {
			log.Warn().Err(err).Str("wait_for_store", cfg.WaitForStore.String()).Msg("waiting for the store")
		}
		select {
		case <-time.After(min(time.Second, time.Until(until))):
		case <-ctx.Done():
		}
	}
}

// newService builds everything from checked settings; listen is the address that
// the bot's listener really has.
func newService(ctx context.Context, cfg config.Config, listen string, log zerolog.Logger) (*service, error) {
	s := &service{cfg: cfg, log: log, ways: upstream.NewSet(log, traces.Transport)}
	var err error
	if s.store, err = readyStore(ctx, cfg, log); err != nil {
		return nil, err
	}
	if err = s.build(listen); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	return s, nil
}

func (s *service) build(listen string) error {
	cfg := s.cfg
	credentials, err := cfg.Credentials(s.ways.To(upstream.Login).Client())
	if err != nil {
		return err
	}
	if cfg.OutboundAuth == config.AuthNone {
		s.log.Warn().Str("setting", "outbound_auth").Msg("the bot shows nobody who it is: only an emulator will answer it")
	}
	connections := make([]machine.Connection, len(cfg.Connections))
	for i, c := range cfg.Connections {
		connections[i] = machine.Connection{
			Name: c.Name, DisplayName: c.DisplayName, CardText: c.CardText, ButtonText: c.ButtonText, NoSSO: !c.OffersSSO(),
		}
		if c.Direct == nil {
			continue
		}
		if connections[i].Tokens, err = s.direct(c, credentials); err != nil {
			return fmt.Errorf("connections[%d].direct: %w", i, err)
		}
	}
	version, refusals := buildVersion().Version, teams.NewRefusals(s.log)
	own, err := s.popup(refusals)
	if err != nil {
		return err
	}
	if own != nil {
		connections = append(connections, machine.Connection{Name: own.Connection(), Tokens: own})
	}
	operatorAt, err := operatorEndpoint(cfg)
	if err != nil {
		return err
	}
	var access operator.HandlerConfig // access to a socket is governed by its file mode
	if operatorAt.Network == "tcp" {
		access = operator.HandlerConfig{Token: cfg.OperatorToken, ReadToken: cfg.OperatorReadToken, TrustHeader: cfg.OperatorTrust}
	}
	var names []string
	for _, c := range connections {
		names = append(names, c.Name)
	}
	s.metrics = metrics.New(metrics.Config{
		Connections: names,
		Store:       s.store, Refused: teamsbot.CountRefused(refusals), Circuits: teamsbot.CountCircuits(s.ways),
		Version: version, Log: s.log,
	})
	if s.bot, err = teamsbot.New(teamsbot.Config{
		Engine: machine.Config{
			AppID: cfg.AppID, Store: s.store, Connections: connections, Policy: &cfg.Policy, Timeouts: &cfg.Timeouts, Log: s.log,
			Keys: cfg.Keys(),
		},
		Credentials: credentials, TokenAtStart: cfg.TokenAtStart, Cloud: cfg.CloudPreset(), TokenServiceURL: cfg.TokenServiceURL, LoginURL: cfg.LoginURL,
		Listen: listen, InboundAuth: cfg.InboundAuth, Auth: authConfig(cfg), ServiceURLs: cfg.ServiceURLs,
		Limits: cfg.Limits, Refusals: refusals, Upstreams: s.ways,
		OperatorAt: operatorAt, Operator: access, Version: version,
		Metrics: s.metrics,
	}); err != nil {
		return err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	s.release = append(s.release, transport.CloseIdleConnections)
	chat, err := bot.New(s.bot.Engine(), cfg.Connections, &http.Client{
		Transport: transport,
		// The user's token goes to the configured address only, so redirects are
		// not followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if err != nil {
		return err
	}
	front, err := s.extension(own, chat)
	if err != nil {
		return err
	}
	mux, err := s.bot.Handler(front)
	if err != nil {
		return err
	}
	if own != nil {
		mux.Handle("/", own) // at …/auth/, under whatever part of the path a proxy leaves
	}
	s.handler = traces.Forward().Handler(mux)
	return nil
}

// direct makes the sign-in of a connection that bypasses the Token Service.
func (s *service) direct(c config.Connection, credentials config.TokenSource) (machine.TokenService, error) {
	behalf, ok := credentials.(machine.OnBehalfOf)
	if !ok {
		return nil, errors.New("the bot's credentials exchange no tokens of users: use a client secret, a certificate or federated credentials")
	}
	return directsso.New(directsso.Config{
		AppID: s.cfg.AppID, Tenant: s.cfg.TenantID, Connection: c.Name,
		Scopes: c.Direct.Scopes, SignInLink: c.Direct.Link, Resource: c.Direct.Resource,
		OnBehalfOf: behalf, Store: s.store, Keys: s.cfg.Keys(), Log: s.log,
	})
}

// popup makes the message extension's own sign-in, nil if there is none.
func (s *service) popup(refusals *teams.Refusals) (*popup.Popup, error) {
	m := s.cfg.MessageExtension
	if m == nil || !m.HasPopup() {
		return nil, nil //nolint:nilnil // there is none
	}
	cfg, err := m.Popup(s.cfg.AppID)
	if err != nil {
		return nil, err
	}
	cfg.Store, cfg.Log = s.store, s.log
	cfg.OnRefused = func(why string) { refusals.Note(teams.Why(why), http.StatusTooManyRequests) }
	cfg.HTTPClient = s.ways.To(upstream.Provider).Client()
	cfg.HTTPClient.Timeout = s.cfg.Timeouts.Upstream
	return popup.New(cfg)
}

// extension puts the message extension, if there is one, in front of the chat
// bot.
func (s *service) extension(own *popup.Popup, chat *bot.Bot) (teams.Bot, error) {
	m := s.cfg.MessageExtension
	if m == nil {
		return chat, nil
	}
	cfg := composeext.Config{Engine: s.bot.Engine(), Popup: own, TokenService: m.TokenService, Next: chat, Log: s.log}
	if err := chat.Handlers(&cfg); err != nil {
		return nil, err
	}
	return composeext.New(cfg)
}

// authConfig says how the Bot Connector's requests are recognized.
func authConfig(cfg config.Config) teams.AuthConfig {
	auth := teams.AuthConfig{AppID: cfg.AppID, Cloud: cfg.CloudPreset(), OpenIDMetadataURL: cfg.OpenIDMetadataURL}
	if cfg.Agentic {
		auth.Agentic = &teams.Agentic{Tenant: cfg.TenantID, BlueprintID: cfg.AgenticBlueprintID, Callers: cfg.AgenticCallers, LoginURL: cfg.LoginURL}
	}
	return auth
}

// operatorEndpoint is where operators reach the bot: the configured endpoint,
// else the socket beside a bbolt file, else none.
func operatorEndpoint(cfg config.Config) (operator.Endpoint, error) {
	switch {
	case cfg.Operator != "":
		return operator.ParseEndpoint(cfg.Operator)
	case cfg.Store.Backend == config.Bolt:
		return operator.SocketBeside(cfg.Store.Path), nil
	default:
		return operator.Endpoint{}, nil
	}
}

// run serves until ctx is done, and closes the store last.
func (s *service) run(ctx context.Context, listener net.Listener, doors ...teamsbot.Door) error {
	return errors.Join(s.bot.Serve(ctx, listener, s.handler, doors...), s.close())
}

func (s *service) close() error {
	s.bot.CloseIdleConnections()
	for _, release := range s.release {
		release()
	}
	if err := s.store.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
