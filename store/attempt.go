package store

import (
	"strings"
	"time"
)

// State is the state of an attempt. A Method or a Reason says why it is there; that is
// never a further state.
type State string

// The states, in the order of a sign-in. None means that there is no row: it is the
// source of an insertion in the audit trail and is never stored.
const (
	None       State = ""
	Idle       State = "Idle"       // row exists, card not acknowledged
	CardSent   State = "CardSent"   // card acknowledged, waiting for the user or the client
	Exchanging State = "Exchanging" // an SSO token is at the Token Service
	Verifying  State = "Verifying"  // a verification code is at the Token Service
	Complete   State = "Complete"   // terminal: the Token Service holds the user's token
	Failed     State = "Failed"     // terminal: see Reason
)

// Terminal reports whether no transition leaves s.
func (s State) Terminal() bool { return s == Complete || s == Failed }

// Valid reports whether s may be in a stored attempt.
func (s State) Valid() bool {
	switch s {
	case Idle, CardSent, Exchanging, Verifying, Complete, Failed:
		return true
	case None:
		return false
	}
	return false
}

// Origin says how an attempt began.
type Origin string

// The origins.
const (
	OriginSignIn     Origin = "signin"      // the bot asked
	OriginAdopted    Origin = "adopted"     // an invoke arrived for a card this store does not know, or after the end
	OriginCompose    Origin = "compose"     // a message extension asked
	OriginCardAction Origin = "card_action" // an Adaptive Card action asked
)

// Method says how an attempt became Complete.
type Method string

// The methods.
const (
	MethodSilent        Method = "silent"
	MethodTokenExchange Method = "tokenExchange"
	MethodVerifyState   Method = "verifyState"
	MethodCompose       Method = "composeExtension"
	MethodAdaptiveCard  Method = "adaptiveCard"
	MethodRecovered     Method = "recovered"
)

// Reason says why an attempt became Failed.
type Reason string

// The reasons.
const (
	ReasonCardRejected        Reason = "card_rejected"
	ReasonUpstreamRejected    Reason = "upstream_rejected"
	ReasonUpstreamUnavailable Reason = "upstream_unavailable"
	ReasonClientFailure       Reason = "client_failure"
	ReasonCodeRejected        Reason = "code_rejected"
	ReasonUserCancelled       Reason = "user_cancelled"
	ReasonExpired             Reason = "expired"
	ReasonSuperseded          Reason = "superseded"
	ReasonSignedOut           Reason = "signed_out"
	ReasonOperator            Reason = "operator"
	ReasonAbandoned           Reason = "abandoned"
)

// UserKey is one user of one bot on one channel.
type UserKey struct {
	App     string // the bot's app id
	Channel string // base channel: "msteams", never "msteams:COPILOT"
	User    string // the user's MRI, "29:…"
}

// Key identifies a user and a connection. At most one attempt of a key is not terminal.
type Key struct {
	App        string
	Channel    string
	User       string
	Connection string // as registered; compared without regard to case
}

// UserKey returns the key without its connection.
func (k Key) UserKey() UserKey { return UserKey{App: k.App, Channel: k.Channel, User: k.User} }

// Same reports whether two keys name the same user and connection.
func (k Key) Same(o Key) bool {
	return k == o || k.Index() == o.Index()
}

// Index is the key for a backend's index: its parts joined by a byte that occurs in
// none of them, with the connection in lower case.
func (k Key) Index() string {
	return k.App + "\x1f" + k.Channel + "\x1f" + k.User + "\x1f" + strings.ToLower(k.Connection)
}

// Index is the user key for a backend's index; see [Key.Index].
func (u UserKey) Index() string {
	return u.App + "\x1f" + u.Channel + "\x1f" + u.User
}

// BaseChannel removes a sub-channel: "msteams:COPILOT" becomes "msteams". Every Token
// Service call and every key uses the base channel (docs/protocol.md §1).
func BaseChannel(id string) string {
	base, _, _ := strings.Cut(id, ":")
	return base
}

// Conversation is what a callback without a live turn needs.
type Conversation struct {
	ServiceURL string
	Channel    string // channel id as it came, sub-channel included
	ID         string
	Type       string // personal, groupChat, channel
	IsGroup    bool
	Tenant     string
	BotID      string
	BotName    string
	UserID     string
	UserName   string
	UserAAD    string // Entra object id
	Locale     string
}

// Lease is an instance's claim on an attempt while it talks to an upstream.
type Lease struct {
	Owner string    // instance id
	Fence int64     // grows by one with every claim and never shrinks
	Until time.Time // by the store's clock
}

// Live reports whether somebody holds the lease at now.
func (l Lease) Live(now time.Time) bool { return l.Owner != "" && now.Before(l.Until) }

// The sources of a [Failure].
const (
	SourceClient       = "client"        // signin/failure
	SourceTokenService = "token_service" // the Token Service refused, or did not answer
	SourceConnector    = "connector"     // the Bot Connector refused, or did not answer
	SourceCredentials  = "credentials"   // the bot could not get its own token
)

// Failure describes the last failure of an attempt.
type Failure struct {
	Source    string // one of the four above
	Operation string // what was called: "GetToken", "exchange", "CreateConversation"
	Status    int    // HTTP status, 0 for none
	Code      string // the upstream's or the client's own error code
	Kind      string // [KindConsent], or "" where nothing more is known
	Message   string
}

// KindConsent is the kind of a refusal because the user's or an administrator's consent
// is missing.
const KindConsent = "consent_required"

func (f *Failure) clone() *Failure {
	if f == nil {
		return nil
	}
	c := *f
	return &c
}

// Verdict is the result of one check of an SSO token.
type Verdict int8

// The verdicts. Unknown means that the token does not say.
const (
	Unknown Verdict = iota
	Holds
	Fails
)

// Diagnosis has the verdicts on the SSO token of a refused exchange; the token itself
// is not kept (docs/state-machine.md §9). Its signature was not checked. The zero value
// means that no exchange was refused, or that its token could not be read.
type Diagnosis struct {
	Audience Verdict // the audience is the card's resource, or the client id at its end
	Version  Verdict // the token's version is 2.0
	Tenant   Verdict // its tenant is the conversation's
	User     Verdict // its object id is the sender's
	Client   Verdict // it was issued to one of the two Teams clients
	Fresh    Verdict // it had not expired
}

// pack is the diagnosis as one number, two bits a verdict.
func (d Diagnosis) pack() int64 {
	var n int64
	for i, v := range [...]Verdict{d.Audience, d.Version, d.Tenant, d.User, d.Client, d.Fresh} {
		n |= int64(v&3) << (2 * i)
	}
	return n
}

func unpackDiagnosis(n int64) (d Diagnosis) {
	for i, v := range [...]*Verdict{&d.Audience, &d.Version, &d.Tenant, &d.User, &d.Client, &d.Fresh} {
		*v = Verdict(n >> (2 * i) & 3)
	}
	return d
}

// Attempt is one sign-in attempt. It holds no secret: tokens and codes appear
// only as marks, HMACs under the store's own key.
type Attempt struct {
	ID      string // ULID of Created: sorts by it, and a filter by time may go by it
	Version int64  // 1 at insertion, +1 with every write
	Key     Key
	State   State
	Origin  Origin

	Activity         string // id of the activity that opened it; "" if none did
	ExchangeID       string // the card's tokenExchangeResource.id
	ResourceURI      string // the card's tokenExchangeResource.uri
	CardActivityID   string
	SSOOffered       bool
	DeliveryUnknown  bool // the card's POST got no clear answer (A8)
	PopupClosed      bool // the user closed the popup (C1)
	Conversation     Conversation
	CardConversation string // where the card was sent, if not in Conversation.ID
	Platform         string // of the client that was last heard of

	Created time.Time
	Entered time.Time // when State was entered, not before Created
	Expires time.Time
	Lease   Lease
	CheckAt time.Time // not to be recovered before (E8's back-off)
	Checks  int       // recoveries tried in a row

	VerifyTries int
	Invokes     int    // invokes that reached this attempt
	Rounds      int    // exchange rounds begun
	Calls       int    // callbacks owed so far; numbers the outbox rows
	SSOOutcome  string // "", "rejected", "client_failed:CODE", "signed_out": after its end
	Method      Method
	Reason      Reason
	Failure     *Failure
	Diagnosis   Diagnosis // of the last refused exchange
	// NoSSOUntil: the next cards of this key are sent without the SSO resource
	// until then, since Teams could not match it.
	NoSSOUntil time.Time

	AnswerStatus int       // the recorded answer of the last exchange, 0 for none
	AnswerDetail string    // its failureDetail
	AnswerCause  int       // the Token Service's status behind it, 0 for no answer
	AnswerAt     time.Time // when it was given
	TokenMark    []byte    // HMAC of the last SSO token
	CodeMark     []byte    // HMAC of the last verification code
	CodeStatus   int       // the recorded answer to that code, 0 for none

	Supersedes   string
	SupersededBy string
	Generation   int64 // sign-outs of this key so far

	Request []byte // the activity that asked, sealed; nil unless kept; never changed in place
}

// Due is when the sweeper must look at the attempt; zero is never.
func (a *Attempt) Due() time.Time {
	switch a.State {
	case Idle:
		return a.Lease.Until
	case CardSent:
		return a.Expires
	case Exchanging, Verifying:
		if a.CheckAt.After(a.Lease.Until) {
			return a.CheckAt
		}
		return a.Lease.Until
	case Complete, Failed, None:
		return time.Time{}
	}
	return time.Time{}
}

// Outcome names how the attempt ended, "Complete:METHOD" or "Failed:REASON",
// and is empty while it has not.
func (a *Attempt) Outcome() string {
	switch a.State {
	case Complete:
		return string(Complete) + ":" + string(a.Method)
	case Failed:
		return string(Failed) + ":" + string(a.Reason)
	case Idle, CardSent, Exchanging, Verifying, None:
		return ""
	}
	return ""
}

// Normalize converts the attempt's times with [Time], and makes empty marks nil.
func (a *Attempt) Normalize() {
	for _, t := range []*time.Time{&a.Created, &a.Entered, &a.Expires, &a.Lease.Until, &a.CheckAt, &a.NoSSOUntil, &a.AnswerAt} {
		*t = Time(*t)
	}
	for _, b := range []*[]byte{&a.TokenMark, &a.CodeMark, &a.Request} {
		if len(*b) == 0 {
			*b = nil
		}
	}
}

// Clone returns a deep copy.
func (a *Attempt) Clone() Attempt {
	var c Attempt
	a.CloneTo(&c)
	return c
}

// CloneTo makes c a deep copy. The copies share Request, which is never changed in
// place.
func (a *Attempt) CloneTo(c *Attempt) {
	*c = *a
	c.Failure = a.Failure.clone()
	c.TokenMark = cloneBytes(a.TokenMark)
	c.CodeMark = cloneBytes(a.CodeMark)
}

func cloneBytes(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// Time converts t to the store's precision: UTC, microseconds. Zero stays zero.
func Time(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}
