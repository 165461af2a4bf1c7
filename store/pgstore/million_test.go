package pgstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// fillSQL makes so many attempts, evenly over the last thirty days, with two lines
// and a callback each. The newest 200 are open. Some values are rare, and some
// have not been seen for weeks.
const fillSQL = `
set search_path = SCHEMA; set synchronous_commit = off;
create temporary table n as
select i, at, hashtextextended('29:' || i % (ROWS / 10), 0) as home, '29:' || i % (ROWS / 10) as user_id,
  (select string_agg(substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (ms >> (5 * k) & 31)::int + 1, 1), '' order by k desc) from generate_series(0, 9) k)
    || lpad(i::text, 16, '0') as id,
  case when i > ROWS - 200 then 'CardSent' when i % 10 = 0 then 'Failed' else 'Complete' end as state
from (select i, at, (extract(epoch from at) * 1000)::bigint as ms
  from (select i, now() - interval '30 days' * (ROWS - i) / ROWS as at from generate_series(1, ROWS) i) a) b;
insert into attempts (home, version, lines, born, created, entered, ended, due, wake, expires, lease_until, lease_fence, verify_tries, rounds, invokes,
  sso_offered, id, app, channel, user_id, connection, connection_key, state, origin, method, reason, failure_code, tenant, user_aad, user_name,
  conversation_id, conversation_type, platform, lease_owner, exchange_id, card_activity_id, activity_id, supersedes, superseded_by, sso_outcome, detail)
select home, 4, 2, at, at, at, case when state <> 'CardSent' then at end, case when state = 'CardSent' then now() + interval '1 hour' end,
  case when state = 'CardSent' then now() + interval '1 hour' end, at + interval '15 minutes', at, 1, 0, 1, 1, true, id, 'app', 'msteams', user_id,
  c, lower(c), state, 'signin',
  case when state <> 'Complete' then '' when i % (ROWS / 20) = 1 then 'composeExtension' else 'tokenExchange' end,
  case when state <> 'Failed' then '' when i % (ROWS / 20) = 0 then 'operator' else 'expired' end,
  case when state = 'Failed' and i % (ROWS / 20) = 0 then 'rare_code' when state = 'Failed' then 'code' else '' end,
  case when i % (ROWS / 20) = 3 then 'rare' else 'tenant-' || i % 7 end, 'aad-' || i % (ROWS / 10), '',
  'a:' || user_id, 'personal', case when i % (ROWS / 20) = 4 then 'rare' else 'Web' end, case when i < ROWS / 50 then 'old-pod' else 'pod' end,
  'ex-' || i, 'card-' || i, 'activity-' || i, '', '', '', case when state = 'Failed' then '{"failure": {"source": "client"}}'::jsonb else '{"locale": "en-US", "bot_id": "28:app"}' end
from (select *, case when i % (ROWS / 20) = 2 then 'Rare' else 'Graph' end as c from n) n;
insert into events (born, at, home, seq, pos, version, status, duration_us, attempt, instance, kind, "row", from_state, to_state, invoke, activity_id,
  source, code, platform, detail, actor, app, channel, user_id, connection)
select at, at, home, l, 2 * i + l, l, 0, 0, id, 'pod', 'transition', 'B1', 'Idle', 'CardSent', '', '', '', '', 'Web', '', '', '', '', '', ''
from n, generate_series(1, 2) l
union all
select at, at, home, 2 * i, 2 * i, 0, 0, 0, '', 'pod', 'received', '', '', '', 'signin/tokenExchange', '', '', '', 'Web', '', '', 'app', 'msteams', user_id, 'Graph'
from n where i % 100 = 0;
insert into deliveries (home, created, next_at, tries, round, fanout, attempt, kind, status, owner, error)
select home, at, at, 1, 1, false, id, 'complete', case i % (ROWS / 20) when 5 then 'dead' when 6 then 'pending' else 'delivered' end, '', ''
from n where state <> 'CardSent';
insert into exchange_ids select home, 'app', 'ex-' || i, id from n;
`

// blocks counts the blocks that statements read, by explaining each of them.
type blocks struct {
	mu         sync.Mutex
	statements []*pgx.QueuedQuery
}

func (b *blocks) note(sql string, args []any) {
	if strings.HasPrefix(strings.TrimSpace(sql), "select") {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.statements = append(b.statements, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	}
}

func (b *blocks) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	b.note(d.SQL, d.Args)
	return ctx
}

func (*blocks) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (*blocks) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (b *blocks) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	b.note(d.SQL, d.Args)
}

func (*blocks) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// plan is a node of an explained plan.
type plan struct {
	NodeType string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Loops    float64 `json:"Actual Loops"`
	Hit      int     `json:"Shared Hit Blocks"`
	Read     int     `json:"Shared Read Blocks"`
	Plans    []plan  `json:"Plans"`
}

// explain runs a statement and returns its plan.
func explain(t *testing.T, conn *pgx.Conn, sql string, args []any) (plan, string) {
	t.Helper()
	var text string
	if err := conn.QueryRow(t.Context(), "explain (analyze, buffers, format json) "+sql, args...).Scan(&text); err != nil {
		t.Fatalf("explain %s: %v", sql, err)
	}
	var out []struct{ Plan plan }
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out[0].Plan, text
}

// TestMillion: what an operator asks costs what it returns, however much there
// is. It counts blocks and not seconds. SIGNIN_ROWS=1000000 makes it as many
// attempts as its name says; otherwise it has fewer, and as much less may be read.
func TestMillion(t *testing.T) {
	pgtest.Long(t)
	rows, most := 50_000, 5_000
	if n, err := strconv.Atoi(os.Getenv("SIGNIN_ROWS")); err == nil {
		rows, most = n, 20_000
	}
	dsn := pgtest.Start(t)
	seen := &blocks{}
	s := mustOpen(t, dsn, pgstore.WithPoolConfig(func(c *pgxpool.Config) { c.ConnConfig.Tracer = seen }))
	began := time.Now()
	mustExec(t, dsn, strings.ReplaceAll(fillSQL, "ROWS", fmt.Sprint(rows)))
	for _, table := range []string{"attempts", "events", "deliveries", "exchange_ids"} {
		mustExec(t, dsn, `vacuum analyze SCHEMA.`+table)
	}
	server, schema := split(dsn)
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	_, err = conn.Exec(t.Context(), `set search_path = `+schema+`; set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
		set jit = off; set random_page_cost = 1; set plan_cache_mode = force_custom_plan`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	var size string
	if err := conn.QueryRow(t.Context(), `select pg_size_pretty(pg_database_size(current_database()))`).Scan(&size); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d attempts in %s, a database of %s", rows, time.Since(began).Round(time.Second), size)
	reader := operator.NewDirect(s, operator.DefaultRules(), operator.Info{})
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end, err := s.Trail(t.Context(), store.TrailQuery{Since: info.Now})
	if err != nil {
		t.Fatal(err)
	}
	list := func(q operator.Query, want int) func() (int, int, error) {
		return func() (int, int, error) {
			page, err := reader.List(t.Context(), q)
			return len(page.Attempts), want, err
		}
	}
	search := func(id string, want int) func() (int, int, error) {
		return func() (int, int, error) {
			page, err := reader.Search(t.Context(), id)
			return len(page.Attempts), want, err
		}
	}
	day := info.Now.Add(-24 * time.Hour)
	for _, tc := range []struct {
		command string
		run     func() (got, want int, err error)
	}{
		{"inspect, inspect --check", func() (int, int, error) {
			o, err := reader.Overview(t.Context())
			return o.Owed + o.Dead, 40, err
		}},
		{"list", list(operator.Query{}, 50)},
		{"list --stuck", list(operator.Query{Stuck: true, Limit: 1000}, 40)},
		{"list --state CardSent", list(operator.Query{States: []store.State{store.CardSent}, Limit: 1000}, 200)},
		{"list --state Failed", list(operator.Query{States: []store.State{store.Failed}}, 50)},
		{"list --state Exchanging,Failed", list(operator.Query{States: []store.State{store.Exchanging, store.Failed}}, 50)},
		{"list --state CardSent --age-gt 2m", list(operator.Query{States: []store.State{store.CardSent}, AgeGT: 2 * time.Minute}, 50)},
		{"list --age-gt 480h", list(operator.Query{AgeGT: 480 * time.Hour}, 50)},
		{"list --user", list(operator.Query{User: "29:77"}, 10)},
		{"list --user, by object id", list(operator.Query{User: "AAD-77"}, 10)},
		{"list --user, nobody", list(operator.Query{User: "29:nobody"}, 0)},
		{"list --connection", list(operator.Query{Connection: "graph"}, 50)},
		{"list --connection, rare", list(operator.Query{Connection: "rare"}, 20)},
		{"list --tenant", list(operator.Query{Tenant: "tenant-3"}, 50)},
		{"list --tenant, rare", list(operator.Query{Tenant: "rare"}, 20)},
		{"list --tenant, none", list(operator.Query{Tenant: "none"}, 0)},
		{"list --conversation", list(operator.Query{Conversation: "a:29:77"}, 10)},
		{"list --reason", list(operator.Query{Reason: store.ReasonExpired}, 50)},
		{"list --reason, rare", list(operator.Query{Reason: store.ReasonOperator}, 19)},
		{"list --failure-code", list(operator.Query{FailureCode: "rare_code"}, 19)},
		{"list --method", list(operator.Query{Method: store.MethodTokenExchange}, 50)},
		{"list --method, rare", list(operator.Query{Method: store.MethodCompose}, 20)},
		{"list --platform", list(operator.Query{Platform: "Web"}, 50)},
		{"list --platform, rare", list(operator.Query{Platform: "rare"}, 20)},
		{"list --instance, of weeks ago", list(operator.Query{Instance: "old-pod"}, 50)},
		{"list --since", list(operator.Query{Since: day}, 50)},
		{"list --since --until, old", list(operator.Query{Since: info.Now.Add(-480 * time.Hour), Until: info.Now.Add(-479 * time.Hour)}, 50)},
		{"list --since, the last page", list(operator.Query{Since: info.Now.Add(-time.Minute)}, 0)},
		{"list, two filters", list(operator.Query{Tenant: "tenant-3", Reason: store.ReasonExpired}, 50)},
		{"inspect ID", func() (int, int, error) {
			page, err := reader.List(t.Context(), operator.Query{Limit: 1})
			if err != nil {
				return 0, 0, err
			}
			d, err := reader.Get(t.Context(), page.Attempts[0].ID)
			return len(d.Events), 2, err
		}},
		{"inspect, an exchange id", search("ex-4711", 1)},
		{"inspect, a card", search("card-4711", 1)},
		{"inspect, an activity", search("activity-4711", 1)},
		{"inspect, what nobody knows", search("who-knows", 0)},
		{"export --since, a page", func() (int, int, error) {
			page, err := reader.List(t.Context(), operator.Query{Since: day, Limit: 500})
			return len(page.Attempts), 500, err
		}},
		{"watch --events, one look", func() (int, int, error) {
			page, err := reader.Events(t.Context(), operator.EventQuery{Cursor: end.Next})
			return len(page.Events), 0, err
		}},
		{"watch --events --since", func() (int, int, error) {
			page, err := reader.Events(t.Context(), operator.EventQuery{Since: day, Limit: 500})
			return len(page.Events), 500, err
		}},
		{"orphans", func() (int, int, error) {
			page, err := reader.Events(t.Context(), operator.EventQuery{Orphans: true, Since: day})
			return len(page.Events), min(rows/3000, 1000), err // a page has a thousand at most
		}},
		{"purge --dry-run", func() (int, int, error) {
			n, err := s.Purge(t.Context(), info.Now.Add(-29*24*time.Hour), 1000, true)
			return n, 1000, err
		}},
	} {
		t.Run(tc.command, func(t *testing.T) {
			seen.statements = nil
			got, want, err := tc.run()
			if err != nil || got < want {
				t.Errorf("%d, %v; want %d", got, err, want)
			}
			statements := seen.statements
			sum, worst, text := 0, 0, ""
			for _, q := range statements {
				p, plan := explain(t, conn, q.SQL, q.Arguments)
				if sum += p.Hit + p.Read; p.Hit+p.Read > worst {
					worst, text = p.Hit+p.Read, q.SQL+"\n"+plan
				}
			}
			t.Logf("%d blocks", sum)
			if sum > most {
				t.Errorf("it reads %d blocks, want at most %d. The worst:\n%s", sum, most, text)
			}
		})
	}
	t.Run("console", func(t *testing.T) { consolePages(t, reader) })
}

// consolePages loads the pages that people look at most, through the console's own
// handler. How long that takes is in the test's log.
func consolePages(t *testing.T, reader operator.Reader) {
	t.Helper()
	newest, err := reader.List(t.Context(), operator.Query{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	console := operator.NewHandler(operator.HandlerConfig{Reader: reader, Log: zerolog.Nop()})
	for _, path := range []string{"/", "/attempts", "/attempts/" + newest.Attempts[0].ID, "/users/29:77", "/connections/graph"} {
		took := make([]time.Duration, 21)
		for i := range took {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, http.NoBody)
			req.Header.Set("Accept", "text/html")
			page := httptest.NewRecorder()
			began := time.Now()
			console.ServeHTTP(page, req)
			took[i] = time.Since(began)
			if page.Code != http.StatusOK || !strings.Contains(page.Body.String(), "</html>") {
				t.Fatalf("%s: %d %s", path, page.Code, page.Body)
			}
		}
		slices.Sort(took)
		t.Logf("%-40s median %s, slowest %s", path, took[10].Round(10*time.Microsecond), took[20].Round(10*time.Microsecond))
	}
}
