//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// A connection leads either to a session of our own or to a pooler that lends us a
// session for one transaction. The process id in the server's greeting tells which: a
// pooler makes one up.
//
// The statements need the settings below. A session of our own gets them once and
// keeps the statements that it has prepared. A lent session gets them at the start of
// each transaction and keeps nothing. The startup message has only the parameters of
// the address: poolers refuse those that they do not know.

// setting is a parameter of the server.
type setting struct{ name, value string }

// settings are what the store's statements need.
func (o *options) settings() []setting {
	all := []setting{
		{"search_path", pgx.Identifier{o.schema}.Sanitize()},
		{"timezone", "UTC"},
		{"statement_timeout", milliseconds(o.statement)},
		{"lock_timeout", milliseconds(lockTimeout)},
		{"idle_in_transaction_session_timeout", milliseconds(2 * o.statement)},
		// Of a small table the planner would read the pages in physical order, and sort
		// all of a user's attempts to find the newest.
		{"random_page_cost", "1"},
		{"plan_cache_mode", "force_generic_plan"},
	}
	// The statements are written for their indexes. Planning them again for each set of
	// values finds nothing better. A plan with table scans, made while the tables were
	// small, would stay when they have grown.
	for _, name := range []string{"enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"} {
		all = append(all, setting{name, "off"})
	}
	return all
}

// lockTimeout is how long a statement waits for the lock of a row or table: other
// callers' commits are in the same statement. It is more than the server takes to
// detect a deadlock.
const lockTimeout = 1500 * time.Millisecond

// unhurried is the factor by which operators' reads and retention may take longer than
// a statement of a sign-in.
const unhurried = 3

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// set is the select list that applies the settings. local is an SQL condition: if it
// holds, they last for the transaction only.
func set(settings []setting, local string) string {
	var b strings.Builder
	for _, s := range settings {
		fmt.Fprintf(&b, "set_config('%s', '%s', %s), ", s.name, strings.ReplaceAll(s.value, "'", "''"), local)
	}
	// Other users of the database may accept the loss of their last commits. An
	// acknowledged transition must be on the disk.
	fmt.Fprintf(&b, "set_config('synchronous_commit', case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end, %s)", local)
	return b.String()
}

// begin is the statement that begins a transaction in any session. It names READ
// COMMITTED because the database may default to another isolation level.
func (o *options) begin(more ...setting) string {
	begin := "begin isolation level read committed"
	if o.readOnly {
		begin += " read only"
	}
	return begin + "; select " + set(append(o.settings(), more...), "true")
}

// dial puts the current address into the configuration of a new connection.
func (o *options) dial(ctx context.Context, cfg *pgx.ConnConfig) error {
	if o.address != nil {
		dsn, err := o.address(ctx)
		if err != nil {
			return fmt.Errorf("address: %w", err)
		}
		now, err := pgx.ParseConfig(dsn)
		if err != nil {
			return errors.New("malformed Postgres address")
		}
		cfg.Host, cfg.Port, cfg.Fallbacks, cfg.TLSConfig = now.Host, now.Port, now.Fallbacks, now.TLSConfig
		cfg.Database, cfg.User, cfg.Password, cfg.ValidateConnect = now.Database, now.User, now.Password, now.ValidateConnect
	}
	if o.pooled.Load() {
		cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return nil
}

// errPooled ends a connection that would prepare statements in lent sessions. The next
// one will not.
var errPooled = errors.New("the address leads to a pooler: connect again")

// meet finds out whether a new connection leads to a pooler.
func (o *options) meet(ctx context.Context, conn *pgx.Conn) error { return o.hail(ctx, conn, "") }

// greet is meet; it also gives a session of our own its settings.
func (o *options) greet(ctx context.Context, conn *pgx.Conn) error {
	settings := append(o.settings(), setting{"default_transaction_isolation", "read committed"})
	if o.readOnly {
		settings = append(settings, setting{"default_transaction_read_only", "on"})
	}
	// In a lent session they end with this statement.
	return o.hail(ctx, conn, ", "+set(settings, fmt.Sprintf("pg_backend_pid() <> %d::bigint", conn.PgConn().PID())))
}

func (o *options) hail(ctx context.Context, conn *pgx.Conn, more string) error {
	pooled, err := lent(ctx, conn, more)
	if err != nil || !pooled {
		return err
	}
	o.pooled.Store(true)
	if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		return errPooled
	}
	return nil
}

// lent reports whether a connection's session is lent by a pooler.
func lent(ctx context.Context, conn *pgx.Conn, more string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, conn.Config().ConnectTimeout)
	defer cancel()
	results, err := conn.PgConn().Exec(ctx, "select pg_backend_pid()"+more).ReadAll()
	switch {
	case err != nil:
		return false, err
	case len(results) != 1 || len(results[0].Rows) != 1:
		return false, errors.New("the server has not answered the question after its process")
	}
	return string(results[0].Rows[0][0]) != strconv.FormatUint(uint64(conn.PgConn().PID()), 10), nil
}

// admin makes a connection beside the pool, for transactions without timeouts.
func (o *options) admin(ctx context.Context) (*pgx.Conn, error) {
	for {
		cfg := o.pool.ConnConfig.Copy()
		if err := o.dial(ctx, cfg); err != nil {
			return nil, err
		}
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return nil, err
		}
		if err = o.meet(ctx, conn); err == nil {
			return conn, nil
		}
		hangUp(ctx, conn)
		if !errors.Is(err, errPooled) {
			return nil, err
		}
	}
}

// direct makes a connection with a session of its own, for LISTEN.
func (o *options) direct(ctx context.Context) (*pgx.Conn, error) {
	if o.hear == nil && o.pooled.Load() {
		return nil, errPooled
	}
	cfg := o.pool.ConnConfig.Copy()
	if o.hear != nil {
		cfg = o.hear.Copy()
	} else if err := o.dial(ctx, cfg); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if lent, err := lent(ctx, conn, ""); err != nil || lent {
		hangUp(ctx, conn)
		return nil, errors.Join(err, errPooled)
	}
	return conn, nil
}

// patient turns off the timeouts of an admin's transaction.
var patient = []setting{{"statement_timeout", "0"}, {"lock_timeout", "0"}, {"idle_in_transaction_session_timeout", "0"}}

// administer runs fn in a transaction without timeouts.
func (o *options) administer(ctx context.Context, conn *pgx.Conn, fn func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: o.begin(patient...)}, fn)
}

// hangUp closes a connection, even if ctx is done.
func hangUp(ctx context.Context, conn *pgx.Conn) {
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(bye)
}

// tries bounds how often a call is tried that lost a race.
const tries = 4

// task is one call of the store.
type task struct {
	op   string
	fn   func(context.Context, *pgxpool.Conn) error
	tx   bool // needs a transaction
	bare bool // is one statement that needs no settings
	long bool // may take unhurried times as long
}

// use runs fn on a connection of the pool, within the store's timeouts, and retries if
// that may help. If the statements of fn need one transaction, use [Store.useTx].
func (s *Store) use(ctx context.Context, op string, fn func(context.Context, *pgxpool.Conn) error) error {
	return s.do(ctx, task{op: op, fn: fn})
}

// useTx is use in a transaction.
func (s *Store) useTx(ctx context.Context, op string, fn func(context.Context, *pgxpool.Conn) error) error {
	return s.do(ctx, task{op: op, fn: fn, tx: true})
}

// useLong is useTx with a timeout that is unhurried times as long.
func (s *Store) useLong(ctx context.Context, op string, fn func(context.Context, *pgxpool.Conn) error) error {
	return s.do(ctx, task{op: op, fn: fn, tx: true, long: true})
}

func (s *Store) do(ctx context.Context, t task) error {
	if !t.long {
		slow := time.AfterFunc(slowAnswer, func() { s.doubts.Add(1) })
		defer slow.Stop()
	}
	settled := func(error) {}
	if t.op == opApply && !s.opts.readOnly {
		settled = s.health.watch(s) //nolint:contextcheck // what it starts outlives the caller
	}
	var err error
	for range tries {
		if err = s.once(ctx, t); err == nil || !again(err) || ctx.Err() != nil {
			break
		}
	}
	err = classify(ctx, t.op, err)
	settled(err)
	return err
}

func (s *Store) once(ctx context.Context, t task) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bound := s.opts.statement
	if t.long {
		bound *= unhurried
	}
	run, cancel := context.WithTimeout(ctx, bound+grace) // the server should give up first
	defer cancel()
	wait, waited := context.WithTimeout(run, s.opts.acquire)
	defer waited()
	conn, err := s.pool.Acquire(wait)
	if err != nil {
		return fmt.Errorf("acquire a connection: %w", err)
	}
	defer conn.Release()
	run, abandon := context.WithCancelCause(run)
	defer abandon(nil)
	defer s.watchOver(run, conn.Conn(), t, abandon)()
	if err = s.perform(run, conn, t); err != nil && errors.Is(context.Cause(run), errLost) {
		s.forsake(run, conn.Conn())
		return fmt.Errorf("%w: %w", store.ErrUnavailable, errLost)
	}
	switch {
	case sqlState(err) != codeReadOnly:
		return err
	case s.opts.readOnly:
		return fmt.Errorf("%w: %w", store.ErrReadOnly, err)
	}
	// The server may have become a standby: the next connection may find the primary.
	// This is not ErrReadOnly, which means that the store was opened for reading.
	s.forsake(run, conn.Conn())
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// grace is how much longer we wait than the server's own timeout.
const grace = 500 * time.Millisecond

// perform runs the task, in a transaction if it needs one or the session is lent.
func (s *Store) perform(ctx context.Context, conn *pgxpool.Conn, t task) error {
	if !t.tx && (t.bare || !s.opts.pooled.Load()) {
		return t.fn(ctx, conn)
	}
	var more []setting
	if t.long {
		more = []setting{{"statement_timeout", milliseconds(unhurried * s.opts.statement)}}
	}
	return pgx.BeginTxFunc(ctx, conn.Conn(), pgx.TxOptions{BeginQuery: s.opts.begin(more...)}, func(pgx.Tx) error { return t.fn(ctx, conn) })
}

// forsake closes a connection and all others made until now: they lead to the same
// server.
func (s *Store) forsake(ctx context.Context, conn *pgx.Conn) {
	hangUp(ctx, conn)
	s.pool.Reset()
}

// A connection that was idle for idleAfter is pinged before use and must answer within
// pingTimeout. So is each connection once a statement of a sign-in has had no answer
// for slowAnswer.
const (
	idleAfter   = time.Second
	pingTimeout = time.Second
	slowAnswer  = 500 * time.Millisecond
)

// watchConnections makes the pool ping suspect connections before use. If one is dead,
// the others probably are too: all are replaced.
func (s *Store) watchConnections() {
	cfg := s.opts.pool
	prepare := cfg.PrepareConn
	cfg.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		known := p.Conn.PgConn().CustomData()
		if seen, _ := known[doubtsData].(int64); p.IdleDuration > idleAfter || seen < s.doubts.Load() {
			known[askData] = true
		}
		return false // PrepareConn pings
	}
	closing := cfg.BeforeClose
	cfg.BeforeClose = func(conn *pgx.Conn) {
		if closing != nil {
			closing(conn)
		}
		_ = conn.PgConn().Conn().SetDeadline(time.Now().Add(farewell))
	}
	cfg.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		known, doubts := conn.PgConn().CustomData(), s.doubts.Load()
		if known[askData] != nil {
			// If the caller gives up meanwhile, the connection is still good.
			ping, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
			defer cancel()
			if conn.Ping(ping) != nil {
				s.forsake(ctx, conn)
				return false, nil
			}
			delete(known, askData)
			known[doubtsData] = doubts
		}
		if prepare != nil {
			return prepare(ctx, conn)
		}
		return true, nil
	}
}

// farewell is how long closing a connection may take. A server that is gone does not
// answer, and the slot in the pool is needed.
const farewell = time.Second

// brief caps a connection's deadlines at farewell from now. pgx sets a future deadline
// only while it closes a connection, and that one is many seconds away.
type brief struct{ net.Conn }

func (b brief) SetDeadline(t time.Time) error {
	if soon := time.Now().Add(farewell); t.After(soon) {
		t = soon
	}
	return b.Conn.SetDeadline(t)
}

// Keys of a connection's custom data.
const (
	askData    = "signin_ask"    // it must be pinged before use
	doubtsData = "signin_doubts" // Store.doubts at its last ping
)

// querier is a connection, a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}
