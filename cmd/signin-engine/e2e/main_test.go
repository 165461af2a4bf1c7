// Package e2e tests the program as users run it. It builds signin-engine and runs
// it as a child process on a bbolt file, or as several on one Postgres. It kills
// and restarts these processes. The test process stands in for Teams, the Token
// Service, Entra, the connector and Graph.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// rounds is how often TestRandomKills kills the bot.
var rounds = flag.Int("e2e.rounds", 20, "how often TestRandomKills kills the bot")

// terms is how often TestTermUnderLoad stops the bot.
var terms = flag.Int("e2e.terms", 20, "how often TestTermUnderLoad stops the bot")

// howMany is how many sign-ins TestInstances and TestInstancesFail play.
var howMany = flag.Int("e2e.signins", 600, "how many sign-ins TestInstances plays")

// The builds of the program, each made when it is first needed, in a directory of
// this run.
var (
	buildDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "signin-engine-e2e") })
	released = sync.OnceValues(func() (string, error) { return build("released") })
	raced    = sync.OnceValues(func() (string, error) { return build("raced", "-race") })
	mined    = sync.OnceValues(func() (string, error) { return build("mined", "-tags", "failpoints") })
)

func TestMain(m *testing.M) {
	if address := os.Getenv(guardedStore); address != "" {
		if err := serveGuarded(address, os.Getenv(guardedAzure)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	code := m.Run()
	dir, err := buildDir()
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func build(name string, flags ...string) (string, error) {
	dir, err := buildDir()
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, name)
	args := append([]string{"build", "-o", program}, flags...)
	if out, err := exec.Command("go", append(args, "..")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return program, nil
}

// program returns the path of a build.
func program(t *testing.T, built func() (string, error)) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
