package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Turn is one activity as the bot's own code sees it. In a repeated callback it is the
// stored conversation instead. Its methods need a connection's name only if several are
// registered.
type Turn struct {
	eng      *Engine
	act      *Activity // nil without a live turn
	to       store.Conversation
	original func() ([]request, error) // of a callback; nil: none is kept
	before   func() ([]request, error) // of the attempts that it replaced; nil: there are none
	fetched  map[*Flow]tokensvc.Token  // by Config.Prefetch, or by the sign-in of a callback
	tx       any                       // of the callback, see Config.TxCallbacks
	delivery store.DeliveryKey
	part     string // of the delivery: names an activity that came back with another one's sign-in
	about    string // the connection of a callback
	refusal  *Refusal
	method   store.Method
	origin   store.Origin // of a callback: what brought it
	until    time.Time    // by when an invoke is answered; zero for anything else
}

// Refusal is the answer of an upstream, for a failure callback without a failure of the
// client.
type Refusal struct {
	Operation string // what was called: "Exchange", "GetToken"
	Status    int    // HTTP status, 0 for no answer
	Code      string // the upstream's own error code
	Kind      string // "consent_required", or "" where nothing more is known
	Ended     bool   // the attempt is over; otherwise the card's button still works
}

// Activity is the incoming activity; nil in a repeated callback.
func (t *Turn) Activity() *Activity { return t.act }

// Conversation is where Send writes to.
func (t *Turn) Conversation() store.Conversation { return t.to }

// Proactive reports whether there is no live turn: the callback comes from the
// outbox, after a crash or a failed try.
func (t *Turn) Proactive() bool { return t.act == nil }

// Connection is the name of a callback's connection, even if its token is gone. It is
// "" outside of a callback, and for a signin/failure that belongs to no sign-in: Teams
// does not name its connection.
func (t *Turn) Connection() string { return t.about }

// Attempt is the id of a callback's attempt, as the operator's commands take it. It is
// "" if [Turn.Connection] is.
func (t *Turn) Attempt() string { return t.delivery.Attempt }

// DeliveryKey is the stable key attempt/kind/round of a callback; "" outside
// of one. If the callback brings several activities to [Engine.OnSignInFor], a fourth
// part tells the others from the attempt's own.
func (t *Turn) DeliveryKey() string {
	if t.delivery.Attempt == "" {
		return ""
	}
	return t.delivery.String() + t.part
}

// Tx is the store's transaction in which a callback runs ([Config.TxCallbacks]): a
// pgx.Tx on Postgres. It is nil otherwise, and after the callback.
func (t *Turn) Tx() any { return t.tx }

// Refusal says more about a failure on the server side; nil outside of such a
// callback.
func (t *Turn) Refusal() *Refusal { return t.refusal }

// Method is how a completion callback's sign-in was completed; "" outside of one.
// [store.MethodCompose] and [store.MethodAdaptiveCard] are those of message extensions
// and cards, where the bot may not be in the conversation.
func (t *Turn) Method() store.Method { return t.method }

// Origin is where a callback's sign-in, or its failed try, comes from; "" outside of a
// callback. After [store.OriginCompose] (a message extension) and
// [store.OriginCardAction] (an Adaptive Card) the user already sees the answer, and the
// bot may not be in the conversation.
func (t *Turn) Origin() store.Origin { return t.origin }

// Request is the activity with which the user first asked, unchanged
// ([Policy.KeepRequest]); nil if it was not kept.
func (t *Turn) Request() json.RawMessage {
	return t.opened().activity
}

// Purpose is the purpose of a callback's sign-in ([WithPurpose]); "" if it has none, or
// if the activity was not kept.
func (t *Turn) Purpose() string {
	return t.opened().purpose
}

// opened is the first of what was kept of a callback's attempt; zero if nothing was. A
// callback with an error is not made, so there is none here.
func (t *Turn) opened() request {
	if t.original == nil {
		return request{}
	}
	all, _ := t.original()
	return all[0]
}

// Send sends a plain text: a reply in a live turn, else a proactive message.
func (t *Turn) Send(ctx context.Context, text string) error {
	_, err := t.send(ctx, Message{Text: text})
	return err
}

// SendActivity sends any activity; members that address it are filled in. It
// returns the new activity's id.
func (t *Turn) SendActivity(ctx context.Context, activity json.RawMessage) (string, error) {
	return t.send(ctx, Message{Raw: activity})
}

func (t *Turn) send(ctx context.Context, m Message) (string, error) {
	if t.act != nil {
		m.ReplyTo = t.act.ID
	}
	id, err := t.eng.out.Send(ctx, t.to, m)
	if err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	return id, nil
}

// SignInOption changes one SignIn.
type SignInOption func(*signInOptions)

type signInOptions struct{ connection, text, button, purpose string }

// chosen applies the options to o.
func chosen(o signInOptions, opts []SignInOption) signInOptions {
	for _, set := range opts {
		set(&o)
	}
	return o
}

// WithConnection names the connection; needed where several are registered.
func WithConnection(name string) SignInOption {
	return func(o *signInOptions) { o.connection = name }
}

// WithCardText sets the card's text for this sign-in.
func WithCardText(text string) SignInOption { return func(o *signInOptions) { o.text = text } }

// WithButtonText sets the title of the card's button for this sign-in.
func WithButtonText(text string) SignInOption { return func(o *signInOptions) { o.button = text } }

// WithPurpose says what the sign-in is for: a name of the bot's own, without NUL
// characters. The purpose is kept with the activity until the sign-in ends
// ([Policy.KeepRequest]), and the callback gets both ([Turn.Purpose],
// [Engine.OnSignInFor]), also if a sign-in was pending already.
func WithPurpose(purpose string) SignInOption {
	return func(o *signInOptions) { o.purpose = purpose }
}

// SignIn returns the user's token if there is one. Otherwise the sign-in is pending:
// the result says what it waits for, and the flow's handlers are called when it ends.
// An error means that no sign-in is under way; it is [ErrAgentic] in the turn of an
// agent.
func (t *Turn) SignIn(ctx context.Context, opts ...SignInOption) (SignInResult, error) {
	f, err := t.eng.Flow(chosen(signInOptions{}, opts).connection)
	if err != nil {
		return SignInResult{}, err
	}
	return f.SignIn(ctx, t, opts...)
}

// Token returns the user's token of a connection ("" = the only one) without
// sending anything; ErrNoToken of package tokensvc if there is none.
func (t *Turn) Token(ctx context.Context, connection string, opts ...TokenOption) (tokensvc.Token, error) {
	f, err := t.eng.Flow(connection)
	if err != nil {
		return tokensvc.Token{}, err
	}
	return f.Token(ctx, t, opts...)
}

// UserToken is the user's token of a connection ("" = the only one) if the turn already
// has it: it was fetched ahead ([Config.Prefetch]), or the turn is its sign-in's
// callback. It makes no call. false does not mean that the user is signed out: ask
// [Turn.SignedIn].
func (t *Turn) UserToken(connection string) (tokensvc.Token, bool) {
	f, err := t.eng.Flow(connection)
	if err != nil {
		return tokensvc.Token{}, false
	}
	tok, ok := t.fetched[f]
	return tok, ok
}

// SignedIn reports whether the Token Service holds a token of the user for a
// connection ("" = the only one).
func (t *Turn) SignedIn(ctx context.Context, connection string) (bool, error) {
	f, err := t.eng.Flow(connection)
	if err != nil {
		return false, err
	}
	return f.SignedIn(ctx, t)
}

// SignOut deletes the user's token and ends a sign-in under way, on each named
// connection. Without a name it is the only connection. A failure on one does not stop
// the others.
func (t *Turn) SignOut(ctx context.Context, connections ...string) error {
	if len(connections) == 0 {
		connections = []string{""}
	}
	errs := make([]error, 0, len(connections))
	for _, name := range connections {
		f, err := t.eng.Flow(name)
		if err == nil {
			err = f.SignOut(ctx, t)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// SignOutAll signs the user out of every connection of the bot (E4).
func (t *Turn) SignOutAll(ctx context.Context) error {
	t.fetched = nil
	return t.eng.signOutAll(ctx, t)
}

// TokenRejected says that an API has answered 401 to the user's token of a connection
// ("" = the only one). The engine's cache ([Policy.TokenCache]) drops it, on every
// instance. Only [Turn.SignOut] deletes the Token Service's own copy.
func (t *Turn) TokenRejected(ctx context.Context, connection string) error {
	f, err := t.eng.Flow(connection)
	if err != nil {
		return err
	}
	f.TokenRejected(ctx, t)
	return nil
}

// ConnectionStatus lists the user's connections and whether each has a token: those of
// the Token Service's own list, and every one that is registered with the engine. The
// list can be stale: a registered connection that it reports as not connected, or not at
// all, is checked again with GetToken.
func (t *Turn) ConnectionStatus(ctx context.Context) ([]tokensvc.TokenStatus, error) {
	out, err := t.eng.tokens.GetTokenStatus(ctx, t.to.UserID, store.BaseChannel(t.to.Channel))
	if err != nil {
		return nil, fmt.Errorf("connection status: %w", err)
	}
	for _, f := range t.eng.flows {
		i := slices.IndexFunc(out, func(s tokensvc.TokenStatus) bool { return strings.EqualFold(s.Connection, f.conn.Name) })
		if i >= 0 && out[i].HasToken {
			continue
		}
		in, err := f.SignedIn(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("connection status: %w", err)
		}
		if i >= 0 {
			out[i].HasToken = in
			continue
		}
		out = append(out, tokensvc.TokenStatus{
			ChannelID: store.BaseChannel(t.to.Channel), Connection: f.conn.Name, HasToken: in, DisplayName: f.conn.DisplayName,
		})
	}
	return out, nil
}

// agentic reports whether the turn is an agent's.
func (t *Turn) agentic() bool { return t.act != nil && t.act.Agentic }

// key is the turn's user with a connection.
func (t *Turn) key(connection string) store.Key {
	return store.Key{
		App: t.eng.app, Channel: store.BaseChannel(t.to.Channel), User: t.to.UserID, Connection: connection,
	}
}
