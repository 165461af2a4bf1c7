package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// call is one thing being handled from its first event to its last: an
// invoke, a SignIn, a sweep of one attempt.
type call struct {
	eng    *Engine
	locate func(context.Context) (sighting, error) // finds what the event is about, again after a lost race

	key   store.Key
	flow  *Flow // of the key's connection; nil if it is registered no more
	act   *Activity
	turn  *Turn // live, nil for sweeper and operator
	begun time.Time

	ssoToken tokensvc.Secret
	code     tokensvc.Secret
	request  []byte // the activity that asked, sealed
	cardText string
	button   string
	cardTo   store.Conversation // where the card goes

	token    tokensvc.Token          // what an upstream handed out
	resource tokensvc.SignInResource // of the card to be sent
	missed   bool                    // upstream just said that there is no token
	upstream error                   // why SignIn returns an error

	in    Input            // of the step that is being taken
	lines []store.Event    // audit lines, to travel with the next commit
	acks  []store.Delivery // outbox rows, to travel with the lines
	noted bool             // lines hold something worth a write of its own

	seen   time.Time // the store's clock at the last read …
	seenAt time.Time // … and ours
}

// sighting is what a locate found.
type sighting struct {
	attempt *store.Attempt
	oldCard bool // the event named a card that this attempt superseded
	foreign bool // the event named another user's card
}

// Outcome is how an event ended.
type Outcome struct {
	Rule    *Rule
	Attempt *store.Attempt
	Event   Event // the last one
}

// maxRaces bounds how often one event starts over because others were faster.
const maxRaces = 100

var errRaces = errors.New("lost too many races for the attempt")

// saw notes the store's clock.
func (c *call) saw(now time.Time) { c.seen, c.seenAt = now, c.eng.clock() }

// now is the store's clock, carried on by ours since the last read.
func (c *call) now() time.Time { return store.Time(c.seen.Add(c.eng.clock().Sub(c.seenAt))) }

// drive is the engine's loop: load, step, commit, act; the result comes back
// as the next event.
func (c *call) drive(ctx context.Context, ev Event) (Outcome, error) {
	here, err := c.locate(ctx)
	if err != nil {
		return Outcome{}, err
	}
	var interrupted *Event
	races := 0
	for {
		ev.OldCard, ev.Foreign = here.oldCard, here.foreign
		d, err := c.eng.def.step(c.input(here, ev)) //nolint:contextcheck // the step is pure: see fsm.go
		if err != nil {
			return Outcome{Attempt: here.attempt, Event: ev}, err
		}
		if len(d.Puts) > 0 {
			err := c.commit(ctx, &d, ev)
			if lostRace(err) {
				if races++; races > maxRaces {
					return Outcome{}, fmt.Errorf("%s: %w: %w", ev.Kind, errRaces, err)
				}
				before := here.attempt
				if here, err = c.again(ctx, here, ev); err != nil {
					return Outcome{}, err
				}
				ev.Raced = true
				ev.Another = ev.Another || here.attempt != nil && (before == nil || before.ID != here.attempt.ID)
				continue
			}
			if err != nil {
				return Outcome{}, err
			}
		} else {
			c.lines = append(c.lines, d.Lines...)
			c.noted = c.noted || len(d.Lines) > 0
		}
		here.attempt = d.Attempt
		c.tell(ctx, &d, ev)
		if d.Rule.To == store.Complete {
			c.eng.retire(ctx, d.Attempt, c.flow)
		}

		switch d.Rule.Then {
		case Nothing:
			return Outcome{Rule: d.Rule, Attempt: d.Attempt, Event: ev}, nil
		case Wait:
			c.wait(ctx, d.Attempt, d.Wait)
			ev.Waited = d.Attempt.State
			if here, err = c.locate(ctx); err != nil {
				return Outcome{}, err
			}
		case Again:
			if d.Rule.As != "" {
				ev.Kind = d.Rule.As
			}
		case Resume:
			if interrupted == nil {
				return Outcome{Rule: d.Rule, Attempt: d.Attempt, Event: ev}, nil
			}
			ev, interrupted = *interrupted, nil
		case Recover:
			before := ev
			before.Asked = true
			interrupted = &before
			ev = c.perform(ctx, d.Rule.Then, d.Attempt, ev)
		case DeleteAgain:
			c.perform(ctx, d.Rule.Then, d.Attempt, ev)
			return Outcome{Rule: d.Rule, Attempt: d.Attempt, Event: ev}, nil
		case AskToken, AskResource, PostCard, Exchange, Redeem, SpendCode, Delete:
			ev = c.perform(ctx, d.Rule.Then, d.Attempt, ev)
		}
	}
}

func (c *call) input(here sighting, ev Event) *Input {
	in := &c.in
	*in = Input{
		Attempt: here.attempt, Event: ev, Now: c.now(), Policy: &c.eng.policy, Timeouts: &c.eng.timeouts,
		Instance: c.eng.instance, Key: c.key,
	}
	if c.eng.def.opens[pair{ev.Kind, in.state()}] {
		in.NewID = c.eng.ids.next(in.Now)
	}
	if c.turn != nil {
		in.Conversation = c.turn.to
		in.Request = c.request
	} else if here.attempt != nil {
		in.Conversation = here.attempt.Conversation
	}
	return in
}

func lostRace(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists)
}

// again finds the attempt after a lost race. What an upstream said is about
// the attempt for which it was asked; a success goes on to the one that took
// its place. Anything else is located anew.
func (c *call) again(ctx context.Context, here sighting, ev Event) (sighting, error) {
	if here.attempt == nil || !isResult(ev.Kind) {
		return c.locate(ctx)
	}
	a, err := c.get(ctx, here.attempt.ID)
	if err == nil && isSuccess(ev.Kind) && a.State == store.Failed && a.Reason != store.ReasonSignedOut {
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
func (c *call) commit(ctx context.Context, d *Decision, ev Event) error {
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
			c.lines, c.noted = nil, false
			c.eng.observe(ctx, d)
			return nil
		case lostRace(err):
			return err
		case isSuccess(ev.Kind) && c.now().Add(pause).Before(until) && sleep(ctx, pause) == nil:
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
	out := make([]store.Event, 0, len(c.lines)+len(d.Lines))
	for _, l := range c.lines {
		if l.Attempt == "" {
			l.Attempt, l.Key = d.Attempt.ID, store.Key{}
		}
		out = append(out, l)
	}
	return append(out, d.Lines...)
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
	line := store.Event{Kind: store.EventReceived, Invoke: name, Time: c.now(), Instance: c.eng.instance, Key: c.key}
	if c.act != nil {
		line.Activity, line.Platform = c.act.ID, c.act.Platform
	}
	c.lines = append(c.lines, line)
}

// finish hands the remaining lines and acknowledgements to the next group of
// commits; nobody waits for them.
func (c *call) finish(ctx context.Context, a *store.Attempt) {
	if !c.noted && len(c.acks) == 0 {
		c.lines = nil
		return
	}
	for i := range c.lines {
		if c.lines[i].Attempt == "" && a != nil {
			c.lines[i].Attempt, c.lines[i].Key = a.ID, store.Key{}
		}
	}
	c.eng.store.Later(ctx, store.Commit{Events: c.lines, Deliveries: c.acks})
	c.lines, c.acks, c.noted = nil, nil, false
}

// observe tells the hooks and the log of a transition that is durable.
func (e *Engine) observe(ctx context.Context, d *Decision) {
	for _, l := range d.Lines {
		e.log.Debug().Str("attempt", l.Attempt).Str("row", l.Row).Str("from", string(l.From)).Str("to", string(l.To)).
			Int64("version", l.Version).Str("detail", l.Detail).Msg("transition")
		if e.hooks.OnTransition != nil {
			e.hooks.OnTransition(l)
		}
	}
	if d.Rule.To == store.Complete && e.hooks.OnSignIn != nil {
		e.hooks.OnSignIn(ctx, d.Attempt.Clone())
	}
}

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
