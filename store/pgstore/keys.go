package pgstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// Keys returns the keys for marks and seals; see [store.Store].
func (s *Store) Keys(ctx context.Context) (store.KeyRing, error) {
	var ring store.KeyRing
	err := s.use(ctx, "keys", func(ctx context.Context, conn *pgxpool.Conn) error {
		var record []byte
		err := conn.QueryRow(ctx, `select now(), (select value from meta where name = 'keys')`).Scan(&ring.Now, &record)
		if err != nil {
			return fmt.Errorf("read the keys: %w", err)
		}
		ring.Now = store.Time(ring.Now)
		ring.Keys, err = store.DecodeKeys(record, s.Secret())
		return err
	})
	return ring, err
}

// SwapKeys replaces the keys; see [store.Store]. A store without a record of keys has
// only its first key.
func (s *Store) SwapKeys(ctx context.Context, old, next []store.SecretKey) error {
	return s.use(ctx, "swap keys", func(ctx context.Context, conn *pgxpool.Conn) error {
		first := []store.SecretKey{{Secret: s.Secret()}}
		tag, err := conn.Exec(ctx, `
			insert into meta (name, value) select 'keys', $2::bytea where $1::bytea = $3::bytea
				and not exists (select from meta where name = 'keys')
			on conflict (name) do nothing`,
			store.EncodeKeys(old), store.EncodeKeys(next), store.EncodeKeys(first))
		if err == nil && tag.RowsAffected() == 0 {
			tag, err = conn.Exec(ctx, `update meta set value = $2 where name = 'keys' and value = $1`,
				store.EncodeKeys(old), store.EncodeKeys(next))
		}
		if err == nil && tag.RowsAffected() == 0 {
			err = fmt.Errorf("the keys have changed: %w", store.ErrConflict)
		}
		return err
	})
}
