package kv

import (
	"bytes"

	"go.etcd.io/bbolt"
)

// source is one layer of a bucket, in order.
type source interface {
	seek(key []byte) entry   // the first key that is not before key
	before(key []byte) entry // the last key that is before key; nil is behind all
	next() entry
	prev() entry
}

// Cursor walks a bucket in order, in both directions. What its methods return
// is valid until the transaction ends; a nil key is the end.
type Cursor struct {
	bucket  *Bucket
	sources []source // the newest first
	heads   []entry  // where each stands
	key     []byte   // where the cursor stands
	back    bool     // heads are at or before key, else at or after it
}

// Cursor walks the bucket.
func (b *Bucket) Cursor() *Cursor {
	c := &Cursor{bucket: b}
	for _, l := range b.tx.layers {
		c.sources = append(c.sources, &walker{s: &l.buckets[b.id]})
	}
	c.sources = append(c.sources, &treeSource{b: b})
	c.heads = make([]entry, len(c.sources))
	return c
}

// First moves to the first key.
func (c *Cursor) First() (key, value []byte) { return c.Seek(nil) }

// Last moves to the last key.
func (c *Cursor) Last() (key, value []byte) { return c.Before(nil) }

// Seek moves to the first key that is not before key.
func (c *Cursor) Seek(key []byte) (k, v []byte) {
	for i := range c.sources {
		c.heads[i] = c.sources[i].seek(key)
	}
	return c.settle(false)
}

// Before moves to the last key that is before key; nil is behind all keys.
func (c *Cursor) Before(key []byte) (k, v []byte) {
	for i := range c.sources {
		c.heads[i] = c.sources[i].before(key)
	}
	return c.settle(true)
}

// Next moves on. Behind the end it stays there.
func (c *Cursor) Next() (key, value []byte) {
	if c.key == nil {
		return nil, nil
	}
	if c.back {
		return c.Seek(append(bytes.Clone(c.key), 0))
	}
	c.leave(c.key)
	return c.settle(false)
}

// Prev moves back. Before the beginning it stays there.
func (c *Cursor) Prev() (key, value []byte) {
	if c.key == nil {
		return nil, nil
	}
	if !c.back {
		return c.Before(c.key)
	}
	c.leave(c.key)
	return c.settle(true)
}

// leave moves every source off a key, in the cursor's direction.
func (c *Cursor) leave(key []byte) {
	for i := range c.sources {
		if h := c.heads[i]; h.key != nil && bytes.Equal(h.key, key) {
			if c.back {
				c.heads[i] = c.sources[i].prev()
			} else {
				c.heads[i] = c.sources[i].next()
			}
		}
	}
}

// settle finds the nearest head; of those with one key the newest layer counts.
func (c *Cursor) settle(back bool) (key, value []byte) {
	c.back = back
	for {
		var best *entry
		for i := range c.sources {
			h := &c.heads[i]
			if h.key == nil {
				continue
			}
			if best != nil {
				order := bytes.Compare(h.key, best.key)
				if order == 0 || (order > 0) != back {
					continue
				}
			}
			best = h
		}
		if best == nil {
			c.key = nil
			return nil, nil
		}
		if best.kind != gone {
			c.key = best.key
			if c.bucket.grows() {
				return best.key, c.bucket.Get(best.key)
			}
			return best.key, best.value
		}
		c.leave(best.key)
	}
}

// treeSource walks a bucket of the tree.
type treeSource struct {
	b *Bucket
	c *bbolt.Cursor
}

func treeEntry(key, value []byte) entry { return entry{key: key, value: value} }

func (s *treeSource) cursor() *bbolt.Cursor {
	if s.c == nil {
		s.c = s.b.inTree().Cursor()
	}
	return s.c
}

func (s *treeSource) seek(key []byte) entry {
	defer asDamage()
	return treeEntry(s.cursor().Seek(key))
}

func (s *treeSource) before(key []byte) entry {
	defer asDamage()
	if key == nil {
		return treeEntry(s.cursor().Last())
	}
	if k, _ := s.cursor().Seek(key); k == nil {
		return treeEntry(s.c.Last())
	}
	return treeEntry(s.c.Prev())
}

func (s *treeSource) next() entry {
	defer asDamage()
	return treeEntry(s.c.Next())
}

func (s *treeSource) prev() entry {
	defer asDamage()
	return treeEntry(s.c.Prev())
}
