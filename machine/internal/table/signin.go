package table

import "github.com/signin-engine/signin-engine/store"

// Rows A: the bot calls SignIn in a turn.
func signInRules() []Block {
	return []Block{
		// SignIn first asks whether there is a token.
		block(on(SignInAsked), in(None, Complete, Failed),
			Rule{
				Row:  "A1",
				Then: AskToken,
			},
		),
		block(on(SignInAsked), in(CardSent),
			expired(),
			Rule{
				Row:   "A16",
				If:    when(sameActivity),
				Reply: ReplyCardOut,
				Note:  "the same message again: no second card",
			},
			Rule{
				Row:   "A12",
				If:    when(waited, cardIsHere),
				Reply: ReplyCardOut,
				Note:  "the card is out",
			},
			Rule{
				Row:  "A2",
				Then: AskToken,
			},
		),
		block(on(SignInAsked), in(Idle),
			Rule{
				Row:   "A16",
				If:    when(sameActivity),
				Reply: ReplyCardOut,
				Note:  "the same message again: no second card",
			},
			Rule{
				Row:  "A12",
				If:   when(held, notWaited),
				Then: Wait,
			},
			Rule{
				Row:   "A12",
				If:    when(held),
				Reply: ReplyElsewhere,
				Note:  "still at it",
			},
			Rule{
				Row:  "A12b",
				Then: AskToken,
			},
		),
		block(on(SignInAsked), in(Exchanging, Verifying),
			Rule{
				Row:   "A16",
				If:    when(sameActivity),
				Reply: ReplyCardOut,
				Note:  "the same message again: no second card",
			},
			Rule{
				Row:  "A12",
				If:   when(held, notWaited),
				Then: Wait,
			},
			Rule{
				Row:   "A12",
				If:    when(held),
				Reply: ReplyElsewhere,
				Note:  "still at it",
			},
			Rule{
				Row:  "E8",
				Do:   do(claim),
				Then: Recover,
			},
		),

		// There is a token.
		block(on(TokenFound), in(None, Exchanging, Verifying, Complete, Failed),
			Rule{
				Row:   "A1",
				Reply: ReplyToken,
			},
		),
		block(on(TokenFound), in(Idle, CardSent),
			Rule{
				Row:    "A2",
				Edge:   complete,
				Method: store.MethodSilent,
				Reply:  ReplyToken,
				Tell:   TellSilent,
			},
		),

		// It is unknown whether there is a token.
		block(on(LookupFailed), in(None, Idle, CardSent, Exchanging, Verifying, Complete, Failed),
			Rule{
				Row:  "A4",
				If:   when(policyCard),
				Then: Again,
				As:   NoToken,
				Note: "no clear answer: on to the card",
			},
			Rule{
				Row:   "A4",
				Reply: ReplyError,
				Note:  "no card: the token service gave no clear answer",
			},
		),

		// There is no token, so a card is needed unless one is out.
		block(on(NoToken), in(None, Complete, Failed),
			Rule{
				Row:  "A3",
				Then: AskResource,
			},
		),
		block(on(NoToken), in(Idle),
			Rule{
				Row:   "A15",
				If:    when(held),
				Reply: ReplyElsewhere,
				Note:  "another SignIn is sending the card",
			},
			Rule{
				Row:  "A12b",
				Then: AskResource,
			},
		),
		block(on(NoToken), in(CardSent),
			Rule{
				Row:   "M1", // every keystroke asks again: not worth a line
				If:    when(answerIsCard, withinCooldown),
				Reply: ReplyCardOut,
			},
			Rule{
				Row:   "A10",
				If:    when(withinCooldown, cardIsHere),
				Reply: ReplyCardOut,
				Note:  "within the cool-down: no second card",
			},
			Rule{
				Row:  "A11",
				Then: AskResource,
			},
		),
		block(on(NoToken), in(Exchanging, Verifying),
			Rule{
				Row:   "A12",
				Reply: ReplyElsewhere,
				Note:  "an invoke came meanwhile",
			},
		),

		// A sign-in is pending. What the user asked with a purpose comes back with the rest
		// when it ends, or is asked anew if it has ended meanwhile.
		block(on(AskedMore), in(None, Complete, Failed),
			Rule{
				Row:  "A1",
				Then: Again,
				As:   SignInAsked,
			},
		),
		block(on(AskedMore), in(CardSent),
			expired(),
			Rule{
				Row: "A10",
				If:  when(nothingKept),
			},
			Rule{
				Row:  "A10",
				Do:   do(keepRequest),
				Note: "the activity is kept",
			},
		),
		block(on(AskedMore), in(Idle, Exchanging, Verifying),
			Rule{
				Row: "A12",
				If:  when(nothingKept),
			},
			Rule{
				Row:  "A12",
				Do:   do(keepRequest),
				Note: "the activity is kept",
			},
		),

		// The card's resource is known, so the attempt is stored with what the card
		// will offer. The card is sent only after that.
		block(on(ResourceFound), in(None),
			Rule{
				Row:    "M1",
				If:     when(answerIsCard),
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Edge:   sent,
				Do:     do(offerCard),
				Reply:  ReplyCardSent,
			},
			Rule{
				Row:    "A14",
				If:     when(ssoWithheld),
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
			Rule{
				Row:    "A3",
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
		),
		block(on(ResourceFound), in(Complete),
			Rule{
				Row:  "A15",
				If:   when(raced),
				Then: AskToken,
				Note: "the user has signed in meanwhile",
			},
			Rule{
				Row:    "M1",
				If:     when(answerIsCard),
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Edge:   sent,
				Do:     do(offerCard),
				Reply:  ReplyCardSent,
			},
			Rule{
				Row:    "A14",
				If:     when(ssoWithheld),
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
			Rule{
				Row:    "A13",
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
		),
		block(on(ResourceFound), in(Failed),
			withoutSSO(),
			Rule{
				Row:    "M1",
				If:     when(answerIsCard),
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Edge:   sent,
				Do:     do(offerCard),
				Reply:  ReplyCardSent,
			},
			Rule{
				Row:    "A14",
				If:     when(ssoWithheld),
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
			Rule{
				Row:    "A13",
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
		),
		block(on(ResourceFound), in(Idle),
			Rule{
				Row:   "A16",
				If:    when(sameActivity),
				Reply: ReplyCardOut,
				Note:  "the same message again: no second card",
			},
			Rule{
				Row:   "A15",
				If:    when(held),
				Reply: ReplyElsewhere,
				Note:  "another SignIn is sending the card",
			},
			withoutSSO(),
			Rule{
				Row:    "M1",
				If:     when(answerIsCard),
				Open:   OpensInstead,
				Origin: store.OriginSignIn,
				Edge:   sent,
				Do:     do(offerCard),
				Reply:  ReplyCardSent,
			},
			Rule{
				Row:    "A12b",
				Open:   OpensInstead,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
		),
		block(on(ResourceFound), in(CardSent),
			Rule{
				Row:   "A15",
				If:    when(another, cardIsHere),
				Reply: ReplyCardOut,
				Note:  "another SignIn was faster: no second card",
			},
			Rule{
				Row:    "M1",
				If:     when(answerIsCard),
				Open:   OpensInstead,
				Origin: store.OriginSignIn,
				Edge:   sent,
				Do:     do(offerCard),
				Reply:  ReplyCardSent,
			},
			Rule{
				Row:    "A14",
				If:     when(ssoWithheld),
				Open:   OpensInstead,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
			Rule{
				Row:    "A11",
				Open:   OpensInstead,
				Origin: store.OriginSignIn,
				Do:     do(claim, offerCard),
				Then:   PostCard,
			},
		),
		block(on(ResourceFound), in(Exchanging, Verifying),
			Rule{
				Row:   "A12",
				Reply: ReplyElsewhere,
				Note:  "an invoke came meanwhile",
			},
		),

		// No card can be made.
		block(on(ResourceFailed), in(None, Complete, Failed),
			Rule{
				Row:    "A5",
				Open:   OpensFresh,
				Origin: store.OriginSignIn,
				Edge:   fail,
				Reason: store.ReasonCardRejected,
				Do:     do(keepFailure),
				Reply:  ReplyError,
			},
		),
		block(on(ResourceFailed), in(Idle, CardSent, Exchanging, Verifying),
			Rule{
				Row:   "A5",
				Reply: ReplyError,
				Note:  "no new card: the attempt that is there stands",
			},
		),

		// The card was posted.
		block(on(CardAccepted), in(Idle),
			Rule{
				Row:   "A6",
				Edge:  sent,
				Do:    do(keepCardID),
				Reply: ReplyCardSent,
			},
		),
		block(on(CardAccepted), in(CardSent, Exchanging, Verifying, Complete, Failed),
			Rule{
				Row:   "A9",
				Do:    do(keepCardID),
				Reply: ReplyCardSent,
			},
		),
		block(on(CardRejected), in(Idle),
			Rule{
				Row:    "A7",
				Edge:   fail,
				Reason: store.ReasonCardRejected,
				Do:     do(keepFailure),
				Reply:  ReplyError,
			},
		),
		block(on(CardUnclear), in(Idle),
			Rule{
				Row:   "A8",
				Edge:  sent,
				Do:    do(flagUnknown, keepFailure),
				Reply: ReplyCardSent,
			},
		),
		block(on(CardRejected, CardUnclear), in(CardSent, Exchanging, Verifying, Complete, Failed),
			Rule{
				Row:   "A9",
				Reply: ReplyCardOut,
				Note:  "an invoke overtook the card's answer",
			},
		),
	}
}

// withoutSSO: Teams reported that it cannot match the resource while the resource
// was being requested, so this card is sent without it too.
func withoutSSO() Rule {
	return Rule{
		Row:  "A13",
		If:   when(ssoOutdated),
		Then: AskResource,
		Note: "Teams could not match the resource: the card comes without it",
	}
}

// expired is the first rule of every block about a card that is out. An event that
// touches an attempt past its expiry ends the attempt and is then handled anew (E7).
func expired() Rule {
	return Rule{
		Row:    "E7",
		If:     when(pastExpiry),
		Edge:   fail,
		Reason: store.ReasonExpired,
		Then:   Again,
	}
}
