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
	Open Opening // whether it opens an attempt; Edge is that one's then
	// Origin is that of the attempt that is opened.
	Origin store.Origin
	Edge   Edge         // the edge of the fsm that it takes; "" = none
	Method store.Method // how it was completed, with Edge complete
	Reason store.Reason // why it failed, with Edge fail
	Do     []Op         // changes of the record
	Then   Act          // what happens after the commit
	As     Kind         // with Then Again: as if this had happened
	Reply  Reply        // what the one who brought the event is told
	Tell   Callback     // what the bot's own code is told
	Note   string       // for the audit trail
}

// Edge is an event of the fsm, by name (fsm.go).
type Edge string

// Guard is a condition of a rule, by name (guards.go).
type Guard string

// Op is a change of the record, by name (ops.go).
type Op string

// Opening says whether a rule opens an attempt, and how the new one hangs
// together with the one that was there.
type Opening string

// The openings. A new attempt is inserted as Idle; the rule's edge is taken from
// there in the same transaction.
const (
	OpensNone    Opening = ""
	OpensFresh   Opening = "fresh"      // a chain of its own
	OpensInstead Opening = "instead of" // the one that was there becomes Failed superseded
	OpensLinked  Opening = "linked to"  // it goes on from one that ended Failed, with its card
)

// Act is what happens after the commit.
type Act string

// The acts. Those that call an upstream bring the next event.
const (
	Nothing Act = ""
	Wait    Act = "wait"   // until somebody else has settled; then the same event again
	Again   Act = "again"  // the same event, on what the attempt is now
	Resume  Act = "resume" // the event that a recovery had interrupted, if any

	AskToken    Act = "GetToken"
	AskResource Act = "GetSignInResource"
	PostCard    Act = "POST card"
	Exchange    Act = "exchange"
	Redeem      Act = "GetToken with code"
	SpendCode   Act = "spend code"     // as Redeem, but its answer counts for nothing
	Recover     Act = "GetToken again" // after a crash, or because somebody says that there may be a token
	Delete      Act = "SignOut"
	DeleteAgain Act = "SignOut again" // nothing comes back
)

// Reply is what the one who brought the event is told.
type Reply string

// The replies.
const (
	NoReply     Reply = ""
	ReplyOK     Reply = "200"
	ReplyBody   Reply = "412 with body"   // with a failureDetail
	ReplyRefuse Reply = "412"             // without a body
	ReplyBad    Reply = "400 with body"   // with a failureDetail
	ReplyStatus Reply = "upstream status" // as the upstream answered; 412 for no answer
	ReplyRecord Reply = "recorded answer"
	ReplyWorst  Reply = "worst seen" // of all candidates of a code
	ReplyNext   Reply = "next candidate"

	ReplyToken     Reply = "token"            // SignIn returns it
	ReplyCardSent  Reply = "card sent"        // SignIn: pending, the card is out now
	ReplyCardOut   Reply = "card already out" // SignIn: pending, an earlier card is out
	ReplyElsewhere Reply = "elsewhere"        // SignIn: pending, another device or instance is at it
	ReplyError     Reply = "error"
)

// Callback is what the bot's own code is told.
type Callback string

// The callbacks.
const (
	TellNothing Callback = ""
	TellDone    Callback = "C"            // OnSignInComplete
	TellFailed  Callback = "F(nil)"       // OnSignInFailure, server side
	TellValue   Callback = "F(value)"     // OnSignInFailure with the client's code
	TellAll     Callback = "F(value) *"   // … on every registered connection
	TellApp     Callback = "F(value) app" // … on none, only the bot's own for all connections
	TellSilent  Callback = "silent"       // complete, but the caller of SignIn holds the token
)

// Policy is the part of the bot's policy that rules ask for.
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

// Input is all that a step may look at.
type Input struct {
	Attempt  *store.Attempt // nil = none; it is not changed
	Event    Event
	Now      time.Time // the store's clock
	Policy   *Policy
	Instance string // who takes the step

	// Since is when this process began to own the store: leases taken before are
	// over. Zero where several processes share a store.
	Since time.Time

	// What a new attempt is made of.
	NewID string
	Key   store.Key
	// Ended is the newest attempt of the key where the event is about none: what
	// holds for the key, whatever becomes of its attempts, is read from it.
	Ended *store.Attempt
	// Conversation is where the event came from. It refreshes the stored one,
	// since service URLs move.
	Conversation store.Conversation
	Request      []byte
}

func (in *Input) state() store.State {
	if in.Attempt == nil {
		return None
	}
	return in.Attempt.State
}

// held reports whether somebody is at it: the attempt's lease is live, and it is
// neither that of an earlier process nor one that its own process lets go of. A fence
// alone does not tell: the claim that had it may not have been kept, and then the next
// one got the same.
func (in *Input) held() bool {
	lease, gone := in.Attempt.Lease, in.Event.LetGo
	if lease.Owner == gone.Owner && lease.Fence == gone.Fence && lease.Until.Equal(gone.Until) {
		return false
	}
	if !in.Since.IsZero() && lease.Until.Add(-in.Policy.Lease).Before(in.Since) {
		return false
	}
	return lease.Live(in.Now)
}

// Decision is what a step came to.
type Decision struct {
	Rule Rule
	// Attempt is what the rest is about: the one that was there, changed, or the
	// one that was opened. nil = none.
	Attempt *store.Attempt
	// Commit is what is to be written before anything else happens. Audit lines
	// alone are not worth a commit of their own.
	Commit store.Commit
	// Tell is the rule's callback.
	Tell Callback
	// Owed is the callback that goes with it, nil for none. It is in Commit too.
	Owed *store.Delivery
}

// Writes reports whether the decision changes an attempt.
func (d *Decision) Writes() bool { return len(d.Commit.Put) > 0 }

// How the rules are written.
func block(on []Kind, in []store.State, rules ...Rule) Block {
	return Block{On: on, In: in, Rules: rules}
}
func on(k ...Kind) []Kind               { return k }
func in(s ...store.State) []store.State { return s }
func when(g ...Guard) []Guard           { return g }
func do(o ...Op) []Op                   { return o }
