package teamsbot

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

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/upstream"
)

// Bot is an engine with everything that connects it to Teams and operators.
type Bot struct {
	cfg     Config
	store   store.Store // as given, without metrics
	hosts   *teams.AllowList
	auth    *teams.Authenticator // nil: the connector's tokens are not checked
	own     tokensvc.TokenSource // gives the bot's own token; nil: the caller has set the upstreams
	engine  *machine.Engine
	log     zerolog.Logger
	release []func() // close idle connections
}

// New builds a bot. It starts nothing and connects to nothing.
func New(cfg Config) (*Bot, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	b := &Bot{cfg: cfg, store: cfg.Engine.Store, log: cfg.Engine.Log}
	if b.hosts, err = teams.NewAllowList(cfg.ServiceURLs, false); err != nil {
		return nil, err
	}
	engine := cfg.Engine
	if err = b.upstreams(&engine); err != nil {
		return nil, err
	}
	if b.auth, err = cfg.authenticator(b.hosts); err != nil {
		return nil, err
	}
	if b.auth != nil {
		b.releases(b.auth)
	}
	if cfg.Metrics != nil {
		engine.Store, engine.Hooks = cfg.Metrics.Store(engine.Store), cfg.Metrics.Hooks(engine.Hooks)
	}
	if b.engine, err = machine.New(engine); err != nil {
		return nil, err
	}
	// Refuse now what could not be served, rather than when the program listens.
	if _, err = b.Handler(teams.BotFunc(nil)); err != nil {
		return nil, err
	}
	return b, nil
}

// releases notes a part that may keep idle connections open.
func (b *Bot) releases(part any) {
	if p, ok := part.(interface{ CloseIdleConnections() }); ok {
		b.release = append(b.release, p.CloseIdleConnections)
	}
}

// CloseIdleConnections closes idle connections to the upstreams. Run calls it at
// its end.
func (b *Bot) CloseIdleConnections() {
	for _, release := range b.release {
		release()
	}
}

// Engine returns the bot's engine, on whose flows the caller registers handlers.
func (b *Bot) Engine() *machine.Engine { return b.engine }

// ErrNoKeys means that there are no signing keys to verify incoming tokens with.
var ErrNoKeys = errors.New("signing keys unavailable")

// Ready reports whether the bot can accept activities now. Its error is the
// store's if a commit would fail, or [ErrNoKeys].
func (b *Bot) Ready(ctx context.Context) error {
	if err := b.engine.Ready(ctx); err != nil {
		return err
	}
	if b.auth == nil {
		return nil
	}
	if err := b.auth.Ready(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrNoKeys, err)
	}
	return nil
}

// Handler serves the bot: POST /api/messages, with code behind the engine, GET
// /healthz and GET /readyz. The caller may add further routes.
func (b *Bot) Handler(code teams.Bot) (*http.ServeMux, error) {
	messages, err := teams.NewHandler(b.engine, teams.Config{
		InboundAuth: b.cfg.InboundAuth, Authenticator: b.auth, Authenticate: b.cfg.Authenticate,
		Listener: b.cfg.Listen, ServiceURLs: b.hosts, Limits: b.cfg.Limits, Refusals: b.cfg.Refusals, Log: b.log,
	}, code)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/api/messages", messages)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		err := b.Ready(r.Context())
		switch {
		case err == nil:
			plain(w, http.StatusOK, "ready")
			return
		case errors.Is(err, ErrNoKeys):
			plain(w, http.StatusServiceUnavailable, ErrNoKeys.Error())
		default:
			plain(w, http.StatusServiceUnavailable, "store unavailable")
		}
		b.log.Warn().Err(err).Msg("not ready")
	})
	return mux, nil
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // the client may have gone
}

// Operators serves the operator API and the console for this bot. It sets what
// cfg reads from, where that is nil. Who may use it is up to cfg.
func (b *Bot) Operators(cfg operator.HandlerConfig) http.Handler {
	about := operator.Info{
		Live: true, Version: b.cfg.Version, PID: os.Getpid(), Started: operator.Time{Time: time.Now()}, Listen: b.cfg.Listen,
	}
	for _, c := range b.engine.Connections() {
		about.Names = append(about.Names, c.Name)
	}
	reader := operator.NewDirect(b.store, operator.DefaultRules(), about)
	reader.CountRefused(CountRefused(b.cfg.Refusals))
	reader.CountCircuits(CountCircuits(b.cfg.Upstreams))
	if cfg.Reader == nil {
		cfg.Reader = reader
	}
	if cfg.Actor == nil {
		cfg.Actor = operator.NewDirectActor(reader, b.engine)
	}
	if cfg.Ready == nil {
		cfg.Ready = b.Ready
	}
	if snap, ok := b.store.(operator.Snapshotter); ok && cfg.Snapshot == nil {
		cfg.Snapshot = snap
	}
	if shown := b.cfg.Metrics; shown != nil {
		if cfg.Metrics == nil {
			cfg.Metrics = shown.Handler()
		}
		if cfg.OnRefused == nil {
			cfg.OnRefused = shown.OperatorRefused
		}
	}
	cfg.Log = b.log
	return operator.NewHandler(cfg)
}

// CountRefused returns a function that counts the requests which the bot's
// listener refused, in the form that operators and metrics need.
func CountRefused(refusals *teams.Refusals) func() *operator.Refused {
	return func() *operator.Refused {
		counted := refusals.Snapshot()
		r := &operator.Refused{Reasons: make(map[string]int64, len(counted.Reasons)), OtherHosts: counted.OtherHosts}
		for _, one := range counted.Reasons {
			r.Reasons[one.What] = one.Count
		}
		for _, one := range counted.Hosts {
			r.Hosts = append(r.Hosts, operator.RefusedHost{
				Host: one.What, Count: one.Count, First: operator.Time{Time: one.First}, Last: operator.Time{Time: one.Last},
			})
		}
		for _, one := range counted.Callers {
			r.Callers = append(r.Callers, operator.RefusedCaller{
				App: one.What, Count: one.Count, First: operator.Time{Time: one.First}, Last: operator.Time{Time: one.Last},
			})
		}
		return r
	}
}

// CountCircuits returns a function that lists the state of the upstreams'
// breakers, in the form that operators and metrics need.
func CountCircuits(ways *upstream.Set) func() []operator.Circuit {
	return func() []operator.Circuit {
		var all []operator.Circuit
		for _, c := range ways.Circuits() {
			all = append(all, operator.Circuit{
				Upstream: c.Upstream, Host: c.Host, Open: c.Open, Since: operator.Time{Time: c.Since},
				Opened: c.Opened, Refused: c.Refused, Retried: c.Retried,
			})
		}
		return all
	}
}

// Door is another listener, with what it serves. It stays open until the engine
// has stopped.
type Door struct {
	Listener net.Listener
	Handler  http.Handler
}

// Run listens on Config.Listen and at Config.OperatorAt, and serves code until
// ctx is done; see [Bot.Serve]. It opens the listeners before it starts the
// engine.
func (b *Bot) Run(ctx context.Context, code teams.Bot) error {
	h, err := b.Handler(code)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", b.cfg.Listen)
	if err != nil {
		return fmt.Errorf("teamsbot: %w", err)
	}
	doors, err := b.Doors(ctx)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return b.Serve(ctx, l, h, doors...)
}

// Doors opens the operator endpoint of Config.OperatorAt. It returns nil if there
// is none.
func (b *Bot) Doors(ctx context.Context) ([]Door, error) {
	if b.cfg.OperatorAt == (operator.Endpoint{}) {
		return nil, nil
	}
	l, err := b.cfg.OperatorAt.Listen(ctx)
	if err != nil {
		return nil, err
	}
	at := b.cfg.OperatorAt
	if at.Network == "tcp" {
		at.Address = l.Addr().String() // the port that the system chose for 0
	}
	b.log.Info().Str("operator", at.String()).Msg("operator endpoint")
	return []Door{{l, b.Operators(b.cfg.Operator)}}, nil
}

// Serve runs the engine, and serves h on l and each door on its own listener,
// until ctx is done or a server fails. Then it stops the parts in this order:
//
//  1. It accepts no more activities, and waits at most Config.Grace for those in
//     flight.
//  2. The engine finishes what it has begun.
//  3. The doors close.
//
// Serve closes the listeners, but not the store.
func (b *Bot) Serve(ctx context.Context, l net.Listener, h http.Handler, doors ...Door) error {
	work := context.WithoutCancel(ctx)
	engine, stopEngine := context.WithCancel(work)
	defer stopEngine()
	ran := make(chan error, 1)
	go func() { ran <- b.engine.Run(engine) }()
	open, shut := context.WithCancel(work)
	defer shut()
	served, open := errgroup.WithContext(open)
	for _, d := range doors {
		served.Go(func() error { return operator.Serve(open, d.Listener, d.Handler) })
	}

	if b.cfg.TokenAtStart && b.own != nil {
		served.Go(func() error { b.fetchToken(open); return nil })
	}
	srv := b.cfg.Limits.Server(l.Addr().String(), h)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(b.cfg.Limits.Listener(l)) }()
	b.log.Info().Str("listen", l.Addr().String()).Int("connections", len(b.engine.Connections())).Msg("serving POST /api/messages")
	var err error
	select {
	case err = <-ended:
	case <-open.Done():
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(work, b.cfg.Grace)
	defer cancel()
	b.log.Info().Msg("stopping: no new activities, finishing those in flight")
	if e := srv.Shutdown(grace); e != nil {
		b.log.Warn().Err(e).Msg("activities in flight were cut off; the store keeps their attempts consistent")
		err = errors.Join(err, srv.Close())
	}
	stopEngine()
	err = errors.Join(err, <-ran)
	shut()
	err = errors.Join(err, served.Wait())
	b.CloseIdleConnections()
	if err == nil {
		b.log.Info().Msg("stopped")
	}
	return err
}

// fetchToken fetches the bot's own token before anybody needs it.
func (b *Bot) fetchToken(ctx context.Context) {
	_, err := b.own.Token(ctx)
	switch {
	case err == nil:
		b.log.Info().Msg("the bot's own token is there")
	case ctx.Err() == nil:
		b.log.Error().Err(err).Msg("the bot's own token cannot be fetched: nobody can sign in until it can")
	}
}
