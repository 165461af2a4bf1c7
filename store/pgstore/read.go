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
	"github.com/oklog/ulid/v2"

	"github.com/signin-engine/signin-engine/store"
)

// Get returns one attempt; see [store.Store]. The user is unknown, so it asks every
// partition.
func (s *Store) Get(ctx context.Context, id string) (store.Snapshot, error) {
	var snap store.Snapshot
	err := s.use(ctx, "get", func(ctx context.Context, conn *pgxpool.Conn) error {
		snap = store.Snapshot{}
		b := clocked(&snap.Now)
		b.Queue(`select `+names("", attemptColumns)+` from attempts where id = @id limit 1`, pgx.NamedArgs{"id": clean(id)}).Query(func(rows pgx.Rows) error {
			return read(rows, nil, attemptColumns, func(r *attemptRow) error {
				a, err := r.attempt()
				if err == nil && a.ID == id {
					snap.Attempts = []store.Attempt{a}
				}
				return err
			})
		})
		if err := send(ctx, conn, b); err != nil {
			return err
		}
		if len(snap.Attempts) == 0 {
			return fmt.Errorf("attempt %q: %w", id, store.ErrNotFound)
		}
		return nil
	})
	return snap, err
}

// Mark returns a mark that has not expired; see [store.Store].
func (s *Store) Mark(ctx context.Context, name string) (store.Mark, error) {
	m := store.Mark{Name: name}
	err := s.use(ctx, "mark", func(ctx context.Context, conn *pgxpool.Conn) error {
		err := conn.QueryRow(ctx, `select version, expires, value from marks where hash = $1 and (expires is null or expires > now())`,
			markHash(name)).Scan(&m.Version, (*maybeTime)(&m.Expires), &m.Value)
		if errors.Is(err, pgx.ErrNoRows) {
			return store.ErrNotFound
		}
		return err
	})
	if err != nil {
		return store.Mark{}, err
	}
	return m, nil
}

// versionOf returns the attempt's version, 0 if there is no such attempt.
func (s *Store) versionOf(ctx context.Context, id string) (version int64, err error) {
	err = s.use(ctx, "changed", func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, `select coalesce(max(version), 0) from attempts where id = $1`, clean(id)).Scan(&version)
	})
	return version, err
}

// corruptDelivery is a row that cannot be decoded.
type corruptDelivery struct {
	key store.DeliveryKey
	err error
}

func readDeliveries(rows pgx.Rows) (good []store.Delivery, bad []corruptDelivery, err error) {
	err = read(rows, nil, deliveryColumns, func(r *deliveryRow) error {
		if d, err := r.delivery(); err != nil {
			bad = append(bad, corruptDelivery{r.DeliveryKey, err})
		} else {
			good = append(good, d)
		}
		return nil
	})
	return good, bad, err
}

// List is the operator's list; see [store.Store].
func (s *Store) List(ctx context.Context, f store.Filter) (store.Page, error) {
	var page store.Page
	err := s.useLong(ctx, "list", func(ctx context.Context, conn *pgxpool.Conn) error {
		page = store.Page{}
		for _, text := range []*string{&f.IDPrefix, &f.User, &f.Connection, &f.Tenant, &f.Conversation, &f.Activity, &f.FailureCode, &f.Platform, &f.Instance, &f.Cursor} {
			*text = clean(*text)
		}
		on, err := list(ctx, conn, f, &page)
		if err != nil || len(on) == 0 {
			return err
		}
		a := pgx.NamedArgs{}
		args(a, "p", placeColumns, on)
		var b pgx.Batch
		b.Queue(`select `+names("d.", deliveryColumns)+` from `+rowsOf("p", placeColumns)+`
			join deliveries d on d.home = p.home and d.attempt = p.id order by d.attempt desc, d.kind, d.round`, a).Query(func(rows pgx.Rows) error {
			good, bad, err := readDeliveries(rows)
			page.Deliveries = good
			for _, c := range bad {
				page.Corrupt = append(page.Corrupt, store.Corrupt{ID: c.key.Attempt, Err: c.err})
			}
			return err
		})
		return look(ctx, conn, &page.Now, &b)
	})
	if err != nil {
		return store.Page{}, err
	}
	return page, nil
}

// placeColumns are home and id, which locate an attempt.
var placeColumns = attemptColumns[:2]

// maxCorrupt is how many corrupt records end a page.
const maxCorrupt = 1000

// list fills the page and returns the rows of its attempts. It asks again as long as it
// gets rows that the filter itself does not match, or that cannot be decoded.
func list(ctx context.Context, to sender, f store.Filter, page *store.Page) (on []attemptRow, err error) {
	for {
		sql, a := listSQL(&f)
		var found []attemptRow
		var b pgx.Batch
		b.Queue(sql, a).Query(func(rows pgx.Rows) error {
			return read(rows, nil, attemptColumns, func(r *attemptRow) error {
				found = append(found, *r)
				return nil
			})
		})
		if err := look(ctx, to, &page.Now, &b); err != nil {
			return nil, err
		}
		for i := range found {
			r := &found[i]
			if r.ID == f.Cursor {
				continue // found twice
			}
			f.Cursor = r.ID
			a, err := r.attempt()
			switch {
			case err != nil:
				page.Corrupt = append(page.Corrupt, store.Corrupt{ID: r.ID, Err: err})
			case f.Match(&a) && len(on) == f.Max():
				endPage(page, on[len(on)-1].ID)
				return on, nil
			case f.Match(&a):
				page.Attempts = append(page.Attempts, a)
				on = append(on, *r)
			}
			if len(page.Corrupt) == maxCorrupt {
				endPage(page, r.ID)
				return on, nil
			}
		}
		if len(found) <= f.Max() {
			return on, nil
		}
	}
}

// endPage makes the next page begin after id. Corrupt records there are left to that
// page.
func endPage(page *store.Page, id string) {
	page.Next = id
	page.Corrupt = slices.DeleteFunc(page.Corrupt, func(c store.Corrupt) bool { return c.ID < id })
}

// slack is by how much the time in an id may differ from the attempt's Created.
const slack = time.Minute

// listSQL is the query of a filter, newest attempt first. Open and ended attempts are
// queried separately, each in the order of an index that begins with the filtered
// column, so that reading stops with the page. It may return attempts that the filter
// does not match, but never misses one that it does.
func listSQL(f *store.Filter) (string, pgx.NamedArgs) {
	a := pgx.NamedArgs{"limit": f.Max() + 1} // one extra shows that there is a next page
	var where []condition
	add := func(name string, value any, cond string) {
		a[name] = value
		where = append(where, condition{cond, cond})
	}
	equal := func(column, value string) {
		if value != "" {
			add(column, value, fmt.Sprintf("a.%[1]s = @%[1]s and a.%[1]s <> ''", column))
		}
	}
	// A value that changes while the attempt is open is indexed in a separate column, which
	// is set at the end.
	equalIn := func(column, ended, value string) {
		if value != "" {
			a[column] = value
			where = append(where, condition{fmt.Sprintf("a.%[1]s = @%[1]s", column), fmt.Sprintf("a.%s = @%s", ended, column)})
		}
	}
	when := func(name string, at time.Time, cond string, id time.Time, idCond string) {
		if !at.IsZero() {
			add(name, at, cond)
			add(name+"_id", firstID(id), idCond)
		}
	}
	if f.IDPrefix != "" {
		add("prefix", f.IDPrefix, "a.id >= @prefix and starts_with(a.id, @prefix)")
		if end := after(f.IDPrefix); end != "" {
			add("prefix_end", end, "a.id < @prefix_end")
		}
	}
	if f.Cursor != "" {
		add("cursor", f.Cursor, "a.id < @cursor")
	}
	if f.Connection != "" && isASCII(f.Connection) {
		equal("connection_key", strings.ToLower(f.Connection))
	}
	equal("tenant", f.Tenant)
	equal("conversation_id", f.Conversation)
	equal("reason", string(f.Reason))
	equalIn("failure_code", "ended_code", f.FailureCode)
	equal("method", string(f.Method))
	equalIn("platform", "ended_platform", f.Platform)
	equalIn("lease_owner", "ended_owner", f.Instance)
	when("since", f.Since, "a.created >= @since", f.Since.Add(-slack), "a.id >= @since_id")
	when("until", f.Until, "a.created < @until", f.Until.Add(slack), "a.id < @until_id")
	when("entered", f.EnteredUntil, "a.entered < @entered", f.EnteredUntil.Add(slack), "a.id < @entered_id")
	// A value that may be in either of two columns gets a query for each: for an OR the
	// planner may prefer to read the whole table.
	either := [][]condition{where}
	or := func(name, value string, conds ...condition) {
		if value == "" {
			return
		}
		a[name] = value
		var more [][]condition
		for _, before := range either {
			for _, cond := range conds {
				more = append(more, append(slices.Clone(before), cond))
			}
		}
		either = more
	}
	byObjectID := `lower(a.user_aad) = lower(@user::text collate "C")`
	or("user", f.User, condition{"a.user_id = @user", "a.user_id = @user"}, condition{byObjectID, byObjectID})
	asked := "a.activity_id = @activity and a.activity_id <> ''"
	or("activity", f.Activity, condition{asked, asked}, condition{"a.card_activity_id = @activity", "a.ended_card = @activity"})
	open, ended := statesOf(f)
	from, order := "attempts a", "a.id"
	if f.Owed {
		from, order = "("+owedSQL(f)+") o join attempts a on a.home = o.home and a.id = o.attempt", "o.attempt"
	}
	var halves []string
	half := func(part func(condition) string, cond string) {
		for _, where := range either {
			var conds []string
			for _, c := range where {
				conds = append(conds, part(c))
			}
			halves = append(halves, fmt.Sprintf("(select %s from %s where %s order by %s desc limit @limit)",
				names("a.", attemptColumns), from, strings.Join(append(conds, cond), " and "), order))
		}
	}
	ofOpen, ofEnded := func(c condition) string { return c.open }, func(c condition) string { return c.ended }
	switch {
	case len(f.States) == 0:
		half(ofOpen, "a.ended is null")
	case len(open) > 0:
		a["open"] = open
		half(ofOpen, "a.ended is null and a.state = any (@open)")
	}
	switch {
	case f.Open, len(f.States) > 0 && len(ended) == 0:
	case len(ended) == 1:
		a["ended"] = ended[0]
		half(ofEnded, "a.ended is not null and a.ended_state = @ended")
	default:
		half(ofEnded, "a.ended is not null")
	}
	if len(halves) == 0 {
		half(ofOpen, "false")
	}
	return "select * from (" + strings.Join(halves, " union all ") + ") a order by id desc limit @limit", a
}

// condition is a filter's condition for open attempts and for ended ones.
type condition struct{ open, ended string }

// owedSQL selects the attempts with an owed delivery, newest first.
func owedSQL(f *store.Filter) string {
	sql := "select distinct on (d.attempt) d.home, d.attempt from deliveries d where d.status || '' in ('pending', 'dead', 'undeliverable')"
	if f.Cursor != "" {
		sql += " and d.attempt < @cursor"
	}
	return sql + " order by d.attempt desc"
}

// statesOf returns the filter's states, open and ended.
func statesOf(f *store.Filter) (open, ended []string) {
	for _, s := range f.States {
		if s.Terminal() {
			ended = append(ended, string(s))
		} else {
			open = append(open, string(s))
		}
	}
	return open, slices.Compact(ended)
}

// after returns the smallest text after all that begin with prefix, "" for none.
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

// firstID is a lower bound of the ULIDs of a time and of later times.
func firstID(at time.Time) string {
	var id ulid.ULID
	_ = id.SetTime(min(uint64(max(at.UnixMilli(), 0)), ulid.MaxTime())) // no error: within its bounds
	return id.String()
}

// Events returns the lines of an attempt, or those without one; see [store.Store].
func (s *Store) Events(ctx context.Context, f store.EventFilter) ([]store.Event, error) {
	a := pgx.NamedArgs{"attempt": clean(f.Attempt), "after": f.After, "since": f.Since, "limit": f.Max()}
	// All lines of an attempt are in the partition of its birth.
	where := `e.born = (select a.born from attempts a where a.id = @attempt limit 1) and e.seq > @after`
	switch {
	case f.Orphans:
		// Lines since a time are few. Their smallest seq keeps the older lines from being
		// read.
		a["attempt"] = ""
		where = `e.seq > @after`
		if !f.Since.IsZero() {
			where += ` and e.seq >= (select min(seq) from (select seq from events where attempt = '' and at >= @since offset 0) since)`
		}
	case f.Attempt == "":
		return nil, classify(ctx, "events", fmt.Errorf("of neither an attempt nor none: %w", store.ErrInvalid))
	}
	var out []store.Event
	err := s.useLong(ctx, "events", func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		var now time.Time
		var b pgx.Batch
		b.Queue(`select e.seq, `+names("e.", eventColumns)+` from events e
			where e.attempt = @attempt and e.at >= @since and `+where+` order by e.seq limit @limit`, a).Query(func(rows pgx.Rows) error {
			out, err = readEvents(rows)
			return err
		})
		return look(ctx, conn, &now, &b)
	})
	return out, err
}

// readEvents reads rows of a seq and a line.
func readEvents(rows pgx.Rows) (out []store.Event, err error) {
	var seq int64
	err = read(rows, []any{&seq}, eventColumns, func(r *eventRow) error {
		e := r.event()
		e.Seq = seq
		out = append(out, e)
		return nil
	})
	return out, err
}

// Counts is the operator's overview; see [store.Store].
func (s *Store) Counts(ctx context.Context, since time.Time) (store.Counts, error) {
	var c store.Counts
	err := s.useLong(ctx, "counts", func(ctx context.Context, conn *pgxpool.Conn) error {
		c = store.Counts{Open: map[store.State]int{}, Oldest: map[store.State]time.Time{}, Ended: map[string]int{}}
		var b pgx.Batch
		var n int
		b.Queue(`select status, count(*) from deliveries where status || '' in ('pending', 'dead', 'undeliverable') group by status`).Query(func(rows pgx.Rows) error {
			var status store.DeliveryStatus
			_, err := pgx.ForEachRow(rows, []any{&status, &n}, func() error {
				switch status {
				case store.DeliveryPending:
					c.Owed = n
				case store.DeliveryDead:
					c.Dead = n
				default:
					c.Undeliverable = n
				}
				return nil
			})
			return err
		})
		b.Queue(`select state, count(*), min(entered) from attempts where ended is null group by state`).Query(func(rows pgx.Rows) error {
			var state store.State
			var oldest time.Time
			_, err := pgx.ForEachRow(rows, []any{&state, &n, &oldest}, func() error {
				c.Open[state], c.Oldest[state] = n, store.Time(oldest)
				return nil
			})
			return err
		})
		b.Queue(`select state, method, reason, count(*) from attempts where ended >= @since group by 1, 2, 3`,
			pgx.NamedArgs{"since": since.Truncate(time.Minute)}).Query(func(rows pgx.Rows) error {
			var a store.Attempt
			_, err := pgx.ForEachRow(rows, []any{&a.State, &a.Method, &a.Reason, &n}, func() error {
				c.Ended[a.Outcome()] += n
				return nil
			})
			return err
		})
		return look(ctx, conn, &c.Now, &b)
	})
	if err != nil {
		return store.Counts{}, err
	}
	return c, nil
}
