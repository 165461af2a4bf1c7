package kv

import "bytes"

// Next returns the next key; a nil key is the end. What it returns is valid until
// the transaction ends.
type Next func() (key, value []byte)

// From walks the bucket upwards, from the first key at or above key.
func (b *Bucket) From(key []byte) Next { return b.walk(key, false) }

// Down walks the bucket downwards, from the last key below key; nil starts at the
// last key.
func (b *Bucket) Down(key []byte) Next { return b.walk(key, true) }

// source is one layer of a walk; an entry without a key is the end.
type source struct {
	head entry
	next func() entry
}

// walk merges the layers; for each key the newest layer wins.
func (b *Bucket) walk(key []byte, down bool) Next {
	var sources []source // the newest first
	for _, l := range b.tx.layers {
		if s := &l.buckets[b.id]; len(s.runs) > 0 || l == b.tx.layers[0] { // an update may still put keys into the first one
			sources = append(sources, source{next: s.walk(key, down)})
		}
	}
	sources = append(sources, source{next: b.walkTree(key, down)})
	for i := range sources {
		sources[i].head = sources[i].next()
	}
	return func() (key, value []byte) {
		for {
			var best entry
			for i := range sources {
				h := &sources[i].head
				order := 0
				if best.key != nil && h.key != nil {
					order = bytes.Compare(h.key, best.key)
				}
				if h.key != nil && (best.key == nil || order != 0 && order > 0 == down) {
					best = *h
				}
			}
			if best.key == nil {
				return nil, nil
			}
			for i := range sources {
				if s := &sources[i]; bytes.Equal(s.head.key, best.key) {
					s.head = s.next()
				}
			}
			if best.kind != gone {
				return best.key, best.value
			}
		}
	}
}

// walk walks a bucket of a buffer. It seeks its position each time, since keys may
// have been put in between.
func (s *sorted) walk(key []byte, down bool) func() entry {
	at, end := bytes.Clone(key), key == nil && down
	return func() entry {
		r, i := s.seek(at)
		if end {
			r, i = len(s.runs), 0
		}
		if down {
			r, i = s.before(r, i)
		}
		e := s.at(r, i)
		if e == nil {
			return entry{}
		}
		at, end = append(at[:0], e.key...), false
		if !down {
			at = append(at, 0) // the smallest key above it
		}
		return *e
	}
}

func (b *Bucket) walkTree(key []byte, down bool) func() entry {
	var step func() (key, value []byte)
	return func() (e entry) {
		defer asDamage()
		if step != nil {
			e.key, e.value = step()
			return e
		}
		c := b.inTree().Cursor()
		if step = c.Next; down {
			step = c.Prev
		}
		e.key, e.value = c.Seek(key)
		switch {
		case down && (key == nil || e.key == nil):
			e.key, e.value = c.Last()
		case down:
			e.key, e.value = c.Prev()
		}
		return e
	}
}
