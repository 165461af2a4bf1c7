package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// answerLimit is how long Teams waits for the answer to an invoke.
const answerLimit = 15 * time.Second

// withoutWaiting separates calls that are not made from calls that wait. Even on
// a busy machine the former take far less. The latter take 10 s, the default of
// timeouts.upstream.
const withoutWaiting = 5 * time.Second

// TestTokenServiceDead checks that every invoke is answered within the time that
// Teams waits, whatever the Token Service does under load. The answer is that of
// row B3 for an exchange without an answer. Once the breaker is open, it takes
// milliseconds. doctor, explain and the metrics say what is wrong. When the
// service is back, users sign in with the cards that they have.
func TestTokenServiceDead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		dies func(w *world, service *httptest.Server) (revive func())
	}{
		{"refused", func(w *world, service *httptest.Server) func() {
			at := service.Listener.Addr().String()
			service.CloseClientConnections()
			service.Close()
			return func() { listenAgain(t, w, at) }
		}},
		{"hanging", func(w *world, _ *httptest.Server) func() {
			w.AddFault(emulator.Fault{Operation: emulator.OpExchange, Delay: time.Hour})
			return w.ClearFaults
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const users = 40
			w := newWorld(t, true)
			service := httptest.NewServer(w)
			t.Cleanup(service.Close)
			b := newBot(t, w, program(t, released), "")
			b.start(t, "SIGNIN_ENGINE_TOKEN_SERVICE_URL="+service.URL, "SIGNIN_ENGINE_LIMITS_SIGN_INS_PER_MINUTE=0")
			client := b.client(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()

			people := make([]*emulator.Teams, users)
			cards := make([]emulator.Card, users)
			for i := range people {
				people[i] = w.user(client, fmt.Sprintf("dead-%d", i))
				if _, err := people[i].SendMessage(ctx, "login graph"); err != nil {
					t.Fatal(err)
				}
				var err error
				if cards[i], err = w.WaitForCard(ctx, people[i].Conversation.ID, 0); err != nil {
					t.Fatal(err)
				}
			}
			revive := c.dies(w, service)

			// exchange lets all users exchange at once. It returns how long each
			// answer took, sorted.
			exchange := func(round string, want int) []time.Duration {
				took := make([]time.Duration, users)
				var wg sync.WaitGroup
				for i, user := range people {
					wg.Go(func() {
						begun := time.Now()
						a, err := user.TokenExchange(ctx, cards[i].ExchangeID(), connection, "sso-"+round+user.User.ID)
						took[i] = time.Since(begun)
						if err != nil || a.Status != want {
							t.Errorf("%s, %s: %d %s, %v; want %d", round, user.User.Name, a.Status, a.Body, err, want)
						}
					})
				}
				wg.Wait()
				slices.Sort(took)
				t.Logf("%s: median %s, longest %s", round, took[users/2], took[users-1])
				return took
			}
			if took := exchange("dying", http.StatusPreconditionFailed); took[users-1] >= answerLimit {
				t.Errorf("an invoke was answered after %s", took[users-1])
			}
			// The slowest may be the request that the open breaker lets through
			// as a probe.
			if took := exchange("dead", http.StatusPreconditionFailed); took[users-2] >= withoutWaiting || took[users-1] >= answerLimit {
				t.Errorf("with an open breaker the slowest answers took %s", took[users-5:])
			}

			stdout, _, code := b.run(t, "doctor", "--store", "bolt:"+b.db)
			if !strings.Contains(stdout, "token_service at "+strings.TrimPrefix(service.URL, "http://")+" does not answer") || code == 0 {
				t.Errorf("doctor (exit %d):\n%s", code, stdout)
			}
			sample := fmt.Sprintf("\nsignin_circuit_open{host=%q,upstream=\"token_service\"} 1\n", strings.TrimPrefix(service.URL, "http://"))
			if scraped := string(operatorJSON(t, b, "/metrics")); !strings.Contains(scraped, sample) {
				t.Errorf("/metrics has no %s", sample)
			}
			if a := newest(t, b, people[0]); a.Failure == nil || a.Failure.Source != "token_service" {
				t.Errorf("the attempt has the failure %+v", a.Failure)
			}
			if stdout, _, _ := b.run(t, "inspect", "--store", "bolt:"+b.db, newest(t, b, people[0]).ID); !strings.Contains(stdout, "circuit_open") {
				t.Errorf("the timeline does not say circuit_open:\n%s", stdout)
			}

			revive()
			eventually(t, "the service is used again", func() bool {
				a, err := people[0].TokenExchange(ctx, cards[0].ExchangeID(), connection, "sso-again")
				return err == nil && a.Status == http.StatusOK
			})
			exchange("again", http.StatusOK)
		})
	}
}

// listenAgain serves the world at an address on which it had stopped to listen.
func listenAgain(t *testing.T, w *world, at string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	again := httptest.NewUnstartedServer(w)
	_ = again.Listener.Close() // the listener that httptest opened
	again.Listener = l
	again.Start()
	t.Cleanup(again.Close)
}
