package table

import "github.com/signin-engine/signin-engine/store"

// Rows D: signin/failure arrived. It names no connection and is always answered
// 200.
func failureRules() []Block {
	return []Block{
		block(on(ClientFailure), in(None),
			Rule{
				Row:   "D8",
				If:    when(stranger),
				Reply: ReplyOK,
				Note:  "its user has no attempt in this conversation",
			},
			Rule{
				Row:   "D0",
				If:    when(policyFanoutAll),
				Reply: ReplyOK,
				Tell:  TellAll,
				Note:  "no attempt is waiting for SSO",
			},
			Rule{
				Row:   "D0",
				Reply: ReplyOK,
				Tell:  TellApp,
				Note:  "no attempt is waiting for SSO",
			},
		),
		block(on(ClientFailure), in(Idle),
			withheld(),
			endedByClient(),
			shownButton(),
			afterRefusal(),
			notForSSOAll(),
			notForSSO(),
		),
		block(on(ClientFailure), in(CardSent),
			expired(),
			withheld(),
			endedByClient(),
			shownButton(),
			afterRefusal(),
			notForSSOAll(),
			notForSSO(),
		),
		block(on(ClientFailure), in(Exchanging),
			Rule{
				Row:   "D4",
				Do:    do(touch),
				Reply: ReplyOK,
				Tell:  TellValue,
			},
		),
		block(on(ClientFailure), in(Verifying),
			Rule{
				Row:   "D4",
				If:    when(ssoOffered),
				Do:    do(touch),
				Reply: ReplyOK,
				Tell:  TellValue,
			},
			notForSSOAll(),
			notForSSO(),
		),
		block(on(ClientFailure), in(Complete, Failed),
			Rule{
				Row:   "D5",
				Reply: ReplyOK,
				Note:  "late failure of another device",
			},
		),
	}
}

// withheld: Teams could not match the card's resource, so the app's registration
// is wrong. The next cards are sent without the resource.
func withheld() Rule {
	return Rule{
		Row:    "D1",
		If:     when(ssoOffered, noRound, noMatch),
		Edge:   fail,
		Reason: store.ReasonClientFailure,
		Do:     do(keepFailure, outcomeClient, withholdSSO),
		Reply:  ReplyOK,
		Tell:   TellValue,
	}
}

// endedByClient: the client shows nothing more after this code.
func endedByClient() Rule {
	return Rule{
		Row:    "D1",
		If:     when(ssoOffered, noRound, endsSSO),
		Edge:   fail,
		Reason: store.ReasonClientFailure,
		Do:     do(keepFailure, outcomeClient),
		Reply:  ReplyOK,
		Tell:   TellValue,
	}
}

// shownButton: the client shows the card's button after this code.
func shownButton() Rule {
	return Rule{
		Row:   "D2",
		If:    when(ssoOffered, noRound),
		Do:    do(keepFailure, outcomeClient),
		Reply: ReplyOK,
		Tell:  TellValue,
	}
}

// afterRefusal: an exchange was refused before, and the card's button still works.
func afterRefusal() Rule {
	return Rule{
		Row:   "D7",
		If:    when(ssoOffered),
		Do:    do(keepFailure, outcomeClient),
		Reply: ReplyOK,
		Tell:  TellValue,
	}
}

// notForSSOAll and notForSSO: the card offers no SSO, so the failure belongs to
// another card.
func notForSSOAll() Rule {
	return Rule{
		Row:   "D6",
		If:    when(policyFanoutAll),
		Do:    do(touch),
		Reply: ReplyOK,
		Tell:  TellAll,
	}
}

func notForSSO() Rule {
	return Rule{
		Row:   "D6",
		Reply: ReplyOK,
		Tell:  TellApp,
		Note:  "this card offers no SSO",
	}
}
