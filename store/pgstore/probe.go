//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// probeTimeout bounds [Store.Probe]: who asks whether to send traffic here does
// not wait long for the answer.
const probeTimeout = 2 * time.Second

// rights are what the role needs of each table for commits. What a purge needs
// beside them keeps no commit from being written.
var rights = []struct{ table, privileges string }{
	{"attempts", "select insert update"},
	{"events", "select insert"},
	{"deliveries", "select insert update"},
	{"exchange_ids", "select insert update"},
	{"marks", "select insert update delete"},
	{"orphans", "select update"},
}

// probeSQL asks the session that would write.
const probeSQL = `
select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
  (select coalesce(max(version), 0) from schema_migrations),
  array(select lower(p) || ' on ' || t from unnest($1::text[], $2::text[]) need(t, p)
    where not has_table_privilege(quote_ident(current_schema()) || '.' || quote_ident(t), p))`

// Probe reports whether a commit would work now: the server is a primary, the
// session may write, the schema has this program's version and the role its
// rights. It writes nothing. It answers within two seconds. Errors:
// [store.ErrUnavailable], which says what is missing; [store.ErrSchema];
// [store.ErrReadOnly] when the store was opened for reading.
func (s *Store) Probe(ctx context.Context) error {
	if s.opts.readOnly {
		return classify(ctx, "probe", store.ErrReadOnly)
	}
	all, err := steps()
	if err != nil {
		return classify(ctx, "probe", err)
	}
	short, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var standby, readOnly bool
	var version int
	var missing []string
	err = s.patiently(short, func(ctx context.Context, conn *pgxpool.Conn) error {
		tables, privileges := needed()
		err := conn.QueryRow(ctx, probeSQL, tables, privileges).Scan(&standby, &readOnly, &version, &missing)
		if err == nil && (standby || readOnly) {
			// The next connection may be to a primary.
			_ = conn.Conn().Close(ctx)
		}
		return err
	})
	switch {
	case err != nil:
	case standby:
		err = fmt.Errorf("%w: the server is a standby", store.ErrUnavailable)
	case readOnly:
		err = fmt.Errorf("%w: the session is read-only", store.ErrUnavailable)
	case len(missing) > 0:
		err = fmt.Errorf("%w: the role may not %s (schema %s)", store.ErrUnavailable, strings.Join(missing, ", "), s.opts.schema)
	default:
		err = checkVersion(version, len(all))
	}
	return classify(ctx, "probe", err)
}

// needed are the rights as two columns.
func needed() (tables, privileges []string) {
	for _, r := range rights {
		for _, p := range strings.Fields(r.privileges) {
			tables, privileges = append(tables, r.table), append(privileges, p)
		}
	}
	return tables, privileges
}
