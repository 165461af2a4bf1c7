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
	// ErrConflict: the attempt, delivery or mark has changed since it was read.
	ErrConflict = errors.New("version conflict")
	// ErrDuplicate: a mark of this commit exists and has not expired.
	ErrDuplicate = errors.New("duplicate")
	// ErrLocked: another process holds the file.
	ErrLocked = errors.New("store is locked by another process")
	// ErrSchema: another version wrote the store, which this one cannot read.
	ErrSchema = errors.New("store has another schema version")
	// ErrUnavailable: the backend cannot be reached, or cannot write now.
	ErrUnavailable = errors.New("store unavailable")
	// ErrCorrupt: a stored record cannot be decoded: it is damaged, or a newer
	// program wrote it.
	ErrCorrupt = errors.New("corrupt record")
	// ErrReadOnly: the store was opened for reading.
	ErrReadOnly = errors.New("store is open read-only")
	// ErrInvalid: a malformed commit; see [Commit.Validate].
	ErrInvalid = errors.New("malformed commit")
)

// Commit is what one step of the machine writes: all of it or nothing.
type Commit struct {
	// Put inserts (Version 1) or replaces (stored version must be Version-1) attempts,
	// in this order. An attempt never changes its Key: one with another Key is
	// ErrNotFound. A Put that sets ExchangeID, or changes it, makes that id point to
	// this attempt from now on. Attempts of two users must not share an id; if they do,
	// it leads to either.
	Put []Attempt
	// Events are appended. The store assigns their Seq. An event of an attempt that is
	// neither stored nor in Put is ErrNotFound.
	Events []Event
	// Deliveries are inserted; of an attempt that is neither stored nor in Put:
	// ErrNotFound. One whose key is taken is ErrConflict.
	Deliveries []Delivery
	// Acks change existing deliveries; see [Ack].
	Acks []Ack
	// Drop names attempts whose completions must no longer be delivered. Their pending
	// deliveries of kind complete become dropped, held or not, and so do those in this
	// commit's Deliveries and Acks. It is no error if there are none.
	Drop []string
	// Marks are inserted, replaced or removed; see [Mark].
	Marks []Mark
	// User is the user of the commit's attempts outside of Put. A backend that
	// distributes its rows finds them by it. If it is empty, they are found by their
	// ids alone, which takes longer.
	User UserKey
}

// Ack replaces a stored delivery, as a compare-and-set: only if it is pending, dead or
// undeliverable and still has the Owner and Tries that were read. Otherwise somebody
// else has claimed it, and the commit is ErrConflict. So is a second ack of a row in
// one commit, and an ack of a row that the commit inserts.
type Ack struct {
	Delivery
	By  string // Owner of the stored row
	Try int    // Tries of the stored row
}

// Mark is a name that is remembered until it expires, with or without a value. Marks
// make a handler run once, and keep what a popup needs on another instance. A mark ends
// with the retention at the latest, counted from Version 1.
type Mark struct {
	Name string
	// Version 1 inserts: if the mark exists and has not expired, the error is
	// ErrDuplicate. Version n replaces version n-1, which must exist and not have
	// expired, else ErrConflict.
	Version int64
	Value   []byte    // whoever writes it seals it; at most [MaxMark] bytes
	Expires time.Time // zero: with the retention
	// Gone removes the version that Version would replace.
	Gone bool
	// Wakes wakes every caller of [Store.Changed] with the mark's name and version 0,
	// in every process. It is not stored.
	Wakes bool
}

// MaxMark is the largest value of a mark, in bytes.
const MaxMark = 128 << 10

// Query says which attempts [Store.Find] returns.
type Query struct {
	User       UserKey
	Connection string // "" = every connection of the user
	ExchangeID string // "" = none
	Limit      int    // of Snapshot.Attempts; 0 = 1 with a connection, else 50
}

// Snapshot is the result of one read.
type Snapshot struct {
	// Now is the store's clock at the read.
	Now time.Time
	// ByExchangeID is the attempt of Query.ExchangeID, of any user.
	ByExchangeID *Attempt
	// Attempts of the user (and connection): non-terminal first, then newest first.
	// Limit never cuts off a non-terminal attempt.
	Attempts []Attempt
	// Corrupt are the skipped records.
	Corrupt []Corrupt
}

// Corrupt is a record of an attempt that cannot be decoded. It is set aside: reads of
// many attempts skip it and name it, and nothing changes it.
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

// EventFilter selects the audit lines of one attempt, or those without an attempt, by
// Seq.
type EventFilter struct {
	Attempt string // lines of this attempt
	Orphans bool   // lines of no attempt
	Since   time.Time
	After   int64 // Seq greater than this
	Limit   int   // 0 = 1000
}

// TrailQuery selects all audit lines, with and without an attempt, in the order in
// which they were written. That is nearly the order of their times: a line may be
// written some time after its event.
type TrailQuery struct {
	Since  time.Time // no line of what happened before
	Cursor string    // Trail.Next of the read before; "" = from the beginning
	Limit  int       // 0 = 1000
}

// Trail is a part of the audit trail.
type Trail struct {
	Events []Event
	// Next continues after these lines, now or later. No line is missed, however late
	// it is written, and none comes twice. Next is never empty.
	Next string
	More bool // there is more to read now
}

// Counts is an overview: the attempts that are open now, and those that ended since.
type Counts struct {
	Now    time.Time
	Open   map[State]int
	Oldest map[State]time.Time // when the longest-staying attempt entered
	Ended  map[string]int      // by [Attempt.Outcome], since the full minute of since
	Owed   int                 // deliveries pending
	Dead   int                 // deliveries dead
	// Undeliverable counts deliveries that were closed because no repeat can change the
	// refusal.
	Undeliverable int
}

// ClaimQuery says which deliveries [Store.Claim] takes.
type ClaimQuery struct {
	Owner   string        // who will try them
	Attempt string        // "" = of any attempt
	Limit   int           // at most so many; 0 = none
	Hold    time.Duration // until somebody else may try
}

// Info describes a store.
type Info struct {
	Backend string // memory, bolt, postgres
	Where   string // path, or address without secrets
	Schema  int
	Now     time.Time
	// Warnings are for its administrator: each is a sentence that says what to do.
	Warnings []string
}

// Store is a backend. Its methods may be called from many goroutines.
// Errors match the package's error values; anything else is ErrUnavailable.
type Store interface {
	// Apply writes the commits in order, each atomically and on its own. The result has
	// one error, or nil, per commit. If several parts of a commit are wrong, Put is
	// reported first, then Events, Deliveries, Acks, Marks. After its return it keeps
	// neither the commits nor their slices, except [Attempt].Request.
	Apply(ctx context.Context, commits []Commit) []error
	// Find is the engine's read before a step. A record that cannot be decoded is
	// ErrCorrupt if the query asks for it (by its exchange id, or as the open attempt
	// of its connection). Otherwise it is skipped.
	Find(ctx context.Context, q Query) (Snapshot, error)
	// Get returns one attempt by id, in Snapshot.Attempts.
	Get(ctx context.Context, id string) (Snapshot, error)
	// Due returns attempts whose Due time has passed, oldest first, and hides them from
	// other callers of Due for hold. A Put ends the hold. Records that cannot be
	// decoded are held like the others, count for limit and are named.
	Due(ctx context.Context, limit int, hold time.Duration) (Snapshot, error)
	// Claim takes pending deliveries whose NextAt has passed, longest due first. It
	// skips a delivery while one of the same attempt with a smaller Round is pending.
	// It sets Owner, adds a try and moves NextAt to now+Hold. Rows that cannot be
	// decoded are skipped.
	Claim(ctx context.Context, q ClaimQuery) ([]Delivery, error)
	// Changed returns when the attempt's version is greater than version,
	// when something may have happened, or when ctx is done. A hint, not a
	// promise: the caller reads again.
	Changed(ctx context.Context, id string, version int64) error
	// Purge deletes attempts that ended before the time, with their events, deliveries
	// and exchange ids: at most limit per call (0 = all), in any order. If none of them
	// is left, it deletes orphan lines and marks of that age. It returns the number of
	// attempts; dry only counts. Records that cannot be decoded stay.
	Purge(ctx context.Context, before time.Time, limit int, dry bool) (int, error)

	// Mark returns a mark that has not expired; ErrNotFound otherwise.
	Mark(ctx context.Context, name string) (Mark, error)

	// List, Events, Trail and Counts are the operator's reads. A malformed cursor is
	// ErrInvalid.
	List(ctx context.Context, f Filter) (Page, error)
	Events(ctx context.Context, f EventFilter) ([]Event, error)
	Trail(ctx context.Context, q TrailQuery) (Trail, error)
	Counts(ctx context.Context, since time.Time) (Counts, error)

	// Secret is the store's first key (32 bytes). It never changes, so names that were
	// made with it can always be found.
	Secret() []byte
	// Keys are the store's keys for HMACs and sealed data.
	Keys(ctx context.Context) (KeyRing, error)
	// SwapKeys replaces the keys old by next. ErrConflict: the store's keys are no
	// longer old.
	SwapKeys(ctx context.Context, old, next []SecretKey) error
	// Info describes the store and proves that it answers.
	Info(ctx context.Context) (Info, error)
	// Probe reports whether a commit would work now.
	Probe(ctx context.Context) error
	Close() error
}

// Exclusive is a Store that belongs to one process at a time. When a new process opens
// it, all leases of earlier processes end, on attempts and on deliveries.
type Exclusive interface {
	Store
	// Exclusive reports whether that is so.
	Exclusive() bool
}

// Concurrent is a Store that is faster when several calls of Apply run at once.
type Concurrent interface {
	Store
	// Concurrent reports whether that is so.
	Concurrent() bool
}

// IsConcurrent reports whether several concurrent calls of Apply are faster on s; see
// [Concurrent].
func IsConcurrent(s Store) bool {
	c, ok := s.(Concurrent)
	return ok && c.Concurrent()
}

// IsExclusive reports whether s belongs to this process alone.
func IsExclusive(s Store) bool {
	e, ok := s.(Exclusive)
	return ok && e.Exclusive()
}
