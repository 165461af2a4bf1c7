// Package browsertest_test runs the popup of a message extension in a real browser,
// with the program as users run it, the published library of the Teams client and a
// published provider: see popup.test.mjs.
package browsertest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const clientSecret = "canary-client-secret"

func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("the inner loop runs without a browser")
	}
	if out, err := exec.CommandContext(t.Context(), "../../.ci/chromium").CombinedOutput(); err != nil {
		t.Fatalf("The browser test cannot run: %v\n%s", err, out)
	}
	program := filepath.Join(t.TempDir(), "signin-engine")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/signin-engine").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	issuer := freeAddress(t)
	good := startBot(t, program, issuer, "5m")
	hasty := startBot(t, program, issuer, "1s")

	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--test", "--test-reporter=spec", "popup.test.mjs")
	cmd.Env = append(os.Environ(), "BOT_URL="+good.url, "HASTY_BOT_URL="+hasty.url, "ISSUER_URL=http://"+issuer, "CLIENT_SECRET="+clientSecret)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%v\nthe bot's log:\n%s", err, good.log.Bytes())
	}
	for _, b := range []*bot{good, hasty} {
		if bytes.Contains(b.log.Bytes(), []byte(clientSecret)) {
			t.Error("the client secret is in the log")
		}
	}
}

// freeAddress is one that nobody listens on. A process listens there in a moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// bot is `signin-engine serve` with a message extension.
type bot struct {
	url string
	log output
}

// output is what a process has written.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	serving chan struct{}
	once    sync.Once
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(b)
	if bytes.Contains(o.buf.Bytes(), []byte("serving POST /api/messages")) {
		o.once.Do(func() { close(o.serving) })
	}
	return len(b), nil
}

// Bytes is all of it.
func (o *output) Bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf.Bytes())
}

// startBot runs the program until the test ends.
func startBot(t *testing.T, program, issuer, codeLifetime string) *bot {
	t.Helper()
	address, dir := freeAddress(t), t.TempDir()
	b := &bot{url: "http://" + address, log: output{serving: make(chan struct{})}}
	settings, err := json.Marshal(map[string]any{ // which is YAML too
		"app_id": "00000000-0000-4000-8000-0000000000b0", "listen": address, "store": "bolt:" + filepath.Join(dir, "signin.db"),
		"inbound_auth": "none", "outbound_auth": "none", "service_urls": []string{issuer},
		"token_service_url": "http://" + issuer, "login_url": "http://" + issuer, "log": map[string]string{"level": "debug", "format": "json"},
		"message_extension": map[string]any{
			"connection": "wiki", "public_url": b.url, "code_lifetime": codeLifetime,
			"encryption_key": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)),
			"provider": map[string]any{
				"issuer": "http://" + issuer, "client_id": "bot-client", "client_secret": clientSecret,
				"scopes": []string{"profile", "offline_access"},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "bot.yaml")
	if err := os.WriteFile(config, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", "--config", config)
	cmd.Stdout, cmd.Stderr = &b.log, &b.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var failed error // stands once it has ended
	go func() { failed = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails if it is gone already
		<-ended
	})
	select {
	case <-b.log.serving:
	case <-ended:
		t.Fatalf("serve: %v\n%s", failed, b.log.Bytes())
	case <-time.After(time.Minute):
		t.Fatalf("serve does not come up:\n%s", b.log.Bytes())
	}
	return b
}
