package table

// Row is a row of docs/state-machine.md §4 in words. A row may be carried out by
// several rules, or by code before the table is asked (B0, B17, E10).
type Row struct {
	Name string
	When string // what happens, to an attempt in which state
	Then string // what the engine does
}

// Rows are all rows, in the order of the document.
func Rows() []Row {
	return []Row{
		{"A1", "SignIn, and the Token Service has the user's token", "The token is returned. No row is written: this is the hot path. A token whose expiration is past is no token."},
		{"A2", "SignIn while a card is out or about to be, and there is a token by now", "The attempt is completed (silent), and the token is returned. No callback: the caller has the token."},
		{"A3", "SignIn, and there is no token", "GetSignInResource is asked, then the attempt is inserted with what its card will offer, then the card is sent."},
		{"A4", "SignIn, and the Token Service does not say whether there is a token", "An error, and no card. With on_silent_error: card the card is sent anyway."},
		{"A5", "SignIn, and no card can be made: GetSignInResource failed, or the user's own chat could not be opened", "An attempt is inserted and ended (card_rejected) in one transaction, so that it can be found. An attempt that is pending stays."},
		{"A6", "The connector took the card", "CardSent, with the card's id."},
		{"A7", "The connector refused the card", "Failed (card_rejected). 429 and 412 were certainly not delivered, so the card is sent again while the deadline allows."},
		{"A8", "The connector answered 5xx or nothing to the card", "CardSent with the flag delivery_unknown. The card is not sent again: it may be there."},
		{"A9", "An invoke overtakes the answer to the card", "The invoke goes on; the late answer only fills in the card's id."},
		{"A10", "SignIn again within the cool-down (resend_cooldown)", "No second card."},
		{"A11", "SignIn again while a card is out", "A new attempt and a new card; the old one is superseded and its card still works."},
		{"A12", "SignIn while another device or instance is at it", "It waits up to 2 s for the outcome; no second card."},
		{"A12b", "SignIn, and whoever was to send the card is gone", "As A11."},
		{"A13", "SignIn after an attempt has ended", "A new attempt, as A3."},
		{"A14", "A card in a channel, or in a group chat with group_sso: false", "The card offers no SSO; its button works."},
		{"A15", "Two SignIn at once", "One inserts its attempt and sends the card; the other returns pending."},
		{"A16", "SignIn for the activity that opened the attempt: Teams repeats a message after 15 s", "No second card."},

		{"B0", "signin/tokenExchange without a token, or for a connection that is not registered", "Answered 400; nothing goes upstream."},
		{"B1", "signin/tokenExchange for an attempt whose card is out", "The attempt is claimed, then the token is exchanged."},
		{"B2", "The exchange succeeded", "Complete, answered 200, and the bot is told."},
		{"B3", "The Token Service refused the exchange: 400, 404, 412, no answer, or 200 without a token", "Back to CardSent, answered 412 with a short detail; the card's button still works. The bot is told."},
		{"B4", "The exchange failed with any other status", "Failed (upstream_rejected or upstream_unavailable), answered with that status. The bot is told."},
		{"B6", "The same exchange from another device while one is at it", "It waits (duplicate_wait) and is answered as the owner was; 200 if the owner is still at it. Nothing goes upstream."},
		{"B6b", "An exchange, and its owner is gone", "It takes over with its own token: to exchange twice does no harm."},
		{"B7", "An exchange for an attempt that is complete", "Answered 200; nothing goes upstream."},
		{"B8", "Another token after a refusal", "A new round: consent may have brought a fresh token."},
		{"B9", "The same token less than 10 s after a refusal with a status", "The recorded answer again. With failed_duplicate: noop 200."},
		{"B9b", "The same token later than that, or after no answer", "A new round: what failed may have passed."},
		{"B10", "An exchange for an attempt that ended because an upstream failed", "A linked attempt goes on: an outage is no verdict on a token."},
		{"B11", "A late exchange after a sign-in by code", "Answered 200."},
		{"B12", "The card of a superseded attempt, and its chain is complete", "Answered 200."},
		{"B13", "The card of a superseded attempt, and its successor is pending", "The exchange goes to the successor."},
		{"B14", "An exchange for an attempt that ended for another reason", "A linked attempt goes on. With late_invoke: reject 400."},
		{"B15", "An exchange after a sign-out", "Answered 200 and nothing more: nobody is signed in silently after a sign-out."},
		{"B16", "An exchange that nobody waits for", "An attempt is adopted for it. With late_invoke: reject 400."},
		{"B17", "An exchange without an id", "The token's mark stands in for it."},
		{"B18", "An exchange with another user's id", "A security line. That attempt is not touched; the exchange goes on for the sender's own."},
		{"B19", "An exchange while a code is being verified", "It waits (duplicate_wait), then takes over."},

		{"C0", "signin/verifyState in which there is no code", "Answered 404, with a line on the pending attempt that says which form came."},
		{"C1", "The user closed the popup", "Answered 200; the card stays (popup_closed: fail ends the attempt)."},
		{"C2", "A code for an attempt that waits", "The attempt is claimed, then the code is redeemed. An exchange under way is overtaken: the user acted."},
		{"C3", "The code is right", "Complete, answered 200, and the bot is told."},
		{"C4", "The code is not this connection's, and there are other candidates", "Back to CardSent; the next candidate is tried."},
		{"C5", "The code is wrong, and there was only this candidate", "Back to CardSent, answered 412 (max_code_tries may end the attempt). The bot is told."},
		{"C6", "The code is wrong for every candidate", "Answered 404; the best candidate counts it, and the bot is told once."},
		{"C7", "The Token Service refuses the code: 400, 412", "Answered 412 if the card says which attempt is meant; otherwise the next candidate is tried."},
		{"C8", "The Token Service fails on the code", "The others are tried; the worst status is the answer if none takes it."},
		{"C9", "The same code again while it is being verified", "It waits (duplicate_wait) and is answered as the owner was."},
		{"C9b", "Another code while one is being verified", "It waits, then takes over."},
		{"C9c", "A code, and whoever was verifying is gone", "The Token Service is asked for the truth first."},
		{"C10", "A code for an attempt that SSO has completed", "It is redeemed once, so that the Token Service is clean, and answered 200."},
		{"C10b", "A code that nobody took, on a connection that is complete", "It is not tried there: the service may hand out the stored token for a wrong code."},
		{"C11", "A code that was redeemed already", "Answered 200; nothing goes upstream."},
		{"C12", "A code for a connection without a pending attempt", "It is tried; if it is right, an attempt is adopted and complete."},
		{"C13", "A code that fits nothing, and nobody waits", "Answered 412 with one connection, 404 with several."},
		{"C14", "Pending on one connection, and the code is another's", "The other is completed; the first stays as it is."},
		{"C15", "Several pending, one code", "Exactly one completes."},

		{"D0", "signin/failure, and no attempt waits for SSO", "Answered 200, logged; only the bot's handler for all connections is told (failure_fanout: all tells every connection)."},
		{"D1", "signin/failure before any exchange, with a code after which the client shows nothing", "Failed (client_failure), and the bot is told. After resourcematchfailed the next cards come without the resource for 24 hours."},
		{"D2", "The same with a code after which the client shows the button", "The attempt stays; the code is noted, and the bot is told."},
		{"D3", "signin/failure while several attempts wait for SSO", "The card that was replied to is meant, else the newest; the others get an audit line."},
		{"D4", "signin/failure of another device during an exchange or a verification", "The attempt stays, and the bot is told."},
		{"D5", "signin/failure less than 5 min after the attempt has ended", "An audit line."},
		{"D6", "signin/failure while only a card without SSO is out", "As D0, with a line on that attempt."},
		{"D7", "signin/failure after a refused exchange", "The attempt stays: the button works. The bot is told."},
		{"D8", "signin/failure in a group or channel from somebody without an attempt there", "As D0, and nobody is told."},

		{"E1", "SignOut while a card is out", "The Token Service is told first, then the attempt is Failed (signed_out)."},
		{"E2", "SignOut during an exchange or a verification", "The attempt is ended at once; if the running call succeeds, its token is deleted again."},
		{"E3", "SignOut after completion", "The Token Service is told; a completion that the bot has not been told of is dropped."},
		{"E4", "SignOut of every connection", "One DELETE for all, and E1 to E3 for each."},
		{"E5", "The Token Service does not sign out", "An error; the attempt stays."},
		{"E6", "The sweeper finds an attempt whose card nobody is sending any more", "Failed (abandoned)."},
		{"E7", "The attempt is past its expiry", "Failed (expired), by the sweeper or by whatever touches it first."},
		{"E8", "An exchange or a verification whose owner is gone", "The Token Service is asked: a token completes the attempt (recovered), none brings it back to its card."},
		{"E9", "An operator cancels the attempt", "Failed (operator), also against a live lease."},
		{"E10", "The retention is over", "The attempt goes, with its trail, deliveries and exchange ids."},
	}
}
