package table

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// These lists are copied from docs/state-machine.md §4 by hand.

// contractRows are the rows A to E. B5 is only mentioned there, in "B2–B5".
func contractRows() []string {
	return strings.Fields(`
		A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A12b A13 A14 A15 A16
		B0 B1 B2 B3 B4 B6 B6b B7 B8 B9 B9b B10 B11 B12 B13 B14 B15 B16 B17 B18 B19
		C0 C1 C2 C3 C4 C5 C6 C7 C8 C9 C9b C9c C10 C10b C11 C12 C13 C14 C15 C16 C17
		D0 D1 D2 D3 D4 D5 D6 D7 D8
		E1 E2 E3 E4 E5 E6 E7 E8 E9 E10
		M1 M2 M3 M4 M5 M6 M7 M8 M9`)
}

// rowsWithoutARule say how an event is read, or what several events come to
// together. The engine's loop has them, not the table.
func rowsWithoutARule() []string {
	return strings.Fields("B0 B17 C0 C14 C15 C17 D3 E4 E10 M2 M3 M4 M5 M6 M7 M8 M9")
}

func contractEdges() []string {
	return []string{
		"(new) Idle",
		"Idle CardSent", "Idle Exchanging", "Idle Verifying", "Idle Complete", "Idle Failed",
		"CardSent CardSent", "CardSent Exchanging", "CardSent Verifying", "CardSent Complete", "CardSent Failed",
		"Exchanging Complete", "Exchanging CardSent", "Exchanging Failed", "Exchanging Verifying",
		"Verifying Complete", "Verifying CardSent", "Verifying Failed", "Verifying Exchanging",
	}
}

func TestEveryRuleIsARowOfTheContract(t *testing.T) {
	named := map[string]bool{}
	for _, b := range Blocks() {
		for _, r := range b.Rules {
			row, suffix, _ := strings.Cut(r.Row, "/")
			if !slices.Contains(contractRows(), row) {
				t.Errorf("rule %s: the contract has no such row", r.Row)
			}
			if suffix != "" && suffix != "late" {
				t.Errorf("rule %s: unknown suffix", r.Row)
			}
			named[row] = true
		}
	}
	var missing []string
	for _, row := range contractRows() {
		if !named[row] {
			missing = append(missing, row)
		}
	}
	if diff := cmp.Diff(rowsWithoutARule(), missing); diff != "" {
		t.Errorf("rows without a rule (-want +got):\n%s", diff)
	}
}

// The fsm has the edges of the contract and no other, and its names for them
// lead to one state each.
func TestEdgesAreThoseOfTheContract(t *testing.T) {
	var got []string
	leads := map[string]string{}
	for _, e := range Events() {
		for _, from := range e.Src {
			got = append(got, from+" "+e.Dst)
		}
		if to, ok := leads[e.Name]; ok && to != e.Dst {
			t.Errorf("edge %q leads to %s and to %s", e.Name, to, e.Dst)
		}
		leads[e.Name] = e.Dst
	}
	same(t, "edges of the fsm", contractEdges(), got)
}

// The arrows of the diagram are the same edges, and each has a row that takes
// it.
func TestArrowsAreThoseOfTheContract(t *testing.T) {
	var got []string
	for _, a := range Arrows() {
		got = append(got, stateName(a.From)+" "+string(a.To))
		if len(a.Rows) == 0 {
			t.Errorf("no rule takes %s → %s", stateName(a.From), a.To)
		}
		if !slices.IsSortedFunc(a.Rows, CompareRows) {
			t.Errorf("rows out of order: %v", a.Rows)
		}
	}
	same(t, "arrows", contractEdges(), got)
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-contract +table):\n%s", what, diff)
	}
}

// A rule never asks for an edge that the fsm would refuse.
func TestEveryRuleTakesAnEdgeThatIsThere(t *testing.T) {
	g := newGraph(Events())
	used := map[arrow]bool{}
	check := func(r *Rule, e Edge, from store.State) {
		to, err := g.take(e, from)
		if err != nil {
			t.Errorf("row %s: %v", r.Row, err)
		}
		used[arrow{e, from, to}] = true
	}
	for _, b := range Blocks() {
		for i := range b.Rules {
			r := &b.Rules[i]
			if r.Open != OpensNone {
				check(r, open, None)
			}
			for _, s := range b.In {
				switch {
				case r.Open == OpensInstead:
					check(r, fail, s)
				case r.Open == OpensNone && r.Edge != "":
					check(r, r.Edge, s)
				}
			}
			if r.Open != OpensNone && r.Edge != "" {
				check(r, r.Edge, Idle)
			}
		}
	}
	for _, a := range g.arrows() {
		if !used[a] {
			t.Errorf("no rule takes the edge %q from %s", a.name, stateName(a.from))
		}
	}
}

// An edge that does not leave from a state is refused, whoever asks, and the fsm
// is as good as new after that.
func TestTheFsmDecides(t *testing.T) {
	g := newGraph(Events())
	for _, e := range g.events {
		for _, s := range allStates() {
			to, err := g.take(Edge(e.Name), s)
			switch leaves := slices.Contains(e.Src, stateName(s)); {
			case leaves && (err != nil || stateName(to) != e.Dst):
				t.Errorf("%q from %s: %s, %v", e.Name, stateName(s), to, err)
			case !leaves && (err == nil || to != s):
				t.Errorf("%q from %s was taken, to %s", e.Name, stateName(s), to)
			}
		}
	}
	if _, err := g.take("card send", Idle); err == nil {
		t.Error("an edge that is not there was taken")
	}
}

func TestEveryGuardAndOpIsUsed(t *testing.T) {
	guards, ops := meanings(), deeds()
	for _, b := range Blocks() {
		for _, r := range b.Rules {
			for _, g := range r.If {
				delete(guards, g)
			}
			for _, o := range r.Do {
				delete(ops, o)
			}
		}
	}
	for g := range guards {
		t.Errorf("no rule uses the guard %q", g)
	}
	for o := range ops {
		t.Errorf("no rule uses the op %q", o)
	}
}

// The guards that may stand in a block about no attempt are those that can be
// asked without one.
func TestGuardsAboutTheEvent(t *testing.T) {
	for g, holds := range meanings() {
		needs := false
		for _, s := range []store.State{Exchanging, Verifying} {
			in := inputOf(nil, Event{Fence: 1, Activity: "activity", SSO: true, Waited: s})
			in.Policy.MaxCodeTries = 1
			func() {
				defer func() { needs = recover() != nil || needs }()
				holds(in)
			}()
		}
		if needs == aboutEvent(g) {
			t.Errorf("guard %q: looks at the attempt %t, is called one about the event %t", g, needs, aboutEvent(g))
		}
	}
}

// Each completion owes exactly one callback, or says that the caller of SignIn
// holds the token. Each failure callback has an invoke or a client behind it.
func TestCompletionsOweACallback(t *testing.T) {
	for _, b := range Blocks() {
		for _, r := range b.Rules {
			done := r.Tell == TellDone || r.Tell == TellSilent
			if done != (r.Edge == complete) {
				t.Errorf("row %s takes edge %q and tells %q", r.Row, r.Edge, r.Tell)
			}
			if r.Tell == TellSilent && r.Method != store.MethodSilent {
				t.Errorf("row %s: nobody is told of a completion by %s", r.Row, r.Method)
			}
		}
	}
}

// The callbacks of the rows of the contract, column CB. "once" is a matter of
// the prober, which asks the best candidate alone.
func TestCallbacksAreThoseOfTheContract(t *testing.T) {
	want := map[string]Callback{
		"B2": TellDone, "B3": TellFailed, "B4": TellFailed,
		"C3": TellDone, "C5": TellFailed, "C6": TellFailed, "C7": TellFailed, "C8": TellFailed, "C12": TellDone,
		"D0": TellApp, "D1": TellValue, "D2": TellValue, "D4": TellValue, "D6": TellApp, "D7": TellValue,
		"A2": TellSilent, "E8": TellDone,
	}
	got := map[string]map[Callback]bool{}
	for _, b := range Blocks() {
		for _, r := range b.Rules {
			row, _, _ := strings.Cut(r.Row, "/")
			if got[row] == nil {
				got[row] = map[Callback]bool{}
			}
			got[row][r.Tell] = true
		}
	}
	for row, tells := range got {
		for tell := range tells {
			switch {
			case tell == TellNothing || tell == want[row]:
			case tell == TellAll && (row == "D0" || row == "D6"): // failure_fanout: all
			default:
				t.Errorf("row %s tells %q, the contract says %q", row, tell, want[row])
			}
		}
	}
	for row, tell := range want {
		if !got[row][tell] {
			t.Errorf("no rule of row %s tells %q", row, tell)
		}
	}
}

// A message extension asks with every keystroke, so its attempts have a
// cool-down of their own (A10, M1).
func TestComposeCooldown(t *testing.T) {
	table := mustDefine(t)
	for _, c := range []struct {
		origin store.Origin
		via    store.Origin
		age    time.Duration
		row    string
	}{
		{store.OriginCompose, store.OriginCompose, 29 * time.Second, "M1"},
		{store.OriginCompose, store.OriginCompose, 31 * time.Second, "A11"},
		{store.OriginSignIn, "", 0, "A11"},
		// The chat has no card of it.
		{store.OriginCompose, "", 29 * time.Second, "A11"},
		{store.OriginCardAction, "", 29 * time.Second, "A11"},
	} {
		a := attemptIn(CardSent)
		a.Origin, a.Entered = c.origin, noon().Add(-c.age)
		d, err := table.Step(inputOf(a, Event{Kind: NoToken, Via: c.via}))
		if err != nil || d.Rule.Row != c.row {
			t.Errorf("%s after %s: row %s, %v; want row %s", c.origin, c.age, d.Rule.Row, err, c.row)
		}
	}
}

// "The card is out" holds where the user can see it.
func TestCardOfAnotherConversation(t *testing.T) {
	table := mustDefine(t)
	for _, c := range []struct {
		asked, card string // conversation of the request, and of the card if it is another
		event       Event
		row         string
	}{
		{"chat", "", Event{Kind: NoToken}, "A10"},
		{"elsewhere", "", Event{Kind: NoToken}, "A11"},
		{"elsewhere", "own chat", Event{Kind: NoToken}, "A10"}, // group_chat: one_to_one
		{"chat", "", Event{Kind: SignInAsked, Waited: Idle}, "A12"},
		{"elsewhere", "", Event{Kind: SignInAsked, Waited: Idle}, "A2"},
		{"chat", "", Event{Kind: ResourceFound, Another: true}, "A15"},
		{"elsewhere", "", Event{Kind: ResourceFound, Another: true}, "A11"},
	} {
		a := attemptIn(CardSent)
		a.Entered, a.Conversation.ID, a.CardConversation = noon(), "chat", c.card
		in := inputOf(a, c.event)
		in.Policy.ResendCooldown, in.Conversation.ID, in.NewID = time.Minute, c.asked, "next"
		d, err := table.Step(in)
		if err != nil || d.Rule.Row != c.row {
			t.Errorf("%s from %s, its card in %q: row %s, %v; want row %s", c.event.Kind, c.asked, c.card, d.Rule.Row, err, c.row)
		}
	}
}

// The first callback of an attempt is held by whoever wrote it, who calls at
// once. A later one is nobody's: an earlier one may still be under way.
func TestWhoHoldsACallback(t *testing.T) {
	table := mustDefine(t)
	for _, c := range []struct {
		name   string
		calls  int
		first  bool // callback_mode: at_most_once
		kept   bool // activities, for which the bot has handlers
		event  Kind
		status store.DeliveryStatus
		owner  string
		tries  int
		held   time.Duration
	}{
		{"the first", 0, false, true, ExchangeOK, store.DeliveryPending, "a", 1, time.Minute},
		{"a later one", 2, false, false, ExchangeOK, store.DeliveryPending, "", 0, 0},
		{"acknowledged first", 0, true, false, ExchangeOK, store.DeliveryDone, "", 1, 0},
		{"a later one, acknowledged first", 2, true, false, ExchangeOK, store.DeliveryDone, "", 1, 0},
		{"the caller holds the token", 0, false, false, TokenFound, store.DeliveryNotOwed, "", 0, 0},
		{"the caller holds the token, and something is kept", 0, false, true, TokenFound, store.DeliveryPending, "", 0, 0},
		{"the same, acknowledged first", 0, true, true, TokenFound, store.DeliveryNotOwed, "", 0, 0},
	} {
		a := attemptIn(CardSent)
		a.Calls = c.calls
		in := inputOf(a, Event{Kind: c.event})
		in.Policy.AcknowledgeFirst, in.Resumes = c.first, c.kept
		if c.kept {
			a.Request = []byte("sealed")
		}
		d, err := table.Step(in)
		if err != nil || d.Owed == nil {
			t.Fatalf("%s: %+v, %v", c.name, d.Owed, err)
		}
		if row := d.Owed; row.Status != c.status || row.Owner != c.owner || row.Tries != c.tries || !row.NextAt.Equal(noon().Add(c.held)) {
			t.Errorf("%s: %+v", c.name, row)
		}
	}
}

// Teams sends a message again after 15 s: it never brings a second card (A16),
// not even where the first SignIn was lost sight of on the way to its card.
func TestOneCardPerMessage(t *testing.T) {
	table := mustDefine(t)
	for _, lease := range []time.Duration{-time.Second, 20 * time.Second} {
		for _, c := range []struct {
			event Kind
			in    []store.State
		}{
			{SignInAsked, in(Idle, CardSent, Exchanging, Verifying)},
			{ResourceFound, in(Idle)},
		} {
			for _, s := range c.in {
				a := attemptIn(s)
				a.Activity, a.Lease.Until = "message", noon().Add(lease)
				d, err := table.Step(inputOf(a, Event{Kind: c.event, Activity: "message"}))
				if err != nil || d.Rule.Row != "A16" || d.Rule.Reply != ReplyCardOut || d.Writes() {
					t.Errorf("%s in %s, %s of the lease left: row %s, %v", c.event, s, lease, d.Rule.Row, err)
				}
			}
		}
	}
}
