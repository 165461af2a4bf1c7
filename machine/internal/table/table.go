package table

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/signin-engine/signin-engine/store"
)

// IllegalTransitionError says that the table has no rule for an event in a
// state. Nothing was changed.
type IllegalTransitionError struct {
	State store.State
	Event Kind
}

// Error names the pair.
func (e *IllegalTransitionError) Error() string {
	return fmt.Sprintf("illegal transition: %s in state %s", e.Event, stateName(e.State))
}

// Blocks returns all rules in the order of docs/state-machine.md §4.
func Blocks() []Block {
	return slices.Concat(
		signInRules(), exchangeRules(), verifyRules(), failureRules(), signOutRules(), sweepRules(),
	)
}

// Table holds the checked rules and the fsm that takes their edges. It is safe
// for concurrent use.
type Table struct {
	rules map[pair][]rule
	graph *graph
}

type pair struct {
	kind  Kind
	state store.State
}

// rule is a Rule with its guards and ops looked up.
type rule struct {
	Rule
	guards []func(*Input) bool
	ops    []func(*Input, *store.Attempt)
}

func (r *rule) holds(in *Input) bool {
	for _, g := range r.guards {
		if !g(in) {
			return false
		}
	}
	return true
}

// New returns this package's table. An error means that its rules contradict
// each other or the fsm.
func New() (*Table, error) { return Define(Blocks(), Events(), Overrides{}) }

// Overrides replace guards and ops of the table, for tests that check that a
// changed one is noticed.
type Overrides struct {
	Guards map[Guard]func(*Input) bool
	Ops    map[Op]func(*Input, *store.Attempt)
}

// Define checks blocks of rules against the events of an fsm and builds a table.
// It rejects what looplab/fsm would accept silently: unknown names and states,
// two blocks for one event in one state, unreachable rules, edges out of a
// terminal state, and unreachable states.
func Define(blocks []Block, events []EdgeEvent, o Overrides) (*Table, error) {
	t := &Table{rules: map[pair][]rule{}, graph: newGraph(events)}
	guards, ops := meanings(), deeds()
	for g, f := range o.Guards {
		guards[g] = f
	}
	for op, f := range o.Ops {
		ops[op] = f
	}
	var errs []error
	for _, b := range blocks {
		if len(b.On) == 0 || len(b.In) == 0 || len(b.Rules) == 0 {
			errs = append(errs, errors.New("a block needs events, states and rules"))
			continue
		}
		compiled := make([]rule, len(b.Rules))
		for i, r := range b.Rules {
			compiled[i] = rule{Rule: r}
			for _, g := range r.If {
				if guards[g] == nil {
					errs = append(errs, fmt.Errorf("row %s: unknown guard %q", r.Row, g))
				}
				compiled[i].guards = append(compiled[i].guards, guards[g])
			}
			for _, op := range r.Do {
				if ops[op] == nil {
					errs = append(errs, fmt.Errorf("row %s: unknown op %q", r.Row, op))
				}
				compiled[i].ops = append(compiled[i].ops, ops[op])
			}
			errs = append(errs, t.checkRule(&b, &r)...)
			for _, before := range b.Rules[:i] {
				if covers(before.If, r.If) {
					errs = append(errs, fmt.Errorf("row %s: never reached, row %s comes first", r.Row, before.Row))
				}
			}
		}
		if last := b.Rules[len(b.Rules)-1]; len(last.If) > 0 {
			errs = append(errs, fmt.Errorf("row %s: the last rule of a block needs to be one for all other cases", last.Row))
		}
		for _, k := range b.On {
			for _, s := range b.In {
				if t.rules[pair{k, s}] != nil {
					errs = append(errs, fmt.Errorf("%s in %s: two blocks", k, stateName(s)))
				}
				t.rules[pair{k, s}] = compiled
			}
		}
	}
	errs = append(errs, t.graph.check()...)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("transition table: %w", err)
	}
	return t, nil
}

// checkRule checks one rule of a block. It does not check that the rule's edge
// leaves from the block's states: the fsm does when the edge is taken.
func (t *Table) checkRule(b *Block, r *Rule) []error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("row "+r.Row+": "+format, args...))
	}
	if r.Row == "" {
		bad("a rule needs a row")
	}
	if r.Edge != "" && !slices.ContainsFunc(t.graph.events, func(e EdgeEvent) bool { return e.Name == string(r.Edge) }) {
		bad("unknown edge %q", r.Edge)
	}
	if (r.Edge == complete) != (r.Method != "") || (r.Edge == fail) != (r.Reason != "") {
		bad("complete needs a method and fail a reason, and nothing else has them")
	}
	if (r.Open != OpensNone) != (r.Origin != "") {
		bad("an origin goes with an opening")
	}
	if r.As != "" && r.Then != Again {
		bad("As goes with Again")
	}
	writes := r.Open != OpensNone || r.Edge != "" || len(r.Do) > 0
	if r.Tell != TellNothing && r.Tell != TellAll && r.Tell != TellApp && !writes {
		bad("owes a callback, but writes nothing")
	}
	for _, s := range b.In {
		switch {
		case s != None && !s.Valid():
			bad("unknown state %q", s)
		case s == None && r.Open == OpensNone && writes:
			bad("changes an attempt that is not there")
		case s == None && r.Open != OpensNone && r.Open != OpensFresh:
			bad("goes on from an attempt that is not there")
		case s != None && !s.Terminal() && (r.Open == OpensFresh || r.Open == OpensLinked):
			bad("opens a second attempt beside one in %s", s)
		case s.Terminal() && r.Open == OpensInstead:
			bad("supersedes an attempt that has ended")
		}
		for _, g := range r.If {
			if s == None && !aboutEvent(g) {
				bad("guard %q needs an attempt", g)
			}
		}
	}
	return errs
}

// covers reports whether a's guards are a subset of b's. A rule with guards a
// then shadows a later one with guards b.
func covers(a, b []Guard) bool {
	for _, g := range a {
		if !slices.Contains(b, g) {
			return false
		}
	}
	return true
}

// check rejects an fsm with unknown states, two edges of one name from one
// state, an edge out of a terminal state, or an unreachable state.
func (g *graph) check() []error {
	var errs []error
	seen := map[arrow]bool{}
	reached := map[store.State]bool{None: true}
	for _, a := range g.arrows() {
		if a.from != None && !a.from.Valid() || !a.to.Valid() {
			errs = append(errs, fmt.Errorf("edge %q: from %q to %q: unknown state", a.name, a.from, a.to))
		}
		if a.from.Terminal() {
			errs = append(errs, fmt.Errorf("edge %q leaves the terminal state %s", a.name, a.from))
		}
		if from := (arrow{name: a.name, from: a.from}); seen[from] {
			errs = append(errs, fmt.Errorf("edge %q leaves twice from %s", a.name, stateName(a.from)))
		} else {
			seen[from] = true
		}
	}
	for range States() {
		for _, a := range g.arrows() {
			reached[a.to] = reached[a.to] || reached[a.from]
		}
	}
	for _, s := range States() {
		if !reached[s] {
			errs = append(errs, fmt.Errorf("state %s is never reached", s))
		}
	}
	return errs
}

// Opens reports whether an event may open an attempt. The caller then has to
// supply an id.
func (t *Table) Opens(k Kind, s store.State) bool {
	return slices.ContainsFunc(t.rules[pair{k, s}], func(r rule) bool { return r.Open != OpensNone })
}

// Knows reports whether there are rules for an event in a state.
func (t *Table) Knows(k Kind, s store.State) bool { return t.rules[pair{k, s}] != nil }

// Arrow is an arrow of the diagram with the rows that take it.
type Arrow struct {
	From, To store.State
	Rows     []string
}

// Arrows returns the fsm's state-to-state arrows, each with the rows that take
// it.
func Arrows() []Arrow {
	g := newGraph(Events())
	rows := map[[2]store.State][]string{}
	take := func(e Edge, from store.State, row string) {
		to, ok := g.leads(e, from)
		if !ok {
			return
		}
		row, _, _ = strings.Cut(row, "/")
		if k := [2]store.State{from, to}; !slices.Contains(rows[k], row) {
			rows[k] = append(rows[k], row)
		}
	}
	for _, b := range Blocks() {
		for _, r := range b.Rules {
			for _, s := range b.In {
				switch r.Open {
				case OpensNone:
					take(r.Edge, s, r.Row)
				case OpensInstead:
					take(fail, s, r.Row)
					take(open, None, r.Row)
				case OpensFresh, OpensLinked:
					take(open, None, r.Row)
				}
			}
			if r.Open != OpensNone {
				take(r.Edge, Idle, r.Row)
			}
		}
	}
	var out []Arrow
	for _, from := range append([]store.State{None}, States()...) {
		for _, to := range States() {
			if slices.ContainsFunc(g.arrows(), func(a arrow) bool { return a.from == from && a.to == to }) {
				r := rows[[2]store.State{from, to}]
				slices.SortFunc(r, CompareRows)
				out = append(out, Arrow{From: from, To: to, Rows: r})
			}
		}
	}
	return out
}

// CompareRows sorts A2 before A12 and C9 before C9b.
func CompareRows(a, b string) int {
	number := func(row string) int {
		n, _ := strconv.Atoi(strings.TrimRight(row[1:], "abcdefghijklmnopqrstuvwxyz"))
		return n
	}
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(number(a), number(b)), cmp.Compare(a, b))
}
