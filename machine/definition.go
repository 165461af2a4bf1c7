package machine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

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
	return fmt.Sprintf("illegal transition: %s in state %s", e.Event, fsmState(e.State))
}

// Edge is one arrow of the diagram, with the rows that take it.
type Edge struct {
	From, To store.State
	Rows     []string
}

// compiledRule is a rule with its guards and ops looked up.
type compiledRule struct {
	Rule
	id      string // event of the fsm
	idBirth string // … of the attempt that the rule opens: it is born Idle …
	idFirst string // … and may take its first edge in the same transaction
	guards  []func(*Input) bool
	ops     []func(*Input, *store.Attempt)
}

func (r *compiledRule) holds(in *Input) bool {
	for _, g := range r.guards {
		if !g(in) {
			return false
		}
	}
	return true
}

// target is the state in which the rule leaves the attempt that was there.
func (r *Rule) target(from store.State) store.State {
	switch {
	case r.Open == OpensInstead:
		return store.Failed
	case r.Open != OpensNone, r.To == store.None:
		return from
	default:
		return r.To
	}
}

// writes reports whether the rule changes the attempt.
func (r *Rule) writes() bool {
	return r.Open != OpensNone || r.To != store.None || len(r.Do) > 0
}

type pair struct {
	kind  Kind
	state store.State
}

// definition is the table, checked and indexed.
type definition struct {
	rules   []*compiledRule
	byPair  map[pair][]*compiledRule
	opens   map[pair]bool // some rule of the pair opens an attempt
	runners *sync.Pool
}

// define checks the table and refuses what looplab/fsm would take in silence:
// unknown states, guards and ops, duplicate rules, exits from terminal
// states, states that nothing reaches, rules that can never be taken.
func define(rules []Rule) (*definition, error) {
	d := &definition{byPair: map[pair][]*compiledRule{}, opens: map[pair]bool{}}
	known, doers, free := guards(), ops(), aboutEvent()
	var errs []error
	for n, r := range rules {
		id := ruleID(r.Row, n)
		c := &compiledRule{Rule: r, id: id, idBirth: id + "/new", idFirst: id + "/first"}
		for _, g := range r.If {
			if known[g] == nil {
				errs = append(errs, fmt.Errorf("rule %s: unknown guard %q", c.id, g))
				continue
			}
			if slices.Contains(r.From, store.None) && !free[g] {
				errs = append(errs, fmt.Errorf("rule %s: guard %q needs an attempt", c.id, g))
			}
			c.guards = append(c.guards, known[g])
		}
		for _, o := range r.Do {
			if doers[o] == nil {
				errs = append(errs, fmt.Errorf("rule %s: unknown op %q", c.id, o))
				continue
			}
			c.ops = append(c.ops, doers[o])
		}
		errs = append(errs, checkRule(c)...)
		for _, k := range r.On {
			for _, s := range r.From {
				p := pair{k, s}
				for _, before := range d.byPair[p] {
					if covers(before.If, r.If) {
						errs = append(errs, fmt.Errorf("rule %s: %s in %s is never reached, %s takes it", c.id, k, fsmState(s), before.id))
					}
				}
				d.byPair[p] = append(d.byPair[p], c)
				d.opens[p] = d.opens[p] || r.Open != OpensNone
			}
		}
		d.rules = append(d.rules, c)
	}
	errs = append(errs, checkReach(rules)...)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("transition table: %w", err)
	}
	d.runners = newRunnerPool(d.rules)
	return d, nil
}

func checkRule(c *compiledRule) []error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("rule "+c.id+": "+format, args...))
	}
	if c.Row == "" || len(c.On) == 0 || len(c.From) == 0 {
		bad("needs a row, events and states")
	}
	if c.To != store.None && !c.To.Valid() {
		bad("unknown state %q", c.To)
	}
	if (c.To == store.Complete) != (c.Method != "") || (c.To == store.Failed) != (c.Reason != "") {
		bad("Complete needs a method and Failed a reason, and nothing else has them")
	}
	if c.Open != OpensNone && (c.Origin == "" || c.To == store.None) {
		bad("opens an attempt without origin or state")
	}
	if c.As != "" && c.Then != Again {
		bad("As without Again")
	}
	for _, from := range c.From {
		switch {
		case from != store.None && !from.Valid():
			bad("unknown state %q", from)
		case from == store.None && c.Open == OpensNone && c.writes():
			bad("changes an attempt that is not there")
		case from.Terminal() && c.target(from) != from:
			bad("leaves the terminal state %s", from)
		case from == store.None && c.Open == OpensInstead:
			bad("supersedes an attempt that is not there")
		case !from.Terminal() && from != store.None && (c.Open == OpensLinked || c.Open == OpensFresh):
			bad("opens a second attempt beside a %s one", from)
		}
	}
	return errs
}

// covers reports whether every case in which b's guards hold is one in which
// a's do: a rule with fewer guards before one with more.
func covers(a, b []Guard) bool {
	for _, g := range a {
		if !slices.Contains(b, g) {
			return false
		}
	}
	return true
}

func checkReach(rules []Rule) []error {
	reached := map[store.State]bool{store.None: true}
	for grew := true; grew; {
		grew = false
		for _, e := range edges(rules) {
			if reached[e.From] && !reached[e.To] {
				reached[e.To], grew = true, true
			}
		}
	}
	var errs []error
	for _, s := range States() {
		if !reached[s] {
			errs = append(errs, fmt.Errorf("state %s is never reached", s))
		}
	}
	return errs
}

// compareRows sorts A2 before A12 and C9 before C9b.
func compareRows(a, b string) int {
	number := func(row string) int {
		n, _ := strconv.Atoi(strings.TrimRight(row[1:], "abcdefghijklmnopqrstuvwxyz"))
		return n
	}
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(number(a), number(b)), cmp.Compare(a, b))
}

// States are the states in the order of a sign-in.
func States() []store.State {
	return []store.State{store.Idle, store.CardSent, store.Exchanging, store.Verifying, store.Complete, store.Failed}
}

// Edges are the arrows of the table, each with the rows that take it: what
// the diagrams show and what state-machine.md §4 lists.
func Edges() []Edge { return edges(Table()) }

func edges(rules []Rule) []Edge {
	type arrow struct{ from, to store.State }
	rows := map[arrow][]string{}
	add := func(from, to store.State, row string) {
		row, _, _ = strings.Cut(row, "/")
		if a := (arrow{from, to}); !slices.Contains(rows[a], row) {
			rows[a] = append(rows[a], row)
		}
	}
	for i := range rules {
		r := &rules[i]
		for _, from := range r.From {
			// A rule that names the state it stays in is an arrow of its own
			// (CardSent to CardSent); one that leaves To open is none.
			if to := r.target(from); to != from || r.To == from && r.Open == OpensNone && from != store.None {
				add(from, to, r.Row)
			}
		}
		if r.Open != OpensNone {
			add(store.None, store.Idle, r.Row)
			if r.To != store.Idle {
				add(store.Idle, r.To, r.Row)
			}
		}
	}
	order := append([]store.State{store.None}, States()...)
	var out []Edge
	for _, from := range order {
		for _, to := range order {
			if r := rows[arrow{from, to}]; r != nil {
				slices.SortFunc(r, compareRows)
				out = append(out, Edge{From: from, To: to, Rows: r})
			}
		}
	}
	return out
}
