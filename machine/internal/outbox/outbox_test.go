package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
)

const (
	lease  = time.Minute
	budget = 5 * time.Second
)

// bench is an outbox over a memory store with one attempt.
type bench struct {
	*Outbox
	t     *testing.T
	mem   *memstore.Store
	group *store.Group

	mu    sync.Mutex
	calls int
	fails []error  // what Failed was told
	over  []string // what Overrun was told
}

const attempt = "01JSD4K2Q800000000000000AA"

func newBench(t *testing.T, instance string, on *memstore.Store) *bench {
	t.Helper()
	b := &bench{t: t, mem: on}
	if on == nil {
		b.mem = memstore.New(time.Now)
	}
	b.group = store.NewGroup(b.mem)
	b.Outbox = New(Config{
		Store: b.group, Instance: instance, Lease: lease, Budget: budget, Clock: time.Now,
		Prepare: func(context.Context, store.Delivery) (Tell, error) { return b.tells(0, nil), nil },
		Failed: func(_ context.Context, _ store.Delivery, err error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.fails = append(b.fails, err)
		},
		Noted: func(context.Context, store.Event) {},
		Overrun: func(row store.Delivery) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.over = append(b.over, row.String())
		},
	})
	if on == nil {
		a := store.Attempt{ID: attempt, Version: 1, State: store.Complete, Key: store.Key{App: "app", Channel: "msteams", User: "29:alice", Connection: "graph"}}
		line := store.Event{Attempt: attempt, Kind: store.EventTransition, Version: 1, To: store.Complete}
		b.commit(store.Commit{Put: []store.Attempt{a}, Events: []store.Event{line}})
	}
	return b
}

// tells is a handler that takes its time and ends with an error, or without one.
func (b *bench) tells(slow time.Duration, err error) Tell {
	return func(context.Context, any) error {
		b.mu.Lock()
		b.calls++
		b.mu.Unlock()
		time.Sleep(slow)
		return err
	}
}

func (b *bench) commit(c store.Commit) {
	b.t.Helper()
	if err := b.mem.Apply(b.t.Context(), []store.Commit{c})[0]; err != nil {
		b.t.Fatal(err)
	}
}

// owe writes a callback, held by this instance if it is the first.
func (b *bench) owe(round int) store.Delivery {
	b.t.Helper()
	now := store.Time(time.Now())
	row := store.Delivery{
		DeliveryKey: store.DeliveryKey{Attempt: attempt, Kind: store.DeliverFailure, Round: round},
		Status:      store.DeliveryPending, Created: now, NextAt: now,
	}
	if round == 1 {
		row.Owner, row.Tries, row.NextAt = b.Instance, 1, now.Add(lease)
	}
	b.commit(store.Commit{Deliveries: []store.Delivery{row}})
	return row
}

func (b *bench) flush() {
	b.t.Helper()
	if err := b.group.Flush(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

// row is a callback as it lies in the store.
func (b *bench) row(round int) store.Delivery {
	b.t.Helper()
	b.flush()
	page, err := b.mem.List(context.Background(), store.Filter{})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, d := range page.Deliveries {
		if d.Round == round {
			return d
		}
	}
	b.t.Fatalf("no callback %d", round)
	return store.Delivery{}
}

// lines is how many audit lines of callbacks there are.
func (b *bench) lines() int {
	b.t.Helper()
	b.flush()
	events, err := b.mem.Events(context.Background(), store.EventFilter{Attempt: attempt})
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Kind == store.EventCallback {
			n++
		}
	}
	return n
}

func TestInlineCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		line, done := b.Inline(t.Context(), b.owe(1), store.UserKey{}, time.Now(), budget, b.tells(time.Second, nil))
		if !done || line.Detail != "delivered" || !strings.HasSuffix(line.Invoke, "/failure/1") || line.Attempt != attempt {
			t.Errorf("%t, %+v", done, line)
		}
		if d := b.row(1); d.Status != store.DeliveryDone || d.Owner != "" || d.Tries != 1 {
			t.Errorf("%+v", d)
		}
		if n := b.lines(); n != 0 { // its line is the caller's to write
			t.Errorf("%d lines", n)
		}
	})
}

// Inline waits as long as the budget allows. The handler goes on by itself and is
// acknowledged when it is done.
func TestInlineLeavesASlowHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		began := time.Now()
		_, done := b.Inline(t.Context(), b.owe(1), store.UserKey{}, time.Now(), budget, b.tells(20*time.Second, nil))
		if took := time.Since(began); done || took != budget || len(b.over) != 1 {
			t.Errorf("%t after %s, %v", done, took, b.over)
		}
		if d := b.row(1); d.Status != store.DeliveryPending || d.Owner != "a" {
			t.Errorf("while it runs: %+v", d)
		}
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := b.row(1); d.Status != store.DeliveryDone || b.lines() != 1 || b.calls != 1 {
			t.Errorf("afterwards: %+v, %d lines, %d calls", d, b.lines(), b.calls)
		}
	})
}

// A row is called only while it is held. What came between the transition and
// its callback counts.
func TestInlineHoldsTheRow(t *testing.T) {
	for _, c := range []struct {
		later time.Duration
		calls int
	}{{0, 1}, {lease - budget, 1}, {lease - budget + time.Second, 0}, {2 * lease, 0}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, "a", nil)
			row := b.owe(1)
			time.Sleep(c.later)
			_, done := b.Inline(t.Context(), row, store.UserKey{}, time.Now(), budget, b.tells(0, nil))
			if b.calls != c.calls || done != (c.calls > 0) {
				t.Errorf("%s after the transition: %d calls, %t", c.later, b.calls, done)
			}
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A callback that is not the attempt's first waits until the earlier ones are
// through. Its invoke does not wait for them.
func TestInlineKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		first, second := b.owe(1), b.owe(2)
		notYet := func(calls int) {
			t.Helper()
			began := time.Now()
			if _, done := b.Inline(t.Context(), second, store.UserKey{}, time.Now(), budget, b.tells(0, nil)); done || time.Since(began) != 0 {
				t.Errorf("made before the first: %t, after %s", done, time.Since(began))
			}
			synctest.Wait()
			if b.calls != calls {
				t.Errorf("%d calls, want %d", b.calls, calls)
			}
		}
		notYet(0) // the first is held
		b.Inline(t.Context(), first, store.UserKey{}, time.Now(), budget, b.tells(0, errors.New("broken")))
		b.flush()
		notYet(1) // its turn has not come again
		time.Sleep(time.Second)
		b.Prepare = func(context.Context, store.Delivery) (Tell, error) { return b.tells(30*time.Second, nil), nil }
		notYet(2) // it has: the first is made again, by itself
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.flush()
		if _, done := b.Inline(t.Context(), second, store.UserKey{}, time.Now(), budget, b.tells(0, nil)); !done || b.calls != 3 {
			t.Errorf("%t, %d calls", done, b.calls)
		}
		if a, c := b.row(1), b.row(2); a.Status != store.DeliveryDone || c.Status != store.DeliveryDone || a.Tries != 2 || c.Tries != 1 {
			t.Errorf("%+v, %+v", a, c)
		}
	})
}

// Whoever comes too late changes nothing: an acknowledgement is a compare-and-set
// on owner and try.
func TestALateLoserChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, "a", nil)
		b := newBench(t, "b", a.mem)
		row := a.owe(1)
		go a.Inline(t.Context(), row, store.UserKey{}, time.Now(), budget, func(ctx context.Context, _ any) error {
			<-ctx.Done() // it does not end with its lease
			time.Sleep(10 * time.Second)
			return errors.New("too late")
		})
		time.Sleep(lease + time.Second)
		b.Prepare = func(context.Context, store.Delivery) (Tell, error) { return b.tells(30*time.Second, nil), nil }
		if err := b.Due(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := a.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.flush() // the late acknowledgement comes before the good one
		if d := b.row(1); d.Status != store.DeliveryDone || d.Tries != 2 || d.Error != "" {
			t.Errorf("%+v", d)
		}
	})
}

// deaf is a store whose answer to a write is lost once.
type deaf struct {
	store.Store
	once bool
}

func (d *deaf) Apply(ctx context.Context, commits []store.Commit) []error {
	errs := d.Store.Apply(ctx, commits)
	if d.once {
		d.once = false
		for i := range errs {
			errs[i] = store.ErrUnavailable
		}
	}
	return errs
}

// An acknowledgement whose answer was lost is written once more. It changes
// nothing if the row has been claimed since, also by the same process, also where
// the first try does not count.
func TestAnAcknowledgementIsOfOneClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		b.group = store.NewGroup(&deaf{Store: b.mem, once: true})
		b.Store = b.group
		b.owe(2)
		b.Prepare = func(context.Context, store.Delivery) (Tell, error) { return b.tells(0, refused{status: 503}), nil }
		if err := b.Due(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.group.Flush(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("flush: %v", err)
		}
		time.Sleep(time.Second)
		b.Prepare = func(context.Context, store.Delivery) (Tell, error) { return b.tells(30*time.Second, nil), nil }
		go func() { _ = b.Due(context.WithoutCancel(t.Context())) }()
		synctest.Wait()
		if d := b.row(2); d.Owner == "" { // this writes it once more
			t.Errorf("nobody holds the row while it is called: %+v", d)
		}
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := b.row(2); d.Status != store.DeliveryDone || b.calls != 2 {
			t.Errorf("%d calls, %+v", b.calls, d)
		}
	})
}

// A callback whose preparation ends with the process was not begun: the row is
// given back as it was.
func TestGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		b.owe(2)
		ctx, cancel := context.WithCancel(t.Context())
		b.Prepare = func(ctx context.Context, _ store.Delivery) (Tell, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		time.AfterFunc(time.Second, cancel)
		b.Run(ctx)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := b.row(2); d.Status != store.DeliveryPending || d.Owner != "" || d.Tries != 0 || d.NextAt.After(time.Now()) || d.Error != "" {
			t.Errorf("%+v", d)
		}
		if b.lines() != 0 || len(b.fails) != 0 {
			t.Errorf("%d lines, %v", b.lines(), b.fails)
		}
	})
}

// Every try of the outbox leaves its audit line.
func TestEveryTryLeavesALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		for round := 2; round < 12; round++ {
			b.owe(round)
		}
		for range 10 { // in their order, so one after the other
			if err := b.Due(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.flush()
		}
		if n := b.lines(); b.calls != 10 || n != 10 {
			t.Errorf("%d calls, %d lines", b.calls, n)
		}
	})
}

// A preparation that fails is a try that failed.
func TestPreparationFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		b.owe(2)
		b.Prepare = func(context.Context, store.Delivery) (Tell, error) { return nil, errors.New("no token service") }
		if err := b.Due(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := b.row(2); d.Status != store.DeliveryPending || d.Tries != 1 || d.Error != "no token service" || !d.NextAt.Equal(store.Time(time.Now().Add(time.Second))) {
			t.Errorf("%+v", d)
		}
	})
}

// A preparation that takes most of the lease leaves too little for the handler.
func TestPreparationTakesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		b.owe(2)
		b.Prepare = func(context.Context, store.Delivery) (Tell, error) {
			time.Sleep(lease - budget + time.Second)
			return b.tells(0, nil), nil
		}
		if err := b.Due(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := b.row(2); b.calls != 0 || d.Status != store.DeliveryPending {
			t.Errorf("%d calls, %+v", b.calls, d)
		}
	})
}

// A callback of which no try ever comes back is given up like any other.
func TestNoTryComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		b.owe(2)
		for range maxTries { // each ends with its process
			if rows, err := b.mem.Claim(t.Context(), store.ClaimQuery{Owner: "gone", Limit: 1, Hold: lease}); err != nil || len(rows) != 1 {
				t.Fatalf("%v, %v", rows, err)
			}
			time.Sleep(lease)
		}
		if err := b.Due(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := b.row(2); b.calls != 0 || d.Status != store.DeliveryDead || d.Error != "no try has come back" {
			t.Errorf("%d calls, %+v", b.calls, d)
		}
	})
}

// Wait returns when the last callback is done, and not before.
func TestWaitWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		began := time.Now()
		for n := range 3 {
			b.Go(func() { time.Sleep(time.Duration(n) * time.Second) })
		}
		synctest.Wait()
		brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := b.Wait(brief); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "callbacks under way: 2:") {
			t.Errorf("%v", err)
		}
		if err := b.Wait(t.Context()); err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if err := b.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A panic is an error.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		b.Inline(t.Context(), b.owe(1), store.UserKey{}, time.Now(), budget, func(context.Context, any) error { panic("it happens") })
		if d := b.row(1); d.Status != store.DeliveryPending || d.Error != "panic: it happens" || len(b.fails) != 1 {
			t.Errorf("%+v, %v", d, b.fails)
		}
	})
}

// shared is a store that finds out in its transaction that the row is somebody
// else's.
type shared struct{}

func (shared) AckIn(context.Context, store.Delivery, func(context.Context, any) error) error {
	return fmt.Errorf("ack: %w", store.ErrConflict)
}

func TestTransactionOfSomebodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		b.Transactor = shared{}
		row := b.owe(1)
		b.Inline(t.Context(), row, store.UserKey{}, time.Now(), budget, b.tells(0, nil))
		if d := b.row(1); b.calls != 0 || d.Owner != "a" || d.Tries != 1 || d.Error != "" {
			t.Errorf("%d calls, %+v", b.calls, d)
		}
	})
}

// refused is an upstream's answer.
type refused struct {
	status int
	code   string
	after  time.Duration
}

func (r refused) Error() string             { return fmt.Sprintf("status %d, code %s", r.status, r.code) }
func (r refused) HTTPStatus() int           { return r.status }
func (r refused) ErrorCode() string         { return r.code }
func (r refused) RetryDelay() time.Duration { return r.after }

type hopeless struct{ error }

func (hopeless) Permanent() bool { return true }

func TestOutcome(t *testing.T) {
	broken := errors.New("broken")
	created := time.Date(2026, 4, 22, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		tries  int
		age    time.Duration
		err    error
		status store.DeliveryStatus
		left   int // tries that are counted then
		again  time.Duration
	}{
		{name: "done", tries: 3, status: store.DeliveryDone, left: 3},
		{name: "the first error", tries: 1, err: broken, status: store.DeliveryPending, left: 1, again: time.Second},
		{name: "the second", tries: 2, err: broken, status: store.DeliveryPending, left: 2, again: 2 * time.Second},
		{name: "the ninth", tries: 9, err: broken, status: store.DeliveryPending, left: 9, again: 256 * time.Second},
		{name: "the tenth", tries: 10, err: broken, status: store.DeliveryDead, left: 10},
		{name: "the last try goes well", tries: 10, status: store.DeliveryDone, left: 10},
		{name: "429", tries: 4, err: fmt.Errorf("send: %w", refused{status: 429, after: 7 * time.Second}), status: store.DeliveryPending, left: 3, again: 7 * time.Second},
		{name: "503 without a time", tries: 4, err: refused{status: 503}, status: store.DeliveryPending, left: 3, again: time.Second},
		{name: "the tenth is 429", tries: 10, err: refused{status: 429}, status: store.DeliveryPending, left: 9, again: time.Second},
		{name: "429 just before 24 h", tries: 2, age: 24*time.Hour - time.Second, err: refused{status: 429}, status: store.DeliveryPending, left: 1, again: time.Second},
		{name: "429 after 24 h", tries: 2, age: 24 * time.Hour, err: refused{status: 429, after: time.Hour}, status: store.DeliveryPending, left: 2, again: 2 * time.Second},
		{name: "429 after 24 h, the tenth", tries: 10, age: 25 * time.Hour, err: refused{status: 429}, status: store.DeliveryDead, left: 10},
		{name: "500", tries: 1, err: refused{status: 500}, status: store.DeliveryPending, left: 1, again: time.Second},
		{name: "the bot was blocked", tries: 1, err: fmt.Errorf("send: %w", refused{status: 403, code: "ConversationBlockedByUser"}), status: store.DeliveryUndeliverable, left: 1},
		{name: "the bot was disabled", tries: 1, err: refused{status: 403, code: "BotDisabledByAdmin"}, status: store.DeliveryUndeliverable, left: 1},
		{name: "the bot was removed", tries: 1, err: refused{status: 403, code: "BotNotInConversationRoster"}, status: store.DeliveryUndeliverable, left: 1},
		{name: "nobody may write", tries: 1, err: refused{status: 403, code: "MessageWritesBlocked"}, status: store.DeliveryUndeliverable, left: 1},
		{name: "another 403", tries: 1, err: refused{status: 403, code: "Forbidden"}, status: store.DeliveryPending, left: 1, again: time.Second},
		{name: "no such conversation", tries: 1, err: refused{status: 404, code: "ConversationNotFound"}, status: store.DeliveryUndeliverable, left: 1},
		{name: "another 404", tries: 1, err: refused{status: 404, code: "NotFound"}, status: store.DeliveryPending, left: 1, again: time.Second},
		{name: "that code with another status", tries: 1, err: refused{status: 500, code: "ConversationBlockedByUser"}, status: store.DeliveryPending, left: 1, again: time.Second},
		{name: "the bot's own code says so", tries: 1, err: fmt.Errorf("greet: %w", hopeless{broken}), status: store.DeliveryUndeliverable, left: 1},
		{name: "one handler failed, another one's chat is blocked", tries: 1, err: fmt.Errorf("middleware: %w", Several{broken, refused{status: 403, code: "ConversationBlockedByUser"}}), status: store.DeliveryPending, left: 1, again: time.Second},
		{name: "one handler failed, another one for good", tries: 1, err: Several{hopeless{broken}, Several{broken}}, status: store.DeliveryPending, left: 1, again: time.Second},
		{name: "all of them for good", tries: 1, err: Several{hopeless{broken}, Several{refused{status: 404, code: "ConversationNotFound"}}}, status: store.DeliveryUndeliverable, left: 1},
		{name: "the middleware says so for all of them", tries: 1, err: hopeless{Several{broken}}, status: store.DeliveryUndeliverable, left: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := store.Delivery{Status: store.DeliveryPending, Tries: c.tries, Created: created, Owner: "a", Error: "before"}
			now := created.Add(c.age)
			outcome(&row, now, c.err)
			if row.Status != c.status || row.Tries != c.left || row.Owner != "" {
				t.Errorf("%+v", row)
			}
			if c.again != 0 && !row.NextAt.Equal(now.Add(c.again)) {
				t.Errorf("again in %s, want %s", row.NextAt.Sub(now), c.again)
			}
			if said := row.Error != ""; said != (c.err != nil) || row.Error == "before" {
				t.Errorf("error %q", row.Error)
			}
		})
	}
}

// The back-off doubles up to ten minutes, and an error is kept in part.
func TestBounds(t *testing.T) {
	if d := retryDelay(10); d != 512*time.Second {
		t.Errorf("after ten tries: %s", d)
	}
	if d := retryDelay(40); d != 10*time.Minute {
		t.Errorf("after forty: %s", d)
	}
	row := store.Delivery{Status: store.DeliveryPending, Tries: 1}
	outcome(&row, time.Now(), errors.New("x"+strings.Repeat("é", 300)))
	if len(row.Error) != maxError-1 || !strings.HasSuffix(row.Error, "é") { // half a letter is none
		t.Errorf("%d bytes: %q", len(row.Error), row.Error)
	}
}

// What was acknowledged before it is made stays acknowledged.
func TestAcknowledgedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a", nil)
		row := store.Delivery{
			DeliveryKey: store.DeliveryKey{Attempt: attempt, Kind: store.DeliverFailure, Round: 1},
			Status:      store.DeliveryDone, Tries: 1, Created: time.Now(), NextAt: time.Now(),
		}
		b.commit(store.Commit{Deliveries: []store.Delivery{row}})
		line, done := b.Inline(t.Context(), row, store.UserKey{}, time.Now(), budget, b.tells(time.Second, hopeless{errors.New("broken")}))
		if !done || b.calls != 1 || line.Detail != "delivered: broken" {
			t.Errorf("%t, %d calls, %q", done, b.calls, line.Detail)
		}
		if d := b.row(1); d.Status != store.DeliveryDone || d.Error != "" {
			t.Errorf("%+v", d)
		}
	})
}
