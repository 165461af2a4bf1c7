package machine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Every call that leaves an engine goes through a gate: its goroutine parks
// there until the scheduler picks it, so that one goroutine at a time goes on
// and the seed alone says which.

// place is the kind of a gate.
type place int

const (
	atRead  place = iota // Find, Get, List, Changed, Info
	atWrite              // Apply, Due, Claim
	atTokens
	atConnector
	atHook
	atCallback
)

// parked is a goroutine at a gate.
type parked struct {
	key    string // who is where: the same in every run of the seed
	at     place
	op     string
	node   *node
	resume chan verdict
	late   bool // its deadline is over: it gets no answer any more
	alone  bool // an Apply whose failure would wake several goroutines at one instant
}

// verdict is what the scheduler lets a call come to.
type verdict struct {
	kill   bool
	fault  fault
	status int // with failed: what the upstream says, 0 for no answer
}

type fault int

const (
	sound  fault = iota
	failed       // without an effect
	lost         // with its effect, but without an answer
)

// enter parks until the scheduler goes on with this goroutine. On an engine
// that was killed nothing ever goes on.
func (n *node) enter(ctx context.Context, at place, op, about string) verdict {
	v := n.park(ctx, &parked{at: at, op: op, key: n.name + " " + op + " " + about})
	if v.kill {
		runtime.Goexit()
	}
	return v
}

// errand tells what is read for a callback from what is read for the task in which
// that callback's turn has come: both may be under way at once.
func errand() string {
	var pcs [12]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "(*Engine).prepare") {
			return " for a callback"
		}
		if !more {
			return ""
		}
	}
}

func (n *node) park(ctx context.Context, p *parked) verdict {
	w := n.w
	w.mu.Lock()
	if n.dead {
		w.mu.Unlock()
		return verdict{kill: true}
	}
	if w.free {
		w.mu.Unlock()
		return verdict{}
	}
	p.node, p.resume = n, make(chan verdict, 1)
	w.parked = append(w.parked, p)
	w.mu.Unlock()
	var v verdict
	select {
	case v = <-p.resume:
	case <-ctx.Done():
		w.mu.Lock()
		p.late = true
		w.mu.Unlock()
		v = <-p.resume
	}
	return v
}

// gateStore is the shared store as one engine reaches it.
type gateStore struct {
	*memstore.Store
	n *node

	// falsify changes commits in the moment in which they are written: a mutation.
	falsify func([]store.Commit) []store.Commit
}

func (s *gateStore) unavailable() error {
	s.n.storeFaults++
	return fmt.Errorf("simulated: %w", store.ErrUnavailable)
}

// Apply passes the gate as one call, whoever's commits are in the group.
func (s *gateStore) Apply(ctx context.Context, commits []store.Commit) []error {
	completions := 0
	for i := range commits {
		for j := range commits[i].Put {
			if commits[i].Put[j].State == store.Complete {
				completions++
			}
		}
	}
	v := s.n.park(ctx, &parked{at: atWrite, op: "Apply", key: s.n.name + " Apply", alone: completions > 1})
	w := s.n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := make([]error, len(commits))
	if v.kill { // others wait for this group: they end at their next gate
		for i := range errs {
			errs[i] = store.ErrReadOnly
		}
		return errs
	}
	if v.fault != failed {
		if s.falsify != nil {
			commits = s.falsify(commits)
		}
		for i := range commits { // one after the other: the model sees what each was up against
			errs[i] = s.Store.Apply(context.WithoutCancel(ctx), commits[i:i+1])[0]
			if errs[i] == nil {
				w.model.observe(s.n, &commits[i])
			} else if errors.Is(errs[i], store.ErrInvalid) || errors.Is(errs[i], store.ErrNotFound) {
				w.violate("commit", "%v", errs[i])
			}
		}
	}
	if v.fault != sound {
		err := s.unavailable()
		for i := range errs {
			if v.fault == failed || errs[i] == nil {
				w.model.unanswered(&commits[i])
			}
			errs[i] = err
		}
	}
	return errs
}

func (s *gateStore) read(ctx context.Context, op, about string) error {
	v := s.n.enter(ctx, atRead, op, taskOf(ctx)+" "+about)
	if v.fault != sound {
		s.n.w.mu.Lock()
		defer s.n.w.mu.Unlock()
		return s.unavailable()
	}
	return nil
}

// Find is the engine's read.
func (s *gateStore) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	if err := s.read(ctx, "Find", q.Connection); err != nil {
		return store.Snapshot{}, err
	}
	snap, err := s.Store.Find(context.WithoutCancel(ctx), q)
	s.n.saw(ctx, &snap)
	if q.Connection == "" {
		s.n.surveyed(ctx, snap.Attempts)
	} else {
		s.n.passes(ctx, &snap)
	}
	return snap, err
}

// Get reads one attempt.
func (s *gateStore) Get(ctx context.Context, id string) (store.Snapshot, error) {
	if err := s.read(ctx, "Get", s.n.w.number(id)+errand()); err != nil {
		return store.Snapshot{}, err
	}
	snap, err := s.Store.Get(context.WithoutCancel(ctx), id)
	s.n.saw(ctx, &snap)
	s.n.passes(ctx, &snap)
	return snap, err
}

// List reads the outbox of an attempt.
func (s *gateStore) List(ctx context.Context, f store.Filter) (store.Page, error) {
	if err := s.read(ctx, "List", s.n.w.number(f.IDPrefix)); err != nil {
		return store.Page{}, err
	}
	return s.Store.List(context.WithoutCancel(ctx), f)
}

// Changed passes the gate and then waits like any other.
func (s *gateStore) Changed(ctx context.Context, id string, version int64) error {
	if err := s.read(ctx, "Changed", s.n.w.number(id)); err != nil {
		return err
	}
	return s.Store.Changed(ctx, id, version)
}

// Info proves that the store answers.
func (s *gateStore) Info(ctx context.Context) (store.Info, error) {
	if err := s.read(ctx, "Info", ""); err != nil {
		return store.Info{}, err
	}
	return s.Store.Info(context.WithoutCancel(ctx))
}

// Probe says whether a commit would work.
func (s *gateStore) Probe(ctx context.Context) error {
	if err := s.read(ctx, "Probe", ""); err != nil {
		return err
	}
	return s.Store.Probe(context.WithoutCancel(ctx))
}

// Mark reads what Once has noted.
func (s *gateStore) Mark(ctx context.Context, name string) (store.Mark, error) {
	if err := s.read(ctx, "Mark", s.n.w.renumber(name)); err != nil {
		return store.Mark{}, err
	}
	return s.Store.Mark(context.WithoutCancel(ctx), name)
}

// take is a call that reads and writes: its answer may be lost.
func (s *gateStore) take(ctx context.Context, op string, do func(context.Context)) error {
	v := s.n.enter(ctx, atWrite, op, taskOf(ctx))
	if v.fault != failed {
		do(context.WithoutCancel(ctx))
	}
	if v.fault != sound {
		s.n.w.mu.Lock()
		defer s.n.w.mu.Unlock()
		return s.unavailable()
	}
	return nil
}

// Due holds what is due.
func (s *gateStore) Due(ctx context.Context, limit int, hold time.Duration) (snap store.Snapshot, err error) {
	if gone := s.take(ctx, "Due", func(ctx context.Context) { snap, err = s.Store.Due(ctx, limit, hold) }); gone != nil {
		return store.Snapshot{}, gone
	}
	return snap, err
}

// Claim takes callbacks that are due.
func (s *gateStore) Claim(ctx context.Context, q store.ClaimQuery) (rows []store.Delivery, err error) {
	gone := s.take(ctx, "Claim", func(ctx context.Context) {
		rows, err = s.Store.Claim(ctx, q)
		s.n.w.mu.Lock()
		defer s.n.w.mu.Unlock()
		s.n.w.model.claimed(s.n, q, rows)
	})
	if gone != nil {
		return nil, gone
	}
	return rows, err
}

// gateTokens is the shared token service as one engine reaches it.
type gateTokens struct{ n *node }

// ask passes the gate, lets the twin do what is asked, and says what the
// engine is told: nil, or an error in the place of the answer.
func (s *gateTokens) ask(ctx context.Context, op string, uc tokensvc.UserConnection, do func(t *task) error) error {
	about := strings.TrimPrefix(uc.UserID, "29:") + "/" + uc.Connection + errand()
	t := s.n.w.task(ctx)
	if op == "Exchange" {
		s.n.w.beginExchange(t, uc)
	}
	v := s.n.enter(ctx, atTokens, op, taskOf(ctx)+" "+about)
	w := s.n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if v.fault == failed {
		return w.upstream(t, op, v.status)
	}
	err := do(t)
	if v.fault == lost {
		if op == "Exchange" || op == "GetToken+code" {
			t.regret()
		}
		return w.upstream(t, op, 0)
	}
	var te *tokensvc.Error
	if errors.As(err, &te) {
		t.answered(op, te.Status)
	}
	return err
}

// answered notes an upstream's answer that was no success.
func (t *task) answered(op string, status int) {
	t.statuses = append(t.statuses, status)
	if op == "Exchange" {
		t.refusals = append(t.refusals, status)
	}
}

// upstream is an answer that is none of the twin's. w.mu is held.
func (w *world) upstream(t *task, op string, status int) error {
	t.faults++
	if status == 404 && op != "Exchange" && op != "GetToken+code" {
		status = 500 // trouble is no lie about what the service holds
	}
	if op == "Exchange" || op == "GetToken" || op == "GetToken+code" && !t.spends {
		t.answered(op, status)
	}
	if op == "SignOut" {
		t.tried = true
	}
	t.claimed = t.claimed || op == "Exchange" && (status == 429 || status == 503) // it may ask again
	te := &tokensvc.Error{Op: op, Status: status}
	switch status {
	case 0:
		te.Err = context.DeadlineExceeded
	case 429, 503:
		te.RetryAfter = 2 * time.Second
	case 404:
		if op != "Exchange" {
			return fmt.Errorf("%s: %w", op, tokensvc.ErrNoToken)
		}
	}
	return te
}

// GetToken reads, or redeems a code.
func (s *gateTokens) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tok tokensvc.Token, err error) {
	op := "GetToken"
	if !code.Empty() {
		op = "GetToken+code"
		s.n.w.beginCode(s.n.w.task(ctx), uc, code.Reveal())
	}
	err = s.ask(ctx, op, uc, func(t *task) (err error) {
		tok, err = s.n.w.twin.getToken(t, uc, code.Reveal())
		return err
	})
	if err != nil {
		return tokensvc.Token{}, err
	}
	return tok, nil
}

// Exchange hands over an SSO token.
func (s *gateTokens) Exchange(ctx context.Context, uc tokensvc.UserConnection, sso tokensvc.Secret) (tok tokensvc.Token, err error) {
	err = s.ask(ctx, "Exchange", uc, func(t *task) (err error) {
		tok, err = s.n.w.twin.exchange(t, uc, sso.Reveal())
		return err
	})
	if err != nil {
		return tokensvc.Token{}, err
	}
	return tok, nil
}

// GetSignInResource makes a card's resource.
func (s *gateTokens) GetSignInResource(ctx context.Context, st tokensvc.State) (res tokensvc.SignInResource, err error) {
	uc := tokensvc.UserConnection{UserID: st.UserID, Connection: st.Connection}
	err = s.ask(ctx, "GetSignInResource", uc, func(*task) error {
		res = s.n.w.twin.resource(st.Connection)
		return nil
	})
	return res, err
}

// GetTokenOrSignInResource is GetToken and GetSignInResource in one.
func (s *gateTokens) GetTokenOrSignInResource(ctx context.Context, uc tokensvc.UserConnection, _ tokensvc.State, _ tokensvc.Secret) (tok *tokensvc.Token, res *tokensvc.SignInResource, err error) {
	err = s.ask(ctx, "GetTokenOrSignInResource", uc, func(t *task) error {
		if found, err := s.n.w.twin.getToken(t, uc, ""); err == nil {
			tok = &found
			return nil
		}
		made := s.n.w.twin.resource(uc.Connection)
		res = &made
		return nil
	})
	return tok, res, err
}

// SignOut deletes tokens.
func (s *gateTokens) SignOut(ctx context.Context, uc tokensvc.UserConnection) error {
	return s.ask(ctx, "SignOut", uc, func(t *task) error {
		s.n.w.twin.signOut(uc)
		t.deletes++
		return nil
	})
}

// GetTokenStatus is not asked by the engine's own code.
func (s *gateTokens) GetTokenStatus(context.Context, string, string, ...string) ([]tokensvc.TokenStatus, error) {
	return nil, nil
}

// gateMessenger is the connector as one engine reaches it.
type gateMessenger struct{ n *node }

type connectorError int

func (e connectorError) Error() string   { return fmt.Sprintf("connector: status %d", int(e)) }
func (e connectorError) HTTPStatus() int { return int(e) }

// Send shows a card to the user.
func (m *gateMessenger) Send(ctx context.Context, to store.Conversation, msg machine.Message) (string, error) {
	v := m.n.enter(ctx, atConnector, "Send", taskOf(ctx))
	w := m.n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	id := ""
	if t := w.task(ctx); msg.Card != nil {
		t.posts++
		w.announced(t, to, msg.Card)
		t.undelivered = v.fault == failed && (v.status == 412 || v.status == 429)
		if v.fault != failed {
			id = w.showCard(t, to, &msg)
		}
	}
	switch {
	case v.fault == sound:
		return id, nil
	case v.fault == lost || v.status == 0:
		w.task(ctx).faults++
		return "", fmt.Errorf("connector: %w", context.DeadlineExceeded)
	default:
		w.task(ctx).faults++
		return "", connectorError(v.status)
	}
}

// Update does nothing: cards stay as they are.
func (m *gateMessenger) Update(context.Context, store.Conversation, string, machine.Message) error {
	return nil
}

// CreateConversation opens the user's own chat.
func (m *gateMessenger) CreateConversation(ctx context.Context, to store.Conversation) (string, error) {
	v := m.n.enter(ctx, atConnector, "CreateConversation", taskOf(ctx))
	if v.fault != sound {
		m.n.w.task(ctx).faults++
		return "", connectorError(v.status)
	}
	return "1:1-" + to.UserID, nil
}
