//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// What a row of findSQL is.
const (
	rowNothing  = 0
	rowExchange = 1
	rowOpen     = 2
	rowEnded    = 3
)

// findSQL answers many questions in one round trip, each with the clock, the
// attempt that an exchange id leads to, the user's open attempts and the newest
// of the others. n is the number of the question. Key hash null: of every
// connection with the facets that say bot and channel. Nothing is sorted but
// what is cut off.
var findSQL = statement{"signin_find", `
select q.n, now(), coalesce(r.kind, 0), coalesce(r.id, ''), r.record
from unnest($1::int4[], $2::bytea[], $3::bytea[], $4::bytea[], $5::text[], $6::int8[])
  as q(n, exchange_hash, user_hash, key_hash, bot, most)
left join lateral (
  select 1 as kind, a.id, a.record
  from exchange_ids x join attempts a on a.id = x.attempt
  where x.hash = q.exchange_hash
  union all
  select 2, a.id, a.record
  from attempts a
  where a.user_hash = q.user_hash and a.ended is null and (a.key_hash = q.key_hash or q.key_hash is null and starts_with(a.facets, q.bot))
  union all
  (select 3, a.id, a.record
  from attempts a
  where a.user_hash = q.user_hash and a.ended is not null and (a.key_hash = q.key_hash or q.key_hash is null and starts_with(a.facets, q.bot))
  order by a.id desc limit q.most)
) r on true`}

// maxFinds is how many questions go to the server at once.
const maxFinds = 256

// finder gathers the reads of many goroutines, as [store.Group] does with their
// commits: while a query is in flight the next ones gather, and then go as one.
// There is no delay and no goroutine; whoever comes first asks for those who
// came meanwhile.
type finder struct {
	turn chan struct{} // holds a token; who takes it sends one query

	mu    sync.Mutex
	queue []*question
}

// question is a read that somebody waits for. Who asks writes to it until done
// is closed.
type question struct {
	query store.Query
	snap  store.Snapshot
	ended []store.Attempt // go behind the open ones
	seen  int             // rows of attempts that ended
	bad   int             // those of them that cannot be decoded
	more  int             // rows to ask for in their place
	err   error
	over  bool // whoever asked was called off, and this is still to be asked
	done  chan struct{}
}

func newFinder() *finder {
	f := &finder{turn: make(chan struct{}, 1)}
	f.turn <- struct{}{}
	return f
}

// Find is the engine's read; see [store.Store].
func (s *Store) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	for range tries {
		if one, err := s.inCompany(ctx, q); err != nil {
			return store.Snapshot{}, classify(ctx, "find", err)
		} else if !one.over {
			return one.snap, one.err
		}
	}
	one := &question{query: q, done: make(chan struct{})}
	s.ask(ctx, []*question{one})
	return one.snap, one.err
}

// inCompany asks together with others. The error is ctx's.
func (s *Store) inCompany(ctx context.Context, q store.Query) (*question, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	one := &question{query: q, done: make(chan struct{})}
	f := s.finds
	f.mu.Lock()
	f.queue = append(f.queue, one)
	f.mu.Unlock()
	for {
		select {
		case <-one.done:
			return one, nil
		case <-f.turn:
			s.lead(ctx, one)
		case <-ctx.Done():
			f.forget(one)
			return nil, ctx.Err()
		}
	}
}

// askAgain is how long a read waits before it asks on another connection.
const askAgain = time.Second

// findPatience is how long the next query waits for the one before it: longer than
// one takes when nothing is wrong.
const findPatience = 100 * time.Millisecond

// lead sends one query, unless one has its answer, and passes the turn on, when
// that is done or when it takes long.
func (s *Store) lead(ctx context.Context, one *question) {
	f := s.finds
	pass := sync.OnceFunc(func() { f.turn <- struct{}{} })
	defer pass()
	select {
	case <-one.done:
		return
	default:
	}
	runtime.Gosched() // whoever is about to read anyway may come along
	f.mu.Lock()
	asked := slices.Clone(f.queue[:min(len(f.queue), maxFinds)])
	f.queue = slices.Delete(f.queue, 0, len(asked))
	f.mu.Unlock()
	next := time.AfterFunc(findPatience, pass)
	defer next.Stop()
	s.ask(ctx, asked)
}

// forget takes a question back if it has not left.
func (f *finder) forget(one *question) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = slices.DeleteFunc(f.queue, func(q *question) bool { return q == one })
}

// ask sends a query and settles its questions. It is bound by the context of
// whoever asks, which is no reason to fail the others: those ask again.
func (s *Store) ask(ctx context.Context, asked []*question) {
	err := fmt.Errorf("%w: the read panicked", store.ErrUnavailable)
	defer func() {
		for _, q := range asked {
			if err != nil {
				q.snap, q.err, q.over = store.Snapshot{}, err, ctx.Err() != nil
			}
			close(q.done)
		}
	}()
	read := func(ctx context.Context) error {
		return s.use(ctx, "find", func(ctx context.Context, conn *pgxpool.Conn) error {
			return find(ctx, conn.Conn(), asked)
		})
	}
	// A connection that does not answer may be dead, and reading twice does no harm.
	soon, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	if err = read(soon); err != nil && soon.Err() != nil && ctx.Err() == nil {
		err = read(ctx)
	}
}

// findArgs are the arguments of findSQL.
type findArgs struct {
	n, exchange, user, key, bot, most array
	values                            [6][]byte
}

var findPool = sync.Pool{New: func() any {
	return &findArgs{
		n: array{oid: pgtype.Int4OID}, exchange: array{oid: pgtype.ByteaOID}, user: array{oid: pgtype.ByteaOID},
		key: array{oid: pgtype.ByteaOID}, bot: array{oid: pgtype.TextOID}, most: array{oid: pgtype.Int8OID},
	}
}}

func (f *findArgs) fill(asked []*question) [][]byte {
	columns := [...]*array{&f.n, &f.exchange, &f.user, &f.key, &f.bot, &f.most}
	for _, a := range columns {
		a.reset()
	}
	for i, one := range asked {
		q := &one.query
		f.n.int4(i)
		if q.ExchangeID != "" {
			f.exchange.hash(hashExchange, q.User.App, q.ExchangeID)
		} else {
			f.exchange.null()
		}
		f.user.hash(hashUser, q.User.User)
		if q.Connection != "" {
			f.key.hash(hashKey, q.User.App, q.User.Channel, q.User.User, strings.ToLower(q.Connection))
		} else {
			f.key.null()
		}
		from := f.bot.begin()
		f.bot.b = append(append(f.bot.b, facet(q.User.App)...), separator...)
		f.bot.b = append(append(f.bot.b, facet(q.User.Channel)...), separator...)
		f.bot.end(from)
		f.most.int8(int64(q.Max() + one.more))
	}
	for i, a := range columns {
		f.values[i] = a.value()
	}
	return f.values[:]
}

// find sends the query and reads the answers. Where records that cannot be
// decoded have taken the place of others it asks again, for more.
func find(ctx context.Context, conn *pgx.Conn, asked []*question) error {
	for _, q := range asked {
		q.more = 0
	}
	for len(asked) > 0 {
		if err := findOnce(ctx, conn, asked); err != nil {
			return err
		}
		var short []*question
		for _, q := range asked {
			if q.err == nil && q.bad > q.more && q.seen == q.query.Max()+q.more {
				q.more = 2 * q.bad
				short = append(short, q)
				continue
			}
			q.settle()
		}
		asked = short
	}
	return nil
}

func findOnce(ctx context.Context, conn *pgx.Conn, asked []*question) error {
	sd, err := findSQL.prepare(ctx, conn)
	if err != nil {
		return err
	}
	args, _ := findPool.Get().(*findArgs)
	defer findPool.Put(args)
	for _, q := range asked {
		q.snap, q.ended, q.seen, q.bad, q.err = store.Snapshot{}, nil, 0, 0, nil
	}
	rows := conn.PgConn().ExecStatement(ctx, sd, args.fill(asked), binaryFormat, binaryFormat)
	for rows.NextRow() && err == nil {
		r := row{values: rows.Values()}
		n, now, kind, id, record := r.int4(), r.time(), r.int4(), r.next(), r.next()
		if err = r.err; err == nil {
			asked[n].add(now, kind, id, record)
		}
	}
	_, closed := rows.Close()
	return errors.Join(closed, err)
}

// add takes a row of the answer.
func (q *question) add(now time.Time, kind int, id, record []byte) {
	q.snap.Now = now
	if kind == rowNothing {
		return
	}
	if kind == rowEnded {
		q.seen++
	}
	a := new(store.Attempt)
	err := a.Decode(record)
	switch {
	case err != nil && (kind == rowExchange || kind == rowOpen && q.query.Connection != ""):
		q.err = fmt.Errorf("pgstore: find: attempt %s: %w", id, err)
	case err != nil:
		q.snap.Corrupt = append(q.snap.Corrupt, store.Corrupt{ID: string(id), Err: err})
		if kind == rowEnded {
			q.bad++
		}
	case kind == rowExchange:
		q.snap.ByExchangeID = a
	case a.Key.UserKey() != q.query.User: // texts that had to be cleaned
	case kind == rowOpen:
		q.snap.Attempts = append(q.snap.Attempts, *a)
	default:
		q.ended = append(q.ended, *a)
	}
}

// settle brings the answer in order: open attempts, then as many of the others
// as were asked for, each newest first.
func (q *question) settle() {
	if q.err != nil {
		q.snap = store.Snapshot{}
		return
	}
	newestFirst(q.snap.Attempts)
	newestFirst(q.ended)
	room := max(q.query.Max()-len(q.snap.Attempts), 0)
	q.snap.Attempts = append(q.snap.Attempts, q.ended[:min(room, len(q.ended))]...)
}

func newestFirst(attempts []store.Attempt) {
	if len(attempts) < 2 {
		return // sorting takes a large stack
	}
	slices.SortFunc(attempts, func(a, b store.Attempt) int { return strings.Compare(b.ID, a.ID) })
}
