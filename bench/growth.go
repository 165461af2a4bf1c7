package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// grown is what a store of a size does.
type grown struct {
	attempts int
	fileMB   float64
	open     time.Duration
	overview time.Duration // `inspect` without an argument: states, last hour, stuck list
	one      time.Duration // `inspect ID`
	due      time.Duration // the sweeper's look
	rate     float64       // SSO sign-ins per second at 64 users
	anonMB   float64       // memory of the bot's own after that
}

// sizes of the stores.
func sizes() []int { return []int{1_000, 100_000, 1_000_000} }

// month is the retention that the attempts of a grown store are spread over.
const month = 30 * 24 * time.Hour

// growthPart fills bbolt files of growing size and measures what people and
// users see. The sizes take turns, so that a drift of the machine's speed falls
// on all of them alike.
func (b *bench) growthPart(ctx context.Context, r *report) error {
	rates := map[int][]float64{}
	for _, n := range sizes() {
		g, err := b.grow(ctx, n)
		if err != nil {
			return err
		}
		r.growth = append(r.growth, g)
	}
	sso := flows()[0]
	for range b.rounds {
		for i, n := range sizes() {
			one, err := b.start(ctx, kindBolt, fmt.Sprintf("grown%d", n))
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
			r.growth[i].anonMB = max(r.growth[i].anonMB, float64(got.Anon)/(1<<20))
		}
	}
	for i, n := range sizes() {
		r.growth[i].rate = median(rates[n])
	}
	writeGrowth(os.Stdout, r.growth)
	return nil
}

// grow makes a file with n ended attempts and looks at it.
func (b *bench) grow(ctx context.Context, n int) (grown, error) {
	g := grown{attempts: n}
	path := filepath.Join(b.dir, fmt.Sprintf("grown%d.db", n))
	last, err := fill(ctx, path, n)
	if err != nil {
		return g, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return g, err
	}
	g.fileMB = float64(info.Size()) / (1 << 20)
	began := time.Now()
	st, err := boltstore.Open(path)
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

// timed is the median of 21 runs.
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

// fill writes n ended attempts with their trails, spread over a month, in the
// order of time, and returns the last one's id.
func fill(ctx context.Context, path string, n int) (string, error) {
	st, err := boltstore.Open(path, boltstore.WithoutSync())
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

// ended is a sign-in as it lies in the store after it: one in five failed.
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
	if len(all) == 0 {
		return
	}
	_, _ = fmt.Fprintf(w, "\n## Growth (bolt)\n\nAttempts that ended within the last 30 days; medians. The rate is that of SSO sign-ins at 64 users; memory is the bot's own, without the file that bbolt maps.\n\n"+
		"| Attempts | file MB | open | `inspect` | `inspect ID` | sweep | per s | ratio | memory MB |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, g := range all {
		_, _ = fmt.Fprintf(w, "| %d | %.0f | %s | %s | %s | %s | %.0f | %.2f | %.0f |\n", g.attempts, g.fileMB,
			g.open.Round(10*time.Microsecond), g.overview.Round(10*time.Microsecond), g.one.Round(10*time.Microsecond), g.due.Round(time.Microsecond), g.rate, g.rate/all[0].rate, g.anonMB)
	}
}
