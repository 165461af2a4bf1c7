package table

import "github.com/signin-engine/signin-engine/store"

// Rows E6 to E9: the sweeper, the recovery after a crash, and the operator.
func sweepRules() []Block {
	return []Block{
		block(on(Sweep), in(Idle),
			Rule{
				Row:    "E6",
				If:     when(notHeld),
				Edge:   fail,
				Reason: store.ReasonAbandoned,
			},
			Rule{
				Row: "E6", // its owner is sending the card
			},
		),
		block(on(Sweep), in(CardSent),
			Rule{
				Row:    "E7",
				If:     when(pastExpiry),
				Edge:   fail,
				Reason: store.ReasonExpired,
			},
			Rule{
				Row: "E7", // it has not expired yet
			},
		),
		block(on(Sweep), in(Exchanging, Verifying),
			Rule{
				Row:  "E8",
				If:   when(notHeld, checkDue),
				Do:   do(claim),
				Then: Recover,
			},
			Rule{
				Row: "E8", // it has an owner, or its back-off is not over
			},
		),
		block(on(Sweep), in(Complete, Failed),
			Rule{
				Row: "E8", // it has ended in the meantime
			},
		),

		block(on(ReconcileAsk), in(Idle, CardSent),
			Rule{
				Row:   "E8",
				If:    when(asked),
				Reply: ReplyOK,
			},
			Rule{
				Row:   "E8",
				If:    when(held),
				Reply: ReplyElsewhere,
			},
			Rule{
				Row:  "E8",
				Then: Recover,
			},
		),
		block(on(ReconcileAsk), in(Exchanging, Verifying),
			Rule{
				Row:   "E8",
				If:    when(held),
				Reply: ReplyElsewhere,
			},
			Rule{
				Row:  "E8",
				Do:   do(claim),
				Then: Recover,
			},
		),
		block(on(ReconcileAsk), in(Complete, Failed),
			Rule{
				Row:   "E8",
				If:    when(asked),
				Reply: ReplyOK,
			},
			Rule{
				Row:   "E8",
				Reply: ReplyError,
			},
		),

		// There is a token: a call succeeded before the crash.
		block(on(Recovered), in(Exchanging, Verifying),
			Rule{
				Row:    "E8",
				Edge:   complete,
				Method: store.MethodRecovered,
				Then:   Resume,
				Tell:   TellDone,
			},
		),
		block(on(Recovered), in(Idle, CardSent),
			Rule{
				Row:    "E8/late",
				Edge:   complete,
				Method: store.MethodRecovered,
				Then:   Resume,
				Tell:   TellDone,
			},
		),
		block(on(Recovered), in(Complete),
			Rule{
				Row:  "E8/late",
				Then: Resume,
				Note: "already complete",
			},
		),
		block(on(Recovered), in(Failed),
			Rule{
				Row:  "E2/late",
				If:   when(signedOut),
				Then: Resume,
				Note: "signed out meanwhile",
			},
			Rule{
				Row:    "E8/late",
				Open:   OpensLinked,
				Origin: store.OriginAdopted,
				Edge:   complete,
				Method: store.MethodRecovered,
				Then:   Resume,
				Tell:   TellDone,
			},
		),

		// There is no token: the interrupted call did not succeed.
		block(on(NotRecovered), in(Exchanging, Verifying),
			Rule{
				Row:  "E8",
				If:   when(mine),
				Edge: back,
				Do:   do(forgetAnswer),
				Then: Resume,
			},
			Rule{
				Row:  "E8",
				Then: Resume,
				Note: "no token upstream",
			},
		),
		block(on(NotRecovered), in(Idle, CardSent, Complete, Failed),
			Rule{
				Row:  "E8",
				Then: Resume,
				Note: "no token upstream",
			},
		),

		// The Token Service gave no clear answer.
		block(on(RecoverFailed), in(Exchanging, Verifying),
			Rule{
				Row:    "E8",
				If:     when(mine, pastExpiry),
				Edge:   fail,
				Reason: store.ReasonUpstreamUnavailable,
				Do:     do(keepFailure, forgetAnswer),
				Reply:  ReplyStatus,
			},
			Rule{
				Row:   "E8",
				If:    when(mine),
				Do:    do(backOff, keepFailure),
				Reply: ReplyStatus,
			},
			Rule{
				Row:   "E8",
				Reply: ReplyStatus,
				Note:  "the token service gave no clear answer",
			},
		),
		block(on(RecoverFailed), in(Idle, CardSent, Complete, Failed),
			Rule{
				Row:   "E8",
				Reply: ReplyStatus,
				Note:  "the token service gave no clear answer",
			},
		),

		block(on(CancelAsked), in(Idle, CardSent, Exchanging, Verifying),
			Rule{
				Row:    "E9",
				Edge:   fail,
				Reason: store.ReasonOperator,
				Do:     do(moveFence),
			},
		),
	}
}
