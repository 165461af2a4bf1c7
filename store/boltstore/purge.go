package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/kv"
)

// purgeBatch is how many attempts, or orphan lines, one transaction deletes.
const purgeBatch = 128

// Purge deletes old attempts, lines and marks in transactions of bounded size; see
// [store.Store]. It deletes orphan lines up to the first one that is not old enough.
func (s *Store) Purge(ctx context.Context, before time.Time, limit int, dry bool) (int, error) {
	if s.opts.readOnly && !dry {
		return 0, fmt.Errorf("boltstore: purge: %w", store.ErrReadOnly)
	}
	before = store.Time(before)
	total, after := 0, ""
	for {
		n := purgeBatch
		if limit > 0 {
			n = min(n, limit-total)
		}
		if n == 0 {
			break
		}
		var ids []string
		err := s.scan(ctx, "purge", func(t *txn) error {
			ids = t.ended(before, after, n)
			return nil
		})
		if err != nil {
			return total, err
		}
		if len(ids) == 0 {
			break
		}
		after = ids[len(ids)-1]
		if dry {
			total += len(ids)
			continue
		}
		n, err = s.purge(ctx, before, ids)
		total += n
		if err != nil {
			return total, err
		}
	}
	if dry {
		return total, nil
	}
	return total, s.purgeRest(ctx, before)
}

// ended finds the first n attempts after the id after that ended before the time.
func (t *txn) ended(before time.Time, after string, n int) []string {
	end := firstID(before.Add(slack))
	var ids []string
	// "id 01" sorts after all rows of the id and before the next id.
	next := t.rows.From(append([]byte(after), 1))
	for k, v := next(); k != nil && len(ids) < n; k, v = next() {
		id, kind := cutID(k)
		if id > end {
			break
		}
		if len(kind) != 1 || kind[0] != kindRecord {
			continue
		}
		a, err := store.DecodeAttempt(v)
		if err != nil {
			continue // it stays
		}
		if a.State.Terminal() && a.Entered.Before(before) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *Store) purge(ctx context.Context, before time.Time, ids []string) (n int, err error) {
	err = s.update(ctx, "purge", func(t *txn) error {
		for _, id := range ids {
			var a store.Attempt
			found, err := t.read(id, &a)
			if err != nil || !found || !a.State.Terminal() || !a.Entered.Before(before) {
				continue // changed since the scan
			}
			owed, err := t.deliveries(id)
			if err != nil {
				continue // the index rows of that delivery are unknown
			}
			t.remove(&a, owed)
			n++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// remove deletes an ended attempt with its deliveries, other rows and indexes.
func (t *txn) remove(a *store.Attempt, owed []store.Delivery) {
	t.tally(a.Entered, a.Outcome(), -1)
	t.key = userRow(t.key[:0], t.hashKey(a.Key), a.ID)
	t.idx.Delete(t.key)
	if aad := a.Conversation.UserAAD; aad != "" {
		t.key = t.aadRow(t.key[:0], aad, a.ID)
		t.idx.Delete(t.key)
	}
	if a.ExchangeID != "" {
		t.removeExchange(t.exchangeRow(nil, a.Key.App, a.ExchangeID), a.ID)
	}
	for i := range owed {
		t.unindexDelivery(&owed[i])
	}
	prefix := append([]byte(a.ID), 0)
	for _, b := range []*kv.Bucket{t.rows, t.audit} {
		next := b.From(prefix)
		for k, _ := next(); bytes.HasPrefix(k, prefix); k, _ = next() {
			if b == t.rows && k[len(prefix)] == kindExchange {
				t.removeExchange(k[len(prefix)+1:], a.ID)
			}
			b.Delete(k)
		}
	}
	t.woken = append(t.woken, a.ID)
}

// removeExchange deletes an exchange id if it still points to the attempt.
func (t *txn) removeExchange(key []byte, id string) {
	if string(t.idx.Get(key)) != id {
		return
	}
	t.idx.Delete(key)
}

// purgeRest deletes old orphan lines and marks.
func (s *Store) purgeRest(ctx context.Context, before time.Time) error {
	for more := true; more; {
		err := s.update(ctx, "purge", func(t *txn) error {
			orphans := t.oldOrphans(before)
			for _, k := range orphans {
				t.audit.Delete(k)
			}
			// before is exclusive; a mark that expires now has expired.
			marks := slices.Concat(
				until(t.idx, idxMarkCreated, before.Add(-time.Microsecond), purgeBatch),
				until(t.idx, idxMarkExpires, t.now, purgeBatch),
			)
			for _, k := range marks {
				t.dropMark(k[1+timeSize:])
				t.idx.Delete(k)
			}
			more = len(orphans)+len(marks) > 0
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) oldOrphans(before time.Time) [][]byte {
	var keys [][]byte
	next := t.audit.From(nil)
	for k, v := next(); len(keys) < purgeBatch && bytes.HasPrefix(k, noAttempt); k, v = next() {
		lines, err := readLines(k, v)
		if err != nil {
			continue // it stays
		}
		if !lines[0].Time.Before(before) {
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}
