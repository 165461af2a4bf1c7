package table

import "github.com/signin-engine/signin-engine/store"

// Kind is the kind of an event.
type Kind string

// Events from the bot, a client, an operator or the sweeper.
const (
	SignInAsked    Kind = "SignIn"          // the bot called SignIn
	AskedMore      Kind = "asked more"      // that SignIn found a sign-in pending, and has a purpose
	TokenExchange  Kind = "tokenExchange"   // signin/tokenExchange arrived
	VerifyState    Kind = "verifyState"     // signin/verifyState arrived, for one candidate
	PopupClosed    Kind = "popup closed"    // signin/verifyState said CancelledByUser
	ClientFailure  Kind = "client failure"  // signin/failure arrived
	TokenAnnounced Kind = "tokens/response" // a channel without invokes reported a sign-in
	SignOutAsked   Kind = "SignOut"         // the bot called SignOut
	Sweep          Kind = "sweep"           // the sweeper found the attempt due
	ReconcileAsk   Kind = "reconcile"       // an operator asked for the truth
	CancelAsked    Kind = "cancel"          // an operator ended the attempt
)

// Answers of an upstream.
const (
	TokenFound     Kind = "token found"     // GetToken: a token
	NoToken        Kind = "no token"        // GetToken: 404
	LookupFailed   Kind = "look-up failed"  // GetToken: anything else
	ResourceFound  Kind = "resource found"  // GetSignInResource: 200
	ResourceFailed Kind = "resource failed" // GetSignInResource: anything else

	CardAccepted Kind = "card accepted" // card POST: 2xx
	CardRejected Kind = "card rejected" // card POST: 4xx
	CardUnclear  Kind = "card unclear"  // card POST: 5xx or no answer

	ExchangeOK      Kind = "exchange ok"      // exchange: a token
	ExchangeRefused Kind = "exchange refused" // exchange: 400, 404, 412, no answer, or 200 without a token
	ExchangeFailed  Kind = "exchange failed"  // exchange: any other status

	VerifyOK      Kind = "code ok"      // GetToken with the code: a token
	VerifyMiss    Kind = "code missed"  // GetToken with the code: 404
	VerifyRefused Kind = "code refused" // GetToken with the code: 400, 412
	VerifyFailed  Kind = "code failed"  // GetToken with the code: any other status, or no answer
	CodeSpent     Kind = "code spent"   // the code was redeemed to keep the Token Service clean
	NoMatch       Kind = "no match"     // no candidate took the code

	SignedOut    Kind = "signed out"      // DELETE: done
	SignOutError Kind = "sign-out failed" // DELETE: failed

	Recovered     Kind = "recovered"       // GetToken again: a token
	NotRecovered  Kind = "not recovered"   // GetToken again: 404
	RecoverFailed Kind = "recovery failed" // GetToken again: anything else
)

// IsAnswer reports whether k concerns only the attempt for which the upstream was
// called.
func (k Kind) IsAnswer() bool {
	switch k {
	case CardAccepted, CardRejected, CardUnclear, ExchangeOK, ExchangeRefused, ExchangeFailed,
		VerifyOK, VerifyMiss, VerifyRefused, VerifyFailed, CodeSpent, Recovered, NotRecovered, RecoverFailed:
		return true
	default:
		return false
	}
}

// IsSuccess reports whether k means that the Token Service now holds the user's
// token. A success is never discarded.
func (k Kind) IsSuccess() bool { return k == ExchangeOK || k == VerifyOK || k == Recovered }

// Event is an input of the table. It carries no secret: tokens and codes have
// been replaced by their marks.
type Event struct {
	Kind Kind

	// Of an invoke.
	Invoke   string // its name, for the audit trail
	Activity string // id of the activity that brought the event
	Platform string // of the client
	// Via is a message extension or an Adaptive Card, if one of them and not the
	// chat sent the invoke. Its answer is the card and the callback.
	Via store.Origin
	// Marks of the SSO token and of the verification code, one for each key. The
	// first is stored.
	TokenMarks, CodeMarks [][]byte

	// Of an upstream's answer.
	Operation  string // what was called
	Source     string // what failed, as in store.Failure
	Status     int    // 0 for no answer
	Cause      int    // the failure's status, if it is not Status
	Code       string // error code of the upstream, or of the client
	Consent    bool   // the upstream refused because consent is missing
	Message    string
	Detail     string // short, for the audit trail and the failureDetail
	Fence      int64  // of the claim under which the call was made; 0 for none
	Diagnosis  store.Diagnosis
	ExchangeID string // of the invoke, or of the resource that was found
	CardID     string // of the card that was accepted

	// Of a resource that was found.
	ResourceURI      string
	SSO              bool   // the card offers SSO
	Withheld         bool   // it could, but not in this conversation (A14) or for a while (D1)
	CardConversation string // where the card goes, if elsewhere than the request

	// Request is what the attempt keeps with AskedMore; nil if it keeps it already, or
	// if nothing is kept.
	Request []byte

	// Of a verification code.
	Only       bool // there is no other candidate
	First      bool // this is the best candidate
	Attributed bool // the reply is to this attempt's card, or there is no other candidate
	Unclear    bool // an upstream failed, so the code may still be right

	// Found out while the event was handled.
	Waited    store.State // the state in which it has waited …
	For       string      // … and for which attempt
	Asked     bool        // the Token Service was asked whether there is a token (E8)
	Raced     bool        // others changed the attempt since the last upstream call
	Another   bool        // … or put another attempt in its place
	OldCard   bool        // its exchange id is that of a superseded attempt of the chain
	Foreign   bool        // its exchange id belongs to another user
	SignedOut bool        // the user has signed out since the attempt ended
	Stranger  bool        // its user has no attempt in this group or channel

	LetGo []store.Lease // live leases whose owner has stopped working (S)
	Actor string        // operator
}
