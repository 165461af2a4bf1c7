package operator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Bounds of one search for stuck attempts. They keep an overview cheap on a store
// with millions of rows.
const (
	stuckPage  = 200    // attempts per page
	maxOpen    = 5000   // open attempts
	maxOwed    = 10_000 // attempts that owe a callback
	maxRecent  = 5000   // attempts created within the window of the fleet rules
	maxOrphans = 5000   // audit lines without an attempt, per window
	maxTrails  = 20     // open attempts whose audit lines are read too
)

// found collects the pages that a walk through the store read.
type found struct {
	now        time.Time
	attempts   []store.Attempt
	deliveries map[string][]store.Delivery // by attempt, in the order of their rounds
	corrupt    []store.Corrupt
	seen       map[string]bool // ids in attempts
	set        map[string]bool // ids in corrupt
}

// add adds a page. It returns how many callbacks of the new attempts are pending or
// dead.
func (w *found) add(p *store.Page) (unsettled int) {
	if w.seen == nil {
		w.seen, w.set, w.deliveries = map[string]bool{}, map[string]bool{}, map[string][]store.Delivery{}
	}
	w.now = p.Now
	own := map[string][]store.Delivery{}
	for _, d := range p.Deliveries {
		own[d.Attempt] = append(own[d.Attempt], d)
	}
	for i := range p.Attempts {
		a := &p.Attempts[i]
		if w.seen[a.ID] {
			continue
		}
		w.seen[a.ID] = true
		w.attempts = append(w.attempts, *a)
		w.deliveries[a.ID] = inOrder(own[a.ID])
		for _, d := range own[a.ID] {
			if d.Status == store.DeliveryPending || d.Status == store.DeliveryDead {
				unsettled++
			}
		}
	}
	for _, c := range p.Corrupt {
		if !w.set[c.ID] {
			w.set[c.ID] = true
			w.corrupt = append(w.corrupt, c)
		}
	}
	return unsettled
}

func inOrder(rows []store.Delivery) []store.Delivery {
	slices.SortStableFunc(rows, func(a, b store.Delivery) int { return cmp.Compare(a.Round, b.Round) })
	return rows
}

// stuck returns the findings about open attempts, about ended attempts whose
// callback was not delivered, and about many attempts together.
func (d *Direct) stuck(ctx context.Context, counts store.Counts) ([]Finding, error) {
	var w found
	unsettled := 0
	if err := d.walk(ctx, store.Filter{Open: true}, maxOpen, func(p *store.Page) bool {
		unsettled += w.add(p)
		return true
	}); err != nil {
		return nil, err
	}
	open := slices.Clone(w.attempts)
	if unsettled < counts.Owed+counts.Dead {
		if err := d.walk(ctx, store.Filter{Owed: true}, maxOwed, func(p *store.Page) bool {
			unsettled += w.add(p)
			return unsettled < counts.Owed+counts.Dead
		}); err != nil {
			return nil, err
		}
	}
	all := []Finding{}
	for i := range w.attempts {
		a := &w.attempts[i]
		all = append(all, Stuck(counts.Now, a, w.deliveries[a.ID], d.rules)...)
	}
	fleet, err := d.fleet(ctx, counts, open, w.corrupt)
	if err != nil {
		return nil, err
	}
	all = append(all, StuckFleet(fleet, d.rules)...)
	slices.SortStableFunc(all, bySeriousness)
	return all, nil
}

// fleet reads what the rules about many attempts need.
func (d *Direct) fleet(ctx context.Context, counts store.Counts, open []store.Attempt, corrupt []store.Corrupt) (Fleet, error) {
	now := counts.Now
	var w found
	w.add(&store.Page{Now: now, Corrupt: corrupt})
	take := func(p *store.Page) bool { w.add(p); return true }
	window := max(d.rules.FlappingWindow, d.rules.BurstWindow)
	if err := d.walk(ctx, store.Filter{Since: now.Add(-window)}, maxRecent, take); err != nil {
		return Fleet{}, err
	}
	f := Fleet{Now: now}
	var err error
	if f.Lines, err = d.lines(ctx, now, open); err != nil {
		return Fleet{}, err
	}
	if err := d.showCredentials(ctx, counts, open, &w, f.Lines); err != nil {
		return Fleet{}, err
	}
	slices.SortFunc(w.attempts, func(a, b store.Attempt) int { return strings.Compare(b.ID, a.ID) })
	f.Recent, f.Corrupt = w.attempts, w.corrupt
	return f, nil
}

// lines returns the audit lines without an attempt of the longest window, and those
// of the newest attempts in CardSent: a repeated sign-in leaves its lines at the
// attempt that is open. It reads the recent part of the window separately, so that
// the bound on many old lines cannot cut off the new ones.
func (d *Direct) lines(ctx context.Context, now time.Time, open []store.Attempt) ([]store.Event, error) {
	lately := now.Add(-max(d.rules.OrphansWindow, d.rules.LookupsWindow))
	since := now.Add(-max(d.rules.OrphansWindow, d.rules.LookupsWindow, d.rules.CredentialsWindow))
	out, err := d.orphans(ctx, since, lately)
	if err != nil {
		return nil, err
	}
	recent, err := d.orphans(ctx, lately, time.Time{})
	if err != nil {
		return nil, err
	}
	out = append(out, recent...)
	trails := 0
	for i := range open {
		a := &open[i]
		if a.State != store.CardSent || trails == maxTrails {
			continue
		}
		trails++
		page, err := d.store.Events(ctx, store.EventFilter{Attempt: a.ID, Since: since})
		if err != nil {
			return nil, fmt.Errorf("read the trail of %s: %w", a.ID, err)
		}
		out = append(out, page...)
	}
	return out, nil
}

// orphans reads the audit lines without an attempt from since to until, which may
// be zero for no end. It stops after about maxOrphans lines.
func (d *Direct) orphans(ctx context.Context, since, until time.Time) ([]store.Event, error) {
	var out []store.Event
	for after := int64(0); len(out) < maxOrphans; {
		page, err := d.store.Events(ctx, store.EventFilter{Orphans: true, Since: since, After: after, Limit: defaultEventLimit})
		if err != nil {
			return nil, fmt.Errorf("read the lines of no attempt: %w", err)
		}
		for _, e := range page {
			if until.IsZero() || e.Time.Before(until) {
				out = append(out, e)
			}
		}
		if len(page) < defaultEventLimit || !until.IsZero() && !page[len(page)-1].Time.Before(until) {
			break
		}
		after = page[len(page)-1].Seq
	}
	return out, nil
}

// showCredentials adds to w what the credentials rule needs, whose window is longer
// than those of the other rules: the attempts that failed because the bot could not
// get its own token, and, if there are any, all attempts of the window, because a
// later success ends the finding.
func (d *Direct) showCredentials(ctx context.Context, counts store.Counts, open []store.Attempt, w *found, lines []store.Event) error {
	since := counts.Now.Add(-d.rules.CredentialsWindow)
	for i := range open {
		if wants(open[i]) && !w.seen[open[i].ID] {
			w.add(&store.Page{Now: counts.Now, Attempts: open[i : i+1]})
		}
	}
	for _, why := range upstreamReasons {
		if counts.Ended[string(store.Failed)+":"+string(why)] == 0 {
			continue
		}
		if err := d.walk(ctx, store.Filter{Reason: why, Since: since}, stuckPage, func(p *store.Page) bool {
			p.Attempts = slices.DeleteFunc(p.Attempts, func(a store.Attempt) bool { return !wants(a) })
			w.add(p)
			return true
		}); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(w.attempts, wants) &&
		!slices.ContainsFunc(lines, func(e store.Event) bool { return e.Source == store.SourceCredentials }) {
		return nil
	}
	take := func(p *store.Page) bool { w.add(p); return true }
	return d.walk(ctx, store.Filter{Since: since}, stuckPage, take)
}

func wants(a store.Attempt) bool {
	_, ok := wanted(&a)
	return ok
}

// walk reads pages of attempts until next returns false, the pages end, or about
// most attempts were read.
func (d *Direct) walk(ctx context.Context, f store.Filter, most int, next func(*store.Page) bool) error {
	f.Limit = stuckPage
	for read := 0; read < most; read += stuckPage {
		page, err := d.store.List(ctx, f)
		if err != nil {
			return fmt.Errorf("look for stuck attempts: %w", err)
		}
		if !next(&page) || page.Next == "" {
			return nil
		}
		f.Cursor = page.Next
	}
	return nil
}

// CallbackDue returns for how long the oldest pending callback has been due, or
// zero if none is due. A callback is not due while it waits for an earlier round of
// its attempt, for the time of its next try, or for the instance that is trying it.
// CallbackDue reads the newest 10,000 attempts that owe a callback.
func (d *Direct) CallbackDue(ctx context.Context) (time.Duration, error) {
	var oldest time.Duration
	err := d.walk(ctx, store.Filter{Owed: true}, maxOwed, func(p *store.Page) bool {
		waits := map[string]bool{}
		for _, row := range inOrder(p.Deliveries) {
			if row.Status == store.DeliveryPending && !waits[row.Attempt] {
				waits[row.Attempt] = true
				oldest = max(oldest, p.Now.Sub(row.NextAt))
			}
		}
		return true
	})
	return oldest, err
}

// findings returns the findings about one attempt, the most serious first.
func (d *Direct) findings(now time.Time, a *store.Attempt, deliveries []store.Delivery) []Finding {
	own := make([]store.Delivery, 0, 1)
	for i := range deliveries {
		if deliveries[i].Attempt == a.ID {
			own = append(own, deliveries[i])
		}
	}
	return Stuck(now, a, inOrder(own), d.rules)
}

// listStuck lists the attempts that break a stuck rule, newest first. Only an
// attempt that is open or owes a callback can break one, so it reads all of those,
// within the bounds above. The cursor is the id of the last attempt of the page.
func (d *Direct) listStuck(ctx context.Context, f store.Filter) (Page, error) {
	limit, below := cmp.Or(f.Limit, defaultLimit), f.Cursor
	f.Cursor = ""
	open, owed := f, f
	open.Open, owed.Owed = true, true
	var w found
	take := func(p *store.Page) bool { w.add(p); return true }
	for _, one := range []struct {
		filter store.Filter
		most   int
	}{{open, maxOpen}, {owed, maxOwed}} {
		if err := d.walk(ctx, one.filter, one.most, take); err != nil {
			return Page{}, err
		}
	}
	slices.SortFunc(w.attempts, func(a, b store.Attempt) int { return strings.Compare(b.ID, a.ID) })
	page := Page{Attempts: []View{}, Unreadable: unreadable(w.corrupt)}
	for i := range w.attempts {
		a := &w.attempts[i]
		if below != "" && a.ID >= below {
			continue
		}
		v := d.view(w.now, a, w.deliveries[a.ID])
		if v.Stuck == nil {
			continue
		}
		if len(page.Attempts) == limit {
			page.NextCursor = page.Attempts[limit-1].ID
			break
		}
		page.Attempts = append(page.Attempts, v)
	}
	return page, nil
}

func unreadable(records []store.Corrupt) []string {
	var ids []string
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return ids
}
