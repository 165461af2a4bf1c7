package machine_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// mutation is a small deliberate fault in an engine.
type mutation struct {
	name   string
	blocks func([]table.Block) []table.Block
	faults table.Overrides
	policy func(*machine.Policy)
	store  func(*gateStore) store.Store
	tokens func(machine.TokenService) machine.TokenService
	engine func(*machine.Engine)
	popup  func(*node) machine.Redeemer // in the place of the instance's
}

// mutationRuns is how many seeds a mutation may survive.
const mutationRuns = 3000

// TestSimulationFindsMutations proves that the simulation bites: it breaks the
// engine in one place at a time and has to notice.
func TestSimulationFindsMutations(t *testing.T) {
	for _, m := range mutations() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			blocks := table.Blocks()
			if m.blocks != nil {
				blocks = m.blocks(blocks)
			}
			faulty, err := table.Define(blocks, table.Events(), m.faults)
			if err != nil {
				t.Fatal(err)
			}
			for seed := uint64(1); seed <= mutationRuns; seed++ {
				if end := simulate(t, seed, *simSteps, &m, faulty, false); len(end.violations) > 0 {
					t.Logf("seed %d: invariant %s", seed, end.violations[0])
					return
				}
			}
			t.Errorf("not found in %d runs", mutationRuns)
		})
	}
}

func guard(g table.Guard, f func(*table.Input) bool) table.Overrides {
	return table.Overrides{Guards: map[table.Guard]func(*table.Input) bool{g: f}}
}

func op(o table.Op, f func(*table.Input, *store.Attempt)) table.Overrides {
	return table.Overrides{Ops: map[table.Op]func(*table.Input, *store.Attempt){o: f}}
}

// rules changes every rule of a row in the blocks about an event.
func rules(row string, kind table.Kind, change func(*table.Rule)) func([]table.Block) []table.Block {
	return func(blocks []table.Block) []table.Block {
		found := false
		for i := range blocks {
			if !slices.Contains(blocks[i].On, kind) {
				continue
			}
			for j := range blocks[i].Rules {
				if r := &blocks[i].Rules[j]; r.Row == row {
					change(r)
					found = true
				}
			}
		}
		if !found {
			panic("no rule of row " + row + " about " + string(kind))
		}
		return blocks
	}
}

// exchanges is a rule that exchanges once more.
func exchanges(r *table.Rule, open table.Opening) {
	r.Reply, r.Note = table.NoReply, ""
	r.Open, r.Origin, r.Edge = open, store.OriginAdopted, "exchange"
	r.Do, r.Then = []table.Op{"claim", "begin round"}, table.Exchange
}

func always(*table.Input) bool { return true }
func never(*table.Input) bool  { return false }

// claim is what the op of that name does.
func claim(in *table.Input, a *store.Attempt) {
	a.Lease = store.Lease{Owner: in.Instance, Fence: a.Lease.Fence + 1, Until: in.Now.Add(in.Policy.Lease)}
}

func mutations() []mutation {
	inStore := func(name string, f func(*gateStore) store.Store) mutation { return mutation{name: name, store: f} }
	inTable := func(name string, f func([]table.Block) []table.Block) mutation {
		return mutation{name: name, blocks: f}
	}
	inMeaning := func(name string, f table.Overrides) mutation { return mutation{name: name, faults: f} }
	inTokens := func(name string, f func(machine.TokenService) machine.TokenService) mutation {
		return mutation{name: name, tokens: f}
	}
	return []mutation{
		inMeaning("drop the fence check", guard("claim is still mine", always)),
		inMeaning("claim without moving the fence", op("claim", func(in *table.Input, a *store.Attempt) {
			fence := a.Lease.Fence
			claim(in, a)
			a.Lease.Fence = max(fence, 1)
		})),
		inMeaning("forget the lease", op("claim", func(in *table.Input, a *store.Attempt) {
			until := a.Lease.Until
			claim(in, a)
			a.Lease.Until = until
		})),
		inMeaning("take over from a live lease", guard("somebody is at it", never)),
		inMeaning("a lease never ends", guard("nobody is at it", never)),
		inMeaning("nothing expires", guard("past expiry", never)),
		inMeaning("everything expires at once", guard("past expiry", always)),
		inMeaning("a client's failure ends a card without SSO", guard("SSO offered", always)),
		inMeaning("a second card for a message that is repeated", guard("the activity that opened it", never)),
		inMeaning("a refusal is never repeated from the record", guard("answered less than 10 s ago", never)),
		inMeaning("a refusal is repeated from the record for good", guard("answered less than 10 s ago", always)),
		inMeaning("no answer is a refusal that counts", guard("refused with a status", always)),
		inMeaning("an answer to somebody else is an answer on record", guard("has waited for an exchange", always)),
		inMeaning("SSO is offered again at once", op("withhold SSO", func(*table.Input, *store.Attempt) {})),
		inMeaning("whoever is not here is told all the same", guard("no attempt here", never)),
		inMeaning("the last code but one ends it", guard("last try", always)),

		inTable("the sweeper forgets Idle", rules("E6", table.Sweep, func(r *table.Rule) { r.Edge, r.Reason = "", "" })),
		inTable("recover without asking upstream", rules("E8", table.Sweep, func(r *table.Rule) {
			if r.Then == table.Recover {
				r.Edge, r.Then = "back to the card", table.Nothing
			}
		})),
		inTable("throw a late success away", rules("B2/late", table.ExchangeOK, func(r *table.Rule) {
			if r.Open == table.OpensNone && r.Edge != "" {
				r.Edge, r.Method, r.Tell, r.Note = "", "", table.TellNothing, "lost the claim"
			}
		})),
		inTable("answer a refused exchange with 200", rules("B3", table.ExchangeRefused, func(r *table.Rule) { r.Reply = table.ReplyOK })),
		inTable("hide an upstream failure behind a 412", rules("B4", table.ExchangeFailed, func(r *table.Rule) { r.Reply = table.ReplyBody })),
		inTable("forget the complete callback", rules("B2", table.ExchangeOK, func(r *table.Rule) { r.Tell = table.TellNothing })),
		inTable("forget the failure callback", rules("B3", table.ExchangeRefused, func(r *table.Rule) { r.Tell = table.TellNothing })),
		inTable("exchange without a claim", rules("B1", table.TokenExchange, func(r *table.Rule) { r.Edge, r.Do = "", nil })),
		inTable("exchange again for a complete attempt", rules("B7", table.TokenExchange, func(r *table.Rule) { exchanges(r, table.OpensFresh) })),
		inTable("silent sign-in after a sign-out", rules("B15", table.TokenExchange, func(r *table.Rule) { exchanges(r, table.OpensLinked) })),
		inTable("an outage is a verdict on the token", rules("B10", table.TokenExchange, func(r *table.Rule) {
			*r = table.Rule{Row: r.Row, If: r.If, Reply: table.ReplyRecord, Note: "as before"}
		})),
		inTable("no second DELETE after a sign-out", rules("E2/late", table.ExchangeOK, func(r *table.Rule) { r.Then = table.Nothing })),
		inTable("sign out though the DELETE failed", signOutAnyway),
		inTable("the completion of one who signed out is still told", rules("E3", table.SignedOut, func(r *table.Rule) {
			r.Do = slices.DeleteFunc(r.Do, func(o table.Op) bool { return o == "drop owed" })
		})),
		inTable("answer 200 to a code nobody took", rules("C6", table.NoMatch, func(r *table.Rule) { r.Reply = table.ReplyOK })),
		inTable("a code goes to a connection that is complete", rules("C10b", table.VerifyState, func(r *table.Rule) {
			r.Do, r.Then, r.Reply, r.Note = []table.Op{"keep code"}, table.SpendCode, table.NoReply, ""
		})),
		inTable("the card is sent before its row", rules("A3", table.NoToken, func(r *table.Rule) { r.Then = table.PostCard })),
		inTable("a failure that is about no sign-in is told to its connection", rules("D6", table.ClientFailure, func(r *table.Rule) {
			if r.Tell == table.TellApp {
				r.Do, r.Tell, r.Note = []table.Op{"touch"}, table.TellValue, ""
			}
		})),

		{name: "acknowledge a callback before it ran", policy: func(p *machine.Policy) { p.CallbackMode = machine.AtMostOnce }},
		{name: "marks without the user", engine: func(e *machine.Engine) {
			e.MarksBy(func(kind string, _ store.UserKey, secret tokensvc.Secret) []byte {
				sum := sha256.Sum256([]byte(kind + secret.Reveal()))
				return sum[:16]
			})
		}},

		inStore("the outbox row in a second transaction", func(s *gateStore) store.Store { return &secondTransaction{s} }),
		inStore("answer before the commit", func(s *gateStore) store.Store { return &early{Store: s} }),
		inStore("the last writer wins", func(s *gateStore) store.Store { return &lastWriter{s} }),
		inStore("lose audit lines", func(s *gateStore) store.Store { return &lossy{s} }),
		inStore("a new key for every redelivery", func(s *gateStore) store.Store { return &renumbering{s} }),
		inStore("believe a foreign exchange id", func(s *gateStore) store.Store { return &believing{s} }),
		inStore("forget what superseded a card", func(s *gateStore) store.Store { return &forgetful{s} }),
		inStore("acknowledge whoever holds the row", unconditional),
		inStore("claim a row that is held", func(s *gateStore) store.Store {
			return &greedy{s, func(d *store.Delivery, _ []store.Delivery) bool { return d.Owner != "" }}
		}),
		inStore("claim a row before its turn", func(s *gateStore) store.Store {
			return &greedy{s, func(d *store.Delivery, all []store.Delivery) bool {
				return d.Owner == "" && !d.NextAt.After(time.Now()) && waits(d, all)
			}}
		}),
		inStore("claim all that is due", func(s *gateStore) store.Store { return &hoarding{s} }),
		inStore("try a callback for ever", func(s *gateStore) store.Store { return &tireless{s} }),
		inStore("forget that a sign-out drops", func(s *gateStore) store.Store {
			return &without{s, func(c *store.Commit) { c.Drop = nil }}
		}),
		inStore("run again what runs once", func(s *gateStore) store.Store {
			return &without{s, func(c *store.Commit) { c.Marks = nil }}
		}),
		inStore("match the card without its conversation", func(s *gateStore) store.Store { return &careless{s} }),
		inStore("keep the first service URL", func(s *gateStore) store.Store { return &rooted{s} }),

		{name: "M3: a code is used up in another transaction than its sign-in", popup: func(n *node) machine.Redeemer { return &spendsFirst{n.popup, n} }},
		{name: "M3: a code is good for whoever brings it", popup: func(n *node) machine.Redeemer { return &bearer{n.popup, n} }},
		{name: "M3: a code is good for ever", popup: ageless},

		inTokens("exchange twice under one claim", func(s machine.TokenService) machine.TokenService { return &twice{s} }),
		inTokens("send a code twice", func(s machine.TokenService) machine.TokenService { return &twiceCode{s} }),
		inTokens("the token in an error", func(s machine.TokenService) machine.TokenService { return &talkative{s} }),
		inTokens("a recovery that does not ask", func(s machine.TokenService) machine.TokenService { return &silent404{s} }),
		inTokens("a token that has expired is a token", func(s machine.TokenService) machine.TokenService { return &timeless{s} }),
	}
}

// signOutAnyway ends a sign-in though the token is still there.
func signOutAnyway(blocks []table.Block) []table.Block {
	waiting := []store.State{store.Idle, store.CardSent}
	i := slices.IndexFunc(blocks, func(b table.Block) bool { return slices.Contains(b.On, table.SignOutError) })
	blocks[i].In = slices.DeleteFunc(blocks[i].In, func(s store.State) bool { return slices.Contains(waiting, s) })
	return append(blocks, table.Block{On: blocks[i].On, In: waiting, Rules: []table.Rule{{
		Row: "E5", Edge: "fail", Reason: store.ReasonSignedOut, Do: []table.Op{"move fence"}, Reply: table.ReplyError,
	}}})
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

type renumbering struct{ store.Store }

func (s *renumbering) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	rows, err := s.Store.Claim(ctx, q)
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

// without leaves a part of every commit out.
type without struct {
	store.Store
	cut func(*store.Commit)
}

func (s *without) Apply(ctx context.Context, commits []store.Commit) []error {
	left := slices.Clone(commits)
	for i := range left {
		s.cut(&left[i])
	}
	return s.Store.Apply(ctx, left)
}

// owedRows are all rows of the outbox, as they lie in the shared store.
func owedRows(s *gateStore) []store.Delivery {
	page, err := s.Store.List(context.Background(), store.Filter{Limit: 1000})
	if err != nil {
		panic(err)
	}
	slices.SortFunc(page.Deliveries, func(a, b store.Delivery) int { return a.Compare(b.DeliveryKey) })
	return page.Deliveries
}

// unconditional writes acknowledgements without their compare-and-set.
func unconditional(s *gateStore) store.Store {
	s.falsify = func(commits []store.Commit) []store.Commit {
		left := slices.Clone(commits)
		rows := owedRows(s)
		for i := range left {
			left[i].Acks = slices.Clone(left[i].Acks)
			for j := range left[i].Acks {
				a := &left[i].Acks[j]
				if k := slices.IndexFunc(rows, func(d store.Delivery) bool { return d.DeliveryKey == a.DeliveryKey }); k >= 0 {
					a.By, a.Try = rows[k].Owner, rows[k].Tries
				}
			}
		}
		return left
	}
	return s
}

// greedy claims what nobody may claim, where it finds nothing else.
type greedy struct {
	*gateStore
	takes func(d *store.Delivery, all []store.Delivery) bool
}

func (s *greedy) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	rows, err := s.gateStore.Claim(ctx, q)
	if err != nil || len(rows) > 0 {
		return rows, err
	}
	all := owedRows(s.gateStore)
	for i := range all {
		d := &all[i]
		if d.Status != store.DeliveryPending || q.Attempt != "" && d.Attempt != q.Attempt || !s.takes(d, all) {
			continue
		}
		ack := store.Ack{Delivery: *d, By: d.Owner, Try: d.Tries}
		ack.Owner, ack.Tries, ack.NextAt = q.Owner, d.Tries+1, time.Now().Add(q.Hold)
		if err := s.Store.Apply(context.Background(), []store.Commit{{Acks: []store.Ack{ack}}})[0]; err != nil {
			panic(err)
		}
		return []store.Delivery{ack.Delivery}, nil
	}
	return nil, nil
}

// waits reports whether an earlier callback of the attempt is pending.
func waits(d *store.Delivery, all []store.Delivery) bool {
	return slices.ContainsFunc(all, func(o store.Delivery) bool {
		return o.Attempt == d.Attempt && o.Round < d.Round && o.Status == store.DeliveryPending
	})
}

// hoarding claims more than it can make.
type hoarding struct{ store.Store }

func (s *hoarding) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	q.Limit = 10
	return s.Store.Claim(ctx, q)
}

// tireless counts no more than five tries.
type tireless struct{ *gateStore }

func (s *tireless) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	rows, err := s.gateStore.Claim(ctx, q)
	for i := range rows {
		rows[i].Tries = min(rows[i].Tries, 5)
	}
	return rows, err
}

func (s *tireless) Apply(ctx context.Context, commits []store.Commit) []error {
	left := slices.Clone(commits)
	rows := owedRows(s.gateStore)
	for i := range left {
		left[i].Acks = slices.Clone(left[i].Acks)
		for j := range left[i].Acks {
			a := &left[i].Acks[j]
			k := slices.IndexFunc(rows, func(d store.Delivery) bool { return d.DeliveryKey == a.DeliveryKey })
			if k >= 0 && a.Try == 5 && rows[k].Tries > 5 {
				a.Tries += rows[k].Tries - a.Try
				a.Try = rows[k].Tries
			}
		}
	}
	return s.gateStore.Apply(ctx, left)
}

// careless takes an activity's id for a card's, whatever its conversation.
type careless struct{ *gateStore }

func (s *careless) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	snap, err := s.gateStore.Find(ctx, q)
	t := s.n.w.task(ctx)
	if t == nil || t.activity == nil || t.activity.ReplyToID == "" {
		return snap, err
	}
	snap.Attempts = slices.Clone(snap.Attempts) // the world has read what is true
	for i := range snap.Attempts {
		if a := &snap.Attempts[i]; a.CardActivityID == t.activity.ReplyToID {
			a.CardConversation = t.activity.Conversation.ID
		}
	}
	return snap, err
}

// rooted never learns that a service URL has moved.
type rooted struct{ *gateStore }

func (s *rooted) Apply(ctx context.Context, commits []store.Commit) []error {
	left := slices.Clone(commits)
	for i := range left {
		left[i].Put = slices.Clone(left[i].Put)
		for j := range left[i].Put {
			a := &left[i].Put[j]
			if old, err := s.Store.Get(context.Background(), a.ID); err == nil {
				a.Conversation.ServiceURL = old.Attempts[0].Conversation.ServiceURL
			}
		}
	}
	return s.gateStore.Apply(ctx, left)
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

// silent404 says that there is no token, without asking.
type silent404 struct{ machine.TokenService }

func (s *silent404) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	if code.Empty() && strings.HasSuffix(taskName(ctx), "sweep") {
		return tokensvc.Token{}, tokensvc.ErrNoToken
	}
	return s.TokenService.GetToken(ctx, uc, code)
}

// timeless drops what the service says of a token's end.
type timeless struct{ machine.TokenService }

func (s *timeless) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	tok, err := s.TokenService.GetToken(ctx, uc, code)
	tok.Expiration = time.Time{}
	return tok, err
}
