package pgstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// later is a program of a later version, with steps of its own after those of
// this one.
func later(t *testing.T, steps ...string) pgstore.Option {
	t.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(pgstore.Migrations(), "migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(pgstore.Migrations(), name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	for i, text := range steps {
		files[fmt.Sprintf("migrations/%04d_later.sql", len(names)+1+i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return pgstore.WithMigrations(files)
}

// works takes an attempt of its own through a step, and asks whether it could.
func works(t *testing.T, s *pgstore.Store) {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := storetest.NewAttempt(info.Now, fmt.Sprintf("29:%p-%s", s, time.Now()), "graph")
	if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{storetest.Line(&a, store.None)}}})[0]; err != nil {
		t.Errorf("Apply: %v", err)
	}
	if snap, err := s.Find(t.Context(), store.Query{User: a.Key.UserKey(), Connection: a.Key.Connection}); err != nil || len(snap.Attempts) != 1 {
		t.Errorf("Find: %d attempts, %v", len(snap.Attempts), err)
	}
	eventually(t, s, true)
}

const additive = `-- readable by programs from version 1
alter table attempts add column note text not null default '';
`

// TestAdditiveMigration: while a new release rolls out, and after it was rolled
// back, programs of the old one serve on and start again.
func TestAdditiveMigration(t *testing.T) {
	dsn := pgtest.Start(t)
	old := mustOpen(t, dsn)
	works(t, old)
	neu := mustOpen(t, dsn, later(t, additive))
	works(t, neu)
	works(t, old)
	again := mustOpen(t, dsn)
	works(t, again)
	works(t, mustOpen(t, dsn, pgstore.WithAutoMigrate(false)))
	works(t, neu)
	if info, err := old.Info(t.Context()); err != nil || info.Schema != 2 {
		t.Errorf("Info = %+v, %v", info, err)
	}
	if all, err := pgstore.Status(t.Context(), dsn, later(t, additive)); err != nil || len(all) != 2 || all[1].ReadableBy != 1 || all[1].Applied.IsZero() {
		t.Errorf("Status = %+v, %v", all, err)
	}
	// A step that says nothing is for its own program and later ones.
	if _, err := pgstore.Migrate(t.Context(), dsn, later(t, additive, `alter table attempts drop column note;`)); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*pgstore.Store{"old": old, "new": neu} {
		if err := s.Probe(t.Context()); !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), "programs from version 3") {
			t.Errorf("Probe of the %s program: %v, want ErrSchema", name, err)
		}
	}
	if _, err := pgstore.Open(t.Context(), dsn); !errors.Is(err, store.ErrSchema) {
		t.Errorf("Open: %v, want ErrSchema", err)
	}
}

// TestStepOutsideATransaction: an index is built beside running sign-ins, by
// several programs that start at once, also where the first try was cut off.
func TestStepOutsideATransaction(t *testing.T) {
	concurrently := `-- readable by programs from version 1
-- outside a transaction
drop index concurrently if exists SCHEMA.attempts_later;
create index concurrently attempts_later on SCHEMA.attempts (id);
`
	dsn := pgtest.Start(t)
	old := mustOpen(t, dsn)
	var started sync.WaitGroup
	for range 3 {
		started.Go(func() {
			if _, err := pgstore.Migrate(t.Context(), dsn, later(t, concurrently)); err != nil {
				t.Errorf("Migrate: %v", err)
			}
		})
	}
	started.Wait()
	works(t, old)
	server, schema := split(dsn)
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	valid := func() {
		t.Helper()
		var valid bool
		if err := conn.QueryRow(t.Context(), `select indisvalid from pg_index where indexrelid = $1::regclass`, schema+".attempts_later").Scan(&valid); err != nil || !valid {
			t.Errorf("the index is valid: %v, %v", valid, err)
		}
	}
	valid()
	// Whoever was cut off takes the step again: what is half built does not stay.
	mustExec(t, dsn, `delete from SCHEMA.schema_migrations where version = 2;
		update pg_index set indisvalid = false where indexrelid = 'SCHEMA.attempts_later'::regclass`)
	if all, err := pgstore.Migrate(t.Context(), dsn, later(t, concurrently)); err != nil || all[1].Applied.IsZero() {
		t.Errorf("Migrate = %+v, %v", all, err)
	}
	valid()
}

// TestPasswordRotation: new connections use the password that is in force now.
func TestPasswordRotation(t *testing.T) {
	c := pgtest.NewCluster(t)
	dsn := pgtest.Schema(t, c.DSN())
	if err := pgtest.Exec(t.Context(), c.DSN(), `create role bot login superuser password 'first';
		do $$ begin
			execute format('copy (select unnest(array[%L, %L])) to %L', 'local all bot scram-sha-256', 'local all all trust', current_setting('hba_file'));
		end $$;
		select pg_reload_conf()`); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	address := func(password string) string {
		return pgtest.WithParam(strings.Replace(dsn, "postgres@", "bot:"+password+"@", 1), "pool_max_conns", "2")
	}
	now := address("first")
	s := mustOpen(t, now, pgstore.WithAddress(func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		return now, nil
	}))
	works(t, s)
	rotate := func(password string) {
		t.Helper()
		if err := pgtest.Exec(t.Context(), c.DSN(), `alter role bot password '`+password+`'`); err != nil {
			t.Fatal(err)
		}
		if _, err := c.TerminateBackends(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	rotate("second")
	deadline := time.Now().Add(patience)
	for err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "password authentication failed"); err = s.Probe(t.Context()) {
		if time.Now().After(deadline) {
			t.Fatalf("Probe with the old password: %v", err)
		}
	}
	mu.Lock()
	now = address("second")
	mu.Unlock()
	eventually(t, s, true)
	works(t, s)
}

// TestRuntimeRole runs suites as a role that changes rows and no tables.
func TestRuntimeRole(t *testing.T) {
	pgtest.Long(t)
	c := pgtest.NewCluster(t)
	if err := pgtest.Exec(t.Context(), c.DSN(), `create role bot login`); err != nil {
		t.Fatal(err)
	}
	for _, suite := range []func(*testing.T, storetest.New){storetest.Semantics, storetest.Outbox, storetest.Purge} {
		suite(t, func(t *testing.T) storetest.Harness {
			t.Helper()
			dsn := pgtest.Schema(t, c.DSN())
			if _, err := pgstore.Migrate(t.Context(), dsn); err != nil {
				t.Fatal(err)
			}
			grants, err := pgstore.Grants(dsn, "bot", "")
			if err == nil {
				err = pgtest.Exec(t.Context(), c.DSN(), grants)
			}
			if err != nil {
				t.Fatal(err)
			}
			asBot := strings.Replace(dsn, "postgres@", "bot@", 1)
			return storetest.Harness{
				Store: mustOpen(t, asBot, pgstore.WithAutoMigrate(false)),
				Second: func(t *testing.T) store.Store {
					t.Helper()
					return mustOpen(t, asBot)
				},
				Damage: damage(dsn), DamageDelivery: damageDelivery(dsn),
			}
		})
	}
}

// TestWeekFromDefault: lines of a week that began without a partition move to it
// when there is one, and stay readable.
func TestWeekFromDefault(t *testing.T) {
	dsn := pgtest.Start(t)
	if _, err := pgstore.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	this := auditTables(t, dsn)[0]
	mustExec(t, dsn, `drop table SCHEMA.`+this)
	// A role that makes no tables serves all the same, and says what is missing.
	role, password := "role_"+schemaOf(dsn), rand.Text()
	mustExec(t, dsn, `create role `+role+` login password '`+password+`'`)
	t.Cleanup(func() { mustExecCleanup(t, dsn, `drop owned by `+role+`; drop role `+role) })
	grants, err := pgstore.Grants(dsn, role, "")
	if err != nil {
		t.Fatal(err)
	}
	server, _ := split(dsn)
	if err := pgtest.Exec(t.Context(), server, grants); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, pgtest.WithParam(pgtest.WithParam(dsn, "user", role), "password", password))
	works(t, s)
	// Nor does an owner wait who starts while somebody changes the schema.
	busy := begin(t, dsn)
	mustExecIn(t, busy, dsn, `select pg_advisory_xact_lock(hashtextextended('signin-engine SCHEMA', 0))`)
	works(t, mustOpen(t, dsn))
	if err := busy.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := insertOne(t, s)
	if err := s.Apply(t.Context(), []store.Commit{{Events: []store.Event{storetest.Line(&a, store.None)}}})[0]; err != nil {
		t.Fatal(err)
	}
	if info, err := s.Info(t.Context()); err != nil || len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], "migrate partitions") {
		t.Errorf("Info = %+v, %v; want a warning", info, err)
	}
	if until, err := pgstore.Partitions(t.Context(), dsn, 2); err != nil || until.Before(time.Now().AddDate(0, 0, 14)) {
		t.Fatalf("Partitions = %s, %v", until, err)
	}
	if got := auditTables(t, dsn); got[0] != this {
		t.Errorf("partitions %v, want %s", got, this)
	}
	mustExec(t, dsn, `do $$ begin assert not exists (select from SCHEMA.events_default); end $$`)
	if lines, err := s.Events(t.Context(), store.EventFilter{Attempt: a.ID}); err != nil || len(lines) != 1 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
	if info, err := s.Info(t.Context()); err != nil || len(info.Warnings) != 0 {
		t.Errorf("Info = %+v, %v; want no warning", info, err)
	}
	// Retention may not drop tables, and does the rest.
	if _, err := s.Purge(t.Context(), time.Now().Add(time.Hour), 0, false); err != nil {
		t.Errorf("Purge: %v", err)
	}
}
