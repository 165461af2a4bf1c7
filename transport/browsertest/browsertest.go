// Package browsertest runs the tests that a real browser has to see: scripts for
// Node that drive the distribution's Chromium.
package browsertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Run runs a script, a path from the directory of the test, with further
// environment variables, each as NAME=value. What the script prints is the
// report; the test fails with it. It is left out of short runs only: where a
// browser or its driver is missing the test fails and says what to do.
func Run(t *testing.T, script string, env ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("a browser is not for short runs")
	}
	chromium := os.Getenv("SIGNIN_TEST_CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); chromium == "" && err == nil {
			chromium = path
		}
	}
	if chromium == "" {
		t.Fatal("No browser: run ./.ci/chromium, or set SIGNIN_TEST_CHROMIUM to a Chromium.")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("No Node: run ./.ci/chromium, or install Node 20 or later.")
	}
	if _, err := os.Stat(filepath.Join(root(t), "transport", "browsertest", "node_modules", "axe-core")); err != nil {
		t.Fatal("The driver of the browser or the rules of accessibility are not installed: run ./.ci/chromium.")
	}
	cmd := exec.CommandContext(t.Context(), node, script) //nolint:gosec // a script of this repository
	cmd.Env = append(append(os.Environ(), "SIGNIN_TEST_CHROMIUM="+chromium, "SIGNIN_TEST_PROFILE="+t.TempDir()), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	t.Logf("%s", out)
}

// root is the directory of the module.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
}
