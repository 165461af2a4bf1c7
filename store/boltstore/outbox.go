package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// readDelivery reads the delivery of a key, if there is one.
func (t *txn) readDelivery(k store.DeliveryKey, d *store.Delivery) (found bool, err error) {
	t.key = deliveryRow(t.key[:0], k)
	b := t.rows.Get(t.key)
	if b == nil {
		return false, nil
	}
	if *d, err = store.DecodeDelivery(b); err != nil {
		return false, fmt.Errorf("delivery %s: %w", k, err)
	}
	d.Attempt = k.Attempt
	return true, nil
}

// deliveries returns an attempt's deliveries, by kind and round. The error names
// those that cannot be decoded; the others are returned all the same.
func (t *txn) deliveries(id string) ([]store.Delivery, error) {
	var all []store.Delivery
	var errs []error
	prefix := rowKey(nil, id, kindDelivery)
	next := t.rows.From(prefix)
	for k, v := next(); bytes.HasPrefix(k, prefix); k, v = next() {
		d, err := store.DecodeDelivery(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("delivery of attempt %s: %w", id, err))
			continue
		}
		d.Attempt = id
		all = append(all, d)
	}
	return all, errors.Join(errs...)
}

// putDelivery writes a delivery in place of had, nil for none.
func (t *txn) putDelivery(given, had *store.Delivery) {
	t.row = *given
	d := &t.row
	d.Normalize()
	t.key = deliveryRow(t.key[:0], d.DeliveryKey)
	d.Attempt = "" // the key has it
	t.value = store.AppendDelivery(t.value[:0], d)
	d.Attempt = given.Attempt
	t.rows.Put(t.key, t.value)
	if had == nil {
		t.indexDelivery(d)
		return
	}
	t.unindexDelivery(had)
	t.indexDelivery(d)
	if had.Status == store.DeliveryPending && d.Status != store.DeliveryPending {
		t.release(d.Attempt)
	}
}

// indexDelivery adds a delivery to its index. A pending one goes under its time even
// if an earlier round is pending: Claim finds that out and moves it to the waiting
// ones.
func (t *txn) indexDelivery(d *store.Delivery) {
	switch d.Status {
	case store.DeliveryPending:
		t.key = pendingKey(t.key[:0], d)
	case store.DeliveryDead:
		t.key = restingKey(t.key[:0], liveDead, d.DeliveryKey)
	case store.DeliveryUndeliverable:
		t.key = restingKey(t.key[:0], liveUndeliverable, d.DeliveryKey)
	case store.DeliveryDone, store.DeliveryDropped, store.DeliveryNotOwed:
		return
	}
	t.live.Put(t.key, nil)
}

func (t *txn) unindexDelivery(d *store.Delivery) {
	switch d.Status {
	case store.DeliveryPending:
		t.key = restingKey(t.key[:0], liveWaiting, d.DeliveryKey)
		if t.live.Get(t.key) == nil {
			t.key = pendingKey(t.key[:0], d)
		}
	case store.DeliveryDead:
		t.key = restingKey(t.key[:0], liveDead, d.DeliveryKey)
	case store.DeliveryUndeliverable:
		t.key = restingKey(t.key[:0], liveUndeliverable, d.DeliveryKey)
	case store.DeliveryDone, store.DeliveryDropped, store.DeliveryNotOwed:
		return
	default: // written by a newer program
		return
	}
	t.live.Delete(t.key)
}

// firstPending returns the smallest pending round.
func firstPending(all []store.Delivery) int {
	first := math.MaxInt
	for i := range all {
		if all[i].Status == store.DeliveryPending {
			first = min(first, all[i].Round)
		}
	}
	return first
}

// wait moves a delivery to the waiting ones, so that no Claim meets it again before
// the earlier delivery of its attempt is settled.
func (t *txn) wait(d *store.Delivery) {
	t.key = pendingKey(t.key[:0], d)
	t.live.Delete(t.key)
	t.key = restingKey(t.key[:0], liveWaiting, d.DeliveryKey)
	t.live.Put(t.key, nil)
}

// release makes the attempt's waiting deliveries whose turn has come pending again,
// each under its time, and reports whether there were any.
func (t *txn) release(id string) (some bool) {
	prefix := append(append([]byte{liveWaiting}, id...), 0)
	if k, _ := t.live.From(prefix)(); !bytes.HasPrefix(k, prefix) {
		return false
	}
	all, _ := t.deliveries(id) // one that cannot be decoded does not block the others
	first := firstPending(all)
	for i := range all {
		d := &all[i]
		if d.Status != store.DeliveryPending || d.Round != first {
			continue
		}
		t.key = restingKey(t.key[:0], liveWaiting, d.DeliveryKey)
		if t.live.Get(t.key) == nil {
			continue
		}
		t.live.Delete(t.key)
		t.indexDelivery(d)
		some = true
	}
	return some
}

// drop cancels the deliveries of an attempt's completions; see [store.Commit].
func (t *txn) drop(id string) {
	all, _ := t.deliveries(id) // one that cannot be decoded stays as it is
	for i := range all {
		if d := all[i]; d.Dropped() {
			t.putDelivery(&d, &all[i])
		}
	}
}

// Claim takes deliveries whose time and turn have come; see [store.Store]. It writes
// only if there may be any.
func (s *Store) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	var now time.Time
	more, err := s.peek(ctx, "claim", livePending, q.Limit, &now)
	if err != nil {
		return nil, err
	}
	var out []store.Delivery
	for more && len(out) < q.Limit {
		taken, again, err := s.claim(ctx, &q, q.Limit-len(out))
		switch {
		case err == nil:
			out, more = append(out, taken...), again
		case len(out) == 0:
			return nil, err
		default:
			more = false // return what is taken: the caller has to try it
		}
	}
	return out, nil
}

// claim is one transaction of Claim; more: another one may find more.
func (s *Store) claim(ctx context.Context, q *store.ClaimQuery, limit int) (taken []store.Delivery, more bool, err error) {
	err = s.update(ctx, "claim", func(t *txn) error {
		if q.Attempt != "" {
			taken = t.claimOf(q)
		} else {
			taken, more = t.claimable(limit)
		}
		for i := range taken {
			t.take(&taken[i], q)
		}
		return nil
	})
	return taken, more, err
}

// take claims a delivery.
func (t *txn) take(d *store.Delivery, q *store.ClaimQuery) {
	had := *d
	d.Owner = q.Owner
	d.Tries++
	d.NextAt = store.Time(t.now.Add(q.Hold))
	t.putDelivery(d, &had)
}

// claimOf returns the deliveries of one attempt that may be claimed.
func (t *txn) claimOf(q *store.ClaimQuery) []store.Delivery {
	all, _ := t.deliveries(q.Attempt)
	first := firstPending(all)
	all = slices.DeleteFunc(all, func(d store.Delivery) bool {
		return d.Status != store.DeliveryPending || d.Round != first || d.NextAt.After(t.now)
	})
	slices.SortStableFunc(all, func(a, b store.Delivery) int { return a.NextAt.Compare(b.NextAt) })
	return all[:min(len(all), q.Limit)]
}

// waitBatch is how many deliveries one transaction moves to the waiting ones.
const waitBatch = 2000

// claimable returns up to limit deliveries that may be claimed, and moves those that
// are due before their turn to the waiting ones. more: another transaction may find
// more; this one is large enough, or has released some.
func (t *txn) claimable(limit int) (found []store.Delivery, more bool) {
	var early []store.Delivery
	var aside []string // attempts
	next := t.live.From([]byte{livePending})
	for k, _ := next(); len(k) > 1+timeSize && k[0] == livePending; k, _ = next() {
		at := readTime(k[1:])
		if at.After(t.now) || len(found) == limit {
			break
		}
		if more = len(early) == waitBatch; more {
			break
		}
		id, name := cutID(k[1+timeSize:])
		all, _ := t.deliveries(id)
		i := slices.IndexFunc(all, func(d store.Delivery) bool {
			return d.Status == store.DeliveryPending && d.NextAt.Equal(at) && bytes.Equal(name, appendDelivery(nil, d.DeliveryKey))
		})
		switch {
		case i < 0: // cannot be decoded, or the index is wrong
			aside = append(aside, id)
		case all[i].Round > firstPending(all):
			early = append(early, all[i])
		default:
			found = append(found, all[i])
		}
	}
	for i := range early {
		t.wait(&early[i])
	}
	for _, id := range aside {
		// It will not be settled, so those behind it must not wait for it.
		more = t.release(id) || more
	}
	return found, more
}
