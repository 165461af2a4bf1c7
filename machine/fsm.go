package machine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/looplab/fsm"

	"github.com/signin-engine/signin-engine/store"
)

// This is the only file that knows looplab/fsm. It is given every pair of a
// rule and a source state as an event of its own; its before_event callback
// holds the guards.

// noState is store.None as a state of the fsm, which has no empty name.
const noState = "(new)"

// runner is one fsm with the step it is running. An fsm must not be shared
// between goroutines and is costly to build, so runners are pooled.
type runner struct {
	fsm  *fsm.FSM
	rule *compiledRule
	in   *Input
}

// errGuard cancels an event whose guards do not hold.
var errGuard = errors.New("guard does not hold")

func newRunnerPool(rules []*compiledRule) *sync.Pool {
	events := make([]fsm.EventDesc, 0, len(rules))
	for _, r := range rules {
		for _, from := range r.From {
			events = append(events, fsm.EventDesc{Name: r.id, Src: []string{fsmState(from)}, Dst: fsmState(r.target(from))})
		}
		if r.Open != OpensNone {
			events = append(events, fsm.EventDesc{Name: r.id + birth, Src: []string{noState}, Dst: fsmState(store.Idle)})
			if r.To != store.Idle {
				events = append(events, fsm.EventDesc{Name: r.id + firstEdge, Src: []string{fsmState(store.Idle)}, Dst: fsmState(r.To)})
			}
		}
	}
	return &sync.Pool{New: func() any {
		r := &runner{}
		r.fsm = fsm.NewFSM(noState, events, fsm.Callbacks{
			"before_event": func(_ context.Context, e *fsm.Event) {
				if r.rule != nil && !r.rule.holds(r.in) {
					e.Cancel(errGuard)
				}
			},
		})
		return r
	}}
}

// The events of an attempt that a rule opens: it is born Idle and may take its
// first edge in the same transaction.
const (
	birth     = "/new"
	firstEdge = "/first"
)

// fire takes the rule from a state. It returns the state that the fsm is in
// then, or errGuard.
func (r *runner) fire(rule *compiledRule, event string, from store.State, in *Input) (store.State, error) {
	r.rule, r.in = rule, in
	defer func() { r.rule, r.in = nil, nil }()
	r.fsm.SetState(fsmState(from))
	// Background: a context that is cancelled in mid-event wedges the fsm.
	err := r.fsm.Event(context.Background(), event)
	var (
		stays    fsm.NoTransitionError
		canceled fsm.CanceledError
	)
	switch {
	case err == nil, errors.As(err, &stays): // a self-loop is a success
		return storeState(r.fsm.Current()), nil
	case errors.As(err, &canceled):
		return from, errGuard
	default:
		return from, fmt.Errorf("fire %s from %s: %w", event, fsmState(from), err)
	}
}

func fsmState(s store.State) string {
	if s == store.None {
		return noState
	}
	return string(s)
}

func storeState(s string) store.State {
	if s == noState {
		return store.None
	}
	return store.State(s)
}

func ruleID(row string, n int) string { return row + "#" + strconv.Itoa(n) }
