//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// probeTimeout bounds [Store.Probe]: a load balancer does not wait long for the answer.
const probeTimeout = 2 * time.Second

// rights are privileges that the role needs on a table.
type rights struct{ table, privileges string }

var (
	// commitRights are those that commits need.
	commitRights = []rights{
		{"attempts", "select insert update"},
		{"events", "select insert"},
		{"deliveries", "select insert update"},
		{"exchange_ids", "select insert update"},
		{"marks", "select insert update delete"},
	}
	// purgeRights are those that only retention needs.
	purgeRights = []rights{
		{"attempts", "delete"}, {"events", "delete"}, {"deliveries", "delete"}, {"exchange_ids", "delete"},
	}
)

// missingSQL selects which of the privileges $2 on the tables $1 the role lacks.
const missingSQL = `array(select lower(p) || ' on ' || t from unnest($1::text[], $2::text[]) need(t, p)
    where not has_table_privilege(quote_ident(current_schema()) || '.' || quote_ident(t), p))`

// probeSQL asks the session whether it could write.
const probeSQL = `
select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
  (select coalesce(max(version), 0) from schema_migrations), (select coalesce(max(readable_by), 0) from schema_migrations),
  ` + missingSQL

// Probe reports whether a commit would work now: the server is a primary, the session
// may write, this program may use the schema, and the role has its rights. After a
// write has failed, or while one is slow to answer, it reports the result of a test
// write, which leaves nothing behind. Test writes run once a second and at each Probe,
// until one succeeds. Probe answers within two seconds. Errors: [store.ErrUnavailable],
// which says what is missing; [store.ErrSchema]; [store.ErrReadOnly] if the store was
// opened for reading.
func (s *Store) Probe(ctx context.Context) error {
	if s.opts.readOnly {
		return classify(ctx, "probe", store.ErrReadOnly)
	}
	short, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := s.health.verdict(short)
	if err == nil {
		if err = s.look(short); err != nil && ctx.Err() == nil {
			s.health.doubt(s) //nolint:contextcheck // it outlives the caller
		}
	}
	return classify(ctx, "probe", err)
}

// look checks everything that can be checked without a write.
func (s *Store) look(ctx context.Context) error {
	all, err := s.opts.steps()
	if err != nil {
		return err
	}
	var standby, readOnly bool
	var now version
	var missing []string
	err = s.use(ctx, "look", func(ctx context.Context, conn *pgxpool.Conn) error {
		tables, privileges := needed(commitRights)
		err := conn.QueryRow(ctx, probeSQL, tables, privileges).Scan(&standby, &readOnly, &now.number, &now.readable, &missing)
		if err == nil && (standby || readOnly) {
			// The next connection may be to a primary.
			s.forsake(ctx, conn.Conn())
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case standby:
		return fmt.Errorf("%w: the server is a standby", store.ErrUnavailable)
	case readOnly:
		return fmt.Errorf("%w: the session is read-only", store.ErrUnavailable)
	case len(missing) > 0:
		return fmt.Errorf("%w: the role may not %s (schema %s)", store.ErrUnavailable, strings.Join(missing, ", "), s.opts.schema)
	default:
		return now.usable(len(all))
	}
}

const (
	// tryTimeout bounds a test write.
	tryTimeout = time.Second
	// tryEvery is how often one is tried while writes fail.
	tryEvery = time.Second
	// trySize is how many bytes it writes: more than fit on an existing page.
	trySize = 16 << 10
)

// health tracks whether writes work. While the store's own writes succeed, they are the
// proof. When one fails, or is slow to answer, a goroutine makes test writes until one
// succeeds. The store's own calls do not suffice then: an instance that is not ready
// gets no traffic, and a call that writes nothing succeeds anywhere.
type health struct {
	mu      sync.Mutex
	trouble error         // why writes fail; nil = they work, or nobody knows yet
	next    chan struct{} // closed with the next verdict; nil = no test writes
	hurry   chan struct{} // has room for one: a caller waits for the verdict
	end     context.CancelFunc
	closed  bool
	ended   sync.WaitGroup
}

// watch follows one write. The caller passes the write's error to the returned func.
func (h *health) watch(s *Store) func(error) {
	late := time.AfterFunc(slowAnswer, func() { h.doubt(s) })
	return func(err error) {
		late.Stop()
		if errors.Is(err, store.ErrUnavailable) {
			h.doubt(s)
		}
	}
}

// doubt starts the test writes, unless they are running.
func (h *health) doubt(s *Store) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next != nil || h.closed {
		return
	}
	ctx, end := context.WithCancel(context.Background())
	h.next, h.hurry, h.end = make(chan struct{}), make(chan struct{}, 1), end
	h.ended.Go(func() { h.try(ctx, s) })
}

// try makes test writes until one succeeds.
func (h *health) try(ctx context.Context, s *Store) {
	for {
		err := s.tryWrite(ctx)
		h.mu.Lock()
		h.trouble = err
		close(h.next)
		if err == nil || h.closed {
			h.next = nil
			h.end()
			h.mu.Unlock()
			return
		}
		h.next = make(chan struct{})
		h.mu.Unlock()
		timer := time.NewTimer(tryEvery)
		select {
		case <-h.hurry:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// verdict returns why writes fail. While test writes run, it waits for one that began
// after the call.
func (h *health) verdict(ctx context.Context) error {
	for range 2 { // the first may have begun before the call
		h.mu.Lock()
		next, hurry, err := h.next, h.hurry, h.trouble
		h.mu.Unlock()
		if next == nil {
			return nil
		}
		select {
		case hurry <- struct{}{}:
		default:
		}
		select {
		case <-next:
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trouble
}

// stop ends the test writes.
func (h *health) stop() {
	h.mu.Lock()
	h.closed = true
	if h.end != nil {
		h.end()
	}
	h.mu.Unlock()
	h.ended.Wait()
}

// tryWrite commits a mark and removes it again.
func (s *Store) tryWrite(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	mark := store.Mark{Name: "probe " + rand.Text(), Version: 1, Value: make([]byte, trySize)}
	_, _ = rand.Read(mark.Value) // never fails, by its contract; random bytes do not compress
	err := s.applyOne(short, store.Commit{Marks: []store.Mark{mark}})
	if err == nil {
		// If this fails, retention deletes the mark.
		_ = s.applyOne(short, store.Commit{Marks: []store.Mark{{Name: mark.Name, Version: 2, Gone: true}}})
	} else if short.Err() != nil {
		return fmt.Errorf("%w: a write has no answer within %s", store.ErrUnavailable, tryTimeout)
	}
	return err
}

// needed returns the rights as two columns.
func needed(all []rights) (tables, privileges []string) {
	for _, r := range all {
		for _, p := range strings.Fields(r.privileges) {
			tables, privileges = append(tables, r.table), append(privileges, p)
		}
	}
	return tables, privileges
}
