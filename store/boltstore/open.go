package boltstore

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/kv"
)

// Format is the version of the file layout. A file with another version is
// [store.ErrSchema].
const Format = 6

// DefaultLockTimeout is how long [Open] waits by default for a file that another
// process holds.
const DefaultLockTimeout = 500 * time.Millisecond

// Indexes into buckets.
const (
	inRows = iota
	inLive
	inIndex
	inFacts
	inAudit
)

func buckets() []string { return []string{"rows", "live", "index", "facts", "audit"} }

// Store is a [store.Store] in a bbolt file.
type Store struct {
	path   string
	opts   options
	db     *kv.DB
	notify store.Notifier
	names  names
	txns   sync.Pool // of *txn

	scratch scratch // of the writer
}

var _ store.Exclusive = (*Store)(nil)

type options struct {
	clock    func() time.Time
	mode     fs.FileMode
	timeout  time.Duration
	readOnly bool
	noSync   bool
	logSize  int // see kv.Options
}

// Option changes how [Open] opens a file.
type Option func(*options)

// WithClock sets the store's clock; the default is [time.Now].
func WithClock(clock func() time.Time) Option { return func(o *options) { o.clock = clock } }

// WithMode sets the permissions of a new file; the default is 0600.
func WithMode(mode fs.FileMode) Option { return func(o *options) { o.mode = mode } }

// WithLockTimeout sets how long to wait for a file that another process holds;
// the default is [DefaultLockTimeout].
func WithLockTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithReadOnly opens the file for reading. Many processes may do so while none has
// it open for writing. A missing file is [fs.ErrNotExist].
func WithReadOnly() Option { return func(o *options) { o.readOnly = true } }

// WithoutSync turns syncing off, for tests of everything but durability.
func WithoutSync() Option { return func(o *options) { o.noSync = true } }

// Open opens or creates the store in the file at path. Errors: [store.ErrLocked] if
// another process holds the file, [store.ErrSchema] if it has another format or
// belongs to another program, [store.ErrCorrupt] if it is not a bbolt database, is
// damaged, or was not closed and its log is missing or damaged, else those of
// package os.
func Open(path string, opts ...Option) (*Store, error) {
	s := &Store{path: path, opts: options{clock: time.Now, mode: 0o600, timeout: DefaultLockTimeout}}
	for _, opt := range opts {
		opt(&s.opts)
	}
	var err error
	s.db, err = kv.Open(path, kv.Options{
		Format: Format, Buckets: buckets(),
		Mode: s.opts.mode, Timeout: s.opts.timeout, ReadOnly: s.opts.readOnly, NoSync: s.opts.noSync, LogSize: s.opts.logSize,
	})
	if err != nil {
		return nil, fmt.Errorf("boltstore: open %s: %w", path, err)
	}
	return s, nil
}

// Exclusive reports whether the store is open for writing. Then no other process
// has the file, and the one that had it before is gone.
func (s *Store) Exclusive() bool { return !s.opts.readOnly }

// probeSize is how many bytes a probe writes, about as much as a larger commit.
const probeSize = 4096

// Probe reports whether a commit would work now. It makes a test write, which leaves
// nothing behind, if the last commit failed, if none was written for a second, or if
// the last flush of the log to the file failed.
func (s *Store) Probe(ctx context.Context) error {
	err := s.db.Probe(ctx, func(tx *kv.Tx) error {
		facts := tx.Bucket(inFacts)
		facts.Put(factProbe(), make([]byte, probeSize))
		facts.Delete(factProbe())
		return nil
	})
	if err != nil {
		return fmt.Errorf("boltstore: probe: %w", err)
	}
	return nil
}

// Close waits for running calls, flushes the log to the tree and closes the file.
func (s *Store) Close() error {
	s.notify.Close()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("boltstore: close: %w", err)
	}
	return nil
}
