package machine

import (
	"bytes"
	"net/http"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// The guards of the table.
const (
	leaseLive         Guard = "lease live"
	leaseOver         Guard = "lease over"
	pastExpiry        Guard = "past expiry"
	checkDue          Guard = "recovery due"
	mine              Guard = "claim is still mine"
	notMine           Guard = "claim is not mine"
	claimed           Guard = "made under a claim"
	waited            Guard = "has waited"
	notWaited         Guard = "has not waited"
	waitedForExchange Guard = "has waited for an exchange"
	waitedForVerify   Guard = "has waited for a verification"
	asked             Guard = "upstream was asked"
	raced             Guard = "others were faster"
	another           Guard = "another attempt took its place"
	withinCooldown    Guard = "within the cool-down"
	answered          Guard = "an answer is on record"
	codeAnswered      Guard = "an answer to the code is on record"
	sameToken         Guard = "same token"
	sameCode          Guard = "same code"
	byCode            Guard = "completed by a code"
	oldCard           Guard = "id of a superseded card"
	foreignCard       Guard = "id of another user's card"
	upstreamFailed    Guard = "failed upstream"
	signedOut         Guard = "signed out"
	statusRejects     Guard = "status rejects"
	noStatus          Guard = "no status"
	ssoOffered        Guard = "SSO offered"
	ssoWithheld       Guard = "no SSO in this conversation"
	noRound           Guard = "no exchange yet"
	endsSSO           Guard = "code ends the sign-in"
	only              Guard = "only candidate"
	first             Guard = "best candidate"
	attributed        Guard = "attributed"
	lastTry           Guard = "last try"
	codeTook          Guard = "upstream took the code"
	unclear           Guard = "an upstream failure hid the truth"
	policyNoop        Guard = "policy failed_duplicate: noop"
	policyReject      Guard = "policy late_invoke: reject"
	policyPopupFails  Guard = "policy popup_closed: fail"
	policyCardAnyway  Guard = "policy on_silent_error: card"
)

// guards says what the names mean. A guard of an attempt is never asked
// without one: the definition refuses such rules.
func guards() map[Guard]func(*Input) bool {
	return map[Guard]func(*Input) bool{
		leaseLive:  func(in *Input) bool { return in.Attempt.Lease.Live(in.Now) },
		leaseOver:  func(in *Input) bool { return !in.Attempt.Lease.Live(in.Now) },
		pastExpiry: func(in *Input) bool { return !in.Now.Before(in.Attempt.Expires) },
		checkDue:   func(in *Input) bool { return !in.Now.Before(in.Attempt.CheckAt) },

		mine:    func(in *Input) bool { return in.Event.Fence != 0 && in.Attempt.Lease.Fence == in.Event.Fence },
		notMine: func(in *Input) bool { return in.Event.Fence == 0 || in.Attempt.Lease.Fence != in.Event.Fence },
		claimed: func(in *Input) bool { return in.Event.Fence != 0 },

		waited:            func(in *Input) bool { return in.Event.Waited != store.None },
		notWaited:         func(in *Input) bool { return in.Event.Waited == store.None },
		waitedForExchange: func(in *Input) bool { return in.Event.Waited == store.Exchanging },
		waitedForVerify:   func(in *Input) bool { return in.Event.Waited == store.Verifying },

		asked:   func(in *Input) bool { return in.Event.Asked },
		raced:   func(in *Input) bool { return in.Event.Raced },
		another: func(in *Input) bool { return in.Event.Another },

		withinCooldown: func(in *Input) bool { return in.Now.Sub(in.Attempt.Entered) < cooldown(in) },

		answered:     func(in *Input) bool { return in.Attempt.AnswerStatus != 0 },
		codeAnswered: func(in *Input) bool { return in.Attempt.CodeStatus != 0 },
		sameToken:    func(in *Input) bool { return bytes.Equal(in.Attempt.TokenMark, in.Event.TokenMark) },
		sameCode:     func(in *Input) bool { return bytes.Equal(in.Attempt.CodeMark, in.Event.CodeMark) },
		byCode:       func(in *Input) bool { return in.Attempt.Method == store.MethodVerifyState },
		oldCard:      func(in *Input) bool { return in.Event.OldCard },
		foreignCard:  func(in *Input) bool { return in.Event.Foreign },

		upstreamFailed: func(in *Input) bool {
			return in.Attempt.Reason == store.ReasonUpstreamRejected || in.Attempt.Reason == store.ReasonUpstreamUnavailable
		},
		signedOut:     func(in *Input) bool { return in.Attempt.Reason == store.ReasonSignedOut },
		statusRejects: func(in *Input) bool { return rejects(in.Event.Status) },
		noStatus:      func(in *Input) bool { return in.Event.Status == 0 },

		ssoOffered:  func(in *Input) bool { return in.Attempt.SSOOffered },
		ssoWithheld: func(in *Input) bool { return in.Event.Withheld },
		noRound:     func(in *Input) bool { return in.Attempt.Rounds == 0 },
		endsSSO:     func(in *Input) bool { return !showsButton(in.Event.Code) },

		only:       func(in *Input) bool { return in.Event.Only },
		first:      func(in *Input) bool { return in.Event.First },
		attributed: func(in *Input) bool { return in.Event.Attributed },
		lastTry: func(in *Input) bool {
			return in.Policy.MaxCodeTries > 0 && in.Attempt.VerifyTries+1 >= in.Policy.MaxCodeTries
		},
		codeTook: func(in *Input) bool { return in.Event.Status == http.StatusOK },
		unclear:  func(in *Input) bool { return in.Event.Unclear },

		policyNoop:       func(in *Input) bool { return in.Policy.FailedDuplicate == Noop },
		policyReject:     func(in *Input) bool { return in.Policy.LateInvoke == Reject },
		policyPopupFails: func(in *Input) bool { return in.Policy.PopupClosed == Fail },
		policyCardAnyway: func(in *Input) bool { return in.Policy.OnSilentError == CardAnyway },
	}
}

// aboutEvent are the guards that do not look at the attempt, and so may stand
// in a rule for none.
func aboutEvent() map[Guard]bool {
	return map[Guard]bool{
		claimed: true, asked: true, raced: true, another: true, waited: true, notWaited: true, waitedForExchange: true, waitedForVerify: true,
		oldCard: true, foreignCard: true, statusRejects: true, noStatus: true, ssoWithheld: true, endsSSO: true,
		only: true, first: true, attributed: true, codeTook: true, unclear: true,
		policyNoop: true, policyReject: true, policyPopupFails: true, policyCardAnyway: true,
	}
}

func cooldown(in *Input) time.Duration {
	if in.Attempt.Origin == store.OriginCompose {
		return in.Policy.ComposeCooldown
	}
	return in.Policy.ResendCooldown
}

// rejects tells an upstream that said no from one that could not say.
func rejects(status int) bool {
	return status >= http.StatusBadRequest && status < http.StatusInternalServerError &&
		status != http.StatusTooManyRequests && status != http.StatusRequestTimeout
}

// showsButton reports whether the client goes on with the card's button after
// this failure code (D2). Of the nine codes of [S 004 §16] these four; an
// unknown code does not.
func showsButton(code string) bool {
	switch strings.ToLower(code) {
	case "installappfailed", "authrequestfailed", "userconsentrequired", "interactionrequired":
		return true
	default:
		return false
	}
}
