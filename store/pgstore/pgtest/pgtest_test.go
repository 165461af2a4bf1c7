package pgtest_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
)

func TestWithParam(t *testing.T) {
	for _, tc := range []struct{ dsn, want string }{
		{"postgres://h/db", "postgres://h/db?a=x%20%27y"},
		{"postgresql://h/db?b=1", "postgresql://h/db?b=1&a=x%20%27y"},
		{"host=h", `host=h a='x \'y'`},
	} {
		if got := pgtest.WithParam(tc.dsn, "a", "x 'y"); got != tc.want {
			t.Errorf("WithParam(%q) = %q, want %q", tc.dsn, got, tc.want)
		}
	}
}

// TestStart needs no TestMain: without a server's address it brings a cluster.
func TestStart(t *testing.T) {
	t.Setenv(pgtest.Env, "")
	a := pgtest.Start(t)
	cfg, err := pgx.ParseConfig(a)
	if err != nil || cfg.RuntimeParams["schema"] == "" {
		t.Errorf("address %q: %v", a, err)
	}
}

// TestCluster: what is there stays there, however the server is stopped.
func TestCluster(t *testing.T) {
	c := pgtest.NewCluster(t)
	if err := pgtest.Exec(t.Context(), c.DSN(), "create table kept ()"); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []pgtest.Mode{pgtest.Smart, pgtest.Fast, pgtest.Immediate} {
		if err := c.Restart(t.Context(), mode); err != nil {
			t.Fatalf("Restart(%s): %v", mode, err)
		}
		if err := pgtest.Exec(t.Context(), c.DSN(), "table kept"); err != nil {
			t.Errorf("after Restart(%s): %v", mode, err)
		}
	}
	if err := c.Start(t.Context()); err == nil {
		t.Error("Start of a running server succeeded")
	}
	if err := c.Stop("odd"); err == nil {
		t.Error("Stop in an unknown mode succeeded")
	}
	conn, err := pgx.Connect(t.Context(), c.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	// A session that was closed a moment ago may be there still.
	if n, err := c.TerminateBackends(t.Context()); err != nil || n < 1 {
		t.Errorf("TerminateBackends = %d, %v", n, err)
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a terminated session answers")
	}
	if err := c.Stop(pgtest.Fast); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := c.Stop(pgtest.Fast); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

// TestConfigure: what was configured is in effect, also while the process that puts
// it there is late. It takes part in no session, so no session shows it.
func TestConfigure(t *testing.T) {
	c := pgtest.NewCluster(t)
	conn, err := pgx.Connect(t.Context(), c.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var pid int
	if err := conn.QueryRow(t.Context(), "select pid from pg_stat_activity where backend_type = 'checkpointer'").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume := func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	defer resume()
	time.AfterFunc(time.Second, resume)
	if err := c.Configure(t.Context(), "synchronous_standby_names", "nobody"); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := pgtest.Exec(short, c.DSN(), "create table unconfirmed ()"); err == nil {
		t.Error("a commit came back that no standby confirms")
	}
	if err := c.Configure(t.Context(), "synchronous_standby_names", ""); err != nil {
		t.Fatal(err)
	}
	if err := pgtest.Exec(t.Context(), c.DSN(), "create table confirmed ()"); err != nil {
		t.Errorf("a commit that waits for nobody: %v", err)
	}
}
