package table

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// kinds are all events.
func kinds() []Kind {
	return []Kind{
		SignInAsked, AskedMore, TokenExchange, VerifyState, PopupClosed, ClientFailure, TokenAnnounced, SignOutAsked, Sweep, ReconcileAsk, CancelAsked,
		TokenFound, NoToken, LookupFailed, ResourceFound, ResourceFailed, CardAccepted, CardRejected, CardUnclear,
		ExchangeOK, ExchangeRefused, ExchangeFailed, VerifyOK, VerifyMiss, VerifyRefused, VerifyFailed, CodeSpent, NoMatch,
		SignedOut, SignOutError, Recovered, NotRecovered, RecoverFailed,
	}
}

// allStates are the states of an attempt, and none.
func allStates() []store.State { return append([]store.State{None}, States()...) }

// noon is the time of every step here.
func noon() time.Time { return time.Date(2026, 4, 22, 12, 0, 0, 0, time.UTC) }

func mustDefine(t *testing.T) *Table {
	t.Helper()
	table, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func policy() *Policy {
	return &Policy{
		ReplayFailed: true, ComposeCooldown: 30 * time.Second, AttemptLife: 15 * time.Minute,
		Lease: 30 * time.Second, OutboxLease: time.Minute,
	}
}

func key() store.Key {
	return store.Key{App: "app", Channel: "msteams", User: "29:alice", Connection: "graph"}
}

// attemptIn is an ordinary attempt in a state, nil for none. Instance a holds it
// where a state is held.
func attemptIn(s store.State) *store.Attempt {
	if s == None {
		return nil
	}
	a := &store.Attempt{
		ID: "01J00000000000000000000001", Version: 7, State: s, Origin: store.OriginSignIn, Key: key(),
		Created: noon().Add(-time.Minute), Entered: noon().Add(-time.Second), Expires: noon().Add(14 * time.Minute),
		Lease:     store.Lease{Owner: "a", Fence: 3, Until: noon().Add(20 * time.Second)},
		TokenMark: []byte("token"), CodeMark: []byte("code"), Request: []byte("sealed"),
		Failure:      &store.Failure{Code: "before"},
		Conversation: store.Conversation{ID: "chat", ServiceURL: "https://old.example/"},
	}
	if s == Complete {
		a.Method = store.MethodSilent
	}
	if s == Failed {
		a.Reason = store.ReasonExpired
	}
	return a
}

func inputOf(a *store.Attempt, ev Event) *Input {
	return &Input{
		Attempt: a, Event: ev, Now: noon(), Policy: policy(), Instance: "a",
		NewID: "01J00000000000000000000002", Key: key(),
		Conversation: store.Conversation{ID: "chat", ServiceURL: "https://new.example/"},
	}
}

// variants are ways in which one pair can come along, drawn at random but always
// the same: every guard of the table holds in some of them and does not in
// others.
func variants(k Kind, s store.State) []*Input {
	const many = 300
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]*Input, many)
	for i := range out {
		out[i] = variant(r, k, s)
	}
	return out
}

func coin(r *rand.Rand) bool { return r.IntN(2) == 0 }

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func variant(r *rand.Rand, k Kind, s store.State) *Input {
	ev := Event{
		Kind: k, Invoke: oneOf(r, "", "signin/verifyState"), Activity: oneOf(r, "", "activity"), Platform: oneOf(r, "", "Web"),
		Via:        oneOf(r, "", "", store.OriginCompose, store.OriginCardAction),
		TokenMarks: oneOf(r, [][]byte{[]byte("token")}, [][]byte{[]byte("other")}), CodeMarks: oneOf(r, [][]byte{[]byte("code")}, [][]byte{[]byte("new"), []byte("other")}),
		Status: oneOf(r, 0, 401, 503), Code: oneOf(r, "resourcematchfailed", "userconsentrequired", "tokenmissing"), Consent: coin(r),
		Fence: oneOf[int64](r, 0, 2, 3), ExchangeID: oneOf(r, "", "x-2"), CardID: oneOf(r, "", "card-2"),
		SSO: coin(r), Withheld: coin(r), Only: coin(r), First: coin(r), Attributed: coin(r), Unclear: coin(r),
		Waited: oneOf(r, None, Exchanging, Verifying), For: oneOf(r, "another", "01J00000000000000000000001"), Asked: coin(r), Raced: coin(r), Another: coin(r),
		Request: oneOf(r, nil, []byte("more")), OldCard: coin(r), Foreign: coin(r), Stranger: coin(r),
	}
	in := inputOf(attemptIn(s), ev)
	in.Policy.ReplayFailed, in.Policy.RejectLate, in.Policy.FailOnClose = coin(r), coin(r), coin(r)
	in.Policy.CardOnLookupError, in.Policy.TellAllFailures, in.Policy.AcknowledgeFirst = coin(r), coin(r), coin(r)
	in.Policy.MaxCodeTries, in.Policy.ResendCooldown = oneOf(r, 0, 1, 3), oneOf(r, 0, time.Minute)
	in.Since = oneOf(r, time.Time{}, noon().Add(-5*time.Second))
	a := in.Attempt
	if a == nil {
		in.Ended = oneOf(r, nil, attemptIn(Failed))
		return in
	}
	a.Lease.Until, a.Expires = noon().Add(oneOf(r, -time.Second, 20*time.Second, 28*time.Second)), noon().Add(oneOf(r, -time.Second, time.Second))
	a.NoSSOUntil = noon().Add(oneOf(r, -time.Second, time.Second))
	a.CheckAt = noon().Add(oneOf(r, -time.Second, time.Second))
	a.Activity, a.SSOOffered, a.Rounds, a.VerifyTries = oneOf(r, "", "activity"), coin(r), r.IntN(2), r.IntN(3)
	a.AnswerStatus, a.AnswerCause, a.CodeStatus = oneOf(r, 0, 412), oneOf(r, 0, 400), oneOf(r, 0, 412)
	a.Origin = oneOf(r, store.OriginSignIn, store.OriginCompose)
	a.AnswerAt = noon().Add(-oneOf(r, time.Second, time.Minute))
	if s == Complete {
		a.Method = oneOf(r, store.MethodVerifyState, store.MethodTokenExchange)
	}
	if s == Failed {
		a.Reason = oneOf(r, store.ReasonExpired, store.ReasonSignedOut, store.ReasonUpstreamRejected, store.ReasonUpstreamUnavailable)
	}
	return in
}

// Every pair of state and event is in the table, or the step says so with a
// typed error. What it is given it leaves as it was.
func TestEveryPair(t *testing.T) {
	table := mustDefine(t)
	legal := map[[2]store.State]bool{}
	for _, a := range table.graph.arrows() {
		legal[[2]store.State{a.from, a.to}] = true
	}
	for _, s := range allStates() {
		for _, k := range kinds() {
			t.Run(stateName(s)+"/"+string(k), func(t *testing.T) {
				for _, in := range variants(k, s) {
					checkPair(t, table, legal, in)
				}
			})
		}
	}
}

func checkPair(t *testing.T, table *Table, legal map[[2]store.State]bool, in *Input) {
	t.Helper()
	before, policy := *in, *in.Policy
	if in.Attempt != nil {
		c := in.Attempt.Clone()
		before.Attempt = &c
	}
	if in.Ended != nil {
		c := in.Ended.Clone()
		before.Ended = &c
	}
	before.Policy = &policy
	d, err := table.Step(in)
	if !reflect.DeepEqual(&before, in) {
		t.Fatalf("the step changed what it was given:\n%s", cmp.Diff(&before, in))
	}
	if !table.Knows(in.Event.Kind, in.state()) {
		var illegal *IllegalTransitionError
		if !errors.As(err, &illegal) {
			t.Fatalf("the error is %v, want an *IllegalTransitionError", err)
		}
		if illegal.State != in.state() || illegal.Event != in.Event.Kind {
			t.Fatalf("the error names %s in %q, want %s in %q", illegal.Event, illegal.State, in.Event.Kind, in.state())
		}
		if !reflect.DeepEqual(Decision{}, d) {
			t.Fatalf("an illegal transition decided something: %+v", d)
		}
		return
	}
	if err != nil {
		t.Fatalf("the pair is in the table, but the step says %v", err)
	}
	checkFirst(t, table, in, &d)
	checkDecision(t, legal, in, &d)
	if d.Attempt != nil && in.Attempt != nil && d.Writes() {
		scribble(d.Attempt)
		for i := range d.Commit.Put {
			scribble(&d.Commit.Put[i])
		}
		if !reflect.DeepEqual(before.Attempt, in.Attempt) {
			t.Fatalf("row %s: the decision shares memory with what it was given", d.Rule.Row)
		}
	}
}

// scribble changes what a copy that is not deep would share.
func scribble(a *store.Attempt) {
	for _, b := range [][]byte{a.TokenMark, a.CodeMark, a.Request} {
		clear(b)
	}
	if a.Failure != nil {
		a.Failure.Code = "scribbled"
	}
}

// checkFirst: of the rules of the pair, the first whose guards hold was taken.
func checkFirst(t *testing.T, table *Table, in *Input, d *Decision) {
	t.Helper()
	meant := meanings()
	for _, r := range table.rules[pair{in.Event.Kind, in.state()}] {
		if !slices.ContainsFunc(r.If, func(g Guard) bool { return !meant[g](in) }) {
			if !reflect.DeepEqual(r.Rule, d.Rule) {
				t.Fatalf("row %s fits first, but row %s was taken", r.Row, d.Rule.Row)
			}
			return
		}
	}
	t.Fatalf("no rule fits, but row %s was taken", d.Rule.Row)
}

// checkDecision holds what is true of every decision: versions without a gap,
// legal edges, terminal attempts that stay what they are, a fence that never
// shrinks, and a live lease before an upstream is called.
func checkDecision(t *testing.T, legal map[[2]store.State]bool, in *Input, d *Decision) {
	t.Helper()
	for _, l := range d.Commit.Events {
		if l.From != l.To && !legal[[2]store.State{l.From, l.To}] {
			t.Errorf("row %s takes %q to %q, which is no edge", l.Row, l.From, l.To)
		}
		if l.Row != d.Rule.Row || !l.Time.Equal(in.Now) || l.Instance != in.Instance {
			t.Errorf("row %s has a line of row %s, %s, %s", d.Rule.Row, l.Row, l.Time, l.Instance)
		}
	}
	for i := range d.Commit.Put {
		a := &d.Commit.Put[i]
		switch {
		case in.Attempt == nil || a.ID != in.Attempt.ID:
			if a.Version != 1 || a.ID != in.NewID || a.Key != in.Key {
				t.Errorf("row %s opens %s of %v with version %d", d.Rule.Row, a.ID, a.Key, a.Version)
			}
		case a.Version != in.Attempt.Version+1:
			t.Errorf("row %s: version %d follows %d", d.Rule.Row, a.Version, in.Attempt.Version)
		case in.Attempt.State.Terminal() && (a.State != in.Attempt.State || a.Reason != in.Attempt.Reason || a.Method != in.Attempt.Method):
			t.Errorf("row %s leaves %s", d.Rule.Row, in.Attempt.State)
		case a.Lease.Fence < in.Attempt.Lease.Fence:
			t.Errorf("row %s: fence %d follows %d", d.Rule.Row, a.Lease.Fence, in.Attempt.Lease.Fence)
		}
		if calls := d.Rule.Then != Nothing && d.Rule.Then != Resume; calls && talks(a.State) && !a.Lease.Live(in.Now) {
			t.Errorf("row %s calls an upstream from %s without a live lease", d.Rule.Row, a.State)
		}
		if (a.State == Complete) != (a.Method != "") || (a.State == Failed) != (a.Reason != "") {
			t.Errorf("row %s: %s with method %q and reason %q", d.Rule.Row, a.State, a.Method, a.Reason)
		}
		checkTrail(t, in, d, a)
	}
	checkOwed(t, in, d)
}

func talks(s store.State) bool { return s == Exchanging || s == Verifying }

// checkTrail: the lines of an attempt lead from what it was to what it is.
func checkTrail(t *testing.T, in *Input, d *Decision, a *store.Attempt) {
	t.Helper()
	state := None
	if in.Attempt != nil && in.Attempt.ID == a.ID {
		state = in.Attempt.State
	}
	lines := 0
	for _, l := range d.Commit.Events {
		if l.Attempt != a.ID || l.Kind != store.EventTransition {
			continue
		}
		if l.From != state || l.Version != a.Version {
			t.Errorf("row %s: a line from %q, version %d, where the attempt is %q, version %d", d.Rule.Row, l.From, l.Version, state, a.Version)
		}
		state = l.To
		lines++
	}
	if lines == 0 || state != a.State {
		t.Errorf("row %s: the trail of %d lines ends at %q, the attempt is %s", d.Rule.Row, lines, state, a.State)
	}
}

// checkOwed: a callback is owed exactly where the rule says so, by a row that is
// numbered by its attempt.
func checkOwed(t *testing.T, in *Input, d *Decision) {
	t.Helper()
	owes := d.Tell != TellNothing && d.Tell != TellApp && d.Writes()
	switch {
	case owes != (d.Owed != nil), owes != (len(d.Commit.Deliveries) == 1):
		t.Errorf("row %s tells %q, and owes %v", d.Rule.Row, d.Tell, d.Commit.Deliveries)
	case !owes:
	case d.Owed.Attempt != d.Attempt.ID || d.Owed.Round != d.Attempt.Calls:
		t.Errorf("row %s owes %s, of %s with %d calls", d.Rule.Row, d.Owed.DeliveryKey, d.Attempt.ID, d.Attempt.Calls)
	case in.Attempt != nil && in.Attempt.ID == d.Attempt.ID && d.Attempt.Calls != in.Attempt.Calls+1:
		t.Errorf("row %s: %d calls follow %d", d.Rule.Row, d.Attempt.Calls, in.Attempt.Calls)
	}
}

// The pairs that are in no block are those that cannot come along: an answer
// about an attempt that is not there, a code that was spent on one that is not
// complete, a command of an operator for one that has ended.
func TestPairsThatCannotBe(t *testing.T) {
	table := mustDefine(t)
	var got []string
	for _, s := range allStates() {
		for _, k := range kinds() {
			if !table.Knows(k, s) {
				got = append(got, stateName(s)+": "+string(k))
			}
		}
	}
	want := strings.Split(strings.TrimSpace(`
(new): sweep
(new): reconcile
(new): cancel
(new): card accepted
(new): card rejected
(new): card unclear
(new): exchange ok
(new): exchange refused
(new): exchange failed
(new): code spent
(new): recovered
(new): not recovered
(new): recovery failed
Idle: code spent
CardSent: code spent
Exchanging: code spent
Verifying: code spent
Complete: cancel
Failed: cancel
Failed: code spent
`), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pairs without a rule (-want +got):\n%s", diff)
	}
}

// A record of a newer program is no reason to guess.
func TestUnknownState(t *testing.T) {
	table := mustDefine(t)
	a := attemptIn(CardSent)
	a.State = "Pondering"
	if _, err := table.Step(inputOf(a, Event{Kind: Sweep})); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("the step says %v, want store.ErrCorrupt", err)
	}
}

// Every rule is the one that is taken in some variant: none stands there in
// vain.
func TestEveryRuleIsTaken(t *testing.T) {
	table := mustDefine(t)
	taken := map[string]bool{}
	for _, s := range allStates() {
		for _, k := range kinds() {
			for _, in := range variants(k, s) {
				d, err := table.Step(in)
				if err != nil {
					continue
				}
				taken[ruleName(k, s, &d.Rule)] = true
			}
		}
	}
	for _, b := range Blocks() {
		for _, k := range b.On {
			for _, s := range b.In {
				for i := range b.Rules {
					if name := ruleName(k, s, &b.Rules[i]); !taken[name] {
						t.Errorf("never taken: %s", name)
					}
				}
			}
		}
	}
}

func ruleName(k Kind, s store.State, r *Rule) string {
	name := string(k) + " in " + stateName(s) + ": row " + r.Row
	for _, g := range r.If {
		name += ", " + string(g)
	}
	return name
}
