package machine

import (
	"errors"
	"fmt"
	"time"
)

// Choice is one word of a policy.
type Choice string

// The words; product.md §4 lists which policy takes which.
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
)

// Policy is what a bot's owner may decide. Start from [DefaultPolicy]; every
// member is taken as it stands.
type Policy struct {
	DuplicateWait   time.Duration // how long a duplicate waits for the owner's answer; 0 = 200 at once
	FailedDuplicate Choice        // replay (the recorded answer) or noop (200)
	FailureFanout   Choice        // attributed or all: who hears a signin/failure
	LateInvoke      Choice        // adopt or reject: an exchange nobody waits for
	ResendCooldown  time.Duration // no second card within it; 0 = off
	MaxCodeTries    int           // wrong codes until the attempt fails; 0 = unlimited
	OnSilentError   Choice        // fail or card: GetToken answered neither 200 nor 404
	GroupChat       Choice        // in_place or one_to_one
	GroupSSO        bool          // offer SSO in group chats
	SuccessBody     Choice        // none or echo
	PopupClosed     Choice        // keep or fail
	ComposeCooldown time.Duration
	CombinedLookup  bool // GetTokenOrSignInResource instead of two calls
	CallbackBudget  time.Duration
	CallbackMode    Choice // at_least_once or at_most_once
}

// DefaultPolicy is the policy of product.md §4.
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
	}
}

// Validate names the first member with a value that it does not take, by its
// key in the configuration file.
func (p Policy) Validate() error {
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
	} {
		if c.got != c.want[0] && c.got != c.want[1] {
			return fmt.Errorf("policy.%s: %q is neither %q nor %q", c.key, c.got, c.want[0], c.want[1])
		}
	}
	switch {
	case p.DuplicateWait < 0:
		return errors.New("policy.duplicate_wait: must not be negative")
	case p.ResendCooldown < 0:
		return errors.New("policy.resend_cooldown: must not be negative")
	case p.ComposeCooldown <= 0:
		return errors.New("policy.compose_cooldown: must be positive")
	case p.CallbackBudget <= 0:
		return errors.New("policy.callback_budget: must be positive")
	case p.MaxCodeTries < 0:
		return errors.New("policy.max_code_tries: must not be negative")
	}
	return nil
}

// Timeouts are the engine's durations.
type Timeouts struct {
	Attempt     time.Duration // CardSent until it expires
	Upstream    time.Duration // one call to the Token Service or the connector
	Lease       time.Duration // a claim; longer than Upstream
	OutboxLease time.Duration // until a callback that was begun is begun again
	Sweep       time.Duration // between two looks of the sweeper
	Retention   time.Duration // ended attempts are kept
}

// DefaultTimeouts are those of product.md §4.
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

// Validate names the first duration that cannot work.
func (t Timeouts) Validate() error {
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
			return fmt.Errorf("timeouts.%s: must be positive", d.key)
		}
	}
	if t.Upstream >= t.Lease {
		return fmt.Errorf("timeouts.upstream: %s is not shorter than timeouts.lease (%s)", t.Upstream, t.Lease)
	}
	if t.Retention < minRetention {
		return fmt.Errorf("timeouts.retention: %s is shorter than %s, the time an exchange id must be recognised", t.Retention, minRetention)
	}
	return nil
}
