package pgstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestNotification: a settling commit of one instance wakes a waiter of another
// one, long before it would look for itself.
func TestNotification(t *testing.T) {
	c := pgtest.NewCluster(t)
	dsn := pgtest.Schema(t, c.DSN())
	a, b := mustOpen(t, dsn, pgstore.WithPollInterval(time.Hour)), mustOpen(t, dsn)
	cur := insertOne(t, b)
	// The first who waits starts the listening; until it is up, writes wake
	// nobody, so each try has a write of its own.
	woken := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan error, 1)
		id, version := cur.ID, cur.Version
		go func() { done <- a.Changed(ctx, id, version+1) }()
		for range 2 { // the first may come before the waiter has looked
			cur = storetest.Next(cur, store.CardSent, cur.Entered)
			if err := b.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{cur}}})[0]; err != nil {
				t.Errorf("Apply: %v", err)
			}
		}
		return <-done == nil
	}
	deadline := time.Now().Add(patience)
	for !woken() {
		if time.Now().After(deadline) {
			t.Fatal("nobody was woken")
		}
	}
	// A lost connection comes back.
	if _, err := c.TerminateBackends(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 { // the pools' connections are gone as well
		_, _ = a.Info(t.Context())
		_, _ = b.Info(t.Context())
	}
	for !woken() {
		if time.Now().After(deadline) {
			t.Fatal("nobody was woken after the connection was lost")
		}
	}
}

func insertOne(t *testing.T, s *pgstore.Store) store.Attempt {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatalf("Info: %v", err)
	}
	a := storetest.NewAttempt(info.Now, "29:user", "graph")
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0]; err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return a
}

// TestPolling: without notifications a waiter finds out by looking.
func TestPolling(t *testing.T) {
	dsn := pgtest.Start(t)
	s, other := mustOpen(t, dsn, pgstore.WithPollInterval(20*time.Millisecond)), mustOpen(t, dsn)
	a := insertOne(t, other)
	done := make(chan error, 1)
	go func() { done <- s.Changed(t.Context(), a.ID, 1) }()
	// Exchanging is nothing that anybody waits for: it is not announced.
	if err := other.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{storetest.Next(a, store.Exchanging, a.Entered)}}})[0]; err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Changed: %v", err)
	}
}

// TestCloseWakes: closing ends those who wait.
func TestCloseWakes(t *testing.T) {
	s := mustOpen(t, pgtest.Start(t))
	a := insertOne(t, s)
	done := make(chan error, 1)
	go func() { done <- s.Changed(t.Context(), a.ID, 1) }()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Changed: %v", err)
		}
	case <-time.After(patience):
		t.Error("Changed did not return")
	}
}
