package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestFindInCompany: reads that go together have the answers that each has
// alone.
func TestFindInCompany(t *testing.T) {
	s := mustOpen(t, pgtest.Start(t))
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var commits []store.Commit
	var questions []store.Query
	for n := range 10 {
		user := fmt.Sprintf("29:%d", n)
		for i := range n {
			a := storetest.NewAttempt(info.Now, user, fmt.Sprintf("graph-%d", i%4))
			a.ExchangeID = fmt.Sprintf("ex-%d-%d", n, i)
			commits = append(commits, store.Commit{Put: []store.Attempt{a}})
			if i < 6 { // the last of each connection stays open
				commits = append(commits, store.Commit{Put: []store.Attempt{storetest.Next(a, store.Failed, info.Now)}})
			}
		}
		key := store.UserKey{App: storetest.App, Channel: "msteams", User: user}
		questions = append(questions,
			store.Query{User: key},
			store.Query{User: key, Limit: 2},
			store.Query{User: key, Connection: "Graph-3"},
			store.Query{User: key, Connection: "graph-1", ExchangeID: fmt.Sprintf("ex-%d-0", n)},
			store.Query{ExchangeID: fmt.Sprintf("ex-%d-1", n), User: store.UserKey{App: storetest.App}},
		)
	}
	for i, err := range s.Apply(t.Context(), commits) {
		if err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
	find := func(q store.Query) store.Snapshot {
		snap, err := s.Find(t.Context(), q)
		if err != nil {
			t.Errorf("Find %+v: %v", q, err)
		}
		snap.Now = time.Time{}
		return snap
	}
	want := make([]store.Snapshot, len(questions))
	found := 0
	for i, q := range questions {
		want[i] = find(q)
		found += len(want[i].Attempts)
	}
	if found == 0 {
		t.Fatal("nothing is there")
	}
	var wg sync.WaitGroup
	for range 4 {
		for i, q := range questions {
			wg.Go(func() {
				if diff := cmp.Diff(want[i], find(q)); diff != "" {
					t.Errorf("%+v (-alone +together):\n%s", q, diff)
				}
			})
		}
	}
	wg.Wait()
}

// TestFindCalledOff: a reader whose context ends is told so at once, be it the
// one who asks for the others; the others have their answers.
func TestFindCalledOff(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	a := insertOne(t, s)
	server, schema := split(dsn)
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	// Reads wait for nothing but this.
	if _, err := conn.Exec(t.Context(), `begin; lock table `+schema+`.attempts`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	q := store.Query{User: a.Key.UserKey(), Connection: a.Key.Connection}
	find := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			snap, err := s.Find(ctx, q)
			if err == nil && (len(snap.Attempts) != 1 || snap.Attempts[0].ID != a.ID) {
				err = fmt.Errorf("found %+v", snap)
			}
			done <- err
		}()
		return done
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	asker := find(short)
	time.Sleep(100 * time.Millisecond) // the next ones gather behind it
	waiter, patient := find(short), []chan error{find(t.Context()), find(t.Context()), find(t.Context())}
	for name, c := range map[string]chan error{"who asks": asker, "who waits": waiter} {
		if err := <-c; !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want its context's error", name, err)
		}
	}
	if _, err := conn.Exec(t.Context(), `rollback`); err != nil {
		t.Fatal(err)
	}
	for _, c := range patient {
		if err := <-c; err != nil {
			t.Errorf("who was patient: %v", err)
		}
	}
}

// TestFindFailsAlike: where the read fails, it fails for everyone who is part
// of it.
func TestFindFailsAlike(t *testing.T) {
	s := mustOpen(t, pgtest.Start(t), pgstore.WithStatementTimeout(time.Second))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := s.Find(t.Context(), store.Query{}); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Find: %v, want ErrUnavailable", err)
			}
		})
	}
	wg.Wait()
}
