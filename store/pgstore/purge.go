//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

const (
	// purgeBatch is how many attempts one transaction deletes.
	purgeBatch = 500
	// partitionLockTimeout bounds the wait for a table that others use: they
	// queue behind us meanwhile.
	partitionLockTimeout = "200ms"
)

// quietly changes a table if it can be had at once. What the server refuses is
// not worth failing for.
func quietly(ctx context.Context, q querier, sql string) error {
	_, err := q.Exec(ctx, `begin; set local lock_timeout = '`+partitionLockTimeout+`'; `+sql+`; commit`, pgx.QueryExecModeSimpleProtocol)
	if err == nil {
		return nil
	}
	_, back := q.Exec(ctx, `rollback`, pgx.QueryExecModeSimpleProtocol)
	if sqlState(err) != "" && back == nil {
		return nil
	}
	return errors.Join(err, back)
}

// oldSQL finds the lowest ids among those that ended first: what it costs follows
// neither from what is kept nor from what is still to go.
const oldSQL = `
with old as materialized (
  select id from attempts where ended < $1 and id <> all ($3) order by ended limit 10000
)
select a.id, a.record from attempts a join (select id from old order by id limit $2) old on a.id = old.id
order by a.id`

const purgeSQL = `
with gone as (
  delete from attempts
  where id = any ($2) and ended < $1
  returning id, home, born
), d as (
  delete from deliveries d using gone where d.home = gone.home and d.attempt = gone.id
), e as (
  delete from events e using gone where e.attempt = gone.id and e.born = gone.born
), x as (
  delete from exchange_ids x using gone where x.attempt = gone.id
)
select id from gone`

// Purge deletes what is old, in transactions of bounded size; see
// [store.Store]. Then it drops the audit trail's partitions that have ended
// before the time and whose attempts have all gone, and makes new ones.
func (s *Store) Purge(ctx context.Context, before time.Time, limit int, dry bool) (int, error) {
	before = store.Time(before)
	if dry {
		return s.countEnded(ctx, before, limit)
	}
	total := 0
	kept := []string{} // records that cannot be decoded
	for limit <= 0 || total < limit {
		n := purgeBatch
		if limit > 0 {
			n = min(n, limit-total)
		}
		old, err := s.endedBefore(ctx, before, n, kept)
		if err != nil {
			return total, err
		}
		var ids []string
		for _, r := range old {
			if r.err != nil {
				kept = append(kept, r.id)
			} else {
				ids = append(ids, r.id)
			}
		}
		gone, err := s.purgeAttempts(ctx, before, ids)
		total += len(gone)
		s.notify.Wake(gone...)
		if err != nil {
			return total, err
		}
		if len(old) < n {
			break
		}
	}
	return total, s.use(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		if err := dropPartitions(ctx, conn, before); err != nil {
			return err
		}
		var b pgx.Batch
		b.Queue(`delete from events where attempt = '' and at < $1`, before)
		b.Queue(`delete from marks where expires <= now() or created < $1`, before)
		return conn.SendBatch(ctx, &b).Close()
	})
}

func (s *Store) endedBefore(ctx context.Context, before time.Time, n int, except []string) (old []record, err error) {
	err = s.use(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, oldSQL, before, n, except)
		if err != nil {
			return err
		}
		old, err = readRecords(rows)
		return err
	})
	return old, err
}

func (s *Store) purgeAttempts(ctx context.Context, before time.Time, ids []string) (gone []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	err = s.use(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, purgeSQL, before, ids)
		if err != nil {
			return err
		}
		gone, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return gone, err
}

// countEnded counts what a purge would delete. It has to look at each record,
// batch by batch.
func (s *Store) countEnded(ctx context.Context, before time.Time, limit int) (int, error) {
	type place struct {
		ended time.Time
		id    string
		sound bool
	}
	total := 0
	for last := (place{}); ; {
		var batch []place
		err := s.use(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
			rows, err := conn.Query(ctx, `select ended, id, record from attempts
				where ended < $1 and (ended, id) > ($2, $3) order by ended, id limit $4`, before, last.ended, last.id, purgeBatch)
			if err != nil {
				return err
			}
			batch, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p place, err error) {
				var b []byte
				if err = row.Scan(&p.ended, &p.id, &b); err == nil {
					_, bad := store.DecodeAttempt(b)
					p.sound = bad == nil
				}
				return p, err
			})
			return err
		})
		if err != nil {
			return total, err
		}
		for _, last = range batch {
			if last.sound {
				total++
			}
		}
		switch {
		case limit > 0 && total >= limit:
			return limit, nil
		case len(batch) < purgeBatch:
			return total, nil
		}
	}
}

// dropPartitions drops the weeks that lie before the time and have no attempt
// left, nor a line of no attempt that is to stay. An attempt is born by the
// server's clock, so none comes to a week that is over.
func dropPartitions(ctx context.Context, q querier, before time.Time) error {
	rows, err := q.Query(ctx, `select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = 'events'::regclass and c.relname ~ '^events_[0-9]{8}$' order by 1`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		week, err := time.Parse("events_20060102", name)
		if err != nil || week.Add(partitionSpan).After(before) {
			continue
		}
		var used bool
		table := pgx.Identifier{name}.Sanitize()
		err = q.QueryRow(ctx, `select exists (select from attempts where born >= $1 and born < $2)
			or exists (select from `+table+` where attempt = '' and at >= $3)`, week, week.Add(partitionSpan), before).Scan(&used)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		if err := quietly(ctx, q, `drop table `+table); err != nil {
			return err
		}
	}
	return nil
}
