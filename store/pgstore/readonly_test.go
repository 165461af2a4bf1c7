package pgstore_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
)

// What was opened for reading reads, also where no bot has been yet, and
// changes nothing.
func TestReadOnly(t *testing.T) {
	dsn := pgtest.Start(t)
	if _, err := pgstore.Open(t.Context(), dsn, pgstore.WithReadOnly()); !errors.Is(err, store.ErrSchema) {
		t.Fatalf("Open of nothing: %v, want ErrSchema", err)
	}
	if _, err := pgstore.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dsn, pgstore.WithReadOnly())
	if page, err := s.List(t.Context(), store.Filter{}); err != nil || len(page.Attempts) != 0 {
		t.Errorf("List = %+v, %v", page, err)
	}
	if _, err := s.Counts(t.Context(), time.Now()); err != nil {
		t.Errorf("Counts: %v", err)
	}
	if _, err := s.Info(t.Context()); err != nil {
		t.Errorf("Info: %v", err)
	}
	commit := store.Commit{Events: []store.Event{{Kind: store.EventNote, Time: time.Now()}}}
	if err := s.Apply(t.Context(), []store.Commit{commit})[0]; !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Apply: %v, want ErrReadOnly", err)
	}
	if _, err := s.Purge(t.Context(), time.Now(), 1, false); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Purge: %v, want ErrReadOnly", err)
	}
}

func TestCheck(t *testing.T) {
	for dsn, ok := range map[string]bool{
		"postgres://bot:hunter2@db/bots":                                   true,
		"postgres://bot:hunter2@db/bots?schema=a":                          true,
		"postgres://bot:hunter2@db:port/bots":                              false,
		"postgres://bot:hunter2@db/bots?schema=" + strings.Repeat("a", 51): false,
	} {
		err := pgstore.Check(dsn)
		if (err == nil) != ok {
			t.Errorf("%s: %v", dsn, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a password is in %q", err)
		}
	}
}

// A server that takes connections and says nothing does not keep Open waiting.
func TestSilentServer(t *testing.T) {
	pgtest.Long(t)
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	begun := time.Now()
	_, err = pgstore.Open(t.Context(), "postgres://bot@"+l.Addr().String()+"/bots?sslmode=disable")
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Open: %v, want ErrUnavailable", err)
	}
	if took := time.Since(begun); took > 2*pgstore.DefaultConnectTimeout {
		t.Errorf("it took %s", took)
	}
}
