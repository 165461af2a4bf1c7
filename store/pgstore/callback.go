package pgstore

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
)

// AckIn is [Store.AckInTx] for a caller that knows no pgx: fn gets the pgx.Tx
// as any. It makes the store a machine.Transactor.
func (s *Store) AckIn(ctx context.Context, row store.Delivery, fn func(ctx context.Context, tx any) error) error {
	return s.AckInTx(ctx, row, func(ctx context.Context, tx pgx.Tx) error { return fn(ctx, tx) })
}
