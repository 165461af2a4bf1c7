//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migration is one step of the schema. Its file may have two directives, each a comment
// on a line of its own:
//
//	-- readable by programs from version N
//	-- outside a transaction
//
// The first names the oldest program that can use the schema after this step, by the
// number of the last step that it knows. The default is the step's own number. The
// second is for create index concurrently and the like. Such a step may run again after
// an interruption, so it first drops the index if it exists. Each of its statements ends
// at a line's end, and the prefix SCHEMA. stands before names.
type Migration struct {
	Version    int       // 1, 2, 3 …
	Name       string    // what follows the number in the file's name
	Applied    time.Time // by the server's clock; zero: not yet
	ReadableBy int       // the oldest program that can use the schema after it
	sql        string
	outside    bool // of a transaction
}

var (
	readableLine = regexp.MustCompile(`(?m)^-- readable by programs from version (\d+)$`)
	outsideLine  = regexp.MustCompile(`(?m)^-- outside a transaction$`)
)

// steps reads the embedded migrations. Their numbers must have no gap.
func (o *options) steps() ([]Migration, error) {
	names, err := fs.Glob(o.files, "migrations/*.sql") // in the order of names
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	out := make([]Migration, 0, len(names))
	for i, file := range names {
		number, name, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql"), "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			return nil, fmt.Errorf("migration %s: not number %d", file, i+1)
		}
		text, err := fs.ReadFile(o.files, file)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", file, err)
		}
		m := Migration{Version: i + 1, Name: name, ReadableBy: i + 1, sql: string(text), outside: outsideLine.Match(text)}
		if found := readableLine.FindSubmatch(text); found != nil {
			if m.ReadableBy, err = strconv.Atoi(string(found[1])); err != nil || m.ReadableBy > m.Version {
				return nil, fmt.Errorf("migration %s: readable by programs from %s", file, found[1])
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// version is the version of a schema.
type version struct {
	number   int // of its last step; 0 = no step yet
	readable int // the oldest program that may use it
}

// usable returns an error if a program that knows that many steps may not use the
// schema.
func (v version) usable(knows int) error {
	switch {
	case v.number < knows:
		return fmt.Errorf("schema has version %d, this program needs %d: migrate it: %w", v.number, knows, store.ErrSchema)
	case v.readable > knows:
		return fmt.Errorf("schema has version %d, for programs from version %d on, and this program knows %d: %w",
			v.number, v.readable, knows, store.ErrSchema)
	}
	return nil
}

// applied returns the schema's version and sets Applied in steps.
//
// It asks the catalog: to_regclass would use a search path that was resolved before
// another program made the schema.
func applied(ctx context.Context, q querier, schema string, steps []Migration) (v version, err error) {
	var there bool
	err = q.QueryRow(ctx, `select exists (select from pg_tables where schemaname = $1 and tablename = 'schema_migrations')`, schema).Scan(&there)
	if err != nil || !there {
		return v, err
	}
	rows, err := q.Query(ctx, `select version, readable_by, applied from `+pgx.Identifier{schema, "schema_migrations"}.Sanitize()+` order by version`)
	if err != nil {
		return v, err
	}
	var readable int
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&v.number, &readable, &at}, func() error {
		v.readable = max(v.readable, readable)
		if v.number <= len(steps) {
			steps[v.number-1].Applied = at.UTC()
		}
		return nil
	})
	return v, err
}

// migrator changes the schema on a connection of its own.
type migrator struct {
	opts *options
	conn *pgx.Conn
}

func (m *migrator) tx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return m.opts.administer(ctx, m.conn, fn)
}

// version reads the schema's version.
func (m *migrator) version(ctx context.Context, all []Migration) (v version, err error) {
	err = m.tx(ctx, func(tx pgx.Tx) error {
		v, err = applied(ctx, tx, m.opts.schema, all)
		return err
	})
	return v, err
}

// check returns an error if this program may not use the schema.
func (m *migrator) check(ctx context.Context) error {
	all, err := m.opts.steps()
	if err != nil {
		return err
	}
	v, err := m.version(ctx, all)
	if err != nil {
		return err
	}
	return v.usable(len(all))
}

// up applies the missing steps, each in a transaction of its own. An advisory lock makes
// other programs wait.
func (m *migrator) up(ctx context.Context) error {
	all, err := m.opts.steps()
	if err != nil {
		return err
	}
	v, err := m.version(ctx, all)
	for err == nil && v.number < len(all) {
		if next := all[v.number]; next.outside {
			err = m.outside(ctx, next)
		} else {
			err = m.tx(ctx, func(tx pgx.Tx) error { return m.inside(ctx, tx, next, nil) })
		}
		if err == nil {
			v, err = m.version(ctx, all)
		}
	}
	if err != nil {
		return err
	}
	return v.usable(len(all))
}

// inside applies a step in a transaction, unless another program has applied it
// meanwhile. do, if not nil, runs in place of the step's SQL.
func (m *migrator) inside(ctx context.Context, tx pgx.Tx, next Migration, do func() error) error {
	if err := m.lock(ctx, tx, forever); err != nil {
		return err
	}
	v, err := applied(ctx, tx, m.opts.schema, nil)
	if err != nil || v.number >= next.Version {
		return err
	}
	if next.Version == 1 {
		if err := m.create(ctx, tx); err != nil {
			return fmt.Errorf("schema %s: %w", m.opts.schema, err)
		}
	}
	if do == nil {
		do = func() error {
			_, err := tx.Exec(ctx, next.sql, pgx.QueryExecModeSimpleProtocol)
			return err
		}
	}
	if err := do(); err != nil {
		return fmt.Errorf("migration %d %s: %w", next.Version, next.Name, err)
	}
	_, err = tx.Exec(ctx, `insert into schema_migrations (version, name, readable_by) values ($1, $2, $3)`, next.Version, next.Name, next.ReadableBy)
	return err
}

// lock keeps other programs from changing the schema until the transaction ends. It
// polls, with simple queries: a waiting statement holds a snapshot, and so does the last
// statement of the extended protocol, and a concurrent index build waits for the
// snapshots of others.
func (m *migrator) lock(ctx context.Context, tx pgx.Tx, wait time.Duration) error {
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for begun := time.Now(); ; {
		var got bool
		err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(hashtextextended($1, 0))`,
			pgx.QueryExecModeSimpleProtocol, "signin-engine "+m.opts.schema).Scan(&got)
		switch {
		case err != nil || got:
			return err
		case time.Since(begun) > wait:
			return errBusy
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const (
	// lockEvery is how often lock polls.
	lockEvery = 100 * time.Millisecond
	// forever means no limit.
	forever = time.Duration(math.MaxInt64)
)

// errBusy means that another program has the lock.
var errBusy = errors.New("another program changes the schema")

// outside applies a step outside a transaction, on a second connection. Meanwhile the
// first one holds the lock, in a transaction without a snapshot.
func (m *migrator) outside(ctx context.Context, next Migration) error {
	second, err := m.opts.admin(ctx)
	if err != nil {
		return err
	}
	defer hangUp(ctx, second)
	sql := strings.ReplaceAll(next.sql, "SCHEMA.", pgx.Identifier{m.opts.schema}.Sanitize()+".")
	return m.tx(ctx, func(tx pgx.Tx) error {
		return m.inside(ctx, tx, next, func() error {
			if !m.opts.pooled.Load() { // a lent session is not ours to change
				if _, err := second.Exec(ctx, `set statement_timeout = 0; set lock_timeout = 0`, pgx.QueryExecModeSimpleProtocol); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, `select`); err != nil { // releases the last snapshot, see lock
				return err
			}
			for statement := range strings.SplitSeq(sql, ";\n") { // several in one query would be a transaction
				if _, err := second.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// create makes the schema, unless it exists, and the table of its steps.
func (m *migrator) create(ctx context.Context, tx pgx.Tx) error {
	var there bool
	err := tx.QueryRow(ctx, `select exists (select from pg_namespace where nspname = $1)`, m.opts.schema).Scan(&there)
	if err == nil && !there {
		_, err = tx.Exec(ctx, `create schema `+pgx.Identifier{m.opts.schema}.Sanitize())
	}
	if err == nil {
		_, err = tx.Exec(ctx, `
create table schema_migrations (
  version     integer     primary key,
  name        text        not null,
  readable_by integer     not null,
  applied     timestamptz not null default now()
);
comment on table schema_migrations is 'The steps that this schema has taken.';
comment on column schema_migrations.version is 'Number of the step.';
comment on column schema_migrations.name is 'Name of the step.';
comment on column schema_migrations.readable_by is 'The oldest program that may use the schema after this step, by the last step that it knows.';
comment on column schema_migrations.applied is 'When it was taken.'`, pgx.QueryExecModeSimpleProtocol)
	}
	return err
}

// Migrate brings the schema of dsn up to date, makes the audit trail's future
// partitions, and returns the steps. It is idempotent, and several programs may call it
// at once. Errors: [store.ErrSchema] if the schema is for newer programs than this one,
// else [store.ErrUnavailable].
func Migrate(ctx context.Context, dsn string, opts ...Option) ([]Migration, error) {
	return withMigrator(ctx, "migrate", dsn, opts, func(m *migrator) error {
		if err := m.up(ctx); err != nil {
			return err
		}
		return m.partitions(ctx, partitionsAhead, waiting)
	})
}

// Status returns the steps of the schema of dsn, without changing it. Steps without a
// time have not been applied. Errors are those of [Migrate].
func Status(ctx context.Context, dsn string, opts ...Option) ([]Migration, error) {
	return withMigrator(ctx, "status", dsn, opts, func(*migrator) error { return nil })
}

func withMigrator(ctx context.Context, op, dsn string, opts []Option, fn func(*migrator) error) ([]Migration, error) {
	o, err := parse(dsn, opts)
	if err != nil {
		return nil, fmt.Errorf("pgstore: %s: %w", op, err)
	}
	conn, err := o.admin(ctx)
	if err != nil {
		return nil, classify(ctx, op, err)
	}
	defer hangUp(ctx, conn)
	m := &migrator{opts: o, conn: conn}
	if err := fn(m); err != nil {
		return nil, classify(ctx, op, err)
	}
	all, err := o.steps()
	if err != nil {
		return nil, fmt.Errorf("pgstore: %s: %w", op, err)
	}
	v, err := m.version(ctx, all)
	if err == nil && v.number > len(all) {
		err = v.usable(len(all))
	}
	return all, classify(ctx, op, err)
}

// refused reports whether the server refused the change (a missing right, a standby) or
// another program is at it. That is no reason not to open the store.
func refused(err error) bool {
	return sqlState(err) != "" || errors.Is(err, errBusy)
}
