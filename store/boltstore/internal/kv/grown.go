package kv

import "encoding/binary"

// grown is a value that is appended to, as the tree has it: the batch of its
// last piece before the value itself. A table may have been given to the tree
// in part, and is then given once more: what is there already is left out. So
// no batch may ever have the number of one that the tree has anything of, see
// recover.
//
//	last batch 8 | value
//
// nil is none.
type grown []byte

const grownHead = 8

func (g grown) last() uint64 {
	if len(g) < grownHead {
		return 0
	}
	return binary.BigEndian.Uint64(g)
}

func (g grown) value() []byte {
	if len(g) < grownHead {
		return g // damaged: whoever decodes it says so
	}
	return g[grownHead:]
}

func (db *DB) grows(bucket uint8) bool { return int(bucket) >= len(db.opts.Buckets) }

func (b *Bucket) grows() bool { return b.tx.db.grows(b.id) }

// whole returns a key's value out of all layers.
func (b *Bucket) whole(key []byte) []byte {
	g := grown(b.fromTree(key))
	l := b.tx.layers
	for _, t := range [...]*table{l.sealed, l.active} {
		if t == nil {
			continue
		}
		if i := t.find(b.id, key); i != 0 {
			g = t.grow(t.node(i), g, b.tx.at)
		}
	}
	return g.value()
}

// grow puts the pieces of a table up to batch seq behind what g has.
func (t *table) grow(n *node, g grown, seq uint64) grown {
	var room [16]*version
	pieces, size, last := room[:0], grownHead, g.last() // the newest first
	for i := n.version.Load(); i != 0; {
		v := t.version(i)
		i = v.older
		if v.seq > seq {
			continue
		}
		if v.seq <= last {
			break
		}
		pieces = append(pieces, v)
		if v.size == gone {
			g = nil
			break
		}
		size += int(v.size)
	}
	if len(pieces) == 0 || pieces[0].size == gone {
		return g
	}
	whole := binary.BigEndian.AppendUint64(make([]byte, 0, size+len(g)), pieces[0].seq)
	whole = append(whole, g.value()...)
	for k := len(pieces) - 1; k >= 0; k-- {
		if v := pieces[k]; v.size != gone {
			whole = append(whole, t.bytes(v.piece, v.offset, uint32(v.size))...)
		}
	}
	return whole
}
