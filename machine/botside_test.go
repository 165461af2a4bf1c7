package machine_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
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
	policy := machine.DefaultPolicy()
	cfg := machine.Config{
		AppID: "app", Store: d.mem, Tokens: d.tokens, Messenger: machinetest.NewConnector(d.say), Policy: &policy,
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

func message(text string) *machine.Activity { return activity("message", "", text, "") }

func (d *desk) signIn(text string) machine.SignInResult {
	d.t.Helper()
	got, err := d.eng.Turn(message(text)).SignIn(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return got
}

func (d *desk) exchange() int {
	d.t.Helper()
	return d.exchangeOf("x-1")
}

func (d *desk) exchangeOf(id string) int {
	d.t.Helper()
	a, ok := d.eng.HandleInvoke(d.t.Context(), activity("invoke", machine.InvokeTokenExchange, "", `{"id":"`+id+`","connectionName":"graph","token":"jwt"}`))
	if !ok {
		d.t.Fatal("not handled")
	}
	return a.Status
}

func (d *desk) failure(code string) int {
	d.t.Helper()
	a, ok := d.eng.HandleInvoke(d.t.Context(), activity("invoke", machine.InvokeFailure, "", `{"code":"`+code+`","message":"m"}`))
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

// rows are the callbacks that lie in the store, in order.
func (d *desk) rows() []store.Delivery {
	d.t.Helper()
	d.drain()
	page, err := d.mem.List(d.t.Context(), store.Filter{})
	if err != nil {
		d.t.Fatal(err)
	}
	slices.SortFunc(page.Deliveries, func(a, b store.Delivery) int { return a.Round - b.Round })
	return page.Deliveries
}

// deliver makes the callbacks that are due after some time.
func (d *desk) deliver(after time.Duration) {
	d.t.Helper()
	d.drain()
	time.Sleep(after)
	if err := d.eng.DeliverDue(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

func TestSignInSaysWhatIsOnTheScreen(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.Policy.ResendCooldown = time.Minute })
	if got := d.signIn("hello"); got.SignedIn() || got.Pending != machine.CardSent {
		t.Errorf("the first: %+v", got)
	}
	again := message("hello?")
	again.ID = "activity-2"
	if got, err := d.eng.Turn(again).SignIn(t.Context()); err != nil || got.Pending != machine.CardOut {
		t.Errorf("the second: %+v, %v", got, err)
	}
	d.exchange()
	if got := d.signIn("again"); !got.SignedIn() || got.Token.Token.Empty() {
		t.Errorf("after the exchange: %+v", got)
	}
	d.drain()
}

// A card is sent where the user asks, although another conversation or a message
// extension has one already: it is not seen here.
func TestCardIsSentWhereTheUserAsks(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.Policy.ResendCooldown = time.Minute })
	query := activity("invoke", "composeExtension/query", "", "{}")
	query.ID = "query"
	if _, err := d.eng.Authorize(t.Context(), d.eng.Turn(query), machine.Ask{Connection: "graph", Via: store.OriginCompose}); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		conversation string
		want         machine.Pending
	}{
		{"chat", machine.CardSent},
		{"chat", machine.CardOut},
		{"group", machine.CardSent},
	} {
		asked := message("hello")
		asked.ID, asked.Conversation.ID = fmt.Sprint("message-", i), c.conversation
		if got, err := d.eng.Turn(asked).SignIn(t.Context()); err != nil || got.Pending != c.want {
			t.Errorf("message %d in %s: %+v, %v; want %q", i, c.conversation, got, err, c.want)
		}
	}
	d.drain()
}

// A user who signs in while a second card is being made gets the token and no card.
func TestSignedInWhileACardIsMade(t *testing.T) {
	up := &beforeResource{}
	d := newDesk(t, func(cfg *machine.Config) { up.TokenService, cfg.Tokens = cfg.Tokens, up })
	d.signIn("hello")
	up.then = func() { d.exchange() }
	again := message("hello?")
	again.ID = "activity-2"
	if got, err := d.eng.Turn(again).SignIn(t.Context()); err != nil || !got.SignedIn() || got.Token.Token.Empty() {
		t.Errorf("the second: %+v, %v", got, err)
	}
	if cards := d.said("POST card"); cards != 1 {
		t.Errorf("%d cards, want 1", cards)
	}
	d.drain()
}

// beforeResource does something once, before a card's resource is there.
type beforeResource struct {
	machine.TokenService
	then func()
}

func (b *beforeResource) GetSignInResource(ctx context.Context, state tokensvc.State) (tokensvc.SignInResource, error) {
	if then := b.then; then != nil {
		b.then = nil
		then()
	}
	return b.TokenService.GetSignInResource(ctx, state)
}

func TestKeptRequestReachesTheCompletion(t *testing.T) {
	for _, keep := range []bool{true, false} {
		d := newDesk(t, func(c *machine.Config) { c.Policy.KeepRequest = keep })
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
		if (string(got) == `{"text":"what is my manager's name?"}`) != keep {
			t.Errorf("KeepRequest %t: the completion got %q", keep, got)
		}
		d.drain()
	}
}

// What is too large to be kept is named in the log: a guard cannot bring it back.
func TestLargeRequest(t *testing.T) {
	for size, kept := range map[int]bool{200 << 10: true, 300 << 10: false} {
		var logged bytes.Buffer
		d := newDesk(t, func(c *machine.Config) { c.Log = zerolog.New(&logged) })
		var got int
		d.flow().OnSignInComplete(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			got = len(turn.Request())
			return nil
		})
		asked := message("long")
		asked.Raw = json.RawMessage(`"` + strings.Repeat("x", size-2) + `"`)
		if _, err := d.eng.Turn(asked).SignIn(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.exchange()
		d.drain()
		if (got == size) != kept || strings.Count(logged.String(), "is not kept: it has more than 262144 bytes") != map[bool]int{false: 1}[kept] {
			t.Errorf("%d bytes: %d reached the completion; the log has %s", size, got, &logged)
		}
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

// A card is replaced too if its id comes after the sign-in (A9), or if it was
// superseded by the one that was used.
func TestEveryCardSaysDone(t *testing.T) {
	up := &meanwhile{card: func() {}, exchange: func() {}}
	d := newDesk(t, func(c *machine.Config) {
		c.Connections[0].DoneText = "You are signed in."
		up.Messenger, c.Messenger = c.Messenger, up
		up.TokenService, c.Tokens = c.Tokens, up
	})
	d.signIn("hello")
	again := message("hello?")
	again.ID = "activity-2"
	up.card = func() { d.exchangeOf("x-2") }
	if _, err := d.eng.Turn(again).SignIn(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.drain()
	for _, card := range []string{"card-1", "card-2"} {
		if n := d.said("update " + card); n != 1 {
			t.Errorf("%s was replaced %d times: %q", card, n, d.log)
		}
	}
}

// A card in the user's own chat is replaced there, although the user asked elsewhere.
func TestCardInTheOwnChatSaysDone(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) {
		c.Connections[0].DoneText = "You are signed in."
		c.Policy.GroupChat = machine.OneToOne
	})
	asked := message("hello")
	asked.Conversation.Type, asked.Conversation.IsGroup = "groupChat", true
	if _, err := d.eng.Turn(asked).SignIn(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.exchange()
	d.drain()
	if d.said("update card-1 in 1:1-29:alice") != 1 {
		t.Errorf("the card was not replaced: %q", d.log)
	}
}

func TestTypedCode(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.Policy.TypedCodes = true })
	done := 0
	d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error { done++; return nil })
	typed := func(text string) bool { return d.eng.Before(t.Context(), d.eng.Turn(message(text))) }
	d.tokens.IssueCode("123456", "29:alice", "graph")
	if typed("123456") {
		t.Error("six digits were taken for a code while nothing is pending")
	}
	d.signIn("hello")
	for _, text := range []string{"12345", "1234567", "hello", "12345a", " 123456"} {
		if typed(text) {
			t.Errorf("%q was taken for a code", text)
		}
	}
	if click := activity("event", "", "123456", ""); d.eng.Before(t.Context(), d.eng.Turn(click)) {
		t.Error("something that is no message was taken for a code")
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
	if off.eng.Before(t.Context(), off.eng.Turn(message("123456"))) {
		t.Error("TypedCodes is off, and a code was taken")
	}
}

// The name belongs to an event: a message or an invoke that has it is the bot's.
func TestTokensResponseIsAnEvent(t *testing.T) {
	d := newDesk(t, nil)
	d.signIn("hello")
	for kind, taken := range map[string]bool{"message": false, "invoke": false, "event": true} {
		a := activity(kind, machine.EventTokensResponse, "hello", `{"connectionName":"graph"}`)
		if got := d.eng.Before(t.Context(), d.eng.Turn(a)); got != taken {
			t.Errorf("%s: taken %t, want %t", kind, got, taken)
		}
	}
}

func TestPrefetch(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.Prefetch = []string{"graph"} })
	d.signIn("hello")
	d.exchange()
	d.drain()
	before := d.said("GetToken graph")
	turn := d.eng.Turn(message("again"))
	if d.eng.Before(t.Context(), turn) {
		t.Fatal("the bot would not see the message")
	}
	for range 2 {
		if signed, err := turn.SignedIn(t.Context(), ""); err != nil || !signed {
			t.Errorf("signed in: %t, %v", signed, err)
		}
	}
	if got, err := turn.SignIn(t.Context()); err != nil || !got.SignedIn() {
		t.Errorf("sign in: %v, %v", got, err)
	}
	if calls := d.said("GetToken graph") - before; calls != 1 {
		t.Errorf("%d calls of GetToken, want the one of the prefetch", calls)
	}
	if err := turn.SignOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if signed, err := turn.SignedIn(t.Context(), ""); err != nil || signed {
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

// A turn knows the token that it has, and asks nobody: in the callback of the sign-in,
// and where it was fetched ahead.
func TestUserToken(t *testing.T) {
	d := newDesk(t, nil)
	var inCallback []bool
	d.flow().OnSignInComplete(func(_ context.Context, turn *machine.Turn, token tokensvc.Token) error {
		got, ok := turn.UserToken("")
		inCallback = append(inCallback, ok && got.Token.Reveal() == token.Token.Reveal())
		return nil
	})
	d.signIn("hello")
	d.exchange()
	d.drain()
	if !slices.Equal(inCallback, []bool{true}) {
		t.Errorf("in the callback: %v", inCallback)
	}
	calls := d.said("GetToken graph")
	turn := d.eng.Turn(message("again"))
	d.eng.Before(t.Context(), turn)
	if _, ok := turn.UserToken(""); ok {
		t.Error("a token that nobody has fetched")
	}
	if _, ok := turn.UserToken("gitlab"); ok {
		t.Error("a token of no connection")
	}
	if d.said("GetToken graph") != calls {
		t.Error("the Token Service was asked")
	}

	ahead := newDesk(t, func(c *machine.Config) { c.Prefetch = []string{"graph"} })
	ahead.signIn("hello")
	ahead.exchange()
	ahead.drain()
	turn = ahead.eng.Turn(message("again"))
	ahead.eng.Before(t.Context(), turn)
	if got, ok := turn.UserToken("graph"); !ok || got.Token.Empty() {
		t.Errorf("fetched ahead: %v", ok)
	}
}

// Of what was fetched ahead nothing is left after a sign-out from everything.
func TestPrefetchIsGoneAfterSignOutAll(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.Prefetch = []string{"graph"} })
	d.signIn("hello")
	d.exchange()
	turn := d.eng.Turn(message("again"))
	d.eng.Before(t.Context(), turn)
	if err := turn.SignOutAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if signed, err := turn.SignedIn(t.Context(), ""); err != nil || signed {
		t.Errorf("signed in %t, %v", signed, err)
	}
	d.drain()
}

// The id of an exchange comes from the client and is stored: it has a bound.
func TestLongExchangeID(t *testing.T) {
	d := newDesk(t, nil)
	value := `{"id":"` + strings.Repeat("x", 2000) + `","connectionName":"graph","token":"jwt"}`
	a, _ := d.eng.HandleInvoke(t.Context(), activity("invoke", machine.InvokeTokenExchange, "", value))
	page, err := d.mem.List(t.Context(), store.Filter{})
	if a.Status != http.StatusBadRequest || err != nil || len(page.Attempts) > 0 {
		t.Errorf("%d, %d attempts, %v", a.Status, len(page.Attempts), err)
	}
}

func TestHooks(t *testing.T) {
	var signedIn []store.Attempt
	var transitions, upstream int
	var reported []error
	d := newDesk(t, func(c *machine.Config) {
		c.Hooks = machine.Hooks{
			OnSignIn: func(_ context.Context, a store.Attempt) { signedIn = append(signedIn, a) },
			OnEvent: func(_ context.Context, e store.Event) {
				switch e.Kind {
				case store.EventTransition:
					transitions++
				case store.EventUpstream:
					upstream++
				default:
				}
			},
			OnError: func(_ context.Context, _ *machine.Activity, err error) { reported = append(reported, err) },
			OnFailureInvoke: func(_ context.Context, _ *machine.Turn, f machine.Failure) *machine.Answer {
				if f.Code == "mine" {
					return &machine.Answer{Status: http.StatusTeapot}
				}
				return nil
			},
		}
	})
	d.signIn("hello")
	if got := d.failure("userconsentrequired"); got != http.StatusOK {
		t.Errorf("signin/failure answered %d", got)
	}
	if got := d.failure("mine"); got != http.StatusTeapot {
		t.Errorf("the handler's own answer was overwritten: %d", got)
	}
	d.signIn("again") // the failure "mine" has ended the first card
	a, _ := d.eng.HandleInvoke(t.Context(), activity("invoke", machine.InvokeTokenExchange, "", `{"id":"x-2","connectionName":"graph","token":"jwt"}`))
	if a.Status != http.StatusOK {
		t.Fatalf("exchange: %d", a.Status)
	}
	d.drain()
	if len(signedIn) != 1 || signedIn[0].Method != store.MethodTokenExchange || signedIn[0].State != store.Complete {
		t.Errorf("sign-ins: %+v", signedIn)
	}
	if transitions != 8 { // two cards with two each, two failures, claim, settle
		t.Errorf("%d transitions", transitions)
	}
	if upstream != 7 { // three for each card, the exchange
		t.Errorf("%d upstream calls", upstream)
	}
	if len(reported) != 2 {
		t.Errorf("reported: %v", reported)
	}
}

// Handlers add up, those of the whole bot come first, and what fails in one does
// not keep it from the others. The callback is made again with all of them.
func TestHandlersAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(c *machine.Config) { c.Connections = append(c.Connections, machine.Connection{Name: "GitHub"}) })
		var told []string
		tells := func(name string, err error) machine.CompleteHandler {
			return func(context.Context, *machine.Turn, tokensvc.Token) error { told = append(told, name); return err }
		}
		graph, err := d.eng.Flow("graph")
		if err != nil {
			t.Fatal(err)
		}
		other, err := d.eng.Flow("github")
		if err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		graph.OnSignInComplete(tells("first", broken))
		graph.OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
			told = append(told, "second")
			panic("it happens")
		})
		graph.OnSignInComplete(tells("third", nil))
		other.OnSignInComplete(tells("of another connection", nil))
		d.eng.OnSignIn(tells("of the bot", nil))
		var about []string
		d.eng.OnSignIn(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			about = append(about, turn.Connection()+" "+turn.Attempt())
			return nil
		})
		if _, err := d.eng.Turn(message("hello")).SignIn(t.Context(), machine.WithConnection("graph")); err != nil {
			t.Fatal(err)
		}
		if got := d.exchange(); got != http.StatusOK {
			t.Errorf("answered %d", got)
		}
		want := []string{"of the bot", "first", "second", "third"}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		if rows := d.rows(); rows[0].Status != store.DeliveryPending || !strings.Contains(rows[0].Error, "broken") || !strings.Contains(rows[0].Error, "it happens") {
			t.Errorf("the row is %s: %q", rows[0].Status, rows[0].Error)
		}
		d.deliver(2 * time.Second)
		if diff := cmp.Diff(append(want, want...), told); diff != "" {
			t.Errorf("told in all (-want +got):\n%s", diff)
		}
		one := "graph " + d.rows()[0].Attempt
		if diff := cmp.Diff([]string{one, one}, about); diff != "" {
			t.Errorf("which connection and attempt it was (-want +got):\n%s", diff)
		}
		d.drain()
	})
}

// Middleware stands around the handlers of all connections, in the order in which it
// was added. It may change the context, and end the callback.
func TestMiddleware(t *testing.T) {
	type locale struct{}
	signsIn := func(t *testing.T, inner error) (told []string) {
		t.Helper()
		d := newDesk(t, nil)
		d.eng.AroundSignIn(func(next machine.CompleteHandler) machine.CompleteHandler {
			return func(ctx context.Context, turn *machine.Turn, token tokensvc.Token) error {
				told = append(told, "outer of "+turn.Connection())
				err := next(context.WithValue(ctx, locale{}, "de"), turn, token)
				told = append(told, fmt.Sprint("outer: ", err))
				return nil
			}
		})
		d.eng.AroundSignIn(func(next machine.CompleteHandler) machine.CompleteHandler {
			return func(ctx context.Context, turn *machine.Turn, token tokensvc.Token) error {
				if inner != nil {
					return inner
				}
				return next(ctx, turn, token)
			}
		})
		d.eng.AroundSignInFailure(func(next machine.FailureHandler) machine.FailureHandler {
			return func(ctx context.Context, turn *machine.Turn, f *machine.Failure) error {
				told = append(told, "failure "+f.Code)
				return next(ctx, turn, f)
			}
		})
		d.flow().OnSignInComplete(func(ctx context.Context, _ *machine.Turn, token tokensvc.Token) error {
			told = append(told, fmt.Sprint("handler: ", ctx.Value(locale{}), " ", !token.Token.Empty()))
			return nil
		})
		d.signIn("hello")
		d.failure("userconsentrequired")
		d.exchange()
		d.drain()
		return told
	}
	tests := []struct {
		name  string
		inner error
		want  []string
	}{
		{"next is called", nil, []string{"failure userconsentrequired", "outer of graph", "handler: de true", "outer: <nil>"}},
		{"next is not called", errors.New("not today"), []string{"failure userconsentrequired", "outer of graph", "outer: not today"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, signsIn(t, tt.inner)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Hooks that panic change nothing: every invoke has its answer, the callbacks are made,
// and the sweeper goes on.
func TestHooksThatPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		d := newDesk(t, func(cfg *machine.Config) {
			cfg.Log = zerolog.New(&logged)
			cfg.Hooks = machine.Hooks{
				OnEvent:         func(context.Context, store.Event) { panic("on event") },
				OnSignIn:        func(context.Context, store.Attempt) { panic("on sign-in") },
				OnError:         func(context.Context, *machine.Activity, error) { panic("on error") },
				OnFailureInvoke: func(context.Context, *machine.Turn, machine.Failure) *machine.Answer { panic("on failure") },
			}
		})
		done := 0
		d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error { done++; return nil })
		d.signIn("hello")
		if got := d.failure("userconsentrequired"); got != http.StatusOK {
			t.Errorf("the failure is answered %d", got)
		}
		if got := d.exchange(); got != http.StatusOK || done != 1 {
			t.Errorf("the exchange is answered %d, and told %d times", got, done)
		}
		other := message("hello")
		other.Conversation.UserID = "29:bob"
		if _, err := d.eng.Turn(other).SignIn(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := d.eng.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		d.drain()
		for _, hook := range []string{"event", "sign-in", "error", "failure"} {
			if !strings.Contains(logged.String(), "panic: on "+hook) {
				t.Errorf("nothing is logged of the hook on %s", hook)
			}
		}
	})
}

// panics is a Token Service and a connector of the bot's own that panic.
type panics struct {
	machine.TokenService
	machine.Messenger
	now bool
}

func (p *panics) may() {
	if p.now {
		panic("it happens")
	}
}

func (p *panics) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	p.may()
	return p.TokenService.GetToken(ctx, uc, code)
}

func (p *panics) Exchange(ctx context.Context, uc tokensvc.UserConnection, token tokensvc.Secret) (tokensvc.Token, error) {
	p.may()
	return p.TokenService.Exchange(ctx, uc, token)
}

func (p *panics) Send(ctx context.Context, to store.Conversation, m machine.Message) (string, error) {
	p.may()
	return p.Messenger.Send(ctx, to, m)
}

func (p *panics) Update(context.Context, store.Conversation, string, machine.Message) error {
	panic("it happens")
}

// An upstream of the bot's own that panics has given no answer. The process goes on, and
// nobody waits for the lease.
func TestUpstreamsThatPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &panics{}
		d := newDesk(t, func(cfg *machine.Config) {
			up.TokenService, up.Messenger = cfg.Tokens, cfg.Messenger
			cfg.Tokens, cfg.Messenger, cfg.Prefetch = up, up, []string{"graph"}
			cfg.Connections[0].DoneText = "You are signed in."
		})
		fails := true
		d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
			if fails {
				return errors.New("once more")
			}
			return nil
		})
		d.signIn("hello")
		up.now = true
		if got := d.exchange(); got != http.StatusPreconditionFailed {
			t.Errorf("answered %d", got)
		}
		d.eng.Before(t.Context(), d.eng.Turn(message("hello"))) // fetches the token
		if _, err := d.eng.Turn(message("hello")).Token(t.Context(), ""); err == nil {
			t.Error("a token")
		}
		up.now = false
		time.Sleep(11 * time.Second)
		if got := d.exchange(); got != http.StatusOK {
			t.Errorf("then answered %d", got)
		}
		up.now, fails = true, false
		d.deliver(2 * time.Second) // fetches the token again
		up.now = false
		d.deliver(2 * time.Second)
		if rows := d.rows(); rows[len(rows)-1].Status != store.DeliveryDone {
			t.Errorf("%+v", rows)
		}
	})
}

// A turn that the bot keeps after it has answered the invoke still works: nobody waits
// for an answer any more.
func TestTurnKeptAfterItsInvoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		turn := d.eng.Turn(activity("invoke", "task/fetch", "", "{}"))
		time.Sleep(20 * time.Second)
		if got, err := turn.SignIn(t.Context()); err != nil || got.Pending != machine.CardSent {
			t.Errorf("SignIn: %+v, %v", got, err)
		}
		d.exchange()
		for name, do := range map[string]func(context.Context) error{
			"SignOut":    func(ctx context.Context) error { return turn.SignOut(ctx) },
			"SignOutAll": turn.SignOutAll,
			"Authorize": func(ctx context.Context) error {
				_, err := d.eng.Authorize(ctx, turn, machine.Ask{Connection: "graph", Via: store.OriginCardAction})
				return err
			},
		} {
			if err := do(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		d.drain()
	})
}

// Middleware that panics while it is put together fails the callback, and no more.
func TestMiddlewareThatPanics(t *testing.T) {
	d := newDesk(t, nil)
	d.eng.AroundSignIn(func(machine.CompleteHandler) machine.CompleteHandler { panic("it happens") })
	d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error { return nil })
	d.signIn("hello")
	if got := d.exchange(); got != http.StatusOK {
		t.Errorf("answered %d", got)
	}
	if rows := d.rows(); len(rows) != 1 || !strings.Contains(rows[0].Error, "it happens") {
		t.Errorf("%+v", rows)
	}
}

// A handler that takes the row's whole lease leaves nothing for those after it.
func TestNoHandlerAfterTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.eng.OnSignIn(func(ctx context.Context, _ *machine.Turn, _ tokensvc.Token) error {
			<-ctx.Done()
			return nil
		})
		d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
			t.Error("begun when the row may be another process's")
			return nil
		})
		d.signIn("hello")
		began := time.Now()
		if got := d.exchange(); got != http.StatusOK || time.Since(began) > machine.DefaultPolicy().CallbackBudget+time.Second {
			t.Errorf("answered %d after %s", got, time.Since(began))
		}
		time.Sleep(machine.DefaultTimeouts().OutboxLease)
		if rows := d.rows(); rows[0].Status != store.DeliveryPending {
			t.Errorf("the row is %s", rows[0].Status)
		}
	})
}

// A failure that is about no sign-in is told to the handlers of the whole bot.
func TestHandlersOfTheWholeBot(t *testing.T) {
	d := newDesk(t, nil)
	var ofBot, ofFlow []string
	d.eng.OnSignInFailure(func(_ context.Context, turn *machine.Turn, f *machine.Failure) error {
		ofBot = append(ofBot, fmt.Sprintf("%s %q %q", f.Code, turn.DeliveryKey(), turn.Connection()))
		return nil
	})
	d.flow().OnSignInFailure(func(_ context.Context, _ *machine.Turn, f *machine.Failure) error {
		ofFlow = append(ofFlow, f.Code)
		return nil
	})
	d.failure("nobodyasked")
	if diff := cmp.Diff([]string{`nobodyasked "" ""`}, ofBot); diff != "" || len(ofFlow) > 0 {
		t.Errorf("the bot heard %v, the connection %v", ofBot, ofFlow)
	}
	d.signIn("hello")
	d.failure("userconsentrequired")
	if len(ofBot) != 2 || !strings.HasSuffix(ofBot[1], `/failure/1" "graph"`) || !slices.Equal(ofFlow, []string{"userconsentrequired"}) {
		t.Errorf("the bot heard %v, the connection %v", ofBot, ofFlow)
	}
	d.drain()
}

// What a client says of its failure is kept in part.
func TestFailureTextIsBounded(t *testing.T) {
	d := newDesk(t, nil)
	var got machine.Failure
	d.eng.OnSignInFailure(func(_ context.Context, _ *machine.Turn, f *machine.Failure) error { got = *f; return nil })
	long := "x" + strings.Repeat("é", 500)
	a := activity("invoke", machine.InvokeFailure, "", `{"code":"`+long+`","message":"`+long+`"}`)
	if _, ok := d.eng.HandleInvoke(t.Context(), a); !ok {
		t.Fatal("not handled")
	}
	for _, s := range []string{got.Code, got.Message} {
		if len(s) != 255 || !strings.HasSuffix(s, "é") { // half a letter is none
			t.Errorf("%d bytes: %q", len(s), s)
		}
	}
}

// What no repeat can change is closed at once; anything else is tried again.
func TestPermanent(t *testing.T) {
	if machine.Permanent(nil) != nil {
		t.Error("nil does not stay nil")
	}
	cause := errors.New("the user has left")
	for _, c := range []struct {
		err    error
		status store.DeliveryStatus
	}{
		{fmt.Errorf("greet: %w", machine.Permanent(cause)), store.DeliveryUndeliverable},
		{fmt.Errorf("greet: %w", cause), store.DeliveryPending},
	} {
		d := newDesk(t, nil)
		d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error { return c.err })
		d.signIn("hello")
		if got := d.exchange(); got != http.StatusOK {
			t.Errorf("answered %d", got)
		}
		if rows := d.rows(); rows[0].Status != c.status || rows[0].Error != "greet: the user has left" {
			t.Errorf("%v: the row is %s: %q", c.err, rows[0].Status, rows[0].Error)
		}
		if !errors.Is(c.err, cause) {
			t.Error("the cause is hidden")
		}
	}
}

// One handler's final refusal does not keep another one from being tried again.
func TestPermanentForOneHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		noted := 0
		d.eng.OnSignIn(func(context.Context, *machine.Turn, tokensvc.Token) error {
			if noted++; noted == 1 {
				return errors.New("the database is away")
			}
			return nil
		})
		d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
			return machine.Permanent(errors.New("the user has blocked the bot"))
		})
		d.signIn("hello")
		d.exchange()
		if rows := d.rows(); rows[0].Status != store.DeliveryPending {
			t.Errorf("after the first try: %s", rows[0].Status)
		}
		d.deliver(2 * time.Second)
		if rows := d.rows(); noted != 2 || rows[0].Status != store.DeliveryUndeliverable {
			t.Errorf("noted %d times, and the row is %s", noted, rows[0].Status)
		}
	})
}

func TestOnce(t *testing.T) {
	d := newDesk(t, nil)
	runs := 0
	once := func(fail error) error {
		return d.eng.Once(t.Context(), "key", func(context.Context) error { runs++; return fail })
	}
	broken := errors.New("broken")
	for range 2 { // an error releases the mark: it may run again at once
		if err := once(broken); !errors.Is(err, broken) {
			t.Fatal(err)
		}
	}
	if err := d.eng.Once(t.Context(), "key", func(context.Context) error { runs++; panic("it happens") }); err == nil || !strings.Contains(err.Error(), "it happens") {
		t.Errorf("a panic came back as %v", err)
	}
	for range 3 {
		if err := once(nil); err != nil {
			t.Fatal(err)
		}
	}
	if runs != 4 {
		t.Errorf("ran %d times, want three failures and one success", runs)
	}
	if err := d.eng.Once(t.Context(), "another key", func(context.Context) error { runs++; return nil }); err != nil || runs != 5 {
		t.Errorf("another key: %v, %d runs", err, runs)
	}
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

// A process that dies while it runs keeps the others from it for a minute.
func TestOnceAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		go func() {
			_ = d.eng.Once(context.WithoutCancel(t.Context()), "key", func(context.Context) error {
				runtime.Goexit()
				return nil
			})
		}()
		synctest.Wait()
		ran := false
		once := func() error {
			return d.eng.Once(t.Context(), "key", func(context.Context) error { ran = true; return nil })
		}
		time.Sleep(machine.DefaultTimeouts().OutboxLease - time.Second)
		if err := once(); !errors.Is(err, machine.ErrInProgress) || ran {
			t.Errorf("before the minute is over: %v, ran %t", err, ran)
		}
		time.Sleep(2 * time.Second)
		if err := once(); err != nil || !ran {
			t.Errorf("afterwards: %v, ran %t", err, ran)
		}
	})
}

func TestConnectionNames(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) { c.Connections = append(c.Connections, machine.Connection{Name: "GitHub"}) })
	turn := d.eng.Turn(message("hello"))
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

// cards is a messenger that keeps the cards.
type cards struct {
	machine.Messenger
	sent []machine.OAuthCard
}

func (c *cards) Send(_ context.Context, _ store.Conversation, m machine.Message) (string, error) {
	c.sent = append(c.sent, *m.Card)
	return "card", nil
}

func TestWhatACardSays(t *testing.T) {
	shown := &cards{}
	d := newDesk(t, func(c *machine.Config) {
		c.Messenger = shown
		c.Connections = []machine.Connection{{Name: "graph"}, {Name: "GitHub", CardText: "Code, please", ButtonText: "Off you go"}}
	})
	for _, opts := range [][]machine.SignInOption{
		{machine.WithConnection("graph")},
		{machine.WithConnection("GitHub")},
		{machine.WithConnection("GitHub"), machine.WithCardText("Once more"), machine.WithButtonText("Go")},
	} {
		act := message("hello")
		act.ID = fmt.Sprintf("activity-%d", len(shown.sent))
		if _, err := d.eng.Turn(act).SignIn(t.Context(), opts...); err != nil {
			t.Fatal(err)
		}
	}
	var got [][2]string
	for _, c := range shown.sent {
		got = append(got, [2]string{c.Text, c.Button})
	}
	if diff := cmp.Diff([][2]string{{"Please Sign In", "Sign In"}, {"Code, please", "Off you go"}, {"Once more", "Go"}}, got); diff != "" {
		t.Errorf("cards (-want +got):\n%s", diff)
	}
	d.drain()
}

// moody is a Token Service that does not sign out of some connections, and whose
// own list of tokens is stale.
type moody struct {
	*machinetest.TokenService
	stays string
	list  []tokensvc.TokenStatus
}

func (m moody) SignOut(ctx context.Context, uc tokensvc.UserConnection) error {
	if uc.Connection == m.stays {
		return &tokensvc.Error{Op: tokensvc.OpSignOut, Status: http.StatusInternalServerError}
	}
	return m.TokenService.SignOut(ctx, uc)
}

func (m moody) GetTokenStatus(context.Context, string, string, ...string) ([]tokensvc.TokenStatus, error) {
	return slices.Clone(m.list), nil
}

// What fails on one connection does not keep a sign-out from the others.
func TestSignOutOfSeveral(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) {
		tokens, _ := c.Tokens.(*machinetest.TokenService)
		c.Tokens = moody{TokenService: tokens, stays: "graph"}
		c.Connections = append(c.Connections, machine.Connection{Name: "GitHub"}, machine.Connection{Name: "Jira"})
	})
	err := d.eng.Turn(message("bye")).SignOut(t.Context(), "graph", "gitlab", "github")
	var refused *tokensvc.Error
	if !errors.As(err, &refused) || !errors.Is(err, machine.ErrUnknownConnection) || !strings.Contains(err.Error(), "graph") {
		t.Errorf("the error is %v", err)
	}
	if d.said("SignOut GitHub: 200") != 1 || d.said("SignOut Jira") != 0 || d.said("SignOut") != 1 {
		t.Errorf("signed out: %v", d.log)
	}
	if err := d.eng.Turn(message("bye")).SignOut(t.Context()); !errors.Is(err, machine.ErrUnknownConnection) {
		t.Errorf("no name with three connections: %v", err)
	}
	d.drain()
}

// outbound keeps what the bot sends.
type outbound struct {
	machine.Messenger
	sent []machine.Message
	fail error
}

func (o *outbound) Send(_ context.Context, _ store.Conversation, m machine.Message) (string, error) {
	o.sent = append(o.sent, m)
	return "sent-1", o.fail
}

// An activity of the bot's own is a reply to what the user said.
func TestSendActivity(t *testing.T) {
	out := &outbound{}
	d := newDesk(t, func(c *machine.Config) { c.Messenger = out })
	own := json.RawMessage(`{"type":"typing"}`)
	id, err := d.eng.Turn(message("hello")).SendActivity(t.Context(), own)
	if err != nil || id != "sent-1" {
		t.Errorf("%q, %v", id, err)
	}
	if diff := cmp.Diff([]machine.Message{{Raw: own, ReplyTo: "activity-1"}}, out.sent); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	out.fail = errors.New("blocked")
	if _, err := d.eng.Turn(message("hello")).SendActivity(t.Context(), own); !errors.Is(err, out.fail) {
		t.Errorf("%v, want what the connector says", err)
	}
}

// The Token Service's list may be stale: what it calls not connected is asked
// once more, and what it does not name at all too.
func TestConnectionStatus(t *testing.T) {
	d := newDesk(t, func(c *machine.Config) {
		tokens, _ := c.Tokens.(*machinetest.TokenService)
		c.Tokens = moody{TokenService: tokens, list: []tokensvc.TokenStatus{{Connection: "GRAPH"}, {Connection: "Jira", HasToken: true}, {Connection: "elsewhere"}}}
		c.Connections = append(c.Connections, machine.Connection{Name: "GitHub"}, machine.Connection{Name: "Jira"}, machine.Connection{Name: "Slack"})
	})
	d.tokens.IssueCode("123456", "29:alice", "graph")
	d.tokens.IssueCode("654321", "29:alice", "github")
	for _, code := range []string{"123456", "654321"} {
		if a, _ := d.eng.HandleInvoke(t.Context(), activity("invoke", machine.InvokeVerifyState, "", `{"state":"`+code+`"}`)); a.Status != http.StatusOK {
			t.Fatalf("code %s: %d", code, a.Status)
		}
	}
	d.drain()
	got, err := d.eng.Turn(message("status")).ConnectionStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, s := range got {
		has[s.Connection] = s.HasToken
		if s.Connection == "Slack" && s.DisplayName != "Slack" {
			t.Errorf("a connection without a display name is called %q, want its name", s.DisplayName)
		}
	}
	if diff := cmp.Diff(map[string]bool{"GRAPH": true, "GitHub": true, "Jira": true, "Slack": false, "elsewhere": false}, has); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

// foreign is an exchange that refuses tokens made for another app.
type foreign struct{}

func (foreign) OnBehalfOf(context.Context, tokensvc.Secret, []string) (tokensvc.Token, error) {
	return tokensvc.Token{}, tokensvc.ErrAudience
}

// The error of a token for other scopes says for whom the connection's token was made:
// that is what has to be changed.
func TestExchangeNamesTheAudience(t *testing.T) {
	for name, want := range map[string]string{
		"eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"aud":"https://graph.microsoft.com"}`)) + ".": "it was made for https://graph.microsoft.com:",
		"opaque": "it is no JSON Web Token:",
	} {
		d := newDesk(t, func(c *machine.Config) {
			tokens, _ := c.Tokens.(*machinetest.TokenService)
			c.Tokens, c.OnBehalfOf = fixed{tokens, tokensvc.Token{Token: tokensvc.NewSecret(name)}}, foreign{}
		})
		_, err := d.eng.Turn(message("hello")).Token(t.Context(), "graph", machine.WithScopes("api://other/.default"))
		if !errors.Is(err, tokensvc.ErrAudience) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// fixed is a Token Service that has one token for everybody.
type fixed struct {
	*machinetest.TokenService
	token tokensvc.Token
}

func (f fixed) GetToken(context.Context, tokensvc.UserConnection, tokensvc.Secret) (tokensvc.Token, error) {
	return f.token, nil
}

// TestTheClockRunsSinceTheArrival: what an activity waited for before the engine
// saw it is taken from the time in which it has to be answered, of an invoke of
// the engine and of one that the bot answers.
func TestTheClockRunsSinceTheArrival(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]time.Duration{"in time": 0, "too late": 13 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls, status := 1, http.StatusOK
			if late > 0 {
				calls, status = 0, http.StatusPreconditionFailed
			}
			d := newDesk(t, nil)
			d.signIn("hello")
			invoke := activity("invoke", machine.InvokeTokenExchange, "", `{"id":"x-1","connectionName":"graph","token":"jwt"}`)
			invoke.Waited = late
			if a, _ := d.eng.HandleInvoke(t.Context(), invoke); a.Status != status {
				t.Errorf("answered %d, want %d", a.Status, status)
			}
			if n := d.said("exchange"); n != calls {
				t.Errorf("exchanged %d times, want %d", n, calls)
			}
			query := activity("invoke", "composeExtension/query", "", "")
			query.Conversation.UserID, query.Waited = "29:bob", late
			_, err := d.eng.Authorize(t.Context(), d.eng.Turn(query), machine.Ask{Connection: "graph", Via: store.OriginCompose})
			if (err == nil) != (late == 0) {
				t.Errorf("query: %v", err)
			}
		})
	}
}

// unsent is a messenger that sends nothing.
type unsent struct{ machine.Messenger }

func (unsent) Send(context.Context, store.Conversation, machine.Message) (string, error) {
	return "", notSent{}
}

type notSent struct{}

func (notSent) Error() string     { return "not sent" }
func (notSent) HTTPStatus() int   { return http.StatusServiceUnavailable }
func (notSent) NotSent() bool     { return true }
func (notSent) Operation() string { return "Send" }
func (notSent) ErrorCode() string { return "circuit_open" }

// TestCardThatNeverLeft: nobody waits for a card that was certainly not sent.
func TestCardThatNeverLeft(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(cfg *machine.Config) { cfg.Messenger = unsent{cfg.Messenger} })
	if _, err := d.eng.Turn(message("hello")).SignIn(t.Context()); err == nil {
		t.Error("a sign-in without a card is under way")
	}
	page, err := d.mem.List(t.Context(), store.Filter{})
	if err != nil || len(page.Attempts) != 1 {
		t.Fatalf("%v, %v", page.Attempts, err)
	}
	if a := page.Attempts[0]; a.State != store.Failed || a.Reason != store.ReasonCardRejected || a.Failure == nil || a.Failure.Code != "circuit_open" {
		t.Errorf("%s %s %+v", a.State, a.Reason, a.Failure)
	}
}

// TestAgentsTurn: there is nobody to sign in, so there is a typed error, no card
// and no attempt.
func TestAgentsTurn(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	act := message("hello")
	act.Agentic = true
	if _, err := d.eng.Turn(act).SignIn(t.Context()); !errors.Is(err, machine.ErrAgentic) {
		t.Errorf("sign in: %v", err)
	}
	query := activity("invoke", "composeExtension/query", "", "")
	query.Agentic = true
	if _, err := d.eng.Authorize(t.Context(), d.eng.Turn(query), machine.Ask{Connection: "graph", Via: store.OriginCompose}); !errors.Is(err, machine.ErrAgentic) {
		t.Errorf("authorize: %v", err)
	}
	if rows := d.rows(); len(rows) != 0 || d.said("") != 0 {
		t.Errorf("%v, and %d calls", rows, d.said(""))
	}
}
