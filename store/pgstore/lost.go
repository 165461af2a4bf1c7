package pgstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// A server that is at a statement for long, since a disk stalls, and a connection
// that has died with nobody told are silent alike. The first is worth waiting for:
// the statement may be written. So when an answer is late the server is asked, on a
// new connection, whether the session is at it. Behind a pooler nobody can tell which
// session that is. There something else is written, a little later: if that comes
// back no disk stalls, and if no session of our role is at a statement for as long, it
// is not ours that is slow.

const (
	// lateAnswer is after how long the server is asked, and how long a session must
	// have had nothing to do.
	lateAnswer = time.Second
	// latePooled is after how long something else is written: a lock is not waited
	// for as long.
	latePooled = 2 * lockTimeout
)

// errLost is why a statement is given up.
var errLost = errors.New("the connection is dead: the server is not at the statement")

// watchOver calls abandon when the server is not at the statement that we wait for.
// It ends with ctx; stop keeps it from beginning.
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

// idle reports whether a session of the server has had nothing to do.
func (s *Store) idle(ctx context.Context, pid uint32, server string) bool {
	at, err := s.sessions(ctx)
	return err == nil && at.server == server && !at.work[pid]
}

// overtaken reports whether writes that begin now come back: two, since the first may
// do so together with what we wait for.
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

// nobodyIsSlow is an error if some session of our role has been at a statement for as
// long as we wait for ours.
func (s *Store) nobodyIsSlow(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, lateAnswer)
	defer cancel()
	var slow bool
	if err := s.pool.QueryRow(short, slowSQL, latePooled-lateAnswer).Scan(&slow); err != nil {
		return err //nolint:wrapcheck // nobody sees it
	}
	if slow {
		return errSlow
	}
	return nil
}

// sessions are the sessions of a server that have had something to do lately.
type sessions struct {
	server string
	work   map[uint32]bool
}

const sessionsSQL = `
select pid from pg_stat_activity
where state in ('active', 'fastpath function call', 'disabled') or state_change > clock_timestamp() - $1::interval`

// sessions asks for them, once for all who ask at the same time.
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
			return nil, err //nolint:wrapcheck // nobody sees it
		}
		defer hangUp(short, conn)
		rows, err := conn.Query(short, sessionsSQL, lateAnswer)
		if err != nil {
			return nil, err //nolint:wrapcheck // nobody sees it
		}
		at := &sessions{conn.PgConn().Conn().RemoteAddr().String(), map[uint32]bool{}}
		var pid uint32
		_, err = pgx.ForEachRow(rows, []any{&pid}, func() error {
			at.work[pid] = true
			return nil
		})
		return at, err //nolint:wrapcheck // nobody sees it
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // nobody sees it
	}
	at, _ := got.(*sessions)
	return at, nil
}
