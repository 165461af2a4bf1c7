package machine

import "github.com/signin-engine/signin-engine/store"

// The states, short, and the sets of them that the table uses.
const (
	none       = store.None
	idle       = store.Idle
	cardSent   = store.CardSent
	exchanging = store.Exchanging
	verifying  = store.Verifying
	complete   = store.Complete
	failed     = store.Failed
)

func on(k ...Kind) []Kind               { return k }
func in(s ...store.State) []store.State { return s }
func when(g ...Guard) []Guard           { return g }
func do(o ...Op) []Op                   { return o }

// Table is the transition table of state-machine.md §4. The rules of an event
// are tried from top to bottom; the first whose state and guards fit is taken.
// An event in a state that no rule names is an [IllegalTransitionError].
func Table() []Rule {
	return []Rule{
		// E7 comes first: whatever touches an attempt that is past its expiry ends it, then goes on.
		{Row: "E7", On: on(SignInAsked, TokenExchange, VerifyState, ClientFailure, PopupClosed), From: in(cardSent), If: when(pastExpiry), To: failed, Reason: store.ReasonExpired, Then: Again},
		{Row: "E7", On: on(Sweep), From: in(cardSent), If: when(pastExpiry), To: failed, Reason: store.ReasonExpired},

		// A. SignIn, called by the bot in a turn.
		{Row: "A12", On: on(SignInAsked), From: in(idle, exchanging, verifying), If: when(leaseLive, notWaited), Then: Wait},
		{Row: "A12", On: on(SignInAsked), From: in(idle, exchanging, verifying), If: when(leaseLive), Reply: ReplyWait, Note: "still at it"},
		{Row: "A12", On: on(SignInAsked), From: in(cardSent), If: when(waited), Reply: ReplyWait, Note: "the card is out"},
		{Row: "E8", On: on(SignInAsked), From: in(exchanging, verifying), Do: do(claim), Then: Recover},
		{Row: "A1", On: on(SignInAsked), From: in(none, complete, failed), Then: AskToken},
		{Row: "A2", On: on(SignInAsked), From: in(idle, cardSent), Then: AskToken},

		{Row: "A2", On: on(TokenFound), From: in(idle, cardSent), To: complete, Method: store.MethodSilent, Reply: ReplyToken, Call: TellNobody},
		{Row: "A1", On: on(TokenFound), From: in(none, complete, failed, exchanging, verifying), Reply: ReplyToken},

		{Row: "A4", On: on(LookupFailed), From: in(none, idle, cardSent, exchanging, verifying, complete, failed), If: when(policyCardAnyway), Then: Again, As: NoToken, Note: "no clear answer: on to the card"},
		{Row: "A4", On: on(LookupFailed), From: in(none, idle, cardSent, exchanging, verifying, complete, failed), Reply: ReplyError, Note: "no card: the token service gave no clear answer"},

		{Row: "A3", On: on(NoToken), From: in(none), Open: OpensFresh, Origin: store.OriginSignIn, To: idle, Do: do(claim), Then: AskResource},
		{Row: "A15", On: on(NoToken), From: in(complete), If: when(another), Then: AskToken, Note: "another SignIn was faster, and is complete"},
		{Row: "A13", On: on(NoToken), From: in(complete, failed), Open: OpensFresh, Origin: store.OriginSignIn, To: idle, Do: do(claim), Then: AskResource},
		{Row: "A15", On: on(NoToken), From: in(idle, cardSent), If: when(another), Reply: ReplyWait, Note: "another SignIn was faster: no second card"},
		{Row: "A10", On: on(NoToken), From: in(cardSent), If: when(withinCooldown), Reply: ReplyWait, Note: "within the cool-down: no second card"},
		{Row: "A11", On: on(NoToken), From: in(cardSent), Open: OpensInstead, Origin: store.OriginSignIn, To: idle, Do: do(claim), Then: AskResource},
		{Row: "A15", On: on(NoToken), From: in(idle), If: when(leaseLive), Reply: ReplyWait, Note: "another SignIn is sending the card"},
		{Row: "A12b", On: on(NoToken), From: in(idle), Open: OpensInstead, Origin: store.OriginSignIn, To: idle, Do: do(claim), Then: AskResource},
		{Row: "A12", On: on(NoToken), From: in(exchanging, verifying), Reply: ReplyWait, Note: "an invoke came meanwhile"},

		{Row: "A14", On: on(ResourceCame), From: in(idle), If: when(mine, ssoWithheld), Do: do(offerButton), Then: PostCard},
		{Row: "A3", On: on(ResourceCame), From: in(idle), If: when(mine), Do: do(offerCard), Then: PostCard},
		{Row: "A15", On: on(ResourceCame), From: in(idle, cardSent, exchanging, verifying, complete, failed), Reply: ReplyWait, Note: "overtaken: no card"},
		{Row: "A5", On: on(ResourceFailed), From: in(idle), If: when(mine), To: failed, Reason: store.ReasonCardRejected, Do: do(keepFailure), Reply: ReplyError},
		{Row: "A5", On: on(ResourceFailed), From: in(idle, cardSent, exchanging, verifying, complete, failed), Reply: ReplyError, Note: "overtaken"},

		{Row: "A6", On: on(CardAccepted), From: in(idle), To: cardSent, Do: do(keepCardID), Reply: ReplyWait},
		{Row: "A9", On: on(CardAccepted), From: in(cardSent, exchanging, verifying, complete, failed), Do: do(keepCardID), Reply: ReplyWait},
		{Row: "A7", On: on(CardRejected), From: in(idle), To: failed, Reason: store.ReasonCardRejected, Do: do(keepFailure), Reply: ReplyError},
		{Row: "A8", On: on(CardUnclear), From: in(idle), To: cardSent, Do: do(flagUnknown, keepFailure), Reply: ReplyWait},
		{Row: "A9", On: on(CardRejected, CardUnclear), From: in(cardSent, exchanging, verifying, complete, failed), Reply: ReplyWait, Note: "an invoke overtook the card's answer"},

		// B. signin/tokenExchange.
		{Row: "B6", On: on(TokenExchange), From: in(exchanging), If: when(leaseLive, notWaited), Then: Wait},
		{Row: "B6", On: on(TokenExchange), From: in(exchanging), If: when(leaseLive), Reply: ReplyOK, Note: "duplicate: the owner is still at it"},
		{Row: "B6", On: on(TokenExchange), From: in(cardSent, failed), If: when(waitedForExchange, answered), Reply: ReplyRecord, Note: "duplicate: as the owner answered"},
		{Row: "B6b", On: on(TokenExchange), From: in(exchanging), Do: do(claim, beginRound), Then: Exchange},
		{Row: "B12", On: on(TokenExchange), From: in(complete), If: when(oldCard), Reply: ReplyOK, Note: "a superseded card of a chain that is complete"},
		{Row: "B11", On: on(TokenExchange), From: in(complete), If: when(byCode), Reply: ReplyOK, Note: "late: signed in with a code"},
		{Row: "B7", On: on(TokenExchange), From: in(complete), Reply: ReplyOK, Note: "duplicate of a finished exchange"},
		{Row: "B19", On: on(TokenExchange), From: in(verifying), If: when(leaseLive, notWaited), Then: Wait},
		{Row: "E8", On: on(TokenExchange), From: in(verifying), If: when(leaseOver), Do: do(claim), Then: Recover},
		{Row: "B19", On: on(TokenExchange), From: in(verifying), To: exchanging, Do: do(claim, beginRound), Then: Exchange},
		{Row: "B9", On: on(TokenExchange), From: in(cardSent), If: when(answered, sameToken, policyNoop), Reply: ReplyOK, Note: "duplicate of a refused exchange"},
		{Row: "B9", On: on(TokenExchange), From: in(cardSent), If: when(answered, sameToken), Reply: ReplyRecord, Note: "duplicate of a refused exchange"},
		{Row: "B9", On: on(TokenExchange), From: in(failed), If: when(upstreamFailed, answered, sameToken, policyNoop), Reply: ReplyOK, Note: "duplicate of a failed exchange"},
		{Row: "B9", On: on(TokenExchange), From: in(failed), If: when(upstreamFailed, answered, sameToken), Reply: ReplyRecord, Note: "duplicate of a failed exchange"},
		{Row: "B8", On: on(TokenExchange), From: in(cardSent), If: when(answered), To: exchanging, Do: do(claim, beginRound), Then: Exchange},
		{Row: "B13", On: on(TokenExchange), From: in(idle, cardSent), If: when(oldCard), To: exchanging, Do: do(claim, beginRound), Then: Exchange},
		{Row: "A9", On: on(TokenExchange), From: in(idle), To: exchanging, Do: do(claim, beginRound), Then: Exchange},
		{Row: "B1", On: on(TokenExchange), From: in(cardSent), To: exchanging, Do: do(claim, beginRound), Then: Exchange},
		{Row: "B15", On: on(TokenExchange), From: in(failed), If: when(signedOut), Reply: ReplyOK, Note: "no silent sign-in after a sign-out"},
		{Row: "B10", On: on(TokenExchange), From: in(failed), If: when(upstreamFailed), Open: OpensLinked, Origin: store.OriginAdopted, To: exchanging, Do: do(claim, beginRound), Then: Exchange},
		{Row: "B14", On: on(TokenExchange), From: in(failed), If: when(policyReject), Reply: ReplyBad, Note: "late: the attempt has ended"},
		{Row: "B14", On: on(TokenExchange), From: in(failed), Open: OpensLinked, Origin: store.OriginAdopted, To: exchanging, Do: do(claim, beginRound), Then: Exchange},
		{Row: "B16", On: on(TokenExchange), From: in(none), If: when(policyReject), Reply: ReplyBad, Note: "nobody waits for this exchange"},
		{Row: "B18", On: on(TokenExchange), From: in(none), If: when(foreignCard), Open: OpensFresh, Origin: store.OriginAdopted, To: exchanging, Do: do(claim, beginRound), Then: Exchange},
		{Row: "B16", On: on(TokenExchange), From: in(none), Open: OpensFresh, Origin: store.OriginAdopted, To: exchanging, Do: do(claim, adoptID, beginRound), Then: Exchange},

		{Row: "B2", On: on(ExchangeOK), From: in(exchanging), If: when(mine), To: complete, Method: store.MethodTokenExchange, Do: do(keepAnswer), Reply: ReplyOK, Call: TellDone},
		{Row: "B3", On: on(ExchangeRefused), From: in(exchanging), If: when(mine), To: cardSent, Do: do(keepAnswer, keepFailure, outcomeRejected), Reply: ReplyBody, Call: TellFailed},
		{Row: "B3", On: on(ExchangeRefused), From: in(complete), Reply: ReplyOK, Note: "lost the claim; complete meanwhile"},
		{Row: "B3", On: on(ExchangeRefused), From: in(idle, cardSent, exchanging, verifying, failed), Reply: ReplyBody, Note: "lost the claim; the refusal settles nothing"},
		{Row: "B4", On: on(ExchangeFailed), From: in(exchanging), If: when(mine, statusRejects), To: failed, Reason: store.ReasonUpstreamRejected, Do: do(keepAnswer, keepFailure), Reply: ReplyStatus, Call: TellFailed},
		{Row: "B4", On: on(ExchangeFailed), From: in(exchanging), If: when(mine), To: failed, Reason: store.ReasonUpstreamUnavailable, Do: do(keepAnswer, keepFailure), Reply: ReplyStatus, Call: TellFailed},
		{Row: "B4", On: on(ExchangeFailed), From: in(complete), Reply: ReplyOK, Note: "lost the claim; complete meanwhile"},
		{Row: "B4", On: on(ExchangeFailed), From: in(idle, cardSent, exchanging, verifying, failed), Reply: ReplyStatus, Note: "lost the claim; the failure settles nothing"},

		// A success is never thrown away, whoever holds the claim by now.
		{Row: "B2/late", On: on(ExchangeOK), From: in(idle, cardSent, exchanging, verifying), To: complete, Method: store.MethodTokenExchange, Reply: ReplyOK, Call: TellDone},
		{Row: "C3/late", On: on(VerifyOK), From: in(idle, cardSent, exchanging), To: complete, Method: store.MethodVerifyState, Reply: ReplyOK, Call: TellDone},
		{Row: "C3/late", On: on(VerifyOK), From: in(verifying), If: when(notMine), To: complete, Method: store.MethodVerifyState, Reply: ReplyOK, Call: TellDone},
		{Row: "E8/late", On: on(Recovered), From: in(idle, cardSent), To: complete, Method: store.MethodRecovered, Then: Resume, Call: TellDone},
		{Row: "B2/late", On: on(ExchangeOK), From: in(complete), Reply: ReplyOK, Note: "already complete"},
		{Row: "C3/late", On: on(VerifyOK), From: in(complete), Reply: ReplyOK, Note: "already complete"},
		{Row: "E8/late", On: on(Recovered), From: in(complete), Then: Resume, Note: "already complete"},
		{Row: "E2/late", On: on(ExchangeOK, VerifyOK), From: in(failed), If: when(claimed, signedOut), Then: DeleteAgain, Reply: ReplyOK, Note: "signed out meanwhile: the token is deleted again"},
		{Row: "E2/late", On: on(Recovered), From: in(failed), If: when(signedOut), Then: Resume, Note: "signed out meanwhile"},
		{Row: "B2/late", On: on(ExchangeOK), From: in(failed), Open: OpensLinked, Origin: store.OriginAdopted, To: complete, Method: store.MethodTokenExchange, Reply: ReplyOK, Call: TellDone},
		{Row: "C3/late", On: on(VerifyOK), From: in(failed), If: when(claimed), Open: OpensLinked, Origin: store.OriginAdopted, To: complete, Method: store.MethodVerifyState, Reply: ReplyOK, Call: TellDone},
		{Row: "E8/late", On: on(Recovered), From: in(failed), Open: OpensLinked, Origin: store.OriginAdopted, To: complete, Method: store.MethodRecovered, Then: Resume, Call: TellDone},

		// C. signin/verifyState, for one candidate after the other.
		{Row: "C11", On: on(VerifyState), From: in(complete), If: when(sameCode), Reply: ReplyOK, Note: "this code is already redeemed"},
		{Row: "C10", On: on(VerifyState), From: in(complete), Do: do(keepCode), Then: SpendCode},
		{Row: "C9", On: on(VerifyState), From: in(verifying), If: when(leaseLive, sameCode, notWaited), Then: Wait},
		{Row: "C9", On: on(VerifyState), From: in(verifying), If: when(leaseLive, sameCode), Reply: ReplyOK, Note: "duplicate: the owner is still at it"},
		{Row: "C9", On: on(VerifyState), From: in(cardSent, failed), If: when(waitedForVerify, sameCode, codeAnswered), Reply: ReplyRecord, Note: "duplicate: as the owner answered"},
		{Row: "C9b", On: on(VerifyState), From: in(verifying), If: when(leaseLive, notWaited), Then: Wait},
		{Row: "C9b", On: on(VerifyState), From: in(verifying), If: when(leaseLive), Do: do(claim, keepCode), Then: Redeem},
		{Row: "C9c", On: on(VerifyState), From: in(verifying), Do: do(claim), Then: Recover},
		{Row: "C2", On: on(VerifyState), From: in(idle, cardSent, exchanging), To: verifying, Do: do(claim, keepCode), Then: Redeem},
		{Row: "C2", On: on(VerifyState), From: in(failed), If: when(first), Open: OpensLinked, Origin: store.OriginAdopted, To: verifying, Do: do(claim, keepCode), Then: Redeem},
		{Row: "C12", On: on(VerifyState), From: in(none, failed), Then: Redeem},

		{Row: "C3", On: on(VerifyOK), From: in(verifying), If: when(mine), To: complete, Method: store.MethodVerifyState, Reply: ReplyOK, Call: TellDone},
		{Row: "C12", On: on(VerifyOK), From: in(none), Open: OpensFresh, Origin: store.OriginAdopted, To: complete, Method: store.MethodVerifyState, Do: do(keepCode), Reply: ReplyOK, Call: TellDone},
		{Row: "C12", On: on(VerifyOK), From: in(failed), Open: OpensLinked, Origin: store.OriginAdopted, To: complete, Method: store.MethodVerifyState, Do: do(keepCode), Reply: ReplyOK, Call: TellDone},

		{Row: "C5", On: on(VerifyMiss), From: in(verifying), If: when(mine, only, lastTry), To: failed, Reason: store.ReasonCodeRejected, Do: do(countTry, refuseCode), Reply: ReplyRefuse, Call: TellFailed},
		{Row: "C5", On: on(VerifyMiss), From: in(verifying), If: when(mine, only), To: cardSent, Do: do(countTry, refuseCode), Reply: ReplyRefuse, Call: TellFailed},
		{Row: "C4", On: on(VerifyMiss), From: in(verifying), If: when(mine), To: cardSent, Reply: ReplyNext, Note: "probe_miss"},
		{Row: "C13", On: on(VerifyMiss), From: in(none, failed), Reply: ReplyNext, Note: "probe_miss"},
		{Row: "C4", On: on(VerifyMiss), From: in(idle, cardSent, exchanging, verifying, complete), Reply: ReplyNext, Note: "lost the claim; the miss settles nothing"},
		{Row: "C7", On: on(VerifyRefused), From: in(verifying), If: when(mine, attributed), To: cardSent, Do: do(countTry, refuseCode, keepFailure), Reply: ReplyRefuse, Call: TellFailed},
		{Row: "C7", On: on(VerifyRefused), From: in(verifying), If: when(mine), To: cardSent, Reply: ReplyNext},
		{Row: "C7", On: on(VerifyRefused), From: in(none, idle, cardSent, exchanging, verifying, complete, failed), Reply: ReplyNext, Note: "the refusal settles nothing"},
		{Row: "C8", On: on(VerifyFailed), From: in(verifying), If: when(mine, attributed, noStatus), To: cardSent, Do: do(keepFailure), Reply: ReplyNext},
		{Row: "C8", On: on(VerifyFailed), From: in(verifying), If: when(mine, attributed, statusRejects), To: failed, Reason: store.ReasonUpstreamRejected, Do: do(keepFailure), Reply: ReplyNext},
		{Row: "C8", On: on(VerifyFailed), From: in(verifying), If: when(mine, attributed), To: failed, Reason: store.ReasonUpstreamUnavailable, Do: do(keepFailure), Reply: ReplyNext},
		{Row: "C8", On: on(VerifyFailed), From: in(verifying), If: when(mine), To: cardSent, Reply: ReplyNext},
		{Row: "C8", On: on(VerifyFailed), From: in(none, idle, cardSent, exchanging, verifying, complete, failed), Reply: ReplyNext, Note: "the failure settles nothing"},

		{Row: "C8", On: on(NoMatch), From: in(cardSent), If: when(unclear), To: cardSent, Do: do(keepCodeAnswer), Reply: ReplyWorst, Call: TellFailed},
		{Row: "C6", On: on(NoMatch), From: in(cardSent), If: when(lastTry), To: failed, Reason: store.ReasonCodeRejected, Do: do(countTry, keepCodeAnswer), Reply: ReplyWorst, Call: TellFailed},
		{Row: "C6", On: on(NoMatch), From: in(cardSent), To: cardSent, Do: do(countTry, keepCodeAnswer), Reply: ReplyWorst, Call: TellFailed},
		{Row: "C8", On: on(NoMatch), From: in(failed), If: when(upstreamFailed), Do: do(keepCodeAnswer), Reply: ReplyWorst, Call: TellFailed},
		{Row: "C13", On: on(NoMatch), From: in(none), Reply: ReplyWorst, Note: "the code fits no connection"},
		{Row: "C6", On: on(NoMatch), From: in(idle, exchanging, verifying, failed), Reply: ReplyWorst, Note: "the code fits no connection"},
		{Row: "C10", On: on(NoMatch), From: in(complete), Reply: ReplyOK, Note: "complete meanwhile"},
		{Row: "C10", On: on(CodeSpent), From: in(complete), If: when(first), Reply: ReplyOK, Note: "code redeemed after the sign-in"},
		{Row: "C10", On: on(CodeSpent), From: in(complete), If: when(codeTook), Reply: ReplyOK, Note: "code redeemed after the sign-in"},
		{Row: "C10", On: on(CodeSpent), From: in(complete), Reply: ReplyNext, Note: "probe_miss"},

		{Row: "C1", On: on(PopupClosed), From: in(idle, cardSent), If: when(policyPopupFails), To: failed, Reason: store.ReasonUserCancelled, Do: do(flagPopup), Reply: ReplyOK},
		{Row: "C1", On: on(PopupClosed), From: in(cardSent), To: cardSent, Do: do(flagPopup), Reply: ReplyOK},
		{Row: "C1", On: on(PopupClosed), From: in(idle), Do: do(flagPopup), Reply: ReplyOK},
		{Row: "C1", On: on(PopupClosed), From: in(none, exchanging, verifying, complete, failed), Reply: ReplyOK, Note: "popup_closed"},

		// D. signin/failure, always answered 200.
		{Row: "D1", On: on(ClientFailure), From: in(idle, cardSent), If: when(ssoOffered, noRound, endsSSO), To: failed, Reason: store.ReasonClientFailure, Do: do(keepFailure, outcomeClient), Reply: ReplyOK, Call: TellValue},
		{Row: "D2", On: on(ClientFailure), From: in(idle, cardSent), If: when(ssoOffered, noRound), Do: do(keepFailure, outcomeClient), Reply: ReplyOK, Call: TellValue},
		{Row: "D7", On: on(ClientFailure), From: in(idle, cardSent), If: when(ssoOffered), Do: do(keepFailure, outcomeClient), Reply: ReplyOK, Call: TellValue},
		{Row: "D4", On: on(ClientFailure), From: in(exchanging, verifying), Do: do(owe), Reply: ReplyOK, Call: TellValue},
		{Row: "D6", On: on(ClientFailure), From: in(idle, cardSent), Do: do(owe), Reply: ReplyOK, Call: TellAll},
		{Row: "D5", On: on(ClientFailure), From: in(complete, failed), Reply: ReplyOK, Note: "late failure of another device"},
		{Row: "D0", On: on(ClientFailure), From: in(none), Reply: ReplyOK, Call: TellAll, Note: "no attempt is waiting for SSO"},

		// E. Sign-out, expiry, operator.
		{Row: "E2", On: on(SignOutAsked), From: in(exchanging, verifying), To: failed, Reason: store.ReasonSignedOut, Do: do(moveFence, nextGeneration), Then: Delete},
		{Row: "E1", On: on(SignOutAsked), From: in(none, idle, cardSent, failed), Then: Delete},
		{Row: "E3", On: on(SignOutAsked), From: in(complete), Then: Delete},
		{Row: "E1", On: on(SignedOut), From: in(idle, cardSent), To: failed, Reason: store.ReasonSignedOut, Do: do(moveFence, nextGeneration), Reply: ReplyOK},
		{Row: "E2", On: on(SignedOut), From: in(exchanging, verifying), To: failed, Reason: store.ReasonSignedOut, Do: do(moveFence, nextGeneration), Reply: ReplyOK},
		{Row: "E1/late", On: on(SignedOut), From: in(complete), If: when(raced), Then: Delete, Note: "complete since the token was deleted: it is deleted again"},
		{Row: "E3", On: on(SignedOut), From: in(complete), Do: do(nextGeneration, dropOwed), Reply: ReplyOK},
		{Row: "E1", On: on(SignedOut), From: in(none, failed), Reply: ReplyOK, Note: "signed out"},
		{Row: "E5", On: on(SignOutError), From: in(none, idle, cardSent, exchanging, verifying, complete, failed), Reply: ReplyError, Note: "the token service did not sign out"},

		{Row: "E6", On: on(Sweep), From: in(idle), If: when(leaseOver), To: failed, Reason: store.ReasonAbandoned},
		{Row: "E8", On: on(Sweep), From: in(exchanging, verifying), If: when(leaseOver, checkDue), Do: do(claim), Then: Recover},
		{Row: "E8", On: on(Sweep, ReconcileAsk), From: in(idle, cardSent, complete, failed), If: when(asked), Reply: ReplyOK},
		{Row: "E8", On: on(ReconcileAsk), From: in(exchanging, verifying), If: when(leaseOver), Do: do(claim), Then: Recover},
		{Row: "E8", On: on(ReconcileAsk), From: in(idle), If: when(leaseOver), Then: Recover},
		{Row: "E8", On: on(ReconcileAsk), From: in(cardSent), Then: Recover},
		{Row: "E8", On: on(Recovered), From: in(exchanging, verifying), To: complete, Method: store.MethodRecovered, Then: Resume, Call: TellDone},
		{Row: "E8", On: on(NotRecovered), From: in(exchanging, verifying), If: when(mine), To: cardSent, Do: do(forgetAnswer), Then: Resume},
		{Row: "E8", On: on(NotRecovered), From: in(idle, cardSent, exchanging, verifying, complete, failed), Then: Resume, Note: "no token upstream"},
		{Row: "E8", On: on(RecoverFailed), From: in(exchanging, verifying), If: when(mine, pastExpiry), To: failed, Reason: store.ReasonUpstreamUnavailable, Do: do(keepFailure, forgetAnswer), Reply: ReplyStatus},
		{Row: "E8", On: on(RecoverFailed), From: in(exchanging, verifying), If: when(mine), Do: do(backOff, keepFailure), Reply: ReplyStatus},
		{Row: "E8", On: on(RecoverFailed), From: in(idle, cardSent, exchanging, verifying, complete, failed), Reply: ReplyStatus, Note: "the token service gave no clear answer"},
		{Row: "E9", On: on(CancelAsked), From: in(idle, cardSent, exchanging, verifying), To: failed, Reason: store.ReasonOperator, Do: do(moveFence)},
	}
}
