package machine

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// kinds are all events.
func kinds() []Kind {
	return []Kind{
		SignInAsked, TokenFound, NoToken, LookupFailed, ResourceCame, ResourceFailed,
		CardAccepted, CardRejected, CardUnclear,
		TokenExchange, ExchangeOK, ExchangeRefused, ExchangeFailed,
		VerifyState, VerifyOK, VerifyMiss, VerifyRefused, VerifyFailed, NoMatch, CodeSpent, PopupClosed,
		ClientFailure, SignOutAsked, SignedOut, SignOutError,
		Sweep, ReconcileAsk, Recovered, NotRecovered, RecoverFailed, CancelAsked,
	}
}

func mustDefine(t *testing.T) *definition {
	t.Helper()
	def, err := define(Table())
	if err != nil {
		t.Fatal(err)
	}
	return def
}

// attemptIn is an ordinary attempt in a state, nil for none.
func attemptIn(s store.State, now time.Time) *store.Attempt {
	if s == store.None {
		return nil
	}
	return &store.Attempt{
		ID: "01J00000000000000000000001", Version: 7, State: s, Origin: store.OriginSignIn,
		Key:     store.Key{App: "app", Channel: "msteams", User: "29:alice", Connection: "graph"},
		Created: now.Add(-time.Minute), Entered: now.Add(-time.Second), Expires: now.Add(14 * time.Minute),
		Lease: store.Lease{Owner: "a", Fence: 3, Until: now.Add(20 * time.Second)},
	}
}

func inputOf(a *store.Attempt, ev Event, now time.Time) *Input {
	policy, timeouts := DefaultPolicy(), DefaultTimeouts()
	return &Input{
		Attempt: a, Event: ev, Now: now, Policy: &policy, Timeouts: &timeouts, Instance: "a",
		NewID: "01J00000000000000000000002",
		Key:   store.Key{App: "app", Channel: "msteams", User: "29:alice", Connection: "graph"},
	}
}

// variants are the ways in which one pair can come along: every guard of the
// table holds in some of them and does not in others.
func variants(k Kind, s store.State, now time.Time) []*Input {
	var out []*Input
	for _, fence := range []int64{0, 2, 3} {
		for _, lease := range []time.Duration{-time.Second, 20 * time.Second} {
			for _, life := range []time.Duration{-time.Second, 14 * time.Minute} {
				for _, waited := range []store.State{store.None, store.Exchanging, store.Verifying} {
					for _, flag := range []bool{false, true} {
						a := attemptIn(s, now)
						ev := Event{
							Kind: k, Fence: fence, Waited: waited, Only: flag, First: flag, Attributed: flag,
							Unclear: flag, OldCard: flag, Foreign: flag, Withheld: flag,
						}
						if a != nil {
							a.Lease.Until, a.Expires = now.Add(lease), now.Add(life)
							a.SSOOffered = flag
							if flag {
								a.AnswerStatus, a.CodeStatus, ev.Status = statusRefused, statusRefused, 503
							}
							if s == store.Failed {
								a.Reason = store.ReasonExpired
								if flag {
									a.Reason = store.ReasonSignedOut
								}
							}
						}
						out = append(out, inputOf(a, ev, now))
					}
				}
			}
		}
	}
	return out
}

type edgeSet map[[2]store.State]bool

// Every pair of state and event is in the table, or the step says so with a
// typed error and leaves the attempt alone.
func TestEveryPair(t *testing.T) {
	def := mustDefine(t)
	legal := edgeSet{}
	for _, e := range Edges() {
		legal[[2]store.State{e.From, e.To}] = true
	}
	now := time.Date(2026, 4, 22, 3, 12, 0, 0, time.UTC)
	for _, s := range append([]store.State{store.None}, States()...) {
		for _, k := range kinds() {
			t.Run(fsmState(s)+"/"+string(k), func(t *testing.T) {
				for _, in := range variants(k, s, now) {
					checkPair(t, def, legal, in)
				}
			})
		}
	}
}

func checkPair(t *testing.T, def *definition, legal edgeSet, in *Input) {
	t.Helper()
	rules := def.byPair[pair{in.Event.Kind, in.state()}]
	var before *store.Attempt
	if in.Attempt != nil {
		c := in.Attempt.Clone()
		before = &c
	}
	d, err := def.step(in)
	if !reflect.DeepEqual(before, in.Attempt) {
		t.Fatalf("the step changed what it was given:\n%s", cmp.Diff(before, in.Attempt))
	}
	if err != nil {
		var illegal *IllegalTransitionError
		if !errors.As(err, &illegal) {
			t.Fatalf("error is %v, want an *IllegalTransitionError", err)
		}
		if illegal.State != in.state() || illegal.Event != in.Event.Kind {
			t.Fatalf("error names %s in %q, want %s in %q", illegal.Event, illegal.State, in.Event.Kind, in.state())
		}
		if !reflect.DeepEqual(Decision{}, d) {
			t.Fatalf("an illegal transition decided something: %+v", d)
		}
		for _, r := range rules {
			if r.holds(in) {
				t.Fatalf("rule %s fits, but the step says: %v", r.id, err)
			}
		}
		return
	}
	if len(rules) == 0 {
		t.Fatalf("no rule names this pair, but row %s was taken", d.Rule.Row)
	}
	checkDecision(t, legal, in, &d)
}

// checkDecision holds what every decision must: versions without a gap, legal
// edges, terminal attempts that stay what they are, and a lease that the
// claim moves on.
func checkDecision(t *testing.T, legal edgeSet, in *Input, d *Decision) {
	t.Helper()
	for _, l := range d.Lines {
		if l.From != l.To && !legal[[2]store.State{l.From, l.To}] {
			t.Errorf("row %s takes %q to %q, which is no edge", l.Row, l.From, l.To)
		}
	}
	for _, a := range d.Puts {
		switch {
		case in.Attempt == nil || a.ID != in.Attempt.ID:
			if a.Version != 1 {
				t.Errorf("row %s opens an attempt with version %d", d.Rule.Row, a.Version)
			}
		case a.Version != in.Attempt.Version+1:
			t.Errorf("row %s: version %d follows %d", d.Rule.Row, a.Version, in.Attempt.Version)
		case in.Attempt.State.Terminal() && a.State != in.Attempt.State:
			t.Errorf("row %s leaves %s", d.Rule.Row, in.Attempt.State)
		case a.Lease.Fence < in.Attempt.Lease.Fence:
			t.Errorf("row %s: fence %d follows %d", d.Rule.Row, a.Lease.Fence, in.Attempt.Lease.Fence)
		}
		if holdsUpstream(a.State) && !a.Lease.Live(in.Now) && d.Rule.Then != Nothing && d.Rule.Then != Resume {
			t.Errorf("row %s calls upstream from %s without a live lease", d.Rule.Row, a.State)
		}
	}
}

func holdsUpstream(s store.State) bool { return s == store.Exchanging || s == store.Verifying }
