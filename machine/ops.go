package machine

import (
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// The ops of the table.
const (
	claim           Op = "claim"            // lease to this instance, fence + 1
	moveFence       Op = "move fence"       // whoever holds the lease loses it
	beginRound      Op = "begin round"      // a new exchange round with this token
	adoptID         Op = "adopt id"         // the exchange id of a card this store does not know
	keepAnswer      Op = "keep answer"      // the exchange's answer, for duplicates
	forgetAnswer    Op = "forget answer"    // nobody knows what was answered
	keepFailure     Op = "keep failure"     // what went wrong, for people
	outcomeRejected Op = "SSO rejected"     // sso_outcome
	outcomeClient   Op = "SSO failed"       // sso_outcome, with the client's code
	offerCard       Op = "offer card"       // exchange id and whether SSO is offered
	offerButton     Op = "offer button"     // a card without SSO
	keepCardID      Op = "keep card id"     // the activity id that the POST returned
	flagUnknown     Op = "delivery unknown" // the card's POST had no clear answer
	keepCode        Op = "keep code"        // the mark of the code that is on its way
	refuseCode      Op = "refuse code"      // the code's answer is 412
	keepCodeAnswer  Op = "keep code answer" // the code's answer, for duplicates
	countTry        Op = "count try"        // one more wrong code
	flagPopup       Op = "popup closed"     // the user closed the popup
	nextGeneration  Op = "next generation"  // one more sign-out
	dropOwed        Op = "drop owed"        // a completion not yet told is not told any more
	backOff         Op = "back off"         // release, recover later
	owe             Op = "owe"              // nothing but the callback's number
)

// firstCheck and lastCheck bound the back-off of a recovery (E8).
const (
	firstCheck = 5 * time.Second
	lastCheck  = 60 * time.Second
)

// ops does what the names say to the record that the rule is about.
func ops() map[Op]func(*Input, *store.Attempt) {
	return map[Op]func(*Input, *store.Attempt){
		claim: func(in *Input, a *store.Attempt) {
			a.Lease = store.Lease{Owner: in.Instance, Fence: a.Lease.Fence + 1, Until: in.Now.Add(in.Timeouts.Lease)}
		},
		moveFence: func(_ *Input, a *store.Attempt) { a.Lease.Fence++ },
		beginRound: func(in *Input, a *store.Attempt) {
			a.Rounds++
			a.TokenMark = in.Event.TokenMark
			a.AnswerStatus, a.AnswerDetail = 0, ""
		},
		adoptID: func(in *Input, a *store.Attempt) {
			a.ExchangeID, a.SSOOffered = in.Event.ExchangeID, true
		},
		keepAnswer: func(in *Input, a *store.Attempt) {
			a.AnswerStatus, a.AnswerDetail = in.Event.Status, in.Event.Detail
			if in.Event.Kind == ExchangeRefused {
				a.AnswerStatus = statusRefused
			}
		},
		forgetAnswer: func(_ *Input, a *store.Attempt) { a.AnswerStatus, a.AnswerDetail = 0, "" },
		keepFailure: func(in *Input, a *store.Attempt) {
			a.Failure = failureOf(&in.Event)
		},
		outcomeRejected: func(_ *Input, a *store.Attempt) { a.SSOOutcome = "rejected" },
		outcomeClient:   func(in *Input, a *store.Attempt) { a.SSOOutcome = "client_failed:" + in.Event.Code },
		offerCard: func(in *Input, a *store.Attempt) {
			a.ExchangeID, a.SSOOffered = in.Event.ExchangeID, in.Event.SSO
			a.CardConversation = in.Event.CardConversation
		},
		offerButton: func(in *Input, a *store.Attempt) {
			a.SSOOffered, a.CardConversation = false, in.Event.CardConversation
		},
		keepCardID: func(in *Input, a *store.Attempt) {
			if in.Event.CardID != "" {
				a.CardActivityID = in.Event.CardID
			}
		},
		flagUnknown:    func(_ *Input, a *store.Attempt) { a.DeliveryUnknown = true },
		keepCode:       func(in *Input, a *store.Attempt) { a.CodeMark, a.CodeStatus = in.Event.CodeMark, 0 },
		refuseCode:     func(_ *Input, a *store.Attempt) { a.CodeStatus = statusRefused },
		keepCodeAnswer: func(in *Input, a *store.Attempt) { a.CodeStatus = in.Event.Status },
		countTry:       func(_ *Input, a *store.Attempt) { a.VerifyTries++ },
		flagPopup:      func(_ *Input, a *store.Attempt) { a.PopupClosed = true },
		nextGeneration: func(_ *Input, a *store.Attempt) { a.Generation++ },
		dropOwed:       func(*Input, *store.Attempt) {}, // the rows lie in the outbox: see call.commit
		backOff: func(in *Input, a *store.Attempt) {
			a.Lease.Until = in.Now
			a.Checks++
			a.CheckAt = in.Now.Add(checkDelay(a.Checks))
			if a.CheckAt.After(a.Expires) && in.Now.Before(a.Expires) {
				a.CheckAt = a.Expires
			}
		},
		owe: func(*Input, *store.Attempt) {},
	}
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

func failureOf(ev *Event) *store.Failure {
	source := "token_service"
	switch ev.Kind { //nolint:exhaustive // the others come from the token service
	case ClientFailure:
		source = "client"
	case CardRejected, CardUnclear:
		source = "connector"
	}
	return &store.Failure{Source: source, Status: ev.Status, Code: ev.Code, Message: ev.Message}
}
