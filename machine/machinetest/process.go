package machinetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// errGone is the error of every call that a killed process still makes.
var errGone = errors.New("the process is gone")

// process connects one engine to the world. After a kill its engine may go on
// running, but has no effect any more. To the world that is a crash.
type process struct {
	mu    sync.Mutex
	dead  bool
	calls map[int]context.CancelCauseFunc // under way
	next  int
	gone  chan struct{} // closed when it is killed
}

func newProcess() *process {
	return &process{calls: map[int]context.CancelCauseFunc{}, gone: make(chan struct{})}
}

// kill ends the process at once and abandons its held calls.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return
	}
	p.dead = true
	close(p.gone)
	for _, cancel := range p.calls {
		cancel(errGone)
	}
}

func (p *process) killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// begin starts a call of a living process. Its context ends with the process. The
// caller has to run done.
func (p *process) begin(ctx context.Context) (bound context.Context, done func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return nil, nil, errGone
	}
	bound, cancel := context.WithCancelCause(ctx)
	n := p.next
	p.next++
	p.calls[n] = cancel
	return bound, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.calls, n)
		cancel(nil)
	}, nil
}

// unanswered returns why a call got no answer: its deadline, or the end of its
// process.
func unanswered(ctx context.Context) string {
	if errors.Is(context.Cause(ctx), errGone) {
		return "the caller is gone"
	}
	return "no answer"
}

// through makes one call of a process. An answer after the process's end is lost.
func through[T any](ctx context.Context, p *process, call func(context.Context) (T, error)) (T, error) {
	var none T
	bound, done, err := p.begin(ctx)
	if err != nil {
		return none, err
	}
	defer done()
	out, err := call(bound)
	if p.killed() {
		return none, errGone
	}
	return out, err
}

// processStore is the store as a process sees it.
type processStore struct {
	store.Store
	p *process
}

// lost is the store's error for a killed process.
func lost(err error) error {
	if errors.Is(err, errGone) {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

func (s processStore) Apply(ctx context.Context, commits []store.Commit) []error {
	errs, err := through(ctx, s.p, func(ctx context.Context) ([]error, error) { return s.Store.Apply(ctx, commits), nil })
	if err == nil {
		return errs
	}
	errs = make([]error, len(commits))
	for i := range errs {
		errs[i] = lost(err)
	}
	return errs
}

func (s processStore) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	out, err := through(ctx, s.p, func(ctx context.Context) (store.Snapshot, error) { return s.Store.Find(ctx, q) })
	return out, lost(err)
}

func (s processStore) Get(ctx context.Context, id string) (store.Snapshot, error) {
	out, err := through(ctx, s.p, func(ctx context.Context) (store.Snapshot, error) { return s.Store.Get(ctx, id) })
	return out, lost(err)
}

func (s processStore) Due(ctx context.Context, limit int, hold time.Duration) (store.Snapshot, error) {
	out, err := through(ctx, s.p, func(ctx context.Context) (store.Snapshot, error) { return s.Store.Due(ctx, limit, hold) })
	return out, lost(err)
}

func (s processStore) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	out, err := through(ctx, s.p, func(ctx context.Context) ([]store.Delivery, error) { return s.Store.Claim(ctx, q) })
	return out, lost(err)
}

func (s processStore) Changed(ctx context.Context, id string, version int64) error {
	_, err := through(ctx, s.p, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.Store.Changed(ctx, id, version)
	})
	return lost(err)
}

func (s processStore) List(ctx context.Context, f store.Filter) (store.Page, error) {
	out, err := through(ctx, s.p, func(ctx context.Context) (store.Page, error) { return s.Store.List(ctx, f) })
	return out, lost(err)
}

func (s processStore) Info(ctx context.Context) (store.Info, error) {
	out, err := through(ctx, s.p, s.Store.Info)
	return out, lost(err)
}

func (s processStore) Probe(ctx context.Context) error {
	_, err := through(ctx, s.p, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.Store.Probe(ctx) })
	return lost(err)
}

func (s processStore) Mark(ctx context.Context, name string) (store.Mark, error) {
	out, err := through(ctx, s.p, func(ctx context.Context) (store.Mark, error) { return s.Store.Mark(ctx, name) })
	return out, lost(err)
}

// Exclusive is the scenario's setting.
func (s processStore) Exclusive() bool { return store.IsExclusive(s.Store) }

// processTokens is the token service as a process sees it.
type processTokens struct {
	svc *TokenService
	p   *process
}

// unheard is the error of a token service call without an answer.
func unheard(op string, err error) error {
	if errors.Is(err, errGone) {
		return &tokensvc.Error{Op: op, Err: err}
	}
	return err
}

func (t processTokens) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	out, err := through(ctx, t.p, func(ctx context.Context) (tokensvc.Token, error) { return t.svc.GetToken(ctx, uc, code) })
	return out, unheard("GetToken", err)
}

func (t processTokens) GetSignInResource(ctx context.Context, st tokensvc.State) (tokensvc.SignInResource, error) {
	out, err := through(ctx, t.p, func(ctx context.Context) (tokensvc.SignInResource, error) {
		return t.svc.GetSignInResource(ctx, st)
	})
	return out, unheard("GetSignInResource", err)
}

func (t processTokens) GetTokenOrSignInResource(ctx context.Context, uc tokensvc.UserConnection, st tokensvc.State, code tokensvc.Secret) (*tokensvc.Token, *tokensvc.SignInResource, error) {
	var res *tokensvc.SignInResource
	tok, err := through(ctx, t.p, func(ctx context.Context) (*tokensvc.Token, error) {
		var tok *tokensvc.Token
		var err error
		tok, res, err = t.svc.GetTokenOrSignInResource(ctx, uc, st, code)
		return tok, err
	})
	if err != nil {
		return nil, nil, unheard("GetTokenOrSignInResource", err)
	}
	return tok, res, nil
}

func (t processTokens) Exchange(ctx context.Context, uc tokensvc.UserConnection, sso tokensvc.Secret) (tokensvc.Token, error) {
	out, err := through(ctx, t.p, func(ctx context.Context) (tokensvc.Token, error) { return t.svc.Exchange(ctx, uc, sso) })
	return out, unheard("Exchange", err)
}

func (t processTokens) SignOut(ctx context.Context, uc tokensvc.UserConnection) error {
	_, err := through(ctx, t.p, func(ctx context.Context) (struct{}, error) { return struct{}{}, t.svc.SignOut(ctx, uc) })
	return unheard("SignOut", err)
}

func (t processTokens) GetTokenStatus(ctx context.Context, userID, channelID string, include ...string) ([]tokensvc.TokenStatus, error) {
	out, err := through(ctx, t.p, func(ctx context.Context) ([]tokensvc.TokenStatus, error) {
		return t.svc.GetTokenStatus(ctx, userID, channelID, include...)
	})
	return out, unheard("GetTokenStatus", err)
}

// processConnector is the connector as a process sees it.
type processConnector struct {
	conn *Connector
	p    *process
}

func (c processConnector) Send(ctx context.Context, to store.Conversation, m machine.Message) (string, error) {
	return through(ctx, c.p, func(ctx context.Context) (string, error) { return c.conn.Send(ctx, to, m) })
}

func (c processConnector) Update(ctx context.Context, to store.Conversation, id string, m machine.Message) error {
	_, err := through(ctx, c.p, func(ctx context.Context) (struct{}, error) { return struct{}{}, c.conn.Update(ctx, to, id, m) })
	return err
}

func (c processConnector) CreateConversation(ctx context.Context, to store.Conversation) (string, error) {
	return through(ctx, c.p, func(ctx context.Context) (string, error) { return c.conn.CreateConversation(ctx, to) })
}
