package pgstore

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// shards is how many partitions the tests make of a table.
const shards = 4

// distribute partitions the tables of a new schema by hash of home, as a
// distributed database would keep them. The views go.
func distribute(tb testing.TB, dsn string) {
	tb.Helper()
	i := strings.LastIndex(dsn, "schema=")
	sql := `set search_path = ` + strings.Trim(dsn[i+len("schema="):], "'") + `;`
	for _, table := range []string{"attempts", "deliveries", "exchange_ids"} {
		sql += fmt.Sprintf(`create table whole (like %[1]s including all) partition by hash (home); drop table %[1]s cascade; alter table whole rename to %[1]s;`, table)
		for n := range shards {
			sql += fmt.Sprintf(`create table %[1]s_%[2]d partition of %[1]s for values with (modulus %[3]d, remainder %[2]d);`, table, n, shards)
		}
	}
	if err := pgtest.Exec(tb.Context(), dsn[:i-1], sql); err != nil {
		tb.Fatal(err)
	}
}

// TestHashPartitions runs the suites on tables that are partitioned by hash: the
// constraints hold and no query changes.
func TestHashPartitions(t *testing.T) {
	pgtest.Long(t)
	for _, suite := range []func(*testing.T, storetest.New){
		storetest.Semantics, storetest.Uniqueness, storetest.Groups, storetest.Concurrency, storetest.Outbox, storetest.Due, storetest.Lists, storetest.Purge,
	} {
		suite(t, func(t *testing.T) storetest.Harness {
			t.Helper()
			dsn := pgtest.Start(t)
			open := func() *Store {
				s, err := Open(t.Context(), dsn)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				return s
			}
			s := open()
			distribute(t, dsn)
			return storetest.Harness{
				Store: s,
				Second: func(t *testing.T) store.Store {
					t.Helper()
					return open()
				},
			}
		})
	}
}

// node is a node of an explained plan.
type node struct {
	Relation string  `json:"Relation Name"`
	Loops    float64 `json:"Actual Loops"`
	Hit      int     `json:"Shared Hit Blocks"`
	Read     int     `json:"Shared Read Blocks"`
	Plans    []node  `json:"Plans"`
}

var shard = regexp.MustCompile(`_([0-9])$`)

// visit notes the partitions that were looked at, by table.
func (n *node) visit(seen map[string]map[string]bool) {
	if m := shard.FindStringSubmatch(n.Relation); m != nil && n.Loops > 0 {
		table := strings.TrimSuffix(n.Relation, m[0])
		if seen[table] == nil {
			seen[table] = map[string]bool{}
		}
		seen[table][m[1]] = true
	}
	for i := range n.Plans {
		n.Plans[i].visit(seen)
	}
}

// executed explains the statements of a batch, which executes them.
func executed(t *testing.T, conn *pgx.Conn, b *pgx.Batch) (seen map[string]map[string]bool, blocks int, plans string) {
	t.Helper()
	seen = map[string]map[string]bool{}
	for _, q := range b.QueuedQueries {
		var text string
		if err := conn.QueryRow(t.Context(), "explain (analyze, buffers, format json) "+q.SQL, q.Arguments...).Scan(&text); err != nil {
			t.Fatalf("%s: %v", q.SQL, err)
		}
		var out []struct{ Plan node }
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatal(err)
		}
		out[0].Plan.visit(seen)
		blocks += out[0].Plan.Hit + out[0].Plan.Read
		plans += q.SQL + "\n" + text + "\n"
	}
	return seen, blocks, plans
}

// TestOnePartition: every statement of a sign-in looks at one partition of each
// table that it reads, that of the user.
func TestOnePartition(t *testing.T) {
	dsn := pgtest.Start(t)
	s, err := Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	distribute(t, dsn)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pooled, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Release()
	conn := pooled.Conn()
	// Others are there too, in every partition.
	var others []store.Commit
	for n := range 50 {
		a := storetest.NewAttempt(info.Now, fmt.Sprintf("29:%d", n), "graph")
		a.ExchangeID = "ex-" + a.ID
		others = append(others, store.Commit{Put: []store.Attempt{a}, Deliveries: []store.Delivery{storetest.Owed(&a, 1, info.Now)}})
	}
	if err := errorsOf(s.Apply(t.Context(), others)); err != nil {
		t.Fatal(err)
	}
	a := storetest.NewAttempt(info.Now, "29:x", "graph")
	sent := storetest.Next(a, store.CardSent, info.Now)
	sent.ExchangeID = "ex-x"
	done := storetest.Next(sent, store.Complete, info.Now)
	owed := storetest.Owed(&a, 1, info.Now)
	told := owed
	told.Status = store.DeliveryDone
	line := func(a *store.Attempt) []store.Event { return []store.Event{storetest.Line(a, store.None)} }
	user := a.Key.UserKey()
	apply := func(c store.Commit) *pgx.Batch {
		w := &writer{commits: []store.Commit{c}, errs: make([]error, 1)}
		w.plan()
		b := &pgx.Batch{}
		k := catcher{b}
		if err := w.together(t.Context(), k, w.steps[0].levels); err != nil {
			t.Fatal(err)
		}
		return b
	}
	find := func(q store.Query) *pgx.Batch {
		b := &pgx.Batch{}
		one := newAsked(q)
		if err := put(t.Context(), catcher{b}, findStatement, []*asked{one}); err != nil {
			t.Fatal(err)
		}
		b.QueuedQueries = b.QueuedQueries[1:] // but for the clock
		return b
	}
	for _, tc := range []struct {
		what   string
		batch  *pgx.Batch
		tables []string
	}{
		{"an insertion", apply(store.Commit{Put: []store.Attempt{a}, Events: line(&a)}), []string{"attempts"}},
		{"a transition", apply(store.Commit{Put: []store.Attempt{sent}, Events: line(&sent)}), []string{"attempts"}},
		{"the end", apply(store.Commit{Put: []store.Attempt{done}, Events: line(&done), Deliveries: []store.Delivery{owed}}), []string{"attempts"}},
		{"lines", apply(store.Commit{Events: line(&done), User: user}), []string{"attempts"}},
		{"an acknowledgement", apply(store.Commit{Acks: []store.Ack{{Delivery: told}}, User: user}), []string{"deliveries"}},
		{"a sign-out", apply(store.Commit{Put: []store.Attempt{storetest.Next(done, store.Complete, info.Now)}, Drop: []string{a.ID}}), []string{"attempts", "deliveries"}},
		{"a read of a key", find(store.Query{User: user, Connection: "graph"}), []string{"attempts"}},
		{"a read of a user", find(store.Query{User: user}), []string{"attempts"}},
		{"a read of an exchange id", find(store.Query{User: user, Connection: "graph", ExchangeID: "ex-x"}), []string{"attempts", "exchange_ids"}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			seen, _, plans := executed(t, conn, tc.batch)
			if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, tc.tables) {
				t.Errorf("it looks at %v, want %v:\n%s", got, tc.tables, plans)
			}
			all := map[string]bool{}
			for _, partitions := range seen {
				maps.Copy(all, partitions)
			}
			if len(all) > 1 {
				t.Errorf("it looks at the partitions %v, want one:\n%s", seen, plans)
			}
		})
	}
	snap, err := s.Find(t.Context(), store.Query{User: store.UserKey{App: user.App, Channel: user.Channel, User: "29:7"}, ExchangeID: "ex-x"})
	if err != nil || snap.ByExchangeID == nil || snap.ByExchangeID.ID != a.ID {
		t.Errorf("another user's exchange id: %+v, %v", snap.ByExchangeID, err)
	}
}

func errorsOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// catcher keeps a batch instead of sending it.
type catcher struct{ *pgx.Batch }

func (c catcher) SendBatch(_ context.Context, b *pgx.Batch) pgx.BatchResults {
	c.QueuedQueries = append(c.QueuedQueries, b.QueuedQueries...)
	return nothing{}
}

// nothing is the result of what was not sent.
type nothing struct{ pgx.BatchResults }

func (nothing) Close() error { return nil }

// noted keeps the statements that a tracer sees.
type noted struct {
	mu    sync.Mutex
	batch pgx.Batch
}

func (n *noted) note(sql string, args []any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.batch.Queue(sql, args...)
}

func (n *noted) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	n.note(d.SQL, d.Args)
	return ctx
}

func (*noted) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (*noted) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (n *noted) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	n.note(d.SQL, d.Args)
}

func (*noted) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// TestByID: who has an attempt's id and nothing else asks every partition, each by
// its primary key: a few blocks of each, however many rows there are.
func TestByID(t *testing.T) {
	dsn := pgtest.Start(t)
	var seen *noted
	s, err := Open(t.Context(), dsn, WithPoolConfig(func(c *pgxpool.Config) {
		seen = &noted{}
		c.ConnConfig.Tracer = seen
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	distribute(t, dsn)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var owed []store.Delivery
	var commits []store.Commit
	for n := range 400 {
		a := storetest.NewAttempt(info.Now, fmt.Sprintf("29:%d", n), "graph")
		owed = append(owed, storetest.Owed(&a, 1, info.Now))
		commits = append(commits, store.Commit{Put: []store.Attempt{a}, Deliveries: owed[n:]})
	}
	if err := errorsOf(s.Apply(t.Context(), commits)); err != nil {
		t.Fatal(err)
	}
	id := owed[0].Attempt
	for what, call := range map[string]func() error{
		"Get": func() error {
			_, err := s.Get(t.Context(), id)
			return err
		},
		"Changed": func() error {
			_, err := s.versionOf(t.Context(), id)
			return err
		},
		"Claim of one": func() error {
			_, err := s.Claim(t.Context(), store.ClaimQuery{Attempt: id, Owner: "bot-a", Hold: time.Minute, Limit: 1})
			return err
		},
		"AckInTx": func() error {
			_, err := s.heldIn(t.Context(), &owed[1])
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			seen.batch = pgx.Batch{}
			if err := call(); err != nil {
				t.Fatal(err)
			}
			asked := seen.batch
			conn, err := s.pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			partitions, blocks, plans := executed(t, conn.Conn(), &asked)
			t.Logf("%d blocks of %v", blocks, partitions)
			if len(partitions) == 0 || blocks > 8*shards || strings.Contains(plans, "Seq Scan") {
				t.Errorf("%d blocks:\n%s", blocks, plans)
			}
		})
	}
}

// TestPlans: the deliveries of one attempt are found by its key also by plans
// that were made while there were none, since those stay.
func TestPlans(t *testing.T) {
	s, err := Open(t.Context(), pgtest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	all := pgx.NamedArgs{"limit": 1, "owner": "bot-a", "hold": time.Minute, "over": []string{}, "attempt": "id"}
	drop := pgx.NamedArgs{}
	args(drop, "x", dropColumns, make([]attemptRow, 1))
	for name, tc := range map[string]struct {
		sql     string
		args    pgx.NamedArgs
		pending int // uses of the index of all that is pending
	}{
		"claim":        {claimSQL, all, 1},
		"claim of one": {claimOfSQL, all, 0},
		"drop":         {dropSQL, drop, 0},
	} {
		rows, err := s.pool.Query(t.Context(), "explain "+tc.sql, tc.args)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if plan := strings.Join(lines, "\n"); strings.Count(plan, "deliveries_pending") != tc.pending || !strings.Contains(plan, "(attempt = ") {
			t.Errorf("%s:\n%s", name, plan)
		}
	}
}

// TestUpdatesLeaveIndexesAlone: between its insertion and its end no update of an
// attempt writes to an index, whatever changes.
func TestUpdatesLeaveIndexesAlone(t *testing.T) {
	s, err := Open(t.Context(), pgtest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer undo(t.Context(), tx)
	a := storetest.NewAttempt(info.Now, "29:x", "graph")
	var updates, hot int
	for _, to := range []store.State{store.Idle, store.CardSent, store.Exchanging, store.Verifying, store.Complete} {
		if to != store.Idle {
			a = storetest.Next(a, to, info.Now)
			a.CardActivityID, a.ExchangeID, a.Platform = "card", "exchange", "platform of "+string(to)
			a.Lease = store.Lease{Owner: "owner of " + string(to), Until: info.Now.Add(time.Minute), Fence: a.Lease.Fence + 1}
			a.Failure = &store.Failure{Code: "code of " + string(to)}
		}
		w := &writer{commits: []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{storetest.Line(&a, to)}}}, errs: make([]error, 1)}
		w.plan()
		if err := w.together(t.Context(), tx, w.steps[0].levels); err != nil || w.errs[0] != nil {
			t.Fatalf("%s: %v, %v", to, err, w.errs[0])
		}
		was := updates - hot
		err := tx.QueryRow(t.Context(), `select pg_stat_get_xact_tuples_updated('attempts'::regclass), pg_stat_get_xact_tuples_hot_updated('attempts'::regclass)`).Scan(&updates, &hot)
		if err != nil {
			t.Fatal(err)
		}
		if ended := to == store.Complete; (updates-hot > was) != ended {
			t.Errorf("to %s: %d updates, %d of them left the indexes alone", to, updates, hot)
		}
	}
	if updates != 4 {
		t.Errorf("%d updates, want 4", updates)
	}
}
