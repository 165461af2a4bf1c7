package machine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// ledger is a store with a transaction of a kind: writes of a callback are kept
// only with its acknowledgement.
type ledger struct {
	store.Store
	kept  []string
	taken bool // another instance delivers
}

type ledgerTx struct{ writes []string }

func (l *ledger) AckIn(ctx context.Context, row store.Delivery, fn func(context.Context, any) error) error {
	if l.taken {
		return store.ErrConflict
	}
	tx := &ledgerTx{}
	if err := fn(ctx, tx); err != nil {
		return err
	}
	ack := store.Ack{Delivery: row, By: row.Owner, Try: row.Tries}
	ack.Status, ack.Owner = store.DeliveryDone, ""
	if err := l.Apply(ctx, []store.Commit{{Acks: []store.Ack{ack}}})[0]; err != nil {
		return err
	}
	l.kept = append(l.kept, tx.writes...)
	return nil
}

// newLedgerDesk is a desk whose callbacks run in the ledger's transactions.
func newLedgerDesk(t *testing.T, l *ledger) *desk {
	t.Helper()
	return newDesk(t, func(c *machine.Config) { l.Store, c.Store, c.TxCallbacks = c.Store, l, true })
}

func TestCallbackInTheStoresTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		d := newLedgerDesk(t, l)
		tries, kept := 0, &machine.Turn{}
		again := &machine.Turn{}
		err := d.eng.OnSignInFor("report", func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			if again = turn; turn.Tx() == nil {
				t.Error("no transaction for a purpose")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		d.flow().OnSignInComplete(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			tx, ok := turn.Tx().(*ledgerTx)
			if !ok {
				t.Fatal("no transaction")
			}
			tx.writes = append(tx.writes, turn.DeliveryKey())
			kept = turn
			if tries++; tries == 1 {
				return errors.New("after the write")
			}
			return nil
		})
		d.asksFor("report", "hello")
		d.exchange()
		if len(l.kept) != 0 {
			t.Errorf("a failed callback left %v", l.kept)
		}
		if kept.Tx() != nil || again.Tx() != nil {
			t.Error("the turn still hands out a transaction that is over")
		}
		d.deliver(2 * time.Second)
		if len(l.kept) != 1 || !strings.HasSuffix(l.kept[0], "/complete/1") {
			t.Errorf("kept %v, want the one key", l.kept)
		}
		if rows := d.rows(); rows[0].Status != store.DeliveryDone || rows[0].Tries != 2 {
			t.Errorf("the row is %s after %d tries", rows[0].Status, rows[0].Tries)
		}
		d.deliver(time.Hour)
		if tries != 2 || len(l.kept) != 1 {
			t.Errorf("%d tries, kept %v", tries, l.kept)
		}
	})
}

// All handlers of a callback run in its one transaction.
func TestHandlersShareTheTransaction(t *testing.T) {
	l := &ledger{}
	d := newLedgerDesk(t, l)
	writes := func(what string) machine.CompleteHandler {
		return func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			tx, _ := turn.Tx().(*ledgerTx)
			tx.writes = append(tx.writes, what)
			return nil
		}
	}
	d.eng.OnSignIn(writes("of the bot"))
	d.flow().OnSignInComplete(writes("first"))
	d.flow().OnSignInComplete(writes("second"))
	d.signIn("hello")
	d.exchange()
	if !slices.Equal(l.kept, []string{"of the bot", "first", "second"}) {
		t.Errorf("kept %v", l.kept)
	}
	d.drain()
}

func TestCallbackThatAnotherInstanceTook(t *testing.T) {
	l := &ledger{taken: true}
	d := newLedgerDesk(t, l)
	d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
		t.Error("the handler ran")
		return nil
	})
	d.signIn("hello")
	if got := d.exchange(); got != 200 {
		t.Errorf("answered %d", got)
	}
	if rows := d.rows(); rows[0].Status != store.DeliveryPending || rows[0].Error != "" || rows[0].Tries != 1 {
		t.Errorf("the row was touched: %+v", rows[0])
	}
}

// A callback without a row has nothing to acknowledge, and so no transaction.
func TestCallbackWithoutARow(t *testing.T) {
	d := newLedgerDesk(t, &ledger{})
	told := false
	d.eng.OnSignInFailure(func(_ context.Context, turn *machine.Turn, _ *machine.Failure) error {
		told = true
		if turn.Tx() != nil {
			t.Errorf("a transaction: %v", turn.Tx())
		}
		return nil
	})
	d.failure("nobodyasked")
	if !told {
		t.Error("nobody was told")
	}
}

func TestTxCallbacksNeedAStoreThatHasThem(t *testing.T) {
	d := newDesk(t, nil)
	_, err := machine.New(machine.Config{
		AppID: "app", Store: d.mem, Tokens: d.tokens, Messenger: silent{}, TxCallbacks: true,
		Connections: []machine.Connection{{Name: "graph"}},
	})
	if err == nil || !strings.Contains(err.Error(), "TxCallbacks") {
		t.Errorf("got %v", err)
	}
}

// silent is a messenger that is never used.
type silent struct{ machine.Messenger }
