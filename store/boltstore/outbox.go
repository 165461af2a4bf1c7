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

// readDelivery reads what is stored under a key, if there is anything.
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

// deliveries returns those of an attempt, by kind and round. The error is about
// those that cannot be decoded; the others are there all the same.
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

// putDelivery writes a delivery in place of the one that is there, nil for none.
func (t *txn) putDelivery(given, had *store.Delivery) error {
	t.row = *given
	d := &t.row
	d.Normalize()
	t.key = deliveryRow(t.key[:0], d.DeliveryKey)
	d.Attempt = "" // the key says it
	t.value = store.AppendDelivery(t.value[:0], d)
	d.Attempt = given.Attempt
	if err := t.rows.Put(t.key, t.value); err != nil {
		return err
	}
	if had == nil {
		return t.indexDelivery(d)
	}
	if err := t.unindexDelivery(had); err != nil {
		return err
	}
	if err := t.indexDelivery(d); err != nil {
		return err
	}
	if had.Status == store.DeliveryPending && d.Status != store.DeliveryPending {
		_, err := t.release(d.Attempt)
		return err
	}
	return nil
}

// indexDelivery files a delivery. One that is pending is filed under its time,
// also if an earlier round is pending: Claim finds that out, and files it as
// waiting.
func (t *txn) indexDelivery(d *store.Delivery) error {
	switch d.Status {
	case store.DeliveryPending:
		t.key = pendingKey(t.key[:0], d)
	case store.DeliveryDead:
		t.key = restingKey(t.key[:0], liveDead, d.DeliveryKey)
	case store.DeliveryUndeliverable:
		t.key = restingKey(t.key[:0], liveUndeliverable, d.DeliveryKey)
	case store.DeliveryDone, store.DeliveryDropped, store.DeliveryNotOwed:
		return nil
	}
	return t.live.Put(t.key, nil)
}

func (t *txn) unindexDelivery(d *store.Delivery) error {
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
		return nil
	default: // of a newer program
		return nil
	}
	return t.live.Delete(t.key)
}

// firstPending is the smallest round that is pending.
func firstPending(all []store.Delivery) int {
	first := math.MaxInt
	for i := range all {
		if all[i].Status == store.DeliveryPending {
			first = min(first, all[i].Round)
		}
	}
	return first
}

// wait files a delivery behind an earlier one of its attempt, so that no Claim
// meets it again before that is settled.
func (t *txn) wait(d *store.Delivery) error {
	t.key = pendingKey(t.key[:0], d)
	if err := t.live.Delete(t.key); err != nil {
		return err
	}
	t.key = restingKey(t.key[:0], liveWaiting, d.DeliveryKey)
	return t.live.Put(t.key, nil)
}

// release files under its time what waited and has nothing in front of it any
// more, and reports whether there was such a thing.
func (t *txn) release(id string) (some bool, err error) {
	prefix := append(append([]byte{liveWaiting}, id...), 0)
	if k, _ := t.live.From(prefix)(); !bytes.HasPrefix(k, prefix) {
		return false, nil
	}
	all, _ := t.deliveries(id) // what cannot be decoded stands in nobody's way
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
		if err := t.live.Delete(t.key); err != nil {
			return false, err
		}
		if err := t.indexDelivery(d); err != nil {
			return false, err
		}
		some = true
	}
	return some, nil
}

// drop tells nobody any more of the attempt's completions; see [store.Commit].
func (t *txn) drop(id string) error {
	all, _ := t.deliveries(id) // what cannot be decoded stays as it is
	for i := range all {
		if d := all[i]; d.Dropped() {
			if err := t.putDelivery(&d, &all[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Claim takes deliveries whose time and turn have come; see [store.Store]. It
// writes only if there may be any.
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
			more = false // what was taken is the caller's now, and has to be tried
		}
	}
	return out, nil
}

// claim is one transaction of Claim; more: it might find others in a next one.
func (s *Store) claim(ctx context.Context, q *store.ClaimQuery, limit int) (taken []store.Delivery, more bool, err error) {
	err = s.update(ctx, "claim", func(t *txn) (err error) {
		if q.Attempt != "" {
			taken = t.claimOf(q)
		} else if taken, more, err = t.claimable(limit); err != nil {
			return err
		}
		for i := range taken {
			if err := t.take(&taken[i], q); err != nil {
				return err
			}
		}
		return nil
	})
	return taken, more, err
}

// take claims a delivery.
func (t *txn) take(d *store.Delivery, q *store.ClaimQuery) error {
	had := *d
	d.Owner = q.Owner
	d.Tries++
	d.NextAt = store.Time(t.now.Add(q.Hold))
	return t.putDelivery(d, &had)
}

// claimOf returns what may be claimed of one attempt.
func (t *txn) claimOf(q *store.ClaimQuery) []store.Delivery {
	all, _ := t.deliveries(q.Attempt)
	first := firstPending(all)
	all = slices.DeleteFunc(all, func(d store.Delivery) bool {
		return d.Status != store.DeliveryPending || d.Round != first || d.NextAt.After(t.now)
	})
	slices.SortStableFunc(all, func(a, b store.Delivery) int { return a.NextAt.Compare(b.NextAt) })
	return all[:min(len(all), q.Limit)]
}

// waitBatch is how many deliveries one transaction files as waiting.
const waitBatch = 2000

// claimable returns the first so many deliveries that may be claimed, and files
// as waiting those that have come due before their turn. more: the transaction
// is large enough, and there may be others behind.
func (t *txn) claimable(limit int) (found []store.Delivery, more bool, err error) {
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
		case i < 0: // it cannot be decoded, or the index is wrong
			aside = append(aside, id)
		case all[i].Round > firstPending(all):
			early = append(early, all[i])
		default:
			found = append(found, all[i])
		}
	}
	for i := range early {
		if err := t.wait(&early[i]); err != nil {
			return nil, false, err
		}
	}
	for _, id := range aside {
		// Nobody waits for it to be settled.
		some, err := t.release(id)
		if err != nil {
			return nil, false, err
		}
		more = more || some
	}
	return found, more, nil
}
