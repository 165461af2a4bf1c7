package teamsbot_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/metrics"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

var _ teamsbot.Metrics = (*metrics.Metrics)(nil)

// small is the smallest valid configuration.
func small() teamsbot.Config {
	return teamsbot.Config{
		Engine: machine.Config{
			AppID: "00000000-0000-4000-8000-0000000000b0", Store: memstore.New(time.Now),
			Connections: []machine.Connection{{Name: "graph"}},
		},
		ClientSecret: tokensvc.NewSecret("secret"),
		Listen:       "127.0.0.1:0",
	}
}

var quiet = teams.BotFunc(func(context.Context, *machine.Turn) (*machine.Answer, error) { return nil, nil })

// TestNewRefuses checks that New refuses what cannot be served.
func TestNewRefuses(t *testing.T) {
	own := func(h http.Handler) http.Handler { return h }
	for want, change := range map[string]func(*teamsbot.Config){
		"Engine.Store is required":    func(c *teamsbot.Config) { c.Engine.Store = nil },
		"client id and secret":        func(c *teamsbot.Config) { c.Engine.AppID = "" },
		"ClientSecret or Credentials": func(c *teamsbot.Config) { c.ClientSecret = tokensvc.Secret{} },
		"exclude each other":          func(c *teamsbot.Config) { c.Credentials = tokensvc.Static(tokensvc.NewSecret("x")) },
		"Operator.Token is required": func(c *teamsbot.Config) {
			c.OperatorAt = operator.Endpoint{Network: "tcp", Address: "127.0.0.1:0"}
		},
		"Grace is negative":           func(c *teamsbot.Config) { c.Grace = -1 },
		"*":                           func(c *teamsbot.Config) { c.ServiceURLs = []string{"*"} },
		`"nobody"`:                    func(c *teamsbot.Config) { c.InboundAuth = "nobody" },
		"works on a loopback":         func(c *teamsbot.Config) { c.InboundAuth, c.Listen = teams.InboundAuthNone, ":3978" },
		"and Authenticate need":       func(c *teamsbot.Config) { c.InboundAuth = teams.InboundAuthCustom },
		"Authenticate need each":      func(c *teamsbot.Config) { c.Authenticate = own },
		"queue: must not be negative": func(c *teamsbot.Config) { c.Limits.Queue = -1 },
		"base URL":                    func(c *teamsbot.Config) { c.TokenServiceURL = "nowhere" },
		"Connections is missing":      func(c *teamsbot.Config) { c.Engine.Connections = nil },
	} {
		t.Run(want, func(t *testing.T) {
			cfg := small()
			change(&cfg)
			if _, err := teamsbot.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
	if _, err := teamsbot.New(small()); err != nil {
		t.Error(err)
	}
}

// TestLight checks that this package does not depend on the heavy packages of the
// adapters.
func TestLight(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, heavy := range []string{"github.com/Azure/", "github.com/prometheus/", "go.opentelemetry.io/", "store/pgstore", "github.com/jackc/"} {
		if strings.Contains(string(out), heavy) {
			t.Errorf("transport/teamsbot pulls in %s", heavy)
		}
	}
}

// TestOwnParts checks that the caller's own upstreams are used, and that no
// client secret is required then.
func TestOwnParts(t *testing.T) {
	cfg := small()
	cfg.ClientSecret = tokensvc.Secret{}
	tokens, err := tokensvc.New(tokensvc.Config{
		BaseURL: "http://127.0.0.1:1", Credentials: tokensvc.Static(tokensvc.NewSecret("x")),
	})
	if err != nil {
		t.Fatal(err)
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: tokensvc.Static(tokensvc.NewSecret("x"))})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Engine.Tokens, cfg.Engine.Messenger = tokens, connector
	if _, err := teamsbot.New(cfg); err != nil {
		t.Error(err)
	}
}

// running is a bot that is served.
type running struct {
	address string
	stop    context.CancelFunc
	ended   chan error
}

func serve(t *testing.T, cfg teamsbot.Config, code teams.Bot, doors ...teamsbot.Door) *running {
	t.Helper()
	return serveWith(t, cfg, func(*machine.Engine) teams.Bot { return code }, doors...)
}

// serveWith serves a bot whose code needs the engine.
func serveWith(t *testing.T, cfg teamsbot.Config, code func(*machine.Engine) teams.Bot, doors ...teamsbot.Door) *running {
	t.Helper()
	b, err := teamsbot.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h, err := b.Handler(code(b.Engine()))
	if err != nil {
		t.Fatal(err)
	}
	own, err := b.Doors(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	r := &running{address: l.Addr().String(), stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- b.Serve(ctx, l, h, append(own, doors...)...) }()
	return r
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestOrder checks that an activity which is in flight at the shutdown is
// answered, and that operators can read until the engine has stopped.
func TestOrder(t *testing.T) {
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}}})
	azure := httptest.NewServer(emu)
	defer azure.Close()
	emu.SetBaseURL(azure.URL)
	cfg := small()
	cfg.TokenServiceURL, cfg.LoginURL = azure.URL, azure.URL
	cfg.ServiceURLs = []string{strings.TrimPrefix(azure.URL, "http://")}
	cfg.InboundAuth = teams.InboundAuthNone
	cfg.OperatorAt = operator.Endpoint{Network: "unix", Address: t.TempDir() + "/s"}
	shown := metrics.New(metrics.Config{Store: cfg.Engine.Store, Version: "v1"})
	cfg.Metrics, cfg.Version = shown, "v1"

	entered, leave := make(chan struct{}), make(chan struct{})
	r := serve(t, cfg, teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		close(entered)
		<-leave
		return nil, turn.Send(ctx, "done")
	}))
	defer r.stop()
	look := operator.NewClient(cfg.OperatorAt, tokensvc.Secret{})
	defer func() { _ = look.Close() }()

	user := emu.Teams("http://" + r.address + "/api/messages")
	answered := make(chan error, 1)
	go func() {
		a, err := user.SendMessage(t.Context(), "hello")
		if err == nil && a.Status != http.StatusOK {
			err = errors.New("not answered with 200")
		}
		answered <- err
	}()
	<-entered
	r.stop()
	info, err := look.Info(t.Context())
	if err != nil || info.Version != "v1" || len(info.Names) != 1 {
		t.Errorf("operators see %+v, %v", info, err)
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if _, err := emu.WaitForText(t.Context(), user.Conversation.ID, "done"); err != nil {
		t.Error(err)
	}
	if _, err := look.Info(t.Context()); err == nil {
		t.Error("the operator endpoint is still open")
	}
}

// TestReady checks that a bot without signing keys is not ready.
func TestReady(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	defer down.Close()
	cfg := small()
	cfg.Auth.OpenIDMetadataURL = down.URL
	r := serve(t, cfg, quiet)
	defer r.stop()
	if status, text := get(t, http.DefaultClient, "http://"+r.address+"/healthz"); status != http.StatusOK || text != "ok\n" {
		t.Errorf("/healthz is %d %q", status, text)
	}
	status, text := get(t, http.DefaultClient, "http://"+r.address+"/readyz")
	if status != http.StatusServiceUnavailable || text != "signing keys unavailable\n" {
		t.Errorf("/readyz is %d %q", status, text)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// TestTokenAtStart checks that the bot's own token is fetched before anybody
// needs it, and that a bot which gets none logs this and serves.
func TestTokenAtStart(t *testing.T) {
	for _, tt := range []struct{ name, secret, said string }{
		{"right", "secret", "the bot's own token is there"},
		{"wrong", "of yesterday", "invalid_client"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			emu := emulator.New(emulator.Config{ClientSecret: tokensvc.NewSecret("secret")})
			azure := httptest.NewServer(emu)
			defer azure.Close()
			emu.SetBaseURL(azure.URL)
			cfg := small()
			cfg.TokenAtStart, cfg.ClientSecret = true, tokensvc.NewSecret(tt.secret)
			cfg.TokenServiceURL, cfg.LoginURL = azure.URL, azure.URL
			cfg.InboundAuth = teams.InboundAuthNone
			log := make(lines, 100)
			cfg.Engine.Log = zerolog.New(log)
			r := serve(t, cfg, quiet)
			defer r.stop()
			for line := range log {
				if strings.Contains(line, tt.said) {
					break
				}
			}
			if status, text := get(t, http.DefaultClient, "http://"+r.address+"/readyz"); status != http.StatusOK {
				t.Errorf("/readyz is %d %q", status, text)
			}
			r.stop()
			if err := <-r.ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// lines receives the lines of a log.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// TestDoorFails checks that Serve ends if a door cannot be served.
func TestDoorFails(t *testing.T) {
	closed := listen(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := small()
	cfg.Engine.Log = zerolog.Nop()
	r := serve(t, cfg, quiet, teamsbot.Door{Listener: closed, Handler: http.NotFoundHandler()})
	defer r.stop()
	if err := <-r.ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve ended with %v", err)
	}
}
