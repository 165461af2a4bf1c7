package machinetest

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// policy sets members of the policy and the timeouts: policy late_invoke=reject.
func (w *world) policy(_ context.Context, c command) string {
	p := w.config.Policy
	for k, v := range c.opts {
		d, _ := time.ParseDuration(v)
		n, _ := strconv.Atoi(v)
		on := v == "true"
		switch k {
		case "duplicate_wait":
			p.DuplicateWait = d
		case "failed_duplicate":
			p.FailedDuplicate = machine.Choice(v)
		case "failure_fanout":
			p.FailureFanout = machine.Choice(v)
		case "late_invoke":
			p.LateInvoke = machine.Choice(v)
		case "resend_cooldown":
			p.ResendCooldown = d
		case "max_code_tries":
			p.MaxCodeTries = n
		case "on_silent_error":
			p.OnSilentError = machine.Choice(v)
		case "group_chat":
			p.GroupChat = machine.Choice(v)
		case "group_sso":
			p.GroupSSO = on
		case "success_body":
			p.SuccessBody = machine.Choice(v)
		case "popup_closed":
			p.PopupClosed = machine.Choice(v)
		case "combined_lookup":
			p.CombinedLookup = on
		case "callback_budget":
			p.CallbackBudget = d
		case "callback_mode":
			p.CallbackMode = machine.Choice(v)
		default:
			w.t.Fatalf("scenario: unknown policy %q", k)
		}
	}
	return ""
}

// upstream orders answers of the token service:
//
//	upstream exchange 500
//	upstream exchange 429 retry-after=2s
//	upstream GetToken silent
func (w *world) upstream(_ context.Context, c command) string {
	w.tokens.mu.Lock()
	defer w.tokens.mu.Unlock()
	for _, word := range c.words[1:] {
		w.tokens.scripts[c.word(0)] = append(w.tokens.scripts[c.word(0)], w.script(c, word))
	}
	return ""
}

// card orders answers of the connector to the next card.
func (w *world) card(_ context.Context, c command) string {
	w.conn.mu.Lock()
	defer w.conn.mu.Unlock()
	for _, word := range c.words {
		w.conn.next = append(w.conn.next, w.script(c, word))
	}
	return ""
}

func (w *world) script(c command, word string) script {
	s := script{}
	switch word {
	case "silent":
		s.silent = true
	case "empty":
		s.noToken = true
	default:
		n, err := strconv.Atoi(word)
		if err != nil {
			w.t.Fatalf("scenario: %q is no answer", word)
		}
		s.status = n
	}
	s.retryAfter, _ = time.ParseDuration(c.opt("retry-after", "0s"))
	return s
}

// hold stops the next call of an operation ("card" is the connector's) until
// it is released.
func (w *world) hold(_ context.Context, c command) string {
	gate := make(chan struct{})
	if c.word(0) == "card" {
		w.conn.mu.Lock()
		defer w.conn.mu.Unlock()
		w.conn.gate = gate
	} else {
		w.tokens.mu.Lock()
		defer w.tokens.mu.Unlock()
		w.tokens.gates[c.word(0)] = gate
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held(c.word(0), gate)
	return ""
}

func (w *world) held(name string, gate chan struct{}) {
	if w.gates == nil {
		w.gates = map[string]chan struct{}{}
	}
	w.gates[name] = gate
}

// release lets the held call go on.
func (w *world) release(_ context.Context, c command) string {
	w.mu.Lock()
	gate := w.gates[c.word(0)]
	delete(w.gates, c.word(0))
	w.mu.Unlock()
	if gate == nil {
		w.t.Fatalf("scenario: %s is not held", c.word(0))
	}
	close(gate)
	return ""
}

// faultStore is a store that is out of order on demand: "down" fails every
// call, "readonly" fails writes, "up" works.
type faultStore struct {
	store.Store
	reads, writes atomic.Bool
}

func (s *faultStore) set(how string) {
	s.reads.Store(how == "down")
	s.writes.Store(how == "down" || how == "readonly")
}

func (s *faultStore) fault(what *atomic.Bool) error {
	if what.Load() {
		return fmt.Errorf("fault: %w", store.ErrUnavailable)
	}
	return nil
}

func (s *faultStore) Apply(ctx context.Context, commits []store.Commit) []error {
	if err := s.fault(&s.writes); err != nil {
		errs := make([]error, len(commits))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	return s.Store.Apply(ctx, commits)
}

func (s *faultStore) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	if err := s.fault(&s.reads); err != nil {
		return store.Snapshot{}, err
	}
	return s.Store.Find(ctx, q)
}

func (s *faultStore) Get(ctx context.Context, id string) (store.Snapshot, error) {
	if err := s.fault(&s.reads); err != nil {
		return store.Snapshot{}, err
	}
	return s.Store.Get(ctx, id)
}

func (s *faultStore) Due(ctx context.Context, limit int, hold time.Duration) (store.Snapshot, error) {
	if err := s.fault(&s.reads); err != nil {
		return store.Snapshot{}, err
	}
	return s.Store.Due(ctx, limit, hold)
}

func (s *faultStore) Claim(ctx context.Context, owner string, limit int, hold time.Duration) ([]store.Delivery, error) {
	if err := s.fault(&s.writes); err != nil {
		return nil, err
	}
	return s.Store.Claim(ctx, owner, limit, hold)
}

func (s *faultStore) Info(ctx context.Context) (store.Info, error) {
	if err := s.fault(&s.reads); err != nil {
		return store.Info{}, err
	}
	return s.Store.Info(ctx)
}
