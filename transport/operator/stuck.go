package operator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Bounds of one look for stuck attempts: an overview stays cheap on a store
// with millions of rows.
const (
	stuckPage   = 200
	maxOpen     = 5000
	maxOwedRows = 2000
	maxRecent   = 5000
)

// findings are the rules that one attempt breaks, the most serious first.
func (d *Direct) findings(now time.Time, a *store.Attempt, deliveries []store.Delivery) []Finding {
	own := make([]store.Delivery, 0, 1)
	for i := range deliveries {
		if deliveries[i].Attempt == a.ID {
			own = append(own, deliveries[i])
		}
	}
	found := []Finding{}
	for _, f := range machine.Stuck(now, a, own, d.rules) {
		found = append(found, Finding{
			Attempt: a.ID, User: a.Key.User, Connection: a.Key.Connection, State: a.State,
			Rule: f.Rule, Level: string(f.Level), Age: Milliseconds(f.Age), Advice: f.Advice,
		})
	}
	slices.SortStableFunc(found, bySeriousness)
	return found
}

// bySeriousness puts errors before warnings, and the older first.
func bySeriousness(a, b Finding) int {
	if a.Serious() != b.Serious() {
		if a.Serious() {
			return -1
		}
		return 1
	}
	return cmp.Compare(b.Age, a.Age)
}

// stuck lists everything that is stuck: the open attempts, and the ended ones
// whose callback has not got through.
func (d *Direct) stuck(ctx context.Context, counts store.Counts) ([]Finding, error) {
	found := []Finding{}
	seen := map[string]bool{}
	add := func(page store.Page) {
		for i := range page.Attempts {
			if a := &page.Attempts[i]; !seen[a.ID] {
				seen[a.ID] = true
				found = append(found, d.findings(page.Now, a, page.Deliveries)...)
			}
		}
	}
	if err := d.walk(ctx, store.Filter{Open: true}, maxOpen, func(p store.Page) bool { add(p); return true }); err != nil {
		return nil, err
	}
	if counts.Owed+counts.Dead > 0 {
		if err := d.walk(ctx, store.Filter{Owed: true}, maxOwedRows, func(p store.Page) bool { add(p); return true }); err != nil {
			return nil, err
		}
	}
	fleet, err := d.fleet(ctx, counts.Now)
	if err != nil {
		return nil, err
	}
	found = append(found, fleet...)
	slices.SortStableFunc(found, bySeriousness)
	return found, nil
}

// fleet applies the rules that look at many attempts at once.
func (d *Direct) fleet(ctx context.Context, now time.Time) ([]Finding, error) {
	var recent []store.Attempt
	since := now.Add(-max(d.rules.FlappingWindow, d.rules.BurstWindow))
	err := d.walk(ctx, store.Filter{Since: since}, maxRecent, func(p store.Page) bool {
		recent = append(recent, p.Attempts...)
		return true
	})
	if err != nil {
		return nil, err
	}
	orphans, err := d.store.Events(ctx, store.EventFilter{
		Orphans: true, Since: now.Add(-d.rules.OrphansWindow), Limit: max(d.rules.Orphans, 1),
	})
	if err != nil {
		return nil, fmt.Errorf("count orphans: %w", err)
	}
	var found []Finding
	for _, f := range machine.StuckFleet(now, recent, len(orphans), d.rules) {
		v := Finding{
			Subject: f.Subject, Rule: f.Rule, Level: string(f.Level), Age: Milliseconds(f.Age), Advice: f.Advice,
		}
		if len(f.Attempts) > 0 {
			v.Attempt = f.Attempts[0]
		}
		found = append(found, v)
	}
	return found, nil
}

// walk reads pages until next says that it has enough, or most rows were read.
func (d *Direct) walk(ctx context.Context, f store.Filter, most int, next func(store.Page) bool) error {
	f.Limit = stuckPage
	for read := 0; read < most; read += stuckPage {
		page, err := d.store.List(ctx, f)
		if err != nil {
			return fmt.Errorf("look for stuck attempts: %w", err)
		}
		if !next(page) || page.Next == "" {
			return nil
		}
		f.Cursor = page.Next
	}
	return nil
}
