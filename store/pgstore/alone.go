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

// The statements of a commit in a transaction of its own. Each statement sees what the
// ones before it have written.
var (
	// deliverSQL inserts one delivery. It returns whether it did, and whether the
	// attempt exists.
	deliverSQL = `
with o as materialized (
  select * from ` + rowsOf("o", deliveryColumns) + `
), new as (
  insert into deliveries (` + names("", deliveryColumns) + `)
  select ` + names("o.", deliveryColumns) + ` from o join attempts a on a.home = o.home and a.id = o.attempt
  on conflict do nothing
  returning 1
)
select exists (select from new), exists (select from attempts a join o on a.home = o.home and a.id = o.attempt)`

	// dropSQL is [store.Commit.Drop].
	dropSQL = `
update deliveries d set status = 'dropped', owner = ''
from ` + rowsOf("x", dropColumns) + `
where d.home = x.home and d.attempt = x.id and d.kind = 'complete' and ` + pendingSQL
)

const (
	// markSQL inserts a mark whose name is free or has expired.
	markSQL = `
insert into marks (hash, version, created, expires, value) values (@hash, 1, now(), @expires, @value)
on conflict (hash) do update set version = 1, created = excluded.created, expires = excluded.expires, value = excluded.value
where marks.expires <= now()`

	// remarkSQL replaces a version of a mark.
	remarkSQL = `
update marks set version = version + 1, expires = @expires, value = @value
where hash = @hash and version = @version and (expires is null or expires > now())`

	// unmarkSQL removes a version of a mark.
	unmarkSQL = `
delete from marks
where hash = @hash and version = @version and (expires is null or expires > now())`
)

// applyOne is applyAlone for a commit whose homes need no lookup.
func (s *Store) applyOne(ctx context.Context, c store.Commit) error {
	return s.applyAlone(ctx, &writer{commits: []store.Commit{c}}, 0)
}

// applyAlone writes one commit in a transaction of its own, part by part in the
// commit's order: all statements in one round trip, then the verdict. If another
// transaction took a key meanwhile, the next try sees it.
func (s *Store) applyAlone(ctx context.Context, w *writer, i int) error {
	var err error
	for range tries {
		err = s.useTx(ctx, opApply, func(ctx context.Context, conn *pgxpool.Conn) error { return w.play(ctx, conn, i) })
		if err == nil {
			s.tell(ctx, &w.commits[i])
			return nil
		}
		if sqlState(err) != codeUniqueViolation {
			break
		}
	}
	return err
}

// undo rolls a transaction back. Its error does not matter: the transaction of a dead
// connection is gone anyway.
func undo(ctx context.Context, tx pgx.Tx) {
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = tx.Rollback(back)
}

// script is the statements of one commit, and a verdict on each, in the order of the
// commit. The verdicts are filled in when the answers arrive.
type script struct {
	home     func(id string) int64
	batch    pgx.Batch
	touches  touches
	verdicts []*error
}

// play runs the commit's statements and returns the first refusal.
func (w *writer) play(ctx context.Context, to sender, i int) error {
	c := &w.commits[i]
	p := &script{home: func(id string) int64 { return w.home(c, id) }}
	p.puts(c)
	p.lines(c)
	p.deliveries(c)
	p.acks(c)
	p.drop(c)
	p.marks(c)
	err := send(ctx, to, &p.batch)
	for _, verdict := range p.verdicts {
		err = errors.Join(err, *verdict)
		if err != nil {
			return err
		}
	}
	return err
}

// verdict adds a verdict, to be filled in later.
func (p *script) verdict() *error {
	verdict := new(error)
	p.verdicts = append(p.verdicts, verdict)
	return verdict
}

// unless adds a statement. If it changes no row, the verdict is refusal.
func (p *script) unless(sql string, args pgx.NamedArgs, refusal error) {
	verdict := p.verdict()
	p.batch.Queue(sql, args).Exec(func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() == 0 {
			*verdict = refusal
		}
		return nil
	})
}

func (p *script) puts(c *store.Commit) {
	for i := range c.Put {
		a, verdict := &c.Put[i], p.verdict()
		s := shape{id: a.ID, prev: a.Version - 1, claims: !a.State.Terminal()}
		p.touches.put(0, s.prev, s.claims, a)
		p.touches.queue(&p.batch, func(_ int64, found stored) { *verdict = s.refusal(found) })
	}
}

func (p *script) lines(c *store.Commit) {
	lines := map[string][]store.Event{}
	for i := range c.Events {
		id := c.Events[i].Attempt
		lines[id] = append(lines[id], c.Events[i])
	}
	for _, id := range slices.Sorted(maps.Keys(lines)) {
		n, verdict := int64(-1), p.verdict()
		if id != "" {
			n = 0
			p.touches.add(n, p.home(id), id)
		}
		for i := range lines[id] {
			p.touches.line(n, &lines[id][i])
		}
		p.touches.queue(&p.batch, func(int64, stored) { *verdict = fmt.Errorf("event of attempt %s: %w", id, store.ErrNotFound) })
	}
}

func (p *script) deliveries(c *store.Commit) {
	for i := range c.Deliveries {
		d, verdict := &c.Deliveries[i], p.verdict()
		a := pgx.NamedArgs{}
		args(a, "o", deliveryColumns, []deliveryRow{newDeliveryRow(0, p.home(d.Attempt), d)})
		p.batch.Queue(deliverSQL, a).QueryRow(func(row pgx.Row) error {
			var written, there bool
			err := row.Scan(&written, &there)
			switch {
			case err != nil:
				return err
			case !there:
				*verdict = fmt.Errorf("delivery of attempt %s: %w", d.Attempt, store.ErrNotFound)
			case !written:
				*verdict = notHeld(d.DeliveryKey)
			}
			return nil
		})
	}
}

// acks adds the acks. An ack of a delivery that the commit has written itself is
// refused: an ack is about the row as it was before.
func (p *script) acks(c *store.Commit) {
	for i := range c.Acks {
		a, verdict := &c.Acks[i], p.verdict()
		if hasDelivery(c.Deliveries, a.DeliveryKey) || slices.ContainsFunc(c.Acks[:i], func(o store.Ack) bool { return o.DeliveryKey == a.DeliveryKey }) {
			*verdict = notHeld(a.DeliveryKey)
			continue
		}
		var k acks
		k.add(0, p.home(a.Attempt), a)
		k.queue(&p.batch, func(int64) { *verdict = notHeld(a.DeliveryKey) })
	}
}

func notHeld(k store.DeliveryKey) error { return fmt.Errorf("delivery %s: %w", k, store.ErrConflict) }

func (p *script) drop(c *store.Commit) {
	if len(c.Drop) == 0 {
		return
	}
	rows := make([]attemptRow, len(c.Drop))
	for i, id := range c.Drop {
		rows[i].ID, rows[i].home = id, p.home(id)
	}
	a := pgx.NamedArgs{}
	args(a, "x", dropColumns, rows)
	p.batch.Queue(dropSQL, a)
}

// marks adds the marks. The second mark of a name is refused.
func (p *script) marks(c *store.Commit) {
	for i, m := range c.Marks {
		if slices.ContainsFunc(c.Marks[:i], func(o store.Mark) bool { return o.Name == m.Name }) {
			*p.verdict() = fmt.Errorf("mark: %w", store.ErrDuplicate)
			continue
		}
		args := pgx.NamedArgs{"hash": markHash(m.Name), "version": m.Version - 1, "expires": maybeTime(m.Expires), "value": m.Value}
		sql, refusal := markSQL, store.ErrDuplicate
		switch {
		case m.Gone:
			sql, refusal = unmarkSQL, store.ErrConflict
		case m.Version > 1:
			sql, refusal = remarkSQL, store.ErrConflict
		}
		p.unless(sql, args, fmt.Errorf("mark: %w", refusal))
	}
}
