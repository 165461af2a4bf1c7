package kv

import (
	"bytes"
	"slices"
	"sort"
)

// buffer is what was written since it was begun, in front of the tree.
type buffer struct {
	buckets []sorted
	last    uint64 // the last batch that is in it
}

func newBuffer(buckets int) *buffer { return &buffer{buckets: make([]sorted, buckets)} }

func (b *buffer) empty() bool {
	return !slices.ContainsFunc(b.buckets, func(s sorted) bool { return len(s.runs) > 0 })
}

// merge puts what a newer buffer has over this one.
func (b *buffer) merge(newer *buffer) {
	for i := range newer.buckets {
		for _, r := range newer.buckets[i].runs {
			for j := range r.entries {
				b.buckets[i].set(&r.entries[j])
			}
		}
	}
}

// clone is a copy that stays as it is. It shares its runs with b, which copies
// one before it changes it.
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

// entry is a key as one layer has it; what lies below does not count.
type entry struct {
	key, value []byte
	kind       kind
}

// sorted is the keys of a bucket in order, in runs of bounded length: a new key
// moves only what is in its run.
type sorted struct {
	runs []run // none is empty
	age  int   // goes up when the runs become shared
}

type run struct {
	entries []entry
	age     int // as of the bucket, or the run is shared
}

const maxRun = 64

// seek is the place of the first key that is not before key.
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

// at is the entry at a place, nil outside.
func (s *sorted) at(r, i int) *entry {
	if r < 0 || r >= len(s.runs) {
		return nil
	}
	return &s.runs[r].entries[i]
}

// before is the place in front of another; a negative run is none.
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

// set puts an entry over the one of its key.
func (s *sorted) set(e *entry) {
	r, i := s.seek(e.key)
	if r == len(s.runs) { // behind all
		if r == 0 {
			s.runs = append(s.runs, run{age: s.age}) // of most batches it is the only one, and short
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
