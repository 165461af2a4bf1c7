package store

import (
	"context"
	"errors"
	"time"
)

// Errors of a backend, compared with errors.Is.
var (
	// ErrNotFound: no such attempt.
	ErrNotFound = errors.New("not found")
	// ErrExists: the key already has a non-terminal attempt, or the user already
	// has an attempt of this id.
	ErrExists = errors.New("a non-terminal attempt of this key exists")
	// ErrConflict: the attempt, delivery or mark is no longer as it was read.
	ErrConflict = errors.New("version conflict")
	// ErrDuplicate: a mark of this commit is already there, and not over.
	ErrDuplicate = errors.New("duplicate")
	// ErrLocked: another process holds the file.
	ErrLocked = errors.New("store is locked by another process")
	// ErrSchema: the store was written by a version that this one does not read.
	ErrSchema = errors.New("store has another schema version")
	// ErrUnavailable: the backend cannot be reached or cannot write right now.
	ErrUnavailable = errors.New("store unavailable")
	// ErrCorrupt: a stored record cannot be decoded: it is damaged, or a newer
	// program wrote it.
	ErrCorrupt = errors.New("corrupt record")
	// ErrReadOnly: the store was opened for reading.
	ErrReadOnly = errors.New("store is open read-only")
	// ErrInvalid: a commit that no store takes; see [Commit.Validate].
	ErrInvalid = errors.New("malformed commit")
)

// Commit is what one step of the machine writes: all of it or nothing.
type Commit struct {
	// Put inserts (Version 1) or replaces (stored version must be Version-1)
	// attempts, in this order. An attempt keeps its Key for good: one with
	// another Key is ErrNotFound. A Put with a non-empty ExchangeID makes that
	// id point to this attempt from now on; that attempts of two users have one
	// is not foreseen, and then it leads to either.
	Put []Attempt
	// Events are appended; their Seq is given by the store. An event of an
	// attempt that is neither stored nor in Put is ErrNotFound.
	Events []Event
	// Deliveries are inserted; of an attempt that is neither stored nor in Put:
	// ErrNotFound. One whose key is taken is ErrConflict.
	Deliveries []Delivery
	// Acks change deliveries that are there; see [Ack].
	Acks []Ack
	// Drop names attempts whose completions nobody is to be told of any more:
	// their deliveries of kind complete that are pending become dropped, held
	// or not, and so do those of this commit's Deliveries and Acks. It is no
	// error if there are none.
	Drop []string
	// Marks are inserted, replaced or removed; see [Mark].
	Marks []Mark
	// User is whose attempts the commit is about, beside those of Put: a backend
	// that distributes its rows finds them by it. It is no error to leave it
	// empty: then they are looked for by their ids alone, which takes longer.
	User UserKey
}

// Ack replaces a stored delivery, as a compare-and-set: only if it is pending,
// dead or undeliverable and still bears Owner and Tries as they were read.
// Otherwise somebody else has claimed it since, and the commit is ErrConflict. So
// is a second ack of the row in one commit, and one of a row that it inserts.
type Ack struct {
	Delivery
	By  string // Owner of the stored row
	Try int    // Tries of the stored row
}

// Mark is a name that is remembered until it is over, with or without a value:
// what makes a handler run once, what a popup has to find again on another
// instance. It dies with the retention at the latest, counted from Version 1.
type Mark struct {
	Name string
	// Version 1 inserts: a mark that is there and not over is ErrDuplicate.
	// Version n replaces version n-1 that is there and not over, else ErrConflict.
	Version int64
	Value   []byte    // whoever writes it seals it; at most [MaxMark] bytes
	Expires time.Time // zero: with the retention
	// Gone removes what Version would have replaced.
	Gone bool
	// Wakes wakes those who wait in [Store.Changed] for the mark's name, with
	// version 0, on every process. It is not stored.
	Wakes bool
}

// MaxMark bounds the value of a mark, in bytes.
const MaxMark = 128 << 10

// Query says which attempts [Store.Find] is after.
type Query struct {
	User       UserKey
	Connection string // "" = every connection of the user
	ExchangeID string // "" = none
	Limit      int    // of Snapshot.Attempts; 0 = 1 with a connection, else 50
}

// Snapshot is what one read saw.
type Snapshot struct {
	// Now is the store's clock at the read.
	Now time.Time
	// ByExchangeID is the attempt that Query.ExchangeID points to, whoever's it is.
	ByExchangeID *Attempt
	// Attempts of the user (and connection): non-terminal first, then newest
	// first. A non-terminal attempt is never cut off by Limit.
	Attempts []Attempt
	// Corrupt are the records that were passed over.
	Corrupt []Corrupt
}

// Corrupt is a record of an attempt that cannot be decoded. It is set aside:
// reads of many attempts pass over it and name it, and nothing changes it.
type Corrupt struct {
	ID  string
	Err error // matches ErrCorrupt
}

// Filter selects attempts for people. Zero members do not filter.
type Filter struct {
	IDPrefix     string
	User         string // MRI or Entra object id
	Connection   string
	Tenant       string
	Conversation string
	Activity     string // id of the activity that opened it, or of its card
	States       []State
	Open         bool // non-terminal only
	Owed         bool // only with a delivery that is owed, see [Delivery.Owed]
	Reason       Reason
	FailureCode  string
	Method       Method
	Platform     string
	Instance     string    // last owner of the lease
	Since        time.Time // created at or after
	Until        time.Time // created before
	EnteredUntil time.Time // State entered before
	Limit        int       // 0 = 50
	Cursor       string    // Page.Next of the page before
}

// Page is a part of a list, newest attempt first.
type Page struct {
	Now        time.Time
	Attempts   []Attempt
	Deliveries []Delivery // of these attempts, every status
	Corrupt    []Corrupt  // between these attempts, whatever the filter says of them
	Next       string     // "" = no more
}

// EventFilter selects the audit lines of one attempt, or those of none, by Seq.
type EventFilter struct {
	Attempt string // lines of this attempt
	Orphans bool   // lines of no attempt
	Since   time.Time
	After   int64 // Seq greater than this
	Limit   int   // 0 = 1000
}

// TrailQuery selects audit lines of every attempt and of none, in the order in
// which they were written. That is nearly the order of their times: a line may be
// written some time after what it tells of.
type TrailQuery struct {
	Since  time.Time // no line of what happened before
	Cursor string    // Trail.Next of the read before; "" = from the beginning
	Limit  int       // 0 = 1000
}

// Trail is a part of the audit trail.
type Trail struct {
	Events []Event
	// Next goes on behind these lines, now or later: no line is missed, however
	// late it is written, and none comes twice. It is never empty.
	Next string
	More bool // there is more to read now
}

// Counts is an overview: what is open now and what ended since.
type Counts struct {
	Now    time.Time
	Open   map[State]int
	Oldest map[State]time.Time // when the longest-staying attempt entered
	Ended  map[string]int      // by [Attempt.Outcome], since the full minute of since
	Owed   int                 // deliveries pending
	Dead   int                 // deliveries dead
	// Undeliverable counts deliveries that were given up because no repeat could
	// change the refusal.
	Undeliverable int
}

// ClaimQuery says which deliveries [Store.Claim] is to take.
type ClaimQuery struct {
	Owner   string        // who will try them
	Attempt string        // "" = of any attempt
	Limit   int           // at most so many; 0 = none
	Hold    time.Duration // until somebody else may try
}

// Info says what a store is.
type Info struct {
	Backend string // memory, bolt, postgres
	Where   string // path, or address without secrets
	Schema  int
	Now     time.Time
	// Warnings are what its administrator should see to, and what to do: a
	// sentence each.
	Warnings []string
}

// Store is a backend. Its methods may be called from many goroutines.
// Errors match the package's error values; anything else is ErrUnavailable.
type Store interface {
	// Apply writes the commits in order, each atomically and on its own: the
	// result has one error, or nil, per commit. Where several things are wrong
	// with a commit, its Put come first, then Events, Deliveries, Acks, Marks. It
	// keeps neither the commits nor their slices once it has returned, but for
	// [Attempt].Request.
	Apply(ctx context.Context, commits []Commit) []error
	// Find is the engine's read before a step. A record that cannot be decoded is
	// ErrCorrupt if it is what the query is about (its exchange id, or the open
	// attempt of its connection); otherwise it is passed over.
	Find(ctx context.Context, q Query) (Snapshot, error)
	// Get returns one attempt by id, in Snapshot.Attempts.
	Get(ctx context.Context, id string) (Snapshot, error)
	// Due returns attempts whose Due time is over and keeps them from other
	// callers of Due for hold, oldest first. A Put ends the hold. Records that
	// cannot be decoded are held like the others, count for limit and are named.
	Due(ctx context.Context, limit int, hold time.Duration) (Snapshot, error)
	// Claim takes deliveries that are pending, whose NextAt is over and before
	// which no delivery of the same attempt with a smaller Round is pending,
	// longest due first: it sets Owner, adds a try and moves NextAt to now+Hold.
	// Rows that cannot be decoded are passed over.
	Claim(ctx context.Context, q ClaimQuery) ([]Delivery, error)
	// Changed returns when the attempt's version is greater than version,
	// when something may have happened, or when ctx is done. A hint, not a
	// promise: the caller reads again.
	Changed(ctx context.Context, id string, version int64) error
	// Purge deletes attempts that ended before the time, with their events,
	// deliveries and exchange ids: at most limit per call (0 = all; which ones is
	// not said). Where none of them is left it deletes orphan lines and marks that
	// are as old. It returns how many attempts; dry only counts. Records that
	// cannot be decoded stay.
	Purge(ctx context.Context, before time.Time, limit int, dry bool) (int, error)

	// Mark returns a mark that is there and not over; ErrNotFound otherwise.
	Mark(ctx context.Context, name string) (Mark, error)

	// List, Events, Trail and Counts are the operator's reads. A cursor that is
	// none is ErrInvalid.
	List(ctx context.Context, f Filter) (Page, error)
	Events(ctx context.Context, f EventFilter) ([]Event, error)
	Trail(ctx context.Context, q TrailQuery) (Trail, error)
	Counts(ctx context.Context, since time.Time) (Counts, error)

	// Secret is the store's first key (32 bytes), which it was made with. It never
	// changes: what is found by a name that was made with it is found for good.
	Secret() []byte
	// Keys are the store's keys for marks and seals.
	Keys(ctx context.Context) (KeyRing, error)
	// SwapKeys replaces them. ErrConflict: they are no longer old.
	SwapKeys(ctx context.Context, old, next []SecretKey) error
	// Info describes the store and proves that it answers.
	Info(ctx context.Context) (Info, error)
	// Probe reports whether a commit would work now.
	Probe(ctx context.Context) error
	Close() error
}

// Exclusive is a [Store] that belongs to one process at a time. Every lease that
// an earlier process took, on attempts and on deliveries, is over as soon as a
// new one has opened it.
type Exclusive interface {
	Store
	// Exclusive reports whether that is so.
	Exclusive() bool
}

// Concurrent is a [Store] that gains when Apply is called again while a call of it
// is under way.
type Concurrent interface {
	Store
	// Concurrent reports whether that is so.
	Concurrent() bool
}

// IsConcurrent reports whether s gains by several calls of Apply at once.
func IsConcurrent(s Store) bool {
	c, ok := s.(Concurrent)
	return ok && c.Concurrent()
}

// IsExclusive reports whether s belongs to this process alone.
func IsExclusive(s Store) bool {
	e, ok := s.(Exclusive)
	return ok && e.Exclusive()
}
