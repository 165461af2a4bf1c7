package operator_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/signin-engine/signin-engine/transport/operator"
)

func TestParseEndpoint(t *testing.T) {
	for s, want := range map[string]string{
		"unix:/run/x.sock":       "unix:/run/x.sock",
		"127.0.0.1:3980":         "http://127.0.0.1:3980",
		"http://127.0.0.1:3980/": "http://127.0.0.1:3980",
		"http://host:80":         "http://host:80",
	} {
		e, err := operator.ParseEndpoint(s)
		if err != nil || e.String() != want {
			t.Errorf("%s: %s, %v", s, e, err)
		}
	}
	for _, s := range []string{"", "unix:", "host", "https://host:1", "http://host", "http://u:p@host:1", "http://host:1/x"} {
		if e, err := operator.ParseEndpoint(s); err == nil {
			t.Errorf("%q was taken as %s", s, e)
		}
	}
}

func TestSocketModeAndRemoval(t *testing.T) {
	e := socket(t)
	l, err := e.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(e.Address)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if _, err = e.Listen(t.Context()); !errors.Is(err, operator.ErrInUse) {
		t.Errorf("second listener: %v", err)
	}
	if err = l.Close(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(filepath.Dir(e.Address))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A process that was killed leaves its socket behind. The next process replaces it.
func TestStaleSocketIsReplaced(t *testing.T) {
	e := socket(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: e.Address, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err = dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := e.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err = l.Close(); err != nil {
		t.Error(err)
	}
}

// A listener whose socket was replaced does not remove the new socket.
func TestCloseLeavesAnotherSocket(t *testing.T) {
	e := socket(t)
	first, err := e.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err = os.Remove(e.Address); err != nil {
		t.Fatal(err)
	}
	second, err := e.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err = first.Close(); err != nil {
		t.Error(err)
	}
	if _, err = os.Lstat(e.Address); err != nil {
		t.Errorf("the second socket is gone: %v", err)
	}
	if err = second.Close(); err != nil {
		t.Error(err)
	}
}

func TestNoSocketIsNeverReplaced(t *testing.T) {
	e := socket(t)
	if err := os.WriteFile(e.Address, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Listen(t.Context()); err == nil {
		t.Fatal("a file was replaced")
	}
	if b, err := os.ReadFile(e.Address); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
}
