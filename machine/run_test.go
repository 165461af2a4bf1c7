package machine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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

// These tests run whole engines, over time that stands still until somebody
// waits.

// closable is a store that refuses everything once it is closed, while what lies
// in it can still be looked at.
type closable struct {
	*memstore.Store
	closed atomic.Bool
}

func (c *closable) Close() error {
	c.closed.Store(true)
	return nil
}

func (c *closable) Apply(ctx context.Context, commits []store.Commit) []error {
	if c.closed.Load() {
		errs := make([]error, len(commits))
		for i := range errs {
			errs[i] = store.ErrUnavailable
		}
		return errs
	}
	return c.Store.Apply(ctx, commits)
}

func (c *closable) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	if c.closed.Load() {
		return nil, store.ErrUnavailable
	}
	return c.Store.Claim(ctx, q)
}

// fleet is some engines on one store, and a bot whose handler takes its time.
type fleet struct {
	t    *testing.T
	mem  *closable
	slow time.Duration

	mu    sync.Mutex
	calls map[string]int // by the callback's key
	now   map[string]int // under way, by instance
	most  int            // … at most in one of them
}

func newFleet(t *testing.T, slow time.Duration) *fleet {
	t.Helper()
	return &fleet{t: t, mem: &closable{Store: memstore.New(time.Now)}, slow: slow, calls: map[string]int{}, now: map[string]int{}}
}

// instance is one more engine.
func (f *fleet) instance(name string) *machine.Engine {
	f.t.Helper()
	quiet := func(string, ...any) {}
	eng, err := machine.New(machine.Config{
		AppID: "app", Store: f.mem, Tokens: machinetest.NewTokenService(quiet), Messenger: machinetest.NewConnector(quiet),
		Connections: []machine.Connection{{Name: "graph"}}, Log: zerolog.Nop(), Instance: name,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	eng.OnSignIn(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		f.mu.Lock()
		f.calls[turn.DeliveryKey()]++
		f.now[name]++
		f.most = max(f.most, f.now[name])
		f.mu.Unlock()
		time.Sleep(f.slow)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.now[name]--
		return nil
	})
	return eng
}

// run starts Run of an engine. The function that it returns ends it and waits.
func (f *fleet) run(eng *machine.Engine) (stop func() error) {
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- eng.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// put writes so many attempts.
func (f *fleet) put(n int, change func(i int, a *store.Attempt) *store.Delivery) {
	f.t.Helper()
	now := store.Time(time.Now())
	for i := range n {
		a := store.Attempt{
			ID: fmt.Sprintf("01JSD4K2Q8000000000000%04d", i), Version: 1, Origin: store.OriginSignIn,
			Key:     store.Key{App: "app", Channel: "msteams", User: fmt.Sprintf("29:user-%d", i), Connection: "graph"},
			Created: now, Entered: now, Expires: now.Add(15 * time.Minute),
			Conversation: store.Conversation{ServiceURL: "https://smba.example/", Channel: "msteams", ID: "chat", UserID: fmt.Sprintf("29:user-%d", i)},
		}
		c := store.Commit{}
		if row := change(i, &a); row != nil {
			c.Deliveries = []store.Delivery{*row}
		}
		c.Put = []store.Attempt{a}
		c.Events = []store.Event{{Attempt: a.ID, Time: now, Kind: store.EventTransition, Version: 1, To: a.State}}
		if err := f.mem.Apply(f.t.Context(), []store.Commit{c})[0]; err != nil {
			f.t.Fatal(err)
		}
	}
}

// owe writes so many completions of which nobody was told yet.
func (f *fleet) owe(n int) {
	f.t.Helper()
	f.put(n, func(_ int, a *store.Attempt) *store.Delivery {
		a.State, a.Method, a.Calls = store.Complete, store.MethodTokenExchange, 1
		return &store.Delivery{
			DeliveryKey: store.DeliveryKey{Attempt: a.ID, Kind: store.DeliverComplete, Round: 1},
			Status:      store.DeliveryPending, Created: a.Created, NextAt: a.Created,
		}
	})
}

func (f *fleet) page() store.Page {
	f.t.Helper()
	page, err := f.mem.List(context.Background(), store.Filter{Limit: 10_000})
	if err != nil {
		f.t.Fatal(err)
	}
	return page
}

// count is how many calls there were, and how many callbacks were called more
// than once.
func (f *fleet) count() (calls, repeated int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.calls {
		calls += n
		if n > 1 {
			repeated++
		}
	}
	return calls, repeated
}

// as returns how many callbacks have a status and so many tries.
func (f *fleet) as(status store.DeliveryStatus, tries int) int {
	f.t.Helper()
	n := 0
	for _, d := range f.page().Deliveries {
		if d.Status == status && d.Tries == tries && d.Owner == "" {
			n++
		}
	}
	return n
}

// A callback is called by whoever holds it, so a backlog is worked off without a
// single repeat: 200 callbacks of a second each, by two engines.
func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Second)
		f.owe(200)
		stopA, stopB := f.run(f.instance("a")), f.run(f.instance("b"))
		// Sixteen at once take 13 s. That is less than a lease: nobody has waited for one
		// that was claimed and not made.
		time.Sleep(20 * time.Second)
		if err := errors.Join(stopA(), stopB()); err != nil {
			t.Error(err)
		}
		if calls, repeated := f.count(); calls != 200 || repeated > 0 {
			t.Errorf("%d calls, %d callbacks repeated", calls, repeated)
		}
		if n := f.as(store.DeliveryDone, 1); n != 200 {
			t.Errorf("%d callbacks are acknowledged after one try", n)
		}
		if f.most > 8 {
			t.Errorf("%d callbacks at once in one process", f.most)
		}
	})
}

// An outbox that has long had nothing to do is as quick as ever.
func TestOutboxAfterIdleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Second)
		stop := f.run(f.instance("a"))
		time.Sleep(time.Hour)
		f.owe(8)
		time.Sleep(3 * time.Second)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if n := f.as(store.DeliveryDone, 1); n != 8 {
			t.Errorf("%d of 8 callbacks were made", n)
		}
	})
}

// Run that is cancelled while callbacks are under way loses no acknowledgement,
// and what it has not begun it has not touched. The store may be closed as soon
// as Run has returned.
func TestRunEndsWithWhatItHasBegun(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, time.Second)
				f.owe(200)
				stop := f.run(f.instance("a"))
				time.Sleep(after)
				synctest.Wait()
				if err := stop(); err != nil {
					t.Error(err)
				}
				_ = f.mem.Close()
				calls, repeated := f.count()
				if calls == 0 || repeated > 0 {
					t.Errorf("%d calls, %d callbacks repeated", calls, repeated)
				}
				if done, untouched := f.as(store.DeliveryDone, 1), f.as(store.DeliveryPending, 0); done != calls || untouched != 200-calls {
					t.Errorf("%d calls: %d acknowledged, %d untouched", calls, done, untouched)
				}

				// The next process makes the rest, and none of them again.
				f.mem.closed.Store(false)
				stop = f.run(f.instance("b"))
				time.Sleep(40 * time.Second)
				if err := stop(); err != nil {
					t.Error(err)
				}
				if calls, repeated := f.count(); calls != 200 || repeated > 0 {
					t.Errorf("in the end %d calls, %d callbacks repeated", calls, repeated)
				}
			})
		})
	}
}

// The callback of an invoke is waited for too, also one that its invoke does not
// wait for any more.
func TestRunWaitsForTheCallbacksOfInvokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		var begun atomic.Bool
		d.flow().OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
			begun.Store(true)
			time.Sleep(8 * time.Second) // more than the budget
			return nil
		})
		d.signIn("hello")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.eng.Run(ctx) }()
		if got := d.exchange(); got != 200 || !begun.Load() {
			t.Errorf("answered %d, begun %t", got, begun.Load())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		page, err := d.mem.List(t.Context(), store.Filter{})
		if err != nil || page.Deliveries[0].Status != store.DeliveryDone {
			t.Errorf("the row is %s, %v", page.Deliveries[0].Status, err)
		}
		events, err := d.mem.Events(t.Context(), store.EventFilter{Attempt: page.Attempts[0].ID})
		if err != nil || !slices.ContainsFunc(events, func(e store.Event) bool { return e.Kind == store.EventCallback }) {
			t.Errorf("no audit line of the callback, %v", err)
		}
	})
}

// A callback that does not end in time is left to the outbox, and Run says so.
func TestRunDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 40*time.Second)
		f.owe(1)
		stop := f.run(f.instance("a"))
		synctest.Wait()
		began := time.Now()
		if err := stop(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run returned %v", err)
		}
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("after %s", took)
		}
		_ = f.mem.Close()
		time.Sleep(50 * time.Second)
		f.mem.closed.Store(false)
		stop = f.run(f.instance("b"))
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if calls, _ := f.count(); calls != 2 || f.as(store.DeliveryDone, 2) != 1 {
			t.Errorf("%d calls, %+v", calls, f.page().Deliveries)
		}
	})
}

// Run deletes what the retention is over for, all of it, and nothing else.
func TestRunPurges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retention := machine.DefaultTimeouts().Retention
		f := newFleet(t, 0)
		f.put(260, func(i int, a *store.Attempt) *store.Delivery {
			a.State, a.Reason = store.Failed, store.ReasonExpired
			a.Entered = a.Entered.Add(-retention - time.Hour)
			if i >= 250 {
				a.Entered = a.Entered.Add(90 * time.Minute) // for half an hour more
			}
			return nil
		})
		stop := f.run(f.instance("a"))
		time.Sleep(time.Minute)
		if n := len(f.page().Attempts); n != 10 {
			t.Errorf("%d attempts are left after a minute, want the 10 that are younger", n)
		}
		time.Sleep(time.Hour)
		if n := len(f.page().Attempts); n != 0 {
			t.Errorf("%d attempts are left after an hour", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A sweep takes all that is due, however much it is.
func TestSweepTakesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 0)
		f.put(250, func(i int, a *store.Attempt) *store.Delivery {
			a.State = store.CardSent
			if i%2 == 0 {
				a.State, a.Lease = store.Idle, store.Lease{Owner: "gone", Fence: 1, Until: a.Created.Add(30 * time.Second)}
			}
			return nil
		})
		time.Sleep(16 * time.Minute)
		if err := f.instance("a").Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended := map[string]int{}
		for _, a := range f.page().Attempts {
			ended[a.Outcome()]++
		}
		if ended["Failed:expired"] != 125 || ended["Failed:abandoned"] != 125 {
			t.Errorf("%v", ended)
		}
	})
}

// Run sweeps, recovers and flushes by itself.
func TestRunSettlesWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 0)
		eng := f.instance("a")
		stop := f.run(eng)
		f.put(3, func(i int, a *store.Attempt) *store.Delivery {
			a.State = []store.State{store.Idle, store.Exchanging, store.CardSent}[i]
			a.Lease = store.Lease{Owner: "gone", Fence: 1, Until: a.Created.Add(30 * time.Second)}
			return nil
		})
		time.Sleep(45 * time.Second)
		var got []string
		for _, a := range f.page().Attempts {
			got = append(got, string(a.State)+" "+string(a.Reason))
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{"CardSent ", "CardSent ", "Failed abandoned"}) {
			t.Errorf("after the leases: %v", got)
		}
		time.Sleep(16 * time.Minute)
		for _, a := range f.page().Attempts {
			if !a.State.Terminal() {
				t.Errorf("%s is still %s", a.ID, a.State)
			}
		}
		// What nobody waits for is written soon.
		act := activity("invoke", machine.InvokeFailure, "", `{"code":"nobodyasked"}`)
		if _, ok := eng.HandleInvoke(t.Context(), act); !ok {
			t.Fatal("not handled")
		}
		time.Sleep(time.Second)
		if lines, err := f.mem.Events(t.Context(), store.EventFilter{Orphans: true}); err != nil || len(lines) == 0 {
			t.Errorf("%d orphan lines, %v", len(lines), err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
