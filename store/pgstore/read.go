//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// Get returns one attempt; see [store.Store].
func (s *Store) Get(ctx context.Context, id string) (store.Snapshot, error) {
	var snap store.Snapshot
	err := s.use(ctx, "get", func(ctx context.Context, conn *pgxpool.Conn) error {
		var record []byte
		err := conn.QueryRow(ctx, `select now(), a.record from (select) one left join attempts a on a.id = $1`, clean(id)).Scan(&snap.Now, &record)
		if err != nil {
			return err
		}
		snap.Now = store.Time(snap.Now)
		if record == nil || clean(id) != id {
			return fmt.Errorf("attempt %q: %w", id, store.ErrNotFound)
		}
		a, err := store.DecodeAttempt(record)
		if err != nil {
			return err
		}
		snap.Attempts = []store.Attempt{a}
		return nil
	})
	return snap, err
}

// Mark returns a mark that is there and not over; see [store.Store].
func (s *Store) Mark(ctx context.Context, name string) (store.Mark, error) {
	m := store.Mark{Name: name}
	err := s.use(ctx, "mark", func(ctx context.Context, conn *pgxpool.Conn) error {
		var expires *time.Time
		err := conn.QueryRow(ctx, `select version, expires, value from marks where hash = $1 and (expires is null or expires > now())`,
			appendHash(nil, hashMark, name)).Scan(&m.Version, &expires, &m.Value)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return store.ErrNotFound
		case err == nil && expires != nil:
			m.Expires = store.Time(*expires)
		}
		return err
	})
	if err != nil {
		return store.Mark{}, err
	}
	return m, nil
}

// versionOf is the attempt's version, 0 when there is none.
func (s *Store) versionOf(ctx context.Context, id string) (version int64, err error) {
	err = s.use(ctx, "changed", func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, `select coalesce(max(version), 0) from attempts where id = $1`, clean(id)).Scan(&version)
	})
	return version, err
}

// deliveryColumns are what readDeliveries reads: what the outbox changes counts as
// its columns say, the record has the rest.
const deliveryColumns = `d.attempt, d.kind, d.round, d.record, d.status, d.tries, d.owner, d.next_at, d.error`

// corruptDelivery is a row that cannot be decoded.
type corruptDelivery struct {
	key store.DeliveryKey
	err error
}

func readDeliveries(rows pgx.Rows) (good []store.Delivery, bad []corruptDelivery, err error) {
	var (
		key            store.DeliveryKey
		record         []byte
		status         store.DeliveryStatus
		tries          int
		owner, problem string
		next           time.Time
	)
	_, err = pgx.ForEachRow(rows, []any{&key.Attempt, &key.Kind, &key.Round, &record, &status, &tries, &owner, &next, &problem}, func() error {
		d, err := store.DecodeDelivery(record)
		if err != nil {
			bad = append(bad, corruptDelivery{key, fmt.Errorf("delivery %s: %w", key, err)})
			return nil
		}
		d.Status, d.Tries, d.NextAt = status, tries, store.Time(next)
		if clean(d.Owner) != owner {
			d.Owner = owner
		}
		if clean(d.Error) != problem {
			d.Error = problem
		}
		good = append(good, d)
		return nil
	})
	return good, bad, err
}

// List is the operator's list; see [store.Store].
func (s *Store) List(ctx context.Context, f store.Filter) (store.Page, error) {
	var page store.Page
	err := s.use(ctx, "list", func(ctx context.Context, conn *pgxpool.Conn) error {
		page = store.Page{}
		if err := conn.QueryRow(ctx, `select now()`).Scan(&page.Now); err != nil {
			return err
		}
		page.Now = store.Time(page.Now)
		ids, err := list(ctx, conn, f, &page)
		if err != nil || len(ids) == 0 {
			return err
		}
		good, bad, err := deliveriesOf(ctx, conn, ids)
		page.Deliveries = good
		for _, c := range bad {
			page.Corrupt = append(page.Corrupt, store.Corrupt{ID: c.key.Attempt, Err: c.err})
		}
		return err
	})
	if err != nil {
		return store.Page{}, err
	}
	return page, nil
}

// maxCorrupt ends a page that finds little else.
const maxCorrupt = 1000

// list fills the page and returns its ids. It asks again while rows come that
// the filter, looking closer, does not match, or that cannot be decoded.
func list(ctx context.Context, conn *pgxpool.Conn, f store.Filter, page *store.Page) (ids []string, err error) {
	for {
		sql, args := listSQL(&f)
		rows, err := conn.Query(ctx, sql, args...)
		if err != nil {
			return nil, err
		}
		found, err := readRecords(rows)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			f.Cursor = r.id
			switch {
			case r.err != nil:
				page.Corrupt = append(page.Corrupt, store.Corrupt{ID: r.id, Err: r.err})
			case f.Match(&r.attempt) && len(ids) == f.Max():
				endPage(page, ids[len(ids)-1])
				return ids, nil
			case f.Match(&r.attempt):
				page.Attempts = append(page.Attempts, r.attempt)
				ids = append(ids, r.id)
			}
			if len(page.Corrupt) == maxCorrupt {
				endPage(page, r.id)
				return ids, nil
			}
		}
		if len(found) <= f.Max() {
			return ids, nil
		}
	}
}

// endPage says that the next page begins behind id. What lies there is named by
// that one.
func endPage(page *store.Page, id string) {
	page.Next = id
	page.Corrupt = slices.DeleteFunc(page.Corrupt, func(c store.Corrupt) bool { return c.ID < id })
}

// record is an attempt as it was read, or why it could not be.
type record struct {
	id      string
	attempt store.Attempt
	err     error
}

// readRecords reads rows of id and record.
func readRecords(rows pgx.Rows) ([]record, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r record, err error) {
		var b []byte
		if err = row.Scan(&r.id, &b); err == nil {
			r.attempt, r.err = store.DecodeAttempt(b)
		}
		return r, err
	})
}

func deliveriesOf(ctx context.Context, conn *pgxpool.Conn, ids []string) (good []store.Delivery, bad []corruptDelivery, err error) {
	rows, err := conn.Query(ctx, `select `+deliveryColumns+` from attempts a
		join deliveries d on d.home = a.home and d.attempt = a.id
		where a.id = any($1) order by a.id desc, d.kind, d.round`, ids)
	if err != nil {
		return nil, nil, err
	}
	return readDeliveries(rows)
}

// listSQL is the query of a filter. It may let through what the filter does
// not match (texts that had to be cleaned), never keep back what it does.
func listSQL(f *store.Filter) (string, []any) {
	var (
		where []string
		args  []any
	)
	add := func(cond string, arg any) {
		args = append(args, arg)
		where = append(where, strings.ReplaceAll(cond, "?", fmt.Sprintf("$%d", len(args))))
	}
	text := func(cond, value string) {
		if value != "" {
			add(cond, clean(value))
		}
	}
	one := func(n int, value string) {
		if value != "" {
			add(facetColumn(n)+" = ?", facet(value))
		}
	}
	when := func(cond string, t time.Time) {
		if !t.IsZero() {
			add(cond, t)
		}
	}
	text("id >= ?", f.IDPrefix)
	if f.IDPrefix != "" && f.IDPrefix == clean(f.IDPrefix) {
		add("starts_with(id, ?)", f.IDPrefix)
		if end := after(f.IDPrefix); end != "" {
			add("id < ?", end)
		}
	}
	text("id < ?", f.Cursor)
	if f.User != "" {
		args = append(args, userHash(f.User), fold(f.User))
		// Each of the three has an index of its own.
		where = append(where, fmt.Sprintf(`id = any (array(
			select id from attempts where user_hash = $%[1]d and ended is null
			union all select id from attempts where user_hash = $%[1]d and ended is not null
			union all select id from attempts where user_aad <> '' and user_aad = $%[2]d))`, len(args)-1, len(args)))
	}
	if f.OpenOnly() {
		where = append(where, "ended is null")
	}
	if f.Owed {
		where = append(where, `id in (select attempt from deliveries where status = 'pending'
			union all select attempt from deliveries where status in ('dead', 'undeliverable'))`)
	}
	if len(f.States) > 0 {
		add("state = any(?)", f.States)
	}
	one(facetApp, f.App)
	one(facetTenant, f.Tenant)
	one(facetConversation, f.Conversation)
	one(facetReason, string(f.Reason))
	one(facetFailure, f.FailureCode)
	one(facetMethod, string(f.Method))
	one(facetPlatform, f.Platform)
	one(facetInstance, f.Instance)
	if f.Connection != "" && isASCII(f.Connection) {
		add("lower("+facetColumn(facetConnection)+") = ?", facet(strings.ToLower(f.Connection)))
	}
	when("created >= ?", f.Since)
	when("created < ?", f.Until)
	when("entered >= ?", f.EnteredSince)
	when("entered < ?", f.EnteredUntil)
	sql := "select id, record from attempts"
	if len(where) > 0 {
		sql += " where " + strings.Join(where, " and ")
	}
	args = append(args, f.Max()+1) // one more says that there is a next page
	return sql + fmt.Sprintf(" order by id desc limit $%d", len(args)), args
}

// after is the smallest text behind all that begin with prefix, "" for none.
func after(prefix string) string {
	last := prefix[len(prefix)-1]
	if last >= 0x7e {
		return ""
	}
	return prefix[:len(prefix)-1] + string(last+1)
}

func isASCII(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(b byte) bool { return b >= 0x80 })
}

// Events returns audit lines; see [store.Store].
func (s *Store) Events(ctx context.Context, f store.EventFilter) ([]store.Event, error) {
	var out []store.Event
	err := s.use(ctx, "events", func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		switch {
		case f.Attempt != "":
			// Where the attempt was born its lines are: one partition.
			out, err = readEvents(ctx, conn, &f, `select attempt, seq, lines from events
				where attempt = $1 and born = (select a.born from attempts a where a.id = $1 limit 1) and seq > $2 and at >= $3
				order by seq limit $4`, clean(f.Attempt), f.After, f.Since, f.Max())
		case f.Orphans:
			out, err = readEvents(ctx, conn, &f, `select attempt, seq, lines from events
				where attempt = '' and seq > $1 and at >= $2 order by seq limit $3`, f.After, f.Since, f.Max())
		default:
			out, err = allEvents(ctx, conn, &f)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// eachLine reads rows of audit lines.
func eachLine(rows pgx.Rows, fn func([]store.Event) error) error {
	var (
		attempt string
		seq     int64
		packed  []byte
	)
	_, err := pgx.ForEachRow(rows, []any{&attempt, &seq, &packed}, func() error {
		lines, err := readLines(attempt, seq, packed)
		if err != nil {
			return err
		}
		return fn(lines)
	})
	return err
}

func readEvents(ctx context.Context, conn *pgxpool.Conn, f *store.EventFilter, sql string, args ...any) ([]store.Event, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	var out []store.Event
	err = eachLine(rows, func(lines []store.Event) error {
		for i := range lines {
			if lines[i].Seq > f.After && !lines[i].Time.Before(f.Since) {
				out = append(out, lines[i])
			}
		}
		return nil
	})
	return out[:min(len(out), f.Max())], err
}

// allEvents scans every line and keeps the first Limit of them by time.
func allEvents(ctx context.Context, conn *pgxpool.Conn, f *store.EventFilter) ([]store.Event, error) {
	rows, err := conn.Query(ctx, `select attempt, seq, lines from events where at >= $1`, f.Since)
	if err != nil {
		return nil, err
	}
	var out []store.Event
	cut := func() {
		slices.SortFunc(out, byTime)
		out = out[:min(len(out), f.Max())]
	}
	err = eachLine(rows, func(lines []store.Event) error {
		for i := range lines {
			if !lines[i].Time.Before(f.Since) {
				out = append(out, lines[i])
			}
		}
		if len(out) > 2*f.Max()+store.DefaultEventLimit {
			cut()
		}
		return nil
	})
	cut()
	return out, err
}

func byTime(a, b store.Event) int {
	if c := a.Time.Compare(b.Time); c != 0 {
		return c
	}
	if c := strings.Compare(a.Attempt, b.Attempt); c != 0 {
		return c
	}
	return int(a.Seq - b.Seq)
}

// Counts is the operator's overview; see [store.Store].
func (s *Store) Counts(ctx context.Context, since time.Time) (store.Counts, error) {
	var c store.Counts
	err := s.use(ctx, "counts", func(ctx context.Context, conn *pgxpool.Conn) error {
		c = store.Counts{Open: map[store.State]int{}, Oldest: map[store.State]time.Time{}, Ended: map[string]int{}}
		var b pgx.Batch
		b.Queue(`select now(), (select count(*) from deliveries where status = 'pending'),
			(select count(*) from deliveries where status = 'dead'),
			(select count(*) from deliveries where status = 'undeliverable')`).QueryRow(func(row pgx.Row) error {
			return row.Scan(&c.Now, &c.Owed, &c.Dead, &c.Undeliverable)
		})
		b.Queue(`select state, count(*), min(entered) from attempts where ended is null group by state`).Query(func(rows pgx.Rows) error {
			var (
				state  store.State
				n      int
				oldest time.Time
			)
			_, err := pgx.ForEachRow(rows, []any{&state, &n, &oldest}, func() error {
				c.Open[state], c.Oldest[state] = n, store.Time(oldest)
				return nil
			})
			return err
		})
		b.Queue(`select state, `+facetColumn(facetMethod)+`, `+facetColumn(facetReason)+`, count(*)
			from attempts where ended >= $1 group by 1, 2, 3`, since.Truncate(time.Minute)).Query(func(rows pgx.Rows) error {
			var (
				a store.Attempt
				n int
			)
			_, err := pgx.ForEachRow(rows, []any{&a.State, &a.Method, &a.Reason, &n}, func() error {
				c.Ended[a.Outcome()] += n
				return nil
			})
			return err
		})
		err := conn.SendBatch(ctx, &b).Close()
		c.Now = store.Time(c.Now)
		return err
	})
	if err != nil {
		return store.Counts{}, err
	}
	return c, nil
}
