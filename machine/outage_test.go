package machine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
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

// These tests send every invoke to an attempt in every state while a
// neighbour is out of order: the store does not answer, the store does not
// write, the Token Service hangs.

// standing is an attempt before the invoke comes.
type standing struct {
	name   string
	state  store.State
	reason store.Reason
	lease  time.Duration // left; negative = over
}

func standings() []standing {
	out := []standing{
		{name: "none"},
		{name: "Idle", state: store.Idle, lease: 20 * time.Second},
		{name: "Idle, lease over", state: store.Idle, lease: -time.Second},
		{name: "CardSent", state: store.CardSent},
		{name: "Exchanging", state: store.Exchanging, lease: 20 * time.Second},
		{name: "Exchanging, lease over", state: store.Exchanging, lease: -time.Second},
		{name: "Verifying", state: store.Verifying, lease: 20 * time.Second},
		{name: "Verifying, lease over", state: store.Verifying, lease: -time.Second},
		{name: "Complete", state: store.Complete},
	}
	for _, r := range []store.Reason{
		store.ReasonCardRejected, store.ReasonUpstreamRejected, store.ReasonUpstreamUnavailable, store.ReasonClientFailure,
		store.ReasonCodeRejected, store.ReasonUserCancelled, store.ReasonExpired, store.ReasonSuperseded,
		store.ReasonSignedOut, store.ReasonOperator, store.ReasonAbandoned,
	} {
		out = append(out, standing{name: "Failed " + string(r), state: store.Failed, reason: r})
	}
	return out
}

// arrival is an invoke.
type arrival struct {
	name, invoke, value string
}

func arrivals() []arrival {
	return []arrival{
		{"exchange", machine.InvokeTokenExchange, `{"id":"x-1","connectionName":"graph","token":"jwt"}`},
		{"exchange, unknown id", machine.InvokeTokenExchange, `{"id":"x-9","connectionName":"graph","token":"jwt"}`},
		{"exchange, no id", machine.InvokeTokenExchange, `{"connectionName":"graph","token":"jwt"}`},
		{"exchange, no token", machine.InvokeTokenExchange, `{"id":"x-1","connectionName":"graph"}`},
		{"exchange, null", machine.InvokeTokenExchange, `null`},
		{"code", machine.InvokeVerifyState, `{"state":"123456"}`},
		{"code, null", machine.InvokeVerifyState, `null`},
		{"popup closed", machine.InvokeVerifyState, `{"state":"CancelledByUser"}`},
		{"failure", machine.InvokeFailure, `{"code":"resourcematchfailed","message":"m"}`},
		{"failure, null", machine.InvokeFailure, `null`},
	}
}

// scene is one engine with one attempt.
type scene struct {
	eng     *machine.Engine
	mem     *memstore.Store
	tokens  *machinetest.TokenService
	calls   *[]string
	answers *[]store.Event // that the hook saw
	act     *machine.Activity
}

func setScene(t *testing.T, s standing, a arrival, wrap func(store.Store) store.Store, hang bool) scene {
	t.Helper()
	mem := memstore.New(time.Now)
	var calls []string
	var answers []store.Event
	tokens := machinetest.NewTokenService(func(format string, args ...any) { calls = append(calls, fmt.Sprintf(format, args...)) })
	var ts machine.TokenService = tokens
	if hang {
		ts = hanging{tokens}
	}
	eng, err := machine.New(machine.Config{
		AppID: "app", Store: wrap(mem), Tokens: ts, Log: zerolog.Nop(), Instance: "a",
		Messenger:   machinetest.NewConnector(func(string, ...any) {}),
		Connections: []machine.Connection{{Name: "graph"}},
		Hooks: machine.Hooks{OnEvent: func(_ context.Context, e store.Event) {
			if e.Kind == store.EventAnswer {
				answers = append(answers, e)
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.state != store.None {
		put(t, mem, s)
	}
	return scene{eng: eng, mem: mem, tokens: tokens, calls: &calls, answers: &answers, act: &machine.Activity{
		Type: "invoke", Name: a.invoke, ID: "i-1", Value: json.RawMessage(a.value),
		Conversation: store.Conversation{ServiceURL: "https://smba.example/", Channel: "msteams", ID: "chat", Type: "personal", BotID: "28:app", UserID: "29:alice"},
	}}
}

func put(t *testing.T, mem *memstore.Store, s standing) {
	t.Helper()
	now := store.Time(time.Now())
	a := store.Attempt{
		ID: "01JSD4K2Q800000000000000AA", Version: 1, State: s.state, Reason: s.reason, Origin: store.OriginSignIn,
		Key:        store.Key{App: "app", Channel: "msteams", User: "29:alice", Connection: "graph"},
		ExchangeID: "x-1", SSOOffered: true, CardActivityID: "card-1",
		Created: now, Entered: now, Expires: now.Add(15 * time.Minute),
		Conversation: store.Conversation{ServiceURL: "https://smba.example/", Channel: "msteams", ID: "chat", UserID: "29:alice"},
	}
	if s.state == store.Complete {
		a.Method = store.MethodTokenExchange
	}
	if s.lease != 0 {
		a.Lease = store.Lease{Owner: "b", Fence: 3, Until: now.Add(s.lease)}
	}
	line := store.Event{Attempt: a.ID, Time: now, Kind: store.EventTransition, Version: 1, To: s.state}
	if err := mem.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{line}}})[0]; err != nil {
		t.Fatal(err)
	}
}

// dump is everything that lies in the store.
func dump(t *testing.T, mem *memstore.Store) any {
	t.Helper()
	page, err := mem.List(t.Context(), store.Filter{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	events, err := mem.Trail(t.Context(), store.TrailQuery{})
	if err != nil {
		t.Fatal(err)
	}
	return [3]any{page.Attempts, page.Deliveries, events}
}

// broken is a store of which reads or only writes fail.
type broken struct {
	store.Store
	reads bool
}

func (b broken) Apply(_ context.Context, commits []store.Commit) []error {
	errs := make([]error, len(commits))
	for i := range errs {
		errs[i] = store.ErrUnavailable
	}
	return errs
}

func (b broken) Claim(context.Context, store.ClaimQuery) ([]store.Delivery, error) {
	return nil, store.ErrUnavailable
}

func (b broken) Probe(context.Context) error { return store.ErrUnavailable }

func (b broken) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	if b.reads {
		return store.Snapshot{}, store.ErrUnavailable
	}
	return b.Store.Find(ctx, q)
}

func (b broken) Get(ctx context.Context, id string) (store.Snapshot, error) {
	if b.reads {
		return store.Snapshot{}, store.ErrUnavailable
	}
	return b.Store.Get(ctx, id)
}

func (b broken) Info(ctx context.Context) (store.Info, error) {
	if b.reads {
		return store.Info{}, store.ErrUnavailable
	}
	return b.Store.Info(ctx)
}

// hanging is a Token Service that never answers.
type hanging struct{ machine.TokenService }

func (hanging) GetToken(ctx context.Context, _ tokensvc.UserConnection, _ tokensvc.Secret) (tokensvc.Token, error) {
	<-ctx.Done()
	return tokensvc.Token{}, &tokensvc.Error{Op: "GetToken", Err: ctx.Err()}
}

func (hanging) Exchange(ctx context.Context, _ tokensvc.UserConnection, _ tokensvc.Secret) (tokensvc.Token, error) {
	<-ctx.Done()
	return tokensvc.Token{}, &tokensvc.Error{Op: "Exchange", Err: ctx.Err()}
}

func everyPair(t *testing.T, f func(t *testing.T, s standing, a arrival)) {
	t.Helper()
	for _, s := range standings() {
		for _, a := range arrivals() {
			t.Run(s.name+"/"+a.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { f(t, s, a) })
			})
		}
	}
}

// TestStoreDown: 503 with Retry-After, no upstream call, nothing written (S).
func TestStoreDown(t *testing.T) {
	everyPair(t, func(t *testing.T, s standing, a arrival) {
		t.Helper()
		sc := setScene(t, s, a, func(st store.Store) store.Store { return broken{st, true} }, false)
		before := dump(t, sc.mem)
		answer, ok := sc.eng.HandleInvoke(t.Context(), sc.act)
		if !ok || answer.Status != http.StatusServiceUnavailable || answer.RetryAfter != time.Second {
			t.Errorf("answer %+v, want 503 with Retry-After 1", answer)
		}
		if len(*sc.calls) > 0 {
			t.Errorf("upstream was called: %v", *sc.calls)
		}
		sc.hookSaw(t, answer)
		if diff := cmp.Diff(before, dump(t, sc.mem)); diff != "" {
			t.Errorf("something was written:\n%s", diff)
		}
	})
}

// hookSaw: whoever counts by the hooks counts each answer, once and as it was.
func (sc *scene) hookSaw(t *testing.T, answer machine.Answer) {
	t.Helper()
	if got := *sc.answers; len(got) != 1 || got[0].Status != answer.Status || got[0].Invoke != sc.act.Name || got[0].Activity != sc.act.ID {
		t.Errorf("the hook saw %+v, the answer was %d to %s", got, answer.Status, sc.act.Name)
	}
}

// TestHookSeesEveryAnswer: also that of an invoke that says nothing of use,
// which leaves no answer in the store (B0, C0).
func TestHookSeesEveryAnswer(t *testing.T) {
	everyPair(t, func(t *testing.T, s standing, a arrival) {
		t.Helper()
		sc := setScene(t, s, a, func(st store.Store) store.Store { return st }, false)
		answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act)
		sc.hookSaw(t, answer)
	})
}

// TestStoreReadOnly: what must be written first is answered 503 without an
// upstream call that a claim announces; what needs no write is answered as ever.
func TestStoreReadOnly(t *testing.T) {
	everyPair(t, func(t *testing.T, s standing, a arrival) {
		t.Helper()
		sc := setScene(t, s, a, func(st store.Store) store.Store { return broken{Store: st} }, false)
		before := dump(t, sc.mem)
		answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act)
		if answer.Status != http.StatusServiceUnavailable {
			well := setScene(t, s, a, func(st store.Store) store.Store { return st }, false)
			want, _ := well.eng.HandleInvoke(t.Context(), well.act)
			if diff := cmp.Diff(want, answer); diff != "" {
				t.Errorf("answer (-healthy +read-only):\n%s", diff)
			}
		}
		for _, call := range *sc.calls {
			// A code is offered to a connection without a row before anything can be written (C12).
			if call != "GetToken+code graph: 404" || s.state != store.None {
				t.Errorf("upstream was called: %v", call)
			}
		}
		if diff := cmp.Diff(before, dump(t, sc.mem)); diff != "" {
			t.Errorf("something was written:\n%s", diff)
		}
	})
}

// TestTokenServiceHangs: every invoke is answered within the upstream's
// deadline, a duplicate's wait and a recovery before it, and never with a 5xx:
// there was no status to hand on.
func TestTokenServiceHangs(t *testing.T) {
	const limit = 15 * time.Second
	allowed := []int{http.StatusOK, http.StatusPreconditionFailed, http.StatusBadRequest, http.StatusNotFound}
	everyPair(t, func(t *testing.T, s standing, a arrival) {
		t.Helper()
		sc := setScene(t, s, a, func(st store.Store) store.Store { return st }, true)
		began := time.Now()
		answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act)
		if took := time.Since(began); took > limit {
			t.Errorf("answered after %s", took)
		}
		if !slices.Contains(allowed, answer.Status) {
			t.Errorf("answer %d is none of %v", answer.Status, allowed)
		}
		if err := sc.eng.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// stalled is a store whose reads or writes do not come back in time.
type stalled struct {
	store.Store
	reads bool
}

func (s stalled) Apply(ctx context.Context, commits []store.Commit) []error {
	<-ctx.Done()
	return broken{Store: s.Store}.Apply(ctx, commits)
}

func (stalled) Probe(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s stalled) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	if s.reads {
		<-ctx.Done()
		return store.Snapshot{}, ctx.Err()
	}
	return s.Store.Find(ctx, q)
}

func (s stalled) Get(ctx context.Context, id string) (store.Snapshot, error) {
	if s.reads {
		<-ctx.Done()
		return store.Snapshot{}, ctx.Err()
	}
	return s.Store.Get(ctx, id)
}

func (s stalled) Info(ctx context.Context) (store.Info, error) {
	if s.reads {
		<-ctx.Done()
		return store.Info{}, ctx.Err()
	}
	return s.Store.Info(ctx)
}

// TestStoreHangs checks that every invoke is answered before Teams gives up, and as if
// the store were down.
func TestStoreHangs(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(map[bool]string{true: "reads", false: "writes"}[reads], func(t *testing.T) {
			everyPair(t, func(t *testing.T, s standing, a arrival) {
				t.Helper()
				down := setScene(t, s, a, func(st store.Store) store.Store { return broken{st, reads} }, false)
				want, _ := down.eng.HandleInvoke(t.Context(), down.act)
				sc := setScene(t, s, a, func(st store.Store) store.Store { return stalled{st, reads} }, false)
				began := time.Now()
				answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act)
				if took := time.Since(began); took > 14500*time.Millisecond {
					t.Errorf("answered after %s", took)
				}
				if diff := cmp.Diff(want, answer); diff != "" {
					t.Errorf("answer (-down +hanging):\n%s", diff)
				}
				sc.hookSaw(t, answer)
				time.Sleep(time.Minute) // until what hangs has given up
			})
		})
	}
}

// TestStoreHangsUnderTheBotsCode checks the calls that the bot's own code makes while it
// answers an invoke.
func TestStoreHangsUnderTheBotsCode(t *testing.T) {
	ask := machine.Ask{Connection: "graph", Via: store.OriginCompose}
	code, token := ask, ask
	code.State = tokensvc.NewSecret("123456")
	token.Token, token.ExchangeID = tokensvc.NewSecret("jwt"), "x-1"
	for name, run := range map[string]func(context.Context, *machine.Engine, *machine.Turn) error{
		"SignIn": func(ctx context.Context, e *machine.Engine, turn *machine.Turn) error {
			f, err := e.Flow("graph")
			if err == nil {
				_, err = f.SignIn(ctx, turn)
			}
			return err
		},
		"SignOut": func(ctx context.Context, _ *machine.Engine, turn *machine.Turn) error {
			return turn.SignOut(ctx, "graph")
		},
		"SignOutAll": func(ctx context.Context, _ *machine.Engine, turn *machine.Turn) error { return turn.SignOutAll(ctx) },
		"a search": func(ctx context.Context, e *machine.Engine, turn *machine.Turn) error {
			_, err := e.Authorize(ctx, turn, ask)
			return err
		},
		"its code": func(ctx context.Context, e *machine.Engine, turn *machine.Turn) error {
			_, err := e.Authorize(ctx, turn, code)
			return err
		},
		"its token": func(ctx context.Context, e *machine.Engine, turn *machine.Turn) error {
			_, err := e.Authorize(ctx, turn, token)
			return err
		},
	} {
		for _, reads := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/reads %t", name, reads), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := standing{name: "CardSent", state: store.CardSent}
					sc := setScene(t, s, arrival{invoke: "composeExtension/query", value: "{}"}, func(st store.Store) store.Store { return stalled{st, reads} }, false)
					began := time.Now()
					err := run(t.Context(), sc.eng, sc.eng.Turn(sc.act))
					if took := time.Since(began); took > 14500*time.Millisecond {
						t.Errorf("took %s", took)
					}
					if !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("%v, want ErrUnavailable", err)
					}
					time.Sleep(time.Minute)
				})
			})
		}
	}
}
