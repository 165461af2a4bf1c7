package pgstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// TestHandlerInATransaction: an engine whose callbacks run in transactions of this
// store. What a handler writes is there once, with the acknowledgement, and what it
// wrote before it failed is not.
func TestHandlerInATransaction(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	mustExec(t, dsn, `create table SCHEMA.told (key text primary key)`)
	tokens := machinetest.NewTokenService(t.Logf)
	eng, err := machine.New(machine.Config{
		AppID: "app", Store: s, TxCallbacks: true, Tokens: tokens, Messenger: machinetest.NewConnector(t.Logf),
		Connections: []machine.Connection{{Name: "graph"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	flow, err := eng.Flow("graph")
	if err != nil {
		t.Fatal(err)
	}
	tries, told := 0, make(chan struct{})
	flow.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		tries++
		tx, ok := turn.Tx().(pgx.Tx)
		if !ok {
			return machine.Permanent(errors.New("no transaction of Postgres"))
		}
		if _, err := tx.Exec(ctx, `insert into `+schemaOf(dsn)+`.told values ($1)`, turn.DeliveryKey()); err != nil {
			return err
		}
		if tries == 1 {
			return errors.New("after the write")
		}
		close(told)
		return nil
	})
	act := func(kind, name, value string) *machine.Activity {
		return &machine.Activity{
			Type: kind, Name: name, ID: "activity-1", Value: json.RawMessage(value),
			Conversation: store.Conversation{ServiceURL: "https://smba.example/", Channel: "msteams", ID: "chat", Type: "personal", BotID: "28:app", UserID: "29:alice"},
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- eng.Run(ctx) }()
	if got, err := eng.Turn(act("message", "", `null`)).SignIn(t.Context()); err != nil || got.Pending != machine.CardSent {
		t.Fatalf("%+v, %v", got, err)
	}
	answer, _ := eng.HandleInvoke(t.Context(), act("invoke", machine.InvokeTokenExchange, `{"id":"x-1","connectionName":"graph","token":"jwt"}`))
	if answer.Status != http.StatusOK {
		t.Fatalf("answer %+v", answer)
	}
	select {
	case <-told:
	case <-time.After(patience):
		t.Fatal("the callback was not made again")
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	keys := query[string](t, dsn, `select key from `+schemaOf(dsn)+`.told`)
	if len(keys) != 1 || tries != 2 {
		t.Errorf("%d tries left %q, want two and one row", tries, keys)
	}
	if c, err := s.Counts(t.Context(), time.Now().Add(-time.Hour)); err != nil || c.Owed != 0 {
		t.Errorf("%d callbacks are still owed, %v", c.Owed, err)
	}
}
