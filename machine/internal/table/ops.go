package table

import (
	"net/http"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// The ops; deeds defines them.
const (
	claim     Op = "claim"      // lease to this instance, fence + 1
	moveFence Op = "move fence" // the lease's holder loses its claim

	offerCard   Op = "offer card"       // what the next card offers, and where it goes
	keepCardID  Op = "keep card id"     // the activity id that the card's POST returned
	keepRequest Op = "keep request"     // one more activity, which comes back after the sign-in
	flagUnknown Op = "delivery unknown" // the card's POST had no clear answer

	beginRound   Op = "begin round" // a new exchange round with this token
	adoptID      Op = "adopt id"    // the exchange id of a card that is not in this store
	keepAnswer   Op = "keep answer" // of the exchange, for duplicates
	forgetAnswer Op = "forget answer"

	keepFailure     Op = "keep failure" // for people to read
	keepDiagnosis   Op = "keep diagnosis"
	outcomeRejected Op = "SSO rejected" // sso_outcome
	outcomeClient   Op = "SSO failed"   // sso_outcome, with the client's code
	endSSO          Op = "end SSO"      // of a card whose user has signed out since
	withholdSSO     Op = "withhold SSO" // the next cards come without the resource

	keepCode       Op = "keep code"        // the mark of the code that is being redeemed
	refuseCode     Op = "refuse code"      // its answer is 412
	keepCodeAnswer Op = "keep code answer" // of the code, for duplicates
	countTry       Op = "count try"        // one more wrong code
	flagPopup      Op = "popup closed"

	nextGeneration Op = "next generation" // one more sign-out
	dropOwed       Op = "drop owed"       // drops a completion callback that has not been made
	backOff        Op = "back off"        // ends the lease and recovers later
	touch          Op = "touch"           // only what every write does
)

const (
	// firstCheck and lastCheck bound the back-off of a recovery (E8).
	firstCheck = 5 * time.Second
	lastCheck  = 60 * time.Second
	// withheldFor is how long cards are sent without the resource after Teams
	// failed to match it.
	withheldFor = 24 * time.Hour
)

// deeds returns what each op does to the rule's attempt.
func deeds() map[Op]func(*Input, *store.Attempt) {
	return map[Op]func(*Input, *store.Attempt){
		claim: func(in *Input, a *store.Attempt) {
			a.Lease = store.Lease{Owner: in.Instance, Fence: a.Lease.Fence + 1, Until: in.Now.Add(in.Policy.Lease)}
		},
		moveFence: func(_ *Input, a *store.Attempt) { a.Lease.Fence++ },

		offerCard: func(in *Input, a *store.Attempt) {
			a.SSOOffered = in.Event.SSO
			a.ExchangeID, a.ResourceURI = in.Event.ExchangeID, in.Event.ResourceURI
			a.CardConversation = in.Event.CardConversation
		},
		keepCardID: func(in *Input, a *store.Attempt) {
			if in.Event.CardID != "" {
				a.CardActivityID = in.Event.CardID
			}
		},
		keepRequest: func(in *Input, a *store.Attempt) { a.Request = in.Event.Request },
		flagUnknown: func(_ *Input, a *store.Attempt) { a.DeliveryUnknown = true },

		beginRound: func(in *Input, a *store.Attempt) {
			a.Rounds++
			a.TokenMark = newest(in.Event.TokenMarks)
			forget(a)
		},
		adoptID: func(in *Input, a *store.Attempt) {
			a.ExchangeID, a.SSOOffered = in.Event.ExchangeID, true
		},
		keepAnswer: func(in *Input, a *store.Attempt) {
			a.AnswerStatus, a.AnswerDetail = in.Event.Status, in.Event.Detail
			a.AnswerCause, a.AnswerAt = in.Event.Status, in.Now
			if in.Event.Kind == ExchangeRefused {
				a.AnswerStatus = http.StatusPreconditionFailed
			}
		},
		forgetAnswer: func(_ *Input, a *store.Attempt) { forget(a) },

		keepFailure:     func(in *Input, a *store.Attempt) { a.Failure = FailureOf(&in.Event) },
		keepDiagnosis:   func(in *Input, a *store.Attempt) { a.Diagnosis = in.Event.Diagnosis },
		outcomeRejected: func(_ *Input, a *store.Attempt) { a.SSOOutcome = "rejected" },
		outcomeClient:   func(in *Input, a *store.Attempt) { a.SSOOutcome = "client_failed:" + in.Event.Code },
		endSSO:          func(_ *Input, a *store.Attempt) { a.SSOOutcome = ssoSignedOut },
		withholdSSO:     func(in *Input, a *store.Attempt) { a.NoSSOUntil = in.Now.Add(withheldFor) },

		keepCode:       func(in *Input, a *store.Attempt) { a.CodeMark, a.CodeStatus = newest(in.Event.CodeMarks), 0 },
		refuseCode:     func(_ *Input, a *store.Attempt) { a.CodeStatus = http.StatusPreconditionFailed },
		keepCodeAnswer: func(in *Input, a *store.Attempt) { a.CodeStatus = in.Event.Status },
		countTry:       func(_ *Input, a *store.Attempt) { a.VerifyTries++ },
		flagPopup:      func(_ *Input, a *store.Attempt) { a.PopupClosed = true },

		nextGeneration: func(_ *Input, a *store.Attempt) { a.Generation++ },
		dropOwed:       func(*Input, *store.Attempt) {}, // part of the commit: see writer.change
		backOff: func(in *Input, a *store.Attempt) {
			a.Lease.Until = in.Now
			a.Checks++
			a.CheckAt = in.Now.Add(checkDelay(a.Checks))
			if a.CheckAt.After(a.Expires) && in.Now.Before(a.Expires) {
				a.CheckAt = a.Expires
			}
		},
		touch: func(*Input, *store.Attempt) {},
	}
}

// ssoSignedOut is the outcome of SSO on an attempt that had failed before its user
// signed out: its card signs nobody in silently any more.
const ssoSignedOut = "signed_out"

func forget(a *store.Attempt) {
	a.AnswerStatus, a.AnswerDetail, a.AnswerCause, a.AnswerAt = 0, "", 0, time.Time{}
}

// checkDelay is 5 s, 10 s, 20 s, 40 s, then 60 s.
func checkDelay(n int) time.Duration {
	d := firstCheck
	for range n - 1 {
		if d *= 2; d >= lastCheck {
			return lastCheck
		}
	}
	return d
}

// FailureOf returns the failure that an event reports.
func FailureOf(ev *Event) *store.Failure {
	f := &store.Failure{
		Source: ev.Source, Operation: ev.Operation, Status: ev.Status, Code: ev.Code, Message: ev.Message,
	}
	if ev.Cause != 0 {
		f.Status = ev.Cause
	}
	if ev.Consent {
		f.Kind = store.KindConsent
	}
	return f
}
