package machine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine/internal/outbox"
	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// Connection is one OAuth connection setting of the bot.
type Connection struct {
	Name        string // as in the Azure Bot resource; compared without regard to case
	DisplayName string // for people; "" = Name
	CardText    string // "" = "Please Sign In" [S 004]
	DoneText    string // what takes the place of the cards once the user is signed in; "" = they stay
	ButtonText  string // "" = "Sign In" [S 004]
	NoSSO       bool   // the card never offers silent SSO

	// Tokens replaces the Token Service on this connection: the bot signs its users in
	// itself. Such a connection does not take part in signin/verifyState. If Tokens is
	// a [Redeemer], it does not take part in signin/tokenExchange either. nil =
	// Config.Tokens.
	Tokens TokenService
}

// The card's defaults [S 004 §10].
const (
	defaultCardText   = "Please Sign In"
	defaultButtonText = "Sign In"
)

// Config of an [Engine]. Store, Tokens, Messenger, AppID and at least one connection
// are required.
type Config struct {
	AppID       string // the bot's app id, part of every key and of the sign-in state
	Store       store.Store
	Tokens      TokenService
	Messenger   Messenger
	Connections []Connection
	Policy      *Policy   // nil = DefaultPolicy
	Timeouts    *Timeouts // nil = DefaultTimeouts
	Instance    string    // unique per process; "" = host name and a random suffix
	Log         zerolog.Logger
	Clock       func() time.Time // nil = time.Now; only durations are taken from it
	Hooks       Hooks

	// Keys returns keys from outside of the store. The first one makes new HMACs and
	// seals; the others, and those of the store, only read. It is called again with
	// each sweep ([Timeouts].Sweep). nil = the store's own; see [Engine.RotateKey].
	Keys func() ([]store.SecretKey, error)

	// TxCallbacks runs every callback in a transaction of the store that also
	// acknowledges it. The handler gets it from [Turn.Tx], so its writes in the same
	// database are effectively once. The store must be a [Transactor]; pgstore is.
	TxCallbacks bool
	// OnBehalfOf exchanges users' tokens for other scopes, for [WithScopes]. nil = that
	// option is an error.
	OnBehalfOf OnBehalfOf
	// Prefetch names the connections whose tokens are fetched before the bot
	// sees an activity.
	Prefetch []string
}

// Transactor is a store that can run a callback and its acknowledgement in one
// transaction.
type Transactor = outbox.Transactor

// Engine runs the sign-ins of one bot in one process. Its methods may be
// called from many goroutines.
type Engine struct {
	app      string
	store    *store.Group
	tokens   TokenService
	out      Messenger
	policy   Policy
	timeouts Timeouts
	instance string
	log      zerolog.Logger
	clock    func() time.Time
	hooks    Hooks
	handlers handlers // for every connection

	table *table.Table
	rules table.Policy // policy and timeouts, as the table asks for them
	since time.Time    // when this process began to own the store; zero if others share it
	began time.Time    // the same by the local clock
	ids   *idSource

	mark    marker
	ring    atomic.Pointer[ring]
	outside func() ([]store.SecretKey, error) // nil: the store's own keys

	flows    []*Flow // in the order of registration
	byName   map[string]*Flow
	prefetch []*Flow

	cache      *tokenCache
	behalf     OnBehalfOf
	exchanges  *tokenCache // what was exchanged on behalf of users
	outbox     *outbox.Outbox
	dropped    dropped
	quiet      *quiet
	purposesMu sync.RWMutex
	purposes   map[string]*handlers
	silentHits counter
}

// Errors of the engine's own.
var (
	// ErrUnknownConnection: no such connection is registered, or none was named
	// and there are several. The text lists the registered names.
	ErrUnknownConnection = errors.New("unknown connection")
	// ErrTerminal: the attempt has already ended.
	ErrTerminal = errors.New("attempt has already ended")
	// ErrAgentic: the turn is an agent's, so there is no user who could sign in.
	ErrAgentic = errors.New("nobody can sign in to an agent's turn")
	// ErrLeaseHeld: an instance is calling the Token Service now.
	ErrLeaseHeld = errors.New("attempt is held by a live lease")
)

// New checks the configuration, reads the keys for HMACs and sealed data, and makes an
// engine. It starts nothing: see [Engine.Run].
func New(cfg Config) (*Engine, error) {
	t, err := table.New()
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	return build(cfg, t)
}

// build makes an engine that runs a table. The table may serve many engines.
func build(cfg Config, t *table.Table) (*Engine, error) {
	if err := cfg.missing(); err != nil {
		return nil, err
	}
	e := &Engine{
		app: cfg.AppID, store: store.NewGroup(cfg.Store), tokens: cfg.Tokens, out: cfg.Messenger,
		policy: DefaultPolicy(), timeouts: DefaultTimeouts(),
		instance: cfg.Instance, log: cfg.Log, clock: cfg.Clock, hooks: cfg.Hooks,
		table: t, ids: newIDSource(), byName: map[string]*Flow{},
	}
	if cfg.Policy != nil {
		e.policy = *cfg.Policy
	}
	if cfg.Timeouts != nil {
		e.timeouts = *cfg.Timeouts
	}
	if err := errors.Join(e.policy.Validate(), e.timeouts.Validate(), e.policy.within(e.timeouts)); err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	e.rules = e.policy.rules(e.timeouts)
	if e.clock == nil {
		e.clock = time.Now
	}
	if e.instance == "" {
		e.instance = instanceName()
	}
	if store.IsExclusive(cfg.Store) {
		e.began = e.clock()
		e.since = store.Time(e.began)
	}
	e.quiet = newQuiet(e.clock)
	e.cache = newTokenCache(e.policy.TokenCache, e.clock, !store.IsExclusive(cfg.Store))
	if e.behalf = cfg.OnBehalfOf; e.behalf != nil {
		e.exchanges = newTokenCache(exchangedLife, e.clock, false)
	}
	e.outside, e.mark = cfg.Keys, e.marks
	ctx, cancel := context.WithTimeout(context.Background(), e.timeouts.Upstream)
	defer cancel()
	if err := e.loadKeys(ctx); err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	for _, c := range cfg.Connections {
		if err := e.register(c); err != nil {
			return nil, err
		}
	}
	for _, name := range cfg.Prefetch {
		f, err := e.Flow(name)
		if err != nil {
			return nil, fmt.Errorf("machine: prefetch: %w", err)
		}
		e.prefetch = append(e.prefetch, f)
	}
	return e, e.connectOutbox(cfg)
}

// missing reports the first required member that is not set.
func (c *Config) missing() error {
	for _, m := range []struct {
		name  string
		there bool
	}{
		{"AppID", c.AppID != ""},
		{"Store", c.Store != nil},
		{"Tokens", c.Tokens != nil},
		{"Messenger", c.Messenger != nil},
		{"Connections", len(c.Connections) > 0},
	} {
		if !m.there {
			return fmt.Errorf("machine: Config.%s is missing", m.name)
		}
	}
	return nil
}

func (e *Engine) connectOutbox(cfg Config) error {
	var tx Transactor
	if cfg.TxCallbacks {
		var ok bool
		if tx, ok = cfg.Store.(Transactor); !ok {
			return fmt.Errorf("machine: TxCallbacks: %T has no transactions to hand out", cfg.Store)
		}
	}
	e.outbox = outbox.New(outbox.Config{
		Store: e.store, Transactor: tx, Instance: e.instance, Lease: e.timeouts.OutboxLease,
		Budget: e.policy.CallbackBudget, Clock: e.clock,
		Prepare: e.prepare, Failed: e.callbackFailed, Overrun: e.callbackOverrun,
		Noted: func(ctx context.Context, line store.Event) { e.emit(ctx, store.Key{}, []store.Event{line}) },
	})
	return nil
}

func (e *Engine) register(c Connection) error {
	if c.Name == "" {
		return errors.New("machine: a connection has no name")
	}
	if e.registered(c.Name) != nil {
		return fmt.Errorf("machine: connection %q is registered twice", c.Name)
	}
	if c.DisplayName == "" {
		c.DisplayName = c.Name
	}
	if c.CardText == "" {
		c.CardText = defaultCardText
	}
	if c.ButtonText == "" {
		c.ButtonText = defaultButtonText
	}
	f := &Flow{eng: e, conn: c}
	e.flows = append(e.flows, f)
	e.byName[strings.ToLower(c.Name)] = f
	return nil
}

// service is the Token Service of a connection.
func (e *Engine) service(connection string) TokenService {
	if f := e.registered(connection); f != nil && f.conn.Tokens != nil {
		return f.conn.Tokens
	}
	return e.tokens
}

// registered returns the flow of a connection, nil if no such one is registered.
func (e *Engine) registered(name string) *Flow { return e.byName[strings.ToLower(name)] }

// Flow returns the flow of a registered connection; "" is the only one.
func (e *Engine) Flow(name string) (*Flow, error) {
	if name == "" && len(e.flows) == 1 {
		return e.flows[0], nil
	}
	if f := e.registered(name); f != nil {
		return f, nil
	}
	names := make([]string, len(e.flows))
	for i, f := range e.flows {
		names[i] = f.conn.Name
	}
	if name == "" {
		return nil, fmt.Errorf("%w: name one of %s", ErrUnknownConnection, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%w %q: registered are %s", ErrUnknownConnection, name, strings.Join(names, ", "))
}

// Connections lists the registered connections, in order of registration.
func (e *Engine) Connections() []Connection {
	out := make([]Connection, len(e.flows))
	for i, f := range e.flows {
		out[i] = f.conn
	}
	return out
}

// Turn makes the bot's view of an incoming activity.
func (e *Engine) Turn(act *Activity) *Turn {
	t := &Turn{eng: e, act: act, to: act.Conversation}
	if act.Type == typeInvoke {
		t.until = e.answerBy(act)
	}
	return t
}
