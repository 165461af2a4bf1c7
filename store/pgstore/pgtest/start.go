package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Env is the environment variable with the address of a server for tests: a URL or
// keywords and values. Its role must be allowed to create schemas.
const Env = "SIGNIN_TEST_POSTGRES"

const cleanupTimeout = 30 * time.Second

// Main runs a package's tests on one shared cluster:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
// It starts the cluster unless [Env] is set, and returns the exit code.
func Main(m *testing.M) int {
	if os.Getenv(Env) != "" {
		return m.Run()
	}
	c, err := startCluster()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	if err := os.Setenv(Env, c.DSN()); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	code := m.Run()
	if err := c.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	return code
}

// Long leaves a test out of short runs: it takes a server or a pooler down, or waits for
// time limits.
func Long(tb testing.TB) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("long: run the tests without -short")
	}
}

// Start returns the address of a server, with a schema parameter that names a schema of
// the test's own. Start does not create the schema; it is dropped after the test.
func Start(tb testing.TB) string {
	tb.Helper()
	dsn := os.Getenv(Env)
	if dsn == "" {
		dsn = NewCluster(tb).DSN()
	}
	return Schema(tb, dsn)
}

// Schema is [Start] on a server of the caller's choice.
func Schema(tb testing.TB, dsn string) string {
	tb.Helper()
	schema := "test_" + strings.ToLower(rand.Text())
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := Exec(ctx, dsn, "drop schema if exists "+schema+" cascade"); err != nil {
			tb.Errorf("pgtest: drop schema: %v", err)
		}
	})
	return WithParam(dsn, "schema", schema)
}

// WithParam adds a parameter to an address: a URL, or keywords and values.
func WithParam(dsn, name, value string) string {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return dsn + " " + name + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
	}
	sep := "?"
	if strings.Contains(dsn, "?") {
		sep = "&"
	}
	// Postgres does not decode a plus sign as a space.
	return dsn + sep + strings.ReplaceAll(url.Values{name: {value}}.Encode(), "+", "%20")
}

// Exec runs statements on a new connection.
func Exec(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	return nil
}
