package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/bot"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// service is a bot with its engine and store: what serve and dev run.
type service struct {
	cfg     config.Config
	log     zerolog.Logger
	store   store.Store
	engine  *machine.Engine
	handler http.Handler // of the bot's listener
	release []func()     // idle connections
}

// openStore opens the store for writing.
func openStore(ctx context.Context, cfg config.Config) (store.Store, error) {
	switch where := cfg.Store; where.Backend {
	case config.Memory:
		return memstore.New(time.Now), nil
	case config.Postgres:
		return openPostgres(ctx, where, pgstore.WithAutoMigrate(cfg.AutoMigrate))
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

// newService builds everything from settings that were checked; listen is the
// address that the bot is really served on.
func newService(ctx context.Context, cfg config.Config, listen string, log zerolog.Logger) (*service, error) {
	s := &service{cfg: cfg, log: log}
	var err error
	if s.store, err = openStore(ctx, cfg); err != nil {
		return nil, err
	}
	if err = s.build(listen); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	return s, nil
}

func (s *service) build(listen string) error {
	cfg := s.cfg
	credentials, err := botCredentials(cfg)
	if err != nil {
		return err
	}
	tokens, err := tokensvc.New(tokensvc.Config{
		BaseURL: cfg.TokenServiceURL, Credentials: credentials, Timeout: cfg.Timeouts.Upstream,
	})
	if err != nil {
		return err
	}
	allowed, err := teams.NewAllowList(cfg.ServiceURLs, false)
	if err != nil {
		return err
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{
		Tokens: credentials, ServiceURLs: allowed, Timeout: cfg.Timeouts.Upstream,
	})
	if err != nil {
		return err
	}
	s.release = append(s.release, tokens.CloseIdleConnections, connector.CloseIdleConnections)
	connections := make([]machine.Connection, len(cfg.Connections))
	for i, c := range cfg.Connections {
		connections[i] = machine.Connection{
			Name: c.Name, DisplayName: c.DisplayName, CardText: c.CardText, ButtonText: c.ButtonText, NoSSO: !c.OffersSSO(),
		}
	}
	if s.engine, err = machine.New(machine.Config{
		AppID: cfg.AppID, Store: s.store, Tokens: tokens, Messenger: connector, Connections: connections,
		Policy: &cfg.Policy, Timeouts: &cfg.Timeouts, Log: s.log,
	}); err != nil {
		return err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	s.release = append(s.release, transport.CloseIdleConnections)
	chat, err := bot.New(s.engine, cfg.Connections, &http.Client{
		Transport: transport,
		// The user's token goes to the address that was configured, and no further.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if err != nil {
		return err
	}
	messages, err := teams.NewHandler(s.engine, teams.Config{
		InboundAuth: cfg.InboundAuth, Listener: listen, ServiceURLs: allowed, Log: s.log,
	}, chat)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/api/messages", messages)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	s.handler = mux
	return nil
}

// botCredentials is how the bot proves who it is. A local emulator takes any
// bearer, so a bot without a secret can talk to one and to nothing else.
func botCredentials(cfg config.Config) (tokensvc.TokenSource, error) {
	if cfg.ClientSecret.Empty() && cfg.Emulated() {
		return tokensvc.Static(tokensvc.NewSecret("emulator")), nil
	}
	return tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: cfg.LoginURL, Tenant: cfg.TenantID, ClientID: cfg.AppID, ClientSecret: cfg.ClientSecret,
		Timeout: cfg.Timeouts.Upstream,
	})
}

func (s *service) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.engine.Ready(r.Context()); err != nil {
		s.log.Warn().Err(err).Msg("not ready")
		plain(w, http.StatusServiceUnavailable, "store unavailable")
		return
	}
	plain(w, http.StatusOK, "ready")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // whoever asked may be gone
}

// operatorEndpoint is where operators look: what was configured, else the
// socket beside a bbolt file, else nowhere.
func operatorEndpoint(cfg config.Config) (operator.Endpoint, bool, error) {
	if cfg.Operator != "" {
		e, err := operator.ParseEndpoint(cfg.Operator)
		return e, true, err
	}
	if cfg.Store.Backend != config.Bolt {
		return operator.Endpoint{}, false, nil
	}
	return operator.SocketBeside(cfg.Store.Path), true, nil
}

// operatorHandler is the API over this service; a token is needed on TCP.
func (s *service) operatorHandler(token tokensvc.Secret, listen string) http.Handler {
	about := operator.Info{
		Live: true, Version: buildVersion().Version, PID: os.Getpid(), Started: operator.Time{Time: time.Now()}, Listen: listen,
	}
	for _, c := range s.engine.Connections() {
		about.Names = append(about.Names, c.Name)
	}
	reader := operator.NewDirect(s.store, operator.DefaultRules(), about)
	h := operator.HandlerConfig{
		Reader: reader, Actor: operator.NewDirectActor(reader, s.engine), Ready: s.engine.Ready, Token: token, Log: s.log,
	}
	if snap, ok := s.store.(operator.Snapshotter); ok {
		h.Snapshot = snap
	}
	return operator.NewHandler(h)
}

// door is a listener with what is served on it.
type door struct {
	listener net.Listener
	handler  http.Handler
}

// run serves until ctx is done. Each part outlives the one before it: first no
// more activities come and those in flight are finished, then the engine
// finishes what it holds, then the operators' doors and the store close.
func (s *service) run(ctx context.Context, listener net.Listener, operators ...door) error {
	work := context.WithoutCancel(ctx)
	engine, stopEngine := context.WithCancel(work)
	defer stopEngine()
	ran := make(chan error, 1)
	go func() { ran <- s.engine.Run(engine) }()
	open, shut := context.WithCancel(work)
	defer shut()
	doors, open := errgroup.WithContext(open)
	for _, d := range operators {
		doors.Go(func() error { return operator.Serve(open, d.listener, d.handler) })
	}

	srv := teams.NewServer(listener.Addr().String(), s.handler)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	var err error
	select {
	case err = <-served:
	case <-open.Done():
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(work, config.ShutdownGrace)
	defer cancel()
	s.log.Info().Msg("stopping: no new activities, finishing those in flight")
	if e := srv.Shutdown(grace); e != nil {
		s.log.Warn().Err(e).Msg("activities in flight were cut off; the store keeps their attempts consistent")
		err = errors.Join(err, srv.Close())
	}
	stopEngine()
	err = errors.Join(ignoreClosed(err), <-ran)
	shut()
	err = errors.Join(err, doors.Wait(), s.close())
	if err == nil {
		s.log.Info().Msg("stopped")
	}
	return err
}

func (s *service) close() error {
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

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
