package machine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Callbacks are owed by rows of the outbox, which are written with the
// transition that owes them. The instance that settled tells the bot at once,
// within its budget; what that does not reach, the outbox brings later, with
// the same key.

// The back-off of a callback that failed: 1 s, 2 s, 4 s … 10 min.
const (
	firstRetry = time.Second
	lastRetry  = 10 * time.Minute
	maxTries   = 10 // then it is dead and visible as stuck
)

func retryDelay(tries int) time.Duration {
	d := firstRetry
	for range tries - 1 {
		if d *= 2; d >= lastRetry {
			return lastRetry
		}
	}
	return d
}

// tell runs the callback of a decision in the turn that brought it.
func (c *call) tell(ctx context.Context, d *Decision) {
	if d.Rule.Call == NoCallback || d.Rule.Call == TellNobody {
		return
	}
	t := &telling{flow: c.flow, token: c.token, began: c.now()}
	if d.Owed == nil { // no attempt, so no outbox: told once, best effort (D0)
		t.turn = c.turn
		t.row.Kind, t.row.Status = store.DeliverFailure, store.DeliveryDone
		t.row.Fanout, t.row.Failure = true, failureOf(&c.in.Event)
		c.eng.deliver(ctx, t)
		return
	}
	t.row = *d.Owed
	if t.row.Round > 1 && c.waitsForEarlier(ctx, &t.row) {
		t.row.NextAt, t.row.Owner, t.row.Tries = t.began, "", 0
		c.acks = append(c.acks, t.row)
		return
	}
	t.turn = c.eng.proactive(d.Attempt) // swept: the stored conversation stands in
	if c.turn != nil {
		t.turn.act, t.turn.to = c.turn.act, c.turn.to
	}
	t.turn.delivery, t.turn.original = t.row.DeliveryKey, c.eng.unsealed(d.Attempt, t.began)
	if c.eng.deliver(ctx, t) && t.row.Attempt != "" {
		c.acks = append(c.acks, t.row)
		c.note(c.eng.told(&t.row, c.now()))
	}
}

// waitsForEarlier reports whether an earlier callback of the attempt has not
// been delivered yet: callbacks of one attempt keep their order.
func (c *call) waitsForEarlier(ctx context.Context, row *store.Delivery) bool {
	// One that was told a moment ago may not be acknowledged yet.
	if err := c.eng.store.Flush(ctx); err != nil {
		return true // the outbox sorts it out
	}
	rows, err := c.eng.deliveries(ctx, row.Attempt)
	if err != nil {
		return true
	}
	return earlier(rows, row) != nil
}

// earlier is the callback that row has to wait for, nil for none.
func earlier(rows []store.Delivery, row *store.Delivery) *store.Delivery {
	for i := range rows {
		if r := &rows[i]; r.Round < row.Round && r.Status == store.DeliveryPending {
			return r
		}
	}
	return nil
}

func (e *Engine) deliveries(ctx context.Context, id string) ([]store.Delivery, error) {
	page, err := e.store.List(ctx, store.Filter{IDPrefix: id, Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("read outbox of %s: %w", id, err)
	}
	return page.Deliveries, nil
}

// proactive is the turn of a callback without an activity.
func (e *Engine) proactive(a *store.Attempt) *Turn {
	return &Turn{eng: e, to: a.Conversation}
}

func (e *Engine) unsealed(a *store.Attempt, now time.Time) json.RawMessage {
	if a.Request == nil || now.After(a.Expires.Add(e.timeouts.OutboxLease)) {
		return nil
	}
	plain, err := e.sealer.open(a.Request)
	if err != nil {
		e.log.Error().Str("attempt", a.ID).Err(err).Msg("the kept activity cannot be opened")
		return nil
	}
	return plain
}

// Transactor is a store that can run a callback and its acknowledgement in one
// transaction.
type Transactor interface {
	// AckIn runs fn in a transaction and acknowledges row with it, all or
	// nothing. store.ErrConflict: the row is no longer this caller's to
	// deliver, and nothing was kept.
	AckIn(ctx context.Context, row store.Delivery, fn func(ctx context.Context, tx any) error) error
}

// telling is one try to deliver a callback.
type telling struct {
	row   store.Delivery // as it is after the try, once that is over
	turn  *Turn
	flow  *Flow // of the attempt's connection; nil if it is registered no more
	token tokensvc.Token
	began time.Time // by the store's clock
}

// deliver runs the bot's handler and waits for it within the budget. It
// reports whether the try is over: the caller has to acknowledge t.row. A
// handler that is not done by then goes on detached and acknowledges itself. A
// panic in it is an error.
func (e *Engine) deliver(ctx context.Context, t *telling) bool {
	run := e.handler(t)
	if run == nil {
		t.row.Status = store.DeliveryDone
		return true
	}
	// The row is this instance's for as long as its lease in the outbox.
	ctx, cancel := context.WithTimeout(detach(ctx), e.timeouts.OutboxLease)
	started, key := e.clock(), t.row.DeliveryKey
	over := make(chan struct{})
	var turn atomic.Bool // who is first has it: the handler's end or the end of its budget
	e.detached.Add(1)
	go func() {
		defer e.detached.Done()
		defer cancel()
		growStack()
		failpoint("before", "callback")
		err := guarded(func() error { return e.within(ctx, t, run) })
		failpoint("after", "callback")
		e.settle(ctx, t, err)
		switch {
		case turn.CompareAndSwap(false, true):
			close(over)
		case t.row.Attempt != "":
			e.acknowledge(ctx, t.row, t.began.Add(e.clock().Sub(started)))
		}
	}()
	budget := time.NewTimer(e.policy.CallbackBudget)
	defer budget.Stop()
	select {
	case <-over:
		return true
	case <-budget.C:
	}
	if !turn.CompareAndSwap(false, true) {
		<-over
		return true
	}
	e.log.Warn().Stringer("callback", key).Dur("budget", e.policy.CallbackBudget).
		Msg("callback over its budget goes on detached")
	return false
}

// growStack makes room for a handler that talks to an upstream. Done here it
// costs next to nothing; a stack that grows when an HTTP client is deep in its
// work has all those frames to move.
//
//go:noinline
func growStack() {
	var room [6 << 10]byte
	runtime.KeepAlive(&room)
}

// within runs the handler, in the store's transaction where there is one.
func (e *Engine) within(ctx context.Context, t *telling, run func(context.Context) error) error {
	if e.transactor == nil || t.row.Attempt == "" || t.row.Status != store.DeliveryPending {
		return run(ctx)
	}
	return e.transactor.AckIn(ctx, t.row, func(ctx context.Context, tx any) error {
		t.turn.tx = tx
		defer func() { t.turn.tx = nil }()
		return run(ctx)
	})
}

// settle notes how the try went.
func (e *Engine) settle(ctx context.Context, t *telling, err error) {
	switch {
	case errors.Is(err, store.ErrConflict) && e.transactor != nil:
		t.row.Attempt = "" // another instance's by now: nothing to acknowledge
		return
	case err == nil:
		if t.row.Status == store.DeliveryPending {
			t.row.Status = store.DeliveryDone
		}
		t.row.Error = ""
	case t.row.Status != store.DeliveryPending: // at_most_once: it was acknowledged before
		t.row.Error = clip(err.Error())
	default:
		t.row.Error, t.row.Owner = clip(err.Error()), ""
		t.row.NextAt = t.began.Add(retryDelay(t.row.Tries))
		if t.row.Tries >= maxTries {
			t.row.Status = store.DeliveryDead
		}
	}
	if err != nil {
		e.log.Error().Str("callback", t.row.String()).Int("tries", t.row.Tries).Err(err).Msg("callback failed")
		e.report(ctx, t.turn.act, fmt.Errorf("callback %s: %w", t.row.String(), err))
	}
}

// handler is what a row owes to the bot's own code; nil if nobody listens.
func (e *Engine) handler(t *telling) func(context.Context) error {
	if t.row.Kind == store.DeliverComplete {
		if t.flow == nil {
			return nil
		}
		h, _ := t.flow.handlers()
		if h == nil {
			return nil
		}
		return func(ctx context.Context) error { return h(ctx, t.turn, t.token) }
	}
	flows := e.flows
	if !t.row.Fanout {
		if t.flow == nil {
			return nil
		}
		flows = []*Flow{t.flow}
	}
	var hs []FailureHandler
	for _, f := range flows {
		if _, h := f.handlers(); h != nil {
			hs = append(hs, h)
		}
	}
	if len(hs) == 0 {
		return nil
	}
	var value *Failure
	if f := t.row.Failure; f != nil {
		value = &Failure{Code: f.Code, Message: f.Message}
	}
	return func(ctx context.Context) error {
		errs := make([]error, len(hs))
		for i, h := range hs {
			errs[i] = guarded(func() error { return h(ctx, t.turn, value) })
		}
		return errors.Join(errs...)
	}
}

// guarded turns a panic of the bot's code into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// acknowledge hands a delivery to the next group of commits (T3): losing it
// only repeats a callback.
func (e *Engine) acknowledge(ctx context.Context, row store.Delivery, now time.Time) {
	e.store.Later(ctx, store.Commit{Deliveries: []store.Delivery{row}, Events: []store.Event{e.told(&row, now)}})
}

// told is the audit line of a try.
func (e *Engine) told(row *store.Delivery, now time.Time) store.Event {
	return store.Event{
		Attempt: row.Attempt, Time: now, Instance: e.instance, Kind: store.EventCallback,
		Invoke: row.String(), Detail: join(string(row.Status), row.Error),
	}
}

// redeliver brings callbacks that are due and reports how many it took.
func (e *Engine) redeliver(ctx context.Context, limit int) (int, error) {
	// What was told already must not look as if it were still owed.
	if err := e.store.Flush(ctx); err != nil {
		return 0, fmt.Errorf("acknowledge callbacks: %w", err)
	}
	rows, err := e.store.Claim(ctx, e.instance, limit, e.timeouts.OutboxLease)
	if err != nil {
		return 0, fmt.Errorf("claim callbacks: %w", err)
	}
	slices.SortStableFunc(rows, func(a, b store.Delivery) int {
		return cmp.Or(strings.Compare(a.Attempt, b.Attempt), cmp.Compare(a.Round, b.Round))
	})
	for _, row := range rows {
		e.redeliverOne(ctx, row)
	}
	return len(rows), nil
}

func (e *Engine) redeliverOne(ctx context.Context, row store.Delivery) {
	snap, err := e.store.Get(ctx, row.Attempt)
	if err != nil {
		e.log.Error().Str("callback", row.String()).Err(err).Msg("callback without its attempt")
		return // the row stays leased and comes again
	}
	a := &snap.Attempts[0]
	if row.Round > 1 && e.store.Flush(ctx) != nil {
		return // the one before may have been told a moment ago
	}
	rows, err := e.deliveries(ctx, row.Attempt)
	if err != nil {
		return
	}
	if before := earlier(rows, &row); before != nil {
		row.Owner, row.Tries, row.NextAt = "", row.Tries-1, before.NextAt.Add(time.Millisecond)
		if before.Owner != "" { // it is being told right now
			row.NextAt = snap.Now.Add(firstRetry)
		}
		e.store.Later(ctx, store.Commit{Deliveries: []store.Delivery{row}})
		return
	}
	if row.Tries > maxTries { // no try has come back: each ended with its process
		row.Status, row.Owner = store.DeliveryDead, ""
		e.acknowledge(ctx, row, snap.Now)
		return
	}
	turn := e.proactive(a)
	turn.delivery, turn.original = row.DeliveryKey, e.unsealed(a, snap.Now)
	t := &telling{row: row, turn: turn, flow: e.byName[strings.ToLower(a.Key.Connection)], began: snap.Now}
	if row.Kind == store.DeliverComplete && e.handler(t) != nil {
		// A token is never stored: it is fetched again, and may be gone.
		bounded, cancel := context.WithTimeout(ctx, e.timeouts.Upstream)
		tok, err := e.tokens.GetToken(bounded, tokensvc.UserConnection{
			UserID: a.Key.User, Connection: a.Key.Connection, ChannelID: a.Key.Channel,
		}, tokensvc.Secret{})
		cancel()
		if err != nil && !errors.Is(err, tokensvc.ErrNoToken) {
			e.settle(ctx, t, fmt.Errorf("fetch the token again: %w", err))
			e.acknowledge(ctx, t.row, snap.Now)
			return
		}
		t.token = tok
	}
	if e.deliver(ctx, t) && t.row.Attempt != "" {
		e.acknowledge(ctx, t.row, snap.Now)
	}
}
