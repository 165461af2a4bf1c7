package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

// The environment that turns a process of this test binary into a bot behind a
// guard.
const (
	guardedStore = "SIGNIN_E2E_GUARDED_STORE" // a file, or an address of Postgres
	guardedAzure = "SIGNIN_E2E_GUARDED_AZURE" // URL of the world
)

// serveGuarded serves a bot whose only handler stands behind a guard for two
// connections.
func serveGuarded(address, azure string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var st store.Store
	if strings.HasPrefix(address, "postgres:") {
		st, err = pgstore.Open(ctx, address)
	} else {
		st, err = boltstore.Open(address)
	}
	if err != nil {
		return err
	}
	timeouts := machine.DefaultTimeouts()
	timeouts.Upstream, timeouts.Lease, timeouts.OutboxLease = 1500*time.Millisecond, 2500*time.Millisecond, 2*time.Second
	timeouts.Sweep = 200 * time.Millisecond
	policy := machine.DefaultPolicy()
	policy.DuplicateWait, policy.CallbackBudget = 4*time.Second, 400*time.Millisecond
	bot, err := teamsbot.New(teamsbot.Config{
		Engine: machine.Config{
			AppID: appID, Store: st, Log: zerolog.New(os.Stderr), Timeouts: &timeouts, Policy: &policy,
			Connections: []machine.Connection{{Name: "graph"}, {Name: "github"}},
		},
		ClientSecret: tokensvc.NewSecret(clientSecret), TokenServiceURL: azure, LoginURL: azure,
		ServiceURLs: []string{strings.TrimPrefix(azure, "http://")},
		Listen:      "127.0.0.1:0", InboundAuth: teams.InboundAuthNone,
	})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	guard, err := teams.RequireSignIn(bot.Engine(), teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		text := "Done: " + turn.Activity().Text
		for _, name := range []string{"graph", "github"} {
			if tok, ok := teams.TokenOf(ctx, name); !ok || tok.Token.Empty() {
				text += ", without " + name
			}
		}
		return nil, turn.Send(ctx, text)
	}), []string{"graph", "github"})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	return errors.Join(bot.Run(ctx, guard), st.Close())
}

// TestGuardUnderKills has a user who writes once and then signs in to two
// connections. After each step the process that served is killed, once while it
// calls back, and another one goes on. The handler gets the user's message
// exactly once.
func TestGuardUnderKills(t *testing.T) {
	for _, tt := range []struct {
		name string
		// next returns a process on the same store that has not served before.
		next func(*testing.T, *world) func() *bot
	}{
		{"bolt", func(t *testing.T, w *world) func() *bot {
			t.Helper()
			b := newBot(t, w, os.Args[0], "")
			return func() *bot {
				b.start(t, guardedStore+"="+b.db, guardedAzure+"="+w.url)
				return b
			}
		}},
		{"postgres", func(t *testing.T, w *world) func() *bot {
			t.Helper()
			address := pgtest.WithParam(pgtest.NewCluster(t).DSN(), "schema", "bot")
			return func() *bot {
				b := newBot(t, w, os.Args[0], "")
				b.start(t, guardedStore+"="+address, guardedAzure+"="+w.url)
				return b
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorldOf(t, emulator.Connection{Name: "graph", SSO: true}, emulator.Connection{Name: "github"})
			next := tt.next(t, w)
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			serving := &latest{changed: make(chan struct{})}
			user := w.user(&http.Client{Transport: redelivery{serving}}, "29:guarded")
			answered := make(chan error, 1)
			send := func(what string, do func() (emulator.Answer, error)) {
				go func() {
					a, err := do()
					if err == nil && a.Status != http.StatusOK {
						err = errors.New(what + " was answered " + http.StatusText(a.Status))
					}
					answered <- err
				}()
			}

			b := next()
			serving.become(b.client(t))
			send("the message", func() (emulator.Answer, error) { return user.SendMessage(ctx, "show my issues") })
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
			graph, err := w.WaitForCard(ctx, user.Conversation.ID, 0)
			if err != nil {
				t.Fatal(err)
			}
			b.serving().kill()

			b = next()
			serving.become(b.client(t))
			send("tokenExchange", func() (emulator.Answer, error) { return user.TokenExchange(ctx, graph.ExchangeID(), "graph", "sso") })
			github, err := w.WaitForCard(ctx, user.Conversation.ID, graph.Seq)
			if err != nil {
				t.Fatal(err)
			}
			b.serving().kill() // it sent the second card a moment ago, in the callback of the first sign-in

			b = next()
			serving.become(b.client(t))
			if err := <-answered; err != nil { // sent again, unless it was answered before the kill
				t.Fatal(err)
			}
			code, err := emulator.SignInWithPage(ctx, nil, github.SignInLink)
			if err != nil {
				t.Fatal(err)
			}
			send("verifyState", func() (emulator.Answer, error) { return user.VerifyState(ctx, code, github.ActivityID) })
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
			if _, err := w.WaitForText(ctx, user.Conversation.ID, "Done: show my issues"); err != nil {
				t.Fatal(err)
			}
			b.serving().stopped(t) // a callback that is still owed is made now or never
			b = next()
			b.serving().stopped(t)
			var said []string
			for _, a := range w.Activities(user.Conversation.ID) {
				if a.Card == nil {
					said = append(said, a.Text)
				}
			}
			if len(said) != 1 {
				t.Errorf("the handler said %q", said)
			}
		})
	}
}

// latest sends to the bot that was named last. A request to another bot that is
// still in flight when the next is named is sent again.
type latest struct {
	mu      sync.Mutex
	bot     http.RoundTripper
	changed chan struct{} // closed when another bot is named
}

func (l *latest) become(c *http.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bot = c.Transport
	close(l.changed)
	l.changed = make(chan struct{})
}

// RoundTrip implements [http.RoundTripper].
func (l *latest) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		l.mu.Lock()
		bot, changed := l.bot, l.changed
		l.mu.Unlock()
		ctx, cancel := context.WithCancel(req.Context())
		again := req.Clone(ctx)
		var err error
		if again.Body, err = req.GetBody(); err != nil {
			cancel()
			return nil, err
		}
		go func() {
			select {
			case <-changed:
				cancel()
			case <-ctx.Done():
			}
		}()
		resp, err := whole(bot.RoundTrip(again))
		cancel()
		select {
		case <-changed:
			if err != nil && req.Context().Err() == nil {
				continue
			}
		default:
		}
		return resp, err
	}
}
