package pgstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"

	"github.com/signin-engine/signin-engine/store"
)

// Defaults of the options.
const (
	DefaultSchema           = "signin"
	DefaultPollInterval     = 250 * time.Millisecond
	DefaultStatementTimeout = 10 * time.Second
	DefaultAcquireTimeout   = 5 * time.Second
	DefaultConnectTimeout   = 3 * time.Second // unless the address has connect_timeout
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
	connect   time.Duration
	address   func(context.Context) (string, error) // nil: the one that was given
	listen    string                                // address for LISTEN; "" = the same
	configure func(*pgxpool.Config)
	files     fs.FS // with the migrations
	pool      *pgxpool.Config
	conns     int
	handlers  *pgxpool.Config // of the handlers' transactions
	hear      *pgx.ConnConfig // nil: as the pool
	pooled    atomic.Bool     // a pooler is between us and the server, see session.go
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

// WithStatementTimeout bounds one statement of a sign-in in the server and, half a
// second later, here, where the wait for a connection counts too; the default is
// [DefaultStatementTimeout]: a disk may stall for some seconds, and who sent an
// invoke waits for 15 s. What operators read, and retention, may take three times
// as long. A connection that is dead is found out sooner.
func WithStatementTimeout(d time.Duration) Option { return func(o *options) { o.statement = d } }

// WithAcquireTimeout bounds the wait for a free connection; the default is
// [DefaultAcquireTimeout].
func WithAcquireTimeout(d time.Duration) Option { return func(o *options) { o.acquire = d } }

// WithConnectTimeout bounds the making of a connection to one host; it wins over
// connect_timeout in the address. The default is [DefaultConnectTimeout].
func WithConnectTimeout(d time.Duration) Option { return func(o *options) { o.connect = d } }

// WithAddress asks fn for the address before each new connection, so that host,
// user and password may change while the store is open. The schema and the
// parameters of the session stay those of the address that [Open] was given.
func WithAddress(fn func(ctx context.Context) (string, error)) Option {
	return func(o *options) { o.address = fn }
}

// WithListenAddress gives the address of a direct connection for LISTEN, where
// the store's own leads to a pooler. Without one the store listens on its own
// address, and behind a pooler it polls; see [WithPollInterval].
func WithListenAddress(dsn string) Option { return func(o *options) { o.listen = dsn } }

// WithHandlerConns sets how many transactions of handlers ([Store.AckInTx]) may
// run at once, each on a connection beside the store's pool; the default is
// [DefaultHandlerConns]. The connections are made when they are needed.
func WithHandlerConns(n int) Option { return func(o *options) { o.conns = max(n, 1) } }

// WithPoolConfig lets fn change the pool before it is made: its size, hooks,
// TLS. The address may do that too (pool_max_conns and the like). The pool of the
// handlers is the same, but for its size.
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
		conns: DefaultHandlerConns, files: migrations,
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
	if err := o.own(cfg.ConnConfig); err != nil {
		return nil, err
	}
	if o.listen != "" {
		if o.hear, err = pgx.ParseConfig(o.listen); err != nil {
			return nil, errors.New("malformed Postgres address for LISTEN")
		}
		delete(o.hear.RuntimeParams, "schema")
		if err := o.own(o.hear); err != nil {
			return nil, err
		}
	}
	if o.configure != nil {
		o.configure(cfg)
	}
	o.handlers = cfg.Copy()
	o.handlers.MaxConns, o.handlers.MinConns, o.handlers.MinIdleConns = int32(o.conns), 0, 0
	o.handlers.PingTimeout = pingTimeout
	o.pool = cfg
	for _, pool := range []*pgxpool.Config{o.pool, o.handlers} {
		before, after := pool.BeforeConnect, pool.AfterConnect
		greet := o.greet
		if pool == o.handlers {
			greet = o.meet
		}
		pool.BeforeConnect = func(ctx context.Context, cfg *pgx.ConnConfig) error {
			return errors.Join(o.dial(ctx, cfg), call(ctx, before, cfg))
		}
		pool.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			return errors.Join(greet(ctx, conn), call(ctx, after, conn))
		}
	}
	return o, nil
}

// call calls a hook that may not be there.
func call[T any](ctx context.Context, hook func(context.Context, T) error, arg T) error {
	if hook == nil {
		return nil
	}
	return hook(ctx, arg)
}

// own gives a configuration what every connection of the store has.
func (o *options) own(cfg *pgx.ConnConfig) error {
	switch {
	case o.connect > 0:
		cfg.ConnectTimeout = o.connect
	case cfg.ConnectTimeout == 0:
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	cfg.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) { return brief{conn}, nil }
	if _, ok := cfg.RuntimeParams["application_name"]; !ok {
		cfg.RuntimeParams["application_name"] = "signin-engine"
	}
	return nil
}

// Store is a [store.Store] in a Postgres schema.
type Store struct {
	opts   *options
	pool   *pgxpool.Pool
	secret []byte
	notify store.Notifier
	finds  *finder
	health health
	doubts atomic.Int64 // how often an answer was slow
	asks   singleflight.Group

	mu       sync.Mutex
	closed   bool
	listener *listener     // nil until somebody waits
	handlers *pgxpool.Pool // nil until a handler wants a transaction
}

var _ store.Concurrent = (*Store)(nil)

// Concurrent reports that several calls of Apply at once are welcome: each has a
// connection of its own.
func (s *Store) Concurrent() bool { return true }

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
	s.watchConnections()
	if s.pool, err = pgxpool.NewWithConfig(ctx, o.pool); err != nil {
		return nil, classify(ctx, "open", err)
	}
	return s, nil
}

// prepare checks or makes the schema and reads the store's secret.
func (s *Store) prepare(ctx context.Context) error {
	conn, err := s.opts.admin(ctx)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	m := &migrator{opts: s.opts, conn: conn}
	if s.opts.migrate {
		err = m.up(ctx)
	} else {
		err = m.check(ctx)
	}
	if err != nil || s.opts.readOnly {
		return err
	}
	if err := m.partitions(ctx, partitionsAhead, quick); err != nil && !refused(err) {
		return err
	}
	return s.opts.administer(ctx, conn, func(tx pgx.Tx) error { return s.readSecret(ctx, tx) })
}

// readSecret makes the store's random key if there is none. Whoever comes
// second reads the first one's. Who only reads has no use for it, and may not
// have the right.
func (s *Store) readSecret(ctx context.Context, conn querier) error {
	const read = `select value from meta where name = 'secret'`
	err := conn.QueryRow(ctx, read).Scan(&s.secret)
	if errors.Is(err, pgx.ErrNoRows) {
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

// Secret returns the store's random key, nil where the store was opened for
// reading; see [store.Store].
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
		if err == nil {
			info.Now = store.Time(info.Now)
			info.Warnings, err = upkeep(ctx, conn)
		}
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
	s.health.stop()
	if handlers != nil {
		handlers.Close()
	}
	s.pool.Close()
	return nil
}
