package pgstore_test

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// split takes an address of pgtest apart: the server's, and the schema.
func split(dsn string) (server, schema string) {
	i := strings.LastIndex(dsn, "schema=")
	return dsn[:i-1], strings.Trim(dsn[i+len("schema="):], "'")
}

func mustExec(tb testing.TB, dsn, sql string) {
	tb.Helper()
	server, schema := split(dsn)
	if err := pgtest.Exec(tb.Context(), server, strings.ReplaceAll(sql, "SCHEMA", schema)); err != nil {
		tb.Fatalf("exec: %v", err)
	}
}

func TestMigrate(t *testing.T) {
	dsn := pgtest.Start(t)
	before, err := pgstore.Status(t.Context(), dsn)
	if err != nil || len(before) == 0 || !before[0].Applied.IsZero() {
		t.Fatalf("Status of nothing = %+v, %v", before, err)
	}
	if _, err := pgstore.Open(t.Context(), dsn, pgstore.WithAutoMigrate(false)); !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), "version 0") {
		t.Errorf("Open of nothing without migration: %v, want ErrSchema", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := pgstore.Migrate(t.Context(), dsn); err != nil {
				t.Errorf("Migrate: %v", err)
			}
		})
		wg.Go(func() {
			s, err := pgstore.Open(t.Context(), dsn)
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			_ = s.Close()
		})
	}
	wg.Wait()
	first, err := pgstore.Migrate(t.Context(), dsn)
	if err != nil || slices.ContainsFunc(first, func(m pgstore.Migration) bool { return m.Applied.IsZero() || m.Name == "" }) {
		t.Fatalf("Migrate = %+v, %v", first, err)
	}
	if second, err := pgstore.Status(t.Context(), dsn); err != nil || !slices.Equal(first, second) {
		t.Errorf("Status = %+v, %v; want %+v", second, err, first)
	}
	a, b := mustOpen(t, dsn, pgstore.WithAutoMigrate(false)), mustOpen(t, dsn)
	if !slices.Equal(a.Secret(), b.Secret()) {
		t.Error("two secrets in one schema")
	}
}

func TestOtherSchemaVersion(t *testing.T) {
	dsn := pgtest.Start(t)
	mustOpen(t, dsn)
	mustExec(t, dsn, `insert into SCHEMA.schema_migrations values (999, 'future', 999)`)
	for name, call := range map[string]func() error{
		"Open":    func() error { _, err := pgstore.Open(t.Context(), dsn); return err },
		"Migrate": func() error { _, err := pgstore.Migrate(t.Context(), dsn); return err },
		"Status":  func() error { _, err := pgstore.Status(t.Context(), dsn); return err },
	} {
		if err := call(); !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), "999") || !strings.Contains(err.Error(), "knows 1") {
			t.Errorf("%s of a newer schema: %v, want ErrSchema with both versions", name, err)
		}
	}
}

func TestSchemaOption(t *testing.T) {
	dsn := pgtest.Start(t)
	if _, err := pgstore.Open(t.Context(), dsn, pgstore.WithSchema(strings.Repeat("x", 60))); err == nil {
		t.Error("Open with a schema name that is too long succeeded")
	}
	s := mustOpen(t, dsn)
	info, err := s.Info(t.Context())
	if err != nil || info.Backend != "postgres" || info.Schema != 1 || !strings.Contains(info.Where, "schema test_") {
		t.Errorf("Info = %+v, %v", info, err)
	}
}

// TestNoSecretInErrors: an address that cannot be used is not repeated.
func TestNoSecretInErrors(t *testing.T) {
	const password = "s3cr3t-pass"
	for _, dsn := range []string{
		"postgres://bot:" + password + "@127.0.0.1:1/db?connect_timeout=1",
		"postgres://bot:" + password + "@127.0.0.1:port/db",
		"postgres://bot:" + password + "@%zz/db",
		"host=127.0.0.1 port=1 user=bot password=" + password + " sslmode=odd",
	} {
		_, err := pgstore.Open(t.Context(), dsn)
		if err == nil {
			t.Fatal("Open succeeded")
		}
		if strings.Contains(err.Error(), password) {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
}

// TestNoRights: a role that may connect and nothing else.
func TestNoRights(t *testing.T) {
	dsn := pgtest.Start(t)
	owner := mustOpen(t, dsn)
	_, schema := split(dsn)
	role, password := "role_"+schema, rand.Text()
	mustExec(t, dsn, `create role `+role+` login password '`+password+`'; grant usage on schema SCHEMA to `+role+`; grant select on SCHEMA.schema_migrations, SCHEMA.meta to `+role)
	t.Cleanup(func() { mustExecCleanup(t, dsn, `drop owned by `+role+`; drop role `+role) })
	s := mustOpen(t, pgtest.WithParam(pgtest.WithParam(dsn, "user", role), "password", password))
	info, err := owner.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{storetest.NewAttempt(info.Now, "29:x", "graph")}}})[0]
	var pg *pgconn.PgError
	if !errors.Is(err, store.ErrUnavailable) || !errors.As(err, &pg) || pg.Code != "42501" {
		t.Errorf("Apply: %v, want ErrUnavailable with SQLSTATE 42501", err)
	}
	if _, err := s.Find(t.Context(), store.Query{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Find: %v, want ErrUnavailable", err)
	}
}
