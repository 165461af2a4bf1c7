package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
)

// sql SERVER STATEMENT runs the statement on a connection of its own; @FILE
// stands for the contents of a file. Negated, it expects the server to refuse the
// statement.
func sql(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: sql SERVER STATEMENT|@FILE")
	}
	text := args[1]
	if file, ok := strings.CutPrefix(text, "@"); ok {
		text = ts.ReadFile(file)
	}
	ctx, cancel := scriptContext()
	defer cancel()
	switch err := pgtest.Exec(ctx, args[0], text); {
	case neg && err == nil:
		ts.Fatalf("the server did it")
	case !neg:
		ts.Check(err)
	}
}

// ownPostgres gives a script its own server at $SERVER. $SOCKETS is the directory
// of its socket, and $NEXTWEEK the name of next week's partition.
func ownPostgres(t *testing.T, e *testscript.Env) error {
	t.Helper()
	dsn := pgtest.NewCluster(t).DSN()
	e.Setenv("SERVER", dsn)
	_, dir, _ := strings.Cut(dsn, "host=")
	e.Setenv("SOCKETS", dir)
	now := time.Now().UTC()
	monday := now.AddDate(0, 0, 7-(int(now.Weekday())+6)%7)
	e.Setenv("NEXTWEEK", monday.Format("events_20060102"))
	return nil
}

// scriptContext bounds the waits of a script.
func scriptContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

type clusterKey struct{}

// guardedPostgres gives a script its own server under several addresses. $RIGHT
// has the right password of a role, $WRONG a wrong one. $READER is a role without
// privileges; the script can grant some by sql $SERVER. $SILENT accepts
// connections and never answers.
func guardedPostgres(t *testing.T, e *testscript.Env) error {
	t.Helper()
	cluster := pgtest.NewCluster(t)
	e.Values[clusterKey{}] = cluster
	ctx, cancel := scriptContext()
	defer cancel()
	if err := pgtest.Exec(ctx, cluster.DSN(), `create role bot login superuser password 'correct'; create role reader login;
		do $$ begin
			execute format('copy (select unnest(array[%L, %L])) to %L', 'local all bot scram-sha-256', 'local all all trust', current_setting('hba_file'));
		end $$;
		select pg_reload_conf()`); err != nil {
		return err
	}
	right := strings.Replace(cluster.DSN(), "postgres@", "bot:correct@", 1)
	wrong := strings.Replace(cluster.DSN(), "postgres@", "bot:hunter2@", 1)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for pgtest.Exec(ctx, wrong, "") == nil { // the server reloads its rules some time after pg_reload_conf returns
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("a wrong password is taken: %w", ctx.Err())
		}
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	e.Defer(func() { _ = l.Close() })
	e.Setenv("SERVER", cluster.DSN())
	e.Setenv("READER", strings.Replace(cluster.DSN(), "postgres@", "reader@", 1))
	e.Setenv("RIGHT", right)
	e.Setenv("WRONG", wrong)
	e.Setenv("SILENT", "postgres://bot:hunter2@"+l.Addr().String()+"/bots")
	return nil
}

// stopPostgres implements stop-postgres: it stops the script's own server.
func stopPostgres(ts *testscript.TestScript, neg bool, args []string) {
	cluster, ok := ts.Value(clusterKey{}).(*pgtest.Cluster)
	if neg || len(args) > 0 || !ok {
		ts.Fatalf("usage: stop-postgres, in a script with its own server")
	}
	ts.Check(cluster.Stop(pgtest.Fast))
}

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) (string, error) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}
