package machine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// call handles one request from its first event to its last: an invoke, a SignIn,
// or the sweep of one attempt. It belongs to one goroutine.
type call struct {
	eng   *Engine
	turn  *Turn     // nil for sweeper and operator
	key   store.Key // its connection's; redirected if the event is another's
	begun time.Time
	clock storeClock
	in    table.Input // of the current step
	claim claim       // the last one

	// Secrets from the invoke. They must never be stored.
	ssoToken tokensvc.Secret
	code     tokensvc.Secret

	// The card that this call may send.
	card cardPlan

	// What the upstreams answered.
	token    tokensvc.Token
	noToken  bool         // the Token Service has just said so
	looked   *table.Event // what the Token Service said before the store was read
	spared   bool         // no upstream was called: the answer was here
	upstream error        // why the last call to an upstream failed

	asked   bool           // the bot asks: an attempt that is opened keeps the activity
	purpose string         // what the bot asks for
	via     store.Origin   // where the request came from, if not the chat
	marks   []store.Mark   // spent by a code of the bot's own, with the completion
	ended   *store.Attempt // the newest of the key, if the event is about none

	// Audit lines for the next commit. worth means that they are written even if
	// no other commit follows. A silent hit stores nothing.
	lines []store.Event
	worth bool
}

// cardPlan is a card that is to be sent.
type cardPlan struct {
	text, button string
	to           store.Conversation
	resource     tokensvc.SignInResource
}

// storeClock extrapolates the store's time from its last read, by the local clock.
type storeClock struct{ store, ours time.Time }

func (c storeClock) at(ours time.Time) time.Time {
	return store.Time(c.store.Add(ours.Sub(c.ours)))
}

// call begins a call for one connection of a turn's user.
func (e *Engine) call(turn *Turn, connection string) *call {
	c := e.background(turn.key(connection))
	c.turn = turn
	return c
}

// background begins a call without a turn.
func (e *Engine) background(key store.Key) *call {
	now := e.clock()
	return &call{eng: e, key: key, begun: now, clock: storeClock{now, now}}
}

// now is the store's clock.
func (c *call) now() time.Time { return c.clock.at(c.eng.clock()) }

func (c *call) saw(now time.Time) { c.clock = storeClock{now, c.eng.clock()} }

// flow returns the flow of the call's connection, nil if it is no longer registered.
func (c *call) flow() *Flow { return c.eng.registered(c.key.Connection) }

func (c *call) activity() *Activity {
	if c.turn == nil {
		return nil
	}
	return c.turn.act
}

// tokens is the Token Service of the call's connection.
func (c *call) tokens() TokenService { return c.eng.service(c.key.Connection) }

// user is the user and connection as the Token Service knows them.
func (c *call) user() tokensvc.UserConnection { return userConnection(c.key) }

func userConnection(k store.Key) tokensvc.UserConnection {
	return tokensvc.UserConnection{UserID: k.User, Connection: k.Connection, ChannelID: k.Channel}
}

// event creates an event from the incoming invoke.
func (c *call) event(k table.Kind) table.Event {
	act := c.turn.act
	return table.Event{Kind: k, Invoke: act.Name, Activity: act.ID, Platform: act.Platform, Via: c.via}
}

// The reads of a call.

func (c *call) find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	snap, err := c.eng.store.Find(ctx, q)
	if err != nil {
		return store.Snapshot{}, fmt.Errorf("read attempts of %s: %w", q.User.User, err)
	}
	c.saw(snap.Now)
	return snap, nil
}

func (c *call) get(ctx context.Context, id string) (*store.Attempt, error) {
	snap, err := c.eng.store.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read attempt %s: %w", id, err)
	}
	c.saw(snap.Now)
	return &snap.Attempts[0], nil
}

// newest returns the key's pending attempt, else its newest one; nil if there is
// none.
func (c *call) newest(ctx context.Context, k store.Key) (*store.Attempt, error) {
	snap, err := c.find(ctx, store.Query{User: k.UserKey(), Connection: k.Connection})
	if err != nil || len(snap.Attempts) == 0 {
		return nil, err
	}
	return &snap.Attempts[0], nil
}

// head follows a chain to its newest attempt.
func (c *call) head(ctx context.Context, a *store.Attempt) (*store.Attempt, error) {
	for a.SupersededBy != "" {
		next, err := c.get(ctx, a.SupersededBy)
		if errors.Is(err, store.ErrNotFound) {
			return a, nil
		}
		if err != nil {
			return nil, err
		}
		a = next
	}
	return a, nil
}

// successor returns the attempt that continues a: the newest of its chain. If that
// one has failed too, it is the key's pending attempt, since no second one may be
// opened beside it.
func (c *call) successor(ctx context.Context, a *store.Attempt) (*store.Attempt, error) {
	a, err := c.head(ctx, a)
	if err != nil || a.State != store.Failed || table.HasSignedOut(a) {
		return a, err
	}
	pending, err := c.newest(ctx, a.Key)
	if err != nil || pending == nil || pending.State.Terminal() {
		return a, err
	}
	return pending, nil
}

// The audit lines of a call.

// received adds the first audit line of an invoke or of a call by the bot.
func (c *call) received(name string) {
	line := store.Event{
		Kind: store.EventReceived, Invoke: name, Time: c.clock.at(c.begun), Instance: c.eng.instance, Key: c.key,
	}
	if act := c.activity(); act != nil {
		line.Activity, line.Platform = act.ID, act.Platform
	}
	c.lines = append(make([]store.Event, 0, usualLines), line)
}

// usualLines is how many lines a call typically collects before it commits: the
// incoming event, two upstream calls, a note.
const usualLines = 4

// note adds an audit line of something that changes no attempt.
func (c *call) note(line store.Event) {
	line.Time, line.Instance = c.now(), c.eng.instance
	if line.Attempt == "" {
		line.Key = c.key
	}
	c.lines = append(c.lines, line)
	c.worth = true
}

// about returns a copy of the lines so far, assigned to the attempt. The slice has room
// for more lines.
func (c *call) about(a *store.Attempt, more int) []store.Event {
	lines := append(make([]store.Event, 0, len(c.lines)+more), c.lines...)
	assign(lines, a)
	return lines
}

// assign assigns the lines that were added before their attempt was known.
func assign(lines []store.Event, a *store.Attempt) {
	for i := range lines {
		if l := &lines[i]; a != nil && l.Attempt == "" {
			l.Attempt, l.Key = a.ID, store.Key{}
		}
	}
}

// finish hands the remaining lines to the next group of commits and does not wait
// for it.
func (c *call) finish(ctx context.Context, a *store.Attempt) {
	lines := c.lines
	assign(lines, a)
	if c.worth {
		later := store.Commit{Events: lines}
		if a != nil {
			later.User = a.Key.UserKey()
		}
		c.eng.store.Later(ctx, later)
	}
	c.eng.emit(ctx, c.key, lines)
	c.lines, c.worth = nil, false
}

// answer writes the audit line of an invoke's answer, and ends the call.
func (c *call) answer(ctx context.Context, out outcome, a Answer) Answer {
	line := c.answered(out.row, a.Status)
	line.Invoke, line.Activity = out.event.Invoke, out.event.Activity
	if out.attempt != nil {
		line.Attempt = out.attempt.ID
	}
	c.note(line)
	c.finish(ctx, out.attempt)
	return a
}

// answered creates the audit line of an answer.
func (c *call) answered(row string, status int) store.Event {
	return store.Event{Kind: store.EventAnswer, Row: row, Status: status, Duration: c.eng.clock().Sub(c.begun)}
}

// seen shows the hooks an answer that leaves no line in the store.
func (c *call) seen(ctx context.Context, row string, status int) {
	line := c.answered(row, status)
	line.Time, line.Instance, line.Key = c.now(), c.eng.instance, c.key
	if act := c.activity(); act != nil {
		line.Invoke, line.Activity = act.Name, act.ID
	}
	c.eng.emit(ctx, c.key, []store.Event{line})
}

// broken answers an invoke after the store has failed (S).
func (c *call) broken(ctx context.Context, out outcome, err error) Answer {
	c.eng.logger(ctx).Error().Str("user", c.key.User).Str("connection", c.key.Connection).Err(err).Msg("store unavailable: invoke answered 503")
	c.eng.report(ctx, c.activity(), err)
	c.finish(ctx, out.attempt)
	a := unavailable()
	c.seen(ctx, out.row, a.Status)
	return a
}

// refuse answers an unusable invoke (B0, C0). It adds one audit line, on the
// pending attempt if there is one, and calls no upstream.
func (c *call) refuse(ctx context.Context, row string, status int, why string, pending *store.Attempt) Answer {
	act := c.turn.act
	c.note(store.Event{
		Kind: store.EventNote, Row: row, Invoke: act.Name, Activity: act.ID, Platform: act.Platform,
		Status: status, Detail: why,
	})
	c.eng.logger(ctx).Warn().Str("user", c.key.User).Str("conversation", c.turn.to.ID).Str("row", row).Int("status", status).Msg(why)
	if err := c.eng.Ready(ctx); err != nil {
		return c.broken(ctx, outcome{attempt: pending}, err)
	}
	c.finish(ctx, pending)
	c.seen(ctx, row, status)
	return Answer{Status: status}
}
