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

// startLog makes the log files before the first batch, and the tree say so.
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

// room makes place for a batch: when the log file is full, its turn ends, and the
// tree gets what is in it meanwhile. If the tree did not take the last one, there
// is no room before it does. It is called by who writes.
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

// seal puts an empty buffer in front of the active one.
func (db *DB) seal() {
	db.front.Lock()
	defer db.front.Unlock()
	db.sealed, db.active = db.active, newBuffer(len(db.buckets))
	db.active.last = db.sealed.last
}

// settle waits until the tree has every sealed buffer.
func (db *DB) settle(ctx context.Context) error {
	db.running.Wait()
	return db.release(ctx, true)
}

// release gives the sealed buffer to the tree, if there is one. logged: the tree
// needs the log.
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

// drain gives the tree everything, so that it needs no log. The next batch starts
// one again.
func (db *DB) drain(ctx context.Context) error {
	some := db.logged || db.behind.Load() // then the tree may say so, although it failed to
	if err := db.settle(ctx); err != nil || !some {
		return err
	}
	db.active.last = db.given // what was refused does not come back
	db.seal()
	if err := db.release(ctx, false); err != nil {
		return err
	}
	db.logged = false
	return db.log.close()
}

// applyStep is how many keys go to the tree in one transaction: what it touches
// lies in memory until the end.
const applyStep = 1000

// apply gives a buffer to the tree, in steps of bounded size, and says then up to
// which batch it has everything. Until the last step a reader finds the buffer
// first, and after a crash the log is played over what is there. Nobody else
// applies meanwhile; db.mu is held.
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

// commit runs fn in a writing transaction of the tree. It does without bbolt's
// Update, which looks for free pages in a damaged tree when fn panics.
func (db *DB) commit(fn func(tx *bbolt.Tx) error) error {
	info, err := os.Stat(db.path)
	if err != nil {
		return err //nolint:wrapcheck // names the file
	}
	if !db.firm {
		// What was read of the meta pages may have come from memory, and what they
		// replace is about to be written over.
		if err := rewrite(db.fs, db.path, 2*db.tree.Info().PageSize); err != nil {
			return fmt.Errorf("tree: %w", err)
		}
		db.firm = true
	}
	db.tree.AllocSize = int(min(max(info.Size()/8, minGrowth), maxGrowth))
	tx, err := db.tree.Begin(true)
	if err != nil {
		return err //nolint:wrapcheck // of apply
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
		_ = tx.Rollback() // an error says that Commit has done so
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

// applier writes the keys of a buffer in order.
type applier struct {
	db     *DB
	buffer *buffer
	bucket int
	next   func() entry // of the bucket; nil: not begun
}

// step writes the next keys, and reports whether they were the last.
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
		return b.Put(e.key, e.value) //nolint:wrapcheck // of step
	}
	if k, _ := c.Seek(e.key); bytes.Equal(k, e.key) { // much of what is gone came and went within the buffer
		return c.Delete() //nolint:wrapcheck // of step
	}
	return nil
}

// damage is a panic of bbolt: it met a page that makes no sense, or cannot be
// read.
type damage struct{ found any }

// asDamage is deferred around what reads the tree.
func asDamage() {
	if r := recover(); r != nil {
		panic(damage{r})
	}
}

// guarded makes an error of damage that fn meets. Other panics are the caller's.
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

// Snapshot writes a copy of the file to w, as it is now, while the store goes
// on, and returns its size in bytes. The copy stands alone. Pages that are freed
// meanwhile are not reused before it ends. It ends early, with an error, when
// ctx is done.
func (db *DB) Snapshot(ctx context.Context, w io.Writer) (n int64, err error) {
	if db.opts.ReadOnly && !db.sealed.empty() {
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

// copied is a snapshot of a file that was not closed and must not be changed:
// that of a copy, to which the log was applied.
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

// freeze gives the tree everything and returns with db.mu held for reading and
// with the tree as it is then.
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

// Write passes b on.
func (c ctxWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, fmt.Errorf("interrupted: %w", err)
	}
	return c.w.Write(b) //nolint:wrapcheck // io.Copy compares a writer's errors
}
