package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// patience bounds every wait for something that must happen.
const patience = 45 * time.Second

// longestLease is longer than `timeouts.outbox_lease`. If a connection or a
// process dies before the store's answer to a claim arrives, the claim holds its
// row for that long.
const longestLease = 90 * time.Second

// bot is `signin-engine serve` on one store, across restarts of its process.
type bot struct {
	program string
	config  string // path of the YAML file
	db      string // path of the bbolt file

	mu      sync.Mutex
	now     *process      // nil while none serves
	changed chan struct{} // closed when now changes
	logs    bytes.Buffer  // stdout and stderr of all processes
}

// process is one run of the program.
type process struct {
	cmd     *exec.Cmd
	address string
	exited  chan struct{} // closed when err is set
	err     error
}

// newBot writes the configuration, to which it appends extra. A process that
// still runs at the end of the test is killed.
func newBot(t *testing.T, w *world, program, extra string) *bot {
	t.Helper()
	dir := t.TempDir()
	b := &bot{
		program: program,
		config:  filepath.Join(dir, "config.yaml"),
		db:      filepath.Join(dir, "signin.db"),
		changed: make(chan struct{}),
	}
	yaml := fmt.Sprintf(`
app_id: %[1]s
client_secret: %[2]s
listen: 127.0.0.1:0
store: bolt:%[3]s
token_service_url: %[4]s
login_url: %[4]s
inbound_auth: none
service_urls: [%[5]s]
log: {level: debug, format: json}
connections:
  - name: teamsgraph
    alias: graph
    display_name: Microsoft Graph
    profile: {command: my ad user, url: %[4]s/v1.0/me}
`, appID, clientSecret, b.db, w.url, w.host()) + extra
	if err := os.WriteFile(b.config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.mu.Lock()
		p := b.now
		b.mu.Unlock()
		if p != nil {
			p.kill()
		}
		if t.Failed() {
			t.Logf("the bot's log ends with:\n%s", tail(b.log(), 8<<10))
		}
	})
	return b
}

// quick sets short durations, so that a test sees recovery without a long wait. A
// duplicate waits longer than the lease of a dead owner lasts.
const quick = `
policy: {duplicate_wait: 4s, callback_budget: 400ms}
timeouts: {upstream: 1500ms, lease: 2500ms, outbox_lease: 2s, sweep: 200ms}
`

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// start runs the program and returns once it serves.
func (b *bot) start(t *testing.T, env ...string) *process {
	t.Helper()
	p, err := b.tryStart(env...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (b *bot) tryStart(env ...string) (*process, error) {
	p := &process{exited: make(chan struct{})}
	out := &console{bot: b, serving: make(chan string, 1)}
	p.cmd = exec.Command(b.program, "serve", "--config", b.config)
	p.cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=10"), env...) // a program built with the race detector sleeps for a second before it exits, unless GORACE says otherwise
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		b.become(p, nil)
		close(p.exited)
	}()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case p.address = <-out.serving:
		b.become(nil, p)
		return p, nil
	case <-p.exited:
		select {
		case p.address = <-out.serving: // it served, and died at once
			return p, nil
		default:
		}
		return nil, fmt.Errorf("serve: %w: %s", p.err, tail(b.log(), 1<<10))
	case <-deadline.C:
		p.kill()
		return nil, errors.New("serve: does not come up")
	}
}

// serving returns the process that serves, nil if there is none.
func (b *bot) serving() *process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// become replaces old by next as the process that serves. It does nothing if old
// does not serve any more, or if next has already died.
func (b *bot) become(old, next *process) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.now != old {
		return
	}
	if next != nil {
		select {
		case <-next.exited: // died as soon as it had come up
			return
		default:
		}
	}
	b.now = next
	close(b.changed)
	b.changed = make(chan struct{})
}

// console collects what a process writes, and finds the line that says where the
// process listens.
type console struct {
	bot     *bot
	serving chan string
	line    []byte
}

func (c *console) Write(p []byte) (int, error) {
	c.bot.mu.Lock()
	c.bot.logs.Write(p)
	c.bot.mu.Unlock()
	c.line = append(c.line, p...)
	for {
		line, rest, ended := bytes.Cut(c.line, []byte("\n"))
		if !ended {
			return len(p), nil
		}
		c.line = rest
		var said struct{ Message, Listen string }
		if json.Unmarshal(line, &said) == nil && said.Message == "serving POST /api/messages" {
			c.serving <- said.Listen
		}
	}
}

// log returns what all processes have written so far.
func (b *bot) log() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.logs.Bytes())
}

// kill sends SIGKILL and returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails if it is gone already
	<-p.exited
}

// stop sends SIGTERM and returns how the process ended.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-p.exited
	return p.err
}

// stopped stops a process and fails the test unless it exits without an error.
func (p *process) stopped(t *testing.T) {
	t.Helper()
	if err := p.stop(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
}

// killed reports whether the process ended by SIGKILL.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// dial connects to the process that serves. It waits until there is one.
func (b *bot) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	var d net.Dialer
	for {
		b.mu.Lock()
		p, changed := b.now, b.changed
		b.mu.Unlock()
		if p != nil {
			if c, err := d.DialContext(ctx, network, p.address); err == nil {
				return c, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// client sends requests to whichever process serves.
func (b *bot) client(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: b.dial, MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// patient is like client, but redelivers as Teams does.
func (b *bot) patient(t *testing.T) *http.Client {
	t.Helper()
	c := b.client(t)
	c.Transport = redelivery{c.Transport}
	return c
}

// run runs another command of the program. It returns the output and the exit
// code.
func (b *bot) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), b.program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// operator returns a client of the running bot's operator socket.
func (b *bot) operator(t *testing.T) *operator.Client {
	t.Helper()
	c := operator.NewClient(operator.SocketBeside(b.db), tokensvc.Secret{}) // a unix socket asks for no token
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// open opens the store file of a stopped bot.
func (b *bot) open(t *testing.T) store.Store {
	t.Helper()
	s, err := boltstore.Open(b.db, boltstore.WithReadOnly())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// eventually polls until done returns true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, done)
}

// eventuallyWithin is eventually with another bound.
func eventuallyWithin(t *testing.T, bound time.Duration, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(bound)
	defer deadline.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// settled waits until no upstream call is in flight and no callback is owed.
// Cards may still wait for their users.
func (b *bot) settled(t *testing.T) {
	t.Helper()
	op := b.operator(t)
	eventuallyWithin(t, longestLease, "nothing is under way", func() bool {
		o, err := op.Overview(t.Context())
		if err != nil {
			return false
		}
		busy := o.Owed
		for _, s := range o.States {
			if s.State != store.CardSent {
				busy += s.Count
			}
		}
		return busy == 0
	})
}
