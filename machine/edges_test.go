package machine_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
)

// TestTheFsmDecides takes one edge after the other out of looplab/fsm and sees
// a scenario fail. So the fsm is no decoration: a transition that it refuses is
// not made, whatever the rules say. An edge that no scenario misses is one that
// no scenario takes.
func TestTheFsmDecides(t *testing.T) {
	scenarios := readScenarios(t)
	for i, e := range table.Events() {
		for _, from := range e.Src {
			t.Run(e.Name+" from "+from, func(t *testing.T) {
				events := table.Events()
				events[i].Src = slices.DeleteFunc(events[i].Src, func(s string) bool { return s == from })
				if from == "(new)" {
					// Without a way in no engine would start; this one no rule takes.
					events = append(events, table.EdgeEvent{Name: "another way in", Src: []string{from}, Dst: e.Dst})
				}
				without, err := table.Define(table.Blocks(), events, table.Overrides{})
				if err != nil {
					t.Fatal(err)
				}
				missed := missing(t, scenarios, without)
				if missed == "" {
					t.Error("no scenario misses it")
				}
				t.Logf("missed by %s", missed)
			})
		}
	}
}

// missing is the first scenario that does not read as it should on a table; ""
// for none.
func missing(t *testing.T, scenarios []scenario, on *table.Table) string {
	t.Helper()
	for _, s := range scenarios {
		got, err := machinetest.Play(t, s.text, func(cfg machine.Config) (*machine.Engine, error) {
			return machine.NewWith(cfg, on)
		})
		if err != nil || got != s.text {
			return s.name
		}
	}
	return ""
}

type scenario struct{ name, text string }

func readScenarios(t *testing.T) []scenario {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "scenarios", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	out := make([]scenario, len(files))
	for i, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = scenario{strings.TrimSuffix(filepath.Base(file), ".txt"), string(raw)}
	}
	return out
}

// overtaken is a store in which another process changes an attempt just before the next
// commit that has one.
type overtaken struct {
	store.Store
	by func()
}

func (o *overtaken) Apply(ctx context.Context, commits []store.Commit) []error {
	for _, c := range commits {
		if by := o.by; by != nil && len(c.Put) > 0 {
			o.by = nil
			by()
		}
	}
	return o.Store.Apply(ctx, commits)
}

// A device waits for one whose process has died, and the sweeper of another process is
// faster to recover the attempt. It finds nothing, so the device's token is exchanged:
// "the owner is still at it" would leave the user without an answer.
func TestRecoveryOvertakesADuplicate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &overtaken{}
		d := newDesk(t, func(cfg *machine.Config) { o.Store, cfg.Store = cfg.Store, o })
		d.signIn("hello")
		d.drain()
		moves := func(to store.State, owner string, until time.Duration) {
			a := d.attempt()
			a.Version, a.State = a.Version+1, to
			a.Lease = store.Lease{Owner: owner, Fence: a.Lease.Fence + 1, Until: store.Time(time.Now().Add(until))}
			line := store.Event{Attempt: a.ID, Time: store.Time(time.Now()), Instance: owner, Kind: store.EventTransition, To: to, Version: a.Version}
			if err := d.mem.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Events: []store.Event{line}}})[0]; err != nil {
				t.Error(err)
			}
		}
		moves(store.Exchanging, "dead", 2*time.Second)
		o.by = func() {
			moves(store.Exchanging, "sweeper", 30*time.Second)
			go func() {
				time.Sleep(500 * time.Millisecond)
				moves(store.CardSent, "sweeper", 0)
			}()
		}
		if got := d.exchange(); got != http.StatusOK || d.said("exchange graph") != 1 {
			t.Errorf("answered %d after %d exchanges", got, d.said("exchange graph"))
			time.Sleep(time.Second)
		}
		d.drain()
	})
}

// ownStore belongs to one process, as bbolt does.
type ownStore struct{ store.Store }

func (ownStore) Exclusive() bool { return true }

// A clock that is set back does not end the leases of this process: a second device
// waits for the first one.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back time.Duration
		up := &meanwhile{card: func() {}}
		d := newDesk(t, func(cfg *machine.Config) {
			cfg.Store = ownStore{memstore.New(func() time.Time { return time.Now().Add(-back) })}
			up.Messenger, cfg.Messenger = cfg.Messenger, up
			up.TokenService, cfg.Tokens = cfg.Tokens, up
		})
		back = 5 * time.Minute
		d.signIn("hello")
		up.exchange = func() {
			up.exchange = func() {}
			if got := d.exchange(); got != http.StatusOK {
				t.Errorf("the second device is answered %d", got)
			}
		}
		d.exchange()
		if n := d.said("exchange graph"); n != 1 {
			t.Errorf("%d exchanges", n)
		}
		d.drain()
	})
}

// The table as it is misses nothing: what TestTheFsmDecides sees comes of the
// edge alone.
func TestNoEdgeIsMissing(t *testing.T) {
	whole, err := table.New()
	if err != nil {
		t.Fatal(err)
	}
	if missed := missing(t, readScenarios(t), whole); missed != "" {
		t.Errorf("%s fails on the table as it is", missed)
	}
}

// contractRows are the rows of docs/state-machine.md §4, A to M. M2, M7 and M9 are
// the transport's. B5 is only mentioned there, in "B2–B5".
func contractRows() []string {
	return strings.Fields(`
		A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A12b A13 A14 A15 A16
		B0 B1 B2 B3 B4 B6 B6b B7 B8 B9 B9b B10 B11 B12 B13 B14 B15 B16 B17 B18 B19
		C0 C1 C2 C3 C4 C5 C6 C7 C8 C9 C9b C9c C10 C10b C11 C12 C13 C14 C15 C16 C17
		D0 D1 D2 D3 D4 D5 D6 D7 D8
		E1 E2 E3 E4 E5 E6 E7 E8 E9 E10
		M1 M3 M4 M5 M6 M8`)
}

func TestEveryRowHasAScenario(t *testing.T) {
	scenarios := readScenarios(t)
	for _, row := range contractRows() {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == row })
		if i < 0 {
			t.Errorf("row %s has no scenario", row)
			continue
		}
		if !strings.HasPrefix(scenarios[i].text, "# "+row+": ") {
			t.Errorf("the scenario of row %s does not begin with %q", row, "# "+row+": ")
		}
	}
}
