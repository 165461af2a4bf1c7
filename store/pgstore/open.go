//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// Defaults of the options.
const (
	DefaultSchema           = "signin"
	DefaultPollInterval     = 250 * time.Millisecond
	DefaultStatementTimeout = 10 * time.Second
	DefaultAcquireTimeout   = 3 * time.Second
	DefaultConnectTimeout   = 5 * time.Second // unless the address has connect_timeout
	DefaultHandlerConns     = 4
)

const secretSize = 32

// maxSchema leaves room for what is put before it: names have 63 bytes.
const maxSchema = 50

type options struct {
	schema    string
	migrate   bool
	readOnly  bool
	poll      time.Duration
	statement time.Duration
	acquire   time.Duration
	configure func(*pgxpool.Config)
	pool      *pgxpool.Config
	conns     int
	handlers  *pgxpool.Config // of the handlers' transactions
}

// Option changes how [Open] opens a store.
type Option func(*options)

// WithSchema sets the schema that holds the store's tables; it wins over the
// schema parameter of the address. The default is [DefaultSchema].
func WithSchema(name string) Option { return func(o *options) { o.schema = name } }

// WithAutoMigrate says whether [Open] brings an older schema up to date, which
// is the default, or refuses it.
func WithAutoMigrate(on bool) Option { return func(o *options) { o.migrate = on } }

// WithReadOnly opens the store for reading: Open changes nothing, not even an
// older schema, and what would write is [store.ErrReadOnly]. A role that may
// only select is enough.
func WithReadOnly() Option { return func(o *options) { o.readOnly, o.migrate = true, false } }

// WithPollInterval sets how often [Store.Changed] looks for itself while it
// cannot listen; the default is [DefaultPollInterval].
func WithPollInterval(d time.Duration) Option { return func(o *options) { o.poll = d } }

// WithStatementTimeout bounds one call of the store, in the server and here;
// the default is [DefaultStatementTimeout].
func WithStatementTimeout(d time.Duration) Option { return func(o *options) { o.statement = d } }

// WithAcquireTimeout bounds the wait for a free connection; the default is
// [DefaultAcquireTimeout].
func WithAcquireTimeout(d time.Duration) Option { return func(o *options) { o.acquire = d } }

// WithHandlerConns sets how many transactions of handlers ([Store.AckInTx]) may
// run at once, each on a connection beside the store's pool; the default is
// [DefaultHandlerConns]. The connections are made when they are needed.
func WithHandlerConns(n int) Option { return func(o *options) { o.conns = max(n, 1) } }

// WithPoolConfig lets fn change the pool before it is made: its size, hooks,
// TLS. The address may do that too (pool_max_conns and the like). fn is called
// for the pool of the handlers as well, whose size it cannot change.
func WithPoolConfig(fn func(*pgxpool.Config)) Option { return func(o *options) { o.configure = fn } }

// Check says what is wrong with an address and its schema parameter, without
// connecting and without repeating it: there may be a password in it.
func Check(dsn string) error {
	_, err := parse(dsn, nil)
	return err
}

// parse reads an address. What pgx says about a bad one may quote it, password
// and all, so it is not repeated.
func parse(dsn string, opts []Option) (*options, error) {
	o := &options{
		migrate: true, poll: DefaultPollInterval, statement: DefaultStatementTimeout, acquire: DefaultAcquireTimeout,
		conns: DefaultHandlerConns,
	}
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("malformed Postgres address")
	}
	params := cfg.ConnConfig.RuntimeParams
	o.schema = params["schema"]
	delete(params, "schema")
	for _, opt := range opts {
		opt(o)
	}
	if o.schema == "" {
		o.schema = DefaultSchema
	}
	if o.schema != clean(o.schema) || len(o.schema) > maxSchema {
		return nil, fmt.Errorf("schema name %q is not a text of at most %d bytes", o.schema, maxSchema)
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = DefaultConnectTimeout
	}
	if _, ok := params["application_name"]; !ok {
		params["application_name"] = "signin-engine"
	}
	o.handlers = cfg.Copy()
	if o.readOnly {
		params["default_transaction_read_only"] = "on"
	}
	params["search_path"] = pgx.Identifier{o.schema}.Sanitize()
	params["timezone"] = "UTC"
	params["default_transaction_isolation"] = "read committed" // whatever the database prefers
	params["statement_timeout"] = strconv.FormatInt(o.statement.Milliseconds(), 10)
	params["idle_in_transaction_session_timeout"] = strconv.FormatInt(2*o.statement.Milliseconds(), 10)
	// The statements are made for their indexes. Planning them anew for every
	// set of values finds nothing better, and a plan that was made while the
	// tables were small, to read them whole, would stay when they have grown.
	for _, name := range []string{"enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"} {
		params[name] = "off"
	}
	// Of a small table the planner thinks that its pages are best read in their
	// own order, and would sort all of a user's attempts to find the newest.
	params["random_page_cost"] = "1"
	params["plan_cache_mode"] = "force_generic_plan"
	if o.configure != nil {
		o.configure(cfg)
		o.configure(o.handlers)
	}
	o.handlers.MaxConns, o.handlers.MinConns, o.handlers.MinIdleConns = int32(o.conns), 0, 0
	after := cfg.AfterConnect
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		// Elsewhere in the server losing the last commits may be fine; a
		// transition that was acknowledged must be on the disk.
		_, err := conn.Exec(ctx, `select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'`,
			pgx.QueryExecModeSimpleProtocol)
		if err == nil && after != nil {
			err = after(ctx, conn)
		}
		return err
	}
	o.pool = cfg
	return o, nil
}

// admin is the configuration of a connection that may take its time.
func (o *options) admin() *pgx.ConnConfig {
	cfg := o.pool.ConnConfig.Copy()
	cfg.RuntimeParams["statement_timeout"] = "0"
	return cfg
}

// Store is a [store.Store] in a Postgres schema.
type Store struct {
	opts   *options
	pool   *pgxpool.Pool
	secret []byte
	notify store.Notifier
	finds  *finder

	mu       sync.Mutex
	closed   bool
	listener *listener     // nil until somebody waits
	handlers *pgxpool.Pool // nil until a handler wants a transaction
}

var _ store.Store = (*Store)(nil)

// Open opens the store in the schema that dsn, a URL or keywords and values,
// names in its parameter schema; unless told otherwise it makes or migrates
// the schema first. Errors: [store.ErrSchema] when the schema has another
// version, [store.ErrUnavailable] when the server cannot be used.
//
// It starts no goroutine of its own, but the pool of connections has one;
// [Store.Close] ends it.
func Open(ctx context.Context, dsn string, opts ...Option) (*Store, error) {
	o, err := parse(dsn, opts)
	if err != nil {
		return nil, fmt.Errorf("pgstore: open: %w", err)
	}
	s := &Store{opts: o, finds: newFinder()}
	if err := s.prepare(ctx); err != nil {
		return nil, classify(ctx, "open", err)
	}
	if s.pool, err = pgxpool.NewWithConfig(ctx, o.pool); err != nil {
		return nil, classify(ctx, "open", err)
	}
	return s, nil
}

// prepare checks or makes the schema and reads the store's secret.
func (s *Store) prepare(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, s.opts.admin())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	all, err := steps()
	if err != nil {
		return err
	}
	version, err := applied(ctx, conn, s.opts.schema, all)
	if err != nil {
		return err
	}
	if version < len(all) && s.opts.migrate {
		if err := migrate(ctx, conn, s.opts.schema); err != nil {
			return err
		}
	} else if err := checkVersion(version, len(all)); err != nil {
		return err
	}
	if !s.opts.readOnly {
		if err := partitions(ctx, conn); err != nil {
			return err
		}
	}
	return s.readSecret(ctx, conn)
}

// readSecret makes the store's random key if there is none. Whoever comes
// second reads the first one's.
func (s *Store) readSecret(ctx context.Context, conn *pgx.Conn) error {
	const read = `select value from meta where name = 'secret'`
	err := conn.QueryRow(ctx, read).Scan(&s.secret)
	if errors.Is(err, pgx.ErrNoRows) {
		if s.opts.readOnly {
			return nil
		}
		fresh := make([]byte, secretSize)
		_, _ = rand.Read(fresh) // never fails, by its contract
		if _, err = conn.Exec(ctx, `insert into meta values ('secret', $1) on conflict do nothing`, fresh); err == nil {
			err = conn.QueryRow(ctx, read).Scan(&s.secret)
		}
	}
	if err == nil && len(s.secret) != secretSize {
		err = fmt.Errorf("secret of %d bytes: %w", len(s.secret), store.ErrCorrupt)
	}
	return err
}

// Secret returns the store's random key; see [store.Store].
func (s *Store) Secret() []byte { return slices.Clone(s.secret) }

// Info describes the store; see [store.Store]. Schema is the version that the
// server has now.
func (s *Store) Info(ctx context.Context) (store.Info, error) {
	cfg := s.opts.pool.ConnConfig
	info := store.Info{
		Backend: "postgres",
		Where:   fmt.Sprintf("%s:%d/%s schema %s", cfg.Host, cfg.Port, cfg.Database, s.opts.schema),
	}
	err := s.use(ctx, "info", func(ctx context.Context, conn *pgxpool.Conn) error {
		err := conn.QueryRow(ctx, `select now(), max(version) from schema_migrations`).Scan(&info.Now, &info.Schema)
		info.Now = store.Time(info.Now)
		return err
	})
	if err != nil {
		return store.Info{}, err
	}
	return info, nil
}

// Close ends the listening, wakes those who wait in [Store.Changed], waits for
// calls that are under way and closes the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	l, handlers := s.listener, s.handlers
	s.closed = true
	s.mu.Unlock()
	s.notify.Close()
	if l != nil {
		l.stop()
	}
	if handlers != nil {
		handlers.Close()
	}
	s.pool.Close()
	return nil
}

// querier is a connection, a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// tries bounds how often a call is made that lost against another one.
const tries = 4

// use runs fn on a connection of the pool, within the store's timeouts, and
// again if that may help.
func (s *Store) use(ctx context.Context, op string, fn func(context.Context, *pgxpool.Conn) error) error {
	return classify(ctx, op, s.patiently(ctx, fn))
}

func (s *Store) patiently(ctx context.Context, fn func(context.Context, *pgxpool.Conn) error) error {
	var err error
	for range tries {
		if err = s.once(ctx, fn); err == nil || !again(err) || ctx.Err() != nil {
			break
		}
	}
	return err
}

func (s *Store) once(ctx context.Context, fn func(context.Context, *pgxpool.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, s.opts.acquire)
	defer cancel()
	conn, err := s.pool.Acquire(wait)
	if err != nil {
		return fmt.Errorf("acquire a connection: %w", err)
	}
	defer conn.Release()
	run, cancel := context.WithTimeout(ctx, s.opts.statement+time.Second) // the server should give up first
	defer cancel()
	err = fn(run, conn)
	switch {
	case sqlState(err) != codeReadOnly:
		return err
	case s.opts.readOnly:
		return fmt.Errorf("%w: %w", store.ErrReadOnly, err)
	}
	// The server may have become a standby: the next connection may find the
	// primary. Nothing can be written now, which is not the same as a store that
	// was opened for reading.
	_ = conn.Conn().Close(run)
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
