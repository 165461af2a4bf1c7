//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// markSQL takes a name that is free or over.
const markSQL = `
insert into marks (hash, created, expires) values ($1, now(), nullif($2::timestamptz, '0001-01-01 00:00:00+00'))
on conflict (hash) do update set created = excluded.created, expires = excluded.expires
where marks.expires <= now()`

// applyAlone writes one commit in a transaction of its own, Put after Put as
// its order asks: all statements in one round trip, then the verdict.
func (s *Store) applyAlone(ctx context.Context, c *store.Commit) error {
	return s.use(ctx, "apply", func(ctx context.Context, conn *pgxpool.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		err = play(ctx, tx, c)
		if err == nil {
			if err = tx.Commit(ctx); err == nil {
				s.tell(ctx, conn, c)
			}
			return err
		}
		// A refused transaction of a dead connection is gone anyway.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = tx.Rollback(back)
		return err
	})
}

// play runs the commit's statements and returns the first refusal.
func play(ctx context.Context, tx pgx.Tx, c *store.Commit) error {
	var (
		b       pgx.Batch
		refused []error // in the order of the commit
	)
	queue := func(t *touches, refuse func(found *int64, open bool) error) {
		t.queue(&b, true).Query(func(rows pgx.Rows) error {
			var (
				n     int
				found *int64
				open  bool
			)
			_, err := pgx.ForEachRow(rows, []any{&n, &found, &open}, func() error {
				refused = append(refused, refuse(found, open))
				return nil
			})
			return err
		})
	}
	lines := byAttempt(c)
	for i := range c.Put {
		a := &c.Put[i]
		var t touches
		t.put(0, a, a.Version-1, !a.State.Terminal(), nil)
		queue(&t, func(found *int64, open bool) error {
			return refusal(a.ID, a.Version-1, found, open, !a.State.Terminal())
		})
	}
	for _, id := range slices.Sorted(maps.Keys(lines)) {
		l := lines[id]
		var t touches
		n := -1
		if id != "" {
			n = 0
			t.touch(n, id, l.events)
		}
		t.orphans(n, l.events)
		t.owe(n, l.deliveries)
		queue(&t, func(*int64, bool) error {
			return fmt.Errorf("event or delivery of attempt %s: %w", id, store.ErrNotFound)
		})
	}
	for _, m := range c.Marks {
		b.Queue(markSQL, markHash(m.Name), store.Time(m.Expires)).Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() == 0 {
				refused = append(refused, fmt.Errorf("mark: %w", store.ErrDuplicate))
			}
			return nil
		})
	}
	err := tx.SendBatch(ctx, &b).Close()
	return errors.Join(err, first(refused))
}

func first(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return errs[0]
}

// belongings are the lines and deliveries of one attempt in a commit.
type belongings struct {
	events     []store.Event
	deliveries []store.Delivery
}

// byAttempt sorts them, those of no attempt under "".
func byAttempt(c *store.Commit) map[string]*belongings {
	out := map[string]*belongings{}
	of := func(id string) *belongings {
		if out[id] == nil {
			out[id] = &belongings{}
		}
		return out[id]
	}
	for i := range c.Events {
		b := of(c.Events[i].Attempt)
		b.events = append(b.events, c.Events[i])
	}
	for i := range c.Deliveries {
		b := of(c.Deliveries[i].Attempt)
		b.deliveries = append(b.deliveries, c.Deliveries[i])
	}
	return out
}
