package docs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/knadh/koanf/parsers/yaml"
)

// TestRelease builds two platforms that are not this one twice, from two clones in
// different places: the bytes are the same, and the program compiles there.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("a release is not for short runs")
	}
	var sums [2]string
	for i, name := range []string{"a", "another-place"} {
		clone, dist := filepath.Join(t.TempDir(), name), t.TempDir()
		run(t, "git", "clone", "-q", "--no-hardlinks", "..", clone)
		run(t, "bash", filepath.Join(clone, ".ci", "release"), dist, "linux/arm64", "windows/amd64")
		if t.Failed() {
			return
		}
		b, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = string(b)
	}
	if sums[0] != sums[1] {
		t.Errorf("two builds of one commit differ:\n%s\n%s", sums[0], sums[1])
	}
	if lines := regexp.MustCompile(`(?m)^[0-9a-f]{64}  signin-engine_\S+_(linux_arm64|windows_amd64)\.tar\.gz$`).FindAllString(sums[0], -1); len(lines) != 2 {
		t.Errorf("SHA256SUMS:\n%s", sums[0])
	}
}

// TestInstall: go install puts a program in place that says what it is.
func TestInstall(t *testing.T) {
	if testing.Short() {
		t.Skip("to install is not for short runs")
	}
	bin := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "install", "../cmd/signin-engine")
	cmd.Env = append(os.Environ(), "GOBIN="+bin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "signin-engine"), "version", "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(out, []byte(runtime.Version())) || bytes.Contains(out, []byte(`"version": "unknown"`)) {
		t.Errorf("version says %s", out)
	}
}

// TestWorkflow: the release workflow can be read, starts only scripts that are
// there, and gives no job more than it needs.
func TestWorkflow(t *testing.T) {
	text := read(t, ".github/workflows/release.yaml")
	w, err := yaml.Parser().Unmarshal([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	jobs, _ := w["jobs"].(map[string]any)
	if len(jobs) != 2 {
		t.Fatalf("jobs are %v", jobs)
	}
	if p, there := w["permissions"].(map[string]any); !there || len(p) > 0 {
		t.Error("jobs have permissions that they do not ask for")
	}
	for name, job := range jobs {
		steps, _ := job.(map[string]any)["steps"].([]any)
		if len(steps) == 0 {
			t.Errorf("job %s does nothing", name)
		}
	}
	scripts := regexp.MustCompile(`\./(\.ci/\w+)`).FindAllStringSubmatch(text, -1)
	if len(scripts) < 3 {
		t.Errorf("only %v are started", scripts)
	}
	for _, m := range scripts {
		info, err := os.Stat(filepath.Join("..", m[1]))
		if err != nil || info.Mode()&0o100 == 0 {
			t.Errorf("%s is no program: %v", m[1], err)
		}
	}
	for _, uses := range regexp.MustCompile(`uses: (\S+)`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains([]string{"actions"}, strings.Split(uses[1], "/")[0]) {
			t.Errorf("a release is made with %s", uses[1])
		}
	}
}
