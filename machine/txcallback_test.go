package machine_test

import (
	"context"
	"errors"
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
	row.Status = store.DeliveryDone
	if err := l.Apply(ctx, []store.Commit{{Deliveries: []store.Delivery{row}}})[0]; err != nil {
		return err
	}
	l.kept = append(l.kept, tx.writes...)
	return nil
}

func (d *desk) deliveries() []store.Delivery {
	d.t.Helper()
	d.drain()
	page, err := d.mem.List(d.t.Context(), store.Filter{})
	if err != nil {
		d.t.Fatal(err)
	}
	return page.Deliveries
}

func TestCallbackInTheStoresTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		d := newDesk(t, func(c *machine.Config) {
			l.Store, c.Store, c.TxCallbacks = c.Store, l, true
		})
		tries := 0
		d.flow().OnSignInComplete(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			tx, ok := turn.Tx().(*ledgerTx)
			if !ok {
				t.Fatal("no transaction")
			}
			tx.writes = append(tx.writes, turn.DeliveryKey())
			if tries++; tries == 1 {
				return errors.New("after the write")
			}
			return nil
		})
		d.signIn("hello")
		d.exchange()
		if len(l.kept) != 0 {
			t.Errorf("a failed callback left %v", l.kept)
		}
		time.Sleep(2 * time.Second)
		if err := d.eng.DeliverDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(l.kept) != 1 || !strings.HasSuffix(l.kept[0], "/complete/1") {
			t.Errorf("kept %v, want the one key", l.kept)
		}
		if rows := d.deliveries(); rows[0].Status != store.DeliveryDone {
			t.Errorf("the row is %s", rows[0].Status)
		}
	})
}

func TestCallbackThatAnotherInstanceTook(t *testing.T) {
	l := &ledger{taken: true}
	d := newDesk(t, func(c *machine.Config) {
		l.Store, c.Store, c.TxCallbacks = c.Store, l, true
	})
	d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
		t.Error("the handler ran")
		return nil
	})
	d.signIn("hello")
	if got := d.exchange(); got != 200 {
		t.Errorf("answered %d", got)
	}
	if rows := d.deliveries(); rows[0].Status != store.DeliveryPending || rows[0].Error != "" {
		t.Errorf("the row was touched: %+v", rows[0])
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
