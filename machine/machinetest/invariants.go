package machinetest

import (
	"context"
	"fmt"
	"slices"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// Violations checks the records of a store against the invariants of
// docs/state-machine.md §8 that can be checked there: 1 (one open attempt per key), 2
// (versions without a gap, a trail that replays), 3 (every edge is in the
// table), 4 (one completion per chain, one complete row per completion). The
// store must be flushed.
func Violations(ctx context.Context, s store.Store) ([]string, error) {
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	legal := map[[2]store.State]bool{}
	for _, e := range table.Arrows() {
		legal[[2]store.State{e.From, e.To}] = true
	}
	open := map[string]string{}
	all := map[string]store.Attempt{}
	completes := map[string]int{}
	for cursor := ""; ; {
		page, err := s.List(ctx, store.Filter{Limit: 500, Cursor: cursor})
		if err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
		for _, d := range page.Deliveries {
			if d.Kind == store.DeliverComplete {
				completes[d.Attempt]++
			}
		}
		for _, a := range page.Attempts {
			all[a.ID] = a
			if !a.State.Terminal() {
				if other := open[a.Key.Index()]; other != "" {
					say("1: %s and %s are both open for one key", other, a.ID)
				}
				open[a.Key.Index()] = a.ID
			}
			events, err := s.Events(ctx, store.EventFilter{Attempt: a.ID, Limit: 10000})
			if err != nil {
				return nil, fmt.Errorf("events: %w", err)
			}
			bad = append(bad, replay(&a, events, legal)...)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	for id, a := range all {
		want := 0
		if a.State == store.Complete {
			want = 1
		}
		if completes[id] != want {
			say("4: %s is %s and has %d complete rows", id, a.State, completes[id])
		}
		if a.State != store.Complete {
			continue
		}
		for before := a.Supersedes; before != ""; before = all[before].Supersedes {
			if all[before].State == store.Complete {
				say("4: %s and %s of one chain are both Complete", id, before)
			}
		}
	}
	slices.Sort(bad)
	return bad, nil
}

// replay replays an attempt's trail.
func replay(a *store.Attempt, events []store.Event, legal map[[2]store.State]bool) []string {
	var bad []string
	say := func(format string, args ...any) {
		bad = append(bad, fmt.Sprintf("2: "+a.ID+": "+format, args...))
	}
	state, version := store.None, int64(0)
	for _, e := range events {
		if e.Kind != store.EventTransition {
			continue
		}
		if e.Version != version && e.Version != version+1 {
			say("version %d follows %d", e.Version, version)
		}
		if e.Version == version && version != 1 {
			say("version %d twice", version)
		}
		version = e.Version
		if e.From != state {
			say("a line leaves %q, but the trail is at %q", e.From, state)
		}
		if e.From != e.To && !legal[[2]store.State{e.From, e.To}] {
			say("3: edge %q to %q is not in the table", e.From, e.To)
		}
		state = e.To
	}
	if state != a.State || version != a.Version {
		say("the trail ends at %s version %d, the row is %s version %d", state, version, a.State, a.Version)
	}
	return bad
}

// broken returns the violated invariants, with the scenario's attempt numbers.
func (w *world) broken(ctx context.Context) []string {
	bad, err := Violations(ctx, w.mem)
	if err != nil {
		w.fail("%v", err)
	}
	for i := range bad {
		bad[i] = "invariant " + w.renumber(bad[i])
	}
	return bad
}
