package machine

import (
	"context"
	"errors"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// finder finds the attempt that an event is about, nil for none. It is asked
// again after a lost race. What it finds out about the event it puts there, and
// it may turn the call to the connection that the event is really about.
type finder interface {
	find(ctx context.Context, c *call, ev *table.Event) (*store.Attempt, error)
}

// byKey finds the newest attempt of the call's user and connection.
type byKey struct{}

func (byKey) find(ctx context.Context, c *call, _ *table.Event) (*store.Attempt, error) {
	return c.newest(ctx, c.key)
}

// byID finds one attempt again.
type byID string

func (id byID) find(ctx context.Context, c *call, _ *table.Event) (*store.Attempt, error) {
	return c.get(ctx, string(id))
}

// exactly is an attempt that is not read again.
type exactly struct{ attempt *store.Attempt }

func (x exactly) find(context.Context, *call, *table.Event) (*store.Attempt, error) {
	return x.attempt, nil
}

// byCard finds the attempt of a card, or the one that goes on where it ended.
type byCard string

func (id byCard) find(ctx context.Context, c *call, _ *table.Event) (*store.Attempt, error) {
	found, err := c.get(ctx, string(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if found, err = c.head(ctx, found); err != nil || found.State != store.Failed {
		return found, err
	}
	// A failed one must not be linked beside one that is under way by now.
	pending, err := c.newest(ctx, found.Key)
	if err != nil || pending == nil || pending.State.Terminal() {
		return found, err
	}
	return pending, nil
}

// underWay finds the newest attempt if it talks to an upstream.
type underWay struct{}

func (underWay) find(ctx context.Context, c *call, _ *table.Event) (*store.Attempt, error) {
	a, err := c.newest(ctx, c.key)
	if a == nil || a.State != store.Exchanging && a.State != store.Verifying {
		return nil, err
	}
	return a, err
}

// errUnregistered: the exchange id leads to a connection that is registered no
// more, which is as good as an unknown one (B0).
var errUnregistered = errors.New("the card's connection is registered no more")

// byExchange finds the attempt of an exchange: by the card's exchange id, which
// is exact (through the chain to its newest attempt), else by what is pending
// for the key (B1, B13, B16 to B18).
type byExchange struct{}

func (x byExchange) find(ctx context.Context, c *call, ev *table.Event) (*store.Attempt, error) {
	ev.OldCard, ev.Foreign, c.ended = false, false, nil
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey(), Connection: c.key.Connection, ExchangeID: ev.ExchangeID})
	if err != nil {
		return nil, err
	}
	owner := snap.ByExchangeID
	if owner != nil && owner.Key.UserKey() != c.key.UserKey() {
		ev.Foreign, owner = true, nil
		c.foreign(ctx, snap.ByExchangeID)
	}
	if owner != nil && !owner.Key.Same(c.key) {
		if c.eng.registered(owner.Key.Connection) == nil {
			return nil, errUnregistered
		}
		// The id names the card; the connection's name in the value does not.
		c.key = owner.Key
		return x.find(ctx, c, ev)
	}
	var newest *store.Attempt
	if len(snap.Attempts) > 0 {
		newest = &snap.Attempts[0]
	}
	pending := newest != nil && !newest.State.Terminal()
	if owner != nil {
		head, err := c.head(ctx, owner)
		if err != nil {
			return nil, err
		}
		if pending && newest.ID != head.ID && head.State == store.Failed && head.Reason != store.ReasonSignedOut {
			ev.OldCard = true
			return newest, nil
		}
		ev.OldCard = head.ID != owner.ID
		return head, nil
	}
	// An id that is missing or another user's says nothing: the token does.
	nameless := ev.ExchangeID == "" || ev.Foreign
	if pending || newest != nil && nameless && table.Marked(ev.TokenMarks, newest.TokenMark) {
		return newest, nil
	}
	c.ended = newest
	return nil, nil
}

// foreign notes an exchange id that belongs to another user (B18), once. That
// attempt is never touched.
func (c *call) foreign(ctx context.Context, owner *store.Attempt) {
	for _, l := range c.lines {
		if l.Kind == store.EventSecurity && l.Row == "B18" {
			return
		}
	}
	c.note(store.Event{Kind: store.EventSecurity, Row: "B18", Invoke: InvokeTokenExchange, Detail: "exchange id of another user"})
	c.eng.logger(ctx).Warn().Str("user", c.key.User).Str("attempt", owner.ID).
		Msg("signin/tokenExchange with the exchange id of another user")
}

// isCardOf reports whether the activity replies to the attempt's card: both its
// id and its conversation are the card's.
func isCardOf(a *store.Attempt, act *Activity) bool {
	if act.ReplyToID == "" || a.CardActivityID != act.ReplyToID {
		return false
	}
	return isAt(a, act.Conversation.ID)
}

// isAt reports whether the attempt's card is in a conversation.
func isAt(a *store.Attempt, conversation string) bool {
	if a.CardConversation != "" {
		return a.CardConversation == conversation
	}
	return a.Conversation.ID == conversation
}
