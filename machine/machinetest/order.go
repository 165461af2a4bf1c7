package machinetest

import (
	"context"
	"strconv"
	"time"

	"github.com/signin-engine/signin-engine/machine"
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
		case "identity_mismatch":
			p.IdentityMismatch = machine.Choice(v)
		case "group_card":
			p.GroupCard = machine.Choice(v)
		case "token_cache":
			p.TokenCache = d
		case "typed_codes":
			p.TypedCodes = on
		case "keep_request":
			p.KeepRequest = on
		case "combined_lookup":
			p.CombinedLookup = on
		case "callback_budget":
			p.CallbackBudget = d
		case "callback_mode":
			p.CallbackMode = machine.Choice(v)
		default:
			w.fail("unknown policy %q", k)
		}
	}
	return ""
}

// upstream scripts the next answers of the token service:
//
//	upstream exchange 500
//	upstream exchange 429 retry-after=2s
//	upstream GetToken silent
//	upstream exchange 400 code=consent_required consent=true
//	upstream GetToken stale       a token that has expired
//	upstream GetToken bearer code=invalid_client      the bot has no token
func (w *world) upstream(_ context.Context, c command) string {
	w.tokens.mu.Lock()
	defer w.tokens.mu.Unlock()
	for _, word := range c.words[1:] {
		w.tokens.scripts[c.word(0)] = append(w.tokens.scripts[c.word(0)], w.script(c, word))
	}
	return ""
}

// card scripts the connector's answers to the next cards, and chat those to the
// next 1:1 chats that are opened.
func (w *world) card(_ context.Context, c command) string {
	w.conn.mu.Lock()
	defer w.conn.mu.Unlock()
	for _, word := range c.words {
		if c.verb == "chat" {
			w.conn.chats = append(w.conn.chats, w.script(c, word))
			continue
		}
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
	case "stale":
		s.stale = true
	case "bearer":
		s.bearer, s.status = true, 401
	default:
		n, err := strconv.Atoi(word)
		if err != nil {
			w.fail("%q is no answer", word)
		}
		s.status = n
	}
	s.retryAfter, _ = time.ParseDuration(c.opt("retry-after", "0s"))
	s.code, s.consent = c.opt("code", ""), c.opt("consent", "") == "true"
	return s
}

// hold stops the next call of an operation ("card" is the connector's) until
// it is released. Named gates distinguish two calls of one operation: hold GetToken gate=first, release first.
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
	w.held(c.opt("gate", c.word(0)), gate)
	return ""
}

func (w *world) held(name string, gate chan struct{}) {
	if w.gates == nil {
		w.gates = map[string]chan struct{}{}
	}
	w.gates[name] = gate
}

// release lets the held call continue.
func (w *world) release(_ context.Context, c command) string {
	w.mu.Lock()
	gate := w.gates[c.word(0)]
	delete(w.gates, c.word(0))
	w.mu.Unlock()
	if gate == nil {
		w.fail("%s is not held", c.word(0))
	}
	close(gate)
	return ""
}
