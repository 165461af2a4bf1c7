package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
)

func TestMain(m *testing.M) {
	testscript.Main(onPostgres{m}, map[string]func(){
		"signin-engine": main,
		"seed":          seed,
		"hold":          hold,
	})
}

// onPostgres runs all tests of the package against one Postgres.
type onPostgres struct{ m *testing.M }

func (p onPostgres) Run() int { return pgtest.Main(p.m) }

// TestScript runs the scripts in testdata/script, at least one per command. A
// script says what the user types, and which output and exit code follow.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"until": until,
			"await": await,
			"mode":  mode,
			"sql":   sql,

			"stop-postgres": stopPostgres,

			"terminate": terminate,
		},
		Setup: func(e *testscript.Env) error {
			// A program built with the race detector sleeps for a second before
			// it exits, unless GORACE says otherwise.
			e.Vars = append(e.Vars, "TZ=UTC", "USER=eve", "GORACE=atexit_sleep_ms=10")
			switch name := strings.TrimPrefix(filepath.Base(e.WorkDir), "script-"); name {
			case "postgres":
				address := pgtest.Start(t)
				server, schema, _ := strings.Cut(address, "schema=")
				e.Setenv("DSN", address)
				e.Setenv("SERVER", server[:len(server)-1])
				e.Setenv("SCHEMA", schema)
			case "postgres_down":
				return guardedPostgres(t, e)
			case "postgres_estate":
				return ownPostgres(t, e)
			case "serve", "doctor":
				for _, name := range []string{"PORT", "BOT_PORT"} {
					port, err := freePort(t)
					if err != nil {
						return err
					}
					e.Setenv(name, port)
				}
			}
			return nil
		},
		RequireUniqueNames: true,
	})
}

// exits CODE COMMAND… runs the command and expects exactly this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// patience bounds every wait in a script.
const patience = 20 * time.Second

func poll(ts *testscript.TestScript, what string, done func() bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// until REGEXP COMMAND… repeats the command until its output matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND…")
	}
	want := regexp.MustCompile(args[0])
	poll(ts, "until "+args[0], func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && want.MatchString(ts.ReadFile("stdout"))
	})
}

// await FILE waits until a file or socket exists; with !, until it is gone.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: await FILE")
	}
	path := ts.MkAbs(args[0])
	poll(ts, "await "+args[0], func() bool {
		_, err := os.Lstat(path)
		return (err == nil) != neg
	})
}

// mode FILE PERMISSIONS checks that the file has exactly these permissions.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE PERMISSIONS")
	}
	info, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != strings.TrimPrefix(args[1], "0") {
		ts.Fatalf("mode %s, want %s", got, args[1])
	}
}

// terminate sends SIGTERM to the process that the preceding doctor command
// reported.
func terminate(ts *testscript.TestScript, neg bool, args []string) {
	found := regexp.MustCompile(`, process (\d+),`).FindStringSubmatch(ts.ReadFile("stdout"))
	if neg || len(args) > 0 || found == nil {
		ts.Fatalf("usage: terminate, after signin-engine doctor")
	}
	pid, err := strconv.Atoi(found[1])
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGTERM))
}

// hold keeps a bbolt file open, without an operator endpoint, until the process
// is interrupted. The file NAME.held appears once the bbolt file is open.
func hold() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	st, err := boltstore.Open(os.Args[1])
	if err == nil {
		err = os.WriteFile(os.Args[1]+".held", nil, 0o600)
	}
	if err != nil {
		fatal(err)
	}
	<-stop
	if err = st.Close(); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	report(os.Stderr, err)
	os.Exit(1)
}
