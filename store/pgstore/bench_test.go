package pgstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// signIn is the six commits of one sign-in by SSO.
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
	user := a.Key.UserKey()
	return append(commits,
		store.Commit{Acks: []store.Ack{{Delivery: ack}}, User: user},
		store.Commit{Events: []store.Event{up, note}, User: user})
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
			if i%6 == 0 {
				group = group[:0]
				for range size {
					group = append(group, signIn(info, n))
					n++
				}
			}
			commits := make([]store.Commit, size)
			for j := range commits {
				commits[j] = group[j][i%6]
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
				s.run(ctx, w, group{levels: levels})
				return w.errs
			})
		})
	}
}

// BenchmarkSignIn is 64 users who sign in at the same time, each with the six
// commits and three reads of a sign-in, through a [store.Group]. The last two
// are waited for by nobody.
func BenchmarkSignIn(b *testing.B) {
	s, err := Open(b.Context(), pgtest.Start(b))
	if err != nil {
		b.Fatal(err)
	}
	g := store.NewGroup(s)
	defer func() { _ = g.Close() }()
	info, err := g.Info(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	const users = 64
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range users {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				commits := signIn(info, int(n))
				for i, c := range commits {
					if i >= len(commits)-2 {
						g.Later(b.Context(), c)
						continue
					}
					if i != 1 {
						if _, err := g.Find(b.Context(), store.Query{User: store.UserKey{App: storetest.App, Channel: "msteams", User: fmt.Sprintf("29:user-%d", n)}, Connection: "graph"}); err != nil {
							b.Error(err)
							return
						}
					}
					if err := g.Commit(b.Context(), c); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sign-ins/s")
}
