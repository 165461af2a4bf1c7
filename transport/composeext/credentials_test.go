package composeext_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
)

// A refresh token that rotates is used once, even if several instances need it.
func TestRefreshOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	w.signIn(user)
	for round := range 3 {
		w.advance(2 * time.Hour)
		var all sync.WaitGroup
		for i := range 12 {
			all.Go(func() {
				source := w.instances[i%3].popup.Credentials(t.Context(), w.turn(user))
				tok, err := source.Token()
				if err != nil {
					t.Errorf("round %d: %v", round, err)
					return
				}
				if !w.provider.Good(tok.AccessToken) || tok.RefreshToken != "" {
					t.Errorf("round %d: a token that the provider does not take, or a refresh token", round)
				}
			})
		}
		all.Wait()
	}
	if n := w.provider.Count("refresh"); n != 3 {
		t.Errorf("%d refreshes, want 3", n)
	}
	if n := w.provider.Count("reused"); n != 0 {
		t.Errorf("%d refresh tokens were used twice", n)
	}
}

// Credentials in use outlive the retention of marks, even if they never expire.
func TestCredentialsOutliveTheRetention(t *testing.T) {
	t.Parallel()
	for name, lifetime := range map[string]time.Duration{"an hour": time.Hour, "a year": 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(w *world) { w.tokenLifetime = lifetime })
			user := w.user("")
			w.signIn(user)
			for range 4 {
				w.advance(20 * 24 * time.Hour)
				_, c := w.query(user, "lakers")
				w.want(c, "result")
				if _, err := w.store.Purge(t.Context(), w.now().Add(-30*24*time.Hour), 0, false); err != nil {
					t.Fatal(err)
				}
			}
			w.advance(31 * 24 * time.Hour)
			if _, err := w.store.Purge(t.Context(), w.now().Add(-30*24*time.Hour), 0, false); err != nil {
				t.Fatal(err)
			}
			_, c := w.query(user, "lakers")
			w.want(c, "auth")
		})
	}
}

func TestRefreshRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	w.signIn(user)
	w.advance(2 * time.Hour)
	w.provider.SetDown(true)
	a, c := w.query(user, "lakers")
	if c.Type != "message" || !strings.Contains(c.Text, "not available") {
		t.Errorf("while the provider is down: %s", a.Body)
	}
	w.provider.SetDown(false)
	_, c = w.query(user, "lakers")
	w.want(c, "result")

	w.advance(2 * time.Hour)
	// The user withdraws the consent at the provider.
	secrets := w.provider.Secrets()
	for _, s := range secrets {
		if strings.Contains(s, "-refresh-") {
			w.revokeAtProvider(s)
		}
	}
	_, c = w.query(user, "lakers")
	w.want(c, "auth")
	w.signIn(user)
}

func (w *world) revokeAtProvider(token string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.issuer+"/revoke", strings.NewReader("token="+token))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("bot-client", "canary-client-secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
}

// A sign-out deletes the credentials, even if the provider cannot revoke them.
func TestSignOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	w.signIn(user)
	before := w.provider.Secrets()
	source := w.instances[1].popup.Credentials(t.Context(), w.turn(user))
	tok, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	w.signOut(user)
	if w.provider.Good(tok.AccessToken) || w.provider.Count("revoke") != 2 {
		t.Errorf("good %v, %d revocations of %d tokens", w.provider.Good(tok.AccessToken), w.provider.Count("revoke"), len(before))
	}
	if _, err := source.Token(); !errors.Is(err, tokensvc.ErrNoToken) {
		t.Errorf("after the sign-out: %v", err)
	}
	_, c := w.query(user, "lakers")
	w.want(c, "auth")

	w.advance(time.Minute)
	w.signIn(user)
	w.provider.SetDown(true)
	w.signOut(user)
	w.provider.SetDown(false)
	_, c = w.query(user, "lakers")
	w.want(c, "auth")
}

// A refresh during a sign-out leaves no credentials behind.
func TestRefreshAgainstSignOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	for range 10 {
		w.signIn(user)
		w.advance(2 * time.Hour)
		var all sync.WaitGroup
		all.Go(func() { _, _ = w.instances[1].popup.Credentials(t.Context(), w.turn(user)).Token() })
		all.Go(func() { w.signOut(user) })
		all.Wait()
		if _, err := w.instances[2].popup.Credentials(t.Context(), w.turn(user)).Token(); !errors.Is(err, tokensvc.ErrNoToken) {
			t.Fatalf("signed out, and %v", err)
		}
		w.advance(20 * time.Minute)
	}
}

// While the new and the old key are configured, data of the old one can be read.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user("")
	w.signIn(user)
	w.configure = func(c *popup.Config) { c.Keys = [][]byte{bytes.Repeat([]byte{8}, 32), bytes.Repeat([]byte{7}, 32)} }
	w.instances = []*instance{w.start()}
	_, c := w.query(user, "lakers")
	w.want(c, "result")
	w.configure = func(c *popup.Config) { c.Keys = [][]byte{bytes.Repeat([]byte{8}, 32)} }
	w.instances = []*instance{w.start()}
	_, c = w.query(user, "lakers")
	w.want(c, "auth")
	w.signIn(user)
}

// A handler whose token the provider no longer accepts.
func TestTokenRefusedByTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.extend = func(c *composeext.Config) { c.OnQuery = w.queryAtProvider }
	})
	user := w.user("")
	w.signIn(user)
	for _, s := range w.provider.Secrets() {
		if strings.Contains(s, "-refresh-") {
			w.revokeAtProvider(s)
		}
	}
	_, c := w.query(user, "lakers")
	w.want(c, "auth")
	w.advance(time.Minute)
	w.signIn(user)
}

// Two popups of one user: the code of the second one does no harm.
func TestTwoPopups(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user, b := w.user(""), emulator.NewBrowser()
	asked, c := w.query(user, "lakers")
	one, err := b.Authorize(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Authorize(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	first, err := b.Open(t.Context(), one.Callback)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Open(t.Context(), two.Callback)
	if err != nil {
		t.Fatal(err)
	}
	w.want(w.reissue(user, asked, second.Code), "result")
	w.want(w.reissue(user, asked, first.Code), "result")
	w.want(w.reissue(user, asked, second.Code), "result")
	if a := w.newest(); a.State != store.Complete {
		t.Errorf("%s", a.State)
	}
}

// queryAtProvider uses the user's token.
func (w *world) queryAtProvider(ctx context.Context, r *composeext.Request, q composeext.Query) (composeext.Response, error) {
	if !w.provider.Good(r.Token.Token.Reveal()) {
		return composeext.Response{}, composeext.ErrTokenRefused
	}
	return answerQuery(ctx, r, q)
}

// If credentials change between the check of a code and its commit, the code is checked
// again, and the records in the store stay consistent.
func TestCredentialsChangeUnderACode(t *testing.T) {
	t.Parallel()
	broken := &brokenStore{}
	w := newWorld(t, func(w *world) { w.store = broken.around(w.now) })
	user := w.user("")
	asked, c := w.query(user, "lakers")
	one, two := w.open(emulator.NewBrowser(), c.URL), w.open(emulator.NewBrowser(), c.URL)
	uc := tokensvc.UserConnection{UserID: user.User.ID, Connection: wiki, ChannelID: "msteams"}
	var once sync.Once
	broken.before = func() {
		once.Do(func() {
			_, marks, err := w.instances[1].popup.Redeem(t.Context(), uc, tokensvc.NewSecret(two.Code))
			if err == nil {
				err = broken.Store.Apply(t.Context(), []store.Commit{{Marks: marks}})[0]
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	began := time.Now()
	w.want(w.reissue(user, asked, one.Code), "result")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	_, c = w.query(user, "bulls")
	w.want(c, "result")
	if a := w.newest(); a.State != store.Complete {
		t.Errorf("%s: %s", a.State, w.details(a.ID))
	}
	// Another request spends the same code after it was checked.
	w.signOut(user)
	w.advance(20 * time.Minute)
	asked, c = w.query(user, "lakers")
	three := w.open(emulator.NewBrowser(), c.URL)
	once = sync.Once{}
	two = three
	w.want(w.reissue(user, asked, three.Code), "result") // with the credentials that are stored
}

// The code of a popup may arrive after its access token has expired. It is valid if
// there is a refresh token, and not otherwise.
func TestCodeWhoseTokenIsOver(t *testing.T) {
	t.Parallel()
	for answer, noRefresh := range map[string]bool{"result": false, "auth": true} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(w *world) {
				w.tokenLifetime, w.noRefresh = 2*time.Minute, noRefresh
				w.extend = func(c *composeext.Config) {
					c.OnQuery = func(_ context.Context, r *composeext.Request, _ composeext.Query) (composeext.Response, error) {
						if !w.provider.Good(r.Token.Token.Reveal()) {
							t.Error("the handler runs with a token that is over")
						}
						return composeext.List(), nil
					}
				}
			})
			user := w.user("")
			asked, auth := w.query(user, "lakers")
			ended := w.open(emulator.NewBrowser(), auth.URL)
			w.advance(3 * time.Minute)
			w.want(w.reissue(user, asked, ended.Code), answer)
			page, err := w.store.List(t.Context(), store.Filter{})
			if err != nil {
				t.Fatal(err)
			}
			complete := slices.ContainsFunc(page.Attempts, func(a store.Attempt) bool { return a.State == store.Complete })
			if complete == noRefresh {
				t.Errorf("complete: %t, by a code that is worth nothing: %t", complete, noRefresh)
			}
		})
	}
}

// The bot's own code is called after a sign-in through the popup was committed. If its
// handler fails, the outbox calls it again.
func TestCompletionIsTold(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told []string
	w := newWorld(t)
	for _, in := range w.instances {
		note := func(who string) machine.CompleteHandler {
			return func(_ context.Context, turn *machine.Turn, tok tokensvc.Token) error {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprintf("%s %s proactive=%t token=%t", who, turn.Method(), turn.Proactive(), w.provider.Good(tok.Token.Reveal())))
				if len(told) == 1 {
					return errors.New("the first try fails")
				}
				return nil
			}
		}
		in.eng.OnSignIn(note("all"))
		flow, err := in.eng.Flow(wiki)
		if err != nil {
			t.Fatal(err)
		}
		flow.OnSignInComplete(note("wiki"))
	}
	user := w.user("")
	w.signIn(user)
	w.query(user, "again") // already signed in: no callback
	w.advance(5 * time.Minute)
	for _, in := range w.instances {
		if err := in.eng.DeliverDue(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{
		"all composeExtension proactive=false token=true", "wiki composeExtension proactive=false token=true",
		"all composeExtension proactive=true token=true", "wiki composeExtension proactive=true token=true",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}
