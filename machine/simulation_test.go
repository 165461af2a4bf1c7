package machine_test

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/machine"
)

var (
	simRuns  = flag.Int("sim.runs", 300, "simulated runs")
	simSeed  = flag.Uint64("sim.seed", 0, "replay this one seed, with its trace")
	simKeep  = flag.Bool("sim.keep", false, "go on after a seed that fails, and name all of them")
	simSteps = flag.Int("sim.steps", 160, "scheduler steps of a simulated run")
)

// outcome is what came of one simulated run.
type outcome struct {
	steps      int
	hash       uint64
	violations []string
	lines      []string
}

func contextOf(t *task) context.Context {
	return context.WithValue(context.Background(), taskKey{}, t)
}

// simulate is one run in a bubble of its own: the seed decides everything.
func simulate(t *testing.T, seed uint64, steps int, mut *mutation, def *machine.Definition, tracing bool) outcome {
	t.Helper()
	var out outcome
	synctest.Test(t, func(*testing.T) {
		w := newWorld(seed, mut, def)
		w.tracing = tracing
		w.chaos(steps)
		if len(w.violations) == 0 {
			w.heal()
		}
		for len(w.nodes) > 0 {
			w.kill(w.nodes[0])
		}
		time.Sleep(time.Hour) // what is dead ends at its next gate
		out = outcome{steps: w.steps, hash: w.hash, violations: w.violations, lines: w.lines}
	})
	return out
}

func ownTable(t *testing.T) *machine.Definition {
	t.Helper()
	def, err := machine.Define(machine.Faults{})
	if err != nil {
		t.Fatal(err)
	}
	return def
}

// TestSimulation runs engines through interleavings, faults, kills and time,
// and checks all invariants of state-machine.md §8. A failing seed is replayed
// with -sim.seed.
func TestSimulation(t *testing.T) {
	def := ownTable(t)
	if *simSeed != 0 {
		out := simulate(t, *simSeed, *simSteps, nil, def, true)
		t.Logf("seed %d, %d steps:\n%s", *simSeed, out.steps, strings.Join(out.lines, "\n"))
		for _, v := range out.violations {
			t.Errorf("invariant %s", v)
		}
		return
	}
	began := time.Now()
	steps, first := search(t, *simRuns, nil, def)
	t.Logf("%d runs, %d steps, %s", *simRuns, steps, time.Since(began).Round(time.Millisecond))
	if first != 0 {
		out := simulate(t, first, *simSteps, nil, def, true)
		t.Errorf("first failing seed: %d (replay: go test ./machine -run 'TestSimulation$' -v -sim.seed=%d)\n%s",
			first, first, strings.Join(out.lines, "\n"))
		for _, v := range out.violations {
			t.Errorf("invariant %s", v)
		}
	}
}

// search runs the seeds 1 … runs on all processors and returns the first that
// fails, 0 for none.
func search(t *testing.T, runs int, mut *mutation, def *machine.Definition) (steps int64, first uint64) {
	t.Helper()
	var next, total atomic.Int64
	var found atomic.Uint64
	t.Run("workers", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for {
					seed := uint64(next.Add(1))
					if seed > uint64(runs) || !*simKeep && found.Load() != 0 && found.Load() < seed {
						return
					}
					out := simulate(t, seed, *simSteps, mut, def, false)
					total.Add(int64(out.steps))
					if len(out.violations) == 0 {
						continue
					}
					if *simKeep {
						t.Logf("seed %d: %s", seed, out.violations[0])
					}
					for {
						old := found.Load()
						if old != 0 && old < seed || found.CompareAndSwap(old, seed) {
							break
						}
					}
				}
			})
		}
	})
	return total.Load(), found.Load()
}

// TestSimulationReplays runs every tenth of the runs twice: the trace must be the
// same.
func TestSimulationReplays(t *testing.T) {
	def := ownTable(t)
	for seed := range uint64(*simRuns / 10) {
		a := simulate(t, seed, *simSteps, nil, def, true)
		b := simulate(t, seed, *simSteps, nil, def, true)
		if a.hash != b.hash {
			for i := range min(len(a.lines), len(b.lines)) {
				if a.lines[i] != b.lines[i] {
					t.Errorf("seed %d, line %d:\n%s\n%s", seed, i, a.lines[i], b.lines[i])
					break
				}
			}
			t.Fatalf("seed %d does not replay", seed)
		}
	}
}
