package machine

import (
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Kind is the kind of an event: something that happened to an attempt.
type Kind string

// The events. The result of an upstream call comes back as an event too.
const (
	SignInAsked    Kind = "SignInAsked"    // the bot called SignIn
	TokenFound     Kind = "TokenFound"     // GetToken: 200
	NoToken        Kind = "NoToken"        // GetToken: 404
	LookupFailed   Kind = "LookupFailed"   // GetToken: anything else
	ResourceCame   Kind = "ResourceCame"   // GetSignInResource: 200
	ResourceFailed Kind = "ResourceFailed" // GetSignInResource: anything else
	CardAccepted   Kind = "CardAccepted"   // card POST: 2xx
	CardRejected   Kind = "CardRejected"   // card POST: 4xx
	CardUnclear    Kind = "CardUnclear"    // card POST: 5xx or no answer

	TokenExchange   Kind = "TokenExchange"   // signin/tokenExchange arrived
	ExchangeOK      Kind = "ExchangeOK"      // exchange: 200 with a token
	ExchangeRefused Kind = "ExchangeRefused" // exchange: 400, 404, 412, no answer, 200 without a token
	ExchangeFailed  Kind = "ExchangeFailed"  // exchange: any other status

	VerifyState   Kind = "VerifyState"   // signin/verifyState arrived, for one candidate
	VerifyOK      Kind = "VerifyOK"      // GetToken with the code: 200
	VerifyMiss    Kind = "VerifyMiss"    // … no token
	VerifyRefused Kind = "VerifyRefused" // … 400, 412
	VerifyFailed  Kind = "VerifyFailed"  // … any other status, or no answer
	NoMatch       Kind = "NoMatch"       // no candidate took the code
	CodeSpent     Kind = "CodeSpent"     // the code was redeemed to keep upstream clean
	PopupClosed   Kind = "PopupClosed"   // verifyState CancelledByUser

	ClientFailure Kind = "ClientFailure" // signin/failure arrived

	SignOutAsked Kind = "SignOutAsked" // the bot called SignOut
	SignedOut    Kind = "SignedOut"    // DELETE: done
	SignOutError Kind = "SignOutError" // DELETE: failed

	Sweep         Kind = "Sweep"         // the sweeper found the attempt due
	ReconcileAsk  Kind = "ReconcileAsk"  // an operator asked upstream's truth
	Recovered     Kind = "Recovered"     // plain GetToken: 200
	NotRecovered  Kind = "NotRecovered"  // plain GetToken: 404
	RecoverFailed Kind = "RecoverFailed" // plain GetToken: anything else
	CancelAsked   Kind = "CancelAsked"   // an operator ended the attempt
)

// Event is one thing that happened. It carries no secret: tokens and codes
// are marks by the time they get here.
type Event struct {
	Kind       Kind
	ExchangeID string
	TokenMark  []byte
	CodeMark   []byte
	SSO        bool   // ResourceCame: the card offers SSO
	Withheld   bool   // ResourceCame: SSO could be offered, but not in this conversation (A14)
	CardID     string // CardAccepted
	// ResourceCame: where the card goes, if not where the user asked.
	CardConversation string
	Status           int    // of an upstream answer, 0 for none
	Code             string // failure code of the client, or of the upstream
	Message          string
	Detail           string // short, for the audit trail

	Waited     store.State // the state in which this event has already waited
	Fence      int64       // the claim under which an upstream call was made; 0 for none
	Only       bool        // verifyState: there is no other candidate
	Attributed bool        // verifyState: replyToId names this attempt, or it is the only candidate
	First      bool        // verifyState: the best candidate
	Unclear    bool        // NoMatch: an upstream failure hid the truth
	Asked      bool        // upstream has been asked for its truth (E8)
	Raced      bool        // others changed the attempt since the last upstream call
	Another    bool        // … or put another in its place
	OldCard    bool        // the exchange id is of an attempt that this one superseded
	Foreign    bool        // the exchange id is another user's
	Actor      string      // operator
	Invoke     string      // the invoke that brought it, for the audit trail
	Activity   string
	Platform   string
}

// Guard is a condition of a rule, by name; guards.go says what it means.
type Guard string

// Op is a change of the record that goes with a rule, by name; ops.go does it.
type Op string

// Act is what happens after the commit.
type Act string

// The acts. All but the first four talk to an upstream and come back as an
// event.
const (
	Nothing Act = ""
	Wait    Act = "wait"   // until somebody else has settled, then the same event again
	Again   Act = "again"  // the same event, on what the attempt is now
	Resume  Act = "resume" // the event that a recovery had interrupted, if any

	AskToken    Act = "GetToken"               // plain; comes back as TokenFound, NoToken, LookupFailed
	AskResource Act = "GetSignInResource"      // ResourceCame, ResourceFailed
	PostCard    Act = "POST card"              // CardAccepted, CardRejected, CardUnclear
	Exchange    Act = "exchange"               // ExchangeOK, ExchangeRefused, ExchangeFailed
	Redeem      Act = "GetToken with code"     // VerifyOK, VerifyMiss, VerifyRefused, VerifyFailed
	SpendCode   Act = "spend code"             // CodeSpent
	Recover     Act = "GetToken after a crash" // Recovered, NotRecovered, RecoverFailed
	Delete      Act = "SignOut"                // SignedOut, SignOutError
	DeleteAgain Act = "SignOut again"          // nothing comes back
)

// Reply is what the one who brought the event is told.
type Reply string

// The replies.
const (
	NoReply     Reply = ""
	ReplyOK     Reply = "200"
	ReplyBody   Reply = "412 with body" // ExchangeResponse with a failureDetail
	ReplyRefuse Reply = "412"
	ReplyBad    Reply = "400 with body"
	ReplyStatus Reply = "upstream status" // as the upstream answered; 412 for no answer
	ReplyRecord Reply = "recorded answer"
	ReplyWorst  Reply = "worst seen" // of all candidates of a code
	ReplyNext   Reply = "next candidate"
	ReplyToken  Reply = "token" // SignIn returns it
	ReplyWait   Reply = "pending"
	ReplyError  Reply = "error"
)

// Callback is what the bot's own code is told.
type Callback string

// The callbacks.
const (
	NoCallback Callback = ""
	TellDone   Callback = "C"          // OnSignInComplete
	TellFailed Callback = "F(nil)"     // OnSignInFailure, server side
	TellValue  Callback = "F(value)"   // OnSignInFailure with the client's code
	TellAll    Callback = "F(value) *" // … on every registered connection
	TellNobody Callback = "silent"     // complete, but the caller of SignIn holds the token
)

// Opening says that a rule opens a new attempt and how it hangs together with
// the one that was there.
type Opening string

// The openings. A new attempt is always inserted as Idle; a rule's To is the
// edge it takes from there in the same transaction.
const (
	OpensNone    Opening = ""
	OpensFresh   Opening = "fresh"   // a chain of its own
	OpensInstead Opening = "instead" // the old one becomes Failed superseded
	OpensLinked  Opening = "linked"  // goes on from one that ended Failed, with its card
)

// Rule is one line of the table.
type Rule struct {
	Row    string        // its name in state-machine.md §4
	On     []Kind        // any of these events
	From   []store.State // in any of these states; store.None = no attempt
	If     []Guard       // all of these hold
	Open   Opening
	Origin store.Origin // of the attempt that is opened
	To     store.State  // store.None = the same state
	Method store.Method // on To Complete
	Reason store.Reason // on To Failed
	Do     []Op
	Then   Act
	As     Kind // with Again: as if this had happened
	Reply  Reply
	Call   Callback
	Note   string // in the audit line: of a rule that changes nothing, or beside the transition
}

// Input is all that a step may look at.
type Input struct {
	Attempt  *store.Attempt // nil = none
	Event    Event
	Now      time.Time // the store's clock
	Policy   *Policy
	Timeouts *Timeouts
	Instance string // who takes the step

	// What a new attempt is made of.
	NewID        string
	Key          store.Key
	Conversation store.Conversation
	Request      []byte

	lines []store.Event // where the lines of the decision are put; empty
}

func (in *Input) state() store.State {
	if in.Attempt == nil {
		return store.None
	}
	return in.Attempt.State
}
