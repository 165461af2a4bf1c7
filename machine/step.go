package machine

import (
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

const statusRefused = 412

// Decision is what a step came to. It holds values only: the loop writes them,
// then acts.
type Decision struct {
	Rule    *Rule
	Attempt *store.Attempt  // what the rest is about: the one that was there, changed, or the one that was opened; nil = none
	Puts    []store.Attempt // to be written, in this order
	Lines   []store.Event   // the audit lines of the change
	Owed    *store.Delivery // the callback that goes with it
	Wait    time.Duration   // with Then Wait
}

// step looks the event up in the table and says what comes of it. It is pure:
// no clock, no context, no I/O.
func (d *definition) step(in *Input) (Decision, error) {
	state := in.state()
	if in.Attempt != nil && !state.Valid() {
		return Decision{}, fmt.Errorf("attempt %s: %w: unknown state %q", in.Attempt.ID, store.ErrCorrupt, state)
	}
	run, _ := d.runners.Get().(*runner)
	defer d.runners.Put(run)
	for _, rule := range d.byPair[pair{in.Event.Kind, state}] {
		if !rule.holds(in) {
			continue
		}
		to := state
		if rule.writes() { // else nothing becomes of the attempt, so there is no transition to take
			var err error
			if to, err = run.fire(rule.id, state); err != nil {
				return Decision{}, err
			}
		}
		return decide(run, rule, to, in)
	}
	return Decision{}, &IllegalTransitionError{State: state, Event: in.Event.Kind}
}

// decide carries the rule out on copies.
func decide(run *runner, rule *compiledRule, to store.State, in *Input) (Decision, error) {
	d := Decision{Rule: &rule.Rule, Lines: in.lines}
	w := writer{in: in, rule: &rule.Rule, d: &d}
	switch {
	case rule.Open != OpensNone:
		if in.Attempt != nil && rule.Open != OpensFresh {
			old := w.change(in.Attempt)
			old.SupersededBy = in.NewID
			w.move(old, to, store.ReasonSuperseded, "")
		}
		a := w.put()
		open(in, rule, a)
		if err := bear(run, rule, a, in, &w); err != nil {
			return Decision{}, err
		}
	case rule.writes():
		a := w.change(in.Attempt)
		for _, op := range rule.ops {
			op(in, a)
		}
		w.touch(a)
		w.move(a, to, rule.Reason, rule.Method)
		w.owe(a)
	default:
		d.Attempt = in.Attempt
		w.note()
	}
	if rule.Then == Wait {
		d.Wait = in.Policy.DuplicateWait
		if in.Event.Kind == SignInAsked {
			d.Wait = signInWait
		}
	}
	return d, nil
}

// signInWait is how long a SignIn waits for one that is under way (A12).
const signInWait = 2 * time.Second

// bear inserts the opened attempt as Idle and takes its first edge.
func bear(run *runner, rule *compiledRule, a *store.Attempt, in *Input, w *writer) error {
	born, err := run.fire(rule.idBirth, store.None)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	w.move(a, born, "", "")
	for _, op := range rule.ops {
		op(in, a)
	}
	w.touch(a)
	if rule.To != born {
		to, err := run.fire(rule.idFirst, born)
		if err != nil {
			return fmt.Errorf("first edge: %w", err)
		}
		w.move(a, to, rule.Reason, rule.Method)
	}
	w.owe(a)
	return nil
}

// open makes a the new attempt of a rule, not yet in any state.
func open(in *Input, rule *compiledRule, a *store.Attempt) {
	a.ID, a.Version = in.NewID, 1
	a.Key, a.Origin = in.Key, rule.Origin
	a.Conversation, a.Request = in.Conversation, in.Request
	a.Created, a.Expires = in.Now, in.Now.Add(in.Timeouts.Attempt)
	old := in.Attempt
	if old == nil {
		return
	}
	a.Generation = old.Generation
	if rule.Open != OpensFresh {
		a.Supersedes = old.ID
	}
	if rule.Open == OpensLinked {
		// The old card is still on the user's screen and brings its ids.
		a.ExchangeID, a.SSOOffered = old.ExchangeID, old.SSOOffered
		a.CardActivityID, a.CardConversation = old.CardActivityID, old.CardConversation
		if a.Request == nil {
			a.Request = old.Request
		}
	}
}

// writer collects what a decision writes.
type writer struct {
	in   *Input
	rule *Rule
	d    *Decision
}

// change is a's next version, to be written.
func (w *writer) change(a *store.Attempt) *store.Attempt {
	next := w.put()
	a.CloneTo(next)
	next.Version++
	return next
}

// put adds an attempt to what is written, and makes it what the rest is about.
// There is room for all of them from the start, so they stay where they are.
func (w *writer) put() *store.Attempt {
	if w.d.Puts == nil {
		w.d.Puts = make([]store.Attempt, 0, w.puts())
	}
	n := len(w.d.Puts)
	w.d.Puts = w.d.Puts[:n+1]
	w.d.Attempt = &w.d.Puts[n]
	return w.d.Attempt
}

// puts is how many attempts the rule writes: one that was there and one that is
// opened, or one of them.
func (w *writer) puts() int {
	if w.rule.Open == OpensInstead || w.rule.Open == OpensLinked {
		return 2
	}
	return 1
}

// touch notes which client was heard of.
func (w *writer) touch(a *store.Attempt) {
	if w.in.Event.Platform != "" {
		a.Platform = w.in.Event.Platform
	}
	if w.in.Event.Invoke != "" {
		a.Invokes++
	}
}

// move brings a into the state, which may be the one it is in, and writes the
// audit line.
func (w *writer) move(a *store.Attempt, to store.State, reason store.Reason, method store.Method) {
	from := a.State
	if to != from {
		a.State, a.Entered = to, w.in.Now
		if !holdsLease(to) {
			a.Lease.Until = time.Time{}
			a.CheckAt, a.Checks = time.Time{}, 0
		}
		if to == store.Failed {
			a.Reason = reason
		}
		if to == store.Complete {
			a.Method = method
		}
	}
	w.d.Lines = append(w.d.Lines, store.Event{
		Attempt: a.ID, Time: w.in.Now, Instance: w.in.Instance, Kind: store.EventTransition,
		Row: w.rule.Row, Version: a.Version, From: from, To: to,
		Invoke: w.in.Event.Invoke, Activity: w.in.Event.Activity, Platform: w.in.Event.Platform,
		Status: w.in.Event.Status, Detail: w.detail(a, to), Actor: w.in.Event.Actor,
	})
}

func holdsLease(s store.State) bool {
	return s == store.Idle || s == store.Exchanging || s == store.Verifying
}

func (w *writer) detail(a *store.Attempt, to store.State) string {
	switch {
	case to == store.Failed && a.Reason != "":
		return join(string(a.Reason), w.in.Event.Detail)
	case to == store.Complete:
		return string(a.Method)
	case w.rule.Note != "":
		return join(w.rule.Note, w.in.Event.Detail)
	default:
		return w.in.Event.Detail
	}
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + ": " + b
}

// owe writes the outbox row of the rule's callback: in the transaction of the
// transition that owes it. This instance is about to call; Tries says so.
func (w *writer) owe(a *store.Attempt) {
	if w.rule.Call == NoCallback {
		return
	}
	a.Calls++
	row := store.Delivery{
		DeliveryKey: store.DeliveryKey{Attempt: a.ID, Kind: store.DeliverFailure, Round: a.Calls},
		Status:      store.DeliveryPending,
		Tries:       1,
		Created:     w.in.Now,
		NextAt:      w.in.Now.Add(w.in.Timeouts.OutboxLease),
		Owner:       w.in.Instance,
	}
	switch w.rule.Call {
	case TellDone:
		row.Kind = store.DeliverComplete
	case TellNobody:
		row.Kind, row.Status, row.Tries = store.DeliverComplete, store.DeliveryNotOwed, 0
	case TellValue:
		row.Failure = failureOf(&w.in.Event)
		row.Fanout = w.in.Policy.FailureFanout == All
	case TellAll:
		row.Failure = failureOf(&w.in.Event)
		row.Fanout = true
	case TellFailed, NoCallback:
	}
	if w.in.Policy.CallbackMode == AtMostOnce && row.Status == store.DeliveryPending {
		row.Status = store.DeliveryDone
	}
	w.d.Owed = &row
}

// note is the audit line of a rule that changes nothing.
func (w *writer) note() {
	if w.rule.Note == "" {
		return
	}
	line := store.Event{
		Time: w.in.Now, Instance: w.in.Instance, Kind: store.EventNote, Row: w.rule.Row,
		Invoke: w.in.Event.Invoke, Activity: w.in.Event.Activity, Platform: w.in.Event.Platform,
		Status: w.in.Event.Status, Detail: join(w.rule.Note, w.in.Event.Detail), Actor: w.in.Event.Actor,
	}
	if w.in.Attempt != nil {
		line.Attempt = w.in.Attempt.ID
	} else {
		line.Key = w.in.Key
	}
	w.d.Lines = append(w.d.Lines, line)
}
