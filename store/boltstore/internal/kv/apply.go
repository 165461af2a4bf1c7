package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"go.etcd.io/bbolt"

	"github.com/signin-engine/signin-engine/store"
)

// startLog makes the log files before the first batch, and the tree say so.
func (db *DB) startLog() error {
	if db.logged {
		return nil
	}
	err := db.log.create(db.opts.Mode)
	if err == nil && !db.opts.NoSync {
		err = syncDir(filepath.Dir(db.log.files[0].path))
	}
	if err == nil {
		err = db.apply(newTable(db.visible.Load(), &db.memory), true)
	}
	if err != nil {
		return errors.Join(err, db.log.close())
	}
	db.logged = true
	return nil
}

// room makes place for a batch: a table that is full goes to the tree while
// another one takes its place. It is called by who writes.
func (db *DB) room() error {
	full := db.layers.Load().active
	if full.size < db.opts.TableSize {
		return nil
	}
	if err := db.settle(); err != nil {
		return err
	}
	db.layers.Store(&layers{active: newTable(full.last, &db.memory), sealed: full})
	db.log.swap()
	db.running.Go(func() { _ = db.release() }) // if it fails, settle tries again
	return nil
}

// settle waits until no table is on its way to the tree.
func (db *DB) settle() error {
	db.running.Wait()
	if db.layers.Load().sealed == nil {
		return nil
	}
	return db.release()
}

// release gives the sealed table to the tree.
func (db *DB) release() error {
	if err := db.hold(); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	l := db.layers.Load()
	if err := db.apply(l.sealed, true); err != nil {
		return err
	}
	db.layers.Store(&layers{active: l.active})
	db.memory.retire(l.sealed)
	return nil
}

// applyBatch is how many keys go to the tree in one transaction: what it touches
// lies in memory until the end.
const applyBatch = 500

// apply writes a table to the tree, in transactions of bounded size. Until the
// last one says so the tree does not have it: a reader finds the table first,
// and after a crash the log is played over what is there.
func (db *DB) apply(t *table, logged bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("bbolt panicked: %v", r)
		}
		if err != nil {
			t.partly = true
			db.stale.Store(true)
			db.behind.Store(true)
			err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
	}()
	db.idle.pause()
	defer db.idle.resume()
	next, done := uint32(0), false
	for !done {
		err := db.tree.Update(func(tx *bbolt.Tx) (err error) {
			if next, err = db.applySome(tx, t, next, applyBatch); err != nil || next != 0 {
				return err
			}
			done = true
			return tx.Bucket(bucketMeta).Put(metaApplied, appliedRow(t.last, logged))
		})
		if err != nil {
			return fmt.Errorf("write the tree: %w", err)
		}
	}
	runtime.KeepAlive(t) // bbolt wrote out of its memory
	db.behind.Store(false)
	return nil
}

func (db *DB) applySome(tx *bbolt.Tx, t *table, from uint32, limit int) (next uint32, err error) {
	w := treeWriter{db: db, tx: tx, table: t}
	if next, err = t.some(from, limit, w.write); err != nil {
		return 0, err
	}
	if err := tx.Bucket(bucketMeta).Put(metaReached, binary.BigEndian.AppendUint64(nil, t.last)); err != nil {
		return 0, fmt.Errorf("%s: %w", bucketMeta, err)
	}
	return next, nil
}

// treeWriter writes keys of a table in order.
type treeWriter struct {
	db     *DB
	tx     *bbolt.Tx
	table  *table
	bucket *bbolt.Bucket
	cursor *bbolt.Cursor
	id     uint8
}

func (w *treeWriter) write(n *node) error {
	e, ok := w.table.at(n, w.table.last)
	if !ok || e.gone && n.fresh && !w.table.partly {
		return nil // the tree never heard of it
	}
	if w.bucket == nil || w.id != n.bucket {
		w.id, w.bucket = n.bucket, w.tx.Bucket(w.db.buckets[n.bucket])
		w.cursor = w.bucket.Cursor()
	}
	var err error
	switch {
	case e.gone:
		if k, _ := w.cursor.Seek(e.key); bytes.Equal(k, e.key) { // much of what is gone came and went within the table
			err = w.cursor.Delete()
		}
	case w.db.grows(n.bucket):
		var old grown
		if k, v := w.cursor.Seek(e.key); bytes.Equal(k, e.key) {
			old = v
		}
		err = w.bucket.Put(e.key, w.table.grow(n, old, w.table.last))
	default:
		err = w.bucket.Put(e.key, e.value)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", w.db.buckets[n.bucket], err)
	}
	return nil
}

// Snapshot writes a copy of the file to w, as it is now, while the store goes
// on, and returns its size in bytes. The copy stands alone. Pages that are freed
// meanwhile are not reused before it ends. It ends early, with an error, when
// ctx is done.
func (db *DB) Snapshot(ctx context.Context, w io.Writer) (int64, error) {
	if db.opts.ReadOnly && !db.layers.Load().active.empty() {
		return db.copied(ctx, w)
	}
	tx, err := db.freeze(ctx)
	if err != nil {
		return 0, err
	}
	defer db.mu.RUnlock()
	defer func() { _ = tx.Rollback() }()
	n, err := tx.WriteTo(ctxWriter{ctx: ctx, w: w})
	if err != nil {
		return n, fmt.Errorf("copy: %w", err)
	}
	return n, nil
}

// copied is a snapshot of a file that was not closed and must not be changed:
// that of a copy.
func (db *DB) copied(ctx context.Context, w io.Writer) (n int64, err error) {
	dir, err := os.MkdirTemp("", "snapshot")
	if err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	to := filepath.Join(dir, "db")
	for from, to := range map[string]string{
		db.path: to, db.log.files[0].path: logPath(to, 0), db.log.files[1].path: logPath(to, 1),
	} {
		if err := copyFile(ctx, from, to); err != nil {
			return 0, fmt.Errorf("copy: %w", err)
		}
	}
	opts := db.opts
	opts.ReadOnly, opts.Mode = false, 0o600
	whole, err := Open(to, opts)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, whole.Close()) }()
	return whole.Snapshot(ctx, w)
}

func copyFile(ctx context.Context, from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	defer func() { _ = src.Close() }()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("to: %w", err)
	}
	_, err = io.Copy(ctxWriter{ctx: ctx, w: dst}, src)
	return errors.Join(err, dst.Close())
}

// freeze gives the tree everything and returns with db.mu held for reading and
// with the tree as it is then.
func (db *DB) freeze(ctx context.Context) (*bbolt.Tx, error) {
	db.writer.Lock()
	defer db.writer.Unlock()
	if err := db.settle(); err != nil {
		return nil, err
	}
	if err := db.ready(ctx); err != nil {
		return nil, err
	}
	tx, err := db.alone()
	if err != nil {
		db.mu.RUnlock()
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return tx, nil
}

// alone is the tree at a moment at which it needs no log.
func (db *DB) alone() (*bbolt.Tx, error) {
	if db.logged {
		full := db.layers.Load().active
		if err := db.apply(full, false); err != nil {
			return nil, err
		}
		// The next batch starts the log again. It cannot be done here: while this
		// goroutine reads, a write that needs a larger map would wait for it.
		db.logged = false
		db.layers.Store(&layers{active: newTable(full.last, &db.memory)})
		db.log.swap()
		if err := db.log.close(); err != nil {
			return nil, err
		}
	}
	tx, err := db.tree.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("read the tree: %w", err)
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
