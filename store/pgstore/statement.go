//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/signin-engine/signin-engine/store"
)

// applySQL is the statement that writes many touches at once; with acks and drops,
// and with lines of no attempt, which both are seldom, it has more to do. A touch
// is what happens to one attempt: prev says whether it is inserted (0), replaced
// if that is its version (> 0) or only gets lines and deliveries (-1). A touch
// that finds something else writes nothing, and neither do the lines and
// deliveries that belong to it; it comes back with the version it found, null for
// none.
//
// Touches of one statement must not meet: they see the state before it.
//
// The questions after an open attempt of a key are scalar subqueries, since of
// an EXISTS the planner may think that reading all open attempts is cheaper.
//
// A touch that moves its attempt to another key, which the engine never does,
// makes the statement fail by a division by zero, unless it stands alone: what
// comes next may count on the key that it gives up, and no plan sees that. The
// commits are then played one by one.
//
// claims: the attempt is open in this touch, so nobody else may hold its key.
//
// Nothing joins by hash or merge, see [parse]: what an insertion gives back
// finds its touch by its place in the arguments, and a touch its deliveries by
// theirs, owes_from to owes_to, as well as its acks, acks_from to acks_to.
//
// The order of locks is everywhere an attempt, then its deliveries. That is why
// the acks are compared twice: before the attempt is written, and when it is
// locked. A delivery that was claimed or dropped between the two makes the
// statement fail, again by a division by zero; the next try sees it.
//
// That a new delivery's key is free is not asked for: the engine adds them with a
// new version of their attempt. One that is taken makes the statement fail, and
// the commits are played one by one.
var applySQL = [2][2]statement{
	{applyStatement(false, false), applyStatement(false, true)},
	{applyStatement(true, false), applyStatement(true, true)},
}

func applyStatement(acks, orphans bool) statement {
	name, arguments := "signin_apply", slices.Clone(touchArguments)
	with := func(extra string) string {
		if !acks {
			return ""
		}
		return extra
	}
	sql := `
with t as materialized (
  select * from unnest($n::int4[], $id::text[], $prev::int8[], $version::int8[], $user_hash::bytea[], $key_hash::bytea[], $claims::bool[],
    $state::text[], $facets::text[], $user_aad::text[], $created::timestamptz[], $entered::timestamptz[], $due::timestamptz[],
    $record::bytea[], $exchange::bytea[], $lines::int8[], $at::timestamptz[], $audit::bytea[], $owes_from::int4[], $owes_to::int4[]` + with(`,
    $acks_from::int4[], $acks_to::int4[], $drops::bool[]`) + `)
  as t(n, id, prev, version, user_hash, key_hash, claims,
    state, facets, user_aad, created, entered, due,
    record, exchange, lines, at, audit, owes_from, owes_to` + with(`,
    acks_from, acks_to, drops`) + `)
), ins as (
  insert into attempts (user_hash, id, key_hash, home, version, state, facets, user_aad, created, entered, ended,
    due, wake, born, lines, record)
  select user_hash, id, key_hash, user_hash, version, state, facets, user_aad, created, entered,
    case when state in ('Complete', 'Failed') then entered end, due, due, now(), lines, record
  from t
  where prev = 0
    and not exists (select from attempts a where a.id = t.id)
    and (not claims or (select a.id from attempts a
      where a.user_hash = t.user_hash and a.key_hash = t.key_hash and a.ended is null limit 1) is null)
  on conflict do nothing
  returning id, home, born, lines
), upd as (
  update attempts a set user_hash = t.user_hash, key_hash = t.key_hash, version = t.version, state = t.state,
    facets = t.facets, user_aad = t.user_aad, created = t.created, entered = t.entered,
    ended = case when t.state in ('Complete', 'Failed') then t.entered end,
    due = t.due, wake = case when a.wake > t.due or a.wake is null then t.due when t.due is not null then a.wake end,
    lines = a.lines + t.lines, record = t.record
  from t
  where t.prev > 0 and a.id = t.id and a.version = t.prev
    and (a.key_hash = t.key_hash or $alone or 1 / (a.version - t.prev) > 0)
    and (not t.claims or a.ended is null and a.user_hash = t.user_hash and a.key_hash = t.key_hash
      or (select o.id from attempts o
        where o.user_hash = t.user_hash and o.key_hash = t.key_hash and o.ended is null and o.id <> t.id limit 1) is null)` + with(fitSQL) + `
  returning t.n, a.home, t.id, a.born, a.lines, t.lines as added, t.at, t.audit, t.exchange, t.owes_from, t.owes_to` + with(`, t.acks_from, t.acks_to, t.drops`) + `
), add as (
  update attempts a set lines = a.lines + t.lines
  from t
  where t.prev = -1 and a.id = t.id` + with(fitSQL) + `
  returning t.n, a.home, t.id, a.born, a.lines, t.lines as added, t.at, t.audit, t.exchange, t.owes_from, t.owes_to` + with(`, t.acks_from, t.acks_to, t.drops`) + `
), done as materialized (
  select * from upd
  union all select * from add
  union all select ($n::int4[])[place], home, id, born, lines, ($lines::int8[])[place], ($at::timestamptz[])[place],
    ($audit::bytea[])[place], ($exchange::bytea[])[place], ($owes_from::int4[])[place], ($owes_to::int4[])[place]` + with(`, null, null, false`) + `
  from (select array_position($id::text[], id) as place, * from ins) placed
), written as (
  insert into events (born, home, attempt, seq, at, lines)
  select born, home, id, lines, at, audit from done where added > 0
), owed as (
  insert into deliveries (home, attempt, kind, round, status, tries, owner, created, next_at, error, record)
  select home, id, ($owed_kind::text[])[i], ($owed_round::int4[])[i], ($owed_status::text[])[i], ($owed_tries::int8[])[i],
    ($owed_owner::text[])[i], ($owed_created::timestamptz[])[i], ($owed_next_at::timestamptz[])[i], ($owed_error::text[])[i], ($owed_record::bytea[])[i]
  from done cross join generate_series(owes_from, owes_to) i
  where owes_from > 0
), led as (
  insert into exchange_ids (hash, home, attempt)
  select done.exchange, done.home, done.id
  from done
  where done.exchange is not null
    and not exists (select from exchange_ids x where x.hash = done.exchange and x.attempt = done.id)
  on conflict (hash) do update set home = excluded.home, attempt = excluded.attempt
)`
	if acks {
		name += "_acks"
		arguments = append(arguments, ackArguments...)
		sql += `, acked as (
  update deliveries d set status = ($acked_status::text[])[i], tries = ($acked_tries::int8[])[i], owner = ($acked_owner::text[])[i],
    created = ($acked_created::timestamptz[])[i], next_at = ($acked_next_at::timestamptz[])[i], error = ($acked_error::text[])[i],
    record = ($acked_record::bytea[])[i]
  from done cross join generate_series(acks_from, acks_to) i
  where acks_from > 0 and d.home = done.home and d.attempt = done.id` + matchSQL + `
  returning 1
), dropped as (
  update deliveries d set status = 'dropped', owner = ''
  from done
  where done.drops and d.home = done.home and d.attempt = done.id and d.kind = 'complete' and d.status || '' = 'pending'
)`
	}
	if orphans {
		// They are numbered by a row that is locked to the end of the transaction:
		// a reader who has seen one has seen all before it.
		name += "_orphans"
		arguments = append(arguments, orphanArguments...)
		sql += `, o as materialized (
  select row_number() over (order by place) as i, home, at, line
  from unnest($orphan_n::int4[], $orphan_home::bytea[], $orphan_at::timestamptz[], $orphan_line::bytea[]) with ordinality as o(n, home, at, line, place)
  where o.n < 0 or o.n = any (array(select n from done))
), counted as (
  update orphans set last = last + (select count(*) from o) where exists (select from o)
  returning last - (select count(*) from o) as last
), orphaned as (
  insert into events (born, home, attempt, seq, at, lines)
  select now(), o.home, '', counted.last + o.i, o.at, o.line from o cross join counted
)`
	}
	sql += `
select t.n, a.version, (select o.id from attempts o
  where o.user_hash = t.user_hash and o.key_hash = t.key_hash and o.ended is null and o.id <> t.id limit 1) is not null
from t left join attempts a on a.id = t.id
where t.n <> all (array(select n from done))` + with(`
  and 1 / (case when (select count(*) from acked) = (select coalesce(sum(acks_to - acks_from + 1), 0) from done) then 1 else 0 end) > 0`)
	return statement{name, number(sql, arguments)}
}

const (
	// fitSQL is that what a touch acknowledges is as it was read.
	fitSQL = `
    and (t.acks_from is null or (select count(*) from generate_series(t.acks_from, t.acks_to) i
      join deliveries d on d.home = a.home and d.attempt = t.id` + matchSQL + `) = t.acks_to - t.acks_from + 1)`

	// matchSQL is [store.Ack.Matches].
	matchSQL = ` and d.kind = ($acked_kind::text[])[i] and d.round = ($acked_round::int4[])[i]
        and d.status in ('pending', 'dead', 'undeliverable') and d.owner = ($acked_by::text[])[i] and d.tries = ($acked_try::int8[])[i]`
)

// The arguments of applySQL by name, in their order; see touches.
var (
	touchArguments = []string{
		"record", "audit", "facets", // the long ones first: pgx's buffer grows with what comes
		"n", "id", "prev", "version", "user_hash", "key_hash", "claims",
		"state", "user_aad", "created", "entered", "due",
		"exchange", "lines", "at", "owes_from", "owes_to",
		"owed_kind", "owed_round", "owed_status", "owed_tries", "owed_owner", "owed_created", "owed_next_at", "owed_error", "owed_record",
		"alone",
	}
	ackArguments = []string{
		"acks_from", "acks_to", "drops", "acked_by", "acked_try",
		"acked_kind", "acked_round", "acked_status", "acked_tries", "acked_owner", "acked_created", "acked_next_at", "acked_error", "acked_record",
	}
	orphanArguments = []string{"orphan_n", "orphan_home", "orphan_at", "orphan_line"}
)

var argument = regexp.MustCompile(`\$[a-z_]+`)

// number gives the arguments of a statement the numbers of their places.
func number(sql string, arguments []string) string {
	return argument.ReplaceAllStringFunc(sql, func(name string) string {
		return fmt.Sprintf("$%d", slices.Index(arguments, name[1:])+1)
	})
}

const (
	prevInsert = 0
	prevNone   = -1
)

// outbox are arguments: deliveries, by column.
type outbox struct {
	kind, round, status, tries, owner, created, next, error, record array
}

func (o *outbox) columns() []*array {
	return []*array{&o.kind, &o.round, &o.status, &o.tries, &o.owner, &o.created, &o.next, &o.error, &o.record}
}

// types gives the columns their types.
func (o *outbox) types() {
	for i, oid := range [...]uint32{
		pgtype.TextOID, pgtype.Int4OID, pgtype.TextOID, pgtype.Int8OID, pgtype.TextOID,
		pgtype.TimestamptzOID, pgtype.TimestamptzOID, pgtype.TextOID, pgtype.ByteaOID,
	} {
		o.columns()[i].oid = oid
	}
}

// add adds a delivery; what it points to is only read.
func (o *outbox) add(d store.Delivery) {
	d.Normalize()
	o.kind.text(string(d.Kind))
	o.round.int4(d.Round)
	o.status.text(string(d.Status))
	o.tries.int8(int64(d.Tries))
	o.owner.text(clean(d.Owner))
	o.created.time(d.Created)
	o.next.time(d.NextAt)
	o.error.text(clean(d.Error))
	from := o.record.begin()
	o.record.b = store.AppendDelivery(o.record.b, &d)
	o.record.end(from)
}

// touches are the arguments of applySQL, by column, in its order; those of the
// lines of no attempt come last.
type touches struct {
	n, id, prev, version, user, key, claims array
	state, facets, aad                      array
	created, entered, due                   array
	record, exchange                        array
	lines, at, audit                        array
	owesFrom, owesTo, acksFrom, acksTo      array
	drops                                   array
	dropping                                bool // one of drops is true

	owed, acks outbox
	by, try    array // of acks

	orphanN, orphanHome, orphanAt, orphanLine array

	values [][]byte

	attempt store.Attempt // a copy that may be changed
}

var touchesPool = sync.Pool{New: func() any {
	t := new(touches)
	t.owed.types()
	t.acks.types()
	for oid, columns := range map[uint32][]*array{
		pgtype.Int4OID: {&t.n, &t.owesFrom, &t.owesTo, &t.acksFrom, &t.acksTo, &t.orphanN},
		pgtype.Int8OID: {&t.prev, &t.version, &t.lines, &t.try},
		pgtype.BoolOID: {&t.claims, &t.drops},
		pgtype.TextOID: {&t.id, &t.state, &t.facets, &t.aad, &t.by},
		pgtype.ByteaOID: {
			&t.user, &t.key, &t.record, &t.exchange, &t.audit, &t.orphanHome, &t.orphanLine,
		},
		pgtype.TimestamptzOID: {&t.created, &t.entered, &t.due, &t.at, &t.orphanAt},
	} {
		for _, a := range columns {
			a.oid = oid
		}
	}
	return t
}}

// newTouches takes one from the pool; free puts it back.
func newTouches() *touches {
	t, _ := touchesPool.Get().(*touches)
	t.dropping = false
	for _, columns := range [...][]*array{t.columns(), t.ackColumns(), t.orphanColumns()} {
		for _, a := range columns {
			a.reset()
		}
	}
	return t
}

func (t *touches) free() {
	t.attempt = store.Attempt{}
	touchesPool.Put(t)
}

// columns are touchArguments, but for the last.
func (t *touches) columns() []*array {
	return append([]*array{
		&t.record, &t.audit, &t.facets,
		&t.n, &t.id, &t.prev, &t.version, &t.user, &t.key, &t.claims,
		&t.state, &t.aad, &t.created, &t.entered, &t.due,
		&t.exchange, &t.lines, &t.at, &t.owesFrom, &t.owesTo,
	}, t.owed.columns()...)
}

func (t *touches) ackColumns() []*array {
	return append([]*array{&t.acksFrom, &t.acksTo, &t.drops, &t.by, &t.try}, t.acks.columns()...)
}

func (t *touches) orphanColumns() []*array {
	return []*array{&t.orphanN, &t.orphanHome, &t.orphanAt, &t.orphanLine}
}

func (t *touches) empty() bool { return t.n.n+t.orphanN.n == 0 }

// statement is what to execute with arguments; alone: for one touch only.
func (t *touches) statement(alone bool) (*statement, [][]byte) {
	t.values = t.values[:0]
	add := func(columns []*array) {
		for _, a := range columns {
			t.values = append(t.values, a.value())
		}
	}
	add(t.columns())
	t.values = append(t.values, boolean(alone))
	acks, orphans := 0, 0
	if t.dropping || t.acks.kind.n > 0 {
		acks = 1
		add(t.ackColumns())
	}
	if t.orphanN.n > 0 {
		orphans = 1
		add(t.orphanColumns())
	}
	return &applySQL[acks][orphans], t.values
}

// put adds a touch that inserts an attempt or replaces version prev of it.
func (t *touches) put(n int, put *store.Attempt, prev int64, claims bool, c *store.Commit) {
	t.attempt = *put // marks and failure are only read
	a := &t.attempt
	a.Normalize()
	t.row(n, a.ID, prev, a.Version, claims)
	t.user.hash(hashUser, a.Key.User)
	t.key.hash(hashKey, a.Key.App, a.Key.Channel, a.Key.User, strings.ToLower(a.Key.Connection))
	t.state.text(string(a.State))
	from := t.facets.begin()
	t.facets.b = appendFacets(t.facets.b, a)
	t.facets.end(from)
	t.aad.text(fold(a.Conversation.UserAAD))
	t.created.time(a.Created)
	t.entered.time(a.Entered)
	t.due.timeOrNull(a.Due())
	from = t.record.begin()
	t.record.b = store.AppendAttempt(t.record.b, a)
	t.record.end(from)
	if a.ExchangeID != "" {
		t.exchange.hash(hashExchange, a.Key.App, a.ExchangeID)
	} else {
		t.exchange.null()
	}
	t.add(c)
}

// touch adds a touch that leaves the attempt as it is.
func (t *touches) touch(n int, id string, c *store.Commit) {
	t.row(n, id, prevNone, 0, false)
	for _, a := range []*array{
		&t.user, &t.key, &t.state, &t.facets, &t.aad, &t.created, &t.entered, &t.due, &t.record, &t.exchange,
	} {
		a.null()
	}
	t.add(c)
}

func (t *touches) row(n int, id string, prev, version int64, claims bool) {
	t.n.int4(n)
	t.id.text(id)
	t.prev.int8(prev)
	t.version.int8(version)
	t.claims.bool(claims)
}

// add adds what belongs to the touch: the attempt's lines, packed into one
// value, and what becomes of its deliveries.
func (t *touches) add(c *store.Commit) {
	var (
		count int64
		last  time.Time
	)
	from := t.audit.begin()
	for i := range c.Events {
		line := &c.Events[i]
		if line.Attempt == "" {
			continue
		}
		if last.IsZero() || line.Time.After(last) {
			last = line.Time
		}
		t.audit.b = store.AppendLine(t.audit.b, line)
		count++
	}
	t.audit.end(from)
	t.lines.int8(count)
	t.at.time(store.Time(last))
	span(&t.owesFrom, &t.owesTo, t.owed.kind.n, len(c.Deliveries))
	for i := range c.Deliveries {
		t.owed.add(c.Deliveries[i])
	}
	span(&t.acksFrom, &t.acksTo, t.acks.kind.n, len(c.Acks))
	for i := range c.Acks {
		t.acks.add(c.Acks[i].Delivery)
		t.by.text(clean(c.Acks[i].By))
		t.try.int8(int64(c.Acks[i].Try))
	}
	t.drops.bool(len(c.Drop) > 0)
	t.dropping = t.dropping || len(c.Drop) > 0
}

// span adds the places of n rows behind those that are there, null for none.
func span(from, to *array, there uint32, n int) {
	if n == 0 {
		from.null()
		to.null()
		return
	}
	from.int4(int(there) + 1)
	to.int4(int(there) + n)
}

// orphans adds the lines of no attempt, written if touch n is; n < 0: anyway.
func (t *touches) orphans(n int, events []store.Event) {
	for i := range events {
		if events[i].Attempt != "" {
			continue
		}
		t.orphanN.int4(n)
		t.orphanHome.hash(hashUser, events[i].Key.User)
		t.orphanAt.time(store.Time(events[i].Time))
		from := t.orphanLine.begin()
		t.orphanLine.b = store.AppendLine(t.orphanLine.b, &events[i])
		t.orphanLine.end(from)
	}
}

// stored is what a touch that wrote nothing has found.
type stored struct {
	there   bool
	version int64
	taken   bool // another attempt is open with the touch's key
}

// eachRefused reads the result of applySQL; n is the touch.
func eachRefused(rows *pgconn.ResultReader, fn func(n int, found stored)) error {
	for rows.NextRow() {
		r := row{values: rows.Values()}
		var found stored
		n := r.int4()
		found.version, found.there = r.int8()
		found.taken = r.bool()
		if r.err != nil {
			return r.err
		}
		fn(n, found)
	}
	_, err := rows.Close()
	return err
}

// readLines decodes a row whose last line has number seq.
func readLines(attempt string, seq int64, b []byte) ([]store.Event, error) {
	lines, err := store.DecodeLines(b)
	if err != nil {
		return nil, fmt.Errorf("audit row of attempt %q: %w", attempt, err)
	}
	for i := range lines {
		lines[i].Attempt, lines[i].Seq = attempt, seq-int64(len(lines)-1-i)
	}
	return lines, nil
}
