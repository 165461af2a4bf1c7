package machine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// These tests show what the bot's own code may ask for beside the table.

// desk is one engine with everything around it in memory.
type desk struct {
	t      *testing.T
	eng    *machine.Engine
	mem    *memstore.Store
	tokens *machinetest.TokenService

	mu  sync.Mutex
	log []string
}

func newDesk(t *testing.T, change func(*machine.Config)) *desk {
	t.Helper()
	d := &desk{t: t, mem: memstore.New(time.Now)}
	d.tokens = machinetest.NewTokenService(d.say)
	cfg := machine.Config{
		AppID: "app", Store: d.mem, Tokens: d.tokens, Messenger: machinetest.NewConnector(d.say),
		Connections: []machine.Connection{{Name: "graph"}}, Log: zerolog.Nop(), Instance: "a",
	}
	if change != nil {
		change(&cfg)
	}
	eng, err := machine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d.eng = eng
	return d
}

func (d *desk) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf(format, args...))
}

func (d *desk) said(part string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, l := range d.log {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func (d *desk) flow() *machine.Flow {
	d.t.Helper()
	f, err := d.eng.Flow("")
	if err != nil {
		d.t.Fatal(err)
	}
	return f
}

func activity(kind, name, text, value string) *machine.Activity {
	a := &machine.Activity{
		Type: kind, Name: name, ID: "activity-1", Text: text, Raw: json.RawMessage(`{"text":"` + text + `"}`),
		Conversation: store.Conversation{ServiceURL: "https://smba.example/", Channel: "msteams", ID: "chat", Type: "personal", BotID: "28:app", UserID: "29:alice"},
	}
	if value != "" {
		a.Value = json.RawMessage(value)
	}
	return a
}

func (d *desk) signIn(text string) tokensvc.Token {
	d.t.Helper()
	tok, err := d.eng.Turn(activity("message", "", text, "")).SignIn(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return tok
}

func (d *desk) exchange() int {
	d.t.Helper()
	a, ok := d.eng.HandleInvoke(d.t.Context(), activity("invoke", machine.InvokeTokenExchange, "", `{"id":"x-1","connectionName":"graph","token":"jwt"}`))
	if !ok {
		d.t.Fatal("not handled")
	}
	return a.Status
}

func (d *desk) drain() {
	d.t.Helper()
	if err := d.eng.Drain(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

func TestKeptRequestReachesTheCompletion(t *testing.T) {
	for _, keep := range []bool{true, false} {
		d := newDesk(t, func(c *machine.Config) { c.KeepRequest = keep })
		var got json.RawMessage
		d.flow().OnSignInComplete(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			got = turn.Request()
			return nil
		})
		d.signIn("what is my manager's name?")
		page, err := d.mem.List(t.Context(), store.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if raw := store.AppendAttempt(nil, &page.Attempts[0]); strings.Contains(string(raw), "manager") {
			t.Error("the request lies in the store in the clear")
		}
		d.exchange()
		if want := keep; (string(got) == `{"text":"what is my manager's name?"}`) != want {
			t.Errorf("KeepRequest %t: the completion got %q", keep, got)
		}
		d.drain()
	}
}

func TestCardSaysDone(t *testing.T) {
	for _, text := range []string{"You are signed in.", ""} {
		d := newDesk(t, func(c *machine.Config) { c.Connections[0].DoneText = text })
		d.signIn("hello")
		d.exchange()
		d.drain()
		want := 0
		if text != "" {
			want = 1
		}
		if got := d.said("update card-1"); got != want {
			t.Errorf("DoneText %q: %d updates, want %d", text, got, want)
		}
	}
}

func TestTypedCode(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.TypedCodes = true })
	done := 0
	d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error { done++; return nil })
	typed := func(text string) bool {
		return d.eng.Before(t.Context(), d.eng.Turn(activity("message", "", text, "")))
	}
	d.tokens.IssueCode("123456", "29:alice", "graph")
	if typed("123456") {
		t.Error("six digits were taken for a code while nothing is pending")
	}
	d.signIn("hello")
	for _, text := range []string{"12345", "1234567", "hello", "12345a"} {
		if typed(text) {
			t.Errorf("%q was taken for a code", text)
		}
	}
	if !typed("123456") || done != 1 {
		t.Errorf("the code was not redeemed: %d completions", done)
	}
	if typed("123456") {
		t.Error("six digits were taken for a code after the sign-in")
	}
	d.drain()

	off := newDesk(t, nil)
	off.signIn("hello")
	if off.eng.Before(t.Context(), off.eng.Turn(activity("message", "", "123456", ""))) {
		t.Error("TypedCodes is off, and a code was taken")
	}
}

func TestPrefetch(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.Prefetch = []string{"graph"} })
	d.signIn("hello")
	d.exchange()
	d.drain()
	before := d.said("GetToken graph")
	turn := d.eng.Turn(activity("message", "", "again", ""))
	if d.eng.Before(t.Context(), turn) {
		t.Fatal("the bot would not see the message")
	}
	for range 2 {
		if signed, err := turn.SignedIn(t.Context()); err != nil || !signed {
			t.Errorf("signed in: %t, %v", signed, err)
		}
	}
	if tok, err := turn.SignIn(t.Context()); err != nil || tok.Token.Empty() {
		t.Errorf("sign in: %v, %v", tok, err)
	}
	if calls := d.said("GetToken graph") - before; calls != 1 {
		t.Errorf("%d calls of GetToken, want the one of the prefetch", calls)
	}
	if err := turn.SignOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if signed, err := turn.SignedIn(t.Context()); err != nil || signed {
		t.Errorf("after the sign-out: signed in %t, %v", signed, err)
	}
	d.drain()

	if _, err := machine.New(machine.Config{
		AppID: "app", Store: d.mem, Tokens: d.tokens, Messenger: machinetest.NewConnector(d.say),
		Connections: []machine.Connection{{Name: "graph"}}, Prefetch: []string{"gitlab"},
	}); !errors.Is(err, machine.ErrUnknownConnection) || !strings.Contains(err.Error(), "graph") {
		t.Errorf("prefetch of an unknown connection: %v", err)
	}
}

func TestHooks(t *testing.T) {
	var signedIn, transitions, upstream int
	var reported []error
	d := newDesk(t, func(c *machine.Config) {
		c.Hooks = machine.Hooks{
			OnSignIn:     func(context.Context, store.Attempt) { signedIn++ },
			OnTransition: func(store.Event) { transitions++ },
			OnUpstream:   func(string, int, time.Duration) { upstream++ },
			OnError:      func(_ context.Context, _ *machine.Activity, err error) { reported = append(reported, err) },
			OnFailureInvoke: func(_ context.Context, _ *machine.Turn, f machine.Failure) *machine.Answer {
				if f.Code == "mine" {
					return &machine.Answer{Status: http.StatusTeapot}
				}
				return nil
			},
		}
	})
	d.signIn("hello")
	failed := func(code string) int {
		a, _ := d.eng.HandleInvoke(t.Context(), activity("invoke", machine.InvokeFailure, "", `{"code":"`+code+`","message":"m"}`))
		return a.Status
	}
	if got := failed("userconsentrequired"); got != http.StatusOK {
		t.Errorf("signin/failure answered %d", got)
	}
	if got := failed("mine"); got != http.StatusTeapot {
		t.Errorf("the handler's own answer was overwritten: %d", got)
	}
	d.exchange()
	d.drain()
	if signedIn != 1 || transitions < 5 || upstream != 4 || len(reported) != 2 {
		t.Errorf("%d sign-ins, %d transitions, %d upstream calls, errors %v", signedIn, transitions, upstream, reported)
	}
}

func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		runs := 0
		once := func(fail error) error {
			return d.eng.Once(t.Context(), "key", func(context.Context) error { runs++; return fail })
		}
		broken := errors.New("broken")
		if err := once(broken); !errors.Is(err, broken) {
			t.Fatal(err)
		}
		if err := once(nil); !errors.Is(err, machine.ErrInProgress) {
			t.Errorf("right after a failure: %v", err)
		}
		time.Sleep(machine.DefaultTimeouts().OutboxLease + time.Second)
		for range 3 {
			if err := once(nil); err != nil {
				t.Fatal(err)
			}
		}
		if runs != 2 {
			t.Errorf("ran %d times, want one failure and one success", runs)
		}
	})
}

func TestOnceWhileItRuns(t *testing.T) {
	d := newDesk(t, nil)
	inside, leave := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- d.eng.Once(context.WithoutCancel(t.Context()), "key", func(context.Context) error { close(inside); <-leave; return nil })
	}()
	<-inside
	if err := d.eng.Once(t.Context(), "key", func(context.Context) error { t.Error("ran beside the first"); return nil }); !errors.Is(err, machine.ErrInProgress) {
		t.Error(err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestConnectionNames(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.Connections = append(c.Connections, machine.Connection{Name: "GitHub"}) })
	turn := d.eng.Turn(activity("message", "", "hello", ""))
	if _, err := turn.SignIn(t.Context()); !errors.Is(err, machine.ErrUnknownConnection) || !strings.Contains(err.Error(), "graph, GitHub") {
		t.Errorf("no name with two connections: %v", err)
	}
	if _, err := turn.SignIn(t.Context(), machine.WithConnection("gitlab")); !errors.Is(err, machine.ErrUnknownConnection) {
		t.Errorf("unknown name: %v", err)
	}
	if _, err := turn.SignIn(t.Context(), machine.WithConnection("github"), machine.WithCardText("c"), machine.WithButtonText("b")); err != nil {
		t.Errorf("a name in another case: %v", err)
	}
	d.drain()
}
