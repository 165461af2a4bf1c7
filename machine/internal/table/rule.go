package table

import (
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// The states, by their short names.
const (
	None       = store.None // no attempt
	Idle       = store.Idle
	CardSent   = store.CardSent
	Exchanging = store.Exchanging
	Verifying  = store.Verifying
	Complete   = store.Complete
	Failed     = store.Failed
)

// States lists the stored states in the order of a sign-in.
func States() []store.State {
	return []store.State{Idle, CardSent, Exchanging, Verifying, Complete, Failed}
}

// Block is all rules for some events in some states.
type Block struct {
	On    []Kind
	In    []store.State
	Rules []Rule
}

// Rule is one line of the table.
type Rule struct {
	Row  string  // its name in docs/state-machine.md §4
	If   []Guard // all of these hold
	Open Opening // whether it opens an attempt; if so, Edge is the new attempt's
	// Origin is the new attempt's origin.
	Origin store.Origin
	Edge   Edge         // the fsm edge that it takes; "" = none
	Method store.Method // how it was completed, with Edge complete
	Reason store.Reason // why it failed, with Edge fail
	Do     []Op         // changes of the record
	Then   Act          // what happens after the commit
	As     Kind         // with Then Again: as if this had happened
	Reply  Reply        // what the caller is answered
	Tell   Callback     // what the bot's own code is told
	Note   string       // for the audit trail
}

// Edge is an event of the fsm, by name (fsm.go).
type Edge string

// Guard is a condition of a rule, by name (guards.go).
type Guard string

// Op is a change of the record, by name (ops.go).
type Op string

// Opening says whether a rule opens an attempt, and how the new one relates to
// the existing one.
type Opening string

// The openings. A new attempt is inserted as Idle, and takes the rule's edge in
// the same transaction.
const (
	OpensNone    Opening = ""
	OpensFresh   Opening = "fresh"      // a chain of its own
	OpensInstead Opening = "instead of" // the existing one becomes Failed (superseded)
	OpensLinked  Opening = "linked to"  // continues one that ended Failed, with its card
)

// Act is what happens after the commit.
type Act string

// The acts. An act that calls an upstream yields the next event.
const (
	Nothing Act = ""
	Wait    Act = "wait"   // until another caller has settled; then the same event again
	Again   Act = "again"  // the same event on the changed attempt, or As
	Resume  Act = "resume" // the event that a recovery interrupted, if any

	AskToken    Act = "GetToken"
	AskResource Act = "GetSignInResource"
	PostCard    Act = "POST card"
	Exchange    Act = "exchange"
	Redeem      Act = "GetToken with code"
	SpendCode   Act = "spend code"     // as Redeem, but the answer is ignored
	Recover     Act = "GetToken again" // after a crash, or when a token is announced
	Delete      Act = "SignOut"
	DeleteAgain Act = "SignOut again" // the answer is ignored
)

// Reply is how the caller is answered.
type Reply string

// The replies.
const (
	NoReply     Reply = ""
	ReplyOK     Reply = "200"
	ReplyBody   Reply = "412 with body"   // with a failureDetail
	ReplyRefuse Reply = "412"             // without a body
	ReplyBad    Reply = "400 with body"   // with a failureDetail
	ReplyStatus Reply = "upstream status" // the upstream's status; 412 if it gave no answer
	ReplyRecord Reply = "recorded answer"
	ReplyWorst  Reply = "worst seen" // of all candidates of a code
	ReplyNext   Reply = "next candidate"

	ReplyToken     Reply = "token"            // SignIn returns it
	ReplyCardSent  Reply = "card sent"        // SignIn: pending, the card is out now
	ReplyCardOut   Reply = "card already out" // SignIn: pending, an earlier card is out
	ReplyElsewhere Reply = "elsewhere"        // SignIn: pending, another device or instance handles it
	ReplyError     Reply = "error"
)

// Callback selects which of the bot's handlers are called.
type Callback string

// The callbacks.
const (
	TellNothing Callback = ""
	TellDone    Callback = "C"            // OnSignInComplete
	TellFailed  Callback = "F(nil)"       // OnSignInFailure, server side
	TellValue   Callback = "F(value)"     // OnSignInFailure with the client's code
	TellAll     Callback = "F(value) *"   // … on every registered connection
	TellApp     Callback = "F(value) app" // … on none, only the bot-wide handler
	TellSilent  Callback = "silent"       // complete, but no callback: the caller of SignIn has the token
)

// Policy is the part of the bot's policy that the rules use.
type Policy struct {
	ReplayFailed       bool // failed_duplicate: replay
	RejectLate         bool // late_invoke: reject
	FailOnClose        bool // popup_closed: fail
	CardOnLookupError  bool // on_silent_error: card
	TellAllFailures    bool // failure_fanout: all
	AcknowledgeFirst   bool // callback_mode: at_most_once
	MaxCodeTries       int
	ResendCooldown     time.Duration
	ComposeCooldown    time.Duration
	AttemptLife        time.Duration // until an attempt expires
	Lease, OutboxLease time.Duration
}

// Input is everything that a step may read.
type Input struct {
	Attempt  *store.Attempt // nil = none; never modified
	Event    Event
	Now      time.Time // the store's clock
	Policy   *Policy
	Instance string // the instance that takes the step

	// Since is when this process began to own the store. Leases taken earlier
	// have ended. It is zero if several processes share the store.
	Since time.Time

	// For a new attempt.
	NewID string
	Key   store.Key
	// Ended is the newest attempt of the key if Attempt is nil. State that
	// outlives an attempt, such as Generation, is read from it.
	Ended *store.Attempt
	// Conversation is where the event came from. It refreshes the stored one,
	// since service URLs move.
	Conversation store.Conversation
	Request      []byte
	// Resumes reports whether the bot has handlers of purposes. They get what an attempt
	// keeps, even if the caller of SignIn has got the token.
	Resumes bool
}

func (in *Input) state() store.State {
	if in.Attempt == nil {
		return None
	}
	return in.Attempt.State
}

// held reports whether the attempt has an owner: its lease is live, was not taken
// by an earlier process, and is none of those being let go. The lease is compared as
// a whole: if the store did not keep a claim, the next one gets the same fence.
func (in *Input) held() bool {
	lease := in.Attempt.Lease
	for _, gone := range in.Event.LetGo {
		if lease.Owner == gone.Owner && lease.Fence == gone.Fence && lease.Until.Equal(gone.Until) {
			return false
		}
	}
	if !in.Since.IsZero() && lease.Until.Add(-in.Policy.Lease).Before(in.Since) {
		return false
	}
	return lease.Live(in.Now)
}

// Decision is the result of a step.
type Decision struct {
	Rule Rule
	// Attempt is the existing attempt with its changes, or the new one.
	// nil = none.
	Attempt *store.Attempt
	// Commit has to be written before anything else happens. Audit lines alone
	// need no commit of their own.
	Commit store.Commit
	// Tell is the rule's callback.
	Tell Callback
	// Owed is the outbox row of the callback, nil for none. It is also in Commit.
	Owed *store.Delivery
}

// Writes reports whether the decision changes an attempt.
func (d *Decision) Writes() bool { return len(d.Commit.Put) > 0 }

// Helpers to write rules.
func block(on []Kind, in []store.State, rules ...Rule) Block {
	return Block{On: on, In: in, Rules: rules}
}
func on(k ...Kind) []Kind               { return k }
func in(s ...store.State) []store.State { return s }
func when(g ...Guard) []Guard           { return g }
func do(o ...Op) []Op                   { return o }
