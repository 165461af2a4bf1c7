//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/signin-engine/signin-engine/store"
)

// applySQL writes many touches at once. A touch is what happens to one attempt:
// prev says whether it is inserted (0), replaced if that is its version (> 0)
// or only gets lines and deliveries (-1). A touch that finds something else
// writes nothing, and neither do the lines and deliveries that belong to it; it
// comes back with the version it found, null for none.
//
// Touches of one statement must not meet: they see the state before it.
//
// The questions after an open attempt of a key are scalar subqueries, since of
// an EXISTS the planner may think that reading all open attempts is cheaper.
//
// A touch that moves its attempt to another key, which the engine never does,
// makes the statement fail by a division by zero, unless it stands alone
// ($29): what comes next may count on the key that it gives up, and no plan
// sees that. The commits are then played one by one.
//
// claims: the attempt is open in this touch, so nobody else may hold its key.
//
// Nothing joins by hash or merge, see [parse]: what an insertion gives back
// finds its touch by its place in the arguments, and a touch its deliveries by
// theirs, owes_from to owes_to.
var applySQL = statement{"signin_apply", `
with t as materialized (
  select * from unnest($4::int4[], $5::text[], $6::int8[], $7::int8[], $8::bytea[], $9::bytea[], $10::bool[],
    $11::text[], $3::text[], $12::text[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
    $1::bytea[], $16::bytea[], $17::int8[], $18::timestamptz[], $2::bytea[], $19::int4[], $20::int4[])
  as t(n, id, prev, version, user_hash, key_hash, claims,
    state, facets, user_aad, created, entered, due,
    record, exchange, lines, at, audit, owes_from, owes_to)
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
    and (a.key_hash = t.key_hash or $29 or 1 / (a.version - t.prev) > 0)
    and (not t.claims or a.ended is null and a.user_hash = t.user_hash and a.key_hash = t.key_hash
      or (select o.id from attempts o
        where o.user_hash = t.user_hash and o.key_hash = t.key_hash and o.ended is null and o.id <> t.id limit 1) is null)
  returning t.n, a.home, t.id, a.born, a.lines, t.lines as added, t.at, t.audit, t.exchange, t.owes_from, t.owes_to
), add as (
  update attempts a set lines = a.lines + t.lines
  from t
  where t.prev = -1 and a.id = t.id
  returning t.n, a.home, t.id, a.born, a.lines, t.lines as added, t.at, t.audit, t.exchange, t.owes_from, t.owes_to
), done as materialized (
  select * from upd
  union all select * from add
  union all select ($4::int4[])[place], home, id, born, lines, ($17::int8[])[place], ($18::timestamptz[])[place],
    ($2::bytea[])[place], ($16::bytea[])[place], ($19::int4[])[place], ($20::int4[])[place]
  from (select array_position($5::text[], id) as place, * from ins) placed
), written as (
  insert into events (born, home, attempt, seq, at, lines)
  select born, home, id, lines, at, audit from done where added > 0
), owed as (
  insert into deliveries (home, attempt, kind, round, status, tries, owner, created, next_at, record)
  select home, id, ($21::text[])[i], ($22::int4[])[i], ($23::text[])[i], ($24::int8[])[i], ($25::text[])[i],
    ($26::timestamptz[])[i], ($27::timestamptz[])[i], ($28::bytea[])[i]
  from done cross join generate_series(owes_from, owes_to) i
  where owes_from > 0
  on conflict (home, attempt, kind, round) do update set status = excluded.status, tries = excluded.tries,
    owner = excluded.owner, created = excluded.created, next_at = excluded.next_at, record = excluded.record
), led as (
  insert into exchange_ids (hash, home, attempt)
  select done.exchange, done.home, done.id
  from done
  where done.exchange is not null
    and not exists (select from exchange_ids x where x.hash = done.exchange and x.attempt = done.id)
  on conflict (hash) do update set home = excluded.home, attempt = excluded.attempt
)` + refusedSQL}

// orphanedSQL is applySQL with lines of no attempt, which are seldom. They are
// numbered by a row that is locked to the end of the transaction: a reader who
// has seen one has seen all before it.
var orphanedSQL = statement{"signin_apply_orphans", strings.TrimSuffix(applySQL.sql, refusedSQL) + `, o as materialized (
  select row_number() over (order by place) as i, home, at, line
  from unnest($30::int4[], $31::bytea[], $32::timestamptz[], $33::bytea[]) with ordinality as o(n, home, at, line, place)
  where o.n < 0 or o.n = any (array(select n from done))
), counted as (
  update orphans set last = last + (select count(*) from o) where exists (select from o)
  returning last - (select count(*) from o) as last
), orphaned as (
  insert into events (born, home, attempt, seq, at, lines)
  select now(), o.home, '', counted.last + o.i, o.at, o.line from o cross join counted
)` + refusedSQL}

const refusedSQL = `
select t.n, a.version, coalesce(a.ended is null and a.user_hash = t.user_hash and a.key_hash = t.key_hash, false)
from t left join attempts a on a.id = t.id
where t.n <> all (array(select n from done))`

const (
	prevInsert = 0
	prevNone   = -1
)

// touches are the arguments of applySQL, by column, in its order; those of the
// lines of no attempt come last.
type touches struct {
	n, id, prev, version, user, key, claims array
	state, facets, aad                      array
	created, entered, due                   array
	record, exchange                        array
	lines, at, audit                        array
	owesFrom, owesTo                        array

	owedKind, owedRound, owedStatus, owedTries, owedOwner array
	owedCreated, owedNext, owedRecord                     array

	orphanN, orphanHome, orphanAt, orphanLine array

	values [33][]byte

	// Copies that may be changed.
	attempt  store.Attempt
	delivery store.Delivery
}

var touchesPool = sync.Pool{New: func() any {
	t := new(touches)
	for oid, columns := range map[uint32][]*array{
		pgtype.Int4OID: {&t.n, &t.owesFrom, &t.owesTo, &t.owedRound, &t.orphanN},
		pgtype.Int8OID: {&t.prev, &t.version, &t.lines, &t.owedTries},
		pgtype.BoolOID: {&t.claims},
		pgtype.TextOID: {&t.id, &t.state, &t.facets, &t.aad, &t.owedKind, &t.owedStatus, &t.owedOwner},
		pgtype.ByteaOID: {
			&t.user, &t.key, &t.record, &t.exchange, &t.audit, &t.owedRecord, &t.orphanHome, &t.orphanLine,
		},
		pgtype.TimestamptzOID: {&t.created, &t.entered, &t.due, &t.at, &t.owedCreated, &t.owedNext, &t.orphanAt},
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
	for _, a := range t.columns() {
		a.reset()
	}
	return t
}

func (t *touches) free() {
	t.attempt, t.delivery = store.Attempt{}, store.Delivery{}
	touchesPool.Put(t)
}

const orphanColumns = 4

func (t *touches) columns() [28 + orphanColumns]*array {
	return [...]*array{
		&t.record, &t.audit, &t.facets, // the long ones first: pgx's buffer grows with what comes
		&t.n, &t.id, &t.prev, &t.version, &t.user, &t.key, &t.claims,
		&t.state, &t.aad, &t.created, &t.entered, &t.due,
		&t.exchange, &t.lines, &t.at, &t.owesFrom, &t.owesTo,
		&t.owedKind, &t.owedRound, &t.owedStatus, &t.owedTries, &t.owedOwner, &t.owedCreated, &t.owedNext, &t.owedRecord,
		&t.orphanN, &t.orphanHome, &t.orphanAt, &t.orphanLine,
	}
}

func (t *touches) empty() bool { return t.n.n+t.orphanN.n == 0 }

// statement is what to execute with arguments; alone: for one touch only.
func (t *touches) statement(alone bool) (*statement, [][]byte) {
	columns := t.columns()
	values := t.values[:0]
	for _, a := range columns[:len(columns)-orphanColumns] {
		values = append(values, a.value())
	}
	values = append(values, boolean(alone))
	if t.orphanN.n == 0 {
		return &applySQL, values
	}
	for _, a := range columns[len(columns)-orphanColumns:] {
		values = append(values, a.value())
	}
	return &orphanedSQL, values
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
// value, and its deliveries.
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
	t.owe(c.Deliveries)
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

// owe adds the touch's deliveries. Of two with one key the last counts.
func (t *touches) owe(deliveries []store.Delivery) {
	before := t.owedKind.n
	for i := range deliveries {
		if overtaken(deliveries[i+1:], deliveries[i].DeliveryKey) {
			continue
		}
		t.delivery = deliveries[i]
		d := &t.delivery
		d.Normalize()
		t.owedKind.text(string(d.Kind))
		t.owedRound.int4(d.Round)
		t.owedStatus.text(string(d.Status))
		t.owedTries.int8(int64(d.Tries))
		t.owedOwner.text(clean(d.Owner))
		t.owedCreated.time(d.Created)
		t.owedNext.time(d.NextAt)
		from := t.owedRecord.begin()
		t.owedRecord.b = store.AppendDelivery(t.owedRecord.b, d)
		t.owedRecord.end(from)
	}
	if t.owedKind.n == before {
		t.owesFrom.null()
		t.owesTo.null()
		return
	}
	t.owesFrom.int4(int(before) + 1)
	t.owesTo.int4(int(t.owedKind.n))
}

func overtaken(later []store.Delivery, k store.DeliveryKey) bool {
	for i := range later {
		if later[i].DeliveryKey == k {
			return true
		}
	}
	return false
}

// stored is what a touch that wrote nothing has found.
type stored struct {
	there   bool
	version int64
	open    bool // with the key that the touch has
}

// eachRefused reads the result of applySQL; n is the touch.
func eachRefused(rows *pgconn.ResultReader, fn func(n int, found stored)) error {
	for rows.NextRow() {
		r := row{values: rows.Values()}
		var found stored
		n := r.int4()
		found.version, found.there = r.int8()
		found.open = r.bool()
		if r.err != nil {
			return r.err
		}
		fn(n, found)
	}
	_, err := rows.Close()
	return err
}

// refusal says why a touch wrote nothing.
func refusal(id string, prev int64, claims bool, found stored) error {
	switch {
	case prev == prevInsert && found.there:
		return fmt.Errorf("attempt %s: id taken: %w", id, store.ErrExists)
	case prev == prevInsert:
		return fmt.Errorf("attempt %s: %w", id, store.ErrExists)
	case !found.there:
		return fmt.Errorf("attempt %s: %w", id, store.ErrNotFound)
	case prev == found.version && claims && !found.open:
		return fmt.Errorf("attempt %s: %w", id, store.ErrExists)
	default:
		return fmt.Errorf("attempt %s: stored version %d, wanted %d: %w", id, found.version, prev, store.ErrConflict)
	}
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
