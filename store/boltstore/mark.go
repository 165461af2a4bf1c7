package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// markRow is a mark as it is stored:
//
//	created 8 | expires 8 | version, a varint | value
type markRow struct {
	created time.Time // when version 1 was written
	expires time.Time // zero: with the retention
	version int64
	value   []byte
}

func (r *markRow) append(dst []byte) []byte {
	dst = appendTime(appendTime(dst, r.created), r.expires)
	return append(binary.AppendVarint(dst, r.version), r.value...)
}

func readMark(b []byte) (r markRow, ok bool) {
	if len(b) < 2*timeSize {
		return markRow{}, false
	}
	version, n := binary.Varint(b[2*timeSize:])
	if n <= 0 {
		return markRow{}, false
	}
	return markRow{created: readTime(b), expires: readTime(b[timeSize:]), version: version, value: b[2*timeSize+n:]}, true
}

func (t *txn) markKey(h []byte) []byte { return append(append(t.key[:0], idxMark), h...) }

// mark returns a mark that exists and has not expired.
func (t *txn) mark(name string) (markRow, bool) {
	h := t.hash(name)
	t.key = t.markKey(h[:])
	r, ok := readMark(t.idx.Get(t.key))
	return r, ok && (r.expires.IsZero() || t.now.Before(r.expires))
}

// putMark writes or removes a mark that checkMark accepted.
func (t *txn) putMark(m *store.Mark) {
	if m.Wakes {
		t.woken = append(t.woken, m.Name)
	}
	h := t.hash(m.Name)
	old := t.dropMark(h[:])
	if m.Gone {
		return
	}
	r := markRow{created: t.now, expires: store.Time(m.Expires), version: m.Version, value: m.Value}
	if m.Version > 1 {
		r.created = old.created // the retention counts from version 1
	}
	t.value = r.append(t.value[:0])
	t.key = t.markKey(h[:])
	t.idx.Put(t.key, t.value)
	t.key = append(appendTime(append(t.key[:0], idxMarkCreated), r.created), h[:]...)
	t.idx.Put(t.key, nil)
	if r.expires.IsZero() {
		return
	}
	t.key = append(appendTime(append(t.key[:0], idxMarkExpires), r.expires), h[:]...)
	t.idx.Put(t.key, nil)
}

// dropMark deletes a mark and its index rows, if it exists, and returns it.
func (t *txn) dropMark(h []byte) markRow {
	t.key = t.markKey(h)
	old, ok := readMark(t.idx.Get(t.key))
	if !ok {
		return markRow{}
	}
	t.idx.Delete(t.key)
	t.key = append(appendTime(append(t.key[:0], idxMarkCreated), old.created), h...)
	t.idx.Delete(t.key)
	t.key = append(appendTime(append(t.key[:0], idxMarkExpires), old.expires), h...)
	t.idx.Delete(t.key)
	return old
}

// Mark returns a mark that has not expired; see [store.Store].
func (s *Store) Mark(ctx context.Context, name string) (store.Mark, error) {
	var m store.Mark
	err := s.view(ctx, "mark", func(t *txn) error {
		r, ok := t.mark(name)
		if !ok {
			return fmt.Errorf("no such mark: %w", store.ErrNotFound)
		}
		m = store.Mark{Name: name, Version: r.version, Expires: r.expires}
		if len(r.value) > 0 {
			m.Value = bytes.Clone(r.value)
		}
		return nil
	})
	return m, err
}
