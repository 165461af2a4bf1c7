package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/signin-engine/signin-engine/store"
)

// errNothing ends a write transaction that has nothing to write.
var errNothing = errors.New("nothing to write")

// txn is a running transaction.
type txn struct {
	s    *Store
	tx   *bbolt.Tx
	now  time.Time
	rows *bbolt.Bucket
	live *bbolt.Bucket
	idx  *bbolt.Bucket

	key   []byte        // of the current row; bbolt copies keys
	seek  *bbolt.Cursor // over rows, positioned anew by each use
	woken []string      // attempts that changed
	put   store.Attempt // the one that is being written
	line  store.Event   // likewise

	encoded []byte // of line

	skewRead  bool
	skewValue uint64 // microseconds
}

func (s *Store) begin(write bool) (*txn, error) {
	tx, err := s.db.Begin(write)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return &txn{
		s:    s,
		tx:   tx,
		now:  store.Time(s.opts.clock()),
		rows: tx.Bucket(bucketRows),
		live: tx.Bucket(bucketLive),
		idx:  tx.Bucket(bucketIndex),
	}, nil
}

// ready returns with s.mu held for reading and s.db usable, reopening the file
// if a write failed before; or with an error.
func (s *Store) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not begun: %w", err)
	}
	for {
		s.mu.RLock()
		if s.closed {
			s.mu.RUnlock()
			return fmt.Errorf("closed: %w", store.ErrUnavailable)
		}
		if s.db != nil && !s.needOpen {
			return nil
		}
		s.mu.RUnlock()
		if err := s.reopen(); err != nil {
			return err
		}
	}
}

// reopen reads the file anew after a write failed. bbolt takes its own state
// back then, but if it was the sync of the meta page that failed, the new meta
// page may stand in the file all the same: only the file knows.
func (s *Store) reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.db != nil && !s.needOpen {
		return nil
	}
	if s.db != nil {
		_ = s.db.Close() // nothing is left to lose in it
		s.db = nil
	}
	db, err := s.openDB()
	if err != nil {
		return fmt.Errorf("reopen: %w: %w", store.ErrUnavailable, err)
	}
	s.db, s.needOpen = db, false
	return nil
}

// view runs fn in a read transaction.
func (s *Store) view(ctx context.Context, op string, fn func(t *txn) error) error {
	if err := s.ready(ctx); err != nil {
		return fmt.Errorf("boltstore: %s: %w", op, err)
	}
	defer s.mu.RUnlock()
	t, err := s.begin(false)
	if err != nil {
		return fmt.Errorf("boltstore: %s: %w", op, err)
	}
	defer func() { _ = t.tx.Rollback() }()
	if err := fn(t); err != nil {
		return fmt.Errorf("boltstore: %s: %w", op, err)
	}
	return nil
}

// update runs fn in a write transaction and returns when it is on the disk. If
// that fails it is ErrUnavailable, and the file says whether it happened.
func (s *Store) update(ctx context.Context, op string, fn func(t *txn) error) error {
	if s.opts.readOnly {
		return fmt.Errorf("boltstore: %s: %w", op, store.ErrReadOnly)
	}
	s.writer.Lock()
	defer s.writer.Unlock()
	woken, err := s.write(ctx, fn)
	if err != nil && !errors.Is(err, errNothing) {
		return fmt.Errorf("boltstore: %s: %w", op, err)
	}
	s.notify.Wake(woken...)
	return nil
}

func (s *Store) write(ctx context.Context, fn func(t *txn) error) ([]string, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	committed, failed := false, false
	defer func() {
		s.mu.RUnlock()
		if failed {
			s.mu.Lock()
			s.needOpen = true
			s.mu.Unlock()
		}
	}()
	t, err := s.begin(true)
	if err != nil {
		return nil, err
	}
	defer func() {
		if !committed && !failed {
			_ = t.tx.Rollback()
		}
	}()
	s.arena = s.arena[:0]
	if err := fn(t); err != nil {
		return nil, err
	}
	if err := t.tx.Commit(); err != nil {
		failed = true
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	committed = true
	return t.woken, nil
}

// keep makes a value live until the commit, which bbolt asks of its callers:
// append to t.s.arena from start, then keep(start).
func (t *txn) keep(start int) []byte {
	return t.s.arena[start:len(t.s.arena):len(t.s.arena)]
}

func put(b *bbolt.Bucket, key, value []byte) error {
	if err := b.Put(key, value); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return nil
}

func del(b *bbolt.Bucket, key []byte) error {
	if err := b.Delete(key); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return nil
}

// attempt returns the record of id, or nil.
func (t *txn) attempt(id string) (*store.Attempt, error) {
	t.key = rowKey(t.key[:0], id, kindRecord)
	b := t.rows.Get(t.key)
	if b == nil {
		return nil, nil //nolint:nilnil // absence is no error here
	}
	a, err := store.DecodeAttempt(b)
	if err != nil {
		return nil, fmt.Errorf("attempt %s: %w", id, err)
	}
	return &a, nil
}

func (t *txn) exists(id string) bool {
	t.key = rowKey(t.key[:0], id, kindRecord)
	return t.rows.Get(t.key) != nil
}

// skew returns how far the time in an attempt's id may be from its times; ok is
// false if that is unbounded.
func (t *txn) skew() (d time.Duration, ok bool) {
	if !t.skewRead {
		t.skewRead, t.skewValue = true, uint64(minSkew/time.Microsecond)
		if b := t.tx.Bucket(bucketMeta).Get(metaSkew); len(b) == 8 {
			t.skewValue = binary.BigEndian.Uint64(b)
		}
	}
	if t.skewValue > maxSkew {
		return 0, false
	}
	return time.Duration(t.skewValue) * time.Microsecond, true
}
