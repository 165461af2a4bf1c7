package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"os"

	"github.com/signin-engine/signin-engine/store"
)

// checkTree reads every page of a bbolt file and says whether they make up a
// tree. bbolt trusts its pages: one that makes no sense lets it panic, run for
// ever, or write over pages that are in use. A large file that was closed is
// believed, so that it opens at once.
//
// A page is
//
//	id 8 | flags 2 | count 2 | pages that follow 4 | elements of 16 bytes | data
func checkTree(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	defer func() { _ = f.Close() }()
	if size < 4<<10 {
		return fmt.Errorf("no bbolt database: it has %d bytes: %w", size, store.ErrCorrupt)
	}
	c := checker{f: f, seen: map[uint64]bool{0: true, 1: true}}
	m, err := c.meta(size)
	if err != nil {
		return err
	}
	if _, err := os.Stat(logPaths(path)[0]); err != nil && size > checkAlways {
		return nil
	}
	c.pages = min(m.pages, uint64(size)/c.pageSize)
	if err := c.page(m.root, 0); err != nil {
		return err
	}
	if m.free == noFreelist {
		return nil
	}
	return c.freelist(m.free)
}

const (
	checkAlways = 64 << 20
	bboltMagic  = 0xED0CDAED
	pageHead    = 16
	element     = 16
	maxDepth    = 64 // of pages; a tree of this depth would not fit on any disk
	noFreelist  = math.MaxUint64

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketLeaf   = 0x01
)

// Integers are the machine's own, as bbolt writes them.
var (
	u16 = binary.NativeEndian.Uint16
	u32 = binary.NativeEndian.Uint32
	u64 = binary.NativeEndian.Uint64
)

type checker struct {
	f        *os.File
	pageSize uint64
	pages    uint64 // that are in use or free
	seen     map[uint64]bool
}

type treeMeta struct{ root, free, pages, tx uint64 }

// meta reads the meta page that counts: the later one of those that are whole.
func (c *checker) meta(size int64) (newest treeMeta, err error) {
	for at := int64(0); at < min(size-pageHead, 64<<10); at = max(2*at, 1<<10) {
		var raw [pageHead + 64]byte
		if _, err := c.f.ReadAt(raw[:], at); err != nil {
			return newest, fmt.Errorf("check: %w", err)
		}
		b := raw[pageHead:]
		sum := fnv.New64a()
		_, _ = sum.Write(b[:56])
		if u32(b) != bboltMagic || sum.Sum64() != u64(b[56:]) {
			continue
		}
		m := treeMeta{root: u64(b[16:]), free: u64(b[32:]), pages: u64(b[40:]), tx: u64(b[48:])}
		if c.pageSize == 0 || m.tx > newest.tx {
			c.pageSize, newest = uint64(u32(b[8:])), m
		}
	}
	if c.pageSize < 1<<10 || c.pageSize > 64<<10 {
		return newest, fmt.Errorf("no bbolt database: no meta page can be read: %w", store.ErrCorrupt)
	}
	return newest, nil
}

func bad(id uint64, what string) error {
	return fmt.Errorf("damaged database: page %d %s: %w", id, what, store.ErrCorrupt)
}

// take reads a page with those that follow it, each once.
func (c *checker) take(id uint64) ([]byte, error) {
	var head [pageHead]byte
	if id >= c.pages {
		return nil, bad(id, "lies behind the end")
	}
	if _, err := c.f.ReadAt(head[:], int64(id*c.pageSize)); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	n := uint64(u32(head[12:])) + 1
	if u64(head[:]) != id || id+n > c.pages {
		return nil, bad(id, "has a head that makes no sense")
	}
	for i := id; i < id+n; i++ {
		if c.seen[i] {
			return nil, bad(i, "is used twice")
		}
		c.seen[i] = true
	}
	raw := make([]byte, n*c.pageSize)
	if _, err := c.f.ReadAt(raw, int64(id*c.pageSize)); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	return raw, nil
}

func (c *checker) page(id uint64, depth int) error {
	if depth > maxDepth {
		return bad(id, "lies too deep")
	}
	raw, err := c.take(id)
	if err != nil {
		return err
	}
	return c.elements(id, raw, depth)
}

// elements checks what is on a page, also on one that stands in for a bucket.
func (c *checker) elements(id uint64, raw []byte, depth int) error {
	flags, n := u16(raw[8:]), uint64(u16(raw[10:]))
	if flags != branchPage && flags != leafPage || pageHead+n*element > uint64(len(raw)) || flags == branchPage && n == 0 {
		return bad(id, "has a head that makes no sense")
	}
	var last []byte
	for i := range n {
		at := pageHead + i*element
		e := raw[at:]
		pos, keySize, valueSize := uint64(u32(e)), uint64(u32(e[4:])), uint64(0)
		if flags == leafPage {
			pos, keySize, valueSize = uint64(u32(e[4:])), uint64(u32(e[8:])), uint64(u32(e[12:]))
		}
		if at+pos+keySize+valueSize > uint64(len(raw)) || pos < element {
			return bad(id, "has an element that reaches beyond it")
		}
		key, value := e[pos:pos+keySize], e[pos+keySize:pos+keySize+valueSize]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return bad(id, "has its keys in no order")
		}
		last = key
		var err error
		switch {
		case flags == branchPage:
			err = c.page(u64(e[8:]), depth+1)
		case u32(e)&bucketLeaf == 0:
		case len(value) < pageHead:
			err = bad(id, "has a bucket that makes no sense")
		case u64(value) != 0:
			err = c.page(u64(value), depth+1)
		case len(value) < 2*pageHead:
			err = bad(id, "has a bucket that makes no sense")
		default:
			err = c.elements(id, value[pageHead:], depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freelist checks that what is free is not in use.
func (c *checker) freelist(id uint64) error {
	raw, err := c.take(id)
	if err != nil {
		return err
	}
	n, ids := uint64(u16(raw[10:])), raw[pageHead:]
	if n == math.MaxUint16 { // the count is too large for its place
		n, ids = u64(ids), ids[8:]
	}
	if u16(raw[8:]) != freelistPage || n > uint64(len(ids)/8) {
		return bad(id, "is no list of free pages")
	}
	for ; n > 0; n, ids = n-1, ids[8:] {
		if free := u64(ids); free >= c.pages || c.seen[free] {
			return bad(free, "is free and in use, or lies behind the end")
		}
		c.seen[u64(ids)] = true
	}
	return nil
}
