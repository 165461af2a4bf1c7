package pgstore_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestDiskFull fills the tablespace: an error answer, nothing lost, reads go
// on, and so do writes when there is room again, without reopening.
func TestDiskFull(t *testing.T) {
	pgtest.Long(t)
	cluster := pgtest.NewCluster(t)
	disk := cluster.SmallDisk(t, 16)
	if err := pgtest.Exec(t.Context(), cluster.DSN(), `create tablespace small location '`+disk.Dir+`'`); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, pgtest.WithParam(pgtest.Schema(t, cluster.DSN()), "default_tablespace", "small"))
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	write := func(n int) (string, error) {
		a := storetest.NewAttempt(info.Now, fmt.Sprintf("29:%d", n), "graph")
		a.Request = make([]byte, 60_000) // random: it cannot be compressed
		_, _ = rand.Read(a.Request)
		return a.ID, s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{storetest.Line(&a, store.None)}}})[0]
	}
	var full error
	for n := 0; full == nil && n < 2000; n++ {
		var id string
		if id, full = write(n); full == nil {
			kept = append(kept, id)
		}
	}
	if !errors.Is(full, store.ErrUnavailable) || !strings.Contains(full.Error(), "53100") {
		t.Fatalf("after %d attempts: %v; want ErrUnavailable with SQLSTATE 53100", len(kept), full)
	}
	there := func() {
		t.Helper()
		for _, id := range kept {
			if _, err := s.Get(t.Context(), id); err != nil {
				t.Fatalf("an acknowledged attempt: %v", err)
			}
		}
	}
	if err := s.Probe(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Probe: %v, want ErrUnavailable", err)
	}
	there()
	disk.Grow(t, 64)
	eventually(t, s, true)
	id, err := write(len(kept) + 1)
	if err != nil {
		t.Fatalf("with room again: %v", err)
	}
	kept = append(kept, id)
	there()
}
