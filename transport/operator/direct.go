package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Direct reads a store that this process has open. It implements [Reader] and
// [Purger].
type Direct struct {
	store store.Store
	rules Rules
	about Info

	refused  func() *Refused  // nil: not counted
	circuits func() []Circuit // nil: no circuits
}

// NewDirect returns a reader of st that finds stuck attempts by rules. The members
// of about that describe the process are passed on with every [Info]. Those that
// describe the store are read from it each time.
func NewDirect(st store.Store, rules Rules, about Info) *Direct {
	return &Direct{store: st, rules: rules, about: about}
}

// CountRefused makes every [Info] include the result of f. It must be called
// before d is used.
func (d *Direct) CountRefused(f func() *Refused) { d.refused = f }

// CountCircuits makes every [Info] include the circuits that f returns, and every
// [Overview] a finding for each upstream that does not answer. It must be called
// before d is used.
func (d *Direct) CountCircuits(f func() []Circuit) { d.circuits = f }

// Info implements [Reader].
func (d *Direct) Info(ctx context.Context) (Info, error) {
	i, err := d.store.Info(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("read store info: %w", err)
	}
	about := d.about
	about.Schema = Schema
	if d.refused != nil {
		about.Refused = d.refused()
	}
	if d.circuits != nil {
		about.Circuits = d.circuits()
	}
	about.Backend, about.Where, about.Store, about.Now, about.Warnings = i.Backend, i.Where, i.Schema, Time{i.Now}, i.Warnings
	return about, nil
}

// List implements [Reader].
func (d *Direct) List(ctx context.Context, q Query) (Page, error) {
	f := q.filter()
	if q.AgeGT > 0 {
		now, err := d.now(ctx)
		if err != nil {
			return Page{}, err
		}
		f.EnteredUntil = now.Add(-q.AgeGT)
	}
	if q.Stuck {
		return d.listStuck(ctx, f)
	}
	page, err := d.store.List(ctx, f)
	if err != nil {
		return Page{}, fmt.Errorf("list attempts: %w", err)
	}
	views := make([]View, len(page.Attempts))
	for i := range page.Attempts {
		views[i] = d.view(page.Now, &page.Attempts[i], page.Deliveries)
	}
	return Page{Attempts: views, NextCursor: page.Next, Unreadable: unreadable(page.Corrupt)}, nil
}

// filter is the part of q that the store evaluates.
func (q Query) filter() store.Filter {
	return store.Filter{
		User: q.User, Connection: q.Connection, Tenant: q.Tenant, Conversation: q.Conversation,
		States: q.States, Reason: q.Reason, FailureCode: q.FailureCode, Method: q.Method,
		Platform: q.Platform, Instance: q.Instance, Since: q.Since, Until: q.Until,
		Limit: q.Limit, Cursor: q.Cursor,
	}
}

// Get implements [Reader].
func (d *Direct) Get(ctx context.Context, id string) (Detail, error) {
	page, err := d.find(ctx, id)
	if err != nil {
		return Detail{}, err
	}
	a := &page.Attempts[0]
	events, err := d.trail(ctx, a.ID)
	if err != nil {
		return Detail{}, err
	}
	findings := d.findings(page.Now, a, page.Deliveries)
	return Detail{
		View:            NewView(page.Now, a, page.Deliveries, findings),
		Now:             Time{page.Now},
		Platform:        a.Platform,
		ActivityID:      a.Activity,
		ResourceURI:     a.ResourceURI,
		NoSSOUntil:      Time{a.NoSSOUntil},
		SSOOutcome:      a.SSOOutcome,
		DeliveryUnknown: a.DeliveryUnknown,
		PopupClosed:     a.PopupClosed,
		Rounds:          a.Rounds,
		Invokes:         a.Invokes,
		Findings:        findings,
		Deliveries:      deliveryViews(a.ID, page.Deliveries),
		Events:          events,
	}, nil
}

// Resolve returns the full id for an id or a unique prefix, in any case. Errors:
// store.ErrNotFound, store.ErrCorrupt, ErrAmbiguous, ErrBadRequest for an empty id.
func (d *Direct) Resolve(ctx context.Context, id string) (string, error) {
	page, err := d.find(ctx, id)
	if err != nil {
		return "", err
	}
	return page.Attempts[0].ID, nil
}

// find returns a page with the one attempt that id stands for.
func (d *Direct) find(ctx context.Context, id string) (store.Page, error) {
	if id == "" {
		return store.Page{}, fmt.Errorf("%w: empty attempt id", ErrBadRequest)
	}
	page, err := d.store.List(ctx, store.Filter{IDPrefix: strings.ToUpper(id), Limit: 2})
	switch {
	case err != nil:
		return store.Page{}, fmt.Errorf("get attempt %s: %w", id, err)
	case len(page.Attempts) == 0:
		for _, c := range page.Corrupt {
			if strings.HasPrefix(c.ID, strings.ToUpper(id)) {
				return store.Page{}, fmt.Errorf("attempt %s: %w", c.ID, store.ErrCorrupt)
			}
		}
		return store.Page{}, fmt.Errorf("attempt %s: %w", id, store.ErrNotFound)
	case len(page.Attempts) > 1:
		return store.Page{}, fmt.Errorf("%w: %s begins both %s and %s",
			ErrAmbiguous, id, page.Attempts[1].ID, page.Attempts[0].ID)
	}
	return page, nil
}

// trail reads all audit lines of one attempt.
func (d *Direct) trail(ctx context.Context, id string) ([]EventView, error) {
	var after int64
	views := []EventView{}
	for {
		events, err := d.store.Events(ctx, store.EventFilter{Attempt: id, After: after, Limit: defaultEventLimit})
		if err != nil {
			return nil, fmt.Errorf("read the trail of %s: %w", id, err)
		}
		views = append(views, eventViews(events)...)
		if len(events) < defaultEventLimit {
			return views, nil
		}
		after = events[len(events)-1].Seq
	}
}

// Events implements [Reader].
func (d *Direct) Events(ctx context.Context, q EventQuery) (EventPage, error) {
	if q.Attempt == "" && !q.Orphans {
		return d.follow(ctx, q)
	}
	events, err := d.store.Events(ctx, store.EventFilter{
		Attempt: q.Attempt, Orphans: q.Orphans, Since: q.Since, After: q.After, Limit: q.Limit,
	})
	if err != nil {
		return EventPage{}, fmt.Errorf("read events: %w", err)
	}
	return EventPage{Events: eventViews(events)}, nil
}

// follow reads a page of the audit trail of all attempts.
func (d *Direct) follow(ctx context.Context, q EventQuery) (EventPage, error) {
	trail, err := d.store.Trail(ctx, store.TrailQuery{Since: q.Since, Cursor: q.Cursor, Limit: q.Limit})
	switch {
	case errors.Is(err, store.ErrInvalid):
		return EventPage{}, fmt.Errorf("%w: cursor %q", ErrBadRequest, q.Cursor)
	case err != nil:
		return EventPage{}, fmt.Errorf("read the trail: %w", err)
	}
	return EventPage{Events: eventViews(trail.Events), NextCursor: trail.Next, More: trail.More}, nil
}

// Overview implements [Reader].
func (d *Direct) Overview(ctx context.Context) (Overview, error) {
	now, err := d.now(ctx)
	if err != nil {
		return Overview{}, err
	}
	counts, err := d.store.Counts(ctx, now.Add(-window))
	if err != nil {
		return Overview{}, fmt.Errorf("count attempts: %w", err)
	}
	o := Overview{
		Schema: Schema, Now: Time{counts.Now}, Window: Milliseconds(window),
		LastHour: endedView(counts.Ended), Owed: counts.Owed, Dead: counts.Dead,
		Undeliverable: counts.Undeliverable,
	}
	for _, s := range []store.State{store.Idle, store.CardSent, store.Exchanging, store.Verifying} {
		v := StateView{State: s, Count: counts.Open[s], Oldest: Time{counts.Oldest[s]}}
		if !v.Oldest.IsZero() {
			v.Age = Milliseconds(counts.Now.Sub(v.Oldest.Time))
		}
		o.States = append(o.States, v)
	}
	if o.Stuck, err = d.stuck(ctx, counts); err == nil && d.circuits != nil {
		o.Stuck = append(o.Stuck, deadUpstreams(d.circuits(), counts.Now)...)
		slices.SortStableFunc(o.Stuck, bySeriousness)
	}
	return o, err
}

func (d *Direct) now(ctx context.Context) (time.Time, error) {
	i, err := d.store.Info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the store's clock: %w", err)
	}
	return i.Now, nil
}

// endedView splits the store's "Complete:METHOD" and "Failed:REASON".
func endedView(ended map[string]int) EndedView {
	v := EndedView{Complete: map[string]int{}, Failed: map[string]int{}}
	for name, n := range ended {
		state, why, _ := strings.Cut(name, ":")
		switch store.State(state) {
		case store.Complete:
			v.Complete[why] += n
		case store.Failed:
			v.Failed[why] += n
		case store.None, store.Idle, store.CardSent, store.Exchanging, store.Verifying:
		}
	}
	return v
}

func (d *Direct) view(now time.Time, a *store.Attempt, deliveries []store.Delivery) View {
	return NewView(now, a, deliveries, d.findings(now, a, deliveries))
}
