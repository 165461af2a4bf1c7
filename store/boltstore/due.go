package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/kv"
)

// until returns copies of the first keys, at most limit, that consist of prefix, a
// time not after end, and more.
func until(b *kv.Bucket, prefix byte, end time.Time, limit int) [][]byte {
	var keys [][]byte
	next := b.From([]byte{prefix})
	for k, _ := next(); len(keys) < limit && len(k) > timeSize && k[0] == prefix; k, _ = next() {
		if readTime(k[1:]).After(end) {
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// Due takes attempts whose time has come; see [store.Store]. It writes only if there
// may be any. An attempt may be filed under an earlier time than it is due; then Due
// refiles it.
func (s *Store) Due(ctx context.Context, limit int, hold time.Duration) (store.Snapshot, error) {
	for {
		snap := store.Snapshot{}
		some, err := s.peek(ctx, "due", liveDue, limit, &snap.Now)
		if err != nil || !some {
			return snap, err
		}
		early := false
		err = s.update(ctx, "due", func(t *txn) error {
			snap = store.Snapshot{Now: t.now}
			if early = t.fileAnew(limit); early {
				return nil
			}
			return t.takeDue(limit, hold, &snap)
		})
		if err != nil {
			return store.Snapshot{}, err
		}
		if !early {
			return snap, nil
		}
	}
}

// anewBatch is how many attempts one transaction refiles.
const anewBatch = 2000

// fileAnew looks at the first attempts, as many as among, whose filed time has come,
// and refiles those that are due later. If there are any, it goes on up to
// anewBatch. It reports whether it refiled any.
func (t *txn) fileAnew(among int) (some bool) {
	for _, n := range [...]int{among, anewBatch} {
		for _, key := range until(t.live, liveDue, t.now, n) {
			var a store.Attempt
			if t.readDue(key, &a) != nil {
				continue // takeDue reports it
			}
			filed, due := readTime(key[1:]), a.Due()
			if !filed.Before(due) {
				continue
			}
			if t.fileDue(&a, filed, due) == nil {
				some = true
			}
		}
		if !some {
			break // the usual case
		}
	}
	return some
}

// takeDue takes due attempts and holds them.
func (t *txn) takeDue(limit int, hold time.Duration, snap *store.Snapshot) error {
	end := store.Time(t.now.Add(hold))
	var aside [][]byte
	for _, key := range until(t.live, liveDue, t.now, limit) {
		var a store.Attempt
		err := t.readDue(key, &a)
		if err == nil {
			err = t.fileDue(&a, readTime(key[1:]), end)
		}
		switch {
		case errors.Is(err, store.ErrCorrupt):
			snap.Corrupt = append(snap.Corrupt, store.Corrupt{ID: dueID(key), Err: err})
			aside = append(aside, key)
		case err != nil:
			return err
		default:
			snap.Attempts = append(snap.Attempts, a)
		}
	}
	if len(aside) > 0 {
		t.holdAside(aside, end)
	}
	return nil
}

// holdAside moves rows of the due index whose records cannot be read. Their rows of
// the open index must change too, but only the record has the key of that row. So
// the open index is searched, once for all of them.
func (t *txn) holdAside(keys [][]byte, end time.Time) {
	filed := map[string]time.Time{}
	for _, key := range keys {
		at, id := readTime(key[1:]), dueID(key)
		filed[id] = at
		t.moveDue(id, at, end)
	}
	open := map[string]openRow{}
	t.eachOpen(nil, func(key []byte, row openRow) {
		if at, ok := filed[row.id]; ok && at.Equal(row.due) {
			open[string(key)] = row
		}
	})
	for key, row := range open {
		row.due = end
		t.value = row.append(t.value[:0])
		t.live.Put([]byte(key), t.value)
	}
}

func dueID(key []byte) string { return string(key[1+timeSize:]) }

func (t *txn) readDue(key []byte, a *store.Attempt) error {
	return t.readNamed(dueID(key), "due attempts", a)
}

// fileDue moves an attempt in the due index. On ErrCorrupt nothing was moved.
func (t *txn) fileDue(a *store.Attempt, from, to time.Time) error {
	h := t.hashKey(a.Key)
	row, ok, err := t.openRow(h)
	if err != nil {
		return err
	}
	if !ok || row.id != a.ID {
		return fmt.Errorf("index of open attempts: %w", store.ErrCorrupt)
	}
	t.moveDue(a.ID, from, to)
	row.due = to
	t.putOpenRow(h, &row)
	return nil
}

// peek reports, without writing, whether an index has a row whose time has come.
func (s *Store) peek(ctx context.Context, op string, prefix byte, limit int, now *time.Time) (some bool, err error) {
	err = s.view(ctx, op, func(t *txn) error {
		*now = t.now
		some = len(until(t.live, prefix, t.now, min(limit, 1))) > 0
		return nil
	})
	if err == nil && s.opts.readOnly {
		err = fmt.Errorf("boltstore: %s: %w", op, store.ErrReadOnly)
	}
	return some, err
}
