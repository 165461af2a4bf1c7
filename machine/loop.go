package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// call is one thing being handled from its first event to its last: an
// invoke, a SignIn, a sweep of one attempt.
//
// The event lies in in.Event from its arrival to the last answer of an
// upstream. It and the lines are passed by pointer: the clients of the
// upstreams are called from here and need the goroutine's stack themselves.
type call struct {
	eng    *Engine
	locate func(*call, context.Context) (sighting, error) // finds what the event is about, again after a lost race

	key   store.Key
	flow  *Flow // of the key's connection; nil if it is registered no more
	act   *Activity
	turn  *Turn // live, nil for sweeper and operator
	begun time.Time

	ssoToken tokensvc.Secret
	code     tokensvc.Secret
	cardText string
	button   string
	cardTo   store.Conversation // where the card goes

	token    tokensvc.Token          // what an upstream handed out
	resource tokensvc.SignInResource // of the card to be sent
	missed   bool                    // upstream just said that there is no token
	upstream error                   // why SignIn returns an error

	in          Input            // of the step that is being taken
	interrupted *Event           // by a recovery
	lines       []store.Event    // audit lines, to travel with the next commit
	acks        []store.Delivery // outbox rows, to travel with the lines
	noted       bool             // lines hold something worth a write of its own

	seen   time.Time // the store's clock at the last read …
	seenAt time.Time // … and ours

	// Where lines, the lines of a decision and those of a commit begin. Nobody
	// has this memory any longer than the call of the store takes.
	lineRoom     [4]store.Event
	decisionRoom [3]store.Event
	commitRoom   [6]store.Event
}

// calls are used again: most of them, the silent hits, leave nothing behind.
var calls = sync.Pool{New: func() any { return new(call) }}

func (e *Engine) newCall() *call {
	c, _ := calls.Get().(*call)
	c.eng, c.begun = e, e.clock()
	c.seen, c.seenAt = c.begun, c.begun
	c.in.Policy, c.in.Timeouts, c.in.Instance = &e.policy, &e.timeouts, e.instance
	c.lines, c.in.lines = c.lineRoom[:0], c.decisionRoom[:0]
	return c
}

// release ends the use of c. A call that is not released is garbage like any
// other. After a drive whose context can end it must not be: the store may still
// be writing what lies in it.
func (c *call) release() {
	*c = call{}
	calls.Put(c)
}

// sighting is what a locate found.
type sighting struct {
	attempt *store.Attempt
	oldCard bool // the event named a card that this attempt superseded
	foreign bool // the event named another user's card
	hint    bool // the store was not asked
}

// outcome is how an event ended; the last event is in the call.
type outcome struct {
	rule    *Rule
	attempt *store.Attempt
}

// maxRaces bounds how often one event starts over because others were faster.
const maxRaces = 100

var errRaces = errors.New("lost too many races for the attempt")

// saw notes the store's clock.
func (c *call) saw(now time.Time) { c.seen, c.seenAt = now, c.eng.clock() }

// now is the store's clock, carried on by ours since the last read.
func (c *call) now() time.Time { return c.at(c.eng.clock()) }

// at is the store's clock when ours said so.
func (c *call) at(ours time.Time) time.Time { return store.Time(c.seen.Add(ours.Sub(c.seenAt))) }

// drive is the engine's loop: load, step, commit, act; the result comes back
// as the next event.
func (c *call) drive(ctx context.Context) (outcome, error) {
	here, err := c.locate(c, ctx)
	if err != nil {
		return outcome{}, err
	}
	ev := &c.in.Event
	races := 0
	for {
		ev.OldCard, ev.Foreign = here.oldCard, here.foreign
		d, err := c.eng.def.step(c.input(here.attempt)) //nolint:contextcheck // the step is pure: see fsm.go
		if here.hint && (err != nil || len(d.Puts) == 0) {
			if here, err = c.locate(c, ctx); err != nil {
				return outcome{}, err
			}
			continue
		}
		if err != nil {
			return outcome{attempt: here.attempt}, err
		}
		if len(d.Puts) > 0 {
			err := c.commit(ctx, &d)
			if lostRace(err) || here.hint && errors.Is(err, store.ErrNotFound) {
				if races++; races > maxRaces {
					return outcome{}, fmt.Errorf("%s: %w: %w", ev.Kind, errRaces, err)
				}
				before := here
				if here, err = c.again(ctx, here); err != nil {
					return outcome{}, err
				}
				if !before.hint { // a hint was out of date before the event came
					ev.Raced = true
					ev.Another = ev.Another || here.attempt != nil && (before.attempt == nil || before.attempt.ID != here.attempt.ID)
				}
				continue
			}
			if err != nil {
				return outcome{}, err
			}
		} else {
			c.lines = append(c.lines, d.Lines...)
			c.noted = c.noted || len(d.Lines) > 0
		}
		here.attempt, here.hint = d.Attempt, false
		c.tell(ctx, &d)
		if d.Rule.To == store.Complete {
			c.eng.retire(ctx, d.Attempt, c.flow)
		}

		switch d.Rule.Then {
		case Nothing:
			return outcome{rule: d.Rule, attempt: d.Attempt}, nil
		case Wait:
			c.wait(ctx, d.Attempt, d.Wait)
			ev.Waited = d.Attempt.State
			if here, err = c.locate(c, ctx); err != nil {
				return outcome{}, err
			}
		case Again:
			if d.Rule.As != "" {
				ev.Kind = d.Rule.As
			}
		case Resume:
			if c.interrupted == nil {
				return outcome{rule: d.Rule, attempt: d.Attempt}, nil
			}
			*ev, c.interrupted = *c.interrupted, nil
		case Recover:
			c.interrupt()
			c.perform(ctx, d.Rule.Then, d.Attempt)
		case DeleteAgain:
			c.deleteAgain(ctx, d.Attempt)
			return outcome{rule: d.Rule, attempt: d.Attempt}, nil
		case AskToken, AskResource, PostCard, Exchange, Redeem, SpendCode, Delete:
			c.perform(ctx, d.Rule.Then, d.Attempt)
		}
	}
}

// interrupt puts the event aside for a recovery.
func (c *call) interrupt() {
	before := c.in.Event
	before.Asked = true
	c.interrupted = &before
}

// deleteAgain is a courtesy: the event stays what it was, whatever the
// upstream says.
func (c *call) deleteAgain(ctx context.Context, a *store.Attempt) {
	before := c.in.Event
	c.perform(ctx, DeleteAgain, a)
	c.in.Event = before
}

func (c *call) input(a *store.Attempt) *Input {
	in := &c.in
	in.Attempt, in.Now, in.Key, in.NewID = a, c.now(), c.key, ""
	if c.eng.def.opens[pair{in.Event.Kind, in.state()}] {
		in.NewID = c.eng.ids.next(in.Now)
	}
	if c.turn == nil && a != nil {
		in.Conversation = a.Conversation
	}
	return in
}

func lostRace(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists)
}

// again finds the attempt after a lost race. What an upstream said is about
// the attempt for which it was asked; a success goes on to the one that took
// its place. Anything else is located anew.
func (c *call) again(ctx context.Context, here sighting) (sighting, error) {
	kind := c.in.Event.Kind
	if here.attempt == nil || !isResult(kind) {
		return c.locate(c, ctx)
	}
	a, err := c.get(ctx, here.attempt.ID)
	if err == nil && isSuccess(kind) && a.State == store.Failed && a.Reason != store.ReasonSignedOut {
		a, err = c.successor(ctx, a)
	}
	return sighting{attempt: a, oldCard: here.oldCard}, err
}

// successor is what goes on where a failed attempt ended: the newest of its
// chain or, if that has failed too, the key's attempt that is under way, beside
// which none may be opened.
func (c *call) successor(ctx context.Context, a *store.Attempt) (*store.Attempt, error) {
	a, err := c.head(ctx, a)
	if err != nil || a.State != store.Failed || a.Reason == store.ReasonSignedOut {
		return a, err
	}
	pending, err := c.byKey(ctx)
	if err != nil || pending.attempt == nil || pending.attempt.State.Terminal() {
		return a, err
	}
	return pending.attempt, nil
}

func isResult(k Kind) bool {
	switch k {
	case SignInAsked, TokenFound, NoToken, LookupFailed, TokenExchange, VerifyState, NoMatch, PopupClosed,
		ClientFailure, SignOutAsked, SignedOut, SignOutError, Sweep, ReconcileAsk, CancelAsked:
		return false
	case ResourceCame, ResourceFailed, CardAccepted, CardRejected, CardUnclear,
		ExchangeOK, ExchangeRefused, ExchangeFailed, VerifyOK, VerifyMiss, VerifyRefused, VerifyFailed,
		CodeSpent, Recovered, NotRecovered, RecoverFailed:
		return true
	}
	return false
}

func isSuccess(k Kind) bool { return k == ExchangeOK || k == VerifyOK || k == Recovered }

// get reads one attempt.
func (c *call) get(ctx context.Context, id string) (*store.Attempt, error) {
	snap, err := c.eng.store.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read attempt %s: %w", id, err)
	}
	c.saw(snap.Now)
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

// commit writes a decision. An upstream's success is worth waiting for: while
// the store is down it is tried again until the lease is over (S).
func (c *call) commit(ctx context.Context, d *Decision) error {
	w := store.Commit{Put: d.Puts, Events: c.flushable(d)}
	if d.Owed != nil {
		w.Deliveries = append(w.Deliveries, *d.Owed)
	}
	if slices.Contains(d.Rule.Do, dropOwed) {
		dropped, err := c.owed(ctx, d.Attempt.ID)
		if err != nil {
			return err
		}
		w.Deliveries = append(w.Deliveries, dropped...)
	}
	until := d.Attempt.Lease.Until
	if until.IsZero() {
		until = c.now().Add(c.eng.timeouts.Lease - c.eng.timeouts.Upstream)
	}
	for pause := shortPause; ; pause = min(2*pause, longPause) {
		err := c.eng.store.Commit(ctx, w)
		switch {
		case err == nil:
			c.lines, c.noted = c.lines[:0], false
			c.eng.hints.keep(c, d.Puts)
			c.eng.observe(ctx, d)
			return nil
		case lostRace(err):
			return err
		case isSuccess(c.in.Event.Kind) && c.now().Add(pause).Before(until) && sleep(ctx, pause) == nil:
			continue
		default:
			return fmt.Errorf("commit %s: %w", d.Rule.Row, err)
		}
	}
}

// The pauses between two tries of a settling commit.
const (
	shortPause = 20 * time.Millisecond
	longPause  = time.Second
)

// flushable are the lines collected so far and those of the decision. Lines
// that were written before the attempt was known get its id.
func (c *call) flushable(d *Decision) []store.Event {
	out := append(c.commitRoom[:0], c.lines...)
	attribute(out, d.Attempt)
	return append(out, d.Lines...)
}

func attribute(lines []store.Event, a *store.Attempt) {
	for i := range lines {
		if l := &lines[i]; l.Attempt == "" {
			l.Attempt, l.Key = a.ID, store.Key{}
		}
	}
}

// owed are the completions of an attempt that nobody has been told of, as
// dropped.
func (c *call) owed(ctx context.Context, id string) ([]store.Delivery, error) {
	// What was told must not count as dropped because its acknowledgement is still waiting.
	if err := c.eng.store.Flush(ctx); err != nil {
		return nil, fmt.Errorf("flush acknowledgements of %s: %w", id, err)
	}
	page, err := c.eng.store.List(ctx, store.Filter{IDPrefix: id, Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("read outbox of %s: %w", id, err)
	}
	var out []store.Delivery
	for _, row := range page.Deliveries {
		if row.Kind == store.DeliverComplete && row.Status == store.DeliveryPending {
			row.Status = store.DeliveryDropped
			out = append(out, row)
		}
	}
	return out, nil
}

// wait returns when the attempt has left its state, when nobody holds it any
// more, or after d.
func (c *call) wait(ctx context.Context, a *store.Attempt, d time.Duration) {
	if d <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	version := a.Version
	until := a.Lease.Until
	for ctx.Err() == nil {
		left := until.Sub(c.now())
		if left <= 0 {
			return
		}
		look, stop := context.WithTimeout(ctx, left)
		err := c.eng.store.Changed(look, a.ID, version)
		stop()
		if err != nil && look.Err() == nil {
			return
		}
		now, err := c.get(ctx, a.ID)
		if err != nil || now.State != a.State {
			return
		}
		version, until = now.Version, now.Lease.Until
	}
}

// note adds an audit line that changes nothing.
func (c *call) note(line store.Event) {
	line.Time, line.Instance = c.now(), c.eng.instance
	if line.Attempt == "" {
		line.Key = c.key
	}
	c.lines = append(c.lines, line)
	c.noted = true
}

// received is the first line of an invoke or a call of the bot. It is not
// worth a write of its own: a silent hit leaves nothing behind.
func (c *call) received(name string) {
	line := store.Event{Kind: store.EventReceived, Invoke: name, Time: c.at(c.begun), Instance: c.eng.instance, Key: c.key}
	if c.act != nil {
		line.Activity, line.Platform = c.act.ID, c.act.Platform
	}
	c.lines = append(c.lines, line)
}

// finish hands the remaining lines and acknowledgements to the next group of
// commits; nobody waits for them.
func (c *call) finish(ctx context.Context, a *store.Attempt) {
	if c.noted || len(c.acks) > 0 {
		lines := slices.Clone(c.lines)
		if a != nil {
			attribute(lines, a)
		}
		c.eng.store.Later(ctx, store.Commit{Events: lines, Deliveries: c.acks})
	}
	c.lines, c.acks, c.noted = c.lines[:0], nil, false
}

// observe tells the hooks and the log of a transition that is durable.
func (e *Engine) observe(ctx context.Context, d *Decision) {
	for i := range d.Lines {
		l := &d.Lines[i]
		e.log.Debug().Str("attempt", l.Attempt).Str("row", l.Row).Str("from", string(l.From)).Str("to", string(l.To)).
			Int64("version", l.Version).Str("detail", l.Detail).Msg("transition")
		if e.hooks.OnTransition != nil {
			e.hooks.OnTransition(*l)
		}
	}
	if d.Rule.To == store.Complete && e.hooks.OnSignIn != nil {
		e.signedIn(ctx, d.Attempt)
	}
}

// signedIn keeps the copy off the stack of those who have no hook.
//
//go:noinline
func (e *Engine) signedIn(ctx context.Context, a *store.Attempt) { e.hooks.OnSignIn(ctx, a.Clone()) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
