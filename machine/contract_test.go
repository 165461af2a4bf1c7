package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// contractRows are the rows of state-machine.md §4, A to E. B5 is part of
// "B2–B5" there and has no row of its own.
func contractRows() []string {
	return strings.Fields(`
		A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A12b A13 A14 A15
		B0 B1 B2 B3 B4 B6 B6b B7 B8 B9 B10 B11 B12 B13 B14 B15 B16 B17 B18 B19
		C0 C1 C2 C3 C4 C5 C6 C7 C8 C9 C9b C9c C10 C11 C12 C13 C14 C15
		D0 D1 D2 D3 D4 D5 D6 D7
		E1 E2 E3 E4 E5 E6 E7 E8 E9 E10`)
}

func TestEveryRowHasAScenario(t *testing.T) {
	for _, row := range contractRows() {
		raw, err := os.ReadFile(filepath.Join("testdata", "scenarios", row+".txt"))
		if err != nil {
			t.Errorf("row %s: %v", row, err)
			continue
		}
		if !strings.HasPrefix(string(raw), "# "+row+": ") {
			t.Errorf("the scenario of row %s does not begin with %q", row, "# "+row+": ")
		}
	}
}

func TestEveryRuleIsARowOfTheContract(t *testing.T) {
	rows := contractRows()
	for _, r := range Table() {
		if row, _, _ := strings.Cut(r.Row, "/"); !slices.Contains(rows, row) {
			t.Errorf("rule %s: state-machine.md has no such row", r.Row)
		}
	}
}

// TestEdgesAreThoseOfTheContract compares the table's arrows with the list in
// state-machine.md §4.
func TestEdgesAreThoseOfTheContract(t *testing.T) {
	want := []string{
		"(new) Idle",
		"Idle CardSent", "Idle Exchanging", "Idle Verifying", "Idle Complete", "Idle Failed",
		"CardSent CardSent", "CardSent Exchanging", "CardSent Verifying", "CardSent Complete", "CardSent Failed",
		"Exchanging Complete", "Exchanging CardSent", "Exchanging Failed", "Exchanging Verifying",
		"Verifying Complete", "Verifying CardSent", "Verifying Failed", "Verifying Exchanging",
	}
	var got []string
	for _, e := range Edges() {
		got = append(got, fsmState(e.From)+" "+string(e.To))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("edges (-contract +table):\n%s", diff)
	}
}

func TestEveryGuardAndOpIsUsed(t *testing.T) {
	usedGuards, usedOps := map[Guard]bool{}, map[Op]bool{}
	for _, r := range Table() {
		for _, g := range r.If {
			usedGuards[g] = true
		}
		for _, o := range r.Do {
			usedOps[o] = true
		}
	}
	for g := range guards() {
		if !usedGuards[g] {
			t.Errorf("no rule uses the guard %q", g)
		}
	}
	for o := range ops() {
		if !usedOps[o] {
			t.Errorf("no rule uses the op %q", o)
		}
	}
	for g := range aboutEvent() {
		if guards()[g] == nil {
			t.Errorf("the guard %q of aboutEvent is not defined", g)
		}
	}
}

// A terminal state is left by no rule, and each completion owes exactly one
// callback or says that nobody is to be told.
func TestCompletionsOweACallback(t *testing.T) {
	for i, r := range Table() {
		name := fmt.Sprintf("%s#%d", r.Row, i)
		if r.To == store.Complete && r.Call != TellDone && r.Call != TellNobody {
			t.Errorf("rule %s completes, and its callback is %q", name, r.Call)
		}
		if (r.Call == TellDone || r.Call == TellNobody) && r.To != store.Complete {
			t.Errorf("rule %s tells of a completion and does not complete", name)
		}
	}
}
