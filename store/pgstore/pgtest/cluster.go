package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startTimeout = 30 * time.Second
	initTimeout  = 2 * time.Minute
	pollInterval = 20 * time.Millisecond
)

// Mode is how a server is shut down.
type Mode string

// The modes, from gentle to abrupt.
const (
	Smart     Mode = "smart"     // waits until every client has disconnected
	Fast      Mode = "fast"      // ends the sessions, then writes a checkpoint
	Immediate Mode = "immediate" // like a crash: recovers from the WAL at the next start
)

func (m Mode) signal() (os.Signal, error) {
	switch m {
	case Smart:
		return syscall.SIGTERM, nil
	case Fast:
		return syscall.SIGINT, nil
	case Immediate:
		return syscall.SIGQUIT, nil
	default:
		return nil, fmt.Errorf("unknown mode %q", string(m))
	}
}

// Cluster is a throw-away server, reached through a unix socket in a directory that
// only its user may enter. Its writes are synced as in production.
type Cluster struct {
	dir    string
	server string // path of the server's program
	cred   *syscall.Credential
	args   []string // further arguments of the server

	process process
}

// NewCluster starts a server that ends with the test.
func NewCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c, err := startCluster()
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := c.remove(); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return c
}

// DSN is the superuser's address.
func (c *Cluster) DSN() string { return "postgres://postgres@/postgres?host=" + c.dir }

func (c *Cluster) socket() string { return filepath.Join(c.dir, ".s.PGSQL.5432") }

// Binaries is the directory of the server's programs, pg_dump among them.
func (c *Cluster) Binaries() string { return filepath.Dir(c.server) }

func startCluster() (c *Cluster, err error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	cred, err := credential()
	if err != nil {
		return nil, err
	}
	// A socket's path has at most 107 bytes. The test's own directory may be longer, and
	// another user may not enter it.
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		return nil, fmt.Errorf("directory of the cluster: %w", err)
	}
	c = &Cluster{dir: dir, server: filepath.Join(bin, "postgres"), cred: cred}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, fmt.Errorf("directory of the cluster: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), initTimeout)
	defer cancel()
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"),
		"--pgdata", c.data(), "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	initdb.Dir = dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := c.Start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop(Immediate))
	}
	return c, nil
}

// NewReplica starts a standby that follows the cluster and ends with the test.
func (c *Cluster) NewReplica(tb testing.TB) *Cluster {
	tb.Helper()
	r, err := c.replica(tb.Context())
	if err != nil {
		tb.Fatalf("pgtest: replica: %v", err)
	}
	tb.Cleanup(func() {
		if err := r.remove(); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return r
}

func (c *Cluster) replica(ctx context.Context) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	r := &Cluster{dir: dir, server: c.server, cred: c.cred, args: c.args}
	if c.cred != nil {
		if err := os.Chown(dir, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	copied := exec.CommandContext(ctx, filepath.Join(filepath.Dir(c.server), "pg_basebackup"),
		"--pgdata", r.data(), "--host", c.dir, "--username", "postgres", "--write-recovery-conf", "--checkpoint", "fast", "--no-sync")
	copied.Dir = dir
	copied.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	if out, err := copied.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("pg_basebackup: %w: %s", err, out), os.RemoveAll(dir))
	}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.remove())
	}
	return r, nil
}

// Promote makes a standby the primary and returns when it is.
func (c *Cluster) Promote(ctx context.Context) error {
	return Exec(ctx, c.DSN(), "do $$ begin if not pg_promote() then raise 'not promoted'; end if; end $$")
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

// Start starts the server and returns when it accepts connections.
func (c *Cluster) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	args := append([]string{"-D", c.data(), "-k", c.dir, "-c", "listen_addresses=", "-c", "max_connections=100"}, c.args...)
	if err := c.process.start(c.cred, c.dir, c.server, args...); err != nil {
		return err
	}
	return c.process.ready(ctx, func() error {
		conn, err := pgx.Connect(ctx, c.DSN())
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// Stop shuts the server down and returns when it is gone.
func (c *Cluster) Stop(mode Mode) error { return c.process.stop(mode) }

// Restart is Stop and Start.
func (c *Cluster) Restart(ctx context.Context, mode Mode) error {
	if err := c.Stop(mode); err != nil {
		return err
	}
	return c.Start(ctx)
}

// Standby restarts the server as a standby of a primary that does not exist: it answers
// reads and refuses writes. With on = false it is a primary again.
func (c *Cluster) Standby(ctx context.Context, on bool) error {
	if err := c.Stop(Fast); err != nil {
		return err
	}
	signal := filepath.Join(c.data(), "standby.signal")
	if !on {
		if err := os.Remove(signal); err != nil {
			return fmt.Errorf("standby: %w", err)
		}
		return c.Start(ctx)
	}
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return fmt.Errorf("standby: %w", err)
	}
	if c.cred != nil {
		if err := os.Chown(signal, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			return fmt.Errorf("standby: %w", err)
		}
	}
	return c.Start(ctx)
}

// Configure changes a setting of the whole server. When it returns, the setting is in
// effect everywhere, in the server's background processes too.
func (c *Cluster) Configure(ctx context.Context, name, value string) error {
	dsn := WithParam(c.DSN(), "default_transaction_read_only", "off")
	quoted := "'" + strings.ReplaceAll(value, "'", "''") + "'"
	for _, sql := range []string{"alter system set " + name + " = " + quoted, "select pg_reload_conf()"} {
		if err := Exec(ctx, dsn, sql); err != nil {
			return fmt.Errorf("configure %s: %w", name, err)
		}
	}
	// When a new session sees the value, the reload has been signalled to every process.
	// But only the checkpointer turns waiting for standbys on and off
	// (sync_standbys_defined), and it may be busy. It reads its settings before it begins
	// the checkpoint that is requested below.
	for {
		now, err := setting(ctx, c.DSN(), name)
		if err != nil {
			return fmt.Errorf("configure %s: %w", name, err)
		}
		if now == value {
			break
		}
		time.Sleep(pollInterval)
	}
	if err := Exec(ctx, dsn, "checkpoint"); err != nil {
		return fmt.Errorf("configure %s: %w", name, err)
	}
	return nil
}

// setting returns a setting's value in a new session.
func setting(ctx context.Context, dsn, name string) (value string, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, "select current_setting($1)", name).Scan(&value); err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	return value, nil
}

// TerminateBackends ends every other session and returns how many there were.
func (c *Cluster) TerminateBackends(ctx context.Context) (n int, err error) {
	conn, err := pgx.Connect(ctx, c.DSN())
	if err != nil {
		return 0, fmt.Errorf("terminate backends: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, `select count(pg_terminate_backend(pid)) from pg_stat_activity
		where pid <> pg_backend_pid() and backend_type = 'client backend'`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("terminate backends: %w", err)
	}
	return n, nil
}

func (c *Cluster) remove() error {
	return errors.Join(c.Stop(Immediate), os.RemoveAll(c.dir))
}

// Either is an address that leads to whichever of two servers is the primary.
func Either(a, b *Cluster) string {
	return "postgres://postgres@/postgres?host=" + a.dir + "," + b.dir + "&target_session_attrs=read-write"
}
