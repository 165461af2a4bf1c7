package pgstore_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// auditTables are the partitions of the audit trail.
func auditTables(t *testing.T, dsn string) []string {
	t.Helper()
	server, schema := split(dsn)
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), `select tablename from pg_tables where schemaname = $1 and tablename like 'events\_%' order by 1`, schema)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestPartitions: weeks are made ahead, and one that is over is dropped once
// nothing of it is left to keep.
func TestPartitions(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := auditTables(t, dsn); len(got) != 10 || !slices.Contains(got, "events_default") {
		t.Errorf("partitions %v, want nine weeks and the default", got)
	}
	// A week long ago, with an attempt that was born then.
	monday := time.Date(2020, 1, 6, 0, 0, 0, 0, time.UTC)
	const old = "events_20200106"
	mustExec(t, dsn, fmt.Sprintf(`create table SCHEMA.%s partition of SCHEMA.events for values from ('%s') to ('%s')`,
		old, monday.Format(time.RFC3339), monday.AddDate(0, 0, 7).Format(time.RFC3339)))
	a := storetest.NewAttempt(monday.AddDate(0, 0, 1), "29:x", "graph")
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}})[0]; err != nil {
		t.Fatal(err)
	}
	mustExec(t, dsn, `update SCHEMA.attempts set born = '2020-01-07 00:00:00+00'`)
	done := storetest.Next(a, store.Failed, info.Now.Add(-time.Hour))
	line := storetest.Line(&done, a.State)
	line.Time = monday.AddDate(0, 0, 1)
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{done}, Events: []store.Event{line}}})[0]; err != nil {
		t.Fatal(err)
	}
	if lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID}); err != nil || len(lines) != 1 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
	purge := func(before time.Time, want int) {
		t.Helper()
		if n, err := s.Purge(t.Context(), before, 0, false); err != nil || n != want {
			t.Errorf("Purge = %d, %v; want %d", n, err, want)
		}
	}
	purge(info.Now.Add(-2*time.Hour), 0)
	if !slices.Contains(auditTables(t, dsn), old) {
		t.Error("a partition went while an attempt of its week is there")
	}
	purge(info.Now, 1)
	if got := auditTables(t, dsn); slices.Contains(got, old) || len(got) != 10 {
		t.Errorf("partitions %v after the purge", got)
	}
}
