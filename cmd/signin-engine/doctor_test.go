package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// TestRefusedIsNamed checks that doctor names the refused host and agent, and the
// setting that admits each.
func TestRefusedIsNamed(t *testing.T) {
	h := refusedHealth(&operator.Refused{
		Reasons: map[string]int64{"caller": 3, "service_host": 1},
		Hosts:   []operator.RefusedHost{{Host: "smba.example", Count: 1}},
		Callers: []operator.RefusedCaller{{App: "5f0a6e3c-0f57-4f4f-9d0e-1f0c5d1f7a11", Count: 3}},
	})
	for _, part := range []string{
		"host smba.example (1 time): add it to service_urls",
		"agentic caller 5f0a6e3c-0f57-4f4f-9d0e-1f0c5d1f7a11 (3 times): set agentic, and add it to agentic_callers", "caller (3 times)",
	} {
		if h.Result != healthWarn || !strings.Contains(h.Detail, part) {
			t.Errorf("%s, without %q: %s", h.Result, part, h.Detail)
		}
	}
}

// TestRefusalsOfTheSettings checks that a refusal which points to wrong settings
// is a warning, and that one which any attacker can cause is not.
func TestRefusalsOfTheSettings(t *testing.T) {
	for reason, want := range map[teams.Why]string{
		teams.WhyIssuer: healthWarn, teams.WhyAudience: healthWarn, teams.WhyKeysUnavailable: healthWarn, teams.WhyBusy: healthWarn,
		teams.WhyExpired: healthOK, teams.WhySignature: healthOK,
	} {
		h := refusedHealth(&operator.Refused{Reasons: map[string]int64{string(reason): 2}})
		if h.Result != want || !strings.Contains(h.Detail, string(reason)+" (2 times)") {
			t.Errorf("%s: %+v, want %s", reason, h, want)
		}
	}
}

// TestDeadUpstreamIsNamed checks that doctor fails while an upstream does not
// answer.
func TestDeadUpstreamIsNamed(t *testing.T) {
	dead := operator.Circuit{Upstream: "token_service", Host: "token.example", Open: true, Opened: 1, Refused: 7}
	for _, c := range []struct {
		info         operator.Info
		result, part string
	}{
		{operator.Info{}, healthSkipped, "only a running bot"},
		{operator.Info{Live: true}, healthOK, "answered"},
		{operator.Info{Live: true, Circuits: []operator.Circuit{dead}}, healthFail, "token_service at token.example does not answer (7 requests"},
		{operator.Info{Live: true, Circuits: []operator.Circuit{{Upstream: "login", Host: "login.example", Opened: 2}}}, healthOK, "login at login.example did not answer before (2 times)"},
	} {
		if h := circuitHealth(c.info); h.Result != c.result || !strings.Contains(h.Detail, c.part) {
			t.Errorf("%+v: %+v", c.info, h)
		}
	}
}

// TestOpenSecretFiles checks that doctor warns of a secret file that every user of the
// machine can read or write, and not of one that Kubernetes has mounted.
func TestOpenSecretFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(to, name string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open := file("open", 0o644)
	if err := os.Mkdir(filepath.Join(dir, "..2026_01_31_09_00_00.123"), 0o755); err != nil {
		t.Fatal(err)
	}
	file("..2026_01_31_09_00_00.123/key", 0o644)
	link("..2026_01_31_09_00_00.123", "..data")
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(dir, "a", "b"))
	for name, c := range map[string]struct{ path, want string }{
		"above":            {filepath.Join("..", "..", "open"), ", 0644, "},
		"the owner's":      {file("owner", 0o600), ""},
		"the group's":      {file("group", 0o440), ""},
		"everybody's":      {open, "the mode of client_secret_file, 0644, opens it to every user of this machine: chmod o= " + open},
		"for all to write": {file("write", 0o602), ", 0602, "},
		"a link":           {link(open, "link"), ", 0644, "},
		"of Kubernetes":    {link("..data/key", "key"), ""},
		"not there":        {filepath.Join(dir, "gone"), ""},
	} {
		h := filesHealth([]config.SecretFile{{Key: "client_secret_file", Path: c.path}}, "linux")
		if want := map[bool]string{true: healthOK, false: healthWarn}[c.want == ""]; h.Result != want || !strings.Contains(h.Detail, c.want) {
			t.Errorf("%s: %+v, want %s %s", name, h, want, c.want)
		}
	}
	if h := filesHealth([]config.SecretFile{{Key: "store_file", Path: open}}, "windows"); h.Result != healthSkipped {
		t.Errorf("Windows: %+v", h)
	}
	cfg := config.Default()
	cfg.ClientSecretFile, cfg.StoreFile, cfg.MessageExtension = "a", "b", &config.MessageExtension{KeyFile: "c"}
	want := []config.SecretFile{{Key: "client_secret_file", Path: "a"}, {Key: "store_file", Path: "b"}, {Key: "message_extension.encryption_key_file", Path: "c"}}
	if got := cfg.SecretFiles(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
