package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// TestRotationUnderLoad lets users sign in without a pause. Meanwhile the store
// gets a new key, the connector signs with another key, and the bot changes its
// client secret. No honest request may fail.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const workers, rounds = 8, 3
	w := newWorld(t, true)
	file := filepath.Join(t.TempDir(), "secret")
	secret := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret(clientSecret)
	b := newBot(t, w, program(t, released), "")
	config, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	yaml := strings.Replace(string(config), "client_secret: "+clientSecret, "client_secret_file: "+file, 1) +
		"timeouts: {sweep: 200ms}\nlimits: {sign_ins_per_minute: 0}\n"
	if err := os.WriteFile(b.config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	p := b.start(t, metadata(w.url)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	// signIn plays one user, every other one by a code. Each sends the invoke
	// twice.
	var done atomic.Int64
	signIn := func(n int64) error {
		user := w.user(b.client(t), fmt.Sprintf("rotation-%d", n))
		user.Authorize = func(_ context.Context, r *http.Request) error {
			token, err := w.ConnectorToken(appID, w.ServiceURL()) // signed with the key of this moment
			r.Header.Set("Authorization", "Bearer "+token)
			return err
		}
		if a, err := user.SendMessage(ctx, "login graph"); err != nil || a.Status != http.StatusOK {
			return fmt.Errorf("message: %d, %w", a.Status, err)
		}
		card, err := w.WaitForCard(ctx, user.Conversation.ID, 0)
		if err != nil {
			return err
		}
		code := ""
		if n%2 == 0 {
			if code, err = w.code(ctx, &card, fmt.Sprintf("code-%d", n)); err != nil {
				return err
			}
		}
		for range 2 { // the engine recognizes the repeat by the mark
			var a emulator.Answer
			if code == "" {
				a, err = user.TokenExchange(ctx, card.ExchangeID(), connection, "sso-"+user.User.ID)
			} else {
				a, err = user.VerifyState(ctx, code, card.ActivityID)
			}
			if err != nil || a.Status != http.StatusOK {
				return fmt.Errorf("invoke: %d %s, %w", a.Status, a.Body, err)
			}
		}
		done.Add(1)
		return nil
	}
	var next atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := signIn(next.Add(1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	more := func(what string) {
		t.Helper()
		from := done.Load()
		eventually(t, "sign-ins after "+what, func() bool { return t.Failed() || done.Load() >= from+4*workers })
	}
	more("the start")
	for round := range rounds {
		if stdout, stderr, code := b.run(t, "rotate-key", "--yes", "--reason", "test", "--store", "bolt:"+b.db); code != 0 {
			t.Fatalf("rotate-key: exit %d %s %s", code, stdout, stderr)
		}
		more("a new key of the store")

		before, after := fmt.Sprintf("secret-%d", round-1), fmt.Sprintf("secret-%d", round)
		if round == 0 {
			before = clientSecret
		}
		w.SetClientSecrets(tokensvc.NewSecret(before), tokensvc.NewSecret(after))
		secret(after)
		w.SetClientSecrets(tokensvc.NewSecret(after))
		w.DropBearers() // force the bot to present the new secret
		more("a new client secret")
		if round == 0 { // an unknown key is looked up at most once an hour
			if err := w.RotateSigningKey(); err != nil {
				t.Fatal(err)
			}
			more("a new signing key")
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d users have signed in", done.Load())

	p.stopped(t)
	keys, err := b.open(t).Keys(t.Context())
	if err != nil || len(keys.Keys) != rounds+1 {
		t.Errorf("%d keys, %v", len(keys.Keys), err)
	}
}

// TestRotationOnInstances runs three processes on one Postgres. A fourth rotates
// the store's key; the three go on and use the new key.
func TestRotationOnInstances(t *testing.T) {
	f := newFleet(t, instances, "timeouts: {sweep: 200ms}\n", false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var n atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f.silently(ctx, int(n.Add(1))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	more := func() {
		t.Helper()
		from := n.Load()
		eventually(t, "further sign-ins", func() bool { return t.Failed() || n.Load() >= from+30 })
	}
	more()
	stdout, stderr, code := f.bots[0].run(t, "rotate-key", "--yes", "--reason", "test", "--config", f.bots[0].config, "--store", f.address, "-o", "json")
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(stdout), &made); err != nil || code != 0 {
		t.Fatalf("rotate-key: exit %d %s %s", code, stdout, stderr)
	}
	s, err := pgstore.Open(t.Context(), f.address, pgstore.WithReadOnly())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	// with counts the newest sign-ins that are marked with the new key.
	const newest = 20
	with := func() (n int) {
		page, err := s.List(t.Context(), store.Filter{States: []store.State{store.Complete}, Limit: newest})
		if err != nil {
			t.Error(err)
		}
		for i := range page.Attempts {
			if strings.HasPrefix(hex.EncodeToString(page.Attempts[i].TokenMark), made.Key) {
				n++
			}
		}
		return n
	}
	eventually(t, "all three use the new key", func() bool { return t.Failed() || with() == newest })
	close(stop)
	wg.Wait()
	f.stop(t)
}
