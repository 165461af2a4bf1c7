package boltstore

import (
	"bytes"
	"context"
	"fmt"

	"github.com/signin-engine/signin-engine/store"
)

// Keys returns the keys for marks and seals; see [store.Store].
func (s *Store) Keys(ctx context.Context) (store.KeyRing, error) {
	var ring store.KeyRing
	err := s.view(ctx, "keys", func(t *txn) (err error) {
		ring.Now = t.now
		ring.Keys, err = store.DecodeKeys(t.facts.Get(factKeys()), s.Secret())
		return err
	})
	return ring, err
}

// SwapKeys replaces the keys; see [store.Store].
func (s *Store) SwapKeys(ctx context.Context, old, next []store.SecretKey) error {
	return s.update(ctx, "swap keys", func(t *txn) error {
		have, err := store.DecodeKeys(t.facts.Get(factKeys()), s.Secret())
		if err != nil {
			return err
		}
		if !bytes.Equal(store.EncodeKeys(have), store.EncodeKeys(old)) {
			return fmt.Errorf("the keys have changed: %w", store.ErrConflict)
		}
		t.facts.Put(factKeys(), store.EncodeKeys(next))
		return nil
	})
}
