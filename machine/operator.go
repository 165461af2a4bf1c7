package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// Operator says who acts, and why, for the audit trail.
type Operator struct {
	Actor  string
	Reason string
}

// Reconcile asks the Token Service for the outcome of an attempt and updates it (E8).
// The error is [ErrTerminal] if it has ended, and [ErrLeaseHeld] while an instance is
// calling the Token Service.
func (e *Engine) Reconcile(ctx context.Context, id string, op Operator) (store.Attempt, error) {
	return e.operate(ctx, id, op, "reconcile", table.ReconcileAsk)
}

// Cancel ends an attempt, even under a live lease (E9).
func (e *Engine) Cancel(ctx context.Context, id string, op Operator) (store.Attempt, error) {
	return e.operate(ctx, id, op, "cancel", table.CancelAsked)
}

// operate runs an operator's command. command is its name for people, what the
// table's event.
func (e *Engine) operate(ctx context.Context, id string, op Operator, command string, what table.Kind) (store.Attempt, error) {
	snap, err := e.store.Get(ctx, id)
	if err != nil {
		return store.Attempt{}, fmt.Errorf("%s %s: %w", command, id, err)
	}
	a := &snap.Attempts[0]
	if a.State.Terminal() {
		return *a, fmt.Errorf("%s %s: %w (%s)", command, id, ErrTerminal, a.State)
	}
	c := e.background(a.Key)
	c.saw(snap.Now)
	c.note(store.Event{Attempt: a.ID, Kind: store.EventOperator, Invoke: command, Actor: op.Actor, Detail: op.Reason})
	work := context.WithoutCancel(ctx) // what was begun is finished
	out, err := c.drive(work, byID(id), table.Event{Kind: what, Actor: op.Actor, Detail: op.Reason})
	var illegal *table.IllegalTransitionError
	switch {
	case errors.As(err, &illegal), err == nil && out.reply == table.ReplyError:
		return *a, fmt.Errorf("%s %s: %w", command, id, ErrTerminal)
	case err == nil && out.reply == table.ReplyElsewhere:
		return *a, fmt.Errorf("%s %s: %w by %s", command, id, ErrLeaseHeld, a.Lease.Owner)
	case err != nil:
		return *a, fmt.Errorf("%s %s: %w", command, id, err)
	}
	c.finish(work, out.attempt)
	if err := e.store.Flush(ctx); err != nil {
		return *out.attempt, fmt.Errorf("%s %s: %w", command, id, err)
	}
	if out.reply == table.ReplyStatus {
		return *out.attempt, fmt.Errorf("%s %s: %w", command, id, c.upstream)
	}
	return *out.attempt, nil
}

// Redeliver makes those callbacks of an attempt due now that are pending or were given
// up. It returns their number.
func (e *Engine) Redeliver(ctx context.Context, id string, op Operator) (int, error) {
	page, err := e.store.List(ctx, store.Filter{IDPrefix: id, Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("redeliver %s: %w", id, err)
	}
	if len(page.Attempts) == 0 || page.Attempts[0].ID != id {
		return 0, fmt.Errorf("redeliver %s: %w", id, store.ErrNotFound)
	}
	w := store.Commit{User: page.Attempts[0].Key.UserKey(), Events: []store.Event{{
		Attempt: id, Time: page.Now, Instance: e.instance, Kind: store.EventOperator,
		Invoke: "redeliver", Actor: op.Actor, Detail: op.Reason,
	}}}
	for _, row := range page.Deliveries {
		if !row.Owed() || row.Owner != "" {
			continue
		}
		ack := store.Ack{Delivery: row, By: row.Owner, Try: row.Tries}
		ack.Status, ack.Tries, ack.NextAt = store.DeliveryPending, 0, page.Now
		w.Acks = append(w.Acks, ack)
	}
	if len(w.Acks) == 0 {
		return 0, nil
	}
	if err := e.store.Commit(ctx, w); err != nil {
		return 0, fmt.Errorf("redeliver %s: %w", id, err)
	}
	return len(w.Acks), nil
}
