package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signin-engine/signin-engine/store"
)

// TestProgressOnTerminal: what a command says of its progress does not run into its
// results, which are on the same terminal.
func TestProgressOnTerminal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signin.db")
	now := time.Now()
	old := seeded("01JSD4R0000000000000000001", "29:old", "graph", store.Failed, now.Add(-2*time.Hour), now.Add(-time.Hour))
	old.Reason = store.ReasonExpired
	commits := []store.Commit{{Put: []store.Attempt{old}}}
	for n := range exportPage {
		commits = append(commits, one(now, n))
	}
	if err := seedStore(file, commits); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ command, bad string }{
		{"export -o jsonl", "exported"},
		{"purge --older-than 1s --yes", "purged"},
	} {
		if got := onTerminal(t, append(strings.Fields(c.command), "--store", "bolt:"+file)); got == "" || strings.Contains(got, c.bad) {
			t.Errorf("%s: %.300q", c.command, got)
		}
	}
}

// onTerminal runs a command and returns what a terminal shows.
func onTerminal(t *testing.T, args []string) string {
	t.Helper()
	host, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Close() }()
	fd := int(host.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	shown := make(chan string)
	go func() {
		all, _ := io.ReadAll(host) // ends with an error when the terminal is closed
		shown <- string(all)
	}()
	if code := run(t.Context(), args, tty, tty, nil); code != exitDone {
		t.Errorf("%v: exit code %d", args, code)
	}
	if err := tty.Close(); err != nil {
		t.Error(err)
	}
	return <-shown
}
