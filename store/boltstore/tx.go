package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/kv"
)

// txn is a running transaction.
type txn struct {
	now   time.Time
	rows  *kv.Bucket
	live  *kv.Bucket
	idx   *kv.Bucket
	facts *kv.Bucket
	audit *kv.Bucket
	names *names
	key   []byte // of the current row
	text  []byte // to be hashed

	*scratch // nil in a read transaction
}

// scratch is the working memory of a write transaction, of which one runs at a time.
type scratch struct {
	woken []string      // attempts that changed, and marks that wake
	plans []putPlan     // of the current commit
	value []byte        // of the current row
	put   store.Attempt // being written
	row   store.Delivery
	had   store.Delivery // as stored before
	lines uint64         // number of the last audit line; 0: no line has been written yet
	known known
	batch uint64 // of the transaction
}

// begun prepares for a transaction. If the last committed batch is not the last one
// of this scratch, that one was abandoned or refused, and known may be wrong.
func (s *scratch) begun(tx *kv.Tx) {
	if s.known == nil || tx.Last() != s.batch {
		s.known = known{}
	}
	s.batch, s.woken, s.lines = tx.Batch(), nil, 0
}

// known caches what the indexes need of the attempts written last, so that the next
// commit does not read them again.
type known map[string]*stored

// maxKnown bounds [known].
const maxKnown = 4096

// stored is what the indexes need of an attempt.
type stored struct {
	version  int64
	state    store.State
	key      store.Key
	exchange string
	aad      string
	entered  time.Time
	outcome  string
	request  uint64 // its hash, 0 for none
}

func storedOf(a *store.Attempt) stored {
	return stored{
		version: a.Version, state: a.State, key: a.Key, exchange: a.ExchangeID, aad: a.Conversation.UserAAD,
		entered: store.Time(a.Entered), outcome: a.Outcome(), request: sum(a.Request),
	}
}

var seed = maphash.MakeSeed()

func sum(b []byte) uint64 {
	if len(b) == 0 {
		return 0
	}
	return max(1, maphash.Bytes(seed, b))
}

func (k known) keep(a *store.Attempt) {
	if a.State.Terminal() {
		delete(k, a.ID) // rarely written again
		return
	}
	old := k[a.ID]
	if old == nil {
		if len(k) >= maxKnown {
			clear(k)
		}
		old = new(stored)
		k[strings.Clone(a.ID)] = old
	}
	now := storedOf(a)
	// A string may share memory with a whole record; a clone lets that go.
	for _, text := range [...]struct{ old, now *string }{
		{&old.key.App, &now.key.App},
		{&old.key.Channel, &now.key.Channel},
		{&old.key.User, &now.key.User},
		{&old.key.Connection, &now.key.Connection},
		{&old.exchange, &now.exchange},
		{&old.aad, &now.aad},
	} {
		if *text.old == *text.now {
			*text.now = *text.old
		} else {
			*text.now = strings.Clone(*text.now)
		}
	}
	*old = now
}

func (s *Store) begin(tx *kv.Tx) *txn {
	t, ok := s.txns.Get().(*txn)
	if !ok {
		t = &txn{names: &s.names, key: make([]byte, 0, 96)}
	}
	t.now, t.scratch = store.Time(s.opts.clock()), nil
	t.rows, t.live, t.idx = tx.Bucket(inRows), tx.Bucket(inLive), tx.Bucket(inIndex)
	t.facts, t.audit = tx.Bucket(inFacts), tx.Bucket(inAudit)
	return t
}

// view runs fn in a read transaction. No commit ends while it runs.
func (s *Store) view(ctx context.Context, op string, fn func(t *txn) error) error {
	return s.reading(ctx, op, s.db.View, fn)
}

// scan is view for reads of many rows.
func (s *Store) scan(ctx context.Context, op string, fn func(t *txn) error) error {
	return s.reading(ctx, op, s.db.Scan, fn)
}

func (s *Store) reading(ctx context.Context, op string, do func(context.Context, func(*kv.Tx) error) error, fn func(t *txn) error) error {
	err := do(ctx, func(tx *kv.Tx) error {
		t := s.begin(tx)
		defer s.txns.Put(t)
		return fn(t)
	})
	if err != nil {
		return fmt.Errorf("boltstore: %s: %w", op, err)
	}
	return nil
}

// update runs fn in a write transaction and returns when its writes are on the
// disk. On an error nothing was written, but after ErrUnavailable a crash may bring
// the writes back.
func (s *Store) update(ctx context.Context, op string, fn func(t *txn) error) error {
	var woken []string
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		t := s.begin(tx)
		defer s.txns.Put(t)
		t.scratch = &s.scratch
		t.begun(tx)
		err := fn(t)
		woken = t.woken
		return err
	})
	if err != nil {
		return fmt.Errorf("boltstore: %s: %w", op, err)
	}
	s.notify.Wake(woken...)
	return nil
}

// read reads an attempt, if there is one of this id.
func (t *txn) read(id string, a *store.Attempt) (found bool, err error) {
	t.key = rowKey(t.key[:0], id, kindRecord)
	b := t.rows.Get(t.key)
	if b == nil {
		return false, nil
	}
	if err := a.Decode(b); err != nil {
		return false, fmt.Errorf("attempt %s: %w", id, err)
	}
	t.key = rowKey(t.key[:0], id, kindRequest)
	a.Request = bytes.Clone(t.rows.Get(t.key))
	return true, nil
}

// readNamed reads an attempt that an index names.
func (t *txn) readNamed(id, index string, a *store.Attempt) error {
	found, err := t.read(id, a)
	if err == nil && !found {
		err = fmt.Errorf("index of %s: %w", index, store.ErrCorrupt)
	}
	return err
}

func (t *txn) exists(id string) bool {
	t.key = rowKey(t.key[:0], id, kindRecord)
	return t.rows.Get(t.key) != nil
}
