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

// Bot is an engine with everything around it.
type Bot struct {
	cfg     Config
	store   store.Store // as it was given
	hosts   *teams.AllowList
	auth    *teams.Authenticator // nil: no token of the connector is asked for
	own     tokensvc.TokenSource // gives the bot's own token; nil: the upstreams are the caller's
	engine  *machine.Engine
	log     zerolog.Logger
	release []func() // idle connections
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
	// What cannot be served is refused now, and not when the program listens.
	if _, err = b.Handler(teams.BotFunc(nil)); err != nil {
		return nil, err
	}
	return b, nil
}

// releases remembers a part that may keep connections open.
func (b *Bot) releases(part any) {
	if p, ok := part.(interface{ CloseIdleConnections() }); ok {
		b.release = append(b.release, p.CloseIdleConnections)
	}
}

// CloseIdleConnections closes the connections to the upstreams that nobody uses.
// Run does so at its end.
func (b *Bot) CloseIdleConnections() {
	for _, release := range b.release {
		release()
	}
}

// Engine is the bot's engine. Its flows and handlers are the caller's to use.
func (b *Bot) Engine() *machine.Engine { return b.engine }

// ErrNoKeys says that the keys which incoming tokens are checked with are not there.
var ErrNoKeys = errors.New("signing keys unavailable")

// Ready reports whether activities can be let in and remembered: whether a commit
// would work now, and whether there are keys to check tokens with ([ErrNoKeys]).
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

// Handler serves the bot: POST /api/messages with code behind the engine, and
// GET /healthz and /readyz. Further routes may be added to it.
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
	_, _ = w.Write([]byte(text + "\n")) // whoever asked may be gone
}

// Operators serves the operator API and the console over this bot. What cfg does
// not say is filled in; who gets in is cfg's to say.
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

// CountRefused is what a bot's listener did not let in, as operators and metrics
// ask for it.
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

// CountCircuits is how a bot's upstreams fare, as operators and metrics ask for
// it.
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

// Door is a listener beside the bot's own, with what is served on it. It is open
// until the engine has ended.
type Door struct {
	Listener net.Listener
	Handler  http.Handler
}

// Run listens on Config.Listen and at Config.OperatorAt, and serves code until
// ctx is done; see [Bot.Serve]. The listeners are open before the engine runs.
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

// Doors opens the operator endpoint of Config.OperatorAt. Without one there are
// none.
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
		at.Address = l.Addr().String() // the port that 0 became
	}
	b.log.Info().Str("operator", at.String()).Msg("operator endpoint")
	return []Door{{l, b.Operators(b.cfg.Operator)}}, nil
}

// Serve serves h on l, beside it the doors, and runs the engine, until ctx is done
// or one of the servers fails. Each part outlives the one before it: first no more
// activities come and those in flight are finished, for Config.Grace at most, then
// the engine finishes what it holds, then the doors close. It closes the
// listeners, and never the store.
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

// fetchToken has the bot's own token fetched before somebody needs it.
func (b *Bot) fetchToken(ctx context.Context) {
	_, err := b.own.Token(ctx)
	switch {
	case err == nil:
		b.log.Info().Msg("the bot's own token is there")
	case ctx.Err() == nil:
		b.log.Error().Err(err).Msg("the bot's own token cannot be fetched: nobody can sign in until it can")
	}
}
