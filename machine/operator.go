package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/store"
)

// Operator is who acts, and why: it goes into the audit trail.
type Operator struct {
	Actor  string
	Reason string
}

// Reconcile asks the Token Service what is true of an attempt and settles it
// accordingly (E8). ErrTerminal if it has ended, ErrLeaseHeld while an
// instance is talking to the Token Service.
func (e *Engine) Reconcile(ctx context.Context, id string, op Operator) (store.Attempt, error) {
	return e.operate(ctx, id, op, "reconcile", ReconcileAsk)
}

// Cancel ends an attempt, also against a live lease (E9).
func (e *Engine) Cancel(ctx context.Context, id string, op Operator) (store.Attempt, error) {
	return e.operate(ctx, id, op, "cancel", CancelAsked)
}

// operate runs an operator's command: people know it by its name, the table by
// the event.
func (e *Engine) operate(ctx context.Context, id string, op Operator, command string, what Kind) (store.Attempt, error) {
	snap, err := e.store.Get(ctx, id)
	if err != nil {
		return store.Attempt{}, fmt.Errorf("%s %s: %w", command, id, err)
	}
	a := &snap.Attempts[0]
	if a.State.Terminal() {
		return *a, fmt.Errorf("%s %s: %w (%s)", command, id, ErrTerminal, a.State)
	}
	c := e.background(a)
	c.saw(snap.Now)
	c.note(store.Event{Attempt: a.ID, Kind: store.EventOperator, Invoke: command, Actor: op.Actor, Detail: op.Reason})
	c.in.Event = Event{Kind: what, Actor: op.Actor, Detail: op.Reason}
	out, err := c.drive(detach(ctx))
	var illegal *IllegalTransitionError
	switch {
	case errors.As(err, &illegal) && illegal.State.Terminal():
		return *a, fmt.Errorf("%s %s: %w", command, id, ErrTerminal)
	case errors.As(err, &illegal):
		return *a, fmt.Errorf("%s %s: %w by %s", command, id, ErrLeaseHeld, a.Lease.Owner)
	case err != nil:
		return *a, fmt.Errorf("%s %s: %w", command, id, err)
	}
	c.finish(ctx, out.attempt)
	if err := e.store.Flush(ctx); err != nil {
		return *out.attempt, fmt.Errorf("%s %s: %w", command, id, err)
	}
	if out.rule.Reply == ReplyStatus {
		return *out.attempt, fmt.Errorf("%s %s: %w", command, id, c.upstream)
	}
	return *out.attempt, nil
}

// Redeliver makes the callbacks of an attempt that were given up, or that
// wait for their next try, due at once. It returns how many.
func (e *Engine) Redeliver(ctx context.Context, id string, op Operator) (int, error) {
	page, err := e.store.List(ctx, store.Filter{IDPrefix: id, Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("redeliver %s: %w", id, err)
	}
	if len(page.Attempts) == 0 || page.Attempts[0].ID != id {
		return 0, fmt.Errorf("redeliver %s: %w", id, store.ErrNotFound)
	}
	w := store.Commit{Events: []store.Event{{
		Attempt: id, Time: page.Now, Instance: e.instance, Kind: store.EventOperator,
		Invoke: "redeliver", Actor: op.Actor, Detail: op.Reason,
	}}}
	for _, row := range page.Deliveries {
		if row.Status == store.DeliveryDead || row.Status == store.DeliveryPending && row.Owner == "" {
			row.Status, row.Tries, row.NextAt, row.Owner = store.DeliveryPending, 0, page.Now, ""
			w.Deliveries = append(w.Deliveries, row)
		}
	}
	if len(w.Deliveries) == 0 {
		return 0, nil
	}
	if err := e.store.Commit(ctx, w); err != nil {
		return 0, fmt.Errorf("redeliver %s: %w", id, err)
	}
	return len(w.Deliveries), nil
}
