package boltstore

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/signin-engine/signin-engine/store"
)

// Format is the version of the file layout; a file with another one is
// [store.ErrSchema].
const Format = 1

// DefaultLockTimeout is how long [Open] waits for a file that another process
// holds.
const DefaultLockTimeout = 500 * time.Millisecond

const (
	secretSize = 32
	// Mapping more than the file has costs address space only, and keeps a
	// growing file from waiting for readers (a snapshot) to be mapped again.
	initialMap = 1 << 30
)

var (
	bucketRows  = []byte("rows")
	bucketLive  = []byte("live")
	bucketIndex = []byte("index")
	bucketMeta  = []byte("meta")

	metaFormat  = []byte("format")
	metaSecret  = []byte("secret")
	metaCreated = []byte("created")
	metaSkew    = []byte("skew")
)

// Store is a [store.Store] in a bbolt file.
type Store struct {
	path     string
	opts     options
	secret   []byte
	notify   store.Notifier
	writer   sync.Mutex // one write transaction at a time; guards arena and key
	arena    []byte     // values of the running transaction
	scratch  []putPlan
	mu       sync.RWMutex // held for reading while db is used
	db       *bbolt.DB    // nil: closed, or lost after a failed write
	closed   bool
	needOpen bool // a write failed: db may disagree with the file
}

var _ store.Store = (*Store)(nil)

type options struct {
	clock    func() time.Time
	mode     fs.FileMode
	timeout  time.Duration
	readOnly bool
	noSync   bool
}

// Option changes how [Open] opens a file.
type Option func(*options)

// WithClock sets the store's clock; the default is the machine's.
func WithClock(clock func() time.Time) Option { return func(o *options) { o.clock = clock } }

// WithMode sets the permissions of a file that is created; the default is 0600.
func WithMode(mode fs.FileMode) Option { return func(o *options) { o.mode = mode } }

// WithLockTimeout sets how long to wait for a file that another process holds;
// the default is [DefaultLockTimeout].
func WithLockTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithReadOnly opens the file for reading: many processes may, while none
// writes. A missing file is an error that is [fs.ErrNotExist].
func WithReadOnly() Option { return func(o *options) { o.readOnly = true } }

// WithoutSync leaves the disk alone: for tests of everything but durability.
func WithoutSync() Option { return func(o *options) { o.noSync = true } }

// Open opens or creates the store in the file at path. Errors:
// [store.ErrLocked] if another process holds the file, [store.ErrSchema] if it
// has another format or belongs to another program, [store.ErrCorrupt] if it is
// no bbolt database, else those of package os.
func Open(path string, opts ...Option) (*Store, error) {
	s := &Store{path: path, opts: options{clock: time.Now, mode: 0o600, timeout: DefaultLockTimeout}}
	for _, opt := range opts {
		opt(&s.opts)
	}
	info, err := os.Stat(path)
	if err == nil && s.opts.readOnly && info.Size() == 0 {
		return nil, fmt.Errorf("boltstore: open %s: the file is empty: %w", path, store.ErrSchema)
	}
	created := errors.Is(err, fs.ErrNotExist)
	db, err := s.openDB()
	if err != nil {
		return nil, fmt.Errorf("boltstore: open %s: %w", path, err)
	}
	s.db = db
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("boltstore: open %s: %w", path, err), db.Close())
	}
	if created {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.Join(fmt.Errorf("boltstore: open %s: %w", path, err), db.Close())
		}
	}
	return s, nil
}

func (s *Store) openDB() (db *bbolt.DB, err error) {
	defer func() {
		// bbolt panics when it rebuilds the free list of a damaged tree.
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("damaged database: %v: %w", r, store.ErrCorrupt)
		}
	}()
	opts := &bbolt.Options{
		Timeout:        s.opts.timeout,
		ReadOnly:       s.opts.readOnly,
		NoSync:         s.opts.noSync,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		NoStatistics:   true,
	}
	if !s.opts.readOnly {
		opts.InitialMmapSize = initialMap
	}
	db, err = bbolt.Open(s.path, s.opts.mode, opts)
	var (
		pathErr *fs.PathError
		errno   syscall.Errno
	)
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("waited %v: %w", s.opts.timeout, store.ErrLocked)
	case errors.As(err, &pathErr), errors.As(err, &errno):
		return nil, fmt.Errorf("bbolt: %w", err)
	default:
		return nil, fmt.Errorf("no bbolt database: %w (%w)", store.ErrCorrupt, err)
	}
}

// prepare makes the buckets of a new file, or checks those of an old one.
func (s *Store) prepare() error {
	var found, foreign bool
	err := s.db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			k, _ := tx.Cursor().First()
			foreign = k != nil
			return nil
		}
		found = true
		return s.checkMeta(tx, meta)
	})
	switch {
	case err != nil:
		return fmt.Errorf("check: %w", err)
	case found:
		return nil
	case foreign:
		return fmt.Errorf("a bbolt database of another program: %w", store.ErrSchema)
	case s.opts.readOnly:
		return fmt.Errorf("the file is empty: %w", store.ErrSchema)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketRows, bucketLive, bucketIndex} {
			if _, err := tx.CreateBucket(name); err != nil {
				return fmt.Errorf("bucket %s: %w", name, err)
			}
		}
		meta, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return fmt.Errorf("bucket %s: %w", bucketMeta, err)
		}
		s.secret = make([]byte, secretSize)
		_, _ = rand.Read(s.secret) // never fails, by its contract
		return errors.Join(
			meta.Put(metaSecret, s.secret),
			meta.Put(metaCreated, []byte(store.Time(s.opts.clock()).Format(time.RFC3339Nano))),
			meta.Put(metaFormat, strconv.AppendInt(nil, Format, 10)),
		)
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return nil
}

func (s *Store) checkMeta(tx *bbolt.Tx, meta *bbolt.Bucket) error {
	format := meta.Get(metaFormat)
	if string(format) != strconv.Itoa(Format) {
		return fmt.Errorf("file format %q, this program has %d: %w", format, Format, store.ErrSchema)
	}
	s.secret = bytes.Clone(meta.Get(metaSecret))
	if len(s.secret) != secretSize {
		return fmt.Errorf("no secret in the file: %w", store.ErrCorrupt)
	}
	for _, name := range [][]byte{bucketRows, bucketLive, bucketIndex} {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("no bucket %s: %w", name, store.ErrCorrupt)
		}
	}
	return nil
}

// syncDir makes a new file's name survive a power loss.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close writes the free list, so that the next Open is quick, and closes the
// file. It waits for calls that are under way.
func (s *Store) Close() error {
	s.notify.Close()
	s.writer.Lock()
	defer s.writer.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	if !s.opts.readOnly && !s.needOpen {
		db.NoFreelistSync = false
		// Should it fail, the next Open rebuilds the list.
		_ = db.Update(func(*bbolt.Tx) error { return nil })
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("boltstore: close: %w", err)
	}
	return nil
}
