package table

import (
	"slices"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/store"
)

func TestTableIsSound(t *testing.T) {
	if _, err := New(); err != nil {
		t.Fatal(err)
	}
}

// madeUp is an event that the table does not know, so that a block about it
// stands beside no other.
const madeUp Kind = "made up"

// also is the table and one block more.
func also(b Block) func([]Block, []EdgeEvent) ([]Block, []EdgeEvent) {
	return func(blocks []Block, events []EdgeEvent) ([]Block, []EdgeEvent) { return append(blocks, b), events }
}

// rules is the table and one block more about a made-up event.
func rules(in []store.State, rules ...Rule) func([]Block, []EdgeEvent) ([]Block, []EdgeEvent) {
	return also(block(on(madeUp), in, rules...))
}

// edges is the table with other events of the fsm.
func edges(change func([]EdgeEvent) []EdgeEvent) func([]Block, []EdgeEvent) ([]Block, []EdgeEvent) {
	return func(blocks []Block, events []EdgeEvent) ([]Block, []EdgeEvent) { return blocks, change(events) }
}

// A mutilated table is refused, and the error says what is wrong with it and
// nothing else. looplab/fsm would take all of these in silence.
func TestDefineRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mangle func([]Block, []EdgeEvent) ([]Block, []EdgeEvent)
		want   string
		also   string // what follows from it
	}{
		// Blocks.
		{name: "a block without events", mangle: also(block(nil, in(Idle), Rule{Row: "X", Note: "n"})), want: "a block needs events, states and rules"},
		{name: "a block without states", mangle: also(block(on(madeUp), nil, Rule{Row: "X", Note: "n"})), want: "a block needs events, states and rules"},
		{name: "a block without rules", mangle: also(block(on(madeUp), in(Idle))), want: "a block needs events, states and rules"},
		{
			name:   "two blocks for one event in one state",
			mangle: also(block(on(Sweep), in(Idle), Rule{Row: "X", Note: "again"})),
			want:   "sweep in Idle: two blocks",
		},
		{
			name:   "one state twice in a block",
			mangle: rules(in(Idle, Idle), Rule{Row: "X", Note: "n"}),
			want:   "made up in Idle: two blocks",
		},
		{
			name:   "the last rule guarded",
			mangle: rules(in(Idle), Rule{Row: "X", If: when(held), Note: "n"}),
			want:   "row X: the last rule of a block needs to be one for all other cases",
		},
		{
			name:   "a rule twice",
			mangle: rules(in(Idle), Rule{Row: "X", Note: "n"}, Rule{Row: "Y", Note: "n"}),
			want:   "row Y: never reached, row X comes first",
		},
		{
			name:   "a rule behind one with fewer guards",
			mangle: rules(in(Idle), Rule{Row: "X", If: when(held), Note: "n"}, Rule{Row: "Y", If: when(waited, held), Note: "n"}, Rule{Row: "Z", Note: "n"}),
			want:   "row Y: never reached, row X comes first",
		},

		// Names.
		{name: "no row", mangle: rules(in(Idle), Rule{Note: "n"}), want: "a rule needs a row"},
		{name: "an unknown guard", mangle: rules(in(Idle), Rule{Row: "X", If: when("somebody was at it"), Note: "n"}, Rule{Row: "Y", Note: "n"}), want: `row X: unknown guard "somebody was at it"`},
		{name: "an unknown op", mangle: rules(in(Idle), Rule{Row: "X", Do: do("clam")}), want: `row X: unknown op "clam"`},
		{name: "an unknown edge", mangle: rules(in(Idle), Rule{Row: "X", Edge: "card send"}), want: `row X: unknown edge "card send"`},
		{name: "an unknown state", mangle: rules(in("Idel"), Rule{Row: "X", Note: "n"}), want: `row X: unknown state "Idel"`},

		// What goes with what.
		{name: "complete without a method", mangle: rules(in(Idle), Rule{Row: "X", Edge: complete}), want: "row X: complete needs a method"},
		{name: "a method without complete", mangle: rules(in(Idle), Rule{Row: "X", Edge: sent, Method: store.MethodSilent}), want: "row X: complete needs a method"},
		{name: "fail without a reason", mangle: rules(in(Idle), Rule{Row: "X", Edge: fail}), want: "and fail a reason"},
		{name: "a reason without fail", mangle: rules(in(Idle), Rule{Row: "X", Edge: sent, Reason: store.ReasonExpired}), want: "and fail a reason"},
		{name: "an opening without an origin", mangle: rules(in(None), Rule{Row: "X", Open: OpensFresh}), want: "row X: an origin goes with an opening"},
		{name: "an origin without an opening", mangle: rules(in(Idle), Rule{Row: "X", Origin: store.OriginAdopted, Note: "n"}), want: "row X: an origin goes with an opening"},
		{name: "another event without Again", mangle: rules(in(Idle), Rule{Row: "X", As: NoToken, Then: AskToken}), want: "row X: As goes with Again"},
		{name: "a callback without a write", mangle: rules(in(Idle), Rule{Row: "X", Tell: TellValue, Note: "n"}), want: "row X: owes a callback, but writes nothing"},

		// What a state allows.
		{name: "an edge of no attempt", mangle: rules(in(None), Rule{Row: "X", Edge: sent}), want: "row X: changes an attempt that is not there"},
		{name: "an op on no attempt", mangle: rules(in(None), Rule{Row: "X", Do: do(claim)}), want: "row X: changes an attempt that is not there"},
		{name: "linked to no attempt", mangle: rules(in(None), Rule{Row: "X", Open: OpensLinked, Origin: store.OriginAdopted}), want: "row X: goes on from an attempt that is not there"},
		{name: "instead of no attempt", mangle: rules(in(None), Rule{Row: "X", Open: OpensInstead, Origin: store.OriginSignIn}), want: "row X: goes on from an attempt that is not there"},
		{name: "a fresh attempt beside an open one", mangle: rules(in(CardSent), Rule{Row: "X", Open: OpensFresh, Origin: store.OriginSignIn}), want: "row X: opens a second attempt beside one in CardSent"},
		{name: "a linked attempt beside an open one", mangle: rules(in(Verifying), Rule{Row: "X", Open: OpensLinked, Origin: store.OriginAdopted}), want: "row X: opens a second attempt beside one in Verifying"},
		{name: "instead of one that has ended", mangle: rules(in(Complete), Rule{Row: "X", Open: OpensInstead, Origin: store.OriginSignIn}), want: "row X: supersedes an attempt that has ended"},
		{
			name:   "a guard of an attempt where there is none",
			mangle: rules(in(None), Rule{Row: "X", If: when(held), Note: "n"}, Rule{Row: "Y", Note: "n"}),
			want:   `row X: guard "somebody is at it" needs an attempt`,
		},

		// The fsm.
		{
			name: "an edge from an unknown state",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				return append(e, EdgeEvent{Name: "x", Src: []string{"Idel"}, Dst: "CardSent"})
			}),
			want: `edge "x": from "Idel" to "CardSent": unknown state`,
		},
		{
			name: "an edge to an unknown state",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				return append(e, EdgeEvent{Name: "x", Src: []string{"Idle"}, Dst: "CardSend"})
			}),
			want: `edge "x": from "Idle" to "CardSend": unknown state`,
		},
		{
			name: "an edge back to no attempt",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				return append(e, EdgeEvent{Name: "x", Src: []string{"Idle"}, Dst: "(new)"})
			}),
			want: `edge "x": from "Idle" to "": unknown state`,
		},
		{
			name: "a way out of Complete",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				return append(e, EdgeEvent{Name: "x", Src: []string{"Complete"}, Dst: "Failed"})
			}),
			want: `edge "x" leaves the terminal state Complete`,
		},
		{
			name: "a way out of Failed",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				return append(e, EdgeEvent{Name: "x", Src: []string{"Failed"}, Dst: "CardSent"})
			}),
			want: `edge "x" leaves the terminal state Failed`,
		},
		{
			name:   "an edge twice",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent { return append(e, e[len(e)-1]) }),
			want:   `edge "fail" leaves twice from Idle`,
			also:   `edge "fail" leaves twice from`,
		},
		{
			name: "an edge that leads to two states",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				return append(e, EdgeEvent{Name: "card sent", Src: []string{"Idle"}, Dst: "Failed"})
			}),
			want: `edge "card sent" leaves twice from Idle`,
		},
		{
			name: "a state that nothing leads to",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				i := slices.IndexFunc(e, func(d EdgeEvent) bool { return d.Name == string(verify) })
				e[i].Src = nil
				return e
			}),
			want: "state Verifying is never reached",
		},
		{
			name: "two states that lead only to each other",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				for i := range e {
					e[i].Src = slices.DeleteFunc(e[i].Src, func(from string) bool {
						talks := e[i].Dst == "Exchanging" || e[i].Dst == "Verifying"
						return talks && (from == "Idle" || from == "CardSent")
					})
				}
				return e
			}),
			want: "state Exchanging is never reached",
			also: "state Verifying is never reached",
		},
		{
			name: "an fsm that nothing enters",
			mangle: edges(func(e []EdgeEvent) []EdgeEvent {
				i := slices.IndexFunc(e, func(d EdgeEvent) bool { return d.Name == string(open) })
				e[i].Src = nil
				return e
			}),
			want: "state Idle is never reached",
			also: "is never reached",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			blocks, events := tt.mangle(Blocks(), Events())
			_, err := Define(blocks, events, Overrides{})
			if err == nil {
				t.Fatal("the table was taken")
			}
			lines := strings.Split(strings.TrimPrefix(err.Error(), "transition table: "), "\n")
			found := false
			for _, line := range lines {
				switch {
				case strings.Contains(line, tt.want):
					found = true
				case tt.also == "" || !strings.Contains(line, tt.also):
					t.Errorf("it also says %q", line)
				}
			}
			if !found {
				t.Errorf("the error is %q, want it to say %q", err, tt.want)
			}
		})
	}
}

// Everything that is wrong is said at once.
func TestDefineNamesEveryFault(t *testing.T) {
	blocks := append(Blocks(),
		block(on(madeUp), in(Idle), Rule{Row: "X", Do: do("clam"), If: when("late"), Edge: "leave"}),
		block(on(madeUp), in(Idle), Rule{Row: "Y", Note: "n"}))
	_, err := Define(blocks, append(Events(), EdgeEvent{Name: "x", Src: []string{"Failed"}, Dst: "Nowhere"}), Overrides{})
	if err == nil {
		t.Fatal("the table was taken")
	}
	for _, want := range []string{"unknown op", "unknown guard", "unknown edge", "for all other cases", "two blocks", "terminal state", "unknown state"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

// A meaning that is put in the place of the table's own is the one that is used,
// and changes no other table.
func TestOverrides(t *testing.T) {
	changed, err := Define(Blocks(), Events(), Overrides{
		Guards: map[Guard]func(*Input) bool{pastExpiry: func(*Input) bool { return true }},
		Ops:    map[Op]func(*Input, *store.Attempt){claim: func(_ *Input, a *store.Attempt) { a.Lease.Owner = "nobody" }},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		state store.State
		event Event
		own   func(*Decision) bool // as the table means it
	}{
		{CardSent, Event{Kind: Sweep}, func(d *Decision) bool { return !d.Writes() }},
		{Idle, Event{Kind: TokenExchange}, func(d *Decision) bool { return d.Attempt.Lease.Owner == "a" }},
	} {
		for _, table := range []*Table{changed, mustDefine(t)} {
			d, err := table.Step(inputOf(attemptIn(tt.state), tt.event))
			if err != nil {
				t.Fatal(err)
			}
			if own := tt.own(&d); own == (table == changed) {
				t.Errorf("%s in %s: overridden %t, but decided as with the table's own meaning: %t", tt.event.Kind, tt.state, table == changed, own)
			}
		}
	}
}
