package machine_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
)

var (
	simRuns  = flag.Int("sim.runs", 300, "simulated runs")
	simFrom  = flag.Uint64("sim.from", 1, "the first of their seeds; 0 = new ones each time")
	simSeed  = flag.Uint64("sim.seed", 0, "replay this one seed, with its trace")
	simKeep  = flag.Bool("sim.keep", false, "go on after a seed that fails, and name all of them")
	simSteps = flag.Int("sim.steps", 160, "scheduler steps of a simulated run")
)

// ending is what came of one simulated run.
type ending struct {
	steps      int
	hash       uint64
	violations []string
	lines      []string
}

func contextOf(t *task) context.Context {
	return context.WithValue(context.Background(), taskKey{}, t)
}

// simulate is one run in a bubble of its own: the seed decides everything.
func simulate(t *testing.T, seed uint64, steps int, mut *mutation, on *table.Table, tracing bool) ending {
	t.Helper()
	var end ending
	synctest.Test(t, func(*testing.T) {
		w := newWorld(seed, mut, on)
		w.tracing = tracing
		w.chaos(steps)
		if !w.broken() {
			w.heal()
		}
		for len(w.nodes) > 0 {
			w.kill(w.nodes[0])
		}
		time.Sleep(time.Hour) // what is dead ends at its next gate
		w.mu.Lock()
		defer w.mu.Unlock()
		end = ending{steps: w.steps, hash: w.hash, violations: w.violations, lines: w.lines}
	})
	return end
}

func ownTable(t *testing.T) *table.Table {
	t.Helper()
	own, err := table.New()
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// TestSimulation runs engines through interleavings, faults, kills and time,
// and checks all invariants of docs/state-machine.md §8. A failing seed is replayed
// with -sim.seed.
func TestSimulation(t *testing.T) {
	own := ownTable(t)
	if *simSeed != 0 {
		end := simulate(t, *simSeed, *simSteps, nil, own, true)
		t.Logf("seed %d, %d steps:\n%s", *simSeed, end.steps, strings.Join(end.lines, "\n"))
		for _, v := range end.violations {
			t.Errorf("invariant %s", v)
		}
		return
	}
	from := *simFrom
	if from == 0 {
		from = 1 + rand.Uint64N(1<<40)
	}
	t.Logf("seeds %d to %d", from, from+uint64(*simRuns)-1)
	began := time.Now()
	steps, first := search(t, from, *simRuns, nil, own)
	t.Logf("%d runs, %d steps, %s", *simRuns, steps, time.Since(began).Round(time.Millisecond))
	if first != 0 {
		end := simulate(t, first, *simSteps, nil, own, true)
		t.Errorf("first failing seed: %d (replay: make simulate SEED=%d)\n%s", first, first, strings.Join(end.lines, "\n"))
		for _, v := range end.violations {
			t.Errorf("invariant %s", v)
		}
	}
}

// search runs so many seeds on all processors and returns the first that fails,
// 0 for none.
func search(t *testing.T, from uint64, runs int, mut *mutation, on *table.Table) (steps int64, first uint64) {
	t.Helper()
	var next, total atomic.Int64
	var found atomic.Uint64
	t.Run("workers", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for {
					n := next.Add(1) - 1
					seed := from + uint64(n)
					if n >= int64(runs) || !*simKeep && found.Load() != 0 && found.Load() < seed {
						return
					}
					end := simulate(t, seed, *simSteps, mut, on, false)
					total.Add(int64(end.steps))
					if len(end.violations) == 0 {
						continue
					}
					if *simKeep {
						t.Logf("seed %d: %s", seed, end.violations[0])
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
	own := ownTable(t)
	for seed := range uint64(*simRuns / 10) {
		a := simulate(t, seed, *simSteps, nil, own, true)
		b := simulate(t, seed, *simSteps, nil, own, true)
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
