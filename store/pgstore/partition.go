//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// A partition of the audit trail holds a week, from Monday, in UTC.
	partitionSpan = 7 * 24 * time.Hour
	// partitionsAhead is how many future weeks get a partition.
	partitionsAhead = 8
	// partitionsWarn is how far ahead partitions must reach; else Info has a warning.
	partitionsWarn = 2 * partitionSpan
	// partitionName is the name of a week's partition, as a time layout.
	partitionName = "events_20060102"
)

// How long the creation of a partition waits for a table that others use. Meanwhile
// others queue behind it.
const (
	quick   = 200 * time.Millisecond // beside running sign-ins: the next Open or Purge may do it
	waiting = 10 * time.Second       // when an administrator asked for it
)

// partitions makes the audit trail's partitions for this week and the given number of
// weeks after it, each in a transaction of its own. Lines of a week that began without a
// partition are moved to it.
func (m *migrator) partitions(ctx context.Context, weeks int, wait time.Duration) error {
	var now time.Time
	if err := m.tx(ctx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, `select date_trunc('week', now())`).Scan(&now) }); err != nil {
		return err
	}
	for i := range weeks + 1 {
		week := now.UTC().Add(time.Duration(i) * partitionSpan)
		err := m.tx(ctx, func(tx pgx.Tx) error { return m.partition(ctx, tx, week, wait) })
		if err != nil {
			return fmt.Errorf("partition %s: %w", week.Format(partitionName), err)
		}
	}
	return nil
}

// partition makes one, unless it exists. Creating a table and attaching it disturbs
// others less than creating a partition.
func (m *migrator) partition(ctx context.Context, tx pgx.Tx, week time.Time, wait time.Duration) error {
	name := week.Format(partitionName)
	if there, err := m.table(ctx, tx, name); err != nil || there {
		return err
	}
	if err := m.lock(ctx, tx, wait); err != nil {
		return err
	}
	if there, err := m.table(ctx, tx, name); err != nil || there {
		return err // another program has made it
	}
	if _, err := tx.Exec(ctx, `select set_config('lock_timeout', $1, true)`, milliseconds(wait)); err != nil {
		return err
	}
	from, to := week.Format(time.RFC3339), week.Add(partitionSpan).Format(time.RFC3339)
	_, err := tx.Exec(ctx, fmt.Sprintf(`
create table %[1]s (like events including defaults including constraints including storage including compression);
lock table events_default in access exclusive mode;
with moved as (delete from events_default where born >= '%[2]s' and born < '%[3]s' returning *)
  insert into %[1]s select * from moved;
alter table events attach partition %[1]s for values from ('%[2]s') to ('%[3]s')`, name, from, to), pgx.QueryExecModeSimpleProtocol)
	return err
}

func (m *migrator) table(ctx context.Context, tx pgx.Tx, name string) (there bool, err error) {
	err = tx.QueryRow(ctx, `select exists (select from pg_tables where schemaname = $1 and tablename = $2)`, m.opts.schema, name).Scan(&there)
	return there, err
}

// Partitions makes the partitions of the audit trail for this week and the given number
// of weeks after it, and returns until when partitions exist. It needs the role of the
// schema's owner. Errors are those of [Migrate].
func Partitions(ctx context.Context, dsn string, weeks int, opts ...Option) (until time.Time, err error) {
	_, err = withMigrator(ctx, "partitions", dsn, opts, func(m *migrator) error {
		if err := m.check(ctx); err != nil {
			return err
		}
		if err := m.partitions(ctx, weeks, waiting); err != nil {
			return err
		}
		return m.tx(ctx, func(tx pgx.Tx) error {
			_, until, err = partitioned(ctx, tx)
			return err
		})
	})
	return until, err
}

// partitioned returns until when the audit trail has partitions, without a gap from
// this week on.
func partitioned(ctx context.Context, q querier) (now, until time.Time, err error) {
	rows, err := q.Query(ctx, `select now(), date_trunc('week', now()), to_date(right(c.relname, 8), 'YYYYMMDD')::timestamptz
		from (select) one left join (pg_inherits i join pg_class c on c.oid = i.inhrelid)
		  on i.inhparent = 'events'::regclass and c.relname ~ '^events_[0-9]{8}$'
		order by 3`)
	if err != nil {
		return now, until, err
	}
	var this time.Time
	var week *time.Time
	_, err = pgx.ForEachRow(rows, []any{&now, &this, &week}, func() error {
		if until.IsZero() {
			until = this
		}
		if week != nil && week.Equal(until) {
			until = until.Add(partitionSpan)
		}
		return nil
	})
	return now.UTC(), until.UTC(), err
}

// upkeep returns warnings for the owner of the schema.
func upkeep(ctx context.Context, q querier) (warnings []string, err error) {
	now, until, err := partitioned(ctx, q)
	if err != nil {
		return nil, err
	}
	if until.Sub(now) < partitionsWarn {
		warnings = append(warnings, fmt.Sprintf("the audit trail has partitions until %s: run signin-engine migrate partitions as the owner of the schema",
			until.Format(time.DateOnly)))
	}
	tables, privileges := needed(purgeRights)
	var missing []string
	var writes bool // else it is a reader's role, which needs none of this
	err = q.QueryRow(ctx, `select has_table_privilege(quote_ident(current_schema()) || '.attempts', 'insert'), `+missingSQL, tables, privileges).Scan(&writes, &missing)
	if err == nil && writes && len(missing) > 0 {
		warnings = append(warnings, fmt.Sprintf("the role may not %s: grant it what signin-engine migrate grants prints", strings.Join(missing, ", ")))
	}
	return warnings, err
}
