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
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/bot"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/metrics"
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

	auth     *teams.Authenticator // nil: inbound_auth none
	refusals *teams.Refusals
	metrics  http.Handler // of the operator endpoint
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
	credentials, err := cfg.Credentials()
	if err != nil {
		return err
	}
	s.release = append(s.release, credentials.CloseIdleConnections)
	if cfg.OutboundAuth == config.AuthNone {
		s.log.Warn().Str("setting", "outbound_auth").Msg("the bot shows nobody who it is: only an emulator will answer it")
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
	own, err := s.popup()
	if err != nil {
		return err
	}
	if own != nil {
		connections = append(connections, machine.Connection{Name: own.Connection(), Tokens: own})
	}
	s.refusals = teams.NewRefusals(s.log)
	shown := metrics.New(metrics.Config{Store: s.store, Refused: s.refused, Version: buildVersion().Version, Log: s.log})
	s.metrics = shown.Handler()
	if s.engine, err = machine.New(machine.Config{
		AppID: cfg.AppID, Store: shown.Store(s.store), Tokens: tokens, Messenger: connector, Connections: connections,
		Policy: &cfg.Policy, Timeouts: &cfg.Timeouts, Hooks: shown.Hooks(machine.Hooks{}), Log: s.log,
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
	front, err := s.extension(own, chat)
	if err != nil {
		return err
	}
	if s.auth, err = inboundAuth(cfg, allowed, s.refusals, s.log); err != nil {
		return err
	}
	if s.auth != nil {
		s.release = append(s.release, s.auth.CloseIdleConnections)
	}
	messages, err := teams.NewHandler(s.engine, teams.Config{
		InboundAuth: cfg.InboundAuth, Authenticator: s.auth, Listener: listen, ServiceURLs: allowed,
		Limits: cfg.Limits, Refusals: s.refusals, Log: s.log,
	}, front)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/api/messages", messages)
	if own != nil {
		mux.Handle("/", own) // below …/auth/, whatever a proxy leaves of the path before it
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	s.handler = mux
	return nil
}

// popup is the message extension's own sign-in; nil = there is none.
func (s *service) popup() (*popup.Popup, error) {
	m := s.cfg.MessageExtension
	if m == nil || !m.HasPopup() {
		return nil, nil //nolint:nilnil // there is none
	}
	cfg, err := m.Popup(s.cfg.AppID)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	s.release = append(s.release, transport.CloseIdleConnections)
	cfg.Store, cfg.Log = s.store, s.log
	cfg.HTTPClient = &http.Client{Transport: transport, Timeout: s.cfg.Timeouts.Upstream}
	return popup.New(cfg)
}

// extension stands in front of the chat bot where there is a message extension.
func (s *service) extension(own *popup.Popup, chat *bot.Bot) (teams.Bot, error) {
	m := s.cfg.MessageExtension
	if m == nil {
		return chat, nil
	}
	cfg := composeext.Config{Engine: s.engine, Popup: own, TokenService: m.TokenService, Next: chat, Log: s.log}
	chat.Handlers(&cfg)
	return composeext.New(cfg)
}

// inboundAuth knows the Bot Connector; nil where nobody is asked for a token.
func inboundAuth(cfg config.Config, allowed *teams.AllowList, refusals *teams.Refusals, log zerolog.Logger) (*teams.Authenticator, error) {
	if cfg.InboundAuth != config.AuthJWT {
		return nil, nil //nolint:nilnil // there is none
	}
	auth := teams.AuthConfig{
		AppID: cfg.AppID, Cloud: cfg.CloudPreset(), OpenIDMetadataURL: cfg.OpenIDMetadataURL, ServiceURLs: allowed,
		Limits: cfg.Limits, Refusals: refusals, Log: log,
	}
	if cfg.Agentic {
		auth.Agentic = &teams.Agentic{Tenant: cfg.TenantID, BlueprintID: cfg.AgenticBlueprintID, LoginURL: cfg.LoginURL}
	}
	return teams.NewAuthenticator(auth)
}

func (s *service) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.isReady(r.Context()); err != nil {
		s.log.Warn().Err(err).Msg("not ready")
		text := "store unavailable"
		if errors.Is(err, errNoKeys) {
			text = "signing keys unavailable"
		}
		plain(w, http.StatusServiceUnavailable, text)
		return
	}
	plain(w, http.StatusOK, "ready")
}

// errNoKeys: no request can be judged.
var errNoKeys = errors.New("no signing keys")

// isReady asks whether activities can be let in and remembered.
func (s *service) isReady(ctx context.Context) error {
	if err := s.engine.Ready(ctx); err != nil {
		return err
	}
	if s.auth == nil {
		return nil
	}
	if err := s.auth.Ready(ctx); err != nil {
		return fmt.Errorf("%w: %w", errNoKeys, err)
	}
	return nil
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

// operatorAccess says who gets in at the operator endpoint: on a unix socket
// whoever may open it, on TCP the holder of a token.
type operatorAccess struct {
	act, look   tokensvc.Secret
	trustHeader string
	linkLogin   bool
}

// operatorHandler is the API and the console over this service.
func (s *service) operatorHandler(access operatorAccess, listen string) http.Handler {
	about := operator.Info{
		Live: true, Version: buildVersion().Version, PID: os.Getpid(), Started: operator.Time{Time: time.Now()}, Listen: listen,
	}
	for _, c := range s.engine.Connections() {
		about.Names = append(about.Names, c.Name)
	}
	reader := operator.NewDirect(s.store, operator.DefaultRules(), about)
	reader.CountRefused(s.refused)
	h := operator.HandlerConfig{
		Reader: reader, Actor: operator.NewDirectActor(reader, s.engine), Ready: s.isReady, Metrics: s.metrics, Log: s.log,
		Token: access.act, ReadToken: access.look, TrustHeader: access.trustHeader, LinkLogin: access.linkLogin,
	}
	if snap, ok := s.store.(operator.Snapshotter); ok {
		h.Snapshot = snap
	}
	return operator.NewHandler(h)
}

// refused is what the bot's listener did not let in.
func (s *service) refused() *operator.Refused {
	counted := s.refusals.Snapshot()
	r := &operator.Refused{Reasons: make(map[string]int64, len(counted.Reasons)), OtherHosts: counted.OtherHosts}
	for _, one := range counted.Reasons {
		r.Reasons[one.What] = one.Count
	}
	for _, one := range counted.Hosts {
		r.Hosts = append(r.Hosts, operator.RefusedHost{
			Host: one.What, Count: one.Count, First: operator.Time{Time: one.First}, Last: operator.Time{Time: one.Last},
		})
	}
	return r
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

	srv := s.cfg.Limits.Server(listener.Addr().String(), s.handler)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(netutil.LimitListener(listener, s.cfg.Limits.Connections)) }()
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
