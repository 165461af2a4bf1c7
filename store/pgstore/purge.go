//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

const (
	// A partition of the audit trail holds a week, from Monday, in UTC.
	partitionSpan = 7 * 24 * time.Hour
	// partitionsAhead is how many weeks have a partition before they begin.
	partitionsAhead = 4
	// purgeBatch is how many attempts one transaction deletes.
	purgeBatch = 500
	// partitionLockTimeout bounds the wait for a table that others use: they
	// queue behind us meanwhile.
	partitionLockTimeout = "200ms"
)

// partitions makes the audit trail's partitions of this week and the next
// ones. What finds none goes to the default partition, so it is no error when
// we may not, or when others have the tables busy.
func partitions(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, `select week, to_regclass('events_' || to_char(week, 'YYYYMMDD')) is not null
		from generate_series(date_trunc('week', now()), now() + $1 * interval '1 week', interval '1 week') week`, partitionsAhead)
	if err != nil {
		return err
	}
	var missing []time.Time
	var (
		week  time.Time
		there bool
	)
	if _, err := pgx.ForEachRow(rows, []any{&week, &there}, func() error {
		if !there {
			missing = append(missing, week.UTC())
		}
		return nil
	}); err != nil {
		return err
	}
	for _, week := range missing {
		sql := fmt.Sprintf(`create table if not exists events_%s partition of events for values from ('%s') to ('%s')`,
			week.Format("20060102"), week.Format(time.RFC3339), week.Add(partitionSpan).Format(time.RFC3339))
		if err := quietly(ctx, q, sql); err != nil {
			return err
		}
	}
	return nil
}

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

// purgeSQL deletes the lowest ids among those that ended first: what it costs
// follows neither from what is kept nor from what is still to go.
const purgeSQL = `
with old as materialized (
  select id from attempts where ended < $1 order by ended limit 10000
), gone as (
  delete from attempts
  where id in (select id from old order by id limit $2) and ended < $1
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
	for limit <= 0 || total < limit {
		n := purgeBatch
		if limit > 0 {
			n = min(n, limit-total)
		}
		ids, err := s.purgeAttempts(ctx, before, n)
		total += len(ids)
		s.notify.Wake(ids...)
		if err != nil {
			return total, err
		}
		if len(ids) < n {
			break
		}
	}
	return total, s.use(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		if err := dropPartitions(ctx, conn, before); err != nil {
			return err
		}
		if err := partitions(ctx, conn); err != nil {
			return err
		}
		var b pgx.Batch
		b.Queue(`delete from events where attempt = '' and at < $1`, before)
		b.Queue(`delete from marks where expires <= now() or created < $1`, before)
		return conn.SendBatch(ctx, &b).Close()
	})
}

func (s *Store) countEnded(ctx context.Context, before time.Time, limit int) (n int, err error) {
	err = s.use(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, `select count(*) from (select from attempts where ended < $1 limit $2) old`,
			before, pgLimit(limit)).Scan(&n)
	})
	return n, err
}

// pgLimit is limit as Postgres has it: null is none.
func pgLimit(limit int) *int {
	if limit <= 0 {
		return nil
	}
	return &limit
}

func (s *Store) purgeAttempts(ctx context.Context, before time.Time, n int) (ids []string, err error) {
	err = s.use(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, purgeSQL, before, n)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return ids, err
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
