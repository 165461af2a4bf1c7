package boltstore_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// signIn is the five commits of one SSO sign-in.
func signIn(n int) []store.Commit {
	at := time.Now()
	a := storetest.NewAttempt(at, fmt.Sprintf("29:1cgsv4oSZpxE0AlUd3BvQNN5HKVWHxLUNP4fzlEJbgr2%012d", n), "teamsgraph")
	line := func(kind store.EventKind, what string) store.Event {
		return store.Event{Attempt: a.ID, Time: at, Instance: "bot-a", Kind: kind, Row: "A3", Invoke: what, Status: 200, Duration: 80 * time.Millisecond}
	}
	commits := []store.Commit{{
		Put: []store.Attempt{a}, Events: []store.Event{line(store.EventReceived, "message"), line(store.EventUpstream, "GetToken")},
	}}
	step := func(to store.State, change func()) *store.Commit {
		from := a.State
		a = storetest.Next(a, to, at)
		change()
		commits = append(commits, store.Commit{Put: []store.Attempt{a}, Events: []store.Event{storetest.Line(&a, from), line(store.EventUpstream, "call")}})
		return &commits[len(commits)-1]
	}
	step(store.Idle, func() { a.ExchangeID, a.SSOOffered = "fc67c57e-"+a.ID, true })
	step(store.CardSent, func() { a.CardActivityID = "1776827524158" })
	step(store.Exchanging, func() { a.Lease.Fence++; a.TokenMark = make([]byte, 16) })
	last := step(store.Complete, func() { a.Lease = store.Lease{Fence: a.Lease.Fence} })
	last.Deliveries = []store.Delivery{storetest.Owed(&a, 1, at.Add(time.Minute))}
	return commits
}

// BenchmarkApply is one group of commits per iteration, each of another sign-in,
// on a store that already has ten thousand.
func BenchmarkApply(b *testing.B) {
	for _, sync := range []bool{true, false} {
		for _, size := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("sync=%v/group=%d", sync, size), func(b *testing.B) {
				benchmarkApply(b, size, sync)
			})
		}
	}
}

func benchmarkApply(b *testing.B, size int, sync bool) {
	b.Helper()
	var opts []boltstore.Option
	if !sync {
		opts = append(opts, boltstore.WithoutSync())
	}
	s, err := boltstore.Open(filepath.Join(b.TempDir(), "signin.db"), opts...)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	users := 0
	apply := func(group []store.Commit) {
		for _, err := range s.Apply(b.Context(), group) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	for range 20 {
		var group []store.Commit
		for range 500 {
			users++
			group = append(group, signIn(users)...)
		}
		apply(group)
	}
	var running [][]store.Commit
	commits := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if len(running) == 0 {
			for range size {
				users++
				running = append(running, signIn(users))
			}
		}
		var group []store.Commit
		for i := range running {
			group = append(group, running[i][0])
			running[i] = running[i][1:]
		}
		if len(running[0]) == 0 {
			running = nil
		}
		commits += len(group)
		b.StartTimer()
		apply(group)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(commits), "µs/commit")
	b.ReportMetric(float64(commits)/5/b.Elapsed().Seconds(), "sign-ins/s")
}

// BenchmarkFind is the engine's read for a user that the store does not know
// (a silent hit) and for one whose card was sent.
func BenchmarkFind(b *testing.B) {
	s, err := boltstore.Open(filepath.Join(b.TempDir(), "signin.db"), boltstore.WithoutSync())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var open store.Attempt
	for n := range 5000 {
		commits := signIn(n)
		if n%10 == 0 {
			commits = commits[:3]
		}
		open = commits[len(commits)-1].Put[0]
		for _, err := range s.Apply(b.Context(), commits) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	for name, q := range map[string]store.Query{
		"unknown": {User: store.UserKey{App: open.Key.App, Channel: "msteams", User: "29:nobody"}, Connection: open.Key.Connection},
		"open":    {User: open.Key.UserKey(), Connection: open.Key.Connection, ExchangeID: open.ExchangeID},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Find(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
