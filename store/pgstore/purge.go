//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

const (
	// purgeBatch is how many attempts, lines or marks one transaction deletes.
	purgeBatch = 1000
	// clockSlack is by how much the time in an id may differ from the time at which its
	// row was inserted.
	clockSlack = time.Hour
)

var (
	// oldSQL reads attempts that ended before a time, oldest first.
	oldSQL = `
select ended, ` + names("", attemptColumns) + ` from attempts
where ended < @before and ended >= @ended and (ended, id) > (@ended, @id)
order by ended, id limit @limit`

	// purgeSQL deletes attempts with everything that belongs to them. It skips attempts
	// that another purge has locked.
	purgeSQL = `
with old as materialized (
  select a.home, a.id, a.born from ` + rowsOf("p", placeColumns) + ` join attempts a on a.home = p.home and a.id = p.id
  where a.ended < @before
  for update of a skip locked
), d as (
  delete from deliveries d using old where d.home = old.home and d.attempt = old.id
), e as (
  delete from events e using old where e.home = old.home and e.attempt = old.id and e.born = old.born
), x as (
  delete from exchange_ids x using old where x.home = old.home and x.attempt = old.id
)
delete from attempts a using old where a.home = old.home and a.id = old.id
returning a.id`
)

// restSQL are the statements that delete orphan lines and marks, a batch at a time.
var restSQL = []string{
	`delete from events e using (
  select born, seq from events where attempt = '' and at < @before order by at limit @limit for update skip locked
) o where e.attempt = '' and e.born = o.born and e.seq = o.seq`,
	`delete from marks where hash in (select hash from marks where expires <= now() limit @limit for update skip locked)`,
	`delete from marks where hash in (select hash from marks where created < @before limit @limit for update skip locked)`,
}

// Purge deletes old attempts, lines and marks in transactions of bounded size; see
// [store.Store]. When no attempt is left to delete, it drops partitions of the audit
// trail that ended before the time and whose attempts are all gone. Several purges may
// run at once: each skips what another has locked.
func (s *Store) Purge(ctx context.Context, before time.Time, limit int, dry bool) (int, error) {
	before = store.Time(before)
	total, last := 0, oldRow{}
	for limit <= 0 || total < limit {
		n := purgeBatch
		if limit > 0 {
			n = min(n, limit-total)
		}
		read, sound, err := s.endedBefore(ctx, before, &last, n)
		if err != nil {
			return total, err
		}
		if dry {
			total += len(sound)
		} else {
			gone, err := s.purgeAttempts(ctx, before, sound)
			total += len(gone)
			s.notify.Wake(gone...)
			if err != nil {
				return total, err
			}
		}
		if read < n {
			return total, s.purgeRest(ctx, before, dry)
		}
	}
	return total, nil
}

// oldRow is the position where a batch ended.
type oldRow struct {
	ended time.Time
	id    string
}

// endedBefore reads the next batch after last, and moves last on. sound has only the
// records that can be decoded; all counts the others too.
func (s *Store) endedBefore(ctx context.Context, before time.Time, last *oldRow, n int) (all int, sound []attemptRow, err error) {
	begin := *last
	err = s.useLong(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, oldSQL, pgx.NamedArgs{"before": before, "ended": begin.ended, "id": begin.id, "limit": n})
		if err != nil {
			return err
		}
		all, sound = 0, nil
		var ended time.Time
		return read(rows, []any{&ended}, attemptColumns, func(r *attemptRow) error {
			all++
			*last = oldRow{ended, r.ID}
			if _, bad := r.attempt(); bad == nil {
				sound = append(sound, attemptRow{Attempt: store.Attempt{ID: r.ID}, home: r.home})
			}
			return nil
		})
	})
	return all, sound, err
}

func (s *Store) purgeAttempts(ctx context.Context, before time.Time, old []attemptRow) (gone []string, err error) {
	if len(old) == 0 {
		return nil, nil
	}
	a := pgx.NamedArgs{"before": before}
	args(a, "p", placeColumns, old)
	err = s.useLong(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, purgeSQL, a)
		if err != nil {
			return err
		}
		gone, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return gone, err
}

func (s *Store) purgeRest(ctx context.Context, before time.Time, dry bool) error {
	if dry {
		return nil
	}
	for _, sql := range restSQL {
		for more := true; more; {
			err := s.useLong(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
				tag, err := conn.Exec(ctx, sql, pgx.NamedArgs{"before": before, "limit": purgeBatch})
				more = tag.RowsAffected() == purgeBatch
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return s.dropPartitions(ctx, before)
}

// dropPartitions drops the weeks before the time that have no attempt left, nor an
// orphan line that must stay. An attempt is born by the server's clock, so a past week
// gets no new ones. A week that others use, or that the role may not drop, stays for the
// next purge.
func (s *Store) dropPartitions(ctx context.Context, before time.Time) error {
	tables, err := s.emptyWeeks(ctx, before)
	if err != nil {
		return err
	}
	for _, table := range tables {
		err := s.useTx(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
			if _, err := conn.Exec(ctx, `select set_config('lock_timeout', $1, true)`, milliseconds(quick)); err != nil {
				return err
			}
			_, err := conn.Exec(ctx, `drop table `+pgx.Identifier{table}.Sanitize())
			return err
		})
		if err != nil && sqlState(err) == "" {
			return err
		}
	}
	return nil
}

func (s *Store) emptyWeeks(ctx context.Context, before time.Time) (empty []string, err error) {
	err = s.useLong(ctx, "purge", func(ctx context.Context, conn *pgxpool.Conn) error {
		empty = nil
		rows, err := conn.Query(ctx, `select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
			where i.inhparent = 'events'::regclass and c.relname ~ '^events_[0-9]{8}$' order by 1`)
		if err != nil {
			return err
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, table := range tables {
			week, err := time.Parse(partitionName, table)
			if err != nil || week.Add(partitionSpan).After(before) {
				continue
			}
			// This asks the parent table: the role may have no rights on the partition.
			var used bool
			end := week.Add(partitionSpan)
			err = conn.QueryRow(ctx, `select exists (select from attempts where id >= @first and id < @last and born >= @week and born < @end)
				or exists (select from events where attempt = '' and at >= @before and born >= @week and born < @end)`, pgx.NamedArgs{
				"first": firstID(week.Add(-clockSlack)), "last": firstID(end.Add(clockSlack)), "week": week, "end": end, "before": before,
			}).Scan(&used)
			if err != nil {
				return err
			}
			if !used {
				empty = append(empty, table)
			}
		}
		return nil
	})
	return empty, err
}
