package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/signin-engine/signin-engine/store"
)

// Tx is a transaction: the file as it was when it began and, in an update, what
// was put since. It is for one goroutine.
type Tx struct {
	db      *DB
	layers  *layers
	at      uint64 // the last batch that it sees
	tree    *bbolt.Tx
	buckets []Bucket
}

// Bucket is a part of the file, with keys of its own. What its methods return
// is valid until the transaction ends and must not be changed.
type Bucket struct {
	tx   *Tx
	id   uint8
	tree *bbolt.Bucket // once it was asked
	seek *bbolt.Cursor // of Get
}

// begin starts a transaction that sees batches up to the last one on the disk.
// db.mu is held for reading.
func (db *DB) begin() (*Tx, error) {
	for {
		l := db.layers.Load()
		if tx := db.idle.take(l); tx != nil {
			tx.at = db.visible.Load()
			if db.layers.Load() == l {
				return tx, nil
			}
			tx.rollback()
			continue
		}
		tx := &Tx{db: db, layers: l}
		var err error
		if tx.tree, err = db.tree.Begin(false); err != nil {
			return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		// After the tree, which may have just got the last batch …
		tx.at = db.visible.Load()
		// … and with other layers by now, it may have got what is after that.
		if db.layers.Load() == l {
			tx.buckets = make([]Bucket, len(db.buckets))
			for i := range tx.buckets {
				tx.buckets[i].tx, tx.buckets[i].id = tx, uint8(i)
			}
			return tx, nil
		}
		tx.rollback()
	}
}

// end puts the transaction by for the next one that sees the same layers.
func (tx *Tx) end() {
	if !tx.db.idle.put(tx) {
		tx.rollback()
	}
}

func (tx *Tx) rollback() { _ = tx.tree.Rollback() }

// idle are transactions of the tree that nobody uses. Beginning one and finding
// its buckets costs more than most reads, and the tree changes seldom. While
// something writes the tree there are none: it might have to wait for them.
type idle struct {
	mu      sync.Mutex
	txs     []*Tx
	writing bool
}

// maxIdle bounds how many are kept.
const maxIdle = 16

// take returns one that has the layers, nil if there is none.
func (i *idle) take(l *layers) *Tx {
	i.mu.Lock()
	defer i.mu.Unlock()
	last := len(i.txs) - 1
	if last < 0 || i.txs[last].layers != l {
		return nil
	}
	tx := i.txs[last]
	i.txs = i.txs[:last]
	return tx
}

func (i *idle) put(tx *Tx) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.writing || len(i.txs) == maxIdle || tx.db.layers.Load() != tx.layers {
		return false
	}
	i.txs = append(i.txs, tx)
	return true
}

// pause ends all of them and keeps none until resume.
func (i *idle) pause() {
	i.mu.Lock()
	i.writing = true
	i.mu.Unlock()
	i.drain()
}

func (i *idle) resume() {
	i.mu.Lock()
	i.writing = false
	i.mu.Unlock()
}

func (i *idle) drain() {
	i.mu.Lock()
	txs := i.txs
	i.txs = nil
	i.mu.Unlock()
	for _, tx := range txs {
		tx.rollback()
	}
}

// View runs fn in a transaction that only reads.
func (db *DB) View(ctx context.Context, fn func(tx *Tx) error) error {
	if err := db.ready(ctx); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	tx, err := db.begin()
	if err != nil {
		return err
	}
	defer tx.end()
	return fn(tx)
}

// Update runs fn in a transaction and returns when what it put is on the disk.
// An error of fn, or [store.ErrUnavailable] when the disk does not take it,
// means that nothing was put, as far as this process sees. After a crash
// something that was ErrUnavailable may be there.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if db.opts.ReadOnly {
		return store.ErrReadOnly
	}
	db.writer.Lock()
	defer db.writer.Unlock()
	err := db.update(ctx, fn)
	if errors.Is(err, store.ErrUnavailable) {
		db.failed.Store(true)
	}
	return err
}

// probeAfter is how long an update that worked speaks for the next one.
const probeAfter = time.Minute

// Probe reports whether an update would work now. The last one speaks for it
// unless it failed, is long ago, or the tree is behind: then fn, which has to put
// something, is tried.
func (db *DB) Probe(ctx context.Context, fn func(tx *Tx) error) error {
	if db.opts.ReadOnly {
		return store.ErrReadOnly
	}
	fresh := time.Since(db.opened)-time.Duration(db.wrote.Load()) < probeAfter
	if fresh && !db.failed.Load() && !db.behind.Load() {
		if err := db.ready(ctx); err != nil {
			return err
		}
		db.mu.RUnlock()
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not begun: %w", err)
	}
	db.writer.Lock()
	defer db.writer.Unlock()
	err := db.settle()
	if err == nil {
		err = db.update(ctx, fn)
	}
	return err
}

// update is [DB.Update]; db.writer is held.
func (db *DB) update(ctx context.Context, fn func(tx *Tx) error) error {
	if err := db.room(); err != nil {
		return err
	}
	if err := db.ready(ctx); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	if err := db.startLog(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	tx, err := db.begin()
	if err != nil {
		return err
	}
	defer tx.end()
	return db.write(tx, fn)
}

func (db *DB) write(tx *Tx, fn func(tx *Tx) error) error {
	table, done := tx.layers.active, false
	from := table.written
	defer func() {
		if !done { // also when fn panics
			table.undo(from)
		}
	}()
	tx.at++ // it sees its own batch
	db.batch = append(db.batch[:0], make([]byte, batchHead)...)
	if err := fn(tx); err != nil {
		return err
	}
	if len(db.batch) == batchHead {
		done = true
		return nil
	}
	if err := db.log.append(db.batch, tx.at); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	done = true
	table.last = tx.at
	db.visible.Store(tx.at)
	db.wrote.Store(int64(time.Since(db.opened)))
	db.failed.Store(false)
	return nil
}

// Batch is the number of the batch that the transaction sees last: in an update
// its own, greater than all before it.
func (tx *Tx) Batch() uint64 { return tx.at }

// Bucket returns the bucket at a place of [Options.Buckets].
func (tx *Tx) Bucket(i int) *Bucket { return &tx.buckets[i] }

// inTree is the bucket in the tree.
func (b *Bucket) inTree() *bbolt.Bucket {
	if b.tree == nil {
		b.tree = b.tx.tree.Bucket(b.tx.db.buckets[b.id])
	}
	return b.tree
}

// Get returns the key's value, nil if it has none; an empty one is not nil.
func (b *Bucket) Get(key []byte) []byte {
	if b.grows() {
		return b.whole(key)
	}
	l := b.tx.layers
	e, ok := l.active.get(b.id, key, b.tx.at)
	if !ok && l.sealed != nil {
		e, ok = l.sealed.get(b.id, key, b.tx.at)
	}
	if ok {
		return e.value
	}
	return b.fromTree(key)
}

func (b *Bucket) fromTree(key []byte) []byte {
	if b.seek == nil {
		b.seek = b.inTree().Cursor()
	}
	if k, v := b.seek.Seek(key); bytes.Equal(k, key) {
		return v
	}
	return nil
}

// Cursor walks the bucket.
func (b *Bucket) Cursor() *Cursor {
	c := &Cursor{n: 1, bucket: b}
	l := b.tx.layers
	c.walkers[0] = walker{t: l.active, bucket: b.id, seq: b.tx.at}
	c.sources[0] = &c.walkers[0]
	if l.sealed != nil {
		c.walkers[1] = walker{t: l.sealed, bucket: b.id, seq: b.tx.at}
		c.sources[c.n] = &c.walkers[1]
		c.n++
	}
	c.sources[c.n] = treeSource{b.inTree().Cursor()}
	c.n++
	return c
}

var (
	errKey  = errors.New("a key is empty or too long")
	errGrow = errors.New("values of this bucket are appended to, and of no other")
)

// Put sets the key's value; it copies both.
func (b *Bucket) Put(key, value []byte) error { return b.put(op{key: key, value: value}, false) }

// Insert is [Bucket.Put] of a key that has no value. Should it be deleted again
// soon, the tree never hears of it.
func (b *Bucket) Insert(key, value []byte) error {
	return b.put(op{key: key, value: value, fresh: true}, false)
}

// Append appends to the key's value, in a bucket of [Options.Growing].
func (b *Bucket) Append(key, more []byte) error { return b.put(op{key: key, value: more}, true) }

// Delete takes the key out, if it is there.
func (b *Bucket) Delete(key []byte) error {
	return b.put(op{key: key, gone: true}, b.grows())
}

func (b *Bucket) put(o op, grow bool) error {
	if len(o.key) == 0 || len(o.key) > bbolt.MaxKeySize || len(o.value) > bbolt.MaxValueSize {
		return fmt.Errorf("%w: %w", store.ErrInvalid, errKey)
	}
	if grow != b.grows() {
		return fmt.Errorf("%w: %w", store.ErrInvalid, errGrow)
	}
	o.bucket = b.id
	db := b.tx.db
	db.batch = appendOp(db.batch, &o)
	b.tx.layers.active.put(o, b.tx.at)
	return nil
}
