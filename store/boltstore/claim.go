package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/kv"
)

// until collects copies of at most limit keys that begin with prefix and then
// have a time that is not after end, in order.
func until(b *kv.Bucket, prefix byte, end time.Time, limit int) [][]byte {
	var keys [][]byte
	c := b.Cursor()
	for k, _ := c.Seek([]byte{prefix}); len(keys) < limit && len(k) > timeSize && k[0] == prefix; k, _ = c.Next() {
		if readTime(k[1:]).After(end) {
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// Due takes attempts whose time has come; see [store.Store]. It writes only if
// there may be any: an attempt can be filed under an earlier time than it is
// due, and is filed anew then.
func (s *Store) Due(ctx context.Context, limit int, hold time.Duration) (store.Snapshot, error) {
	for {
		snap := store.Snapshot{}
		some, err := s.peek(ctx, "due", liveDue, limit, &snap.Now)
		if err != nil || !some {
			return snap, err
		}
		early := false
		err = s.update(ctx, "due", func(t *txn) (err error) {
			snap.Now, snap.Attempts = t.now, nil
			if early, err = t.fileAnew(limit); err != nil || early {
				return err
			}
			snap.Attempts, err = t.takeDue(limit, hold)
			return err
		})
		if err != nil {
			return store.Snapshot{}, err
		}
		if !early {
			return snap, nil
		}
	}
}

// anewBatch is how many attempts one transaction files anew.
const anewBatch = 2000

// fileAnew files anew what was filed too early, if there is any such thing among
// the first so many whose time has come, and reports that.
func (t *txn) fileAnew(among int) (some bool, err error) {
	for _, n := range [...]int{among, anewBatch} {
		for _, key := range until(t.live, liveDue, t.now, n) {
			var a store.Attempt
			if err := t.readDue(key, &a); err != nil {
				return false, err
			}
			filed, due := readTime(key[1:]), a.Due()
			if !filed.Before(due) {
				continue
			}
			some = true
			if err := t.fileDue(&a, filed, due); err != nil {
				return false, err
			}
		}
		if !some {
			break // as it is most of the time
		}
	}
	return some, nil
}

func (t *txn) takeDue(limit int, hold time.Duration) ([]store.Attempt, error) {
	var taken []store.Attempt
	for _, key := range until(t.live, liveDue, t.now, limit) {
		var a store.Attempt
		if err := t.readDue(key, &a); err != nil {
			return nil, err
		}
		if err := t.fileDue(&a, readTime(key[1:]), store.Time(t.now.Add(hold))); err != nil {
			return nil, err
		}
		taken = append(taken, a)
	}
	return taken, nil
}

func (t *txn) readDue(key []byte, a *store.Attempt) error {
	return t.readNamed(string(key[1+timeSize:]), "due attempts", a)
}

// fileDue moves an attempt in the index.
func (t *txn) fileDue(a *store.Attempt, from, to time.Time) error {
	h := t.hashKey(a.Key)
	row, ok, err := t.openRow(h)
	if err != nil {
		return err
	}
	if !ok || row.id != a.ID {
		return fmt.Errorf("index of open attempts: %w", store.ErrCorrupt)
	}
	if err := t.moveDue(a.ID, from, to); err != nil {
		return err
	}
	row.due = to
	return t.putOpenRow(h, &row, false)
}

// peek reports, without writing, whether an index has a row whose time has come.
func (s *Store) peek(ctx context.Context, op string, prefix byte, limit int, now *time.Time) (some bool, err error) {
	err = s.view(ctx, op, func(t *txn) error {
		*now = t.now
		some = len(until(t.live, prefix, t.now, min(limit, 1))) > 0
		return nil
	})
	if err == nil && s.opts.readOnly {
		err = fmt.Errorf("boltstore: %s: %w", op, store.ErrReadOnly)
	}
	return some, err
}

// Claim takes deliveries whose time has come; see [store.Store]. It writes only
// if there are any.
func (s *Store) Claim(ctx context.Context, owner string, limit int, hold time.Duration) ([]store.Delivery, error) {
	var now time.Time
	some, err := s.peek(ctx, "claim", livePending, limit, &now)
	if err != nil || !some {
		return nil, err
	}
	var out []store.Delivery
	err = s.update(ctx, "claim", func(t *txn) error {
		out = nil
		for _, key := range until(t.live, livePending, t.now, limit) {
			d, err := t.delivery(key[1+timeSize:])
			if err != nil {
				return err
			}
			d.Owner = owner
			d.Tries++
			d.NextAt = store.Time(t.now.Add(hold))
			if err := t.putDelivery(d); err != nil {
				return err
			}
			out = append(out, *d)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// delivery reads the row that "id 00 kind round" of an index names.
func (t *txn) delivery(name []byte) (*store.Delivery, error) {
	t.key = deliveryID(t.key[:0], name)
	b := t.rows.Get(t.key)
	if b == nil {
		return nil, fmt.Errorf("index of deliveries: %w", store.ErrCorrupt)
	}
	d, err := store.DecodeDelivery(b)
	if err != nil {
		return nil, err
	}
	d.Attempt, _ = cutID(name)
	return &d, nil
}

// purgeBatch is how many attempts, or orphan lines, one transaction deletes.
const purgeBatch = 128

// Purge deletes what is old, in transactions of bounded size; see
// [store.Store]. Orphan lines are deleted up to the first that is not as old.
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
		err := s.view(ctx, "purge", func(t *txn) error {
			var err error
			ids, err = t.ended(before, after, n)
			return err
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

// ended finds the first n attempts after an id that ended before the time.
func (t *txn) ended(before time.Time, after string, n int) ([]string, error) {
	end := ""
	if skew, ok := t.skew(); ok {
		end = firstID(before.Add(skew + time.Millisecond))
	}
	var ids []string
	c := t.rows.Cursor()
	// 01 follows the 00 behind an id, and precedes every other id.
	k, v := c.Seek(append([]byte(after), 1))
	for ; k != nil && len(ids) < n; k, v = c.Next() {
		id, kind := cutID(k)
		if end != "" && id > end {
			break
		}
		if len(kind) != 1 || kind[0] != kindRecord {
			continue
		}
		a, err := store.DecodeAttempt(v)
		if err != nil {
			return nil, fmt.Errorf("attempt %s: %w", id, err)
		}
		if a.State.Terminal() && a.Entered.Before(before) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *Store) purge(ctx context.Context, before time.Time, ids []string) (n int, err error) {
	err = s.update(ctx, "purge", func(t *txn) error {
		for _, id := range ids {
			var a store.Attempt
			found, err := t.read(id, &a)
			if err != nil {
				return err
			}
			if !found || !a.State.Terminal() || !a.Entered.Before(before) {
				continue // it changed since we looked
			}
			if err := t.remove(&a); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// remove deletes an ended attempt with its rows and indexes.
func (t *txn) remove(a *store.Attempt) error {
	if err := t.tally(a.Entered, a.Outcome(), -1); err != nil {
		return err
	}
	t.key = userRow(t.key[:0], t.hashKey(a.Key), a.ID)
	if err := t.idx.Delete(t.key); err != nil {
		return err
	}
	if aad := a.Conversation.UserAAD; aad != "" {
		t.key = t.aadRow(t.key[:0], aad, a.ID)
		if err := t.idx.Delete(t.key); err != nil {
			return err
		}
	}
	if a.ExchangeID != "" {
		if err := t.removeExchange(t.exchangeRow(nil, a.Key.App, a.ExchangeID), a.ID); err != nil {
			return err
		}
	}
	prefix := append([]byte(a.ID), 0)
	var keys [][]byte
	c := t.rows.Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		keys = append(keys, bytes.Clone(k))
		switch k[len(prefix)] {
		case kindExchange:
			if err := t.removeExchange(bytes.Clone(k[len(prefix)+1:]), a.ID); err != nil {
				return err
			}
		case kindDelivery:
			d, err := store.DecodeDelivery(v)
			if err != nil {
				return fmt.Errorf("delivery of attempt %s: %w", a.ID, err)
			}
			d.Attempt = a.ID
			if err := t.unindexDelivery(&d); err != nil {
				return err
			}
		}
	}
	for _, k := range keys {
		if err := t.rows.Delete(k); err != nil {
			return err
		}
	}
	if err := t.audit.Delete([]byte(a.ID)); err != nil {
		return err
	}
	t.woken = append(t.woken, a.ID)
	return nil
}

// removeExchange forgets an exchange id that still points to the attempt.
func (t *txn) removeExchange(key []byte, id string) error {
	if string(t.idx.Get(key)) != id {
		return nil
	}
	return t.idx.Delete(key)
}

// purgeRest deletes orphan lines and marks that are old.
func (s *Store) purgeRest(ctx context.Context, before time.Time) error {
	for more := true; more; {
		err := s.update(ctx, "purge", func(t *txn) error {
			orphans, err := t.oldOrphans(before)
			if err != nil {
				return err
			}
			for _, k := range orphans {
				if err := t.audit.Delete(k); err != nil {
					return err
				}
			}
			// Created before is an exclusive bound, over at now an inclusive one.
			marks := slices.Concat(
				until(t.idx, idxMarkCreated, before.Add(-time.Microsecond), purgeBatch),
				until(t.idx, idxMarkExpires, t.now, purgeBatch),
			)
			for _, k := range marks {
				if err := errors.Join(t.dropMark(k[1+timeSize:]), t.idx.Delete(k)); err != nil {
					return err
				}
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

func (t *txn) oldOrphans(before time.Time) ([][]byte, error) {
	var keys [][]byte
	c := t.audit.Cursor()
	for k, v := c.First(); len(keys) < purgeBatch && isOrphan(k); k, v = c.Next() {
		lines, err := readLines(k, v)
		if err != nil {
			return nil, err
		}
		if !lines[0].Time.Before(before) {
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	return keys, nil
}
