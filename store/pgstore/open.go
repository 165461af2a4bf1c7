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

// maxSchema leaves room for a prefix: names have at most 63 bytes.
const maxSchema = 50

type options struct {
	schema    string
	migrate   bool
	readOnly  bool
	poll      time.Duration
	statement time.Duration
	acquire   time.Duration
	connect   time.Duration
	address   func(context.Context) (string, error) // nil: the address given to Open
	listen    string                                // address for LISTEN; "" = the same
	configure func(*pgxpool.Config)
	files     fs.FS // with the migrations
	pool      *pgxpool.Config
	conns     int             // of handlers
	handlers  *pgxpool.Config // for the handlers' transactions
	hear      *pgx.ConnConfig // for LISTEN; nil: as the pool
	pooled    atomic.Bool     // a pooler is between us and the server, see session.go
}

// Option changes how [Open] opens a store.
type Option func(*options)

// WithSchema sets the schema that holds the store's tables. It overrides the schema
// parameter of the address. The default is [DefaultSchema].
func WithSchema(name string) Option { return func(o *options) { o.schema = name } }

// WithAutoMigrate sets whether [Open] migrates an older schema, which is the
// default, or refuses it.
func WithAutoMigrate(on bool) Option { return func(o *options) { o.migrate = on } }

// WithReadOnly opens the store for reading. Open changes nothing and does not migrate
// an older schema. Calls that would write return [store.ErrReadOnly]. A role that may
// only select is enough.
func WithReadOnly() Option { return func(o *options) { o.readOnly, o.migrate = true, false } }

// WithPollInterval sets how often [Store.Changed] polls while it cannot listen; the
// default is [DefaultPollInterval].
func WithPollInterval(d time.Duration) Option { return func(o *options) { o.poll = d } }

// WithStatementTimeout bounds one statement of a sign-in: in the server and, half a
// second later, in this process, where the wait for a connection counts too. The
// default is [DefaultStatementTimeout]: a disk may stall for some seconds, and the
// sender of an invoke waits 15 s. Operators' reads and retention may take three times
// as long. A dead connection is detected sooner.
func WithStatementTimeout(d time.Duration) Option { return func(o *options) { o.statement = d } }

// WithAcquireTimeout bounds the wait for a free connection; the default is
// [DefaultAcquireTimeout].
func WithAcquireTimeout(d time.Duration) Option { return func(o *options) { o.acquire = d } }

// WithConnectTimeout bounds connecting to one host. It overrides connect_timeout in
// the address. The default is [DefaultConnectTimeout].
func WithConnectTimeout(d time.Duration) Option { return func(o *options) { o.connect = d } }

// WithAddress calls fn for the address before each new connection, so that host, user
// and password may change while the store is open. The schema and the session
// parameters stay those of the address given to [Open].
func WithAddress(fn func(ctx context.Context) (string, error)) Option {
	return func(o *options) { o.address = fn }
}

// WithListenAddress sets the address of a direct connection for LISTEN, for a store
// behind a pooler. Without it the store listens on its own address, and behind a
// pooler it polls; see [WithPollInterval].
func WithListenAddress(dsn string) Option { return func(o *options) { o.listen = dsn } }

// WithHandlerConns sets how many transactions of handlers ([Store.AckInTx]) may run at
// once, each on a connection beside the store's pool. The default is
// [DefaultHandlerConns]. Connections are made on demand.
func WithHandlerConns(n int) Option { return func(o *options) { o.conns = max(n, 1) } }

// WithPoolConfig lets fn change the configuration of the pool: its size, hooks, TLS.
// The address can set some of it too (pool_max_conns and the like). The handlers' pool
// has the same configuration, except for its size.
func WithPoolConfig(fn func(*pgxpool.Config)) Option { return func(o *options) { o.configure = fn } }

// Check reports what is wrong with an address and its schema parameter, without
// connecting. The error does not quote the address, which may hold a password.
func Check(dsn string) error {
	_, err := parse(dsn, nil)
	return err
}

// parse reads an address. It drops pgx's error about a malformed one, which may quote
// the password.
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

// call calls a hook, if there is one.
func call[T any](ctx context.Context, hook func(context.Context, T) error, arg T) error {
	if hook == nil {
		return nil
	}
	return hook(ctx, arg)
}

// own sets what every connection of the store has.
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
	listener *listener     // nil until the first Changed
	handlers *pgxpool.Pool // nil until the first AckInTx
}

var _ store.Concurrent = (*Store)(nil)

// Concurrent returns true: several calls of Apply run at once, each on a connection
// of its own.
func (s *Store) Concurrent() bool { return true }

// Open opens the store in the schema that the parameter schema of dsn names. dsn is a
// URL or keywords and values. By default Open creates or migrates the schema first.
// Errors: [store.ErrSchema] if the schema has another version, [store.ErrUnavailable]
// if the server cannot be used.
//
// Open starts no goroutine of its own. The connection pool has one; [Store.Close] ends
// it.
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

// prepare checks or migrates the schema and reads the store's secret.
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

// readSecret reads the store's random key, and creates it if there is none. If two
// processes do so at once, both read the first one's. A read-only store skips it: it
// does not need the key and may lack the right.
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

// Secret returns the store's random key, nil if the store was opened for reading; see
// [store.Store].
func (s *Store) Secret() []byte { return slices.Clone(s.secret) }

// Info describes the store; see [store.Store]. Schema is the version that the server
// has now.
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

// Close stops listening, wakes callers of [Store.Changed], waits for running calls and
// closes the connections.
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
