package machine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// mutation is a small deliberate fault in an engine.
type mutation struct {
	name   string
	faults machine.Faults
	policy func(*machine.Policy)
	store  func(store.Store) store.Store
	tokens func(machine.TokenService) machine.TokenService
}

// mutationRuns is how many seeds a mutation may survive.
const mutationRuns = 3000

// TestSimulationFindsMutations proves that the simulation bites: it breaks the
// engine in one place at a time and has to notice.
func TestSimulationFindsMutations(t *testing.T) {
	for _, m := range mutations() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			def, err := machine.Define(m.faults)
			if err != nil {
				t.Fatal(err)
			}
			for seed := uint64(1); seed <= mutationRuns; seed++ {
				if out := simulate(t, seed, *simSteps, &m, def, false); len(out.violations) > 0 {
					t.Logf("seed %d: invariant %s", seed, out.violations[0])
					return
				}
			}
			t.Errorf("not found in %d runs", mutationRuns)
		})
	}
}

func guard(g machine.Guard, f func(*machine.Input) bool) machine.Faults {
	return machine.Faults{Guards: map[machine.Guard]func(*machine.Input) bool{g: f}}
}

func op(o machine.Op, f func(*machine.Input, *store.Attempt)) machine.Faults {
	return machine.Faults{Ops: map[machine.Op]func(*machine.Input, *store.Attempt){o: f}}
}

// rules changes every rule of a row (and, if given, of an event).
func rules(row string, kind machine.Kind, change func(*machine.Rule)) machine.Faults {
	return machine.Faults{Table: func(table []machine.Rule) []machine.Rule {
		for i := range table {
			if table[i].Row == row && (kind == "" || slices.Contains(table[i].On, kind)) {
				change(&table[i])
			}
		}
		return table
	}}
}

// without drops the rules of a row for an event.
func without(row string, kind machine.Kind) machine.Faults {
	return machine.Faults{Table: func(table []machine.Rule) []machine.Rule {
		return slices.DeleteFunc(table, func(r machine.Rule) bool {
			return r.Row == row && slices.Contains(r.On, kind)
		})
	}}
}

func always(*machine.Input) bool { return true }
func never(*machine.Input) bool  { return false }

func mutations() []mutation {
	claim := machine.OwnOp("claim")
	inStore := func(name string, f func(store.Store) store.Store) mutation { return mutation{name: name, store: f} }
	inTable := func(name string, f machine.Faults) mutation { return mutation{name: name, faults: f} }
	inTokens := func(name string, f func(machine.TokenService) machine.TokenService) mutation {
		return mutation{name: name, tokens: f}
	}
	return []mutation{
		inTable("drop the fence check", guard("claim is still mine", always)),
		inTable("claim without moving the fence", op("claim", func(in *machine.Input, a *store.Attempt) {
			fence := a.Lease.Fence
			claim(in, a)
			a.Lease.Fence = max(fence, 1)
		})),
		inTable("forget the lease", op("claim", func(in *machine.Input, a *store.Attempt) {
			until := a.Lease.Until
			claim(in, a)
			a.Lease.Until = until
		})),
		inTable("take over from a live lease", guard("lease live", never)),
		inTable("a lease never ends", guard("lease over", never)),
		inTable("nothing expires", guard("past expiry", never)),
		inTable("everything expires at once", guard("past expiry", always)),
		inTable("the sweeper forgets Idle", without("E6", machine.Sweep)),
		inTable("recover without asking upstream", rules("E8", machine.Sweep, func(r *machine.Rule) {
			if slices.Contains(r.From, store.Exchanging) {
				r.To, r.Do, r.Then = store.CardSent, []machine.Op{"claim"}, machine.Nothing
			}
		})),
		inTable("throw a late success away", machine.Faults{Table: func(table []machine.Rule) []machine.Rule {
			for i := range table {
				if r := &table[i]; r.Row == "B2/late" && r.To == store.Complete && r.Open == machine.OpensNone {
					r.To, r.Method, r.Call, r.Note = store.None, "", machine.NoCallback, "lost the claim"
				}
			}
			return table
		}}),
		inTable("answer a refused exchange with 200", rules("B3", machine.ExchangeRefused, func(r *machine.Rule) { r.Reply = machine.ReplyOK })),
		inTable("hide an upstream failure behind a 412", rules("B4", machine.ExchangeFailed, func(r *machine.Rule) { r.Reply = machine.ReplyBody })),
		inTable("forget the complete callback", rules("B2", machine.ExchangeOK, func(r *machine.Rule) { r.Call = machine.NoCallback })),
		inTable("forget the failure callback", rules("B3", machine.ExchangeRefused, func(r *machine.Rule) { r.Call = machine.NoCallback })),
		inTable("exchange without a claim", rules("B1", machine.TokenExchange, func(r *machine.Rule) { r.To, r.Do = store.None, nil })),
		inTable("exchange again for a complete attempt", machine.Faults{Table: func(table []machine.Rule) []machine.Rule {
			for i := range table {
				if r := &table[i]; r.Row == "B7" {
					r.Reply, r.Note = machine.NoReply, ""
					r.Open, r.Origin, r.To = machine.OpensFresh, store.OriginAdopted, store.Exchanging
					r.Do, r.Then = []machine.Op{"claim", "begin round"}, machine.Exchange
				}
			}
			return table
		}}),
		inTable("silent sign-in after a sign-out", rules("B15", machine.TokenExchange, func(r *machine.Rule) {
			r.Reply, r.Note = machine.NoReply, ""
			r.Open, r.Origin, r.To = machine.OpensLinked, store.OriginAdopted, store.Exchanging
			r.Do, r.Then = []machine.Op{"claim", "begin round"}, machine.Exchange
		})),
		inTable("no second DELETE after a sign-out", rules("E2/late", machine.ExchangeOK, func(r *machine.Rule) { r.Then = machine.Nothing })),
		inTable("sign out though the DELETE failed", machine.Faults{Table: func(table []machine.Rule) []machine.Rule {
			extra := machine.Rule{
				Row: "E5", On: []machine.Kind{machine.SignOutError}, From: []store.State{store.Idle, store.CardSent},
				To: store.Failed, Reason: store.ReasonSignedOut, Do: []machine.Op{"move fence"}, Reply: machine.ReplyError,
			}
			for i := range table {
				if table[i].Row == "E5" {
					table[i].From = slices.DeleteFunc(table[i].From, func(s store.State) bool { return slices.Contains(extra.From, s) })
				}
			}
			return append(table, extra)
		}}),
		inTable("a client's failure ends a card without SSO", guard("SSO offered", always)),
		inTable("answer 200 to a code nobody took", machine.Faults{Table: func(table []machine.Rule) []machine.Rule {
			for i := range table {
				if slices.Contains(table[i].On, machine.NoMatch) {
					table[i].Reply = machine.ReplyOK
				}
			}
			return table
		}}),
		{name: "acknowledge a callback before it ran", policy: func(p *machine.Policy) { p.CallbackMode = machine.AtMostOnce }},

		inStore("the outbox row in a second transaction", func(s store.Store) store.Store { return &secondTransaction{s} }),
		inStore("answer before the commit", func(s store.Store) store.Store { return &early{Store: s} }),
		inStore("the last writer wins", func(s store.Store) store.Store { return &lastWriter{s} }),
		inStore("lose audit lines", func(s store.Store) store.Store { return &lossy{s} }),
		inStore("callbacks out of order", func(s store.Store) store.Store { return &unordered{s} }),
		inStore("a new key for every redelivery", func(s store.Store) store.Store { return &renumbering{s} }),
		inStore("believe a foreign exchange id", func(s store.Store) store.Store { return &believing{s} }),
		inStore("forget what superseded a card", func(s store.Store) store.Store { return &forgetful{s} }),

		inTokens("exchange twice under one claim", func(s machine.TokenService) machine.TokenService { return &twice{s} }),
		inTokens("send a code twice", func(s machine.TokenService) machine.TokenService { return &twiceCode{s} }),
		inTokens("the token in an error", func(s machine.TokenService) machine.TokenService { return &talkative{s} }),
	}
}

// The faults of a store, between an engine and the shared one.

type secondTransaction struct{ store.Store }

func (s *secondTransaction) Apply(ctx context.Context, commits []store.Commit) []error {
	first := slices.Clone(commits)
	for i := range first {
		first[i].Deliveries = nil
	}
	errs := s.Store.Apply(ctx, first)
	for i := range commits {
		if errs[i] == nil && len(commits[i].Deliveries) > 0 {
			errs[i] = s.Store.Apply(ctx, []store.Commit{{Deliveries: commits[i].Deliveries}})[0]
		}
	}
	return errs
}

// early acknowledges a completion that is written with the next group only.
type early struct {
	store.Store
	held []store.Commit
}

func (s *early) Apply(ctx context.Context, commits []store.Commit) []error {
	now := s.held
	s.held = nil
	back := make([]int, 0, len(commits))
	errs := make([]error, len(commits))
	for i := range commits {
		if slices.ContainsFunc(commits[i].Put, func(a store.Attempt) bool { return a.State == store.Complete }) {
			s.held = append(s.held, commits[i])
			continue
		}
		back = append(back, i)
	}
	skip := len(now)
	for _, i := range back {
		now = append(now, commits[i])
	}
	if len(now) > 0 {
		for j, err := range s.Store.Apply(ctx, now)[skip:] {
			errs[back[j]] = err
		}
	}
	return errs
}

type lastWriter struct{ store.Store }

func (s *lastWriter) Apply(ctx context.Context, commits []store.Commit) []error {
	errs := s.Store.Apply(ctx, commits)
	for i := range commits {
		if !errors.Is(errs[i], store.ErrConflict) {
			continue
		}
		again := commits[i]
		again.Put = slices.Clone(again.Put)
		for j := range again.Put {
			if snap, err := s.Get(ctx, again.Put[j].ID); err == nil {
				again.Put[j].Version = snap.Attempts[0].Version + 1
			}
		}
		errs[i] = s.Store.Apply(ctx, []store.Commit{again})[0]
	}
	return errs
}

type lossy struct{ store.Store }

func (s *lossy) Apply(ctx context.Context, commits []store.Commit) []error {
	left := slices.Clone(commits)
	for i := range left {
		left[i].Events = slices.DeleteFunc(slices.Clone(left[i].Events), func(e store.Event) bool { return e.Row == "E7" })
	}
	return s.Store.Apply(ctx, left)
}

type unordered struct{ store.Store }

func (s *unordered) List(ctx context.Context, f store.Filter) (store.Page, error) {
	page, err := s.Store.List(ctx, f)
	page.Deliveries = nil
	return page, err
}

type renumbering struct{ store.Store }

func (s *renumbering) Claim(ctx context.Context, owner string, limit int, hold time.Duration) ([]store.Delivery, error) {
	rows, err := s.Store.Claim(ctx, owner, limit, hold)
	for i := range rows {
		rows[i].Round = 0
	}
	return rows, err
}

type believing struct{ store.Store }

func (s *believing) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	snap, err := s.Store.Find(ctx, q)
	if a := snap.ByExchangeID; a != nil && a.Key.User != q.User.User {
		a.Key.User = q.User.User
	}
	return snap, err
}

type forgetful struct{ store.Store }

func (s *forgetful) Apply(ctx context.Context, commits []store.Commit) []error {
	left := slices.Clone(commits)
	for i := range left {
		left[i].Put = slices.Clone(left[i].Put)
		for j := range left[i].Put {
			left[i].Put[j].SupersededBy = ""
		}
	}
	return s.Store.Apply(ctx, left)
}

// The faults of a client of the token service.

type twice struct{ machine.TokenService }

func (s *twice) Exchange(ctx context.Context, uc tokensvc.UserConnection, sso tokensvc.Secret) (tokensvc.Token, error) {
	tok, err := s.TokenService.Exchange(ctx, uc, sso)
	if err != nil {
		return s.TokenService.Exchange(ctx, uc, sso)
	}
	return tok, nil
}

type twiceCode struct{ machine.TokenService }

func (s *twiceCode) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	tok, err := s.TokenService.GetToken(ctx, uc, code)
	if err != nil && !code.Empty() {
		return s.TokenService.GetToken(ctx, uc, code)
	}
	return tok, err
}

type talkative struct{ machine.TokenService }

func (s *talkative) Exchange(ctx context.Context, uc tokensvc.UserConnection, sso tokensvc.Secret) (tokensvc.Token, error) {
	tok, err := s.TokenService.Exchange(ctx, uc, sso)
	var te *tokensvc.Error
	if errors.As(err, &te) {
		return tok, &tokensvc.Error{Op: te.Op, Status: te.Status, Code: strings.ToLower(sso.Reveal())}
	}
	return tok, err
}
