package boltstore

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/signin-engine/signin-engine/store"
)

// WithLog sets how many bytes a log file takes.
func WithLog(n int) Option { return func(o *options) { o.logSize = n } }

// Damage changes the record of an attempt as it is stored.
func (s *Store) Damage(ctx context.Context, id string, change func([]byte) []byte) error {
	return s.damage(ctx, rowKey(nil, id, kindRecord), id, change)
}

// DamageDelivery changes a delivery as it is stored.
func (s *Store) DamageDelivery(ctx context.Context, k store.DeliveryKey, change func([]byte) []byte) error {
	return s.damage(ctx, deliveryRow(nil, k), k.Attempt, change)
}

// ReplaceRequest changes the activity of an attempt as it is stored, behind the
// store's back, and reports whether there is one.
func (s *Store) ReplaceRequest(ctx context.Context, id string, b []byte) (there bool, err error) {
	err = s.update(ctx, "damage", func(t *txn) error {
		key := rowKey(nil, id, kindRequest)
		if there = t.rows.Get(key) != nil; !there {
			return nil
		}
		t.rows.Put(key, b)
		return nil
	})
	return there, err
}

func (s *Store) damage(ctx context.Context, key []byte, id string, change func([]byte) []byte) error {
	return s.update(ctx, "damage", func(t *txn) error {
		delete(t.known, id) // it would hide the damage
		t.rows.Put(key, change(bytes.Clone(t.rows.Get(key))))
		return nil
	})
}

// DamageOpen cuts the row of a key in the open index.
func (s *Store) DamageOpen(ctx context.Context, k store.Key) error {
	return s.update(ctx, "damage", func(t *txn) error {
		t.live.Put(openKey(nil, t.hashKey(k)), []byte("cut"))
		return nil
	})
}

// Pending is how many deliveries are filed under the time at which they are due.
func (s *Store) Pending(ctx context.Context) (n int) {
	_ = s.view(ctx, "pending", func(t *txn) error {
		n = t.count(livePending)
		return nil
	})
	return n
}

// DamageLines spoils the audit lines that begin with these numbers.
func (s *Store) DamageLines(ctx context.Context, numbers ...int64) error {
	return s.update(ctx, "damage", func(t *txn) error {
		next := t.audit.From(nil)
		for k, v := next(); k != nil; k, v = next() {
			lines, err := readLines(k, v)
			if err != nil {
				return err
			}
			if slices.Contains(numbers, lines[0].Seq) {
				t.audit.Put(k, []byte{9, 9})
			}
		}
		return nil
	})
}

// FilePending files a delivery as pending.
func (s *Store) FilePending(ctx context.Context, d store.Delivery) error {
	return s.update(ctx, "damage", func(t *txn) error {
		t.live.Put(pendingKey(nil, &d), nil)
		return nil
	})
}

// GiveUp applies a commit in a transaction that fails then.
func (s *Store) GiveUp(ctx context.Context, c *store.Commit) error {
	return s.update(ctx, "give up", func(t *txn) error {
		plans, err := t.check(c)
		if err == nil {
			err = t.apply(c, plans)
		}
		return errors.Join(err, store.ErrUnavailable)
	})
}
