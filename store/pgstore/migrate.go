//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migration is one step of the schema.
type Migration struct {
	Version int       // 1, 2, 3 …
	Name    string    // what stands behind the number in the file's name
	Applied time.Time // by the server's clock, zero: not yet
	sql     string
}

// steps reads the embedded migrations, whose numbers have no gap.
func steps() ([]Migration, error) {
	files, err := fs.Glob(migrations, "migrations/*.sql") // in the order of names
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	out := make([]Migration, 0, len(files))
	for i, file := range files {
		number, name, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql"), "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			return nil, fmt.Errorf("migration %s: not number %d", file, i+1)
		}
		text, err := migrations.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", file, err)
		}
		out = append(out, Migration{Version: i + 1, Name: name, sql: string(text)})
	}
	return out, nil
}

// applied fills in what the schema has, and returns its version, 0 for none.
//
// It asks a table of the catalog: to_regclass would go by a search path that
// was resolved before another program made the schema.
func applied(ctx context.Context, q querier, schema string, steps []Migration) (version int, err error) {
	var there bool
	err = q.QueryRow(ctx, `select exists (select from pg_tables where schemaname = $1 and tablename = 'schema_migrations')`, schema).Scan(&there)
	if err != nil || !there {
		return 0, err
	}
	rows, err := q.Query(ctx, `select version, applied from schema_migrations order by version`)
	if err != nil {
		return 0, err
	}
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&version, &at}, func() error {
		if version <= len(steps) {
			steps[version-1].Applied = at.UTC()
		}
		return nil
	})
	return version, err
}

func checkVersion(version, want int) error {
	switch {
	case version > want:
		return fmt.Errorf("schema has version %d, this program knows %d: %w", version, want, store.ErrSchema)
	case version < want:
		return fmt.Errorf("schema has version %d, this program needs %d: migrate it: %w", version, want, store.ErrSchema)
	}
	return nil
}

// migrate brings the schema up to date, one transaction per step. An advisory
// lock, held to the end of each, makes others wait for it.
func migrate(ctx context.Context, conn *pgx.Conn, schema string) error {
	all, err := steps()
	if err != nil {
		return err
	}
	for {
		var done bool
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, "signin-engine "+schema); err != nil {
				return err
			}
			version, err := applied(ctx, tx, schema, all)
			if err != nil {
				return err
			}
			if version >= len(all) {
				done = true
				return checkVersion(version, len(all))
			}
			return step(ctx, tx, schema, all[version])
		})
		if err != nil || done {
			return err
		}
	}
}

func step(ctx context.Context, tx pgx.Tx, schema string, m Migration) error {
	if m.Version == 1 {
		var there bool
		err := tx.QueryRow(ctx, `select exists (select from pg_namespace where nspname = $1)`, schema).Scan(&there)
		if err == nil && !there {
			_, err = tx.Exec(ctx, `create schema `+pgx.Identifier{schema}.Sanitize())
		}
		if err == nil {
			_, err = tx.Exec(ctx, `create table schema_migrations (version integer primary key, name text not null, applied timestamptz not null default now())`)
		}
		if err != nil {
			return fmt.Errorf("schema %s: %w", schema, err)
		}
	}
	if _, err := tx.Exec(ctx, m.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("migration %d %s: %w", m.Version, m.Name, err)
	}
	_, err := tx.Exec(ctx, `insert into schema_migrations (version, name) values ($1, $2)`, m.Version, m.Name)
	return err
}

// Migrate brings the schema that dsn names up to date and returns its steps.
// It may be called twice, and by several programs at once. Errors:
// [store.ErrSchema] when the schema is newer than this program, else
// [store.ErrUnavailable].
func Migrate(ctx context.Context, dsn string, opts ...Option) ([]Migration, error) {
	return withConn(ctx, "migrate", dsn, opts, func(conn *pgx.Conn, o *options) error {
		return migrate(ctx, conn, o.schema)
	})
}

// Status returns the steps of the schema that dsn names, without changing it.
// Steps without a time are still to be taken. Errors as for [Migrate].
func Status(ctx context.Context, dsn string, opts ...Option) ([]Migration, error) {
	return withConn(ctx, "status", dsn, opts, func(*pgx.Conn, *options) error { return nil })
}

func withConn(ctx context.Context, op, dsn string, opts []Option, fn func(*pgx.Conn, *options) error) ([]Migration, error) {
	o, err := parse(dsn, opts)
	if err != nil {
		return nil, fmt.Errorf("pgstore: %s: %w", op, err)
	}
	conn, err := pgx.ConnectConfig(ctx, o.admin())
	if err != nil {
		return nil, classify(ctx, op, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := fn(conn, o); err != nil {
		return nil, classify(ctx, op, err)
	}
	all, err := steps()
	if err != nil {
		return nil, fmt.Errorf("pgstore: %s: %w", op, err)
	}
	version, err := applied(ctx, conn, o.schema, all)
	if err == nil && version > len(all) {
		err = checkVersion(version, len(all))
	}
	return all, classify(ctx, op, err)
}
