package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"go.etcd.io/bbolt"

	"github.com/signin-engine/signin-engine/store"
)

// startLog creates the log files before the first batch, and then records in the
// tree that there is a log.
func (db *DB) startLog() error {
	if db.logged {
		return nil
	}
	err := db.log.create(db.opts.Mode)
	if err == nil {
		b := newBuffer(len(db.buckets))
		b.last = db.given
		err = db.apply(b, true)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, errors.Join(err, db.log.close()))
	}
	db.logged = true
	return nil
}

// room makes room for a batch. When the log file is full, it seals the buffer,
// switches to the other file, and flushes in the background. It retries a failed
// flush first: there is no room until that succeeds. The caller holds db.writer.
func (db *DB) room(ctx context.Context) error {
	full := db.logged && db.log.end >= int64(db.opts.LogSize)
	if full || db.behind.Load() {
		if err := db.settle(ctx); err != nil {
			return err
		}
	}
	if full {
		db.seal()
		db.log.swap()
		db.running.Go(func() { _ = db.release(context.WithoutCancel(ctx), true) }) // if it fails, settle tries again
	}
	return nil
}

// seal seals the active buffer and puts an empty one in its place.
func (db *DB) seal() {
	db.front.Lock()
	defer db.front.Unlock()
	db.sealed, db.active = db.active, newBuffer(len(db.buckets))
	db.active.last = db.sealed.last
}

// settle waits until the sealed buffer is in the tree, and retries a failed flush.
func (db *DB) settle(ctx context.Context) error {
	db.running.Wait()
	return db.release(ctx, true)
}

// release flushes the sealed buffer to the tree, if there is one. logged: the tree
// still needs the log.
func (db *DB) release(ctx context.Context, logged bool) error {
	if err := db.hold(ctx); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	if db.sealed == nil {
		return nil
	}
	if err := db.apply(db.sealed, logged); err != nil {
		return err
	}
	db.front.Lock()
	defer db.front.Unlock()
	db.sealed = nil
	return nil
}

// drain flushes everything to the tree, so that it needs no log. The next batch
// starts a new one.
func (db *DB) drain(ctx context.Context) error {
	some := db.logged || db.behind.Load() // a failed flush may have left the mark of a log in the tree
	if err := db.settle(ctx); err != nil || !some {
		return err
	}
	db.active.last = db.given // skips refused batches, so that they do not come back
	db.seal()
	if err := db.release(ctx, false); err != nil {
		return err
	}
	db.logged = false
	return db.log.close()
}

// applyStep is how many keys one transaction of the tree takes: it keeps every page
// it touches in memory until it commits.
const applyStep = 1000

// apply flushes a buffer to the tree in steps of bounded size. The last step
// records the last batch that the tree has. Until then readers look in the buffer
// first, and after a crash the log is replayed over a half-done flush. The caller
// holds db.mu for reading and makes sure that no other apply runs.
func (db *DB) apply(b *buffer, logged bool) (err error) {
	defer func() {
		db.behind.Store(err != nil)
		if err != nil {
			db.stale.Store(true)
			err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
	}()
	a := applier{db: db, buffer: b}
	for done := false; !done; {
		err := db.commit(func(tx *bbolt.Tx) (err error) {
			if done, err = a.step(tx, db.opts.step); err != nil || !done {
				return err
			}
			return tx.Bucket(bucketMeta).Put(metaApplied, appliedRow(b.last, logged))
		})
		if err != nil {
			return fmt.Errorf("write the tree: %w", err)
		}
	}
	return nil
}

// commit runs fn in a write transaction of the tree. It does not use bbolt's
// Update: when fn panics, that searches the damaged tree for free pages.
func (db *DB) commit(fn func(tx *bbolt.Tx) error) error {
	info, err := os.Stat(db.path)
	if err != nil {
		return err //nolint:wrapcheck // names the file
	}
	if !db.firm {
		// The meta pages that were read may be in the page cache only, and this write
		// reuses pages that the meta pages on the disk still need.
		if err := rewrite(db.fs, db.path, 2*db.tree.Info().PageSize); err != nil {
			return fmt.Errorf("tree: %w", err)
		}
		db.firm = true
	}
	db.tree.AllocSize = int(min(max(info.Size()/8, minGrowth), maxGrowth))
	tx, err := db.tree.Begin(true)
	if err != nil {
		return err //nolint:wrapcheck // apply wraps it
	}
	err = guarded(func() error {
		defer asDamage()
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Commit()
	})
	if err == nil {
		return nil
	}
	undo := guarded(func() error {
		defer asDamage()
		_ = tx.Rollback() // an error means that Commit has rolled back already
		return nil
	})
	db.stuck = undo != nil
	return errors.Join(err, undo)
}

// The file grows by an eighth of its size, within these bounds.
const (
	minGrowth = 32 << 10
	maxGrowth = 16 << 20
)

// applier writes the entries of a buffer to the tree in key order.
type applier struct {
	db     *DB
	buffer *buffer
	bucket int
	next   func() entry // walks the bucket; nil: not started
}

// step writes up to the given number of keys, and reports whether all are written.
func (a *applier) step(tx *bbolt.Tx, keys int) (done bool, err error) {
	for ; a.bucket < len(a.db.buckets); a.bucket, a.next = a.bucket+1, nil {
		if a.next == nil {
			a.next = a.buffer.buckets[a.bucket].walk(nil, false)
		}
		b := tx.Bucket(a.db.buckets[a.bucket])
		c := b.Cursor()
		for e := a.next(); e.key != nil; e = a.next() {
			if err := write(b, c, &e); err != nil {
				return false, fmt.Errorf("%s: %w", a.db.buckets[a.bucket], err)
			}
			if keys--; keys <= 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

func write(b *bbolt.Bucket, c *bbolt.Cursor, e *entry) error {
	if e.kind == put {
		return b.Put(e.key, e.value) //nolint:wrapcheck // step wraps it
	}
	if k, _ := c.Seek(e.key); bytes.Equal(k, e.key) { // many deleted keys were never in the tree
		return c.Delete() //nolint:wrapcheck // step wraps it
	}
	return nil
}

// damage is a panic of bbolt at a page that is invalid or cannot be read.
type damage struct{ found any }

// asDamage turns a panic into damage. It is deferred around calls of bbolt.
func asDamage() {
	if r := recover(); r != nil {
		panic(damage{r})
	}
}

// guarded runs fn and returns damage as an error. Other panics pass through.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if d, ok := r.(damage); ok {
			err = fmt.Errorf("damaged database: %v: %w", d.found, store.ErrCorrupt)
		} else if r != nil {
			panic(r)
		}
	}()
	return fn()
}

// Snapshot writes a copy of the file to w while the store stays in use, and returns
// its size in bytes. The copy needs no log. Pages freed meanwhile are not reused
// until the snapshot ends. It stops with an error when ctx is done.
func (db *DB) Snapshot(ctx context.Context, w io.Writer) (n int64, err error) {
	if db.opts.ReadOnly && (db.logged || !db.sealed.empty()) {
		return db.copied(ctx, w)
	}
	tx, err := db.freeze(ctx)
	if err != nil {
		return 0, err
	}
	defer db.mu.RUnlock()
	defer func() { _ = tx.Rollback() }()
	if n, err = tx.WriteTo(ctxWriter{ctx: ctx, w: w}); err != nil {
		return n, fmt.Errorf("copy: %w", err)
	}
	return n, nil
}

// copied takes the snapshot of a read-only file that was not closed: it copies the
// tree to a temporary file, applies the log there, and writes that.
func (db *DB) copied(ctx context.Context, w io.Writer) (n int64, err error) {
	dir, err := os.MkdirTemp("", "snapshot")
	if err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tx, err := db.freeze(ctx)
	if err != nil {
		return 0, err
	}
	defer db.mu.RUnlock()
	whole := &DB{path: filepath.Join(dir, "db"), opts: db.opts, fs: disk{noSync: true}, buckets: db.buckets, given: db.given}
	whole.opts.ReadOnly, whole.opts.NoSync = false, true
	whole.active = newBuffer(len(db.buckets))
	if err := errors.Join(tx.CopyFile(whole.path, 0o600), tx.Rollback()); err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	if whole.tree, err = whole.openTree(whole.path); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, whole.tree.Close()) }()
	if err := whole.apply(db.sealed, false); err != nil {
		return 0, err
	}
	return whole.Snapshot(ctx, w)
}

// freeze flushes everything to the tree and begins a read transaction on it. It
// returns with db.mu held for reading.
func (db *DB) freeze(ctx context.Context) (*bbolt.Tx, error) {
	db.writer.Lock()
	defer db.writer.Unlock()
	if !db.opts.ReadOnly {
		if err := db.drain(ctx); err != nil {
			return nil, err
		}
	}
	if err := db.hold(ctx); err != nil {
		return nil, err
	}
	tx, err := db.tree.Begin(false)
	if err != nil {
		db.mu.RUnlock()
		return nil, fmt.Errorf("%w: read the tree: %w", store.ErrUnavailable, err)
	}
	return tx, nil
}

// ctxWriter refuses to write when its context is done.
type ctxWriter struct {
	ctx context.Context //nolint:containedctx // lives for one call of Snapshot
	w   io.Writer
}

// Write writes b to w.
func (c ctxWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, fmt.Errorf("interrupted: %w", err)
	}
	return c.w.Write(b) //nolint:wrapcheck // io.Copy compares a writer's errors
}
