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
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// markSQL takes a name that is free or over, and returns nothing for one that
// is not.
var markSQL = statement{"signin_mark", `
insert into marks (hash, created, expires) select hash, now(), expires from unnest($1::bytea[], $2::timestamptz[]) as m(hash, expires)
on conflict (hash) do update set created = excluded.created, expires = excluded.expires
where marks.expires <= now()
returning true`}

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
	r := round{conn: tx.Conn()}
	var refused []error // in the order of the commit
	add := func(fill func(*touches), refuse func(found stored) error) error {
		t := newTouches()
		defer t.free()
		fill(t)
		stmt, args := t.statement(true)
		return r.add(ctx, stmt, args, func(rows *pgconn.ResultReader) error {
			return eachRefused(rows, func(_ int, found stored) { refused = append(refused, refuse(found)) })
		})
	}
	for i := range c.Put {
		a := &c.Put[i]
		claims := !a.State.Terminal()
		err := add(
			func(t *touches) { t.put(0, a, a.Version-1, claims, &store.Commit{}) },
			func(found stored) error { return refusal(a.ID, a.Version-1, claims, found) },
		)
		if err != nil {
			return err
		}
	}
	parts := byAttempt(c)
	for _, id := range slices.Sorted(maps.Keys(parts)) {
		part := parts[id]
		err := add(
			func(t *touches) {
				if id != "" {
					t.touch(0, id, part)
					return
				}
				t.orphans(-1, part.Events)
			},
			func(stored) error { return fmt.Errorf("event or delivery of attempt %s: %w", id, store.ErrNotFound) },
		)
		if err != nil {
			return err
		}
	}
	for _, m := range c.Marks {
		name, expires := array{oid: pgtype.ByteaOID}, array{oid: pgtype.TimestamptzOID}
		name.hash(hashMark, m.Name)
		expires.timeOrNull(store.Time(m.Expires))
		err := r.add(ctx, &markSQL, [][]byte{name.value(), expires.value()}, func(rows *pgconn.ResultReader) error {
			if !rows.NextRow() {
				refused = append(refused, fmt.Errorf("mark: %w", store.ErrDuplicate))
			}
			_, err := rows.Close()
			return err
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(r.send(ctx), first(refused))
}

func first(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return errs[0]
}

// byAttempt sorts a commit's lines and deliveries by their attempt, "" for none.
func byAttempt(c *store.Commit) map[string]*store.Commit {
	out := map[string]*store.Commit{}
	of := func(id string) *store.Commit {
		if out[id] == nil {
			out[id] = &store.Commit{}
		}
		return out[id]
	}
	for i := range c.Events {
		part := of(c.Events[i].Attempt)
		part.Events = append(part.Events, c.Events[i])
	}
	for i := range c.Deliveries {
		part := of(c.Deliveries[i].Attempt)
		part.Deliveries = append(part.Deliveries, c.Deliveries[i])
	}
	return out
}
