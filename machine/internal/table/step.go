package table

import (
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Step applies the first matching rule to an event. If the event has no rules in
// the attempt's state, the error is an [*IllegalTransitionError].
func (t *Table) Step(in *Input) (Decision, error) {
	state := in.state()
	if in.Attempt != nil && !state.Valid() {
		return Decision{}, fmt.Errorf("attempt %s: unknown state %q: %w", in.Attempt.ID, state, store.ErrCorrupt)
	}
	rules := t.rules[pair{in.Event.Kind, state}]
	for i := range rules {
		if rules[i].holds(in) {
			return t.decide(in, &rules[i])
		}
	}
	return Decision{}, &IllegalTransitionError{State: state, Event: in.Event.Kind}
}

// decide applies a rule to copies of the records.
func (t *Table) decide(in *Input, r *rule) (Decision, error) {
	w := writer{in: in, rule: r, graph: t.graph}
	w.d.Rule, w.d.Attempt, w.d.Tell = r.Rule, in.Attempt, r.Tell
	var err error
	switch {
	case r.Open != OpensNone:
		err = w.open()
	case r.Edge != "" || len(r.Do) > 0:
		err = w.change()
	default:
		w.note()
	}
	if err != nil {
		return Decision{}, fmt.Errorf("row %s: %w", r.Row, err)
	}
	return w.d, nil
}

// writer collects what a decision writes.
type writer struct {
	in    *Input
	rule  *rule
	graph *graph
	d     Decision
}

// change applies the rule to the existing attempt.
func (w *writer) change() error {
	a := w.next()
	w.apply(a)
	if w.rule.drops() {
		w.d.Commit.Drop = []string{a.ID}
	}
	if err := w.move(a, w.rule.Edge, w.rule.Reason); err != nil {
		return err
	}
	w.put(a)
	return nil
}

// open inserts a new attempt as Idle and takes the rule's edge, if it has one.
// The existing attempt becomes its predecessor unless the rule opens a fresh one.
func (w *writer) open() error {
	old := w.in.Attempt
	if old != nil && w.rule.Open != OpensFresh {
		prior := w.next()
		prior.SupersededBy = w.in.NewID
		edge := Edge("") // an ended attempt keeps its state
		if w.rule.Open == OpensInstead {
			edge = fail
		}
		if err := w.move(prior, edge, store.ReasonSuperseded); err != nil {
			return err
		}
	}
	a := w.born(old)
	if err := w.move(a, open, ""); err != nil {
		return err
	}
	w.apply(a)
	if w.rule.Edge != "" {
		if err := w.move(a, w.rule.Edge, w.rule.Reason); err != nil {
			return err
		}
	}
	w.put(a)
	return nil
}

// born creates the new attempt, before its first edge.
func (w *writer) born(old *store.Attempt) *store.Attempt {
	in := w.in
	a := w.write(store.Attempt{
		ID: in.NewID, Version: 1, Key: in.Key, Origin: w.rule.Origin,
		Conversation: in.Conversation, Request: in.Request,
		Created: in.Now, Expires: in.Now.Add(in.Policy.AttemptLife),
	})
	if in.Event.Via != "" {
		a.Origin = in.Event.Via
	}
	if in.Event.Invoke == "" {
		a.Activity = in.Event.Activity
	}
	before := old
	if before == nil {
		before = in.Ended
	}
	if before != nil {
		a.Generation, a.NoSSOUntil = before.Generation, before.NoSSOUntil
	}
	if w.rule.Open != OpensFresh {
		a.Supersedes = old.ID
	}
	if w.rule.Open == OpensLinked {
		// The old card is still on the user's screen, and its invokes carry its ids.
		a.ExchangeID, a.SSOOffered, a.ResourceURI = old.ExchangeID, old.SSOOffered, old.ResourceURI
		a.CardActivityID, a.CardConversation = old.CardActivityID, old.CardConversation
		if a.Request == nil {
			a.Request = old.Request
		}
	}
	return a
}

// next creates the next version of the existing attempt.
func (w *writer) next() *store.Attempt {
	a := w.write(w.in.Attempt.Clone())
	a.Version++
	return a
}

// write adds an attempt to the commit and returns a pointer to it. The next write
// invalidates the pointer.
func (w *writer) write(a store.Attempt) *store.Attempt {
	w.d.Commit.Put = append(w.d.Commit.Put, a)
	return &w.d.Commit.Put[len(w.d.Commit.Put)-1]
}

// apply runs the rule's ops. Like every write, it also records the client's
// platform, counts the invoke and refreshes the conversation.
func (w *writer) apply(a *store.Attempt) {
	for _, op := range w.rule.ops {
		op(w.in, a)
	}
	if w.in.Event.Platform != "" {
		a.Platform = w.in.Event.Platform
	}
	if w.in.Event.Invoke != "" {
		a.Invokes++
	}
	refresh(&a.Conversation, &w.in.Conversation)
}

// refresh updates the stored conversation from an activity, since service URLs
// move. An activity of another conversation only updates the service URL.
func refresh(stored, came *store.Conversation) {
	switch {
	case came.ServiceURL == "":
	case came.ID == stored.ID:
		*stored = *came
	default:
		stored.ServiceURL = came.ServiceURL
	}
}

// move takes an edge, if there is one, and writes the audit line of the change.
func (w *writer) move(a *store.Attempt, e Edge, reason store.Reason) error {
	from, to := a.State, a.State
	if e != "" {
		var err error
		if to, err = w.graph.take(e, from); err != nil {
			return err
		}
	}
	if to != from {
		a.State, a.Entered = to, w.in.Now
		if to == CardSent || to.Terminal() { // it has no owner any more
			a.Lease.Until, a.CheckAt, a.Checks = time.Time{}, time.Time{}, 0
		}
		if to == Failed {
			a.Reason = reason
		}
		if to == Complete {
			a.Method = w.method()
		}
	}
	line := w.line(store.EventTransition)
	line.Attempt, line.Version, line.From, line.To = a.ID, a.Version, from, to
	line.Detail = w.detail(a, e, to)
	w.d.Commit.Events = append(w.d.Commit.Events, line)
	return nil
}

// method returns the rule's method, unless the event came from a message extension
// or an Adaptive Card.
func (w *writer) method() store.Method {
	switch w.in.Event.Via {
	case store.OriginCompose:
		return store.MethodCompose
	case store.OriginCardAction:
		return store.MethodAdaptiveCard
	default:
		return w.rule.Method
	}
}

// detail is the text of the audit line: what its states do not show.
func (w *writer) detail(a *store.Attempt, e Edge, to store.State) string {
	said := w.in.Event.Detail
	switch {
	case e != "" && to == Failed:
		return join(string(a.Reason), said)
	case e != "" && to == Complete:
		return string(a.Method)
	case w.rule.Note != "":
		return join(w.rule.Note, said)
	default:
		return said
	}
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + ": " + b
}

// put completes a decision about an attempt and adds the rule's callback.
func (w *writer) put(a *store.Attempt) {
	w.owe(a)
	w.d.Attempt = a
}

// owe adds the outbox row of the rule's callback to the transition's transaction.
// This instance holds the row of an attempt's first callback and makes it at once.
// A later one has to be claimed, since an earlier one may still be under way.
func (w *writer) owe(a *store.Attempt) {
	if w.d.Tell == TellNothing || w.d.Tell == TellApp {
		return
	}
	a.Calls++
	row := store.Delivery{
		DeliveryKey: store.DeliveryKey{Attempt: a.ID, Kind: store.DeliverFailure, Round: a.Calls},
		Status:      store.DeliveryPending,
		Created:     w.in.Now,
		NextAt:      w.in.Now,
	}
	switch w.d.Tell {
	case TellDone:
		row.Kind = store.DeliverComplete
	case TellSilent:
		row.Kind = store.DeliverComplete
		if !w.resumes(a) {
			row.Status = store.DeliveryNotOwed
		}
	case TellValue:
		row.Failure = FailureOf(&w.in.Event)
		row.Fanout = w.in.Policy.TellAllFailures
	case TellAll:
		row.Failure = FailureOf(&w.in.Event)
		row.Fanout = true
	case TellFailed:
		row.Refusal = FailureOf(&w.in.Event)
	case TellNothing, TellApp:
	}
	switch {
	case row.Status != store.DeliveryPending, w.d.Tell == TellSilent: // it is made in the background
	case w.in.Policy.AcknowledgeFirst:
		row.Status, row.Tries = store.DeliveryDone, 1
	case row.Round == 1:
		row.Owner, row.Tries, row.NextAt = w.in.Instance, 1, w.in.Now.Add(w.in.Policy.OutboxLease)
	}
	w.d.Owed = &row
	w.d.Commit.Deliveries = []store.Delivery{row}
}

// resumes reports whether the completion of an attempt, which is told to nobody, brings
// back what the user asked before. A callback that is acknowledged first cannot wait for
// the outbox.
func (w *writer) resumes(a *store.Attempt) bool {
	return w.in.Resumes && a.Method == store.MethodSilent && !w.in.Policy.AcknowledgeFirst &&
		(a.Request != nil || a.Supersedes != "")
}

// note adds the audit line of a rule that changes nothing.
func (w *writer) note() {
	if w.rule.Note == "" {
		return
	}
	line := w.line(store.EventNote)
	line.Detail = join(w.rule.Note, w.in.Event.Detail)
	// A look-up after an attempt has ended belongs to the sign-in that begins.
	begins := w.in.Event.Kind == LookupFailed && w.in.state().Terminal()
	if w.in.Attempt != nil && !begins {
		line.Attempt = w.in.Attempt.ID
	} else {
		line.Key = w.in.Key
	}
	w.d.Commit.Events = append(w.d.Commit.Events, line)
}

// line creates an audit line with the event's members.
func (w *writer) line(k store.EventKind) store.Event {
	ev := &w.in.Event
	line := store.Event{
		Time: w.in.Now, Instance: w.in.Instance, Kind: k, Row: w.rule.Row,
		Invoke: ev.Invoke, Activity: ev.Activity, Platform: ev.Platform,
		Status: ev.Status, Source: ev.Source, Code: ev.Code, Actor: ev.Actor,
	}
	if ev.Cause != 0 {
		line.Status = ev.Cause
	}
	return line
}

func (r *rule) drops() bool {
	for _, op := range r.Do {
		if op == dropOwed {
			return true
		}
	}
	return false
}
