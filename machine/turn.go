package machine

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Turn is one activity as the bot's own code sees it, or, when a callback is
// redelivered, the stored conversation in its place. Its methods name a
// connection only where several are registered.
type Turn struct {
	eng      *Engine
	act      *Activity // nil without a live turn
	to       store.Conversation
	original json.RawMessage
	fetched  map[*Flow]tokensvc.Token // ahead, see Config.Prefetch
	tx       any                      // of the callback, see Config.TxCallbacks
	delivery store.DeliveryKey
}

// Activity is what came in; nil when a callback is redelivered.
func (t *Turn) Activity() *Activity { return t.act }

// Conversation is where Send goes.
func (t *Turn) Conversation() store.Conversation { return t.to }

// Proactive reports whether there is no live turn: the callback comes from the
// outbox, after a crash or a failed try.
func (t *Turn) Proactive() bool { return t.act == nil }

// DeliveryKey is the stable key attempt/kind/round of a callback; "" outside
// of one.
func (t *Turn) DeliveryKey() string {
	if t.delivery.Attempt == "" {
		return ""
	}
	return t.delivery.String()
}

// Tx is the store's transaction that a callback runs in ([Config.TxCallbacks]):
// a pgx.Tx on Postgres. nil otherwise, and after the callback.
func (t *Turn) Tx() any { return t.tx }

// Request is the activity with which the user first asked, as it came, when
// the engine was told to keep it; nil otherwise.
func (t *Turn) Request() json.RawMessage { return t.original }

// Send answers with a plain text: a reply in a live turn, else proactively.
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

type signInOptions struct{ connection, text, button string }

// chosen is o with the options.
func chosen(o signInOptions, opts []SignInOption) signInOptions {
	if len(opts) == 0 {
		return o
	}
	changed := o // the only one that the options make escape
	for _, set := range opts {
		set(&changed)
	}
	return changed
}

// WithConnection names the connection; needed where several are registered.
func WithConnection(name string) SignInOption {
	return func(o *signInOptions) { o.connection = name }
}

// WithCardText sets the card's text for this sign-in.
func WithCardText(text string) SignInOption { return func(o *signInOptions) { o.text = text } }

// WithButtonText sets the title of the card's button for this sign-in.
func WithButtonText(text string) SignInOption { return func(o *signInOptions) { o.button = text } }

// SignIn returns the user's token if there is one. Otherwise it sends the
// card and returns an empty token: the sign-in is pending, and the flow's
// callback tells how it ends. An error means that nothing is under way.
func (t *Turn) SignIn(ctx context.Context, opts ...SignInOption) (tokensvc.Token, error) {
	f, err := t.eng.Flow(chosen(signInOptions{}, opts).connection)
	if err != nil {
		return tokensvc.Token{}, err
	}
	return f.SignIn(ctx, t, opts...)
}

// Token returns the user's token without sending anything; ErrNoToken of
// package tokensvc if there is none.
func (t *Turn) Token(ctx context.Context, connection ...string) (tokensvc.Token, error) {
	f, err := t.flow(connection)
	if err != nil {
		return tokensvc.Token{}, err
	}
	return f.Token(ctx, t)
}

// SignedIn reports whether the Token Service holds a token of the user.
func (t *Turn) SignedIn(ctx context.Context, connection ...string) (bool, error) {
	f, err := t.flow(connection)
	if err != nil {
		return false, err
	}
	return f.SignedIn(ctx, t)
}

// SignOut deletes the user's token and ends a sign-in under way.
func (t *Turn) SignOut(ctx context.Context, connection ...string) error {
	f, err := t.flow(connection)
	if err != nil {
		return err
	}
	return f.SignOut(ctx, t)
}

// SignOutAll signs the user out of every connection of the bot (E4).
func (t *Turn) SignOutAll(ctx context.Context) error {
	t.fetched = nil
	return t.eng.signOutAll(ctx, t)
}

// ConnectionStatus lists the user's connections and whether each has a token.
func (t *Turn) ConnectionStatus(ctx context.Context) ([]tokensvc.TokenStatus, error) {
	out, err := t.eng.tokens.GetTokenStatus(ctx, t.to.UserID, store.BaseChannel(t.to.Channel))
	if err != nil {
		return nil, fmt.Errorf("connection status: %w", err)
	}
	return out, nil
}

func (t *Turn) flow(connection []string) (*Flow, error) {
	name := ""
	if len(connection) > 0 {
		name = connection[0]
	}
	return t.eng.Flow(name)
}
