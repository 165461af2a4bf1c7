package table

import (
	"net/http"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Guards about the claim.
const (
	held      Guard = "somebody is at it"      // the lease is live
	notHeld   Guard = "nobody is at it"        // the lease has ended
	mine      Guard = "claim is still mine"    // the call was made under the current claim
	claimed   Guard = "made under a claim"     // which may have been lost since
	raced     Guard = "others were faster"     // since the last upstream call
	another   Guard = "another took its place" // since the last upstream call
	waited    Guard = "has waited"
	notWaited Guard = "has not waited"
	// The event has waited for this attempt while it was in that state.
	waitedForExchange Guard = "has waited for an exchange"
	waitedForVerify   Guard = "has waited for a verification"
)

// Guards about time.
const (
	pastExpiry     Guard = "past expiry"
	checkDue       Guard = "recovery due" // its back-off is over (E8)
	asked          Guard = "the Token Service was asked"
	withinCooldown Guard = "within the cool-down"
	justNow        Guard = "answered less than 10 s ago"
)

// Guards about SignIn.
const (
	sameActivity Guard = "the activity that opened it"
	ssoWithheld  Guard = "no SSO on this card"
	answerIsCard Guard = "the answer is the card" // of a message extension or an Adaptive Card
	cardIsHere   Guard = "its card is here"       // where the user asks now
	ssoOutdated  Guard = "no SSO by now"          // but the card about to be sent still offers it
	nothingKept  Guard = "nothing more to keep"
)

// Guards about an exchange.
const (
	answered       Guard = "an answer is on record"
	refusedClearly Guard = "refused with a status" // the recorded answer stands on a 400, 404 or 412
	sameToken      Guard = "same token"
	oldCard        Guard = "id of a superseded card"
	foreignCard    Guard = "id of another user's card"
	byCode         Guard = "completed by a code"
	upstreamFailed Guard = "failed upstream"
	signedOut      Guard = "signed out"     // by its end, or since
	statusRejects  Guard = "status rejects" // the upstream refused, rather than failed
	noStatus       Guard = "no status"
)

// Guards about a verification code.
const (
	sameCode     Guard = "same code"
	codeAnswered Guard = "an answer to the code is on record"
	only         Guard = "only candidate"
	first        Guard = "best candidate"
	attributed   Guard = "attributed" // the reply is to its card, or it is the only candidate
	lastTry      Guard = "last try"   // max_code_tries
	unclear      Guard = "an upstream failure hid the truth"
)

// Guards about signin/failure.
const (
	ssoOffered Guard = "SSO offered"
	noRound    Guard = "no exchange yet"
	endsSSO    Guard = "code ends the sign-in" // the client shows no button
	noMatch    Guard = "resource does not match"
	stranger   Guard = "no attempt here" // of this user in this group or channel
)

// Guards about the policy.
const (
	policyNoop      Guard = "failed_duplicate: noop"
	policyReject    Guard = "late_invoke: reject"
	policyFail      Guard = "popup_closed: fail"
	policyCard      Guard = "on_silent_error: card"
	policyFanoutAll Guard = "failure_fanout: all"
)

// replayFor is how long a refused exchange is answered from the record (B9).
// After that the same token is tried again: consent may have been given.
const replayFor = 10 * time.Second

// meanings returns the condition of each guard.
func meanings() map[Guard]func(*Input) bool {
	return map[Guard]func(*Input) bool{
		held:    func(in *Input) bool { return in.held() },
		notHeld: func(in *Input) bool { return !in.held() },
		mine: func(in *Input) bool {
			return in.Event.Fence != 0 && in.Attempt.Lease.Fence == in.Event.Fence
		},
		claimed:           func(in *Input) bool { return in.Event.Fence != 0 },
		raced:             func(in *Input) bool { return in.Event.Raced },
		another:           func(in *Input) bool { return in.Event.Another },
		waited:            func(in *Input) bool { return in.Event.Waited != None },
		notWaited:         func(in *Input) bool { return in.Event.Waited == None },
		waitedForExchange: func(in *Input) bool { return in.waitedFor(Exchanging) },
		waitedForVerify:   func(in *Input) bool { return in.waitedFor(Verifying) },

		pastExpiry:     func(in *Input) bool { return !in.Now.Before(in.Attempt.Expires) },
		checkDue:       func(in *Input) bool { return !in.Now.Before(in.Attempt.CheckAt) },
		asked:          func(in *Input) bool { return in.Event.Asked },
		withinCooldown: func(in *Input) bool { return in.Now.Sub(in.Attempt.Entered) < cooldown(in) },
		justNow:        func(in *Input) bool { return in.Now.Sub(in.Attempt.AnswerAt) < replayFor },

		sameActivity: func(in *Input) bool {
			return in.Event.Activity != "" && in.Attempt.Activity == in.Event.Activity
		},
		nothingKept:  func(in *Input) bool { return in.Event.Request == nil },
		ssoWithheld:  func(in *Input) bool { return in.Event.Withheld },
		answerIsCard: func(in *Input) bool { return in.Event.Via != "" },
		cardIsHere:   func(in *Input) bool { return in.cardIsHere() },
		ssoOutdated:  func(in *Input) bool { return in.Event.SSO && in.Now.Before(in.Attempt.NoSSOUntil) },

		answered: func(in *Input) bool { return in.Attempt.AnswerStatus != 0 },
		refusedClearly: func(in *Input) bool {
			switch in.Attempt.AnswerCause {
			case http.StatusBadRequest, http.StatusNotFound, http.StatusPreconditionFailed:
				return true
			}
			return false
		},
		sameToken:   func(in *Input) bool { return Marked(in.Event.TokenMarks, in.Attempt.TokenMark) },
		oldCard:     func(in *Input) bool { return in.Event.OldCard },
		foreignCard: func(in *Input) bool { return in.Event.Foreign },
		byCode:      func(in *Input) bool { return in.Attempt.Method == store.MethodVerifyState },
		upstreamFailed: func(in *Input) bool {
			return FailedUpstream(in.Attempt.Reason)
		},
		signedOut: func(in *Input) bool {
			return HasSignedOut(in.Attempt) || in.Event.SignedOut
		},
		statusRejects: func(in *Input) bool { return rejects(in.Event.Status) },
		noStatus:      func(in *Input) bool { return in.Event.Status == 0 },

		sameCode:     func(in *Input) bool { return Marked(in.Event.CodeMarks, in.Attempt.CodeMark) },
		codeAnswered: func(in *Input) bool { return in.Attempt.CodeStatus != 0 },
		only:         func(in *Input) bool { return in.Event.Only },
		first:        func(in *Input) bool { return in.Event.First },
		attributed:   func(in *Input) bool { return in.Event.Attributed },
		lastTry: func(in *Input) bool {
			return in.Policy.MaxCodeTries > 0 && in.Attempt.VerifyTries+1 >= in.Policy.MaxCodeTries
		},
		unclear: func(in *Input) bool { return in.Event.Unclear },

		ssoOffered: func(in *Input) bool { return in.Attempt.SSOOffered },
		noRound:    func(in *Input) bool { return in.Attempt.Rounds == 0 },
		endsSSO:    func(in *Input) bool { return !showsButton(in.Event.Code) },
		noMatch:    func(in *Input) bool { return strings.EqualFold(in.Event.Code, "resourcematchfailed") },
		stranger:   func(in *Input) bool { return in.Event.Stranger },

		policyNoop:      func(in *Input) bool { return !in.Policy.ReplayFailed },
		policyReject:    func(in *Input) bool { return in.Policy.RejectLate },
		policyFail:      func(in *Input) bool { return in.Policy.FailOnClose },
		policyCard:      func(in *Input) bool { return in.Policy.CardOnLookupError },
		policyFanoutAll: func(in *Input) bool { return in.Policy.TellAllFailures },
	}
}

// aboutEvent reports whether a guard does not read the attempt. Only such guards
// are allowed in a block that includes the state None.
func aboutEvent(g Guard) bool {
	switch g {
	case claimed, raced, another, waited, notWaited, asked, ssoWithheld, answerIsCard, nothingKept,
		oldCard, foreignCard, statusRejects, noStatus, only, first, attributed, unclear, endsSSO, noMatch, stranger,
		policyNoop, policyReject, policyFail, policyCard, policyFanoutAll:
		return true
	default:
		return false
	}
}

// waitedFor reports whether the event has waited for this very attempt in state s.
// The answer recorded on another attempt would not be its own.
func (in *Input) waitedFor(s store.State) bool {
	return in.Event.Waited == s && in.Event.For == in.Attempt.ID
}

// cardIsHere reports whether the user sees the attempt's card where the event came
// from. The answer to a message extension or an Adaptive Card always has the link.
func (in *Input) cardIsHere() bool {
	a := in.Attempt
	switch {
	case in.Event.Via != "":
		return true
	case isAnswer(a.Origin):
		return false
	default:
		return a.CardConversation != "" || a.Conversation.ID == in.Conversation.ID
	}
}

// isAnswer reports whether an attempt of this origin has no card in a chat: the answer
// to the invoke is its card.
func isAnswer(o store.Origin) bool { return o == store.OriginCompose || o == store.OriginCardAction }

func cooldown(in *Input) time.Duration {
	if isAnswer(in.Attempt.Origin) {
		return in.Policy.ComposeCooldown
	}
	return in.Policy.ResendCooldown
}

// HasSignedOut reports whether a sign-out has ended the attempt, or has come after its
// failure.
func HasSignedOut(a *store.Attempt) bool {
	return a.Reason == store.ReasonSignedOut || a.SSOOutcome == ssoSignedOut
}

// FailedUpstream reports whether an attempt ended because an upstream failed. That
// is an outage and no verdict on a token.
func FailedUpstream(r store.Reason) bool {
	return r == store.ReasonUpstreamRejected || r == store.ReasonUpstreamUnavailable
}

// rejects reports whether an upstream refused the request, rather than failed.
func rejects(status int) bool {
	return status >= http.StatusBadRequest && status < http.StatusInternalServerError &&
		status != http.StatusTooManyRequests && status != http.StatusRequestTimeout
}

// showsButton reports whether the client shows the card's button after this
// failure code (D2). Of the codes that clients send, only these four do; an unknown
// code counts as one that does not.
func showsButton(code string) bool {
	switch strings.ToLower(code) {
	case "installappfailed", "authrequestfailed", "userconsentrequired", "interactionrequired":
		return true
	default:
		return false
	}
}
