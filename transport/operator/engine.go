package operator

import (
	"context"
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Engine has the methods of *machine.Engine that the actions use.
type Engine interface {
	Ready(ctx context.Context) error
	Reconcile(ctx context.Context, id string, op machine.Operator) (store.Attempt, error)
	Cancel(ctx context.Context, id string, op machine.Operator) (store.Attempt, error)
	Redeliver(ctx context.Context, id string, op machine.Operator) (int, error)
	RotateKey(ctx context.Context, op machine.Operator) (machine.Rotation, error)
}

// Actor takes an operator's actions. An id may be a unique prefix. Errors:
// store.ErrNotFound, store.ErrConflict, ErrAmbiguous, machine.ErrTerminal,
// machine.ErrLeaseHeld, machine.ErrKeysElsewhere.
type Actor interface {
	// Reconcile asks the Token Service whether the user has a token, moves an
	// attempt in Exchanging or Verifying on accordingly, and returns it.
	Reconcile(ctx context.Context, id string, op machine.Operator) (View, error)
	// Cancel ends an open attempt as Failed, with the reason "operator", and
	// returns it.
	Cancel(ctx context.Context, id string, op machine.Operator) (View, error)
	// Redeliver makes the attempt's pending, dead and undeliverable callbacks due
	// now, and returns how many there are.
	Redeliver(ctx context.Context, id string, op machine.Operator) (int, error)
	// RotateKey adds a new key for HMACs and sealed data to the store.
	RotateKey(ctx context.Context, op machine.Operator) (Rotation, error)
	Purger
}

// Rotation is the result of [Actor.RotateKey]. It has the id of the new key, never
// the key itself.
type Rotation struct {
	Key   string `json:"key"`   // id of the new key
	From  Time   `json:"from"`  // when the instances begin to use it
	Older int    `json:"older"` // number of older keys that are still accepted
}

// Purger deletes attempts past their retention. [Direct] and [Client] implement
// it.
type Purger interface {
	// Purge deletes at most limit attempts that ended longer than olderThan ago
	// by the store's clock, and returns how many. With dry it only counts them.
	Purge(ctx context.Context, olderThan time.Duration, limit int, dry bool) (int, error)
}

// DirectActor acts through an engine of this process. It implements [Reader] and
// [Actor].
type DirectActor struct {
	*Direct
	engine Engine
}

// NewDirectActor returns an actor on the attempts that d reads. engine must use
// the same store.
func NewDirectActor(d *Direct, engine Engine) *DirectActor {
	return &DirectActor{Direct: d, engine: engine}
}

// Reconcile implements [Actor].
func (d *DirectActor) Reconcile(ctx context.Context, id string, op machine.Operator) (View, error) {
	return d.act(ctx, id, op, d.engine.Reconcile)
}

// Cancel implements [Actor].
func (d *DirectActor) Cancel(ctx context.Context, id string, op machine.Operator) (View, error) {
	return d.act(ctx, id, op, d.engine.Cancel)
}

func (d *DirectActor) act(ctx context.Context, id string, op machine.Operator,
	do func(context.Context, string, machine.Operator) (store.Attempt, error),
) (View, error) {
	full, err := d.Resolve(ctx, id)
	if err != nil {
		return View{}, err
	}
	if _, err = do(ctx, full, op); err != nil {
		return View{}, fmt.Errorf("attempt %s: %w", full, err)
	}
	detail, err := d.Get(ctx, full)
	return detail.View, err
}

// Redeliver implements [Actor].
func (d *DirectActor) Redeliver(ctx context.Context, id string, op machine.Operator) (int, error) {
	full, err := d.Resolve(ctx, id)
	if err != nil {
		return 0, err
	}
	n, err := d.engine.Redeliver(ctx, full, op)
	if err != nil {
		return n, fmt.Errorf("redeliver %s: %w", full, err)
	}
	return n, nil
}

// RotateKey implements [Actor].
func (d *DirectActor) RotateKey(ctx context.Context, op machine.Operator) (Rotation, error) {
	r, err := d.engine.RotateKey(ctx, op)
	if err != nil {
		return Rotation{}, fmt.Errorf("store: %w", err)
	}
	return Rotation{Key: r.ID.String(), From: Time{r.From}, Older: r.Older}, nil
}

// Purge implements [Purger].
func (d *Direct) Purge(ctx context.Context, olderThan time.Duration, limit int, dry bool) (int, error) {
	now, err := d.now(ctx)
	if err != nil {
		return 0, err
	}
	n, err := d.store.Purge(ctx, now.Add(-olderThan), limit, dry)
	if err != nil {
		return n, fmt.Errorf("purge: %w", err)
	}
	return n, nil
}
