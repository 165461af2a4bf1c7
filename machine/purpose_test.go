package machine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// A sign-in's purpose reaches the handler that it was for, and no other; where the
// activity is not kept there is none.
func TestPurpose(t *testing.T) {
	for _, tt := range []struct {
		name    string
		purpose string
		keep    bool
		want    string
	}{
		{"its own", "report", true, "report: hello"},
		{"another", "mail", true, ""},
		{"none", "", true, ""},
		{"not kept", "report", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t, func(cfg *machine.Config) { cfg.Policy.KeepRequest = tt.keep })
			got, every := "", ""
			d.eng.OnSignIn(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				every = turn.Purpose()
				return nil
			})
			report := func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				got += turn.Purpose() + ": " + strings.TrimSuffix(strings.TrimPrefix(string(turn.Request()), `{"text":"`), `"}`)
				return nil
			}
			if err := d.eng.OnSignInFor("report", report); err != nil {
				t.Fatal(err)
			}
			if err := d.eng.OnSignInFor("report", report); err == nil || err.Error() != `the purpose "report" has a handler already` {
				t.Errorf("a second handler: %v", err)
			}
			if err := d.eng.OnSignInFor("", report); err == nil {
				t.Error("the empty purpose has a handler")
			}
			if _, err := d.eng.Turn(message("hello")).SignIn(t.Context(), machine.WithPurpose(tt.purpose)); err != nil {
				t.Fatal(err)
			}
			d.exchange()
			if got != tt.want {
				t.Errorf("the handler got %q, want %q", got, tt.want)
			}
			if want := map[bool]string{true: tt.purpose}[tt.keep]; every != want {
				t.Errorf("a handler for every sign-in sees the purpose %q, want %q", every, want)
			}
		})
	}
}

func TestPurposeWithNUL(t *testing.T) {
	d := newDesk(t, nil)
	_, err := d.eng.Turn(message("hello")).SignIn(t.Context(), machine.WithPurpose("a\x00b"))
	if err == nil || err.Error() != "sign in: the purpose has a NUL character" {
		t.Errorf("%v", err)
	}
}

// What the user asked while a sign-in was pending comes back in order, each activity
// to the handler of its purpose. A store that cannot be read then is waited for.
func TestPurposesOfSupersededAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &unreadable{}
		d := newDesk(t, func(cfg *machine.Config) { broken.Store, cfg.Store = cfg.Store, broken })
		var got []string
		keys := map[string]bool{}
		for _, purpose := range []string{"report", "mail"} {
			err := d.eng.OnSignInFor(purpose, func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				got = append(got, turn.Purpose()+" "+string(turn.Request()))
				keys[turn.DeliveryKey()] = true
				if len(got) == 3 {
					return errors.New("once more")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, asked := range []struct{ text, purpose string }{{"one", "report"}, {"two", "mail"}, {"one", "report"}, {"three", ""}, {"four", "report"}} {
			act := message(asked.text)
			act.ID = asked.text
			if _, err := d.eng.Turn(act).SignIn(t.Context(), machine.WithPurpose(asked.purpose)); err != nil {
				t.Fatal(err)
			}
		}
		broken.down = true
		answer, _ := d.eng.HandleInvoke(t.Context(), activity("invoke", machine.InvokeTokenExchange, "", `{"id":"x-5","connectionName":"graph","token":"jwt"}`))
		if answer.Status != 200 || len(got) > 0 {
			t.Fatalf("%d, %q", answer.Status, got)
		}
		broken.down = false
		if rows := d.rows(); len(rows) != 1 || rows[0].Status != store.DeliveryPending {
			t.Fatalf("the callback is not owed: %+v", rows)
		}
		d.deliver(2 * time.Second)
		d.deliver(2 * time.Second)
		want := []string{`report {"text":"one"}`, `mail {"text":"two"}`, `report {"text":"four"}`}
		if !slices.Equal(got, slices.Concat(want, want)) {
			t.Errorf("the handlers got %q, want %q twice", got, want)
		}
		// Each activity has a key of its own, which is the same in the second try.
		if own := d.rows()[0].String(); len(keys) != len(want) || !keys[own] {
			t.Errorf("the keys are %q, want %d with %s", slices.Sorted(maps.Keys(keys)), len(want), own)
		}
	})
}

// An invoke is answered in time although the store hangs when what the user asked before
// is read. The callback is made when the store is back.
func TestPurposesWhileTheStoreHangs(t *testing.T) {
	for name, broken := range map[string]*unreadable{
		"hangs":           {hangs: time.Hour},
		"answers at last": {slow: 12 * time.Second},
	} {
		t.Run(name, func(t *testing.T) { answeredInTime(t, broken) })
	}
}

func answeredInTime(t *testing.T, broken *unreadable) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(cfg *machine.Config) { broken.Store, cfg.Store = cfg.Store, broken })
		var got []string
		err := d.eng.OnSignInFor("report", func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			time.Sleep(10 * time.Second) // over its budget
			got = append(got, string(turn.Request()))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		d.asksFor("report", "one")
		d.asksFor("report", "two")
		broken.down = broken.hangs > 0
		began := time.Now()
		answer, _ := d.eng.HandleInvoke(t.Context(), activity("invoke", machine.InvokeTokenExchange, "", `{"id":"x-2","connectionName":"graph","token":"jwt"}`))
		if took := time.Since(began); answer.Status != http.StatusOK || took > 14500*time.Millisecond {
			t.Errorf("answered %d after %s", answer.Status, took)
		}
		broken.down, broken.slow = false, 0
		time.Sleep(time.Minute) // until the handlers have ended
		d.deliver(time.Minute)
		if want := []string{`{"text":"one"}`, `{"text":"two"}`}; !slices.Equal(got, want) {
			t.Errorf("the handler got %q, want %q", got, want)
		}
	})
}

// unreadable is a store whose superseded attempts cannot be read while it is down.
type unreadable struct {
	store.Store
	down  bool
	hangs time.Duration // before it says so
	slow  time.Duration // each answer otherwise
}

func (u *unreadable) Get(ctx context.Context, id string) (store.Snapshot, error) {
	snap, err := u.Store.Get(ctx, id)
	time.Sleep(u.slow)
	if u.down && err == nil && snap.Attempts[0].Reason == store.ReasonSuperseded {
		select {
		case <-time.After(u.hangs):
		case <-ctx.Done():
		}
		return store.Snapshot{}, store.ErrUnavailable
	}
	return snap, err
}

// What the user asked comes back although the last sign-in of the chain failed, if
// another attempt carries on its card: Teams sends an exchange again after an outage, and
// the button of an old card still works when the next card was refused.
func TestPurposesAfterAFailure(t *testing.T) {
	for name, fails := range map[string]func(t *testing.T, d *desk, up *failing){
		"the exchange": func(t *testing.T, d *desk, up *failing) {
			t.Helper()
			d.asksFor("report", "two")
			up.exchange = true
			if status := d.exchange(); status != http.StatusServiceUnavailable {
				t.Fatalf("exchange: %d", status)
			}
			up.exchange = false
		},
		"the second card": func(t *testing.T, d *desk, up *failing) {
			t.Helper()
			up.card = true
			act := message("two")
			act.ID = "two"
			if got, err := d.eng.Turn(act).SignIn(t.Context(), machine.WithPurpose("report")); err == nil {
				t.Fatalf("a card that was refused: %+v", got)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := &failing{}
			d := newDesk(t, func(cfg *machine.Config) {
				up.TokenService, cfg.Tokens = cfg.Tokens, up
				up.Messenger, cfg.Messenger = cfg.Messenger, up
			})
			var got []string
			err := d.eng.OnSignInFor("report", func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				got = append(got, string(turn.Request()))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			d.asksFor("report", "one")
			fails(t, d, up)
			if status := d.exchange(); status != http.StatusOK {
				t.Fatalf("exchange: %d", status)
			}
			if want := []string{`{"text":"one"}`, `{"text":"two"}`}; !slices.Equal(got, want) {
				t.Errorf("the handler got %q, want %q", got, want)
			}
			d.drain()
		})
	}
}

// failing is a Token Service that has an outage, and a connector that refuses cards.
type failing struct {
	machine.TokenService
	machine.Messenger
	exchange, card bool
}

func (f *failing) Exchange(ctx context.Context, uc tokensvc.UserConnection, token tokensvc.Secret) (tokensvc.Token, error) {
	if f.exchange {
		return tokensvc.Token{}, &tokensvc.Error{Op: tokensvc.OpExchange, Status: http.StatusServiceUnavailable}
	}
	return f.TokenService.Exchange(ctx, uc, token)
}

func (f *failing) Send(ctx context.Context, to store.Conversation, m machine.Message) (string, error) {
	if f.card {
		return "", &tokensvc.Error{Op: "Send", Status: http.StatusForbidden}
	}
	return f.Messenger.Send(ctx, to, m)
}

// asksFor is a SignIn with a purpose, for a message with an id of its own.
func (d *desk) asksFor(purpose, text string) machine.SignInResult {
	d.t.Helper()
	act := message(text)
	act.ID = text
	got, err := d.eng.Turn(act).SignIn(d.t.Context(), machine.WithPurpose(purpose))
	if err != nil {
		d.t.Fatal(err)
	}
	return got
}

// attempt is the newest one.
func (d *desk) attempt() store.Attempt {
	d.t.Helper()
	page, err := d.mem.List(d.t.Context(), store.Filter{Limit: 1})
	if err != nil || len(page.Attempts) != 1 {
		d.t.Fatalf("%d attempts, %v", len(page.Attempts), err)
	}
	return page.Attempts[0]
}

// An activity that brings no second card comes back after the one that brought the
// first: the card is out, is on its way, or is being used.
func TestPurposesOfOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &meanwhile{}
		d := newDesk(t, func(cfg *machine.Config) {
			up.Messenger, cfg.Messenger = cfg.Messenger, up
			up.TokenService, cfg.Tokens = cfg.Tokens, up
			cfg.Policy.ResendCooldown = time.Minute
		})
		var got []string
		err := d.eng.OnSignInFor("report", func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			got = append(got, string(turn.Request()))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		first := ""
		d.eng.OnSignIn(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			first = string(turn.Request())
			return nil
		})
		pending := func(purpose, text string, want machine.Pending) {
			t.Helper()
			if got := d.asksFor(purpose, text); got.Pending != want {
				t.Errorf("%s: %+v, want %q", text, got, want)
			}
		}
		up.card = func() { pending("report", "card on its way", machine.UnderWay) }
		up.exchange = func() { pending("report", "device at it", machine.UnderWay) }
		pending("report", "first", machine.CardSent)
		pending("report", "card out", machine.CardOut)
		version := d.attempt().Version
		pending("report", "card out", machine.CardOut)                      // Teams repeats a message
		pending("report", strings.Repeat("x", 256<<10-20), machine.CardOut) // too large with the others
		pending("", "nothing", machine.CardOut)
		if now := d.attempt().Version; now != version {
			t.Errorf("version %d, want %d: there is nothing to keep", now, version)
		}
		d.exchange()
		want := []string{`{"text":"first"}`, `{"text":"card on its way"}`, `{"text":"card out"}`, `{"text":"device at it"}`}
		if !slices.Equal(got, want) || first != want[0] {
			t.Errorf("the handlers got %q and %q, want %q", first, got, want)
		}
		if calls := d.said("POST card"); calls != 1 {
			t.Errorf("%d cards", calls)
		}
		d.drain()
	})
}

// meanwhile does something while a card is sent, and while a token is exchanged.
type meanwhile struct {
	machine.Messenger
	machine.TokenService
	card, exchange func()
}

func (m *meanwhile) Send(ctx context.Context, to store.Conversation, msg machine.Message) (string, error) {
	m.card()
	return m.Messenger.Send(ctx, to, msg)
}

func (m *meanwhile) Exchange(ctx context.Context, uc tokensvc.UserConnection, token tokensvc.Secret) (tokensvc.Token, error) {
	m.exchange()
	return m.TokenService.Exchange(ctx, uc, token)
}

// The log says what does not come back after very many attempts.
func TestPurposesOfTooManyAttempts(t *testing.T) {
	var logged bytes.Buffer
	d := newDesk(t, func(cfg *machine.Config) { cfg.Log = zerolog.New(&logged) })
	got := 0
	err := d.eng.OnSignInFor("report", func(context.Context, *machine.Turn, tokensvc.Token) error { got++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 22 {
		d.asksFor("report", fmt.Sprint("message ", i))
	}
	d.exchangeOf("x-22")
	d.drain()
	if got != 21 || strings.Count(logged.String(), "before the last 20 attempts does not come back") != 1 {
		t.Errorf("%d came back; the log has %s", got, &logged)
	}
}

// A sign-in that ends before the second activity is kept does not keep it: the bot gets
// the token at once, or a new card is sent.
func TestPurposeOfAnAttemptThatEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		lost    bool // the device that is at it has been gone for a while
		end     func(d *desk)
		pending machine.Pending
		want    []string
	}{
		"complete":  {false, func(d *desk) { d.exchange() }, machine.NotPending, []string{`{"text":"first"}`}},
		"recovered": {true, func(d *desk) { d.exchange() }, machine.NotPending, []string{`{"text":"first"}`}},
		"failed":    {false, func(d *desk) { d.failure("invokeerror") }, machine.CardSent, nil},
	} {
		t.Run(name, func(t *testing.T) {
			late := &late{}
			d := newDesk(t, func(cfg *machine.Config) {
				late.Store, cfg.Store = cfg.Store, late
				cfg.Policy.ResendCooldown = time.Minute
			})
			var got []string
			err := d.eng.OnSignInFor("report", func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				got = append(got, string(turn.Request()))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			d.asksFor("report", "first")
			if tt.lost {
				a := d.attempt()
				a.State, a.Version, a.Lease = store.Exchanging, a.Version+1, store.Lease{Owner: "b", Fence: 9, Until: time.Now().Add(-time.Second)}
				line := store.Event{Attempt: a.ID, Time: time.Now(), Kind: store.EventTransition, Version: a.Version, From: store.CardSent, To: a.State}
				if err := d.mem.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{line}}})[0]; err != nil {
					t.Fatal(err)
				}
			}
			late.finds, late.then = 0, func() { tt.end(d) }
			second := d.asksFor("report", "second")
			if second.Pending != tt.pending || second.SignedIn() == second.Token.Token.Empty() {
				t.Errorf("the second: %+v", second)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("the handler got %q, want %q", got, tt.want)
			}
			d.drain()
		})
	}
}

// late is a store that does something after its second answer, which is old by then.
type late struct {
	store.Store
	finds int
	then  func()
}

func (l *late) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	snap, err := l.Store.Find(ctx, q)
	if l.finds++; l.finds == 2 && l.then != nil {
		l.then()
	}
	return snap, err
}

// The activity that came first and is too large to be kept stays unknown: a later one
// does not take its place.
func TestPurposeAfterALargeActivity(t *testing.T) {
	d := newDesk(t, func(cfg *machine.Config) { cfg.Policy.ResendCooldown = time.Minute })
	var got []string
	every := json.RawMessage("none")
	err := d.eng.OnSignInFor("report", func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		got = append(got, string(turn.Request()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d.eng.OnSignIn(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		every = turn.Request()
		return nil
	})
	d.asksFor("report", strings.Repeat("x", 257<<10))
	d.asksFor("report", "second")
	d.exchange()
	if every != nil || !slices.Equal(got, []string{`{"text":"second"}`}) {
		t.Errorf("the handlers got %q and %q", every, got)
	}
	d.drain()
}

// A superseded attempt that is past its retention is gone with its activity, and the
// callback is made without it.
func TestPurposesOfAPurgedAttempt(t *testing.T) {
	d := newDesk(t, nil)
	var got []string
	err := d.eng.OnSignInFor("report", func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		got = append(got, string(turn.Request()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d.asksFor("report", "one")
	d.asksFor("report", "two")
	if n, err := d.mem.Purge(t.Context(), time.Now().Add(time.Hour), 10, false); n != 1 || err != nil {
		t.Fatalf("%d purged, %v", n, err)
	}
	answer, _ := d.eng.HandleInvoke(t.Context(), activity("invoke", machine.InvokeTokenExchange, "", `{"id":"x-2","connectionName":"graph","token":"jwt"}`))
	if answer.Status != http.StatusOK || !slices.Equal(got, []string{`{"text":"two"}`}) {
		t.Errorf("%d, and the handler got %q", answer.Status, got)
	}
	d.drain()
}
