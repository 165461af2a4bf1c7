package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Pooling is how long a pooler lends a session.
type Pooling string

// The pool modes.
const (
	BySession     Pooling = "session"     // until the client disconnects
	ByTransaction Pooling = "transaction" // for one transaction
)

// Bouncer is a PgBouncer with its default settings, in front of a cluster.
type Bouncer struct {
	dir     string
	server  *Cluster // where it leads
	pooling Pooling
	process process
}

// NewBouncer starts a PgBouncer that ends with the test.
func NewBouncer(tb testing.TB, server *Cluster, pooling Pooling) *Bouncer {
	tb.Helper()
	dir, err := os.MkdirTemp("", "pgtest") //nolint:usetesting // for the path's length, see startCluster
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	b := &Bouncer{dir: dir, pooling: pooling}
	tb.Cleanup(func() {
		if tb.Failed() {
			log, _ := os.ReadFile(b.process.log)
			tb.Logf("PgBouncer runs: %t. Its log ends with:\n%s", b.process.running(), log[max(0, len(log)-4096):])
		}
		if err := errors.Join(b.process.stop(Immediate), os.RemoveAll(dir)); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	if server.cred != nil {
		if err := os.Chown(dir, int(server.cred.Uid), int(server.cred.Gid)); err != nil {
			tb.Fatalf("pgtest: %v", err)
		}
	}
	if err := b.Point(context.WithoutCancel(tb.Context()), server); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	return b
}

// DSN is the superuser's address through the pooler.
func (b *Bouncer) DSN() string {
	return "postgres://postgres@/postgres?host=" + b.dir + "&port=6432"
}

func (b *Bouncer) socket() string { return filepath.Join(b.dir, ".s.PGSQL.6432") }

// Point makes the pooler lead to another server. It restarts the pooler, as an
// administrator would after a failover.
func (b *Bouncer) Point(ctx context.Context, server *Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program = "/usr/sbin/pgbouncer"; !isFile(program) {
			return errors.New("no PgBouncer: .ci/postgres installs it (Debian: apt-get install pgbouncer)")
		}
	}
	if err := b.process.stop(Immediate); err != nil {
		return err
	}
	b.server = server
	file := func(name string) string { return filepath.Join(b.dir, name) }
	for name, text := range map[string]string{
		"users": `"postgres" ""` + "\n",
		"ini": fmt.Sprintf("[databases]\n* = host=%s\n[pgbouncer]\npool_mode = %s\nlisten_port = 6432\nunix_socket_dir = %s\nauth_type = trust\nauth_file = %s\nadmin_users = postgres\n",
			server.dir, b.pooling, b.dir, file("users")),
	} {
		if err := os.WriteFile(file(name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("pgbouncer: %w", err)
		}
	}
	if err := b.process.start(server.cred, b.dir, program, file("ini")); err != nil {
		return fmt.Errorf("pgbouncer: %w", err)
	}
	return b.process.ready(ctx, func() error {
		conn, err := pgx.Connect(ctx, b.DSN()+"&default_query_exec_mode=simple_protocol")
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}
