package pgstore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

type verb int

const (
	find verb = iota
	insert
	replace
	finish
)

// call is one call about a key; version is what it writes.
type call struct {
	key     string
	verb    verb
	id      string
	version int64
}

// seen is the open attempt that a find saw, and the reason of a refusal.
type seen struct {
	id      string
	version int64
	err     error
}

// oneOpen is what a key is to be: a place for one open attempt, whose versions
// are written one after the other.
func oneOpen() porcupine.Model {
	type place struct {
		id      string
		version int64
	}
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, op := range history {
				in, _ := op.Input.(call)
				byKey[in.key] = append(byKey[in.key], op)
			}
			var out [][]porcupine.Operation
			for _, ops := range byKey {
				out = append(out, ops)
			}
			return out
		},
		Init: func() any { return place{} },
		Step: func(state, input, output any) (bool, any) {
			at, _ := state.(place)
			in, _ := input.(call)
			out, _ := output.(seen)
			switch in.verb {
			case find:
				return out.id == at.id && out.version == at.version, at
			case insert:
				if at.id != "" {
					return errors.Is(out.err, store.ErrExists), at
				}
				return out.err == nil, place{in.id, 1}
			case replace, finish:
				if at.id != in.id || at.version != in.version-1 {
					return errors.Is(out.err, store.ErrConflict), at
				}
				if in.verb == finish {
					return out.err == nil, place{}
				}
				return out.err == nil, place{in.id, in.version}
			}
			return false, at
		},
	}
}

// TestLinearizable records what many callers on two instances see, grouped and
// not, and asks whether one order of calls explains it.
func TestLinearizable(t *testing.T) {
	dsn := pgtest.Start(t)
	a, b := mustOpen(t, dsn), mustOpen(t, dsn)
	instances := []store.Store{a, b, store.NewGroup(a), store.NewGroup(b)}
	info, err := a.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const (
		callers = 12
		calls   = 60
		keys    = 3
	)
	var (
		mu      sync.Mutex
		history []porcupine.Operation
		wg      sync.WaitGroup
	)
	begin := time.Now()
	for n := range callers {
		s := instances[n%len(instances)]
		dice := rand.New(rand.NewPCG(uint64(n), uint64(begin.UnixNano())))
		wg.Go(func() {
			known := map[string]store.Attempt{}
			for range calls {
				key := fmt.Sprintf("29:%d", dice.IntN(keys))
				in, c := draw(dice, key, known, info.Now)
				op := porcupine.Operation{ClientId: n, Input: in, Call: time.Since(begin).Nanoseconds()}
				var out seen
				if in.verb == find {
					snap, err := s.Find(t.Context(), store.Query{User: store.UserKey{App: storetest.App, Channel: "msteams", User: key}, Connection: "graph"})
					if err != nil {
						t.Errorf("Find: %v", err)
						return
					}
					delete(known, key)
					if len(snap.Attempts) > 0 && !snap.Attempts[0].State.Terminal() {
						known[key] = snap.Attempts[0]
						out.id, out.version = snap.Attempts[0].ID, snap.Attempts[0].Version
					}
				} else {
					if out.err = s.Apply(t.Context(), []store.Commit{c})[0]; out.err != nil {
						delete(known, key) // what was refused is nothing to build on
					}
				}
				op.Return, op.Output = time.Since(begin).Nanoseconds(), out
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got := porcupine.CheckOperationsTimeout(oneOpen(), history, 30*time.Second); got != porcupine.Ok {
		t.Errorf("a history of %d calls is %s", len(history), got)
	}
}

// draw picks what to do with a key, by what the caller knows of it.
func draw(dice *rand.Rand, key string, known map[string]store.Attempt, at time.Time) (call, store.Commit) {
	a, ok := known[key]
	switch d := dice.IntN(10); {
	case d < 3 || !ok && d < 5:
		return call{key: key, verb: find}, store.Commit{}
	case !ok || d == 3:
		a = storetest.NewAttempt(at, key, "graph")
		known[key] = a
		return call{key: key, verb: insert, id: a.ID, version: 1}, store.Commit{Put: []store.Attempt{a}, Events: []store.Event{storetest.Line(&a, store.None)}}
	default:
		to, v := store.CardSent, replace
		if d > 7 {
			to, v = store.Failed, finish
		}
		a = storetest.Next(a, to, at)
		if v == finish {
			delete(known, key)
		} else {
			known[key] = a
		}
		return call{key: key, verb: v, id: a.ID, version: a.Version}, store.Commit{Put: []store.Attempt{a}, Events: []store.Event{storetest.Line(&a, store.None)}}
	}
}
