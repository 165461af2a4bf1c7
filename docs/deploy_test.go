package docs_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/knadh/koanf/parsers/yaml"

	"github.com/signin-engine/signin-engine/transport/operator"
)

// marked is what stands between two marks of the runbook.
func marked(t *testing.T, mark string) string {
	t.Helper()
	_, rest, ok := strings.Cut(read(t, runbook), "<!-- "+mark+": begin -->\n")
	text, _, ok2 := strings.Cut(rest, "<!-- "+mark+": end -->")
	if !ok || !ok2 {
		t.Fatalf("%s has no marks for %q", runbook, mark)
	}
	return text
}

// first lists the words in the first column of a table.
func first(table string) []string {
	var words []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		words = append(words, m[1])
	}
	return words
}

var metricName = regexp.MustCompile(`\bsignin_[a-z_]+\b`)

// TestMetrics: rules and dashboard name metrics that are documented, with
// labels that they have, and the dashboard shows each of them.
func TestMetrics(t *testing.T) {
	documented := map[string][]string{}
	for line := range strings.Lines(marked(t, "metrics")) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		var labels []string
		for _, l := range strings.Split(cells[2], ",") {
			if l = strings.Trim(l, " `"); l != "" {
				labels = append(labels, l)
			}
		}
		documented[strings.Trim(cells[1], " `")] = append(labels, "instance", "job", "le")
	}
	if len(documented) < 10 {
		t.Fatalf("only %d metrics are documented", len(documented))
	}
	base := func(name string) string {
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if b, ok := strings.CutSuffix(name, suffix); ok && documented[b] != nil {
				return b
			}
		}
		return name
	}
	selector := regexp.MustCompile(`\b(signin_[a-z_]+)\\?\{([^}]*)\}`)
	label := regexp.MustCompile(`([a-z_]+)(?:=|!=|=~|!~)\\?"`)
	for _, name := range []string{"deploy/prometheus/rules.yaml", "deploy/prometheus/rules_test.yaml", "deploy/grafana/dashboard.json"} {
		text := read(t, name)
		used := map[string]bool{}
		for _, m := range metricName.FindAllString(text, -1) {
			used[base(m)] = true
			if documented[base(m)] == nil {
				t.Errorf("%s: %s is not documented in %s", name, m, runbook)
			}
		}
		for _, m := range selector.FindAllStringSubmatch(text, -1) {
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(documented[base(m[1])], l[1]) {
					t.Errorf("%s: %s has no label %s", name, m[1], l[1])
				}
			}
		}
		for metric := range documented {
			if strings.HasSuffix(name, ".json") && !used[metric] {
				t.Errorf("%s does not show %s", name, metric)
			}
		}
	}
	if !json.Valid([]byte(read(t, "deploy/grafana/dashboard.json"))) {
		t.Error("the dashboard is no JSON")
	}
}

// TestAlerts: the runbook has the alerts that there are, each points to a
// heading of it, and every stuck rule raises one.
func TestAlerts(t *testing.T) {
	text := read(t, "deploy/prometheus/rules.yaml")
	var defined []string
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(text, -1) {
		defined = append(defined, m[1])
	}
	documented := first(marked(t, "alerts"))
	slices.Sort(defined)
	slices.Sort(documented)
	if !slices.Equal(defined, documented) {
		t.Errorf("alerts are %v, documented are %v", defined, documented)
	}
	headings := anchors(read(t, runbook))
	for _, m := range regexp.MustCompile(`runbook: '?docs/operations\.md#([^'\n]+)`).FindAllStringSubmatch(text, -1) {
		if m[1] != "{{ $labels.rule }}" && !headings[m[1]] {
			t.Errorf("rules.yaml points to %s#%s, which is not there", runbook, m[1])
		}
	}
	tested := read(t, "deploy/prometheus/rules_test.yaml")
	for _, alert := range defined {
		if !regexp.MustCompile(`alertname: ` + alert + "\n +exp_alerts:").MatchString(tested) {
			t.Errorf("no test makes %s fire", alert)
		}
	}
	for _, e := range operator.Explanations() {
		if e.Kind == "stuck rule" && !regexp.MustCompile(`signin_stuck\{rule=~?"[^"]*\b`+e.Code+`\b|operations\.md#`+e.Code+`\b`).MatchString(text) {
			t.Errorf("no alert looks at the stuck rule %s", e.Code)
		}
	}
}

// tool finds a program that .ci/deploy sees to.
func tool(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("the tools of others are not for short runs")
	}
	if own, err := filepath.Abs(filepath.Join("..", "bin", name)); err == nil {
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	where, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: run ./.ci/deploy", name)
	}
	return where
}

// TestMissingTools runs .ci/deploy where nothing is installed and nothing may be. It
// must say so: a script that finds what is not there lets the tests fail later.
func TestMissingTools(t *testing.T) {
	there, programs := t.TempDir(), t.TempDir()
	script := filepath.Join(there, ".ci", "deploy")
	if err := os.Mkdir(filepath.Dir(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{script: read(t, ".ci/deploy"), filepath.Join(programs, "id"): "#!/bin/sh\necho 1000\n"} {
		if err := os.WriteFile(name, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bash", "dirname", "uname"} {
		if err := os.Symlink(tool(t, name), filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	deploy := exec.CommandContext(t.Context(), script)
	deploy.Env = []string{"PATH=" + programs}
	out, err := deploy.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "No promtool: install Prometheus") {
		t.Errorf("%v: %s", err, out)
	}
}

func run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
}

func TestPromtool(t *testing.T) {
	promtool := tool(t, "promtool")
	run(t, promtool, "check", "rules", "../deploy/prometheus/rules.yaml")
	run(t, promtool, "test", "rules", "../deploy/prometheus/rules_test.yaml")
}

func TestUnit(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("systemd is a thing of Linux")
	}
	unit := read(t, "deploy/systemd/signin-engine.service")
	verify := tool(t, "systemd-analyze")
	there := filepath.Join(t.TempDir(), "signin-engine.service")
	unit = strings.ReplaceAll(unit, "ExecStart=/usr/local/bin/signin-engine ", "ExecStart=/bin/true ")
	if err := os.WriteFile(there, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, verify, "verify", there)
}

// TestManifests: what the kustomization names is there, and can be read.
func TestManifests(t *testing.T) {
	const dir = "deploy/kubernetes/"
	k, err := yaml.Parser().Unmarshal([]byte(read(t, dir+"kustomization.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	resources, _ := k["resources"].([]any)
	if len(resources) == 0 {
		t.Fatal("the kustomization has no resources")
	}
	for _, r := range append(resources, "bot.yaml") {
		name, _ := r.(string)
		for doc := range strings.SplitSeq(read(t, dir+name), "\n---\n") {
			if _, err := yaml.Parser().Unmarshal([]byte(doc)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if kubectl, err := exec.LookPath("kubectl"); err == nil {
		run(t, kubectl, "kustomize", "../deploy/kubernetes")
	} else {
		t.Log("kubectl is not installed: the kustomization was not built")
	}
}

// TestEnvironment: variables that deploy/ sets belong to settings that
// docs/configuration.md has.
func TestEnvironment(t *testing.T) {
	page := read(t, "docs/configuration.md")
	for _, name := range files(t, "Containerfile", ".service", ".yaml") {
		if !strings.HasPrefix(name, "deploy/") {
			continue
		}
		for _, m := range regexp.MustCompile(`(?m)(?:name: |Environment=|ENV |^ +)SIGNIN_ENGINE_([A-Z_]+)`).FindAllStringSubmatch(read(t, name), -1) {
			if key := strings.ToLower(m[1]); !strings.Contains(page, "| `"+key+"` |") {
				t.Errorf("%s: docs/configuration.md has no setting %s", name, key)
			}
		}
	}
}
