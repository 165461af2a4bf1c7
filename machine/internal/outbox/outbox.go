package outbox

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

const (
	// workers is how many callbacks of the outbox one process makes at once.
	workers = 8
	// pollEvery is how often the store is polled for due rows.
	pollEvery = time.Second
)

// Store is the part of the engine's store that the outbox uses.
type Store interface {
	Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error)
	// Later writes c without waiting for it.
	Later(ctx context.Context, c store.Commit)
}

// Transactor is a store that can run a callback and its acknowledgement in one
// transaction.
type Transactor interface {
	// AckIn runs fn in a transaction and acknowledges row with it, all or
	// nothing. store.ErrConflict: the row is no longer this caller's to deliver,
	// and nothing was kept.
	AckIn(ctx context.Context, row store.Delivery, fn func(ctx context.Context, tx any) error) error
}

// Tell runs the bot's handlers for one row. tx is the transaction of the
// [Transactor], nil without one. A nil Tell means that nobody listens.
type Tell func(ctx context.Context, tx any) error

// Config of an outbox. All members but Transactor are required.
type Config struct {
	Store      Store
	Transactor Transactor
	Instance   string           // who claims
	Lease      time.Duration    // how long a row is held
	Budget     time.Duration    // how long an invoke waits for its own callback
	Clock      func() time.Time // only durations are taken from it
	// Prepare builds the callback of a claimed row: it reads the attempt and
	// fetches the token again.
	Prepare func(ctx context.Context, row store.Delivery) (Tell, error)
	// Failed is called for each try that ended with an error.
	Failed func(ctx context.Context, row store.Delivery, err error)
	// Noted is called for each audit line that the outbox writes itself.
	Noted func(ctx context.Context, line store.Event)
	// Overrun is called for each callback that is no longer waited for.
	Overrun func(row store.Delivery)
}

// Outbox makes callbacks. It is safe for concurrent use.
type Outbox struct {
	Config
	flight flight
	claims atomic.Int64
	lost   lost
}

// New makes an outbox. It starts nothing.
func New(c Config) *Outbox { return &Outbox{Config: c} }

// held is a row that this process holds, until its NextAt.
type held struct {
	row   store.Delivery
	user  store.UserKey // the row's user, if known
	now   time.Time     // the store's clock …
	since time.Time     // … and the local one at the same moment
}

// left returns how much longer the row is held. A row that was acknowledged in
// advance cannot be claimed by another process.
func (o *Outbox) left(h *held) time.Duration {
	if h.row.Status != store.DeliveryPending {
		return o.Lease
	}
	return h.row.NextAt.Sub(o.clock(h))
}

// clock extrapolates the store's clock by the local one.
func (o *Outbox) clock(h *held) time.Time { return h.now.Add(o.Clock().Sub(h.since)) }

// Inline makes the callback of a transition that this process has just written. row
// is as it was written for user, and now is the store's time of that. It waits up to
// wait for the handler, which then goes on in the background.
//
// A row that was not written as held is claimed first. If an earlier callback of
// its attempt is not done yet, the row is not due, and [Outbox.Run] makes it later.
//
// It returns the audit line of the try if the handler has ended. Otherwise the line
// is written when the handler ends.
func (o *Outbox) Inline(ctx context.Context, row store.Delivery, user store.UserKey, now time.Time, wait time.Duration, tell Tell) (store.Event, bool) {
	budget := time.NewTimer(wait)
	defer budget.Stop()
	h := &held{row: row, user: user, now: now, since: o.Clock()}
	if row.Status == store.DeliveryPending && row.Owner == "" {
		if h = o.claim(ctx, row.Attempt); h == nil {
			return store.Event{}, false
		}
		h.user = user
		if h.row.DeliveryKey != row.DeliveryKey {
			// An earlier callback is due again. The invoke does not wait for it.
			o.Go(func() { o.redeliver(ctx, h) })
			return store.Event{}, false
		}
	}
	if o.left(h) < o.Budget {
		// So much time has passed since the transition that another process may hold
		// the row before the handler is done.
		return store.Event{}, false
	}
	t := o.begin(ctx, h, tell, true)
	select {
	case <-t.done:
		return t.told, h.row.Attempt != ""
	case <-budget.C:
		if t.leave() {
			o.Overrun(h.row)
			return store.Event{}, false
		}
		<-t.done
		return t.told, h.row.Attempt != ""
	}
}

// Run claims and makes callbacks until ctx is done. It does not wait for running
// ones: see [Outbox.Wait].
func (o *Outbox) Run(ctx context.Context) {
	free := make(chan struct{}, workers)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		for ctx.Err() == nil {
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			h := o.claim(ctx, "")
			if h == nil {
				<-free
				break
			}
			o.flight.add()
			go func() {
				defer o.flight.done()
				o.redeliver(ctx, h)
				<-free
			}()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Due makes every due callback, one after the other.
func (o *Outbox) Due(ctx context.Context) error {
	for ctx.Err() == nil {
		h, err := o.tryClaim(ctx, "")
		if err != nil || h == nil {
			return err
		}
		o.redeliver(ctx, h)
	}
	return fmt.Errorf("callbacks: %w", ctx.Err())
}

// Go runs f in the background; Wait waits for it too.
func (o *Outbox) Go(f func()) {
	o.flight.add()
	go func() {
		defer o.flight.done()
		f()
	}()
}

// Wait returns when no callback is running in this process, or when ctx is done.
func (o *Outbox) Wait(ctx context.Context) error { return o.flight.wait(ctx) }

// claim claims the next row of one attempt or, with "", of any. It returns nil if
// there is none, and reports an error and then returns nil too.
func (o *Outbox) claim(ctx context.Context, attempt string) *held {
	h, err := o.tryClaim(ctx, attempt)
	if err != nil && ctx.Err() == nil {
		o.Failed(ctx, store.Delivery{DeliveryKey: store.DeliveryKey{Attempt: attempt}}, err)
	}
	return h
}

func (o *Outbox) tryClaim(ctx context.Context, attempt string) (*held, error) {
	since, owner := o.Clock(), o.owner()
	rows, err := o.Store.Claim(ctx, store.ClaimQuery{Owner: owner, Attempt: attempt, Limit: 1, Hold: o.Lease})
	if err != nil {
		o.lost.add(lostClaim{owner: owner}, since.Add(o.Lease))
		return nil, fmt.Errorf("claim a callback: %w", err)
	}
	if len(rows) == 0 {
		return nil, nil //nolint:nilnil // nothing is due
	}
	return &held{row: rows[0], now: rows[0].NextAt.Add(-o.Lease), since: since}, nil
}

// owner names one claim of this process. Instance and try would not tell two claims
// apart, since a try that does not count gives its number back. An acknowledgement
// that is written again because its answer was lost must not apply to a later claim.
func (o *Outbox) owner() string {
	return o.Instance + "/" + strconv.FormatInt(o.claims.Add(1), 10)
}

// redeliver makes the callback of a claimed row and waits for it while the row
// is held.
func (o *Outbox) redeliver(ctx context.Context, h *held) {
	if h.row.Tries > maxTries { // every try ended with its process
		o.note(ctx, h, o.settle(ctx, h, errors.New("no try has come back"), false))
		return
	}
	tell, err := o.Prepare(ctx, h.row)
	switch {
	case err != nil && ctx.Err() != nil:
		o.giveBack(ctx, h)
		return
	case err != nil:
		o.Failed(ctx, h.row, err)
		o.note(ctx, h, o.settle(ctx, h, err, false))
		return
	case o.left(h) < o.Budget:
		// Another process may hold the row before the handler is done.
		return
	}
	over := time.NewTimer(o.left(h))
	defer over.Stop()
	t := o.begin(ctx, h, tell, false)
	select {
	case <-t.done:
	case <-over.C:
		o.Overrun(h.row)
	}
}

// try is one run of the handlers of a row.
type try struct {
	done chan struct{} // closed when the row is acknowledged
	told store.Event   // the audit line, once done is closed
	left atomic.Bool   // the line is no longer waited for, or has been delivered
}

// leave gives up waiting for the audit line; false if it is already there.
func (t *try) leave() bool { return t.left.CompareAndSwap(false, true) }

// begin runs the handlers of a held row and acknowledges it. waits says that the
// caller waits for the audit line; otherwise begin writes it.
func (o *Outbox) begin(ctx context.Context, h *held, tell Tell, waits bool) *try {
	t := &try{done: make(chan struct{})}
	t.left.Store(!waits)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.left(h))
	o.flight.add()
	go func() {
		defer o.flight.done()
		defer close(t.done)
		defer cancel()
		known, err := o.run(ctx, h, tell)
		if err != nil {
			o.Failed(ctx, h.row, err)
		}
		t.told = o.settle(ctx, h, err, known)
		if !t.leave() { // the caller has stopped waiting
			o.note(ctx, h, t.told)
		}
	}()
	return t
}

// note writes an audit line in the background.
func (o *Outbox) note(ctx context.Context, h *held, line store.Event) {
	if line.Attempt != "" {
		o.Store.Later(context.WithoutCancel(ctx), store.Commit{Events: []store.Event{line}, User: h.user})
		o.Noted(ctx, line)
	}
}

// run calls the handlers, inside the store's transaction if there is one. known is
// true if the transaction has acknowledged the row, or found that another process
// holds it.
func (o *Outbox) run(ctx context.Context, h *held, tell Tell) (known bool, err error) {
	if tell == nil {
		return false, nil
	}
	if o.Transactor == nil || h.row.Status != store.DeliveryPending {
		return false, guarded(func() error { return tell(ctx, nil) })
	}
	err = o.Transactor.AckIn(ctx, h.row, func(ctx context.Context, tx any) error {
		return guarded(func() error { return tell(ctx, tx) })
	})
	return err == nil || errors.Is(err, store.ErrConflict), err
}

// guarded turns a panic of the bot's code into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// flight counts running goroutines.
type flight struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n is back at 0; nil without a waiter
}

func (f *flight) add() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
}

func (f *flight) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

func (f *flight) wait(ctx context.Context) error {
	f.mu.Lock()
	if f.n == 0 {
		f.mu.Unlock()
		return nil
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle, n := f.idle, f.n
	f.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("callbacks under way: %d: %w", n, ctx.Err())
	}
}
