package store

import (
	"cmp"
	"strconv"
	"strings"
	"time"
)

// EventKind says what an audit line reports.
type EventKind string

// The kinds of audit lines.
const (
	EventReceived   EventKind = "received"   // an invoke, a message, a call of the bot
	EventTransition EventKind = "transition" // From and To differ, or the record changed in place
	EventUpstream   EventKind = "upstream"   // a call to the Token Service or the connector, with its status
	EventAnswer     EventKind = "answer"     // what the invoke was answered
	EventCallback   EventKind = "callback"   // the bot's handler ran
	EventNote       EventKind = "note"       // anything worth knowing that changed nothing (probe_miss, duplicate …)
	EventOperator   EventKind = "operator"   // an operator's action, with its actor
	EventSecurity   EventKind = "security"   // a foreign exchange id (B18) and the like
)

// Event is one line of the audit trail: append-only, no secrets.
type Event struct {
	Attempt  string // "" = orphan: belongs to no attempt
	Seq      int64  // given by the store; orders the lines of an attempt
	Time     time.Time
	Instance string
	Kind     EventKind
	Row      string // row of the transition table, "B1"
	Version  int64  // version of the attempt after this line, on transitions
	From, To State  // on transitions
	Invoke   string // invoke name, or what was called
	Activity string // activity id
	Status   int    // HTTP status
	Source   string // who failed, as in [Failure]; "" if nobody did
	Code     string // the upstream's or the client's own error code
	Duration time.Duration
	Platform string // entities[].platform of the client
	Detail   string // short
	Actor    string // operator actions
	Key      Key    // orphans only: whom it was about
}

// Normalize converts the line's time with [Time], and makes its duration whole
// microseconds.
func (e *Event) Normalize() {
	e.Time = Time(e.Time)
	e.Duration = e.Duration.Truncate(time.Microsecond)
}

// DeliveryKind is the kind of a callback.
type DeliveryKind string

// The kinds of callbacks.
const (
	DeliverComplete DeliveryKind = "complete"
	DeliverFailure  DeliveryKind = "failure"
)

// DeliveryStatus is the status of a callback.
type DeliveryStatus string

// The statuses of a delivery.
const (
	DeliveryPending DeliveryStatus = "pending"
	DeliveryDone    DeliveryStatus = "delivered"
	DeliveryDead    DeliveryStatus = "dead" // gave up after so many tries; an operator may redeliver
	// DeliveryUndeliverable: no repeat can change the refusal (the bot was removed, the
	// user blocked it). An operator may still redeliver.
	DeliveryUndeliverable DeliveryStatus = "undeliverable"
	DeliveryDropped       DeliveryStatus = "dropped" // overtaken by a sign-out (E3)
	DeliveryNotOwed       DeliveryStatus = "silent"  // the caller of SignIn already holds the token (A2)
)

// Valid reports whether k is one of the kinds.
func (k DeliveryKind) Valid() bool { return k == DeliverComplete || k == DeliverFailure }

// Valid reports whether s is one of the statuses.
func (s DeliveryStatus) Valid() bool {
	switch s {
	case DeliveryPending, DeliveryDone, DeliveryDead, DeliveryUndeliverable, DeliveryDropped, DeliveryNotOwed:
		return true
	}
	return false
}

// DeliveryKey names a callback. It never changes: handlers may record it to be
// effectively once.
type DeliveryKey struct {
	Attempt string
	Kind    DeliveryKind
	Round   int // 1, 2, 3 … within the attempt
}

// String is the stable form, attempt/kind/round.
func (k DeliveryKey) String() string {
	return k.Attempt + "/" + string(k.Kind) + "/" + strconv.Itoa(k.Round)
}

// Delivery is one row of the outbox: a callback, written in the transaction of its
// transition.
type Delivery struct {
	DeliveryKey
	Status  DeliveryStatus
	Tries   int
	Created time.Time
	NextAt  time.Time // not to be tried before, by the store's clock
	Owner   string    // who is trying
	Fanout  bool      // a failure that is told to every registered connection
	Failure *Failure  // what the client said, and the handler gets; nil = server side
	Refusal *Failure  // what an upstream said, where the handler gets nil
	Error   string    // of the last try, short
}

// Compare orders keys by attempt, kind and round.
func (k DeliveryKey) Compare(o DeliveryKey) int {
	return cmp.Or(
		strings.Compare(k.Attempt, o.Attempt),
		strings.Compare(string(k.Kind), string(o.Kind)),
		cmp.Compare(k.Round, o.Round),
	)
}

// Owed reports whether the callback is still to be made: the delivery is pending, or
// was given up and an operator can make it due again.
func (d *Delivery) Owed() bool {
	return d.Status == DeliveryPending || d.Status == DeliveryDead || d.Status == DeliveryUndeliverable
}

// Dropped marks a pending completion as dropped, and reports whether it was one
// ([Commit.Drop]).
func (d *Delivery) Dropped() bool {
	if d.Kind != DeliverComplete || d.Status != DeliveryPending {
		return false
	}
	d.Status, d.Owner = DeliveryDropped, ""
	return true
}

// Matches reports whether the ack fits the stored delivery.
func (a *Ack) Matches(stored *Delivery) bool {
	return stored.Owed() && stored.Owner == a.By && stored.Tries == a.Try
}

// Normalize converts the delivery's times; see [Time].
func (d *Delivery) Normalize() {
	d.Created = Time(d.Created)
	d.NextAt = Time(d.NextAt)
}

// Clone returns a deep copy.
func (d *Delivery) Clone() Delivery {
	c := *d
	c.Failure, c.Refusal = d.Failure.clone(), d.Refusal.clone()
	return c
}
