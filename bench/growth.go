package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// grown is the performance of a store with a number of attempts.
type grown struct {
	kind     string
	attempts int
	sizeMB   float64 // of the file, or of the tables with their indexes
	open     time.Duration
	overview time.Duration // `inspect` without an argument: states, the last hour, the stuck list
	one      time.Duration // `inspect ID`
	due      time.Duration // one look of the sweeper
	rate     float64       // SSO sign-ins per second at 64 users
	anonMB   float64       // the bot's own memory afterwards
}

// sizes returns the numbers of attempts in the stores to be measured.
func sizes(kind string) []int {
	if kind == kindPostgres { // a million would take longer to write than the rest of the run
		return []int{1_000, 100_000}
	}
	return []int{1_000, 100_000, 1_000_000}
}

// month is the period over which the attempts of a store are spread.
const month = 30 * 24 * time.Hour

// growthPart fills stores of growing size and measures what people and users
// experience. The sizes take turns, so that a change in the machine's speed
// affects all of them.
func (b *bench) growthPart(ctx context.Context, r *report) error {
	for _, kind := range []string{kindBolt, kindPostgres} {
		if !slices.Contains(b.kinds, kind) {
			continue
		}
		if err := b.growthOf(ctx, r, kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

func (b *bench) growthOf(ctx context.Context, r *report, kind string) error {
	all := make([]grown, 0, len(sizes(kind)))
	rates := map[int][]float64{}
	for _, n := range sizes(kind) {
		g, err := b.grow(ctx, kind, n)
		if err != nil {
			return err
		}
		all = append(all, g)
	}
	sso := flows()[0]
	for range b.rounds {
		for i, n := range sizes(kind) {
			one, err := b.start(ctx, kind, fmt.Sprintf("grown%d", n))
			if err != nil {
				return err
			}
			got, err := load(ctx, b.emu, []*bot{one}, sso, 64, b.duration)
			b.emu.Reset()
			if stopped := one.stop(); err == nil {
				err = stopped
			}
			if err != nil {
				return err
			}
			rates[n] = append(rates[n], got.perSecond())
			all[i].anonMB = max(all[i].anonMB, float64(got.Anon)/(1<<20))
		}
	}
	for i, n := range sizes(kind) {
		all[i].rate = median(rates[n])
	}
	writeGrowth(os.Stdout, all)
	r.growth = append(r.growth, all)
	return nil
}

// grow makes a store with n ended attempts and measures the reads.
func (b *bench) grow(ctx context.Context, kind string, n int) (grown, error) {
	g := grown{kind: kind, attempts: n}
	where := b.where(kind, fmt.Sprintf("grown%d", n))
	last, err := fill(ctx, kind, where, n)
	if err != nil {
		return g, err
	}
	if g.sizeMB, err = b.size(ctx, kind, where, n); err != nil {
		return g, err
	}
	began := time.Now()
	st, err := openStore(ctx, kind, where)
	if err != nil {
		return g, err
	}
	g.open = time.Since(began)
	defer func() { _ = st.Close() }()
	direct := operator.NewDirect(st, operator.DefaultRules(), operator.Info{})
	g.overview, err = timed(func() error { _, err := direct.Overview(ctx); return err })
	if err != nil {
		return g, err
	}
	g.one, err = timed(func() error { _, err := direct.Get(ctx, last); return err })
	if err != nil {
		return g, err
	}
	g.due, err = timed(func() error { _, err := st.Due(ctx, 100, time.Second); return err })
	return g, err
}

// size returns the size of a store on disk, in MB.
func (b *bench) size(ctx context.Context, kind, where string, n int) (float64, error) {
	if kind == kindBolt {
		info, err := os.Stat(where)
		if err != nil {
			return 0, err
		}
		return float64(info.Size()) / (1 << 20), nil
	}
	conn, err := pgx.Connect(ctx, b.dsn)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	var bytes int64
	err = conn.QueryRow(ctx, `select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_class c
		join pg_namespace s on s.oid = c.relnamespace where c.relkind = 'r' and s.nspname = $1`, fmt.Sprintf("bench_grown%d", n)).Scan(&bytes)
	return float64(bytes) / (1 << 20), err
}

// timed returns the median of 21 runs.
func timed(f func() error) (time.Duration, error) {
	var all []time.Duration
	for range 21 {
		began := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// fill writes n ended attempts with their trails, in the order of time and spread
// over a month. It returns the id of the last one.
func fill(ctx context.Context, kind, where string, n int) (string, error) {
	st, err := openStore(ctx, kind, where)
	if err != nil {
		return "", err
	}
	defer func() { _ = st.Close() }()
	const batch = 500
	start, step := time.Now().Add(-month), month/time.Duration(n)
	var id string
	for done := 0; done < n; done += batch {
		commits := make([]store.Commit, 0, batch)
		for i := done; i < min(done+batch, n); i++ {
			c := ended(start.Add(time.Duration(i)*step), i)
			id = c.Put[0].ID
			commits = append(commits, c)
		}
		for _, err := range st.Apply(ctx, commits) {
			if err != nil {
				return "", err
			}
		}
	}
	return id, nil
}

// ended is a finished sign-in as it is stored. One in five has failed.
func ended(at time.Time, i int) store.Commit {
	at = store.Time(at)
	id := ulid.MustNew(ulid.Timestamp(at), ulid.DefaultEntropy()).String()
	user := fmt.Sprintf("29:user-%d", i)
	a := store.Attempt{
		ID: id, Version: 1, State: store.Complete, Method: store.MethodTokenExchange, Origin: store.OriginSignIn,
		Key:        store.Key{App: appID, Channel: "msteams", User: user, Connection: connection},
		ExchangeID: "exchange-" + id, SSOOffered: true, CardActivityID: "1776827524158", Rounds: 1, Invokes: 1, Calls: 1,
		Conversation: store.Conversation{
			ServiceURL: "https://smba.trafficmanager.net/amer/", Channel: "msteams", ID: "a:1" + id, Type: "personal",
			Tenant: "3f3d1cea-7a18-41af-872b-cfbbd5140984", BotID: "28:" + appID, UserID: user, UserAAD: "aad-" + user,
		},
		Platform: "Web", Created: at, Entered: at, Expires: at.Add(15 * time.Minute), TokenMark: []byte("0123456789abcdef"),
	}
	c := store.Commit{Put: []store.Attempt{a}}
	if i%5 == 0 {
		c.Put[0].State, c.Put[0].Method, c.Put[0].Reason = store.Failed, "", store.ReasonExpired
	} else {
		c.Deliveries = []store.Delivery{{
			DeliveryKey: store.DeliveryKey{Attempt: id, Kind: store.DeliverComplete, Round: 1},
			Status:      store.DeliveryDone, Tries: 1, Created: at, NextAt: at,
		}}
	}
	for _, kind := range []store.EventKind{
		store.EventReceived, store.EventUpstream, store.EventTransition, store.EventUpstream, store.EventTransition,
		store.EventUpstream, store.EventTransition, store.EventReceived, store.EventTransition, store.EventUpstream,
		store.EventTransition, store.EventCallback, store.EventAnswer,
	} {
		c.Events = append(c.Events, store.Event{
			Attempt: id, Time: at, Instance: "bot-a", Kind: kind, Row: "B2", Invoke: "signin/tokenExchange", Status: 200, Duration: time.Millisecond,
		})
	}
	return c
}

func writeGrowth(w io.Writer, all []grown) {
	_, _ = fmt.Fprintf(w, "\n## Growth (%s)\n\nAttempts that ended within the last 30 days; medians. The rate is that of SSO sign-ins at 64 users; memory is the bot's own, without the file that bbolt maps.\n\n"+
		"| Attempts | on disk MB | open | `inspect` | `inspect ID` | sweep | per s | ratio | memory MB |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n", all[0].kind)
	for _, g := range all {
		_, _ = fmt.Fprintf(w, "| %d | %.0f | %s | %s | %s | %s | %.0f | %.2f | %.0f |\n", g.attempts, g.sizeMB,
			g.open.Round(10*time.Microsecond), g.overview.Round(10*time.Microsecond), g.one.Round(10*time.Microsecond), g.due.Round(time.Microsecond), g.rate, g.rate/all[0].rate, g.anonMB)
	}
}
