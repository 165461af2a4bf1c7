package machine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// outcome is how an event ended.
type outcome struct {
	row     string
	reply   table.Reply
	note    string
	attempt *store.Attempt // nil = none
	event   table.Event    // the last one
}

// maxRaces bounds how often one event starts over after a lost race.
const maxRaces = 100

var errRaces = errors.New("lost too many races for the attempt")

// drive handles an event up to its outcome. An error is the store's; the call has
// then stopped working under its claim.
func (c *call) drive(ctx context.Context, where finder, ev table.Event) (outcome, error) {
	out, err := c.loop(ctx, where, ev)
	if err != nil {
		c.eng.dropped.add(c.claim)
	}
	return out, err
}

// loop is the engine's main loop. It finds the attempt, asks the table, commits and
// acts. The upstream's answer is the next event.
func (c *call) loop(ctx context.Context, where finder, ev table.Event) (outcome, error) {
	at, err := where.find(ctx, c, &ev)
	if err != nil {
		return outcome{}, err
	}
	var interrupted *table.Event // by a recovery
	var wait waiting
	for races := 0; ; {
		if wait.another(c, at, &ev) {
			ev.Waited, ev.For = store.None, ""
		}
		d, err := c.step(at, ev) //nolint:contextcheck // the step is pure: see fsm.go
		if err != nil {
			return outcome{attempt: at, event: ev}, err
		}
		held := c.claim
		c.claims(at, &d)
		err = c.commit(ctx, &d, ev)
		if lostRace(err) || marksTaken(&d, err) {
			c.claim = held
			if races++; races > maxRaces {
				return outcome{}, fmt.Errorf("%s: %w: %w", ev.Kind, errRaces, err)
			}
			before := at
			if at, err = c.again(ctx, where, before, &ev); err != nil {
				return outcome{}, err
			}
			if len(d.Commit.Marks) > 0 && sameVersion(before, at) {
				// A mark that the code spends was taken, and the attempt is unchanged: the
				// code is checked again.
				c.token, c.marks = tokensvc.Token{}, nil
				ev = c.perform(ctx, table.Redeem, at, ev)
				continue
			}
			ev.Raced = true
			ev.Another = ev.Another || at != nil && (before == nil || before.ID != at.ID)
			continue
		}
		if err != nil {
			return outcome{}, err
		}
		at = d.Attempt
		c.tell(ctx, &d, ev)

		switch d.Rule.Then {
		case table.Nothing, table.DeleteAgain:
			if d.Rule.Then == table.DeleteAgain {
				c.deleteAgain(ctx, at, ev)
			}
			return outcome{row: d.Rule.Row, reply: d.Rule.Reply, note: d.Rule.Note, attempt: at, event: ev}, nil
		case table.Wait:
			if wait.until.IsZero() {
				wait.until = c.eng.clock().Add(c.eng.waitFor(ev.Kind))
			}
			c.wait(ctx, at, wait.until.Sub(c.eng.clock()))
			wait.fence, ev.Waited, ev.For = at.Lease.Fence, at.State, at.ID
			if at, err = where.find(ctx, c, &ev); err != nil {
				return outcome{}, err
			}
		case table.Again:
			if d.Rule.As != "" {
				ev.Kind = d.Rule.As
			}
		case table.Resume:
			if interrupted == nil {
				return outcome{row: d.Rule.Row, reply: d.Rule.Reply, attempt: at, event: ev}, nil
			}
			ev, interrupted = *interrupted, nil
		case table.Recover:
			before := ev
			before.Asked = true
			interrupted = &before
			ev = c.perform(ctx, table.Recover, at, ev)
		default:
			ev = c.perform(ctx, d.Rule.Then, at, ev)
		}
	}
}

// deleteAgain deletes a token that arrived after the user had signed out (E2). Its
// outcome changes nothing, so an invoke that is short of time does not wait for it.
func (c *call) deleteAgain(ctx context.Context, at *store.Attempt, ev table.Event) {
	if c.turn.left(c.eng.timeouts.Upstream, answerWithin-upstreamUntil) > 0 {
		c.perform(ctx, table.DeleteAgain, at, ev)
		return
	}
	later := c.eng.background(c.key)
	ctx = context.WithoutCancel(ctx)
	c.eng.outbox.Go(func() {
		later.perform(ctx, table.DeleteAgain, at, ev)
		later.worth = true
		later.finish(ctx, at)
	})
}

// step asks the table.
func (c *call) step(at *store.Attempt, ev table.Event) (table.Decision, error) {
	e := c.eng
	now := c.now()
	c.in = table.Input{
		Attempt: at, Event: ev, Now: now, Policy: &e.rules, Instance: e.instance, Since: e.ownedSince(now),
		Key: c.key, Ended: c.ended, Resumes: e.resumes(),
	}
	state := store.None
	if at != nil {
		state = at.State
		c.in.Conversation = at.Conversation
	}
	if c.turn != nil {
		c.in.Conversation = c.turn.to
	}
	if e.table.Opens(ev.Kind, state) {
		c.in.NewID = e.ids.next(c.in.Now)
		if c.asked {
			c.in.Request = e.sealed(nil, c.activity(), c.purpose)
		}
	}
	return e.table.Step(&c.in)
}

// commit writes what a decision changes, with the lines collected so far. A
// decision that changes nothing only adds to the lines.
//
// The commit of an upstream's success is retried until the lease ends while the
// store is down (S).
func (c *call) commit(ctx context.Context, d *table.Decision, ev table.Event) error {
	if !d.Writes() {
		c.lines = append(c.lines, d.Commit.Events...)
		c.worth = c.worth || len(d.Commit.Events) > 0
		return nil
	}
	d.Commit.Events = append(c.about(d.Attempt, len(d.Commit.Events)), d.Commit.Events...)
	if d.Rule.Method != "" {
		d.Commit.Marks = c.marks // the code is spent in the same commit
	}
	until := d.Attempt.Lease.Until
	if until.IsZero() {
		until = c.now().Add(c.eng.timeouts.Lease - c.eng.timeouts.Upstream)
	}
	if answer := c.now().Add(c.turn.left(c.eng.timeouts.Lease, 0)); answer.Before(until) {
		until = answer
	}
	for pause, first := shortPause, true; ; pause, first = min(2*pause, longPause), false {
		err := c.eng.store.Commit(ctx, d.Commit)
		if !d.Attempt.State.Terminal() {
			c.eng.quiet.opens(d.Attempt.Key) // even if the commit failed: its answer may be lost
		}
		if lostRace(err) && !first && c.written(ctx, d) {
			err = nil
		}
		switch {
		case err == nil:
			c.lines, c.worth = c.lines[:0], false
			c.eng.observe(ctx, d)
			return nil
		case lostRace(err), marksTaken(d, err):
			return err
		case ev.Kind.IsSuccess() && c.now().Add(pause).Before(until) && sleep(ctx, pause) == nil:
			continue
		default:
			if d.Owed != nil && d.Owed.Owner != "" {
				c.eng.outbox.Lost(*d.Owed) // the store may have kept it
			}
			return fmt.Errorf("commit %s: %w", d.Rule.Row, err)
		}
	}
}

// written reports whether the stored attempt equals the decision's. If so, an
// earlier try of the commit was kept and only its answer was lost: this process has
// won the race that it seemed to lose, and it holds the callback.
func (c *call) written(ctx context.Context, d *table.Decision) bool {
	a, err := c.get(ctx, d.Attempt.ID)
	return err == nil && reflect.DeepEqual(a, d.Attempt)
}

// The pauses between two tries of a commit.
const (
	shortPause = 20 * time.Millisecond
	longPause  = time.Second
)

// marksTaken reports whether another commit has already inserted one of the marks.
func marksTaken(d *table.Decision, err error) bool {
	return len(d.Commit.Marks) > 0 && errors.Is(err, store.ErrDuplicate)
}

func sameVersion(a, b *store.Attempt) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ID == b.ID && a.Version == b.Version
}

func lostRace(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists)
}

// again finds the attempt after a lost race. An upstream's answer stays with the
// attempt for which the call was made; a success moves on to the one that replaced
// it. For any other event the finder is asked again.
func (c *call) again(ctx context.Context, where finder, before *store.Attempt, ev *table.Event) (*store.Attempt, error) {
	if before == nil || !ev.Kind.IsAnswer() {
		return where.find(ctx, c, ev)
	}
	a, err := c.get(ctx, before.ID)
	if err == nil && ev.Kind.IsSuccess() && a.State == store.Failed && !table.HasSignedOut(a) {
		return c.successor(ctx, a)
	}
	return a, err
}

// signInWait is how long a SignIn waits for one that is under way (A12).
const signInWait = 2 * time.Second

func (e *Engine) waitFor(k table.Kind) time.Duration {
	if k == table.SignInAsked {
		return signInWait
	}
	return e.policy.DuplicateWait
}

// waiting is an event's wait for another caller.
type waiting struct {
	until time.Time // for all that it waits for
	fence int64     // of the claim that it has waited for
}

// another reports whether the attempt is held by another claim than the one that the
// event has waited for, such as a recovery's, and there is time left to wait for that.
func (w *waiting) another(c *call, a *store.Attempt, ev *table.Event) bool {
	return ev.Waited != store.None && a != nil && a.ID == ev.For && a.State == ev.Waited &&
		a.Lease.Fence != w.fence && a.Lease.Live(c.now()) && c.eng.clock().Before(w.until)
}

// wait returns when the attempt has left its state, when its lease has ended, or
// after d.
func (c *call) wait(ctx context.Context, a *store.Attempt, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	version, until := a.Version, a.Lease.Until
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

// observe tells the hooks and the log of a transition that is durable.
func (e *Engine) observe(ctx context.Context, d *table.Decision) {
	e.emit(ctx, d.Attempt.Key, d.Commit.Events)
	for _, l := range d.Commit.Events {
		if l.Kind != store.EventTransition {
			continue
		}
		e.logger(ctx).Debug().Str("attempt", l.Attempt).Str("row", l.Row).Str("from", string(l.From)).Str("to", string(l.To)).
			Int64("version", l.Version).Str("detail", l.Detail).Msg("transition")
	}
	if d.Rule.Method == "" {
		if d.Rule.Row == "A9" && d.Attempt.State == store.Complete {
			own := d.Attempt.Clone() // its card alone: those before it are replaced
			own.Supersedes = ""
			e.retire(ctx, &own)
		}
		return
	}
	if e.hooks.OnSignIn != nil {
		e.hooked(ctx, func() { e.hooks.OnSignIn(ctx, d.Attempt.Clone()) })
	}
	e.retire(ctx, d.Attempt)
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
