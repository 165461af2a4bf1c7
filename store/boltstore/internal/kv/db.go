package kv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/pages"
)

const (
	secretSize = 32
	// Mapping more than the file's size costs address space only. It saves a growing
	// file from waiting for readers (a snapshot) before it can be remapped.
	initialMap = 1 << 30
	logSize    = 8 << 20
)

// The bucket and keys of this package.
var (
	bucketMeta  = []byte("meta")
	metaFormat  = []byte("format")
	metaSecret  = []byte("secret")
	metaApplied = []byte("applied") // the last batch in the tree, and whether there is a log
)

// Options say how [Open] opens a file.
type Options struct {
	Format   int      // version of the layout; a file with another one is [store.ErrSchema]
	Buckets  []string // [Tx.Bucket] takes an index into it; at most 250
	Mode     fs.FileMode
	Timeout  time.Duration // how long to wait for a file that another process holds
	ReadOnly bool
	NoSync   bool
	// LogSize is how many bytes a log file takes before they are flushed to the
	// tree; 0 means 8 MiB. They are kept in memory until then.
	LogSize int

	files files // nil: the real disk
	step  int   // see applyStep
}

// DB is an open file. It is safe for concurrent use.
type DB struct {
	path    string
	opts    Options
	fs      files
	buckets [][]byte
	secret  []byte
	lock    *os.File // nil: opened read-only, and there was no lock file
	log     *log

	writer  sync.Mutex     // held by the writer; guards log, given and logged
	given   uint64         // the highest batch number ever used
	logged  bool           // the tree records that there is a log
	running sync.WaitGroup // the flush of the sealed buffer

	front  sync.RWMutex // guards the two buffers, and what is in the active one
	active *buffer
	sealed *buffer // being flushed to the tree, immutable; nil: none

	opened time.Time
	wrote  atomic.Int64 // when an update last succeeded, as a duration since opened
	failed atomic.Bool  // the last update failed
	behind atomic.Bool  // the last flush to the tree failed

	mu     sync.RWMutex // held for reading while tree is in use
	tree   *bbolt.DB    // nil: closed, or lost after a failed write
	file   *os.File     // the tree's
	stuck  bool         // bbolt could not end a transaction; Close would wait for it for ever
	closed bool
	stale  atomic.Bool // a write of the tree failed: memory may disagree with the file
	firm   bool        // the meta pages that were read are on the disk; used by apply only
}

// Open opens or creates a file. Errors: [store.ErrLocked] if another process
// holds the file, [store.ErrSchema] if it has another format or belongs to another
// program, [store.ErrCorrupt] if it is not a bbolt file, is damaged, or its log
// does not match, else those of package os.
func Open(path string, opts Options) (db *DB, err error) {
	if path, err = resolve(path); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if opts.LogSize == 0 {
		opts.LogSize = logSize
	}
	if opts.step == 0 {
		opts.step = applyStep
	}
	if opts.files == nil {
		opts.files = disk{opts.NoSync}
	}
	db = &DB{path: path, opts: opts, fs: opts.files, opened: time.Now()}
	db.wrote.Store(-int64(probeAfter)) // no update has succeeded yet
	for _, name := range opts.Buckets {
		db.buckets = append(db.buckets, []byte(name))
	}
	if db.lock, err = acquire(path+".lock", &opts); err != nil {
		return nil, err
	}
	if err = db.open(); err != nil {
		db.closed = true
		return nil, errors.Join(err, db.shut())
	}
	return db, nil
}

func (db *DB) open() error {
	info, err := os.Stat(db.path)
	switch {
	case err == nil && info.Size() > 0:
		err = checkTree(db.path, info.Size())
	case db.opts.ReadOnly && err == nil:
		err = fmt.Errorf("the file is empty: %w", store.ErrSchema)
	case !db.opts.ReadOnly && (err == nil || errors.Is(err, fs.ErrNotExist)):
		err = db.create()
	}
	if err == nil && !db.opts.ReadOnly { // for an existing file too: its name may not be on the disk yet
		err = db.fs.syncDir(filepath.Dir(db.path))
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if db.tree, err = db.openTree(db.path); err != nil {
		return err
	}
	m, err := db.readMeta()
	if err != nil {
		return err
	}
	db.secret = m.secret
	db.log = newLog(db.fs, db.path, db.secret)
	return db.recover(m)
}

// checkUpTo is the size, in bytes, of the largest file whose pages are all checked
// before bbolt opens it. Checking a larger one would keep a restarted bot waiting, and
// a crash does not damage pages.
const checkUpTo = 64 << 20

func checkTree(path string, size int64) error {
	if size > checkUpTo {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err //nolint:wrapcheck // names the file
	}
	defer func() { _ = f.Close() }()
	return pages.Check(f, size)
}

// create makes the file under another name and renames it, so that a power loss
// leaves all of it or nothing.
func (db *DB) create() error {
	fresh := db.path + ".new"
	_ = db.fs.remove(fresh)
	tree, err := db.openTree(fresh)
	if err != nil {
		return err
	}
	if err := errors.Join(tree.Update(db.fill), tree.Close()); err != nil {
		return errors.Join(fmt.Errorf("create: %w", err), db.fs.remove(fresh))
	}
	if err := db.fs.rename(fresh, db.path); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return nil
}

// fill writes the buckets and the meta keys of a new file.
func (db *DB) fill(tx *bbolt.Tx) error {
	for _, name := range append([][]byte{bucketMeta}, db.buckets...) {
		if _, err := tx.CreateBucket(name); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // never fails, by its contract
	meta := tx.Bucket(bucketMeta)
	return errors.Join(
		meta.Put(metaSecret, secret),
		meta.Put(metaApplied, appliedRow(0, false)),
		meta.Put(metaFormat, strconv.AppendInt(nil, int64(db.opts.Format), 10)),
	)
}

func (db *DB) openTree(path string) (tree *bbolt.DB, err error) {
	var f *os.File
	opts := &bbolt.Options{
		Timeout:      db.opts.Timeout,
		ReadOnly:     db.opts.ReadOnly,
		NoSync:       db.opts.NoSync,
		NoGrowSync:   db.opts.NoSync,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
		// For Open only, which must not commit by itself. Commits write the freelist:
		// without it bbolt walks the whole tree when it opens, and when a write fails.
		NoFreelistSync: true,
		OpenFile: func(name string, flag int, mode fs.FileMode) (_ *os.File, err error) {
			if name == db.path {
				flag &^= os.O_CREATE // a file that vanished must not come back empty
			}
			f, err = os.OpenFile(name, flag, mode)
			return f, err //nolint:wrapcheck // bbolt passes it on
		},
	}
	if !db.opts.ReadOnly {
		opts.InitialMmapSize = initialMap
	}
	err = guarded(func() (err error) {
		defer asDamage()
		tree, err = db.fs.tree(path, db.opts.Mode, opts)
		return err
	})
	if err == nil {
		tree.NoFreelistSync, tree.AllocSize = false, minGrowth
		db.file = f
		return tree, nil
	}
	if f != nil {
		letGo(f)
	}
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("another process has it open; snapshot copies it all the same: %w", store.ErrLocked)
	}
	for _, of := range []error{berrors.ErrInvalid, berrors.ErrChecksum, berrors.ErrVersionMismatch} {
		if errors.Is(err, of) {
			return nil, fmt.Errorf("no bbolt database: %w: %w", err, store.ErrCorrupt)
		}
	}
	return nil, fmt.Errorf("bbolt: %w", err)
}

// letGo releases the lock of a tree that bbolt cannot close: it panicked and left
// the file open and mapped, and so locked.
func letGo(f *os.File) {
	funlock(f)
	_ = f.Close()
}

// meta is what the tree records about itself.
type meta struct {
	secret  []byte
	applied uint64
	logged  bool
}

func (db *DB) readMeta() (m meta, err error) {
	err = guarded(func() error {
		defer asDamage()
		return db.tree.View(func(tx *bbolt.Tx) error {
			if b := tx.Bucket(bucketMeta); b != nil {
				return db.check(tx, b, &m)
			}
			return fmt.Errorf("a bbolt database of another program: %w", store.ErrSchema)
		})
	})
	return m, err
}

func (db *DB) check(tx *bbolt.Tx, b *bbolt.Bucket, m *meta) error {
	format := b.Get(metaFormat)
	if string(format) != strconv.Itoa(db.opts.Format) {
		return fmt.Errorf("file format %q, this program has %d: %w", format, db.opts.Format, store.ErrSchema)
	}
	if m.secret = bytes.Clone(b.Get(metaSecret)); len(m.secret) != secretSize {
		return fmt.Errorf("no secret in the file: %w", store.ErrCorrupt)
	}
	for _, name := range db.buckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("no bucket %s: %w", name, store.ErrCorrupt)
		}
	}
	row := b.Get(metaApplied)
	if len(row) != 9 {
		return fmt.Errorf("no place of the log in the file: %w", store.ErrCorrupt)
	}
	m.applied, m.logged = binary.BigEndian.Uint64(row), row[8] != 0
	return nil
}

func appliedRow(seq uint64, logged bool) []byte {
	row := append(binary.BigEndian.AppendUint64(nil, seq), 0)
	if logged {
		row[8] = 1
	}
	return row
}

// recover replays the log. Unless the file is read-only, the tree has everything
// afterwards. The number of a batch that may have been lost half-written is not
// used again.
func (db *DB) recover(m meta) error {
	found, raw, err := db.log.read(m.applied, m.logged)
	if err != nil {
		return err
	}
	b := newBuffer(len(db.buckets))
	b.last = m.applied
	for i := range found {
		if err := found[i].play(b); err != nil {
			return err
		}
	}
	db.active, db.sealed, db.given = newBuffer(len(db.buckets)), b, b.last
	db.active.last = b.last
	if db.opts.ReadOnly {
		db.logged = m.logged
		return nil
	}
	// Also flush when the log files are mere leftovers: the meta page that says so may
	// be in the page cache only, and Close removes the files.
	if m.logged || len(raw[0])+len(raw[1]) > 0 {
		if err := db.log.firm(raw); err != nil {
			return err
		}
		db.given++
		b.last, db.active.last = db.given, db.given
		if err := db.apply(b, false); err != nil {
			return err
		}
		db.log.remove()
	}
	db.sealed = nil
	return nil
}

// Secret returns the file's own random key of 32 bytes.
func (db *DB) Secret() []byte { return bytes.Clone(db.secret) }

// Close waits for running calls, flushes everything to the tree and removes the
// files beside it. If the flush fails, the log stays and nothing is lost.
func (db *DB) Close() error {
	db.writer.Lock()
	defer db.writer.Unlock()
	db.running.Wait()
	if !db.closed && !db.opts.ReadOnly && db.drain(context.Background()) == nil {
		db.log.remove()
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	return db.shut()
}

// shut releases everything, the lock last.
func (db *DB) shut() error {
	var errs []error
	if db.log != nil {
		errs = append(errs, db.log.close())
	}
	switch {
	case db.tree == nil:
	case db.stuck: // Close would wait for the open transaction for ever
		letGo(db.file)
	default:
		errs = append(errs, db.tree.Close())
	}
	db.tree = nil
	if db.lock != nil {
		if !db.opts.ReadOnly && !lockFileStays {
			errs = append(errs, os.Remove(db.lock.Name()))
		}
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// hold returns with db.mu held for reading and db.tree usable, or with an error.
// It reopens the file if a write failed before.
func (db *DB) hold(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not begun: %w", err)
	}
	for {
		db.mu.RLock()
		if db.closed {
			db.mu.RUnlock()
			return fmt.Errorf("closed: %w", store.ErrUnavailable)
		}
		if db.tree != nil && !db.stale.Load() {
			return nil
		}
		db.mu.RUnlock()
		if err := db.reopen(); err != nil {
			return fmt.Errorf("reopen: %w: %w", store.ErrUnavailable, err)
		}
	}
}

// reopen reopens the tree after a failed write. bbolt rolls back its state in
// memory, but if the sync of the meta page failed, the new meta page may be in the
// file all the same. Only the file can tell.
func (db *DB) reopen() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	switch {
	case db.closed || db.tree != nil && !db.stale.Load():
		return nil
	case db.stuck:
		return errors.New("a write could not be taken back, start again")
	}
	if db.tree != nil {
		_ = db.tree.Close() // the write has failed already: nothing is left to lose
		db.tree = nil
	}
	tree, err := db.openTree(db.path)
	if err != nil {
		return err
	}
	db.tree = tree
	m, err := db.readMeta()
	if err == nil && !bytes.Equal(m.secret, db.secret) {
		err = fmt.Errorf("another file has taken its place: %w", store.ErrCorrupt)
	}
	if err != nil {
		db.tree = nil
		return errors.Join(err, tree.Close())
	}
	db.firm = false
	db.stale.Store(false)
	return nil
}
