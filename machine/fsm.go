package machine

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/looplab/fsm"

	"github.com/signin-engine/signin-engine/store"
)

// This is the only file that knows looplab/fsm. It is given every pair of a
// rule and a source state as an event of its own, and takes the transitions;
// the guards have been asked before (see step).

// noState is store.None as a state of the fsm, which has no empty name.
const noState = "(new)"

// runner is one fsm. It must not be shared between goroutines and is costly to
// build, so runners are pooled.
type runner struct{ fsm *fsm.FSM }

func newRunnerPool(rules []*compiledRule) *sync.Pool {
	events := make([]fsm.EventDesc, 0, len(rules))
	for _, r := range rules {
		for _, from := range r.From {
			events = append(events, fsm.EventDesc{Name: r.id, Src: []string{fsmState(from)}, Dst: fsmState(r.target(from))})
		}
		if r.Open != OpensNone {
			events = append(events, fsm.EventDesc{Name: r.idBirth, Src: []string{noState}, Dst: fsmState(store.Idle)})
			if r.To != store.Idle {
				events = append(events, fsm.EventDesc{Name: r.idFirst, Src: []string{fsmState(store.Idle)}, Dst: fsmState(r.To)})
			}
		}
	}
	return &sync.Pool{New: func() any { return &runner{fsm: fsm.NewFSM(noState, events, nil)} }}
}

// fire takes an event from a state and returns the state that the fsm is in
// then.
func (r *runner) fire(event string, from store.State) (store.State, error) {
	r.fsm.SetState(fsmState(from))
	// Background: a context that is cancelled in mid-event wedges the fsm.
	err := r.fsm.Event(context.Background(), event)
	// A self-loop is a success. The fsm does not wrap its errors.
	if _, stays := err.(fsm.NoTransitionError); err != nil && !stays { //nolint:errorlint // errors.As costs an allocation per event
		return from, fmt.Errorf("fire %s from %s: %w", event, fsmState(from), err)
	}
	return storeState(r.fsm.Current()), nil
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
