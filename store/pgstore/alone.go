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

// The statements of a commit that has a transaction of its own, where each
// statement sees what the one before has written.
var (
	// deliverSQL inserts one delivery. It returns whether it did, and whether its
	// attempt is there.
	deliverSQL = statement{"signin_deliver", `
with k as materialized (
  select * from unnest($1::text[], $2::text[], $3::int4[], $4::text[], $5::int8[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::text[], $10::bytea[])
  as k(attempt, kind, round, status, tries, owner, created, next_at, error, record)
), new as (
  insert into deliveries (home, attempt, kind, round, status, tries, owner, created, next_at, error, record)
  select a.home, k.* from k join attempts a on a.id = k.attempt
  on conflict do nothing
  returning 1
)
select exists (select from new), exists (select from attempts a join k on a.id = k.attempt)`}

	// ackSQL changes one delivery, and returns a row if it did.
	ackSQL = statement{"signin_ack", `
with k as materialized (
  select * from unnest($1::text[], $2::text[], $3::int4[], $4::text[], $5::int8[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::text[], $10::bytea[], $11::text[], $12::int8[])
  as k(attempt, kind, round, status, tries, owner, created, next_at, error, record, by, try)
)
update deliveries d set status = k.status, tries = k.tries, owner = k.owner, created = k.created, next_at = k.next_at, error = k.error, record = k.record
from k join attempts a on a.id = k.attempt
where d.home = a.home and d.attempt = a.id and d.kind = k.kind and d.round = k.round
  and d.status in ('pending', 'dead', 'undeliverable') and d.owner = k.by and d.tries = k.try
returning true`}

	// dropSQL is [store.Commit.Drop]; for its condition see claimSQL.
	dropSQL = statement{"signin_drop", `
update deliveries d set status = 'dropped', owner = ''
from attempts a
where a.id = any ($1::text[]) and d.home = a.home and d.attempt = a.id and d.kind = 'complete' and d.status || '' = 'pending'`}

	// markSQL takes a name that is free or over, and returns nothing for one that
	// is not.
	markSQL = statement{"signin_mark", `
insert into marks (hash, version, created, expires, value)
select hash, 1, now(), expires, value from unnest($1::bytea[], $2::timestamptz[], $3::bytea[]) as m(hash, expires, value)
on conflict (hash) do update set version = 1, created = excluded.created, expires = excluded.expires, value = excluded.value
where marks.expires <= now()
returning true`}

	// remarkSQL replaces a mark of version $4, and returns nothing if there is none.
	remarkSQL = statement{"signin_remark", `
update marks set version = marks.version + 1, expires = m.expires, value = m.value
from unnest($1::bytea[], $2::timestamptz[], $3::bytea[], $4::int8[]) as m(hash, expires, value, version)
where marks.hash = m.hash and marks.version = m.version and (marks.expires is null or marks.expires > now())
returning true`}

	// unmarkSQL removes one.
	unmarkSQL = statement{"signin_unmark", `
delete from marks
using unnest($1::bytea[], $2::int8[]) as m(hash, version)
where marks.hash = m.hash and marks.version = m.version and (marks.expires is null or marks.expires > now())
returning true`}
)

// applyAlone writes one commit in a transaction of its own, part after part as
// its order asks: all statements in one round trip, then the verdict. A key that
// somebody took in the meantime is there for the next try to see.
func (s *Store) applyAlone(ctx context.Context, c *store.Commit) error {
	var err error
	for range tries {
		err = s.use(ctx, "apply", func(ctx context.Context, conn *pgxpool.Conn) error {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return err
			}
			if err := play(ctx, tx, c); err != nil {
				undo(ctx, tx)
				return err
			}
			if err := tx.Commit(ctx); err != nil {
				return err
			}
			s.tell(ctx, conn, c)
			return nil
		})
		if sqlState(err) != codeUniqueViolation {
			break
		}
	}
	return err
}

// undo ends a transaction that was refused. That of a dead connection is gone
// anyway.
func undo(ctx context.Context, tx pgx.Tx) {
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = tx.Rollback(back)
}

// script is the statements of one commit, and the verdict on each, in the order
// of the commit. A verdict is known when the answers have come.
type script struct {
	round    round
	verdicts []*error
}

// play runs the commit's statements and returns the first refusal.
func play(ctx context.Context, tx pgx.Tx, c *store.Commit) error {
	p := &script{round: round{conn: tx.Conn()}}
	for _, part := range []func(context.Context, *store.Commit) error{p.puts, p.lines, p.deliveries, p.acks, p.drop, p.marks} {
		if err := part(ctx, c); err != nil {
			return err
		}
	}
	return errors.Join(p.round.send(ctx), p.verdict())
}

// next is the place of the next verdict.
func (p *script) next() *error {
	verdict := new(error)
	p.verdicts = append(p.verdicts, verdict)
	return verdict
}

// verdict is the first refusal.
func (p *script) verdict() error {
	for _, verdict := range p.verdicts {
		if *verdict != nil {
			return *verdict
		}
	}
	return nil
}

// touch adds a statement of one touch; refuse says why it wrote nothing.
func (p *script) touch(ctx context.Context, fill func(*touches), refuse func(found stored) error) error {
	t := newTouches()
	defer t.free()
	fill(t)
	stmt, args := t.statement(true)
	verdict := p.next()
	return p.round.add(ctx, stmt, args, func(rows *pgconn.ResultReader) error {
		return eachRefused(rows, func(_ int, found stored) { *verdict = refuse(found) })
	})
}

// unless adds a statement that returns a row, or nothing if it is refused.
func (p *script) unless(ctx context.Context, s *statement, args [][]byte, refusal error) error {
	verdict := p.next()
	return p.round.add(ctx, s, args, func(rows *pgconn.ResultReader) error {
		if !rows.NextRow() {
			*verdict = refusal
		}
		_, err := rows.Close()
		return err
	})
}

func (p *script) puts(ctx context.Context, c *store.Commit) error {
	for i := range c.Put {
		a := &c.Put[i]
		s := shape{id: a.ID, prev: a.Version - 1, claims: !a.State.Terminal(), needs: store.ErrNotFound}
		if err := p.touch(ctx, func(t *touches) { t.put(0, a, s.prev, s.claims, &store.Commit{}) }, s.refusal); err != nil {
			return err
		}
	}
	return nil
}

func (p *script) lines(ctx context.Context, c *store.Commit) error {
	lines := map[string][]store.Event{}
	for i := range c.Events {
		id := c.Events[i].Attempt
		lines[id] = append(lines[id], c.Events[i])
	}
	for _, id := range slices.Sorted(maps.Keys(lines)) {
		err := p.touch(ctx,
			func(t *touches) {
				if id == "" {
					t.orphans(-1, lines[id])
					return
				}
				t.touch(0, id, &store.Commit{Events: lines[id]})
			},
			func(stored) error { return fmt.Errorf("event of attempt %s: %w", id, store.ErrNotFound) },
		)
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *script) deliveries(ctx context.Context, c *store.Commit) error {
	for i := range c.Deliveries {
		d, verdict := &c.Deliveries[i], p.next()
		err := p.round.add(ctx, &deliverSQL, deliveryArgs(d), func(rows *pgconn.ResultReader) error {
			for rows.NextRow() {
				r := row{values: rows.Values()}
				written, there := r.bool(), r.bool()
				switch {
				case r.err != nil:
					return r.err
				case !there:
					*verdict = fmt.Errorf("delivery of attempt %s: %w", d.Attempt, store.ErrNotFound)
				case !written:
					*verdict = fmt.Errorf("delivery %s: %w", d.DeliveryKey, store.ErrConflict)
				}
			}
			_, err := rows.Close()
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// acks adds the acks. One of a delivery that the commit has written itself is
// refused: it is about the row as it was before.
func (p *script) acks(ctx context.Context, c *store.Commit) error {
	for i := range c.Acks {
		a := &c.Acks[i]
		refusal := fmt.Errorf("delivery %s: %w", a.DeliveryKey, store.ErrConflict)
		if hasDelivery(c.Deliveries, a.DeliveryKey) || hasAck(c.Acks[:i], a.DeliveryKey) {
			*p.next() = refusal
			continue
		}
		by, try := array{oid: pgtype.TextOID}, array{oid: pgtype.Int8OID}
		by.text(clean(a.By))
		try.int8(int64(a.Try))
		if err := p.unless(ctx, &ackSQL, append(deliveryArgs(&a.Delivery), by.value(), try.value()), refusal); err != nil {
			return err
		}
	}
	return nil
}

func (p *script) drop(ctx context.Context, c *store.Commit) error {
	if len(c.Drop) == 0 {
		return nil
	}
	ids := array{oid: pgtype.TextOID}
	for _, id := range c.Drop {
		ids.text(id)
	}
	return p.round.add(ctx, &dropSQL, [][]byte{ids.value()}, func(rows *pgconn.ResultReader) error {
		_, err := rows.Close()
		return err
	})
}

// marks adds the marks. The second of a name is refused: the first has taken it.
func (p *script) marks(ctx context.Context, c *store.Commit) error {
	for i, m := range c.Marks {
		if slices.ContainsFunc(c.Marks[:i], func(o store.Mark) bool { return o.Name == m.Name }) {
			*p.next() = fmt.Errorf("mark: %w", store.ErrDuplicate)
			continue
		}
		hash, expires := array{oid: pgtype.ByteaOID}, array{oid: pgtype.TimestamptzOID}
		value, version := array{oid: pgtype.ByteaOID}, array{oid: pgtype.Int8OID}
		hash.hash(hashMark, m.Name)
		expires.timeOrNull(store.Time(m.Expires))
		value.bytea(m.Value)
		version.int8(m.Version - 1)
		stmt, args, refusal := &markSQL, [][]byte{hash.value(), expires.value(), value.value()}, store.ErrDuplicate
		switch {
		case m.Gone:
			stmt, args, refusal = &unmarkSQL, [][]byte{hash.value(), version.value()}, store.ErrConflict
		case m.Version > 1:
			stmt, args, refusal = &remarkSQL, append(args, version.value()), store.ErrConflict
		}
		if err := p.unless(ctx, stmt, args, fmt.Errorf("mark: %w", refusal)); err != nil {
			return err
		}
	}
	return nil
}

// deliveryArgs are a delivery as arguments, its attempt first.
func deliveryArgs(d *store.Delivery) [][]byte {
	attempt := array{oid: pgtype.TextOID}
	attempt.text(d.Attempt)
	var o outbox
	o.types()
	o.add(*d)
	args := [][]byte{attempt.value()}
	for _, a := range o.columns() {
		args = append(args, a.value())
	}
	return args
}
