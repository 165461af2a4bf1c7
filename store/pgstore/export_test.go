package pgstore

import (
	"context"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// WithMigrations lets a program know other steps of the schema.
func WithMigrations(files fs.FS) Option { return func(o *options) { o.files = files } }

// Migrations are the steps that are embedded.
func Migrations() fs.FS { return migrations }

// Slow runs a statement that takes so long, as one of a sign-in.
func (s *Store) Slow(ctx context.Context, took time.Duration) error {
	return s.use(ctx, "slow", func(ctx context.Context, c *pgxpool.Conn) error {
		_, err := c.Exec(ctx, "select pg_sleep($1)", took.Seconds())
		return err
	})
}
