package pgstore

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
)

// A touch is what a commit does to one attempt. With prev 0 the attempt is inserted,
// with prev > 0 it is replaced if that is its version, and with -1 it only gets lines
// and deliveries. If the store has something else, the touch writes nothing, and
// neither do its lines and deliveries.
type touch struct {
	n      int64 // number of the commit in this statement
	prev   int64
	claims bool  // it leaves the attempt open, so no other may hold the key
	lines  int64 // how many the attempt gets
}

const (
	prevInsert = 0
	prevNone   = -1
)

var touchColumns = append([]column[attemptRow]{
	value("n", "int8", func(r *attemptRow) *int64 { return &r.n }),
	value("prev", "int8", func(r *attemptRow) *int64 { return &r.prev }),
	value("claims", "bool", func(r *attemptRow) *bool { return &r.claims }),
	value("added", "int8", func(r *attemptRow) *int64 { return &r.lines }),
}, attemptColumns...)

// applySQL writes many touches at once. The touches of one statement must be
// independent: they see the state before it. It returns the touches that wrote nothing,
// each with the stored version, null for none, and whether its key is taken.
//
// It names the home of every row, so that each is looked for in one partition. It joins
// neither by hash nor by merge. It does not index arrays of texts, which takes time
// linear in the index: each touch returns only its number, the birth of its attempt and
// the number of lines before. These are aggregated in done, as arrays of fixed-width
// elements, where the lines and deliveries find their touch.
//
// Locks are always taken in the same order: an attempt, then its deliveries.
//
// It does not check that a new delivery's key is free, since the engine adds deliveries
// with a new version of their attempt. A taken key makes the statement fail, and its
// commits are tried one by one. So does a reopened attempt whose key was just taken.
var applySQL = `
with t as materialized (
  select * from ` + rowsOf("t", touchColumns) + `
), ins as (
  insert into attempts (` + names("", attemptColumns) + `, ended, wake, born, lines)
  select ` + names("", attemptColumns) + `, ` + endedSQL + `, due, now(), added
  from t
  where prev = 0 and (not claims or ` + holderSQL + ` is null)
  on conflict do nothing
  returning id
), upd as (
  update attempts a set ` + assign("t", attemptColumns[unchanging:len(attemptColumns)-1]) + `, ` + requestSQL + `, ended = ` + endedSQL + `,
    wake = case when a.wake > t.due or a.wake is null then t.due when t.due is not null then a.wake end, lines = a.lines + t.added
  from t
  where t.prev > 0 and a.home = t.home and a.id = t.id and a.version = t.prev and a.connection_key = t.connection_key
    and (not t.claims or a.ended is null or ` + holderSQL + ` is null)
  returning t.n, a.born, a.lines - t.added as had
), add as (
  update attempts a set lines = a.lines + t.added
  from t
  where t.prev = -1 and a.home = t.home and a.id = t.id
  returning t.n, a.born, a.lines - t.added as had
), done as materialized (
  select array_agg(n) as n, array_agg(born) as born, array_agg(had) as had, pg_current_xact_id()::text::bigint * 65536 as pos
  from (
    select * from upd
    union all select * from add
    union all select (@t_n::int8[])[array_position(@t_id::text[], id)], now(), 0 from ins
  ) touched
), written as (
  insert into events (born, seq, pos, home, ` + names("", eventColumns) + `)
  select case when l.attempt = '' then now() else done.born[i] end, case when l.attempt = '' then done.pos + l.ord else done.had[i] + l.nth end,
    done.pos + l.ord, l.home, ` + names("l.", eventColumns) + `
  from done cross join ` + rowsOf("l", lineColumns) + ` cross join lateral (select array_position(done.n, l.n) as i) place
  where i is not null or l.n < 0
), owed as (
  insert into deliveries (` + names("", deliveryColumns) + `)
  select ` + names("o.", deliveryColumns) + `
  from done cross join ` + rowsOf("o", owedColumns) + `
  where o.n = any (done.n)
), dropped as (
  update deliveries d set status = 'dropped', owner = ''
  from done cross join ` + rowsOf("x", dropColumns) + `
  where x.n = any (done.n) and d.home = x.home and d.attempt = x.id and d.kind = 'complete' and ` + pendingSQL + `
), led as (
  insert into exchange_ids (home, app, exchange_id, attempt)
  select t.home, t.app, t.exchange_id, t.id
  from done cross join t
  where t.exchange_id <> '' and t.n = any (done.n)
    and t.exchange_id is distinct from (select a.exchange_id from attempts a where a.home = t.home and a.id = t.id)
  on conflict (exchange_id, app, home) do update set attempt = excluded.attempt
)
select t.n, a.version, ` + holderSQL + ` is not null
from done cross join t left join attempts a on a.home = t.home and a.id = t.id and (t.prev < 0 or a.connection_key = t.connection_key)
where done.n is null or t.n <> all (done.n)`

const (
	endedSQL = `case when t.state in ('Complete', 'Failed') then t.entered end`

	// requestSQL keeps the stored value of an unchanged request: it is larger than the
	// rest, and may be stored out of line (TOAST).
	requestSQL = `request = case when a.request is distinct from t.request then t.request else a.request end`

	// holderSQL finds another open attempt with the touch's key. It is a scalar subquery
	// because for an EXISTS the planner may prefer to read all open attempts.
	holderSQL = `(select o.id from attempts o where o.home = t.home and o.user_id = t.user_id and o.connection_key = t.connection_key
      and o.channel = t.channel and o.app = t.app and o.ended is null and o.id <> t.id limit 1)`

	// pendingSQL keeps the planner from the index of pending rows. The rows of one attempt
	// are few and adjacent in the primary key. While the table is small the planner would
	// rather read all pending rows, and keep that plan when it has grown.
	pendingSQL = `d.status || '' = 'pending'`
)

// dropColumns are the columns of the attempts whose completions are dropped.
var dropColumns = []column[attemptRow]{touchColumns[0], attemptColumns[0], attemptColumns[1]}

// ackSQL changes the deliveries that are as they were read, and returns the numbers of
// the others.
var ackSQL = `
with k as materialized (
  select * from ` + rowsOf("k", ackColumns) + `
), acked as (
  update deliveries d set ` + assign("k", deliveryColumns[keyed:]) + `
  from k
  where d.home = k.home and d.attempt = k.attempt and d.kind = k.kind and d.round = k.round
    and d.status in ('pending', 'dead', 'undeliverable') and d.owner = k.by and d.tries = k.try
  returning k.n
)
select n from k where n <> all (array(select n from acked))`

// The statements of every sign-in.
var (
	applyStatement   = prepare(applySQL)
	ackStatement     = prepare(ackSQL)
	findStatement    = prepare(findSQL)
	strayedStatement = prepare(strayedSQL)
)

// statement is SQL with positional arguments. prepare replaces the named ones once,
// instead of pgx at every call.
type statement struct {
	sql   string
	names []string // of $1, $2, …
}

var argumentName = regexp.MustCompile(`@[a-z_]+`)

// prepare makes a statement of SQL in which each @ begins the name of an argument.
func prepare(sql string) *statement {
	s := &statement{}
	s.sql = argumentName.ReplaceAllStringFunc(sql, func(found string) string {
		at := slices.Index(s.names, found[1:])
		if at < 0 {
			at = len(s.names)
			s.names = append(s.names, found[1:])
		}
		return "$" + strconv.Itoa(at+1)
	})
	return s
}

// queue adds the statement to a batch.
func (s *statement) queue(b *pgx.Batch, named pgx.NamedArgs) *pgx.QueuedQuery {
	args := make([]any, len(s.names))
	for i, name := range s.names {
		args[i] = named[name]
	}
	return b.Queue(s.sql, args...)
}

// touches are the arguments of applySQL.
type touches struct {
	rows  []attemptRow
	lines []eventRow
	owed  []deliveryRow
	drops []attemptRow
	ord   int64 // number of lines of the transaction so far
}

func (t *touches) empty() bool { return len(t.rows)+len(t.lines) == 0 }

// grow reserves space for the given commits: rows are large to move.
func (t *touches) grow(commits []store.Commit, which []int) {
	lines := 0
	for _, i := range which {
		lines += len(commits[i].Events)
	}
	t.rows, t.lines = slices.Grow(t.rows, len(which)), slices.Grow(t.lines, lines)
}

// queue adds the statement to a batch and resets t for the next one. refused is called
// for each touch that wrote nothing.
func (t *touches) queue(b *pgx.Batch, refused func(n int64, found stored)) {
	if t.empty() {
		return
	}
	for i := range t.lines {
		t.ord++
		t.lines[i].ord = t.ord
	}
	a := pgx.NamedArgs{}
	args(a, "t", touchColumns, t.rows)
	args(a, "l", lineColumns, t.lines)
	args(a, "o", owedColumns, t.owed)
	args(a, "x", dropColumns, t.drops)
	applyStatement.queue(b, a).Query(func(rows pgx.Rows) error {
		var (
			n       int64
			version *int64
			taken   bool
		)
		_, err := pgx.ForEachRow(rows, []any{&n, &version, &taken}, func() error {
			found := stored{there: version != nil, taken: taken}
			if found.there {
				found.version = *version
			}
			refused(n, found)
			return nil
		})
		return err //nolint:wrapcheck // the caller names the operation
	})
	*t = touches{ord: t.ord}
}

// stored is what a touch that wrote nothing found in the store.
type stored struct {
	there   bool
	version int64
	taken   bool // another attempt is open with the touch's key
}

// put adds a touch that inserts an attempt, or replaces its version prev.
func (t *touches) put(n, prev int64, claims bool, a *store.Attempt) {
	t.rows = append(t.rows, attemptRow{touch: touch{n: n, prev: prev, claims: claims}})
	t.rows[len(t.rows)-1].fill(a)
}

// add adds a touch that only adds lines and deliveries to the attempt.
func (t *touches) add(n, home int64, id string) {
	t.rows = append(t.rows, attemptRow{Attempt: store.Attempt{ID: id}, home: home, detail: []byte("{}"), touch: touch{n: n, prev: prevNone}})
}

// line adds a line. A line of an attempt belongs to the last touch. A line without an
// attempt is written if touch n is; n < 0: always.
func (t *touches) line(n int64, e *store.Event) {
	r := eventRow{Event: *e, n: n}
	r.Normalize()
	r.us = r.Duration.Microseconds()
	if e.Attempt == "" {
		r.home = home(e.Key.UserKey())
	} else {
		last := &t.rows[len(t.rows)-1]
		last.lines++
		r.home, r.nth = last.home, last.lines
	}
	t.lines = append(t.lines, r)
}

// drop drops the completions of the last touch's attempt.
func (t *touches) drop() { t.drops = append(t.drops, t.rows[len(t.rows)-1]) }

// acks are the arguments of ackSQL.
type acks []deliveryRow

func (k *acks) add(n, home int64, a *store.Ack) {
	r := newDeliveryRow(n, home, &a.Delivery)
	r.by, r.try = a.By, a.Try
	*k = append(*k, r)
}

// queue adds the statement to a batch. refused is called for each delivery that is not
// as it was read.
func (k acks) queue(b *pgx.Batch, refused func(n int64)) {
	if len(k) == 0 {
		return
	}
	a := pgx.NamedArgs{}
	args(a, "k", ackColumns, k)
	ackStatement.queue(b, a).Query(func(rows pgx.Rows) error {
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error {
			refused(n)
			return nil
		})
		return err //nolint:wrapcheck // the caller names the operation
	})
}

// sender is a connection or a transaction.
type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// send sends a batch; the server runs it as one transaction.
func send(ctx context.Context, to sender, b *pgx.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	return to.SendBatch(ctx, b).Close() //nolint:wrapcheck // the caller names the operation
}

// look sends the statements of an operator's read, after one that reads the server's
// clock. They are planned for their values: a generic plan would read a whole index for
// a few rows.
func look(ctx context.Context, to sender, now *time.Time, b *pgx.Batch) error {
	whole := &pgx.Batch{}
	whole.Queue(`select now(), set_config('plan_cache_mode', 'force_custom_plan', true)`).QueryRow(func(row pgx.Row) error {
		var mode string
		err := row.Scan(now, &mode)
		*now = store.Time(*now)
		return err //nolint:wrapcheck // the caller names the operation
	})
	whole.QueuedQueries = append(whole.QueuedQueries, b.QueuedQueries...)
	return send(ctx, to, whole)
}

// clocked is a batch that begins with reading the server's clock.
func clocked(now *time.Time) *pgx.Batch {
	b := &pgx.Batch{}
	b.Queue(`select now()`).QueryRow(func(row pgx.Row) error {
		err := row.Scan(now)
		*now = store.Time(*now)
		return err //nolint:wrapcheck // the caller names the operation
	})
	return b
}
