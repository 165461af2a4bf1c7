package table

import "github.com/signin-engine/signin-engine/store"

// Rows E1 to E5: the bot calls SignOut.
func signOutRules() []Block {
	return []Block{
		// An attempt with an upstream call under way is ended first, so that it cannot
		// complete after the DELETE.
		block(on(SignOutAsked), in(Exchanging, Verifying),
			Rule{
				Row:    "E2",
				Edge:   fail,
				Reason: store.ReasonSignedOut,
				Do:     do(moveFence, nextGeneration),
				Then:   Delete,
			},
		),
		block(on(SignOutAsked), in(None, Idle, CardSent, Failed),
			Rule{
				Row:  "E1",
				Then: Delete,
			},
		),
		block(on(SignOutAsked), in(Complete),
			Rule{
				Row:  "E3",
				Then: Delete,
			},
		),

		block(on(SignedOut), in(None),
			Rule{
				Row:   "E1",
				Reply: ReplyOK,
				Note:  "signed out",
			},
		),
		// Its card may still be on a screen, and run SSO (B15).
		block(on(SignedOut), in(Failed),
			Rule{
				Row:   "E1",
				If:    when(signedOut),
				Reply: ReplyOK,
				Note:  "signed out",
			},
			Rule{
				Row:   "E1",
				Do:    do(nextGeneration, endSSO),
				Reply: ReplyOK,
				Note:  "signed out",
			},
		),
		block(on(SignedOut), in(Idle, CardSent),
			Rule{
				Row:    "E1",
				Edge:   fail,
				Reason: store.ReasonSignedOut,
				Do:     do(moveFence, nextGeneration),
				Reply:  ReplyOK,
			},
		),
		block(on(SignedOut), in(Exchanging, Verifying),
			Rule{
				Row:    "E2",
				Edge:   fail,
				Reason: store.ReasonSignedOut,
				Do:     do(moveFence, nextGeneration),
				Reply:  ReplyOK,
			},
		),
		block(on(SignedOut), in(Complete),
			Rule{
				Row:  "E1/late",
				If:   when(raced),
				Then: Delete,
				Note: "complete since the token was deleted: it is deleted again",
			},
			Rule{
				Row:   "E3",
				Do:    do(nextGeneration, dropOwed),
				Reply: ReplyOK,
			},
		),

		block(on(SignOutError), in(None, Idle, CardSent, Exchanging, Verifying, Complete, Failed),
			Rule{
				Row:   "E5",
				Reply: ReplyError,
				Note:  "the token service did not sign out",
			},
		),
	}
}
