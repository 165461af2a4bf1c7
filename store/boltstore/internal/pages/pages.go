// Package pages checks the pages of a bbolt file.
//
// bbolt trusts its pages: an invalid one makes it panic, loop for ever, or overwrite
// pages that are in use. Its own check panics or loops on them too. This package
// reads every page itself and reports whether they form a tree.
//
// A page is
//
//	id 8 | flags 2 | count 2 | pages that follow 4 | elements of 16 bytes | data
package pages

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math"

	"github.com/signin-engine/signin-engine/store"
)

// Check reads a file of size bytes. It returns [store.ErrCorrupt] if a page cannot
// be read or holds what bbolt could not have written.
func Check(f io.ReaderAt, size int64) (err error) {
	// The checker panics on any fault it finds, as does an index out of a page's bounds.
	defer func() {
		if found := recover(); found != nil {
			err = fmt.Errorf("damaged database: %v: %w", found, store.ErrCorrupt)
		}
	}()
	c := checker{f: f, seen: map[uint64]bool{0: true, 1: true}}
	root, free := c.meta(size)
	if c.pageSize == 0 {
		return fmt.Errorf("no bbolt database: no meta page can be read: %w", store.ErrCorrupt)
	}
	c.page(root, 0)
	if free != noFreelist {
		c.freelist(free)
	}
	return nil
}

const (
	bboltMagic   = 0xED0CDAED
	bboltVersion = 2
	pageHead     = 16
	element      = 16
	maxDepth     = 64 // in pages; a deeper tree would not fit on any disk
	noFreelist   = math.MaxUint64

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketLeaf   = 0x01
)

// Integers have the machine's byte order, as bbolt writes them.
var (
	u16 = binary.NativeEndian.Uint16
	u32 = binary.NativeEndian.Uint32
	u64 = binary.NativeEndian.Uint64
)

type checker struct {
	f        io.ReaderAt
	pageSize uint64
	pages    uint64 // number of pages, in use or free
	seen     map[uint64]bool
}

func (c *checker) read(at, n uint64) []byte {
	b := make([]byte, n)
	if _, err := c.f.ReadAt(b, int64(at)); err != nil {
		panic(err)
	}
	return b
}

// meta reads the valid meta page with the highest transaction number.
func (c *checker) meta(size int64) (root, free uint64) {
	newest := uint64(0)
	for at := uint64(0); at <= 64<<10 && at+pageHead+64 <= uint64(size); at = max(2*at, 1<<10) {
		b := c.read(at+pageHead, 64)
		sum := fnv.New64a()
		_, _ = sum.Write(b[:56])
		if tx := u64(b[48:]); u32(b) == bboltMagic && u32(b[4:]) == bboltVersion && sum.Sum64() == u64(b[56:]) && (c.pageSize == 0 || tx > newest) {
			root, free, newest, c.pageSize = u64(b[16:]), u64(b[32:]), tx, uint64(u32(b[8:]))
			c.pages = min(u64(b[40:]), uint64(size)/c.pageSize)
		}
	}
	return root, free
}

func bad(id uint64, what string) { panic(fmt.Sprintf("page %d %s", id, what)) }

// take reads a page with its overflow pages, and panics if one was taken before.
func (c *checker) take(id uint64) []byte {
	if id >= c.pages {
		bad(id, "lies behind the end")
	}
	head := c.read(id*c.pageSize, pageHead)
	n := uint64(u32(head[12:])) + 1
	if u64(head) != id || id+n > c.pages {
		bad(id, "has a head that makes no sense")
	}
	for i := id; i < id+n; i++ {
		if c.seen[i] {
			bad(i, "is used twice")
		}
		c.seen[i] = true
	}
	return c.read(id*c.pageSize, n*c.pageSize)
}

func (c *checker) page(id uint64, depth int) (first, last []byte) {
	return c.elements(id, c.take(id), depth)
}

// elements checks the elements of a page, or of a bucket stored inline, and returns
// the first and the last key below it. A branch must lead to a page that begins with
// the branch's key: otherwise bbolt frees the page while it is still in use.
func (c *checker) elements(id uint64, raw []byte, depth int) (first, last []byte) {
	flags, n := u16(raw[8:]), uint64(u16(raw[10:]))
	if depth > maxDepth || flags != leafPage && (flags != branchPage || n == 0) {
		bad(id, "has a head that makes no sense")
	}
	for i := range n {
		e := raw[pageHead+i*element:]
		pos, keySize, valueSize := u32(e), u32(e[4:]), uint32(0)
		if flags == leafPage {
			pos, keySize, valueSize = u32(e[4:]), u32(e[8:]), u32(e[12:])
		}
		key := e[pos:][:keySize:keySize]
		value := e[pos:][keySize:][:valueSize:valueSize]
		if bytes.Compare(last, key) >= 0 {
			bad(id, "has its keys in no order")
		}
		if last = key; i == 0 {
			first = key
		}
		switch {
		case flags == branchPage:
			var begin []byte
			if begin, last = c.page(u64(e[8:]), depth+1); !bytes.Equal(begin, key) {
				bad(id, "leads to another key than it says")
			}
		case u32(e)&bucketLeaf == 0:
		case u64(value[:pageHead]) != 0:
			c.page(u64(value), depth+1)
		default:
			c.elements(id, value[pageHead:], depth+1)
		}
	}
	return first, last
}

// freelist checks that no free page is in use.
func (c *checker) freelist(id uint64) {
	raw := c.take(id)
	n, ids := uint64(u16(raw[10:])), raw[pageHead:]
	if n == math.MaxUint16 { // the count does not fit here and follows
		n, ids = u64(ids), ids[8:]
	}
	if u16(raw[8:]) != freelistPage {
		bad(id, "is no list of free pages")
	}
	for ; n > 0; n, ids = n-1, ids[8:] {
		free := u64(ids)
		if free >= c.pages || c.seen[free] {
			bad(free, "is free and in use, or lies behind the end")
		}
		c.seen[free] = true
	}
}
