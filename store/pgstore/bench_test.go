package pgstore

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// signIn is the five commits of one sign-in by SSO.
func signIn(info store.Info, n int) []store.Commit {
	at := info.Now
	a := storetest.NewAttempt(at, fmt.Sprintf("29:user-%d", n), "graph")
	note := store.Event{Attempt: a.ID, Kind: store.EventReceived, Time: at, Instance: "bot-a", Invoke: "signin/tokenExchange", Activity: "f:1234-5678", Platform: "Web"}
	up := store.Event{Attempt: a.ID, Kind: store.EventUpstream, Time: at, Instance: "bot-a", Invoke: "GetSignInResource", Status: 200, Duration: 1200000}
	commits := []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{note, up, storetest.Line(&a, store.None)}}}
	a.ExchangeID = "ex-" + a.ID
	for _, to := range []store.State{store.CardSent, store.Exchanging, store.Complete} {
		from := a.State
		a = storetest.Next(a, to, at)
		c := store.Commit{Put: []store.Attempt{a}, Events: []store.Event{up, note, storetest.Line(&a, from)}}
		if to == store.Complete {
			c.Deliveries = []store.Delivery{storetest.Owed(&a, 1, at)}
		}
		commits = append(commits, c)
	}
	ack := storetest.Owed(&a, 1, at)
	ack.Status = store.DeliveryDone
	return append(commits, store.Commit{Events: []store.Event{up, note}, Deliveries: []store.Delivery{ack}})
}

// BenchmarkApply writes sign-ins side by side, a group of commits per call.
// commits/s is what counts.
func BenchmarkApply(b *testing.B) {
	write := func(b *testing.B, size int, apply func(context.Context, *Store, []store.Commit) []error) {
		b.Helper()
		s, err := Open(b.Context(), pgtest.Start(b))
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		info, err := s.Info(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		var group [][]store.Commit
		b.ResetTimer()
		for i := 0; b.Loop(); i++ {
			if i%5 == 0 {
				group = group[:0]
				for range size {
					group = append(group, signIn(info, n))
					n++
				}
			}
			commits := make([]store.Commit, size)
			for j := range commits {
				commits[j] = group[j][i%5]
			}
			for _, err := range apply(b.Context(), s, commits) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "commits/s")
	}
	for _, size := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprintf("group=%d", size), func(b *testing.B) {
			write(b, size, func(ctx context.Context, s *Store, commits []store.Commit) []error { return s.Apply(ctx, commits) })
		})
		// The alternative: a statement per commit, in one transaction and one
		// round trip all the same.
		b.Run(fmt.Sprintf("pipelined=%d", size), func(b *testing.B) {
			write(b, size, func(ctx context.Context, s *Store, commits []store.Commit) []error {
				w := &writer{commits: commits, errs: make([]error, len(commits))}
				w.plan()
				var levels [][]int
				for i := range commits {
					levels = append(levels, []int{i})
				}
				if err := s.use(ctx, "apply", func(ctx context.Context, conn *pgxpool.Conn) error { return w.together(ctx, conn, levels) }); err != nil {
					w.all(err)
				}
				s.tell(ctx, w)
				return w.errs
			})
		})
	}
}
