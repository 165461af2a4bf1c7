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
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/signin-engine/signin-engine/store"
)

const (
	secretSize = 32
	// Mapping more than the file has costs address space only, and keeps a
	// growing file from waiting for readers (a snapshot) to be mapped again.
	initialMap = 1 << 30
	tableSize  = 8 << 20
)

// The bucket of this package.
var (
	bucketMeta  = []byte("meta")
	metaFormat  = []byte("format")
	metaSecret  = []byte("secret")
	metaApplied = []byte("applied") // the last batch that the tree has, and whether there is a log
	metaReached = []byte("reached") // the last batch that it has anything of
)

// Options say how [Open] opens a file.
type Options struct {
	Format   int      // version of the layout; a file with another one is [store.ErrSchema]
	Buckets  []string // [Tx.Bucket] goes by their place
	Growing  []string // more of them, at the places behind: their values are only appended to; at most 250 in all
	Mode     fs.FileMode
	Timeout  time.Duration // to wait for a file that another process holds
	ReadOnly bool
	NoSync   bool
	// TableSize is how many bytes a table takes before it goes to the tree; 0 is
	// 8 MiB.
	TableSize int
}

// DB is an open file. Its methods may be called from many goroutines.
type DB struct {
	path    string
	opts    Options
	buckets [][]byte
	secret  []byte
	log     *log

	writer  sync.Mutex // held by who writes; guards log, batch and logged
	batch   []byte
	logged  bool // the tree says that there is a log
	layers  atomic.Pointer[layers]
	visible atomic.Uint64  // the last batch that is on the disk
	running sync.WaitGroup // a table goes to the tree

	idle   idle   // transactions of the tree, to be used again
	memory memory // of tables, likewise

	opened time.Time
	wrote  atomic.Int64 // when an update last worked, from opened on
	failed atomic.Bool  // the last update did not
	behind atomic.Bool  // the tree did not take what it should have

	mu     sync.RWMutex // held for reading while tree is used
	tree   *bbolt.DB    // nil: closed, or lost after a failed write
	closed bool
	stale  atomic.Bool // a write of the tree failed: it may disagree with its file
}

// layers are the tables in front of the tree.
type layers struct {
	active *table
	sealed *table // on its way to the tree; nil: none is
}

// Open opens or creates a file. Errors: [store.ErrLocked] if another process
// holds it, [store.ErrSchema] if it has another format or is another program's,
// [store.ErrCorrupt] if it is no bbolt file or its log does not fit, else those
// of package os.
func Open(path string, opts Options) (*DB, error) {
	info, err := os.Stat(path)
	if err == nil && opts.ReadOnly && info.Size() == 0 {
		return nil, fmt.Errorf("the file is empty: %w", store.ErrSchema)
	}
	created := errors.Is(err, fs.ErrNotExist)
	if opts.TableSize == 0 {
		opts.TableSize = tableSize
	}
	db := &DB{path: path, opts: opts, opened: time.Now()}
	db.wrote.Store(-int64(probeAfter)) // none has worked yet
	db.memory.max = max(1, opts.TableSize/pieceSize)
	for _, name := range slices.Concat(opts.Buckets, opts.Growing) {
		db.buckets = append(db.buckets, []byte(name))
	}
	if db.tree, err = db.openTree(); err != nil {
		return nil, err
	}
	if err := db.prepare(); err != nil {
		return nil, errors.Join(err, db.tree.Close())
	}
	if created {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.Join(err, db.tree.Close())
		}
	}
	return db, nil
}

func (db *DB) openTree() (tree *bbolt.DB, err error) {
	defer func() {
		// bbolt panics when it rebuilds the free list of a damaged tree.
		if r := recover(); r != nil {
			tree, err = nil, fmt.Errorf("damaged database: %v: %w", r, store.ErrCorrupt)
		}
	}()
	opts := &bbolt.Options{
		Timeout:        db.opts.Timeout,
		ReadOnly:       db.opts.ReadOnly,
		NoSync:         db.opts.NoSync,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		NoStatistics:   true,
	}
	if !db.opts.ReadOnly {
		opts.InitialMmapSize = initialMap
	}
	tree, err = bbolt.Open(db.path, db.opts.Mode, opts)
	var (
		pathErr *fs.PathError
		errno   syscall.Errno
	)
	switch {
	case err == nil:
		return tree, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("waited %v: %w", db.opts.Timeout, store.ErrLocked)
	case errors.As(err, &pathErr), errors.As(err, &errno):
		return nil, fmt.Errorf("bbolt: %w", err)
	default:
		return nil, fmt.Errorf("no bbolt database: %w (%w)", store.ErrCorrupt, err)
	}
}

// prepare makes the buckets of a new file or checks those of an old one, and
// plays the log.
func (db *DB) prepare() error {
	var found, foreign, logged bool
	var applied, reached uint64
	err := db.tree.View(func(tx *bbolt.Tx) (err error) {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			k, _ := tx.Cursor().First()
			foreign = k != nil
			return nil
		}
		found = true
		if row := meta.Get(metaReached); len(row) == 8 {
			reached = binary.BigEndian.Uint64(row)
		}
		applied, logged, err = db.check(tx, meta)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("check: %w", err)
	case foreign:
		return fmt.Errorf("a bbolt database of another program: %w", store.ErrSchema)
	case !found && db.opts.ReadOnly:
		return fmt.Errorf("the file is empty: %w", store.ErrSchema)
	case !found:
		if err := db.tree.Update(db.create); err != nil {
			return fmt.Errorf("create: %w", err)
		}
	}
	path, err := filepath.EvalSymlinks(db.path)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	db.log = newLog(path, db.secret, db.opts.NoSync)
	return db.recover(applied, reached, logged)
}

func (db *DB) create(tx *bbolt.Tx) error {
	for _, name := range db.buckets {
		if _, err := tx.CreateBucket(name); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", bucketMeta, err)
	}
	db.secret = make([]byte, secretSize)
	_, _ = rand.Read(db.secret) // never fails, by its contract
	return errors.Join(
		meta.Put(metaSecret, db.secret),
		meta.Put(metaApplied, appliedRow(0, false)),
		meta.Put(metaFormat, strconv.AppendInt(nil, int64(db.opts.Format), 10)),
	)
}

func (db *DB) check(tx *bbolt.Tx, meta *bbolt.Bucket) (applied uint64, logged bool, err error) {
	format := meta.Get(metaFormat)
	if string(format) != strconv.Itoa(db.opts.Format) {
		return 0, false, fmt.Errorf("file format %q, this program has %d: %w", format, db.opts.Format, store.ErrSchema)
	}
	db.secret = bytes.Clone(meta.Get(metaSecret))
	if len(db.secret) != secretSize {
		return 0, false, fmt.Errorf("no secret in the file: %w", store.ErrCorrupt)
	}
	for _, name := range db.buckets {
		if tx.Bucket(name) == nil {
			return 0, false, fmt.Errorf("no bucket %s: %w", name, store.ErrCorrupt)
		}
	}
	row := meta.Get(metaApplied)
	if len(row) != 9 {
		return 0, false, fmt.Errorf("no place of the log in the file: %w", store.ErrCorrupt)
	}
	return binary.BigEndian.Uint64(row), row[8] != 0, nil
}

func appliedRow(seq uint64, logged bool) []byte {
	row := append(binary.BigEndian.AppendUint64(nil, seq), 0)
	if logged {
		row[8] = 1
	}
	return row
}

// recover plays the log; unless the file is open for reading only, the tree
// has everything afterwards. Numbers of batches that the tree has anything of
// are never given again, also when the log was lost.
func (db *DB) recover(applied, reached uint64, logged bool) error {
	t := newTable(applied, &db.memory)
	err := db.log.replay(applied, logged, func(seq uint64, ops []byte) error {
		t.last = seq
		return eachOp(ops, func(o op) error {
			if int(o.bucket) >= len(db.buckets) || len(o.key) == 0 {
				return fmt.Errorf("batch %d of the log: %w", seq, store.ErrCorrupt)
			}
			t.put(o, seq)
			return nil
		})
	})
	if err != nil {
		return err
	}
	t.last = max(t.last, reached)
	db.visible.Store(t.last)
	db.layers.Store(&layers{active: t})
	if db.opts.ReadOnly || t.empty() && !logged {
		return nil
	}
	if err := db.apply(t, false); err != nil {
		return err
	}
	db.layers.Store(&layers{active: newTable(t.last, &db.memory)})
	_ = db.log.remove() // what the tree has does no harm
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

// Secret is the file's own random key of 32 bytes.
func (db *DB) Secret() []byte { return bytes.Clone(db.secret) }

// Close waits for calls that are under way, gives the tree everything and
// removes the log. Should the tree not take it, the log stays, and nothing is
// lost.
func (db *DB) Close() error {
	db.writer.Lock()
	defer db.writer.Unlock()
	db.running.Wait()
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	if db.tree == nil {
		return db.log.close()
	}
	db.idle.drain()
	if !db.opts.ReadOnly && !db.stale.Load() {
		db.tree.NoFreelistSync = false // so that the next Open need not search for free pages
		l := db.layers.Load()
		var err error
		if l.sealed != nil {
			err = db.apply(l.sealed, true)
		}
		if err == nil && db.apply(l.active, false) == nil {
			_ = db.log.remove() // it is of no use any more, and does no harm
		}
	}
	return errors.Join(db.log.close(), db.tree.Close())
}

// ready is hold, unless ctx is done.
func (db *DB) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not begun: %w", err)
	}
	return db.hold()
}

// hold returns with db.mu held for reading and db.tree usable, reopening the
// file if a write failed before; or with an error.
func (db *DB) hold() error {
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
			return err
		}
	}
}

// reopen reads the tree anew after a write of it failed. bbolt takes its own
// state back then, but if it was the sync of the meta page that failed, the new
// meta page may stand in the file all the same: only the file knows.
func (db *DB) reopen() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed || db.tree != nil && !db.stale.Load() {
		return nil
	}
	db.idle.drain()
	if db.tree != nil {
		_ = db.tree.Close() // nothing is left to lose in it
		db.tree = nil
	}
	tree, err := db.openTree()
	if err != nil {
		return fmt.Errorf("reopen: %w: %w", store.ErrUnavailable, err)
	}
	db.tree = tree
	db.stale.Store(false)
	return nil
}
