package machine

import (
	"errors"
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
)

// Choice is one word of a policy.
type Choice string

// The words. Each member of [Policy] says which it takes.
const (
	Replay      Choice = "replay"
	Noop        Choice = "noop"
	Attributed  Choice = "attributed"
	All         Choice = "all"
	Adopt       Choice = "adopt"
	Reject      Choice = "reject"
	Fail        Choice = "fail"
	CardAnyway  Choice = "card"
	InPlace     Choice = "in_place"
	OneToOne    Choice = "one_to_one"
	NoBody      Choice = "none"
	Echo        Choice = "echo"
	Keep        Choice = "keep"
	AtLeastOnce Choice = "at_least_once"
	AtMostOnce  Choice = "at_most_once"
	Targeted    Choice = "targeted"
	Everyone    Choice = "everyone"
	Audit       Choice = "audit"
)

// Policy has the choices of a bot's owner. Start from [DefaultPolicy]: a zero member
// means zero, not the default. The configuration file has the same names in snake case.
type Policy struct {
	// DuplicateWait is how long a duplicate waits for the answer of the first one.
	// Default 3 s; 0 answers 200 at once.
	DuplicateWait time.Duration
	// FailedDuplicate is the answer to a repeat of a refused exchange within ten
	// seconds: Replay (default), the recorded one, or Noop, 200.
	FailedDuplicate Choice
	// FailureFanout says whose handlers are called for a signin/failure: Attributed
	// (default), those of its connection, or All.
	FailureFanout Choice
	// LateInvoke says what happens to an exchange without an attempt: Adopt (default)
	// or Reject, 400.
	LateInvoke Choice
	// IdentityMismatch says what happens to an SSO token of another user than the
	// sender: Audit (default), an audit line, or Reject, 403.
	IdentityMismatch Choice
	// ResendCooldown is for how long no second card is sent to a conversation. Default 0,
	// off.
	ResendCooldown time.Duration
	// MaxCodeTries is how many wrong codes end an attempt. Default 0, unlimited.
	MaxCodeTries int
	// OnSilentError says what happens if the Token Service answers a look-up with
	// neither 200 nor 404: Fail (default) or CardAnyway.
	OnSilentError Choice
	// GroupChat says where a card of a group is sent: InPlace (default) or OneToOne,
	// the user's own chat with the bot.
	GroupChat Choice
	// GroupCard says who sees a card in a group: Targeted (default), the user who
	// asked, or Everyone.
	GroupCard Choice
	// GroupSSO offers SSO in group chats. Default true. Channels never have it.
	GroupSSO bool
	// SuccessBody is the body of an exchange answered 200: NoBody (default) or
	// Echo, id and connection name.
	SuccessBody Choice
	// PopupClosed says what a closed popup means: Keep (default), the card stays, or
	// Fail.
	PopupClosed Choice
	// ComposeCooldown is ResendCooldown for message extensions and card actions.
	// Default 30 s.
	ComposeCooldown time.Duration
	// CombinedLookup asks GetTokenOrSignInResource instead of two calls. Default
	// false.
	CombinedLookup bool
	// CallbackBudget is how long an invoke waits for its own callback. Default 5 s.
	CallbackBudget time.Duration
	// CallbackMode is AtLeastOnce (default) or AtMostOnce, for handlers that only
	// send a chat line.
	CallbackMode Choice
	// TypedCodes takes a message of six digits for a verification code while a
	// popup is pending. Default false.
	TypedCodes bool
	// TokenCache is how long a user's token from the Token Service is kept in memory,
	// at most until it expires. Sign-out and [Flow.TokenRejected] drop it, on every
	// instance that runs [Engine.Run]. Default 0, off.
	TokenCache time.Duration
	// KeepRequest keeps the activity with which the user asked, sealed, until the
	// attempt is deleted: [Turn.Request] returns it. What the user asks with a purpose
	// while the sign-in is pending ([WithPurpose]) is kept too. One of more than 256 KiB,
	// together with the earlier ones of its attempt, is not kept, which the log says.
	// Default true.
	KeepRequest bool
}

// DefaultPolicy is every default that [Policy] names.
func DefaultPolicy() Policy {
	return Policy{
		DuplicateWait:   3 * time.Second,
		FailedDuplicate: Replay,
		FailureFanout:   Attributed,
		LateInvoke:      Adopt,
		OnSilentError:   Fail,
		GroupChat:       InPlace,
		GroupSSO:        true,
		SuccessBody:     NoBody,
		PopupClosed:     Keep,
		ComposeCooldown: 30 * time.Second,
		CallbackBudget:  5 * time.Second,
		CallbackMode:    AtLeastOnce,

		IdentityMismatch: Audit,
		GroupCard:        Targeted,
		KeepRequest:      true,
	}
}

// Validate names each member with a value that it does not take, by its key in
// the configuration file, one a line.
func (p Policy) Validate() error {
	var errs []error
	for _, c := range []struct {
		key  string
		got  Choice
		want [2]Choice
	}{
		{"failed_duplicate", p.FailedDuplicate, [2]Choice{Replay, Noop}},
		{"failure_fanout", p.FailureFanout, [2]Choice{Attributed, All}},
		{"late_invoke", p.LateInvoke, [2]Choice{Adopt, Reject}},
		{"on_silent_error", p.OnSilentError, [2]Choice{Fail, CardAnyway}},
		{"group_chat", p.GroupChat, [2]Choice{InPlace, OneToOne}},
		{"success_body", p.SuccessBody, [2]Choice{NoBody, Echo}},
		{"popup_closed", p.PopupClosed, [2]Choice{Keep, Fail}},
		{"callback_mode", p.CallbackMode, [2]Choice{AtLeastOnce, AtMostOnce}},
		{"identity_mismatch", p.IdentityMismatch, [2]Choice{Audit, Reject}},
		{"group_card", p.GroupCard, [2]Choice{Targeted, Everyone}},
	} {
		if c.got != c.want[0] && c.got != c.want[1] {
			errs = append(errs, fmt.Errorf("policy.%s: %q is neither %q nor %q", c.key, c.got, c.want[0], c.want[1]))
		}
	}
	for _, c := range []struct {
		key   string
		wrong bool
		must  string
	}{
		{"duplicate_wait", p.DuplicateWait < 0, "must not be negative"},
		{"resend_cooldown", p.ResendCooldown < 0, "must not be negative"},
		{"token_cache", p.TokenCache < 0, "must not be negative"},
		{"compose_cooldown", p.ComposeCooldown <= 0, "must be positive"},
		{"callback_budget", p.CallbackBudget <= 0, "must be positive"},
		{"max_code_tries", p.MaxCodeTries < 0, "must not be negative"},
	} {
		if c.wrong {
			errs = append(errs, fmt.Errorf("policy.%s: %s", c.key, c.must))
		}
	}
	return errors.Join(errs...)
}

// within checks the policy against the timeouts that bound it.
func (p Policy) within(t Timeouts) error {
	if p.CallbackBudget >= t.OutboxLease-t.Upstream { // a sum could overflow
		return fmt.Errorf("timeouts.outbox_lease: %s is not longer than policy.callback_budget (%s) and timeouts.upstream (%s) together",
			t.OutboxLease, p.CallbackBudget, t.Upstream)
	}
	return nil
}

// rules is the part of the policy that the table uses.
func (p Policy) rules(t Timeouts) table.Policy {
	return table.Policy{
		ReplayFailed:      p.FailedDuplicate == Replay,
		RejectLate:        p.LateInvoke == Reject,
		FailOnClose:       p.PopupClosed == Fail,
		CardOnLookupError: p.OnSilentError == CardAnyway,
		TellAllFailures:   p.FailureFanout == All,
		AcknowledgeFirst:  p.CallbackMode == AtMostOnce,
		MaxCodeTries:      p.MaxCodeTries,
		ResendCooldown:    p.ResendCooldown,
		ComposeCooldown:   p.ComposeCooldown,
		AttemptLife:       t.Attempt,
		Lease:             t.Lease,
		OutboxLease:       t.OutboxLease,
	}
}

// Timeouts are the engine's durations.
type Timeouts struct {
	Attempt     time.Duration // until an attempt expires; default 15 min
	Upstream    time.Duration // one call to the Token Service or the connector; default 10 s
	Lease       time.Duration // a claim of an attempt, longer than Upstream; default 30 s
	OutboxLease time.Duration // a claim of a callback, longer than Upstream and the callback's budget; default 60 s
	Sweep       time.Duration // between two looks of the sweeper; default 5 s
	Retention   time.Duration // ended attempts are kept; default 720 h, at least 24 h
}

// DefaultTimeouts are the defaults that [Timeouts] names.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		Attempt:     15 * time.Minute,
		Upstream:    10 * time.Second,
		Lease:       30 * time.Second,
		OutboxLease: 60 * time.Second,
		Sweep:       5 * time.Second,
		Retention:   720 * time.Hour,
	}
}

// minRetention keeps exchange ids long enough to recognise a repeat (§2).
const minRetention = 24 * time.Hour

// Validate names each duration that cannot work, by its key in the configuration
// file, one a line.
func (t Timeouts) Validate() error {
	var errs []error
	for _, d := range []struct {
		key string
		d   time.Duration
	}{
		{"attempt", t.Attempt},
		{"upstream", t.Upstream},
		{"lease", t.Lease},
		{"outbox_lease", t.OutboxLease},
		{"sweep", t.Sweep},
		{"retention", t.Retention},
	} {
		if d.d <= 0 {
			errs = append(errs, fmt.Errorf("timeouts.%s: must be positive", d.key))
		}
	}
	if t.Lease > 0 && t.Upstream >= t.Lease {
		errs = append(errs, fmt.Errorf("timeouts.upstream: %s is not shorter than timeouts.lease (%s)", t.Upstream, t.Lease))
	}
	if t.Retention > 0 && t.Retention < minRetention {
		errs = append(errs, fmt.Errorf("timeouts.retention: %s is shorter than %s, the time an exchange id must be recognised", t.Retention, minRetention))
	}
	return errors.Join(errs...)
}
