//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// A transaction may commit long after others that began later, so neither a time nor a
// number tells what a reader has seen. The server's snapshot does: it determines which
// transactions are visible. A reader reads everything that one snapshot shows, page by
// page. Then it takes a new snapshot and reads what that shows and the one before did
// not. A line's pos contains the id of the transaction that wrote it.
//
// A line that came from another server, with a dump, may have a transaction id that
// this server has not reached yet; docs/postgres.md says what to do.

// place is a reader's position.
type place struct {
	seen string // snapshot that was read to its end; "" for none
	now  string // snapshot being read; "" = a new one
	pos  int64  // of the last line
}

// linesPerTx is the factor of the transaction id in pos. No transaction writes as many
// lines.
const linesPerTx = 65536

var snapshot = regexp.MustCompile(`^[0-9]+:[0-9]+:[0-9,]*$`)

func (p *place) String() string { return fmt.Sprintf("%s/%s/%d", p.seen, p.now, p.pos) }

func parsePlace(cursor string) (p place, err error) {
	if cursor == "" {
		return place{}, nil
	}
	parts := strings.Split(cursor, "/")
	if len(parts) == 3 {
		pos, err := strconv.ParseInt(parts[2], 10, 64)
		p = place{seen: parts[0], now: parts[1], pos: pos}
		if err == nil && (p.seen == "" || snapshot.MatchString(p.seen)) && (p.now == "" || snapshot.MatchString(p.now)) {
			return p, nil
		}
	}
	return place{}, fmt.Errorf("cursor %q: %w", cursor, store.ErrInvalid)
}

const (
	linesSQL = ` from events e
where e.pos > @pos and e.at >= @since and pg_visible_in_snapshot(` + wroteSQL + `, @now::text::pg_snapshot) and `

	wroteSQL = `(e.pos / 65536)::text::xid8`

	// firstSQL reads the first snapshot. Lines since a time were written after the first
	// line of any attempt that is clearly older. So the newest of these attempts tells at
	// which pos to begin, unless it came with a dump.
	firstSQL = linesSQL + `e.pos >= coalesce((
  select e.pos from (select a.id, a.born from attempts a where a.id < @since_id order by a.id desc limit 1) a
  join events e on e.attempt = a.id and e.born = a.born and pg_visible_in_snapshot(` + wroteSQL + `, @now::text::pg_snapshot)
  order by e.seq limit 1), 0)
order by e.pos limit @limit`

	// nextSQL reads what a snapshot shows and the one before did not. Nothing below
	// @oldest is left: the one before showed all of it.
	nextSQL = linesSQL + `e.pos >= @oldest and not pg_visible_in_snapshot(` + wroteSQL + `, @seen::text::pg_snapshot)
order by e.pos limit @limit`
)

// Trail returns all audit lines, with and without an attempt; see [store.Store].
func (s *Store) Trail(ctx context.Context, q store.TrailQuery) (store.Trail, error) {
	begun, err := parsePlace(q.Cursor)
	if err != nil {
		return store.Trail{}, classify(ctx, "trail", err)
	}
	var out store.Trail
	err = s.useLong(ctx, "trail", func(ctx context.Context, conn *pgxpool.Conn) error {
		out = store.Trail{}
		p := begun
		if p.now == "" {
			p.pos = 0
			if err := conn.QueryRow(ctx, `select pg_current_snapshot()::text`).Scan(&p.now); err != nil {
				return err
			}
		}
		a := pgx.NamedArgs{"pos": p.pos, "since": q.Since, "now": p.now, "limit": q.Max() + 1}
		sql := firstSQL
		if p.seen == "" {
			a["since_id"] = firstID(q.Since.Add(-clockSlack))
		} else {
			a["seen"], a["oldest"], sql = p.seen, oldest(p.seen), nextSQL
		}
		var now time.Time
		var b pgx.Batch
		b.Queue(`select e.pos, e.seq, `+names("e.", eventColumns)+sql, a).Query(func(rows pgx.Rows) error {
			var pos, seq int64
			return read(rows, []any{&pos, &seq}, eventColumns, func(r *eventRow) error {
				if len(out.Events) == q.Max() {
					out.More = true
					return nil
				}
				e := r.event()
				e.Seq = seq
				out.Events = append(out.Events, e)
				p.pos = pos
				return nil
			})
		})
		if err := look(ctx, conn, &now, &b); err != nil {
			return err
		}
		if !out.More {
			p = place{seen: p.now}
		}
		out.Next = p.String()
		return nil
	})
	return out, err
}

// oldest is the smallest pos that a snapshot may not show.
func oldest(snapshot string) int64 {
	xmin, _, _ := strings.Cut(snapshot, ":")
	n, _ := strconv.ParseInt(xmin, 10, 64) // 0 for none
	return n * linesPerTx
}
