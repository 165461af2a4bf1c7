package boltstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/storetest"
)

func insert(t *testing.T, s store.Store, n int) store.Attempt {
	t.Helper()
	a := storetest.NewAttempt(time.Now(), fmt.Sprint("29:", n), "graph")
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0]; err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return a
}

func TestOpenRefusals(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := filepath.Join(dir, "foreign")
	db, err := bbolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("somebody's"))
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer")
	if err := mustOpen(t, newer).Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = bbolt.Open(newer, 0o600, nil); err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("77")) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	readOnly := []boltstore.Option{boltstore.WithReadOnly()}
	for _, tc := range []struct {
		name string
		path string
		opts []boltstore.Option
		want error
		text string
	}{
		{"short text", write("short", []byte("hello")), nil, store.ErrCorrupt, "no bbolt database"},
		{"long text", write("long", []byte(strings.Repeat("not a database\n", 10000))), nil, store.ErrCorrupt, "no bbolt database"},
		{"read-only: text", write("ro", []byte("hello")), readOnly, store.ErrCorrupt, "no bbolt database"},
		{"read-only: empty", write("empty", nil), readOnly, store.ErrSchema, "empty"},
		{"read-only: missing", filepath.Join(dir, "missing"), readOnly, fs.ErrNotExist, "missing"},
		{"missing directory", filepath.Join(dir, "no", "file"), nil, fs.ErrNotExist, "no"},
		{"another program's", foreign, nil, store.ErrSchema, "another program"},
		{"another format", newer, nil, store.ErrSchema, `file format "77", this program has 6`},
		{"read-only: another format", newer, readOnly, store.ErrSchema, "77"},
		{"a directory", dir, nil, nil, "is a directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := boltstore.Open(tc.path, tc.opts...)
			if err == nil {
				t.Fatalf("opened; Close: %v", s.Close())
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("Open: %v, want %v", err, tc.want)
			}
			if !strings.Contains(err.Error(), tc.text) || !strings.Contains(err.Error(), tc.path) {
				t.Errorf("Open: %q does not say %q", err, tc.text)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("opening a missing file for reading made one")
	}
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.db")
	s := mustOpen(t, path)
	for _, opts := range [][]boltstore.Option{nil, {boltstore.WithReadOnly()}} {
		start := time.Now()
		_, err := boltstore.Open(path, opts...)
		if !errors.Is(err, store.ErrLocked) {
			t.Errorf("Open: %v, want ErrLocked", err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("it took %v to say so", d)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path, boltstore.WithLockTimeout(time.Millisecond))
}

func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.db")
	w := mustOpen(t, path, boltstore.WithMode(0o640))
	a := insert(t, w, 1)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^0o640 != 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	s, again := mustOpen(t, path, boltstore.WithReadOnly()), mustOpen(t, path, boltstore.WithReadOnly())
	for _, s := range []*boltstore.Store{s, again} {
		if snap, err := s.Get(t.Context(), a.ID); err != nil || len(snap.Attempts) != 1 {
			t.Errorf("Get: %v", err)
		}
	}
	if err := s.Apply(t.Context(), []store.Commit{{}})[0]; !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Apply: %v", err)
	}
	if _, err := s.Due(t.Context(), 1, 0); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Due: %v", err)
	}
	if _, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "x", Limit: 1}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Claim: %v", err)
	}
	if err := s.Probe(t.Context()); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Probe: %v", err)
	}
	if store.IsExclusive(s) || !store.IsExclusive(store.NewGroup(w)) {
		t.Error("a store belongs to one process when it is open for writing, and not when it is open for reading")
	}
	if _, err := s.Purge(t.Context(), time.Now(), 1, false); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Purge: %v", err)
	}
	if _, err := s.Purge(t.Context(), time.Now(), 1, true); err != nil {
		t.Errorf("dry Purge: %v", err)
	}
}

func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, filepath.Join(dir, "signin.db"))
	a := insert(t, s, 1)
	var copied bytes.Buffer
	// The store is written to while the copy runs; the copy does not have it.
	w := writerFunc(func(b []byte) (int, error) {
		if copied.Len() == 0 {
			insert(t, s, 2)
		}
		return copied.Write(b)
	})
	n, err := s.Snapshot(t.Context(), w)
	if err != nil || n != int64(copied.Len()) {
		t.Fatalf("Snapshot = %d, %v; %d bytes", n, err, copied.Len())
	}
	path := filepath.Join(dir, "copy.db")
	if err := os.WriteFile(path, copied.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	page, err := mustOpen(t, path).List(t.Context(), store.Filter{})
	if err != nil || len(page.Attempts) != 1 || page.Attempts[0].ID != a.ID {
		t.Errorf("the copy has %d attempts, %v", len(page.Attempts), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = s.Snapshot(ctx, writerFunc(func(b []byte) (int, error) {
		cancel()
		return len(b), nil
	}))
	if err == nil {
		t.Error("Snapshot went on after its context was cancelled")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestPurgeFreesPages checks that the file does not grow when the same
// number of attempts comes and goes.
func TestPurgeFreesPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.db")
	s := mustOpen(t, path, boltstore.WithoutSync())
	size := func() int64 {
		n, err := s.Snapshot(t.Context(), writerFunc(func(b []byte) (int, error) { return len(b), nil }))
		if err != nil {
			t.Fatalf("Snapshot: %v", err)
		}
		return n
	}
	var first int64
	for round := range 6 {
		var commits []store.Commit
		for i := range 300 {
			a := storetest.NewAttempt(time.Now(), fmt.Sprint(round, i), "graph")
			done := storetest.Next(a, store.Complete, time.Now())
			commits = append(commits, store.Commit{Put: []store.Attempt{a, done}, Events: []store.Event{storetest.Line(&a, store.None)}})
		}
		if err := errors.Join(s.Apply(t.Context(), commits)...); err != nil {
			t.Fatalf("Apply: %v", err)
		}
		if n, err := s.Purge(t.Context(), time.Now().Add(time.Minute), 0, false); err != nil || n != 300 {
			t.Fatalf("Purge = %d, %v", n, err)
		}
		if round == 1 {
			first = size()
		}
	}
	if last := size(); last > first*3/2 {
		t.Errorf("the tree grew from %d to %d bytes", first, last)
	}
}

// TestNewIsSmall: what a store takes for two attempts.
func TestNewIsSmall(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, filepath.Join(dir, "signin.db"))
	insert(t, s, 1)
	insert(t, s, 2)
	size := func(when string) {
		t.Helper()
		all, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var bytes int64
		for _, e := range all {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			bytes += info.Size()
		}
		if t.Logf("%s: %d bytes in %d files", when, bytes, len(all)); bytes > 100_000 {
			t.Errorf("%s: %d bytes", when, bytes)
		}
	}
	size("open")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	size("closed")
}

// TestGivenUp: of a transaction that was given up nothing is remembered.
func TestGivenUp(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "signin.db"), boltstore.WithoutSync())
	a := insert(t, s, 1)
	next := store.Commit{Put: []store.Attempt{storetest.Next(a, store.CardSent, time.Now())}}
	if err := s.GiveUp(t.Context(), &next); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("GiveUp: %v", err)
	}
	if err := s.Apply(t.Context(), []store.Commit{next})[0]; err != nil {
		t.Errorf("Apply: %v", err)
	}
}
