package machine

import (
	"context"
	"errors"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// finder finds the attempt that an event is about, nil for none. It is called again
// after a lost race. It may add what it finds out to the event, and redirect the
// call to the event's actual connection.
type finder interface {
	find(ctx context.Context, c *call, ev *table.Event) (*store.Attempt, error)
}

// byKey finds the newest attempt of the call's user and connection.
type byKey struct{}

func (byKey) find(ctx context.Context, c *call, _ *table.Event) (*store.Attempt, error) {
	return c.newest(ctx, c.key)
}

// toKeep finds the newest attempt, and adds the turn's activity to those that it keeps.
type toKeep struct{}

func (toKeep) find(ctx context.Context, c *call, ev *table.Event) (*store.Attempt, error) {
	ev.Request = nil
	a, err := c.newest(ctx, c.key)
	if err != nil || a == nil || a.State.Terminal() {
		return a, err
	}
	var kept []request
	if a.Request != nil {
		if kept, err = c.eng.unsealed(ctx, a); err != nil {
			return nil, err
		}
	} else {
		kept = []request{{}} // the first one was not kept
	}
	ev.Request = c.eng.sealed(kept, c.activity(), c.purpose)
	return a, nil
}

// byID finds one attempt again.
type byID string

func (id byID) find(ctx context.Context, c *call, _ *table.Event) (*store.Attempt, error) {
	return c.get(ctx, string(id))
}

// exactly is an attempt that has already been read.
type exactly struct{ attempt *store.Attempt }

func (x exactly) find(context.Context, *call, *table.Event) (*store.Attempt, error) {
	return x.attempt, nil
}

// byCard finds the attempt of a card, or the one that continues it.
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
	// A failed attempt must not be continued beside a pending one.
	pending, err := c.newest(ctx, found.Key)
	if err != nil || pending == nil || pending.State.Terminal() {
		return found, err
	}
	return pending, nil
}

// underWay finds the newest attempt if it has an upstream call under way.
type underWay struct{}

func (underWay) find(ctx context.Context, c *call, _ *table.Event) (*store.Attempt, error) {
	a, err := c.newest(ctx, c.key)
	if a == nil || a.State != store.Exchanging && a.State != store.Verifying {
		return nil, err
	}
	return a, err
}

// errUnregistered means that the exchange id belongs to a connection that is no
// longer registered. It is treated like an unknown one (B0).
var errUnregistered = errors.New("the card's connection is registered no more")

// byExchange finds the attempt of an exchange (B1, B13, B16 to B18). The exchange id
// identifies the card's attempt exactly; the newest of its chain is used. Without a
// known id it is the key's pending attempt.
type byExchange struct{}

func (x byExchange) find(ctx context.Context, c *call, ev *table.Event) (*store.Attempt, error) {
	ev.OldCard, ev.Foreign, ev.SignedOut, c.ended = false, false, false, nil
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
		// The sign-outs of a key are counted in its newest attempt.
		ev.SignedOut = table.HasSignedOut(head) || newest != nil && newest.Generation > head.Generation
		if pending && newest.ID != head.ID && head.State == store.Failed && !ev.SignedOut {
			ev.OldCard = true
			return newest, nil
		}
		ev.OldCard = head.ID != owner.ID
		return head, nil
	}
	// A missing or foreign id identifies nothing, so the token's mark is used.
	nameless := ev.ExchangeID == "" || ev.Foreign
	if pending || newest != nil && nameless && table.Marked(ev.TokenMarks, newest.TokenMark) {
		return newest, nil
	}
	c.ended = newest
	return nil, nil
}

// foreign notes once that an exchange id belongs to another user (B18). That user's
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

// isCardOf reports whether the activity replies to the attempt's card: card id and
// conversation both match.
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
