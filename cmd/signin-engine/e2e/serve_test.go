package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// TestInspect reads a running bot through its socket, the file of a stopped bot,
// and a file that a process holds without a socket.
func TestInspect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), quick)
	p := b.start(t)
	robin := &person{w: w, teams: w.user(b.patient(t), "robin")}
	if err := robin.signIn(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.settled(t)
	info, err := os.Stat(b.db + ".sock")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v; want mode 0600", info, err)
	}

	inspect := func(args ...string) (string, string, int) {
		return b.run(t, append([]string{"inspect", "--store", "bolt:" + b.db}, args...)...)
	}
	id := newest(t, b, robin.teams).ID
	seen := func(when string) {
		t.Helper()
		stdout, stderr, code := inspect(id, "-o", "json")
		var got operator.Detail
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
			t.Fatalf("%s: exit %d, %v: %s", when, code, err, stderr)
		}
		if got.ID != id || got.State != store.Complete || got.Callback.Status != string(store.DeliveryDone) || len(got.Events) == 0 {
			t.Errorf("%s: %s", when, stdout)
		}
		if stdout, stderr, code = inspect(); code != 0 || !strings.Contains(stdout, "1 complete (tokenExchange 1)") {
			t.Errorf("%s: exit %d: %s%s", when, code, stdout, stderr)
		}
	}
	seen("while it runs")
	p.stopped(t)
	if _, err := os.Stat(b.db + ".sock"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket after a stop: %v", err)
	}
	seen("after it stopped")

	// A kill leaves a socket behind on which nobody answers.
	b.start(t).kill()
	seen("after it was killed")

	holder, err := boltstore.Open(b.db)
	if err != nil {
		t.Fatal(err)
	}
	quickest := time.Hour // of three runs, since the machine may be busy with other tests
	for range 3 {
		begun := time.Now()
		_, stderr, code := inspect()
		quickest = min(quickest, time.Since(begun))
		if code != 4 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "locked") {
			t.Errorf("a locked file: exit %d: %s", code, stderr)
		}
	}
	if quickest > time.Second {
		t.Errorf("a locked file: takes %s, more than a second", quickest)
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := b.run(t, "inspect", "--store", "bolt:"+b.db+".missing"); code != 4 {
		t.Errorf("a missing file: exit %d: %s", code, stderr)
	}
	if _, stderr, code := inspect("01ZZZZ"); code != 3 {
		t.Errorf("an unknown id: exit %d: %s", code, stderr)
	}
}

// TestGracefulStop checks that after SIGTERM an invoke in flight is finished and
// no new one is accepted.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), "")
	p := b.start(t)
	robin := w.user(b.client(t), "robin")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := robin.SendMessage(ctx, "login graph"); err != nil {
		t.Fatal(err)
	}
	card, err := w.WaitForCard(ctx, robin.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Delay: time.Second})
	type reply struct {
		emulator.Answer
		err error
	}
	answered := make(chan reply, 1)
	go func() {
		a, err := robin.TokenExchange(ctx, card.ExchangeID(), connection, "sso")
		answered <- reply{a, err}
	}()
	if err := w.arrived(ctx, "/api/usertoken/exchange", 1); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.stop() }()
	eventually(t, "no new connections", func() bool {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", p.address)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case r := <-answered:
		t.Fatalf("the invoke was answered %d, %v before the upstream was", r.Status, r.err)
	default:
	}
	if r := <-answered; r.err != nil || r.Status != http.StatusOK {
		t.Errorf("the invoke in flight: answered %d, %v", r.Status, r.err)
	}
	if err := <-ended; err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if n := w.connected(robin); n != 1 {
		t.Errorf("the user was told %d times, want 1", n)
	}
	s := b.open(t)
	sound(t, s)
	page, err := s.List(t.Context(), store.Filter{})
	if err != nil || len(page.Deliveries) != 1 || page.Deliveries[0].Status != store.DeliveryDone {
		t.Errorf("the outbox holds %+v, %v", page.Deliveries, err)
	}
}

// TestServeRefuses checks that wrong settings end the program with exit code 2
// and one line that names the key, before it listens or stores anything.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	program := program(t, released)
	good := []string{
		"app_id: " + appID,
		"client_secret: " + clientSecret,
		"listen: 127.0.0.1:0",
		"inbound_auth: none",
		"connections: [{name: graph}]",
	}
	for _, c := range []struct {
		name, setting string // replaces the valid setting of that key
		key           string
	}{
		{"unknown key", "colour: red", "colour"},
		{"no app id", "app_id: ''", "app_id"},
		{"no secret", "client_secret: ''", "client_secret"},
		{"no authentication off loopback", "listen: 0.0.0.0:0", "inbound_auth"},
		{"odd authentication", "inbound_auth: maybe", "inbound_auth"},
		{"no connections", "connections: []", "connections"},
		{"one name twice", "connections: [{name: graph}, {name: Graph}]", "connections[1].name"},
		{"one alias twice", "connections: [{name: a, alias: x}, {name: b, alias: X}]", "connections[1].alias"},
		{"every host", "service_urls: ['*']", "service_urls"},
		{"zero duration", "timeouts: {sweep: 0s}", "timeouts.sweep"},
		{"negative duration", "timeouts: {attempt: -1m}", "timeouts.attempt"},
		{"no duration", "timeouts: {lease: soon}", "timeouts.lease"},
		{"upstream beyond lease", "timeouts: {upstream: 30s, lease: 30s}", "timeouts.upstream"},
		{"odd policy", "policy: {late_invoke: perhaps}", "policy.late_invoke"},
		{"odd store", "store: redis:x", "store"},
		{"odd level", "log: {level: loud}", "log.level"},
		{"odd upstream", "token_service_url: https://user:pw@127.0.0.1", "token_service_url"},
		{"upstream with a query", "login_url: https://127.0.0.1/?tenant=x", "login_url"},
		{"operator without token", "operator: 127.0.0.1:0", "operator_token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			key, _, _ := strings.Cut(c.setting, ":")
			lines := slices.DeleteFunc(slices.Clone(good), func(l string) bool { return strings.HasPrefix(l, key+":") })
			lines = append(lines, c.setting)
			if key != "store" {
				lines = append(lines, "store: bolt:"+filepath.Join(dir, "signin.db"))
			}
			b := &bot{program: program, config: filepath.Join(dir, "config.yaml")}
			if err := os.WriteFile(b.config, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			stdout, stderr, code := b.run(t, "serve", "--config", b.config)
			if code != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.key+":") {
				t.Errorf("exit %d: %s%s; want 2 and one line about %s", code, stdout, stderr, c.key)
			}
			clean(t, "the complaint", []byte(stderr))
			left, err := filepath.Glob(filepath.Join(dir, "signin*"))
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
