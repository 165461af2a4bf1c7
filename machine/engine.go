package machine

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Connection is one OAuth connection setting of the bot.
type Connection struct {
	Name        string // as in the Azure Bot resource; compared without regard to case
	DisplayName string // for people; "" = Name
	CardText    string // "" = "Please Sign In" [S 004]
	DoneText    string // what takes the card's place once the user is signed in; "" = the card stays
	ButtonText  string // "" = "Sign In" [S 004]
}

// The card's defaults [S 004 §10].
const (
	defaultCardText   = "Please Sign In"
	defaultButtonText = "Sign In"
)

// Config is what an engine is made of. Store, Tokens, Messenger, AppID and at
// least one connection are required.
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

	// TxCallbacks runs every callback in a transaction of the store that also
	// acknowledges it: [Turn.Tx] hands it to the handler, whose writes in the
	// same database are then effectively once. The store has to be a
	// [Transactor]; pgstore is.
	TxCallbacks bool
	// KeepRequest keeps the activity with which the user asked, sealed, for as
	// long as the attempt lives: [Turn.Request] of the completion has it.
	KeepRequest bool
	// TypedCodes takes a message of six digits for a verification code while a
	// popup is pending.
	TypedCodes bool
	// Prefetch names the connections whose tokens are fetched before the bot
	// sees an activity.
	Prefetch []string
}

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
	def      *definition
	ids      *idSource
	markers  sync.Pool
	hints    hints
	sealer   *sealer

	flows  []*Flow // in the order of registration
	byName map[string]*Flow

	transactor  Transactor // nil = callbacks have no transaction
	keepRequest bool
	typedCodes  bool
	prefetch    []*Flow

	silentHits counter
	detached   sync.WaitGroup // callbacks that went on over their budget
}

// Errors of the engine's own.
var (
	// ErrUnknownConnection: no such connection is registered, or none was named
	// and there are several. The text lists the registered names.
	ErrUnknownConnection = errors.New("unknown connection")
	// ErrTerminal: the attempt has ended; there is nothing to do to it.
	ErrTerminal = errors.New("attempt has already ended")
	// ErrLeaseHeld: an instance is talking to the Token Service right now.
	ErrLeaseHeld = errors.New("attempt is held by a live lease")
)

// New checks the configuration and builds an engine. It starts nothing: see
// [Engine.Run].
func New(cfg Config) (*Engine, error) {
	switch {
	case cfg.AppID == "":
		return nil, errors.New("machine: AppID is missing")
	case cfg.Store == nil:
		return nil, errors.New("machine: Store is missing")
	case cfg.Tokens == nil:
		return nil, errors.New("machine: Tokens is missing")
	case cfg.Messenger == nil:
		return nil, errors.New("machine: Messenger is missing")
	case len(cfg.Connections) == 0:
		return nil, errors.New("machine: no connection is registered")
	}
	def, err := define(Table())
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	return build(cfg, def)
}

// build makes an engine that runs a definition. The definition may serve many
// engines.
func build(cfg Config, def *definition) (*Engine, error) {
	e := &Engine{
		app: cfg.AppID, store: store.NewGroup(cfg.Store), tokens: cfg.Tokens, out: cfg.Messenger,
		policy: DefaultPolicy(), timeouts: DefaultTimeouts(),
		instance: cfg.Instance, log: cfg.Log, clock: cfg.Clock, hooks: cfg.Hooks,
		def: def, ids: newIDSource(), byName: map[string]*Flow{}, hints: hints{of: map[string]hint{}},
	}
	if cfg.Policy != nil {
		e.policy = *cfg.Policy
	}
	if cfg.Timeouts != nil {
		e.timeouts = *cfg.Timeouts
	}
	if err := errors.Join(e.policy.Validate(), e.timeouts.Validate()); err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	if e.clock == nil {
		e.clock = time.Now
	}
	if e.instance == "" {
		e.instance = instanceName()
	}
	secret := cfg.Store.Secret()
	markKey := derive(secret, "marks")
	e.markers.New = func() any { return &marker{mac: hmac.New(sha256.New, markKey)} }
	var err error
	if e.sealer, err = newSealer(derive(secret, "seals")); err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	for _, c := range cfg.Connections {
		if err := e.register(c); err != nil {
			return nil, err
		}
	}
	e.keepRequest, e.typedCodes = cfg.KeepRequest, cfg.TypedCodes
	if cfg.TxCallbacks {
		tx, ok := cfg.Store.(Transactor)
		if !ok {
			return nil, fmt.Errorf("machine: TxCallbacks: %T has no transactions to hand out", cfg.Store)
		}
		e.transactor = tx
	}
	for _, name := range cfg.Prefetch {
		f, err := e.Flow(name)
		if err != nil {
			return nil, fmt.Errorf("machine: prefetch: %w", err)
		}
		e.prefetch = append(e.prefetch, f)
	}
	return e, nil
}

func (e *Engine) register(c Connection) error {
	if c.Name == "" {
		return errors.New("machine: a connection has no name")
	}
	if e.byName[strings.ToLower(c.Name)] != nil {
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

// Flow returns the flow of a registered connection; "" is the only one.
func (e *Engine) Flow(name string) (*Flow, error) {
	if name == "" && len(e.flows) == 1 {
		return e.flows[0], nil
	}
	if f := e.byName[strings.ToLower(name)]; f != nil {
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

// Turn makes the bot's view of an activity that came in.
func (e *Engine) Turn(act *Activity) *Turn {
	return &Turn{eng: e, act: act, to: act.Conversation}
}

// HandleInvoke answers the three signin/* invokes; false means that the
// activity is none of them. Whatever happens there is an answer, and it is the
// table's; while the store is down it is 503 (S).
func (e *Engine) HandleInvoke(ctx context.Context, act *Activity) (Answer, bool) {
	// The caller may hang up; what was begun is finished all the same.
	ctx = detach(ctx)
	switch act.Name {
	case InvokeTokenExchange:
		return e.tokenExchange(ctx, act), true
	case InvokeVerifyState:
		return e.verifyState(ctx, act), true
	case InvokeFailure:
		return e.signInFailure(ctx, act), true
	default:
		return Answer{}, false
	}
}

// Ready reports whether the store answers.
func (e *Engine) Ready(ctx context.Context) error {
	if _, err := e.store.Info(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// Drain waits for callbacks that went on over their budget and writes the
// audit lines and acknowledgements that nobody waited for. Call it after the
// last activity and before closing the store.
func (e *Engine) Drain(ctx context.Context) error {
	done := make(chan struct{})
	go func() { e.detached.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("drain: %w", ctx.Err())
	}
	if err := e.store.Flush(ctx); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	return nil
}

// mark recognises a repeat of something secret without keeping it: an HMAC
// under the store's own key, so that six digits cannot be tried out.
func (e *Engine) mark(kind string, user store.UserKey, secret tokensvc.Secret) []byte {
	m, _ := e.markers.Get().(*marker)
	defer e.markers.Put(m)
	m.text = m.text[:0]
	for _, part := range [...]string{kind, user.App, user.Channel, user.User, secret.Reveal()} {
		m.text = append(append(m.text, part...), 0)
	}
	m.mac.Reset()
	m.mac.Write(m.text)
	clear(m.text) // there is a secret in it
	return m.mac.Sum(nil)[:16]
}

// marker makes marks. Its HMAC keeps what it has computed of the key.
type marker struct {
	mac  hash.Hash
	text []byte
}

func derive(secret []byte, purpose string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("signin-engine " + purpose))
	return h.Sum(nil)
}

func instanceName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "bot"
	}
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return host + "-" + hex.EncodeToString(b[:])
}
