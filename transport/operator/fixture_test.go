package operator_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// morning is the clock of these tests.
func morning() time.Time { return time.Date(2026, 4, 22, 3, 12, 30, 0, time.UTC) }

// stuckID and doneID are the ids of the attempts of the fixture. They share a prefix.
const (
	stuckID = "01JSD4K2Q80000000000000001"
	doneID  = "01JSD4K2Q80000000000000002"
	prefix  = "01JSD4K2Q8"
)

// stuckAttempt is an attempt whose instance died during an exchange.
func stuckAttempt() store.Attempt {
	now := morning()
	return store.Attempt{
		ID: stuckID, Version: 1,
		Key:        store.Key{App: "e3cb1c84", Channel: "msteams", User: "29:1cg", Connection: "graph"},
		State:      store.Exchanging,
		Origin:     store.OriginSignIn,
		ExchangeID: "fc67", SSOOffered: true, CardActivityID: "1776827524158",
		Conversation: store.Conversation{Type: "personal", ID: "a:1xH", Tenant: "3f3d", UserAAD: "0350"},
		Platform:     "Web",
		Created:      now.Add(-90 * time.Second).Add(20 * time.Millisecond), Entered: now.Add(-78 * time.Second),
		Expires: now.Add(14 * time.Minute),
		Lease:   store.Lease{Owner: "bot-b", Fence: 7, Until: now.Add(-48 * time.Second)},
		Invokes: 2, Rounds: 2, ResourceURI: "api://botid-e3cb1c84", Activity: "1776827500000",
		Diagnosis: store.Diagnosis{Version: store.Fails, Tenant: store.Holds},
		Failure:   &store.Failure{Source: "token_service", Operation: "Exchange", Status: 400, Kind: store.KindConsent, Message: "token service: Exchange: status 400"},
		TokenMark: []byte("mark"), Request: []byte("sealed"),
	}
}

func doneAttempt() store.Attempt {
	now := morning()
	return store.Attempt{
		ID: doneID, Version: 1,
		Key:    store.Key{App: "e3cb1c84", Channel: "msteams", User: "29:2zz", Connection: "github"},
		State:  store.Failed,
		Origin: store.OriginSignIn, Reason: store.ReasonClientFailure,
		Failure: &store.Failure{Source: "client", Operation: "signin/failure", Code: "resourcematchfailed", Message: "Resource match failed"},
		Created: now.Add(-time.Minute), Entered: now.Add(-50 * time.Second), Expires: now.Add(14 * time.Minute),
	}
}

// fixture is a store with the two attempts, their audit lines, a dead callback, and an
// audit line without an attempt.
func fixture(t *testing.T) store.Store {
	t.Helper()
	st := memstore.New(morning)
	a, b := stuckAttempt(), doneAttempt()
	commit(t, st, store.Commit{
		Put: []store.Attempt{a},
		Events: []store.Event{
			{Attempt: a.ID, Time: a.Created, Instance: "bot-b", Kind: store.EventTransition, Row: "A3", Version: 1, To: store.Idle},
			{Attempt: a.ID, Time: a.Entered, Instance: "bot-b", Kind: store.EventUpstream, Invoke: "exchange", Status: 200, Duration: 1500 * time.Microsecond},
		},
	}, store.Commit{
		Put: []store.Attempt{b},
		Events: []store.Event{
			{Attempt: b.ID, Time: b.Created, Kind: store.EventTransition, Row: "D1", Version: 1, From: store.CardSent, To: store.Failed},
			{Time: b.Created, Kind: store.EventReceived, Invoke: machine.InvokeVerifyState, Key: b.Key},
		},
		Deliveries: []store.Delivery{
			{DeliveryKey: store.DeliveryKey{Attempt: b.ID, Kind: store.DeliverFailure, Round: 1}, Status: store.DeliveryDone, Tries: 1, Created: b.Entered},
			{DeliveryKey: store.DeliveryKey{Attempt: b.ID, Kind: store.DeliverFailure, Round: 2}, Status: store.DeliveryDead, Tries: 10, Created: b.Entered, Error: "boom"},
		},
	})
	return st
}

func commit(t *testing.T, st store.Store, commits ...store.Commit) {
	t.Helper()
	for _, err := range st.Apply(t.Context(), commits) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// engine replaces the engine. It records who took an action.
type engine struct {
	err   error
	asked []string
}

func (e *engine) Ready(context.Context) error { return e.err }

func (e *engine) Reconcile(_ context.Context, id string, op machine.Operator) (store.Attempt, error) {
	return e.ask("reconcile", id, op)
}

func (e *engine) Cancel(_ context.Context, id string, op machine.Operator) (store.Attempt, error) {
	return e.ask("cancel", id, op)
}

func (e *engine) Redeliver(_ context.Context, id string, op machine.Operator) (int, error) {
	_, err := e.ask("redeliver", id, op)
	return 2, err
}

func (e *engine) RotateKey(_ context.Context, op machine.Operator) (machine.Rotation, error) {
	_, err := e.ask("rotate-key", "the store", op)
	return machine.Rotation{ID: store.KeyID{0xab, 0xcd}, From: time.Unix(1000, 0), Older: 1}, err
}

func (e *engine) ask(what, id string, op machine.Operator) (store.Attempt, error) {
	e.asked = append(e.asked, fmt.Sprintf("%s %s by %s: %s", what, id, op.Actor, op.Reason))
	return store.Attempt{}, e.err
}

func direct(st store.Store) *operator.Direct {
	return operator.NewDirect(st, operator.DefaultRules(), operator.Info{Live: true, PID: 7, Names: []string{"graph"}})
}
