package boltstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/kv"
)

// Get returns one attempt; see [store.Store].
func (s *Store) Get(ctx context.Context, id string) (store.Snapshot, error) {
	var snap store.Snapshot
	err := s.view(ctx, "get", func(t *txn) error {
		snap.Now = t.now
		found := make([]store.Attempt, 1)
		ok, err := t.read(id, &found[0])
		if err == nil && !ok {
			err = fmt.Errorf("attempt %q: %w", id, store.ErrNotFound)
		}
		if err != nil {
			return err
		}
		snap.Attempts = found
		return nil
	})
	return snap, err
}

// Find is the engine's read; see [store.Store].
func (s *Store) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	var snap store.Snapshot
	err := s.view(ctx, "find", func(t *txn) error {
		snap = store.Snapshot{Now: t.now}
		if q.ExchangeID != "" {
			t.key = t.exchangeRow(t.key[:0], q.User.App, q.ExchangeID)
			if id := t.idx.Get(t.key); id != nil {
				snap.ByExchangeID = new(store.Attempt)
				if err := t.readNamed(string(id), "exchange ids", snap.ByExchangeID); err != nil {
					return err
				}
			}
		}
		return t.find(&q, &snap)
	})
	if err != nil {
		return store.Snapshot{}, err
	}
	return snap, nil
}

// find adds the attempts of the user (and connection) to snap: first the open ones,
// then the others, newest first.
func (t *txn) find(q *store.Query, snap *store.Snapshot) error {
	h := t.hashKey(q.Key())
	prefix, scope := h[:userScope], h[hashSize:userScope]
	if q.Connection != "" {
		prefix, scope = h[:], h[hashSize:]
	}
	open, err := t.openOf(h, q.Connection != "", prefix)
	if err != nil {
		return err
	}
	for _, id := range open {
		err := t.find1(id, "open attempts", snap)
		if err != nil && q.Connection != "" {
			return err
		}
	}
	if len(snap.Attempts) >= q.Max() {
		return nil
	}
	ids := newDescending(t.idx, append([]byte{idxUser}, h[:hashSize]...), "")
	for id, v := ids.next(); id != "" && len(snap.Attempts) < q.Max(); id, v = ids.next() {
		if bytes.HasPrefix(v, scope) && !slices.Contains(open, id) {
			_ = t.find1(id, "users", snap) // skipped, and named in snap.Corrupt
		}
	}
	return nil
}

// find1 adds an attempt that an index names. If it cannot be read, find1 names it in
// snap.Corrupt and returns the error.
func (t *txn) find1(id, index string, snap *store.Snapshot) error {
	if known := snap.ByExchangeID; known != nil && known.ID == id {
		snap.Attempts = append(snap.Attempts, known.Clone())
		return nil
	}
	n := len(snap.Attempts)
	snap.Attempts = append(snap.Attempts, store.Attempt{})
	err := t.readNamed(id, index, &snap.Attempts[n])
	if err != nil {
		snap.Attempts = snap.Attempts[:n]
		snap.Corrupt = append(snap.Corrupt, store.Corrupt{ID: id, Err: err})
	}
	return err
}

// openOf returns the ids of a user's open attempts, newest first: those under prefix
// or, if one is set, the one attempt that key h can have.
func (t *txn) openOf(h userKey, one bool, prefix []byte) ([]string, error) {
	if !one {
		return t.openIDs(prefix, nil), nil
	}
	row, ok, err := t.openRow(h)
	if err != nil || !ok {
		return nil, err
	}
	return []string{row.id}, nil
}

// openIDs returns the ids of open attempts whose key has the prefix and whose state
// is in states (nil: any), newest first.
func (t *txn) openIDs(prefix []byte, states []store.State) []string {
	var ids []string
	t.eachOpen(prefix, func(_ []byte, row openRow) {
		if len(states) == 0 || slices.Contains(states, row.state) {
			ids = append(ids, row.id)
		}
	})
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(b, a) })
	return ids
}

// eachOpen calls fn with the rows of the open index whose key has the prefix. It skips
// rows that cannot be decoded: a read of their key reports them.
func (t *txn) eachOpen(prefix []byte, fn func(key []byte, row openRow)) {
	p := append([]byte{liveOpen}, prefix...)
	next := t.live.From(p)
	for k, v := next(); bytes.HasPrefix(k, p); k, v = next() {
		if row, ok := readOpenRow(v); ok {
			fn(k, row)
		}
	}
}

// descending walks the ids after a prefix of an index downwards, starting below an
// id ("" for all).
type descending struct {
	step   kv.Next
	prefix []byte
}

func newDescending(b *kv.Bucket, prefix []byte, below string) *descending {
	end := append(bytes.Clone(prefix), below...)
	if below == "" {
		end = append(end, 0xff) // ids are text, so none begins with ff
	}
	return &descending{step: b.Down(end), prefix: prefix}
}

// next returns the next id and its value, "" at the end.
func (d *descending) next() (id string, v []byte) {
	k, v := d.step()
	if !bytes.HasPrefix(k, d.prefix) {
		d.step = func() (k, v []byte) { return nil, nil }
		return "", nil
	}
	return string(k[len(d.prefix):]), v
}

// Changed waits for this process to write a newer version; see [store.Store].
func (s *Store) Changed(ctx context.Context, id string, version int64) error {
	err := s.notify.Wait(ctx, id, func() (stale bool, err error) {
		err = s.view(ctx, "changed", func(t *txn) error {
			var a store.Attempt
			found, err := t.read(id, &a)
			if found {
				stale = a.Version > version
			} else {
				stale = version > 0
			}
			return err
		})
		return stale, err
	})
	if err != nil {
		return fmt.Errorf("boltstore: changed: %w", err)
	}
	return nil
}

// List is the operator's list; see [store.Store]. It uses the index of owed
// deliveries, of users or of open attempts, or else walks from the newest attempt.
func (s *Store) List(ctx context.Context, f store.Filter) (store.Page, error) {
	var page store.Page
	err := s.scan(ctx, "list", func(t *txn) error {
		page = store.Page{Now: t.now}
		next := t.candidates(&f)
		for id := next(); id != ""; id = next() {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("interrupted: %w", err)
			}
			var a store.Attempt
			if err := t.readNamed(id, "attempts", &a); err != nil {
				page.Corrupt = append(page.Corrupt, store.Corrupt{ID: id, Err: err})
				continue
			}
			if !f.Match(&a) {
				continue
			}
			if n := len(page.Attempts); n == f.Max() {
				page.Next = page.Attempts[n-1].ID
				// The next page covers the ids below, and names those.
				page.Corrupt = slices.DeleteFunc(page.Corrupt, func(c store.Corrupt) bool { return c.ID < page.Next })
				return nil
			}
			page.Attempts = append(page.Attempts, a)
			owed, err := t.deliveries(id)
			if err != nil {
				page.Corrupt = append(page.Corrupt, store.Corrupt{ID: id, Err: err})
			}
			page.Deliveries = append(page.Deliveries, owed...)
		}
		return nil
	})
	if err != nil {
		return store.Page{}, err
	}
	return page, nil
}

// below walks ids, newest first, starting below a cursor ("" for all).
func below(ids []string, cursor string) func() string {
	if cursor != "" {
		ids = slices.DeleteFunc(ids, func(id string) bool { return id >= cursor })
	}
	return func() string {
		if len(ids) == 0 {
			return ""
		}
		id := ids[0]
		ids = ids[1:]
		return id
	}
}

// owedIDs returns the attempts with owed deliveries, newest first. It need not look at
// waiting deliveries: an attempt with one also has a pending one in front of it.
func (t *txn) owedIDs() []string {
	var ids []string
	for prefix, skip := range map[byte]int{livePending: 1 + timeSize, liveDead: 1, liveUndeliverable: 1} {
		next := t.live.From([]byte{prefix})
		for k, _ := next(); len(k) > skip && k[0] == prefix; k, _ = next() {
			id, _ := cutID(k[skip:])
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(b, a) })
	return slices.Compact(ids)
}

// candidates returns a walk over ids, newest first, that includes every match.
func (t *txn) candidates(f *store.Filter) func() string {
	switch {
	case f.Owed:
		return below(t.owedIDs(), f.Cursor)
	case f.User != "":
		h := t.hash(f.User)
		return merge(
			newDescending(t.idx, append([]byte{idxUser}, h[:]...), f.Cursor),
			newDescending(t.idx, t.aadPrefix(nil, f.User), f.Cursor),
		)
	case f.OpenOnly():
		return below(t.openIDs(nil, f.States), f.Cursor)
	default:
		return t.newestFirst(f)
	}
}

// merge walks two indexes at once and returns an id that is in both once.
func merge(a, b *descending) func() string {
	x, _ := a.next()
	y, _ := b.next()
	return func() string {
		id := max(x, y)
		if x == id && id != "" {
			x, _ = a.next()
		}
		if y == id && id != "" {
			y, _ = b.next()
		}
		return id
	}
}

// newestFirst walks all attempts within the filter's bounds.
func (t *txn) newestFirst(f *store.Filter) func() string {
	low, end := f.IDPrefix, f.Cursor
	lower := func(bound string) {
		if end == "" || bound < end {
			end = bound
		}
	}
	if f.IDPrefix != "" {
		lower(f.IDPrefix + "\xff")
	}
	if !f.Since.IsZero() {
		low = max(low, firstID(f.Since.Add(-slack)))
	}
	if !f.Until.IsZero() {
		lower(firstID(f.Until.Add(slack)))
	}
	if end == "" {
		end = "\xff"
	}
	at := []byte(end)
	return func() string {
		k, _ := t.rows.Down(at)()
		id, _ := cutID(k)
		if k == nil || id == "" || id < low {
			return ""
		}
		at = append(append(at[:0], id...), 0)
		return id
	}
}

// readLines decodes a row of bucket audit. Seq is the number among all lines.
func readLines(key, b []byte) ([]store.Event, error) {
	id, number := cutID(key)
	lines, err := store.DecodeLines(b)
	if err == nil && (len(lines) == 0 || len(number) != lineSize) {
		err = store.ErrCorrupt
	}
	if err != nil {
		return nil, fmt.Errorf("audit lines of attempt %q: %w", id, err)
	}
	for i := range lines {
		lines[i].Attempt, lines[i].Seq = id, int64(binary.BigEndian.Uint64(number))+int64(i)
	}
	return lines, nil
}

// Events returns the lines of an attempt, or those without one; see [store.Store].
func (s *Store) Events(ctx context.Context, f store.EventFilter) ([]store.Event, error) {
	var out []store.Event
	err := s.scan(ctx, "events", func(t *txn) (err error) {
		switch {
		case f.Orphans:
			out = t.orphans(&f)
		case f.Attempt != "":
			out, err = t.events(&f)
		default:
			err = fmt.Errorf("of neither an attempt nor none: %w", store.ErrInvalid)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// events returns the lines of one attempt. Seq is their position in it.
func (t *txn) events(f *store.EventFilter) (out []store.Event, err error) {
	prefix := append([]byte(f.Attempt), 0)
	next, place := t.audit.From(prefix), int64(0)
	for k, v := next(); bytes.HasPrefix(k, prefix) && len(out) < f.Max(); k, v = next() {
		lines, err := readLines(k, v)
		if err != nil {
			return nil, err
		}
		for _, e := range lines {
			place++
			if e.Seq = place; place > f.After && !e.Time.Before(f.Since) {
				out = append(out, e)
			}
		}
	}
	return out[:min(len(out), f.Max())], nil
}

// orphans returns the lines without an attempt. It skips lines that cannot be decoded.
func (t *txn) orphans(f *store.EventFilter) []store.Event {
	var out []store.Event
	next := t.audit.From(noAttempt)
	for k, v := next(); bytes.HasPrefix(k, noAttempt) && len(out) < f.Max(); k, v = next() {
		lines, _ := readLines(k, v)
		for _, e := range lines {
			if e.Seq > f.After && !e.Time.Before(f.Since) {
				out = append(out, e)
			}
		}
	}
	return out[:min(len(out), f.Max())]
}

// Trail returns all audit lines, with and without an attempt; see [store.Store]. The
// cursor is the number of a line.
func (s *Store) Trail(ctx context.Context, q store.TrailQuery) (store.Trail, error) {
	var out store.Trail
	err := s.scan(ctx, "trail", func(t *txn) error {
		after, err := strconv.ParseInt(cmp.Or(q.Cursor, "0"), 10, 64)
		if err != nil {
			return fmt.Errorf("cursor %q: %w", q.Cursor, store.ErrInvalid)
		}
		out, err = t.trail(ctx, &q, after)
		return err
	})
	return out, err
}

// numbered is a line and its number.
type numbered struct {
	store.Event
	n int64
}

// trail scans every line and keeps the first ones after a number. It skips lines that
// cannot be decoded: a read of their attempt reports them.
func (t *txn) trail(ctx context.Context, q *store.TrailQuery, after int64) (store.Trail, error) {
	var found []numbered
	cut := func() {
		slices.SortFunc(found, func(a, b numbered) int { return cmp.Compare(a.n, b.n) })
		found = found[:min(len(found), q.Max()+1)] // one extra shows that there is more
	}
	of, place := "", int64(0)
	next := t.audit.From(nil)
	for k, v := next(); k != nil; k, v = next() {
		lines, _ := readLines(k, v)
		for _, e := range lines {
			n := e.Seq
			if e.Attempt != of {
				of, place = e.Attempt, 0
			}
			if place++; of != "" {
				e.Seq = place
			}
			if n > after && !e.Time.Before(q.Since) {
				found = append(found, numbered{e, n})
			}
		}
		if len(found) > 2*q.Max()+store.DefaultEventLimit {
			if err := ctx.Err(); err != nil {
				return store.Trail{}, fmt.Errorf("interrupted: %w", err)
			}
			cut()
		}
	}
	cut()
	last, _ := binary.Uvarint(t.facts.Get(factLines()))
	out := store.Trail{More: len(found) > q.Max()}
	if out.More {
		found = found[:q.Max()]
		last = uint64(found[q.Max()-1].n)
	}
	for _, f := range found {
		out.Events = append(out.Events, f.Event)
	}
	out.Next = strconv.FormatUint(last, 10)
	return out, nil
}

// Counts is the operator's overview; see [store.Store]. It reads only bucket live.
func (s *Store) Counts(ctx context.Context, since time.Time) (store.Counts, error) {
	var n store.Counts
	err := s.scan(ctx, "counts", func(t *txn) error {
		n = store.Counts{
			Now:    t.now,
			Open:   map[store.State]int{},
			Oldest: map[store.State]time.Time{},
			Ended:  map[string]int{},
		}
		t.eachOpen(nil, func(_ []byte, row openRow) {
			n.Open[row.state]++
			if old, ok := n.Oldest[row.state]; !ok || row.entered.Before(old) {
				n.Oldest[row.state] = row.entered
			}
		})
		from := appendTime([]byte{liveTally}, since.Truncate(time.Minute))
		next := t.live.From(from)
		for k, v := next(); len(k) > timeSize && k[0] == liveTally; k, v = next() {
			count, _ := binary.Varint(v)
			n.Ended[string(k[1+timeSize:])] += int(count)
		}
		n.Owed = t.count(livePending) + t.count(liveWaiting)
		n.Dead = t.count(liveDead)
		n.Undeliverable = t.count(liveUndeliverable)
		return nil
	})
	return n, err
}

func (t *txn) count(prefix byte) (n int) {
	next := t.live.From([]byte{prefix})
	for k, _ := next(); len(k) > 0 && k[0] == prefix; k, _ = next() {
		n++
	}
	return n
}

// Secret returns the store's random key; see [store.Store].
func (s *Store) Secret() []byte { return s.db.Secret() }

// Info describes the store; see [store.Store].
func (s *Store) Info(ctx context.Context) (store.Info, error) {
	var info store.Info
	err := s.view(ctx, "info", func(t *txn) error {
		info = store.Info{Backend: "bolt", Where: s.path, Schema: Format, Now: t.now}
		return nil
	})
	return info, err
}

// Snapshot writes a copy of the file to w while the store stays in use, and returns
// its size in bytes. The copy needs no log. Pages freed meanwhile are not reused
// until the snapshot ends. It stops with an error when ctx is done.
func (s *Store) Snapshot(ctx context.Context, w io.Writer) (int64, error) {
	n, err := s.db.Snapshot(ctx, w)
	if err != nil {
		return n, fmt.Errorf("boltstore: snapshot: %w", err)
	}
	return n, nil
}
