package pgstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// A server whose disk stalls and a connection that died unnoticed look the same: no
// answer comes. The stalled server is worth waiting for, since it may still write. So
// when an answer is late, we ask the server on a new connection whether the session is
// running a statement. Behind a pooler nobody can tell which session is ours. There we
// try another write, a little later. If it succeeds, no disk stalls, and if no session
// of our role has been running a statement for as long, ours is not slow but lost.

const (
	// lateAnswer is how long to wait before the server is asked, and how long a session
	// must have been idle to count as such.
	lateAnswer = time.Second
	// latePooled is how long to wait before another write is tried. It is longer than
	// any wait for a lock.
	latePooled = 2 * lockTimeout
)

// errLost is why a statement is abandoned.
var errLost = errors.New("the connection is dead: the server is not at the statement")

// watchOver calls abandon when the server is not running the statement that we wait
// for. It ends with ctx; stop keeps it from starting.
func (s *Store) watchOver(ctx context.Context, conn *pgx.Conn, t task, abandon context.CancelCauseFunc) (stop func() bool) {
	late, lost := lateAnswer, s.idle
	if s.opts.pooled.Load() {
		if t.long {
			return func() bool { return true }
		}
		late, lost = latePooled, s.overtaken
	}
	pid, server := conn.PgConn().PID(), conn.PgConn().Conn().RemoteAddr().String()
	return time.AfterFunc(late, func() {
		for ctx.Err() == nil {
			if lost(ctx, pid, server) {
				abandon(errLost)
			}
			select {
			case <-time.After(lateAnswer):
			case <-ctx.Done():
			}
		}
	}).Stop
}

// idle reports whether the server answers that the session is idle.
func (s *Store) idle(ctx context.Context, pid uint32, server string) bool {
	at, err := s.sessions(ctx)
	return err == nil && at.server == server && !at.work[pid]
}

// overtaken reports whether writes that begin now succeed and no session is slow. It
// tries two writes: the first may end together with the statement that we wait for.
func (s *Store) overtaken(ctx context.Context, _ uint32, _ string) bool {
	_, err, _ := s.asks.Do("write", func() (any, error) {
		whole := context.WithoutCancel(ctx)
		if err := s.tryWrite(whole); err != nil {
			return nil, err
		}
		if err := s.tryWrite(whole); err != nil {
			return nil, err
		}
		return nil, s.nobodyIsSlow(whole)
	})
	return err == nil
}

const slowSQL = `
select exists (
  select from pg_stat_activity
  where usename = current_user and datname = current_database() and pid <> pg_backend_pid()
    and state = 'active' and backend_type = 'client backend' and query_start < clock_timestamp() - $1::interval)`

var errSlow = errors.New("a session is at a statement for long")

// nobodyIsSlow returns an error if some session of our role has been running a
// statement for as long as we have waited for ours.
func (s *Store) nobodyIsSlow(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, lateAnswer)
	defer cancel()
	var slow bool
	if err := s.pool.QueryRow(short, slowSQL, latePooled-lateAnswer).Scan(&slow); err != nil {
		return err //nolint:wrapcheck // never shown to a caller
	}
	if slow {
		return errSlow
	}
	return nil
}

// sessions are the sessions of a server that were active lately.
type sessions struct {
	server string
	work   map[uint32]bool
}

const sessionsSQL = `
select pid from pg_stat_activity
where state in ('active', 'fastpath function call', 'disabled') or state_change > clock_timestamp() - $1::interval`

// sessions asks the server for them. Concurrent callers share one query.
func (s *Store) sessions(ctx context.Context) (*sessions, error) {
	got, err, _ := s.asks.Do("sessions", func() (any, error) {
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateAnswer)
		defer cancel()
		cfg := s.opts.pool.ConnConfig.Copy()
		if err := s.opts.dial(short, cfg); err != nil {
			return nil, err
		}
		conn, err := pgx.ConnectConfig(short, cfg)
		if err != nil {
			return nil, err //nolint:wrapcheck // never shown to a caller
		}
		defer hangUp(short, conn)
		rows, err := conn.Query(short, sessionsSQL, lateAnswer)
		if err != nil {
			return nil, err //nolint:wrapcheck // never shown to a caller
		}
		at := &sessions{conn.PgConn().Conn().RemoteAddr().String(), map[uint32]bool{}}
		var pid uint32
		_, err = pgx.ForEachRow(rows, []any{&pid}, func() error {
			at.work[pid] = true
			return nil
		})
		return at, err //nolint:wrapcheck // never shown to a caller
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // never shown to a caller
	}
	at, _ := got.(*sessions)
	return at, nil
}
