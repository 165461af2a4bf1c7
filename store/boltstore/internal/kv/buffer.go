package kv

import (
	"bytes"
	"slices"
	"sort"
)

// buffer holds writes that are not in the tree yet.
type buffer struct {
	buckets []sorted
	last    uint64 // number of the last batch in it
}

func newBuffer(buckets int) *buffer { return &buffer{buckets: make([]sorted, buckets)} }

func (b *buffer) empty() bool {
	return !slices.ContainsFunc(b.buckets, func(s sorted) bool { return len(s.runs) > 0 })
}

// merge adds the entries of a newer buffer, which win.
func (b *buffer) merge(newer *buffer) {
	for i := range newer.buckets {
		for _, r := range newer.buckets[i].runs {
			for j := range r.entries {
				b.buckets[i].set(&r.entries[j])
			}
		}
	}
}

// clone returns a copy that later writes to b do not change. The two share their
// runs; b copies a run before it changes it.
func (b *buffer) clone() *buffer {
	c := newBuffer(len(b.buckets))
	for i := range b.buckets {
		c.buckets[i].runs = slices.Clone(b.buckets[i].runs)
		b.buckets[i].age++
	}
	return c
}

type kind uint8

const (
	put  kind = iota
	gone      // deleted
)

// entry is a key in one layer; it hides the key in the layers below.
type entry struct {
	key, value []byte
	kind       kind
}

// sorted holds the entries of a bucket by key, in runs of bounded length: an insert
// moves only the entries of one run.
type sorted struct {
	runs []run // no run is empty
	age  int   // goes up when the runs become shared
}

type run struct {
	entries []entry
	age     int // if it differs from the bucket's, the run is shared
}

const (
	maxRun     = 64
	fewEntries = 8 // of a run in most batches
)

// seek returns the position of the first entry whose key is not below key.
func (s *sorted) seek(key []byte) (r, i int) {
	r = sort.Search(len(s.runs), func(n int) bool {
		e := s.runs[n].entries
		return bytes.Compare(e[len(e)-1].key, key) >= 0
	})
	if r == len(s.runs) {
		return r, 0
	}
	e := s.runs[r].entries
	return r, sort.Search(len(e), func(n int) bool { return bytes.Compare(e[n].key, key) >= 0 })
}

// at returns the entry at a position, nil out of range.
func (s *sorted) at(r, i int) *entry {
	if r < 0 || r >= len(s.runs) {
		return nil
	}
	return &s.runs[r].entries[i]
}

// before returns the position in front of r, i; a negative run means there is none.
func (s *sorted) before(r, i int) (int, int) {
	switch {
	case i > 0:
		return r, i - 1
	case r == 0:
		return -1, 0
	}
	return r - 1, len(s.runs[r-1].entries) - 1
}

func (s *sorted) get(key []byte) *entry {
	if e := s.at(s.seek(key)); e != nil && bytes.Equal(e.key, key) {
		return e
	}
	return nil
}

// set inserts an entry or replaces the one with its key.
func (s *sorted) set(e *entry) {
	r, i := s.seek(e.key)
	if r == len(s.runs) { // after all keys
		if r == 0 {
			s.runs = append(s.runs, run{entries: make([]entry, 0, fewEntries), age: s.age})
		}
		r = len(s.runs) - 1
		i = len(s.runs[r].entries)
	}
	in := &s.runs[r]
	if in.age != s.age {
		in.entries, in.age = append(make([]entry, 0, maxRun), in.entries...), s.age
	}
	if i < len(in.entries) && bytes.Equal(in.entries[i].key, e.key) {
		in.entries[i] = *e
		return
	}
	in.entries = slices.Insert(in.entries, i, *e)
	if n := len(in.entries); n == maxRun {
		half := append(make([]entry, 0, maxRun), in.entries[n/2:]...)
		clear(in.entries[n/2:])
		in.entries = in.entries[:n/2]
		s.runs = slices.Insert(s.runs, r+1, run{entries: half, age: s.age})
	}
}
