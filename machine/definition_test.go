package machine

import (
	"slices"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/store"
)

func TestTableIsSound(t *testing.T) {
	if _, err := define(Table()); err != nil {
		t.Fatal(err)
	}
}

// with is the table and one rule more; the rule is put first, where no other
// one stands before it.
func with(r Rule) []Rule { return slices.Insert(Table(), 0, r) }

// without is the table without the rules that drop says.
func without(drop func(*Rule) bool) []Rule {
	return slices.DeleteFunc(Table(), func(r Rule) bool { return drop(&r) })
}

// A mutilated table is refused: looplab/fsm would take all of these in
// silence.
func TestDefineRefuses(t *testing.T) {
	sweep := on(Sweep)
	for _, tt := range []struct {
		name  string
		rules []Rule
		want  string
	}{
		{
			name:  "a rule twice",
			rules: append(Table(), Table()[0]),
			want:  "is never reached",
		},
		{
			name:  "a rule behind one with fewer guards",
			rules: append(Table(), Rule{Row: "E9", On: on(CancelAsked), From: in(idle), If: when(leaseOver), Note: "too late"}),
			want:  "is never reached",
		},
		{
			name:  "an unknown source state",
			rules: with(Rule{Row: "X", On: sweep, From: in("Idel"), Note: "typo"}),
			want:  `unknown state "Idel"`,
		},
		{
			name:  "an unknown target state",
			rules: with(Rule{Row: "X", On: sweep, From: in(idle), If: when(pastExpiry), To: "CardSend"}),
			want:  `unknown state "CardSend"`,
		},
		{
			name:  "an unknown guard",
			rules: with(Rule{Row: "X", On: sweep, From: in(idle), If: when("lease alive"), Note: "typo"}),
			want:  `unknown guard "lease alive"`,
		},
		{
			name:  "an unknown op",
			rules: with(Rule{Row: "X", On: sweep, From: in(idle), If: when(pastExpiry), Do: do("clam")}),
			want:  `unknown op "clam"`,
		},
		{
			name:  "a guard of an attempt where there is none",
			rules: with(Rule{Row: "X", On: sweep, From: in(none), If: when(leaseLive), Note: "nothing there"}),
			want:  `guard "lease live" needs an attempt`,
		},
		{
			name:  "an exit from Complete",
			rules: with(Rule{Row: "X", On: on(SignedOut), From: in(complete), If: when(pastExpiry), To: failed, Reason: store.ReasonSignedOut}),
			want:  "leaves the terminal state Complete",
		},
		{
			name:  "an exit from Failed",
			rules: with(Rule{Row: "X", On: on(TokenExchange), From: in(failed), If: when(pastExpiry), To: cardSent}),
			want:  "leaves the terminal state Failed",
		},
		{
			name:  "superseding an attempt that has ended",
			rules: with(Rule{Row: "X", On: on(NoToken), From: in(complete), If: when(pastExpiry), Open: OpensInstead, Origin: store.OriginSignIn, To: idle}),
			want:  "leaves the terminal state Complete",
		},
		{
			name:  "superseding where there is no attempt",
			rules: with(Rule{Row: "X", On: on(NoToken), From: in(none), If: when(first), Open: OpensInstead, Origin: store.OriginSignIn, To: idle}),
			want:  "supersedes an attempt that is not there",
		},
		{
			name:  "a second attempt beside an open one",
			rules: with(Rule{Row: "X", On: on(NoToken), From: in(cardSent), If: when(pastExpiry), Open: OpensFresh, Origin: store.OriginSignIn, To: idle}),
			want:  "opens a second attempt beside a CardSent one",
		},
		{
			name:  "a change of an attempt that is not there",
			rules: with(Rule{Row: "X", On: sweep, From: in(none), To: cardSent}),
			want:  "changes an attempt that is not there",
		},
		{
			name:  "an opening without an origin",
			rules: with(Rule{Row: "X", On: on(VerifyState), From: in(none), If: when(first), Open: OpensFresh, To: idle}),
			want:  "opens an attempt without origin or state",
		},
		{
			name:  "Complete without a method",
			rules: with(Rule{Row: "X", On: sweep, From: in(idle), If: when(pastExpiry), To: complete}),
			want:  "Complete needs a method",
		},
		{
			name:  "Failed without a reason",
			rules: with(Rule{Row: "X", On: sweep, From: in(idle), If: when(pastExpiry), To: failed}),
			want:  "Failed a reason",
		},
		{
			name:  "another event without Again",
			rules: with(Rule{Row: "X", On: sweep, From: in(idle), If: when(pastExpiry), As: NoToken}),
			want:  "As without Again",
		},
		{
			name:  "no row, no events, no states",
			rules: with(Rule{Note: "nothing"}),
			want:  "needs a row, events and states",
		},
		{
			name: "a state that nothing reaches",
			rules: without(func(r *Rule) bool {
				return r.To == verifying
			}),
			want: "state Verifying is never reached",
		},
		{
			name: "nothing is ever opened",
			rules: without(func(r *Rule) bool {
				return r.Open != OpensNone
			}),
			want: "state Idle is never reached",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := define(tt.rules)
			if err == nil {
				t.Fatal("the table was taken")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %q, want it to say %q", err, tt.want)
			}
		})
	}
}
