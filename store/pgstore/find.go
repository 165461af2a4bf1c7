//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// Kinds of rows of findSQL.
const (
	rowExchange = 1
	rowOpen     = 2
	rowEnded    = 3
)

// findSQL answers many questions in one round trip. Each answer is the user's own
// attempt of an exchange id, the user's open attempts, and the newest of the others.
// Only the last part is sorted, because it is cut off.
var findSQL = `
select q.n, r.*
from ` + rowsOf("q", questionColumns) + `
cross join lateral (
  select 1 as kind, ` + names("a.", attemptColumns) + `
  from exchange_ids x join attempts a on a.home = x.home and a.id = x.attempt
  where q.exchange_id <> '' and x.home = q.home and x.exchange_id = q.exchange_id and x.app = q.app
  union all
  select 2, ` + names("a.", attemptColumns) + `
  from attempts a
  where a.home = q.home and a.user_id = q.user_id and a.channel = q.channel and a.app = q.app and a.ended is null
    and (q.key = '' or a.connection_key = q.key)
  union all
  (select 3, ` + names("a.", attemptColumns) + `
  from attempts a
  where a.home = q.home and a.user_id = q.user_id and a.channel = q.channel and a.app = q.app and a.ended is not null
    and (q.key = '' or a.connection_key = q.key)
  order by a.id desc limit q.most)
) r`

// strayedSQL is for exchange ids that are not among the user's own. It asks every
// partition.
var strayedSQL = `
select q.n, r.*
from ` + rowsOf("q", questionColumns) + `
cross join lateral (
  select 1 as kind, ` + names("a.", attemptColumns) + `
  from exchange_ids x join attempts a on a.home = x.home and a.id = x.attempt
  where x.exchange_id = q.exchange_id and x.app = q.app
  order by x.attempt desc limit 1
) r`

var questionColumns = []column[question]{
	value("n", "int8", func(q *question) *int64 { return &q.n }),
	value("home", "int8", func(q *question) *int64 { return &q.home }),
	text("exchange_id", func(q *question) *string { return &q.query.ExchangeID }),
	text("app", func(q *question) *string { return &q.query.User.App }),
	text("channel", func(q *question) *string { return &q.query.User.Channel }),
	text("user_id", func(q *question) *string { return &q.query.User.User }),
	text("key", func(q *question) *string { return &q.key }),
	value("most", "int8", func(q *question) *int { return &q.most }),
}

// maxFinds is how many questions one query has at most.
const maxFinds = 256

// finder batches the reads of many goroutines, as [store.Group] does with commits.
// While a query is in flight the next reads gather, and then go as one query. There is
// no delay and no goroutine: one of the waiting callers sends the query for all.
type finder struct {
	turn chan struct{} // holds a token; whoever takes it sends one query

	mu    sync.Mutex
	queue []*asked
}

// asked is a read that a caller waits for. The sender of the query writes to it until
// done is closed.
type asked struct {
	question
	snap  store.Snapshot
	ended []store.Attempt // come after the open ones
	seen  int             // rows of ended attempts
	bad   int             // those of them that cannot be decoded
	more  int             // rows to ask for in their place
	err   error
	over  bool // the sender was cancelled, so this must be asked again
	done  chan struct{}
}

// question is a query as it is sent to the server.
type question struct {
	query store.Query
	n     int64
	home  int64
	key   string // the connection in lower case; "" for every connection
	most  int
}

func newAsked(q store.Query) *asked {
	return &asked{
		question: question{query: q, home: home(q.User), key: strings.ToLower(q.Connection)},
		done:     make(chan struct{}),
	}
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
	one := newAsked(q)
	s.ask(ctx, []*asked{one})
	return one.snap, one.err
}

// inCompany asks in one query with others. The error is ctx's.
func (s *Store) inCompany(ctx context.Context, q store.Query) (*asked, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	one := newAsked(q)
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

// findPatience is how long the next query waits for the one before it: longer than a
// query normally takes.
const findPatience = 100 * time.Millisecond

// lead sends one query, unless one is answered already. It passes the turn on when the
// query is done, or after findPatience.
func (s *Store) lead(ctx context.Context, one *asked) {
	f := s.finds
	pass := sync.OnceFunc(func() { f.turn <- struct{}{} })
	defer pass()
	select {
	case <-one.done:
		return
	default:
	}
	runtime.Gosched() // lets others that are about to read join this query
	f.mu.Lock()
	all := slices.Clone(f.queue[:min(len(f.queue), maxFinds)])
	f.queue = slices.Delete(f.queue, 0, len(all))
	f.mu.Unlock()
	next := time.AfterFunc(findPatience, pass)
	defer next.Stop()
	s.ask(ctx, all)
}

// forget removes a question that has not been sent.
func (f *finder) forget(one *asked) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = slices.DeleteFunc(f.queue, func(q *asked) bool { return q == one })
}

// ask sends a query and settles its questions. The context is that of one caller. If it
// ends, the others do not fail but ask again.
func (s *Store) ask(ctx context.Context, all []*asked) {
	err := fmt.Errorf("%w: the read panicked", store.ErrUnavailable)
	defer func() {
		for _, q := range all {
			if err != nil {
				q.snap, q.err, q.over = store.Snapshot{}, err, ctx.Err() != nil
			}
			close(q.done)
		}
	}()
	try := func(ctx context.Context) error {
		return s.use(ctx, "find", func(ctx context.Context, conn *pgxpool.Conn) error {
			return find(ctx, conn, all)
		})
	}
	// A connection that does not answer may be dead. A second read does no harm.
	soon, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	if err = try(soon); err != nil && soon.Err() != nil && ctx.Err() == nil {
		err = try(ctx)
	}
}

// find sends the query and reads the answers. Where rows that cannot be decoded took
// the place of others it asks again, for more rows. Then it asks everywhere for
// exchange ids that are not among the user's own.
func find(ctx context.Context, to sender, all []*asked) error {
	for _, q := range all {
		q.more = 0
	}
	for left := all; len(left) > 0; {
		for _, q := range left {
			q.snap, q.ended, q.seen, q.bad, q.err = store.Snapshot{}, nil, 0, 0, nil
		}
		if err := put(ctx, to, findStatement, left); err != nil {
			return err
		}
		var short []*asked
		for _, q := range left {
			if q.err == nil && q.bad > q.more && q.seen == q.most {
				q.more = 2 * q.bad
				short = append(short, q)
			}
		}
		left = short
	}
	var strayed []*asked
	for _, q := range all {
		if q.err == nil && q.snap.ByExchangeID == nil && q.query.ExchangeID != "" {
			strayed = append(strayed, q)
		}
	}
	if len(strayed) > 0 {
		if err := put(ctx, to, strayedStatement, strayed); err != nil {
			return err
		}
	}
	for _, q := range all {
		q.settle()
	}
	return nil
}

// put sends the questions and adds the rows to their answers.
func put(ctx context.Context, to sender, stmt *statement, all []*asked) error {
	rows := make([]question, len(all))
	for i, q := range all {
		q.n, q.most = int64(i), q.query.Max()+q.more
		rows[i] = q.question
	}
	a := pgx.NamedArgs{}
	args(a, "q", questionColumns, rows)
	var now time.Time
	b := clocked(&now)
	stmt.queue(b, a).Query(func(rows pgx.Rows) error {
		var n int64
		var kind int
		return read(rows, []any{&n, &kind}, attemptColumns, func(r *attemptRow) error {
			all[n].add(kind, r)
			return nil
		})
	})
	err := send(ctx, to, b)
	for _, q := range all {
		q.snap.Now = now
	}
	return err
}

// add adds a row to the answer.
func (q *asked) add(kind int, r *attemptRow) {
	if kind == rowEnded {
		q.seen++
	}
	a, err := r.attempt()
	switch {
	case err != nil && (kind == rowExchange || kind == rowOpen && q.query.Connection != ""):
		q.err = fmt.Errorf("pgstore: find: %w", err)
	case err != nil:
		q.snap.Corrupt = append(q.snap.Corrupt, store.Corrupt{ID: r.ID, Err: err})
		if kind == rowEnded {
			q.bad++
		}
	case kind == rowExchange:
		q.snap.ByExchangeID = &a
	case kind == rowOpen:
		q.snap.Attempts = append(q.snap.Attempts, a)
	default:
		q.ended = append(q.ended, a)
	}
}

// settle orders the answer: open attempts, then as many of the others as were asked
// for, each newest first.
func (q *asked) settle() {
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
	slices.SortFunc(attempts, func(a, b store.Attempt) int { return strings.Compare(b.ID, a.ID) })
}
