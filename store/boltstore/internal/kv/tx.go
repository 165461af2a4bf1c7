package kv

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/signin-engine/signin-engine/store"
)

// Tx is a transaction: the file as it was when the transaction began and, in an
// update, what was put since. It is for one goroutine.
type Tx struct {
	db      *DB
	layers  []*buffer // newest first; an update's own buffer comes first
	tree    *bbolt.Tx
	number  uint64 // of the update's batch
	last    uint64 // of the last committed batch
	batch   []byte
	err     error // of the last Put that could not be done
	buckets []Bucket
}

// Bucket is a part of the file with keys of its own. What its methods return is
// valid until the transaction ends and must not be changed.
type Bucket struct {
	tx   *Tx
	id   uint8
	tree *bbolt.Bucket // opened on first use
	seek *bbolt.Cursor // for Get
}

// begin starts a transaction. The caller holds db.mu for reading and db.front in
// either mode, so that no batch can be missing from both the layers and the tree.
func (db *DB) begin(layers ...*buffer) (*Tx, error) {
	tx := &Tx{db: db, buckets: make([]Bucket, len(db.buckets))}
	if tx.layers = layers; db.sealed != nil {
		tx.layers = append(layers, db.sealed)
	}
	for i := range tx.buckets {
		tx.buckets[i].tx, tx.buckets[i].id = tx, uint8(i)
	}
	var err error
	if tx.tree, err = db.tree.Begin(false); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return tx, nil
}

func (tx *Tx) end() { _ = tx.tree.Rollback() }

// View runs fn in a read-only transaction. No update commits until fn returns; use
// [DB.Scan] for long reads.
func (db *DB) View(ctx context.Context, fn func(tx *Tx) error) error {
	if err := db.hold(ctx); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	db.front.RLock()
	defer db.front.RUnlock()
	tx, err := db.begin(db.active)
	if err != nil {
		return err
	}
	defer tx.end()
	return guarded(func() error { return fn(tx) })
}

// Scan is [DB.View] for long reads: it costs more to begin, and it blocks no
// update.
func (db *DB) Scan(ctx context.Context, fn func(tx *Tx) error) error {
	if err := db.hold(ctx); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	db.front.Lock()
	tx, err := db.begin(db.active.clone())
	db.front.Unlock()
	if err != nil {
		return err
	}
	defer tx.end()
	return guarded(func() error { return fn(tx) })
}

// Update runs fn in a transaction and returns when what fn put is on the disk. On
// an error of fn, or [store.ErrUnavailable] if the disk refuses the write, this
// process sees nothing of it. After a crash a batch that got ErrUnavailable may be
// there all the same, unless a later batch succeeded.
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

// probeAfter is how long a successful update is proof that the next one would work.
const probeAfter = time.Second

// Probe reports whether an update would work now. It trusts the last update, unless
// that failed, is more than a second old, or the last flush to the tree failed.
// Then it runs fn, which must put something, as an update.
func (db *DB) Probe(ctx context.Context, fn func(tx *Tx) error) error {
	if db.opts.ReadOnly {
		return store.ErrReadOnly
	}
	fresh := time.Since(db.opened)-time.Duration(db.wrote.Load()) < probeAfter
	if fresh && !db.failed.Load() && !db.behind.Load() {
		err := db.hold(ctx)
		if err == nil {
			db.mu.RUnlock()
		}
		return err
	}
	return db.Update(ctx, fn)
}

// update is [DB.Update] with db.writer held.
func (db *DB) update(ctx context.Context, fn func(tx *Tx) error) error {
	if err := db.room(ctx); err != nil {
		return err
	}
	if err := db.hold(ctx); err != nil {
		return err
	}
	defer db.mu.RUnlock()
	if err := db.startLog(); err != nil {
		return err
	}
	own := newBuffer(len(db.buckets))
	db.front.RLock()
	tx, err := db.begin(own, db.active)
	db.front.RUnlock()
	if err != nil {
		return err
	}
	defer tx.end()
	tx.last, tx.number, tx.batch = db.active.last, db.given+1, make([]byte, batchHead, max(4096, db.log.size+db.log.size/4))
	if err := guarded(func() error { return cmp.Or(fn(tx), tx.err) }); err != nil || len(tx.batch) == batchHead {
		return err
	}
	db.given = tx.number // used up, even if the append fails
	if err := db.log.append(tx.batch, tx.number, tx.last); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	db.front.Lock()
	db.active.merge(own)
	db.active.last = tx.number
	db.front.Unlock()
	db.wrote.Store(int64(time.Since(db.opened)))
	db.failed.Store(false)
	return nil
}

// Batch returns the number of an update's batch, greater than all before it.
func (tx *Tx) Batch() uint64 { return tx.number }

// Last returns the number of the last batch committed before an update began.
func (tx *Tx) Last() uint64 { return tx.last }

// Bucket returns the bucket at index i of [Options.Buckets].
func (tx *Tx) Bucket(i int) *Bucket { return &tx.buckets[i] }

// inTree returns the bucket in the tree.
func (b *Bucket) inTree() *bbolt.Bucket {
	if b.tree == nil {
		b.tree = b.tx.tree.Bucket(b.tx.db.buckets[b.id])
	}
	return b.tree
}

// Get returns the key's value, nil if the key does not exist. An empty value is not
// nil.
func (b *Bucket) Get(key []byte) []byte {
	for _, l := range b.tx.layers {
		switch e := l.buckets[b.id].get(key); {
		case e == nil:
		case e.kind == gone:
			return nil
		default:
			return e.value
		}
	}
	return b.fromTree(key)
}

func (b *Bucket) fromTree(key []byte) []byte {
	defer asDamage()
	if b.seek == nil {
		b.seek = b.inTree().Cursor()
	}
	if k, v := b.seek.Seek(key); bytes.Equal(k, key) {
		return v
	}
	return nil
}

var errKey = errors.New("a key is empty or too long")

// Put sets the key's value. It copies both. An update that puts an empty or too long
// key, or a too long value, writes nothing and returns [store.ErrInvalid].
func (b *Bucket) Put(key, value []byte) { b.put(&entry{key: key, value: value}) }

// Delete removes the key if it exists.
func (b *Bucket) Delete(key []byte) { b.put(&entry{key: key, kind: gone}) }

func (b *Bucket) put(e *entry) {
	tx := b.tx
	if len(e.key) == 0 || len(e.key) > bbolt.MaxKeySize || len(e.value) > bbolt.MaxValueSize {
		tx.err = fmt.Errorf("%w: %w", store.ErrInvalid, errKey)
		return
	}
	tx.batch = appendOp(tx.batch, b.id, e)
	end := len(tx.batch)
	at := end - len(e.value)
	e.value = tx.batch[at:end:end]
	e.key = tx.batch[at-len(e.key) : at : at]
	tx.layers[0].buckets[b.id].set(e)
}
