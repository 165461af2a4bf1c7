package table

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/looplab/fsm"

	"github.com/signin-engine/signin-engine/store"
)

// The edges by name: the events of the fsm.
const (
	open     Edge = "open"
	sent     Edge = "card sent"
	exchange Edge = "exchange"
	verify   Edge = "verify"
	back     Edge = "back to the card"
	stay     Edge = "stay at the card"
	complete Edge = "complete"
	fail     Edge = "fail"
)

// newState is store.None as a state of the fsm, which has no empty name.
const newState = "(new)"

// EdgeEvent is an event of the fsm: a named edge with its source states and its
// destination.
type EdgeEvent = fsm.EventDesc

// Events returns the edges of docs/state-machine.md §4 as events of the fsm. They
// are defined only here.
func Events() []EdgeEvent {
	return []EdgeEvent{
		{Name: "open", Src: []string{"(new)"}, Dst: "Idle"},
		{Name: "card sent", Src: []string{"Idle"}, Dst: "CardSent"},
		{Name: "exchange", Src: []string{"Idle", "CardSent", "Verifying"}, Dst: "Exchanging"},
		{Name: "verify", Src: []string{"Idle", "CardSent", "Exchanging"}, Dst: "Verifying"},
		{Name: "back to the card", Src: []string{"Exchanging", "Verifying"}, Dst: "CardSent"},
		{Name: "stay at the card", Src: []string{"CardSent"}, Dst: "CardSent"},
		{Name: "complete", Src: []string{"Idle", "CardSent", "Exchanging", "Verifying"}, Dst: "Complete"},
		{Name: "fail", Src: []string{"Idle", "CardSent", "Exchanging", "Verifying"}, Dst: "Failed"},
	}
}

// graph takes the edges. All callers share one fsm, since building one costs
// 10 µs and taking an edge half a microsecond. The mutex guards it: an fsm must
// not be used by two goroutines at once.
type graph struct {
	mu     sync.Mutex
	fsm    *fsm.FSM
	events []EdgeEvent
}

func newGraph(events []EdgeEvent) *graph {
	return &graph{fsm: fsm.NewFSM(newState, events, nil), events: events}
}

// take takes an edge and returns its destination. An edge that does not leave
// from this state is an error.
func (g *graph) take(e Edge, from store.State) (store.State, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fsm.SetState(stateName(from))
	// Cancelling the context in the middle of an event wedges the fsm for good, so
	// it gets one that is never cancelled.
	err := g.fsm.Event(context.Background(), string(e))
	var loop fsm.NoTransitionError // a self-loop, which is a success
	if err != nil && !errors.As(err, &loop) {
		return from, fmt.Errorf("edge %q from %s: %w", e, stateName(from), err)
	}
	return stateOf(g.fsm.Current()), nil
}

// arrow is one edge from one state.
type arrow struct {
	name     Edge
	from, to store.State
}

// arrows lists the edges, in the order of a sign-in.
func (g *graph) arrows() []arrow {
	var out []arrow
	for _, e := range g.events {
		for _, from := range e.Src {
			out = append(out, arrow{Edge(e.Name), stateOf(from), stateOf(e.Dst)})
		}
	}
	return out
}

// leads returns the destination of an edge from a state, or false if the edge
// does not leave from there.
func (g *graph) leads(e Edge, from store.State) (store.State, bool) {
	for _, a := range g.arrows() {
		if a.name == e && a.from == from {
			return a.to, true
		}
	}
	return from, false
}

func stateName(s store.State) string {
	if s == None {
		return newState
	}
	return string(s)
}

func stateOf(name string) store.State {
	if name == newState {
		return None
	}
	return store.State(name)
}
