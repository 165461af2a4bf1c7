package pgstore

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
)

// applySQL writes many touches at once. A touch is what happens to one attempt:
// prev says whether it is inserted (0), replaced if that is its version (> 0)
// or only gets lines and deliveries (-1). A touch that finds something else
// writes nothing, and neither do the lines and deliveries that belong to it; it
// comes back with the version it found, 0 for none.
//
// Touches of one statement must not meet: they see the state before it.
// Lines of no attempt are numbered by a row that is locked to the end of the
// transaction: a reader who has seen one has seen all before it.
//
// The questions after an open attempt of a key are scalar subqueries, since of
// an EXISTS the planner may think that reading all open attempts is cheaper.
//
// A touch that moves its attempt to another key, which the engine never does,
// makes the statement fail by a division by zero, unless it stands alone
// ($42): what comes next may count on the key that it gives up, and no plan
// sees that. The commits are then played one by one.
//
// claims: the attempt is open in this touch, so nobody else may hold its key.
//
// Nothing joins by hash or merge, see [parse]: what an insertion gives back
// finds its touch by its place in the arguments.
const applySQL = `
with t as materialized (
  select * from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[], $5::bytea[], $6::bytea[], $7::bool[],
    $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
    $17::text[], $18::text[], $19::text[], $20::text[], $21::timestamptz[], $22::timestamptz[], $23::timestamptz[],
    $24::bytea[], $25::bytea[], $26::int8[], $27::timestamptz[], $28::bytea[])
  as t(n, id, prev, version, user_hash, key_hash, claims,
    state, method, reason, failure_code, app, channel, user_id, user_aad, connection,
    tenant, conversation, platform, instance, created, entered, due,
    record, exchange, lines, at, audit)
), ins as (
  insert into attempts (user_hash, id, key_hash, home, version, state, method, reason, failure_code, app, channel,
    user_id, user_aad, connection, tenant, conversation, platform, instance, created, entered, ended, due, wake,
    born, lines, record)
  select user_hash, id, key_hash, user_hash, version, state, method, reason, failure_code, app, channel,
    user_id, user_aad, connection, tenant, conversation, platform, instance, created, entered,
    case when state in ('Complete', 'Failed') then entered end,
    nullif(due, '0001-01-01 00:00:00+00'), nullif(due, '0001-01-01 00:00:00+00'), now(), lines, record
  from t
  where prev = 0
    and not exists (select from attempts a where a.id = t.id)
    and (not claims or (select a.id from attempts a
      where a.user_hash = t.user_hash and a.key_hash = t.key_hash and a.ended is null limit 1) is null)
  on conflict do nothing
  returning id, home, born, lines
), upd as (
  update attempts a set user_hash = t.user_hash, key_hash = t.key_hash, version = t.version, state = t.state,
    method = t.method, reason = t.reason, failure_code = t.failure_code, app = t.app, channel = t.channel,
    user_id = t.user_id, user_aad = t.user_aad, connection = t.connection, tenant = t.tenant,
    conversation = t.conversation, platform = t.platform, instance = t.instance, created = t.created,
    entered = t.entered, ended = case when t.state in ('Complete', 'Failed') then t.entered end,
    due = nullif(t.due, '0001-01-01 00:00:00+00'),
    wake = case when a.wake > t.due or a.wake is null then nullif(t.due, '0001-01-01 00:00:00+00')
      when t.due > '0001-01-01 00:00:00+00' then a.wake end,
    lines = a.lines + t.lines, record = t.record
  from t
  where t.prev > 0 and a.id = t.id and a.version = t.prev
    and (a.key_hash = t.key_hash or $42 or 1 / (a.version - t.prev) > 0)
    and (not t.claims or a.ended is null and a.user_hash = t.user_hash and a.key_hash = t.key_hash
      or (select o.id from attempts o
        where o.user_hash = t.user_hash and o.key_hash = t.key_hash and o.ended is null and o.id <> t.id limit 1) is null)
  returning t.n, a.home, t.id, a.born, a.lines, t.lines as added, t.at, t.audit, t.exchange
), add as (
  update attempts a set lines = a.lines + t.lines
  from t
  where t.prev = -1 and a.id = t.id
  returning t.n, a.home, t.id, a.born, a.lines, t.lines as added, t.at, t.audit, t.exchange
), done as materialized (
  select * from upd
  union all select * from add
  union all select ($1::int4[])[place], home, id, born, lines, ($26::int8[])[place], ($27::timestamptz[])[place],
    ($28::bytea[])[place], ($25::bytea[])[place]
  from (select array_position($2::text[], id) as place, * from ins) placed
), written as (
  insert into events (born, home, attempt, seq, at, lines)
  select born, home, id, lines, at, audit from done where added > 0
), o as materialized (
  select row_number() over (order by place) as i, home, at, line
  from unnest($29::int4[], $30::bytea[], $31::timestamptz[], $32::bytea[]) with ordinality as o(n, home, at, line, place)
  where o.n < 0 or o.n = any (array(select n from done))
), counted as (
  update orphans set last = last + (select count(*) from o) where exists (select from o)
  returning last - (select count(*) from o) as last
), orphaned as (
  insert into events (born, home, attempt, seq, at, lines)
  select now(), o.home, '', counted.last + o.i, o.at, o.line from o cross join counted
), owed as (
  insert into deliveries (home, attempt, kind, round, status, tries, owner, created, next_at, record)
  select done.home, done.id, d.kind, d.round, d.status, d.tries, d.owner, d.created, d.next_at, d.record
  from unnest($33::int4[], $34::text[], $35::int4[], $36::text[], $37::int8[], $38::text[], $39::timestamptz[],
    $40::timestamptz[], $41::bytea[]) as d(n, kind, round, status, tries, owner, created, next_at, record)
  join done on done.n = d.n
  on conflict (home, attempt, kind, round) do update set status = excluded.status, tries = excluded.tries,
    owner = excluded.owner, created = excluded.created, next_at = excluded.next_at, record = excluded.record
), led as (
  insert into exchange_ids (hash, home, attempt)
  select done.exchange, done.home, done.id
  from done
  where done.exchange <> ''
    and not exists (select from exchange_ids x where x.hash = done.exchange and x.attempt = done.id)
  on conflict (hash) do update set home = excluded.home, attempt = excluded.attempt
)
select t.n, found.version, found.open
from t cross join lateral (select max(a.version) as version, coalesce(bool_or(a.ended is null
  and a.user_hash = t.user_hash and a.key_hash = t.key_hash), false) as open
  from attempts a where a.id = t.id) found
where t.n <> all (array(select n from done))`

const (
	prevInsert = 0
	prevNone   = -1
)

// touches are the arguments of applySQL, by column.
type touches struct {
	n                                []int32
	id                               []string
	prev, version                    []int64
	user, key                        [][]byte
	claims                           []bool
	state, method, reason, code      []string
	app, channel, userID, aad, conn  []string
	tenant, conv, platform, instance []string
	created, entered, due            []time.Time
	record, exchange                 [][]byte
	lines                            []int64
	at                               []time.Time
	audit                            [][]byte

	orphanN    []int32
	orphanHome [][]byte
	orphanAt   []time.Time
	orphanLine [][]byte

	owedN       []int32
	owedKind    []string
	owedRound   []int32
	owedStatus  []string
	owedTries   []int64
	owedOwner   []string
	owedCreated []time.Time
	owedNext    []time.Time
	owedRecord  [][]byte
}

func (t *touches) empty() bool { return len(t.n)+len(t.orphanN) == 0 }

// put adds a touch that inserts an attempt or replaces version prev of it.
func (t *touches) put(n int, a *store.Attempt, prev int64, claims bool, events []store.Event) {
	norm := *a // times of its own; marks and failure are only read
	a = &norm
	a.Normalize()
	code := ""
	if a.Failure != nil {
		code = a.Failure.Code
	}
	exchange := []byte{}
	if a.ExchangeID != "" {
		exchange = exchangeHash(a.Key.App, a.ExchangeID)
	}
	t.row(n, a.ID, prev, a.Version, userHash(a.Key.User), keyHash(a.Key), claims)
	t.state = append(t.state, string(a.State))
	t.method = append(t.method, clean(string(a.Method)))
	t.reason = append(t.reason, clean(string(a.Reason)))
	t.code = append(t.code, clean(code))
	t.app = append(t.app, clean(a.Key.App))
	t.channel = append(t.channel, clean(a.Key.Channel))
	t.userID = append(t.userID, clean(a.Key.User))
	t.aad = append(t.aad, fold(a.Conversation.UserAAD))
	t.conn = append(t.conn, clean(a.Key.Connection))
	t.tenant = append(t.tenant, clean(a.Conversation.Tenant))
	t.conv = append(t.conv, clean(a.Conversation.ID))
	t.platform = append(t.platform, clean(a.Platform))
	t.instance = append(t.instance, clean(a.Lease.Owner))
	t.created = append(t.created, a.Created)
	t.entered = append(t.entered, a.Entered)
	t.due = append(t.due, a.Due())
	t.record = append(t.record, store.AppendAttempt(nil, a))
	t.exchange = append(t.exchange, exchange)
	t.add(events)
}

// touch adds a touch that leaves the attempt as it is.
func (t *touches) touch(n int, id string, events []store.Event) {
	t.row(n, id, prevNone, 0, []byte{}, []byte{}, false)
	for _, column := range []*[]string{
		&t.state, &t.method, &t.reason, &t.code, &t.app, &t.channel, &t.userID, &t.aad, &t.conn,
		&t.tenant, &t.conv, &t.platform, &t.instance,
	} {
		*column = append(*column, "")
	}
	for _, column := range []*[]time.Time{&t.created, &t.entered, &t.due} {
		*column = append(*column, time.Time{})
	}
	t.record = append(t.record, nil)
	t.exchange = append(t.exchange, nil)
	t.add(events)
}

func (t *touches) row(n int, id string, prev, version int64, user, key []byte, claims bool) {
	t.n = append(t.n, int32(n))
	t.id = append(t.id, id)
	t.prev = append(t.prev, prev)
	t.version = append(t.version, version)
	t.user = append(t.user, user)
	t.key = append(t.key, key)
	t.claims = append(t.claims, claims)
}

// add packs the attempt's lines into one value.
func (t *touches) add(events []store.Event) {
	var (
		count int64
		last  time.Time
		audit []byte
	)
	for i := range events {
		if events[i].Attempt == "" {
			continue
		}
		line := events[i]
		line.Normalize()
		if last.IsZero() || line.Time.After(last) {
			last = line.Time
		}
		audit = appendLine(audit, &line)
		count++
	}
	t.lines = append(t.lines, count)
	t.at = append(t.at, last)
	t.audit = append(t.audit, audit)
}

// orphans adds the lines of no attempt, written if touch n is; n < 0: anyway.
func (t *touches) orphans(n int, events []store.Event) {
	for i := range events {
		if events[i].Attempt != "" {
			continue
		}
		line := events[i]
		line.Normalize()
		t.orphanN = append(t.orphanN, int32(n))
		t.orphanHome = append(t.orphanHome, userHash(line.Key.User))
		t.orphanAt = append(t.orphanAt, line.Time)
		t.orphanLine = append(t.orphanLine, appendLine(nil, &line))
	}
}

// owe adds deliveries of touch n. Of two with one key the last counts.
func (t *touches) owe(n int, deliveries []store.Delivery) {
	for i := range deliveries {
		d := deliveries[i]
		if overtaken(deliveries[i+1:], d.DeliveryKey) {
			continue
		}
		d.Normalize()
		t.owedN = append(t.owedN, int32(n))
		t.owedKind = append(t.owedKind, string(d.Kind))
		t.owedRound = append(t.owedRound, int32(d.Round))
		t.owedStatus = append(t.owedStatus, string(d.Status))
		t.owedTries = append(t.owedTries, int64(d.Tries))
		t.owedOwner = append(t.owedOwner, clean(d.Owner))
		t.owedCreated = append(t.owedCreated, d.Created)
		t.owedNext = append(t.owedNext, d.NextAt)
		t.owedRecord = append(t.owedRecord, store.AppendDelivery(nil, &d))
	}
}

func overtaken(later []store.Delivery, k store.DeliveryKey) bool {
	for i := range later {
		if later[i].DeliveryKey == k {
			return true
		}
	}
	return false
}

// queue adds the statement to a batch; alone: for one touch only.
func (t *touches) queue(b *pgx.Batch, alone bool) *pgx.QueuedQuery {
	return b.Queue(applySQL, t.n, t.id, t.prev, t.version, t.user, t.key, t.claims,
		t.state, t.method, t.reason, t.code, t.app, t.channel, t.userID, t.aad, t.conn,
		t.tenant, t.conv, t.platform, t.instance, t.created, t.entered, t.due,
		t.record, t.exchange, t.lines, t.at, t.audit,
		t.orphanN, t.orphanHome, t.orphanAt, t.orphanLine,
		t.owedN, t.owedKind, t.owedRound, t.owedStatus, t.owedTries, t.owedOwner, t.owedCreated, t.owedNext, t.owedRecord, alone)
}

// refusal says why a touch wrote nothing, from what it found.
func refusal(id string, prev int64, found *int64, open, claims bool) error {
	switch {
	case prev == prevInsert && found != nil:
		return fmt.Errorf("attempt %s: id taken: %w", id, store.ErrExists)
	case prev == prevInsert:
		return fmt.Errorf("attempt %s: %w", id, store.ErrExists)
	case found == nil:
		return fmt.Errorf("attempt %s: %w", id, store.ErrNotFound)
	case prev == *found && claims && !open:
		return fmt.Errorf("attempt %s: %w", id, store.ErrExists)
	default:
		return fmt.Errorf("attempt %s: stored version %d, wanted %d: %w", id, *found, prev, store.ErrConflict)
	}
}

// appendLine appends length and encoding; what the row says is left out.
func appendLine(dst []byte, line *store.Event) []byte {
	l := *line
	l.Attempt, l.Seq = "", 0
	var buf [512]byte
	b := store.AppendEvent(buf[:0], &l)
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// readLines is the inverse, for a row whose last line has number seq.
func readLines(attempt string, seq int64, b []byte) ([]store.Event, error) {
	var lines []store.Event
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, fmt.Errorf("audit row of attempt %q: %w", attempt, store.ErrCorrupt)
		}
		end := w + int(n)
		line, err := store.DecodeEvent(b[w:end])
		if err != nil {
			return nil, fmt.Errorf("audit row of attempt %q: %w", attempt, err)
		}
		line.Attempt = attempt
		lines = append(lines, line)
		b = b[end:]
	}
	for i := range lines {
		lines[i].Seq = seq - int64(len(lines)-1-i)
	}
	return lines, nil
}
