package machine_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
)

// waiting is two engines over one store, and a user who was asked to sign in on
// the first.
func waiting(t *testing.T) (a, b *machine.Engine, act *machine.Activity, attempt string) {
	t.Helper()
	quiet := func(string, ...any) {}
	st, tokens, conn := memstore.New(time.Now), machinetest.NewTokenService(quiet), machinetest.NewConnector(quiet)
	engine := func(name string) *machine.Engine {
		e, err := machine.New(machine.Config{
			AppID: "app", Store: st, Tokens: tokens, Messenger: conn, Instance: name,
			Connections: []machine.Connection{{Name: "graph"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	a, b = engine("a"), engine("b")
	act = &machine.Activity{Type: "message", ID: "m-1", Conversation: store.Conversation{
		ServiceURL: "https://smba.example/", Channel: "msteams", ID: "chat", Type: "personal", UserID: "29:alice",
	}}
	got, err := a.Turn(act).SignIn(t.Context())
	if err != nil || got.Pending != machine.CardSent || got.Attempt == "" {
		t.Fatalf("SignIn = %+v, %v", got, err)
	}
	return a, b, act, got.Attempt
}

func TestWaitOnAnotherInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, act, attempt := waiting(t)
		flow, _ := b.Flow("graph")
		done := make(chan error, 1)
		go func() {
			tok, err := flow.Wait(t.Context(), attempt)
			if err == nil && tok.Token.Empty() {
				err = errors.New("no token")
			}
			done <- err
		}()
		time.Sleep(time.Minute)
		invoke := *act
		invoke.Type, invoke.Name = "invoke", machine.InvokeTokenExchange
		invoke.Value = json.RawMessage(`{"id":"x-1","connectionName":"graph","token":"jwt"}`)
		if answer, _ := a.HandleInvoke(t.Context(), &invoke); answer.Status != 200 {
			t.Fatalf("answer %+v", answer)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWaitEndsWithTheSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, act, attempt := waiting(t)
		// The user asks again: the wait goes on with the new attempt.
		act.ID = "m-2"
		again, err := a.Turn(act).SignIn(t.Context())
		if err != nil || again.Attempt == attempt {
			t.Fatalf("SignIn = %+v, %v", again, err)
		}
		flow, _ := b.Flow("graph")
		done := make(chan error, 1)
		go func() { _, err := flow.Wait(t.Context(), attempt); done <- err }()
		time.Sleep(16 * time.Minute)
		if err := a.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		var ended *machine.SignInError
		if err := <-done; !errors.As(err, &ended) || ended.Reason != store.ReasonExpired || ended.Attempt != again.Attempt {
			t.Errorf("Wait = %v, want expired of the second attempt", err)
		}
	})
}

func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, _, attempt := waiting(t)
		flow, _ := b.Flow("graph")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := flow.Wait(ctx, attempt); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %v, want its deadline", err)
		}
		if _, err := flow.Wait(t.Context(), "no-such-attempt"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Wait = %v, want not found", err)
		}
	})
}
