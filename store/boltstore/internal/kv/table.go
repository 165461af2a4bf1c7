package kv

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
)

// A table is an ordered map that remembers every version of a value: a skip
// list of keys with a hash index beside it, in few large pieces of memory
// without pointers, so that the garbage collector has nothing to look at. One
// goroutine writes while others read.
type table struct {
	nodes    atomic.Pointer[[]*nodeBlock]
	versions atomic.Pointer[[]*versionBlock]
	data     atomic.Pointer[[][]byte]
	index    atomic.Pointer[[]atomic.Uint32] // of nodes by hash, open addressing; a power of two

	// The writer's own.
	memory  *memory
	keys    uint32 // nodes in use; the first is the list's head
	written uint32 // versions in use; the first is none
	used    int    // bytes of the last piece of data
	size    int    // bytes in use
	last    uint64 // the last batch that is in it
	partly  bool   // the tree may have something of it: no key is fresh any more
	dice    uint64
}

const (
	maxHeight  = 7 // one node in four is higher than its neighbour: good for 4^7
	blockBits  = 9
	blockMask  = 1<<blockBits - 1
	pieceSize  = 128 << 10
	indexSize  = 1 << 12 // at first; it grows
	entryBytes = 96      // what a key with one version takes, roughly
)

// node is a key, one cache line wide. It stays when all its versions are undone.
type node struct {
	prefix  prefix
	piece   uint32
	offset  uint32
	size    uint32
	bucket  uint8
	height  uint8
	fresh   bool                     // see op; it counts when the node is made, and the layers below are what they were then
	version atomic.Uint32            // the newest; 0: none
	next    [maxHeight]atomic.Uint32 // 0: none
}

type version struct {
	seq    uint64
	piece  uint32
	offset uint32
	size   int32 // gone: a deletion
	node   uint32
	older  uint32 // 0: none
}

const gone = -1

type (
	nodeBlock    [1 << blockBits]node
	versionBlock [1 << blockBits]version
)

// entry is a key as it is read; a nil key is none.
type entry struct {
	key, value []byte
	gone       bool
}

var hashSeed = maphash.MakeSeed() //nolint:gochecknoglobals // hashes do not leave the process

// prefix is how a key begins, so that most comparisons need not look it up.
type prefix struct{ high, low uint64 }

func prefixOf(key []byte) prefix {
	var b [16]byte
	copy(b[:], key)
	return prefix{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}

func hash(bucket uint8, key []byte) uint32 {
	return uint32(maphash.Bytes(hashSeed, key)) + uint32(bucket)*0x9e3779b1
}

// newTable is a table whose first batch comes after last.
func newTable(last uint64, m *memory) *table {
	t := &table{memory: m, keys: 1, written: 1, last: last, dice: 0x9e3779b97f4a7c15}
	t.nodes.Store(&[]*nodeBlock{new(nodeBlock)})
	t.versions.Store(&[]*versionBlock{new(versionBlock)})
	t.data.Store(new([][]byte))
	index := make([]atomic.Uint32, indexSize)
	t.index.Store(&index)
	return t
}

func (t *table) empty() bool { return t.written == 1 }

func (t *table) node(i uint32) *node { return &(*t.nodes.Load())[i>>blockBits][i&blockMask] }

func (t *table) version(i uint32) *version {
	return &(*t.versions.Load())[i>>blockBits][i&blockMask]
}

func (t *table) bytes(piece, offset, size uint32) []byte {
	return (*t.data.Load())[piece][offset : offset+size : offset+size]
}

func (t *table) key(n *node) []byte { return t.bytes(n.piece, n.offset, n.size) }

// at is the key as it was at batch seq; it may not have been there.
func (t *table) at(n *node, seq uint64) (entry, bool) {
	for i := n.version.Load(); i != 0; {
		v := t.version(i)
		if v.seq > seq {
			i = v.older
			continue
		}
		if v.size == gone {
			return entry{key: t.key(n), gone: true}, true
		}
		return entry{key: t.key(n), value: t.bytes(v.piece, v.offset, uint32(v.size))}, true
	}
	return entry{}, false
}

// find returns the key's node, 0 for none.
func (t *table) find(bucket uint8, key []byte) uint32 {
	index := *t.index.Load()
	mask := uint32(len(index) - 1)
	for slot := hash(bucket, key) & mask; ; slot = (slot + 1) & mask {
		i := index[slot].Load()
		if i == 0 {
			return 0
		}
		if n := t.node(i); n.bucket == bucket && bytes.Equal(t.key(n), key) {
			return i
		}
	}
}

// get returns the key as it was at batch seq.
func (t *table) get(bucket uint8, key []byte, seq uint64) (entry, bool) {
	if i := t.find(bucket, key); i != 0 {
		return t.at(t.node(i), seq)
	}
	return entry{}, false
}

// op is one change of a key.
type op struct {
	bucket     uint8
	key, value []byte
	gone       bool // a deletion
	fresh      bool // no layer has the key, so a deletion leaves nothing to delete below
}

// put adds a version. Of two of one batch the later one counts.
func (t *table) put(o op, seq uint64) {
	i := t.find(o.bucket, o.key)
	if i == 0 {
		i = t.insert(o.bucket, o.key)
		t.node(i).fresh = o.fresh
	}
	n, at := t.node(i), t.written
	if int(at>>blockBits) == len(*t.versions.Load()) {
		grown := append(*t.versions.Load(), new(versionBlock))
		t.versions.Store(&grown)
	}
	t.written++
	v := t.version(at)
	v.seq, v.node, v.older = seq, i, n.version.Load()
	if v.size = gone; !o.gone {
		v.size = int32(len(o.value))
		v.piece, v.offset = t.keep(o.value)
	}
	n.version.Store(at)
}

// insert adds a key without a version.
func (t *table) insert(bucket uint8, key []byte) uint32 {
	var path [maxHeight]uint32
	t.search(bucket, key, &path)
	at := t.keys
	if int(at>>blockBits) == len(*t.nodes.Load()) {
		grown := append(*t.nodes.Load(), new(nodeBlock))
		t.nodes.Store(&grown)
	}
	t.keys++
	t.size += entryBytes
	n := t.node(at)
	n.bucket, n.height, n.size, n.prefix = bucket, t.height(), uint32(len(key)), prefixOf(key)
	n.piece, n.offset = t.keep(key)
	for level := range n.height {
		n.next[level].Store(t.node(path[level]).next[level].Load())
	}
	for level := range n.height {
		t.node(path[level]).next[level].Store(at)
	}
	if index := *t.index.Load(); int(t.keys) > len(index)/2 {
		// Who still reads the old index looks for nothing that is newer than it.
		grown := make([]atomic.Uint32, 2*len(index))
		for i := uint32(1); i < at; i++ {
			n := t.node(i)
			file(grown, hash(n.bucket, t.key(n)), i)
		}
		t.index.Store(&grown)
	}
	file(*t.index.Load(), hash(bucket, key), at)
	return at
}

func file(index []atomic.Uint32, h, i uint32) {
	mask := uint32(len(index) - 1)
	for slot := h & mask; ; slot = (slot + 1) & mask {
		if index[slot].Load() == 0 {
			index[slot].Store(i)
			return
		}
	}
}

// keep copies b into the data.
func (t *table) keep(b []byte) (piece, offset uint32) {
	pieces := *t.data.Load()
	if len(pieces) == 0 || len(pieces[len(pieces)-1])-t.used < len(b) {
		grown := append(pieces, t.memory.piece(len(b)))
		t.data.Store(&grown)
		pieces, t.used = grown, 0
	}
	last := len(pieces) - 1
	offset = uint32(t.used)
	t.used += copy(pieces[last][t.used:], b)
	t.size += len(b)
	return uint32(last), offset
}

func (t *table) height() (h uint8) {
	t.dice ^= t.dice << 13
	t.dice ^= t.dice >> 7
	t.dice ^= t.dice << 17
	h = 1
	for bits := t.dice; h < maxHeight && bits&3 == 0; bits >>= 2 {
		h++
	}
	return h
}

// undo takes the versions from one on back. No reader has seen them.
func (t *table) undo(from uint32) {
	for i := t.written - 1; i >= from; i-- {
		v := t.version(i)
		t.node(v.node).version.Store(v.older)
	}
}

// search returns the first node that is not before the key, 0 for none, and
// leaves the last node before it of each level in path.
func (t *table) search(bucket uint8, key []byte, path *[maxHeight]uint32) uint32 {
	var at, next uint32
	begin := prefixOf(key)
	for level := maxHeight - 1; level >= 0; level-- {
		stop := next // what ended the level above ends this one
		for {
			next = t.node(at).next[level].Load()
			if next == 0 || next == stop || !t.less(t.node(next), bucket, begin, key) {
				break
			}
			at = next
		}
		path[level] = at
	}
	return next
}

func (t *table) less(n *node, bucket uint8, begin prefix, key []byte) bool {
	switch {
	case n.bucket != bucket:
		return n.bucket < bucket
	case n.prefix.high != begin.high:
		return n.prefix.high < begin.high
	case n.prefix.low != begin.low:
		return n.prefix.low < begin.low
	default:
		return bytes.Compare(t.key(n), key) < 0
	}
}

// walker walks a bucket of a table as it was at batch seq.
type walker struct {
	t      *table
	bucket uint8
	seq    uint64
	node   *node
}

func (w *walker) seek(key []byte) entry {
	var path [maxHeight]uint32
	return w.forward(w.t.search(w.bucket, key, &path))
}

// forward stands on the first key from a node on that was there.
func (w *walker) forward(i uint32) entry {
	for ; i != 0; i = w.node.next[0].Load() {
		if w.node = w.t.node(i); w.node.bucket != w.bucket {
			break
		}
		if e, ok := w.t.at(w.node, w.seq); ok {
			return e
		}
	}
	return entry{}
}

func (w *walker) before(key []byte) entry {
	bucket := w.bucket
	if key == nil {
		bucket++ // its beginning is the end of ours
	}
	for {
		var path [maxHeight]uint32
		w.t.search(bucket, key, &path)
		if w.node = w.t.node(path[0]); path[0] == 0 || w.node.bucket != w.bucket {
			return entry{}
		}
		if e, ok := w.t.at(w.node, w.seq); ok {
			return e
		}
		bucket, key = w.bucket, w.t.key(w.node)
	}
}

func (w *walker) next() entry { return w.forward(w.node.next[0].Load()) }

func (w *walker) prev() entry { return w.before(w.t.key(w.node)) }

// some calls fn with at most limit keys, in order, from node at on; 0 is the
// beginning. It returns the node to go on with, 0 at the end.
func (t *table) some(at uint32, limit int, fn func(n *node) error) (next uint32, err error) {
	if at == 0 {
		at = t.node(0).next[0].Load()
	}
	for ; at != 0 && limit > 0; limit-- {
		n := t.node(at)
		if err := fn(n); err != nil {
			return at, err
		}
		at = n.next[0].Load()
	}
	return at, nil
}
