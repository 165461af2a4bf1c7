package main

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
)

// TestDevPrintConfigOfBusyPorts checks that --print-config works while another
// dev listens on these addresses, and that the settings lead to that dev.
func TestDevPrintConfigOfBusyPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var out, errs strings.Builder
	if code := run(t.Context(), []string{"dev", "--print-config", "--emulator", l.Addr().String()}, &out, &errs, nil); code != 0 || errs.Len() > 0 {
		t.Fatalf("exit %d, stderr %q", code, errs.String())
	}
	for _, line := range []string{"token_service_url: http://" + l.Addr().String() + "\n", "listen: 127.0.0.1:3978\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
}

// TestDevNext checks that dev names the next command by the path it was itself
// called with.
func TestDevNext(t *testing.T) {
	called := os.Args[0]
	defer func() { os.Args[0] = called }()
	os.Args[0] = "bin/signin-engine"
	var out strings.Builder
	d := &dev{cli: &cli{stdout: &out}, cfg: config.Default()}
	if err := d.goodbye(); err != nil {
		t.Fatal(err)
	}
	if next := "\n  bin/signin-engine inspect\n"; !strings.Contains(out.String(), next) {
		t.Errorf("no line %q in\n%s", next, out.String())
	}
}
