package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

const (
	// maxPayload, in bytes, keeps notifications below Postgres' limit of 8000.
	maxPayload = 7000
	// calmFactor stretches the poll interval while the listener is connected.
	calmFactor = 4

	minReconnect = 100 * time.Millisecond
	maxReconnect = 5 * time.Second
)

// channel is the name of the channel that the stores of the schema listen to.
func (o *options) channel() string { return "signin:" + o.schema }

// settles reports whether somebody may be waiting for the attempt's state: whoever
// finds a sign-in under way waits for its outcome.
func settles(a *store.Attempt) bool {
	switch a.State {
	case store.CardSent, store.Complete, store.Failed:
		return a.Version > 1
	case store.Idle, store.Exchanging, store.Verifying, store.None:
		return false
	}
	return false
}

// tell wakes those who wait for attempts that were just written: in this process at
// once, in others by notification. The notification is a transaction of its own, after
// the one that wrote: notifying holds a server-wide lock until the commit is on the
// disk, and this one has nothing to write. If it fails, polling finds the change.
func (s *Store) tell(ctx context.Context, commits ...*store.Commit) {
	var payloads []string
	var b strings.Builder
	add := func(version int64, id string) {
		if b.Len() > maxPayload {
			payloads = append(payloads, b.String())
			b.Reset()
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(strconv.FormatInt(version, 10))
		b.WriteByte(' ')
		b.WriteString(id)
	}
	for _, c := range commits {
		for i := range c.Put {
			a := &c.Put[i]
			s.notify.Wake(a.ID)
			if settles(a) {
				add(a.Version, a.ID)
			}
		}
		for i := range c.Marks {
			if m := &c.Marks[i]; m.Wakes {
				s.notify.Wake(m.Name)
				add(m.Version, m.Name)
			}
		}
	}
	if b.Len() == 0 {
		return
	}
	payloads = append(payloads, b.String())
	_ = s.do(ctx, task{op: "notify", bare: true, fn: func(ctx context.Context, conn *pgxpool.Conn) error {
		_, err := conn.Exec(ctx, `select pg_notify($1, payload) from unnest($2::text[]) payload`, s.opts.channel(), payloads)
		return err //nolint:wrapcheck // never shown to a caller
	}})
}

// Changed waits for a newer version; see [store.Store]. Writes of this Store wake it at
// once, those of others by notification. The first call opens a connection for that,
// beside the pool, and starts a goroutine that reads it; [Store.Close] ends both. While
// the connection is down, Changed polls.
func (s *Store) Changed(ctx context.Context, id string, version int64) error {
	l, err := s.listen() //nolint:contextcheck // what it starts outlives the caller
	if err != nil {
		return classify(ctx, "changed", err)
	}
	for {
		pause := s.opts.poll
		if l.up.Load() {
			pause *= calmFactor
		}
		look, cancel := context.WithTimeout(ctx, pause)
		err := s.notify.Wait(look, id, func() (bool, error) {
			stored, err := s.versionOf(ctx, id)
			return stored > version || stored == 0 && version > 0, err
		})
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			continue
		}
		if err != nil && ctx.Err() != nil {
			return classify(ctx, "changed", ctx.Err())
		}
		return err
	}
}

// listen returns the listener; the first call starts it.
func (s *Store) listen() (*listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("closed: %w", store.ErrUnavailable)
	}
	if s.listener == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s.listener = &listener{cancel: cancel, ended: make(chan struct{})}
		go s.listener.run(ctx, s.opts, &s.notify)
	}
	return s.listener, nil
}

// listener receives notifications on a connection of its own.
type listener struct {
	up     atomic.Bool
	cancel context.CancelFunc
	ended  chan struct{}
}

func (l *listener) stop() {
	l.cancel()
	<-l.ended
}

// run listens, and reconnects when the connection is lost.
func (l *listener) run(ctx context.Context, opts *options, notify *store.Notifier) {
	defer close(l.ended)
	for pause := minReconnect; ctx.Err() == nil; pause = min(2*pause, maxReconnect) {
		if l.hear(ctx, opts, notify) {
			pause = minReconnect
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// hear listens on one connection until it ends, and reports whether there was one. The
// reason why it ended is dropped: users of the pool see the same failure. A session
// lent by a pooler cannot listen.
func (l *listener) hear(ctx context.Context, opts *options, notify *store.Notifier) bool {
	dial, cancel := context.WithTimeout(ctx, maxReconnect)
	defer cancel()
	conn, err := opts.direct(dial)
	if err != nil {
		return false
	}
	defer func() {
		l.up.Store(false)
		hangUp(ctx, conn)
	}()
	if _, err := conn.Exec(dial, `listen `+pgx.Identifier{opts.channel()}.Sanitize()); err != nil {
		return false
	}
	l.up.Store(true)
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return true
		}
		for line := range strings.Lines(n.Payload) {
			_, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			notify.Wake(id)
		}
	}
}
