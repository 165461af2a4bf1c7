package kv

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/signin-engine/signin-engine/store"
)

// The log is two files that take turns: one is written while the batches of the
// other are flushed to the tree. Each begins with a header sector, written once,
// before the tree records that there is a log:
//
//	magic 8 | id of the tree 16 | crc 4
//
// Batches follow. Each starts on a sector of its own, so that a torn write cannot
// damage an acknowledged batch:
//
//	crc 4 | length 4 | number 8 | number of the batch before 8 | operations
//
// An operation is bucket 1 | kind 1 | length of the key | length of the value |
// key | value, the lengths as varints. A checksum is the CRC-32C of the id and of
// what it covers. Numbers are little-endian. When a file's turn comes, it is
// overwritten from its beginning: whatever follows its last batch is older, and
// the tree has it.
const (
	logMagic  = "signlog2"
	idSize    = 16
	headSize  = len(logMagic) + idSize
	sector    = 512
	batchHead = 24
)

type log struct {
	fs    files
	id    []byte
	paths [2]string
	files [2]file
	turn  int   // index of the file being written
	end   int64 // offset where its last batch ends
	size  int   // of that batch; an estimate for the next one
}

func newLog(fs files, path string, secret []byte) *log {
	id := sha256.Sum256(append([]byte("log of "), secret...))
	return &log{fs: fs, id: id[:idSize], paths: logPaths(path)}
}

func logPaths(path string) [2]string { return [2]string{path + ".log0", path + ".log1"} }

func (l *log) sum(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(l.id, table), table, b)
}

func (l *log) head() []byte {
	h := append([]byte(logMagic), l.id...)
	return append(binary.LittleEndian.AppendUint32(h, l.sum(h)), make([]byte, sector-headSize-4)...)
}

// create makes the files that do not exist yet, and returns when both would
// survive a power loss.
func (l *log) create(mode fs.FileMode) error {
	for i, path := range l.paths {
		f, err := l.fs.open(path, os.O_RDWR|os.O_CREATE, mode)
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		l.files[i] = f
		if _, err = f.WriteAt(l.head(), 0); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	l.turn, l.end = 0, sector
	return l.fs.syncDir(filepath.Dir(l.paths[0]))
}

func (l *log) close() error {
	var errs []error
	for i, f := range l.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
		l.files[i] = nil
	}
	return errors.Join(errs...)
}

// remove deletes the files. Errors are ignored: the tree has everything, so files
// that stay do no harm.
func (l *log) remove() {
	for _, path := range l.paths {
		_ = l.fs.remove(path)
	}
}

// swap makes the other file the one being written. The tree has everything in it.
func (l *log) swap() { l.turn, l.end = 1-l.turn, sector }

// append writes a batch, which starts with room for its header, and returns when
// it is on the disk. The next batch overwrites one that was refused, so that the
// log cannot bring it back later: no file ends its turn with a refused batch.
func (l *log) append(batch []byte, seq, before uint64) error {
	binary.LittleEndian.PutUint32(batch[4:], uint32(len(batch)-batchHead))
	binary.LittleEndian.PutUint64(batch[8:], seq)
	binary.LittleEndian.PutUint64(batch[16:], before)
	binary.LittleEndian.PutUint32(batch, l.sum(batch[4:]))
	batch = append(batch, make([]byte, pad(len(batch)))...)
	f := l.files[l.turn]
	_, err := f.WriteAt(batch, l.end)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	l.size = len(batch)
	l.end += int64(len(batch))
	return nil
}

// pad is how many bytes n lacks to whole sectors.
func pad(n int) int { return -n & (sector - 1) }

// batch is a batch that was found in a file.
type batch struct {
	seq, before uint64
	ops         []byte
	size        int // in the file, with padding
}

// read returns the batches after applied, the last one in the tree, in order, and
// the raw files. needed: the tree records that there is a log.
func (l *log) read(applied uint64, needed bool) (found []batch, raw [2][]byte, err error) {
	for i, path := range l.paths {
		raw[i], err = os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && needed {
			return nil, raw, fmt.Errorf("%s is missing, and the file was not closed: %s: %w", path, advice, store.ErrCorrupt)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, raw, fmt.Errorf("log: %w", err)
		}
	}
	if len(raw[0])+len(raw[1]) == 0 { // no log, or an operator emptied it to give it up
		return nil, raw, nil
	}
	for i, path := range l.paths {
		here := l.scan(raw[i], applied)
		found = append(found, here...)
		if err := l.checkHead(raw[i], needed || len(here) > 0); err != nil {
			return nil, raw, fmt.Errorf("%s: %w", path, err)
		}
	}
	slices.SortFunc(found, func(a, b batch) int { return cmp.Compare(a.seq, b.seq) })
	for i := range found {
		if b := &found[i]; b.before != applied {
			return nil, raw, fmt.Errorf("%s: damaged: batch %d goes on after batch %d, and the last one before it that can be read is %d: %s: %w",
				l.paths[0], b.seq, b.before, applied, advice, store.ErrCorrupt)
		}
		applied = found[i].seq
	}
	return found, raw, nil
}

// advice ends every error about a log that does not match.
const advice = "what was acknowledged last may lie there, so nothing is changed; a store that was not closed needs its .log0 and .log1 beside it, " +
	"and snapshot makes a copy that needs none"

// checkHead checks a file's header. It may be missing as long as the tree does not
// need the file.
func (l *log) checkHead(raw []byte, needed bool) error {
	head := raw[:min(len(raw), headSize+4)]
	if bytes.Equal(head, l.head()[:headSize+4]) || !needed && len(bytes.Trim(head, "\x00")) == 0 {
		return nil
	}
	return fmt.Errorf("its head is damaged, or it is the log of another file: %s: %w", advice, store.ErrCorrupt)
}

// scan finds every whole batch that the tree does not have. Where it finds no batch
// it tries the next sector, so that an unreadable one does not hide the rest.
func (l *log) scan(raw []byte, applied uint64) (found []batch) {
	for at := sector; at < len(raw); {
		b, ok := l.parse(raw[at:])
		if !ok {
			at += sector
			continue
		}
		if at += b.size; b.seq > applied {
			found = append(found, b)
		}
	}
	return found
}

func (l *log) parse(raw []byte) (batch, bool) {
	if len(raw) < batchHead {
		return batch{}, false
	}
	n := uint64(binary.LittleEndian.Uint32(raw[4:]))
	if n > uint64(len(raw)-batchHead) || l.sum(raw[4:batchHead+n]) != binary.LittleEndian.Uint32(raw) {
		return batch{}, false
	}
	b := batch{seq: binary.LittleEndian.Uint64(raw[8:]), before: binary.LittleEndian.Uint64(raw[16:]), ops: raw[batchHead : batchHead+n]}
	b.size = batchHead + len(b.ops) + pad(batchHead+len(b.ops))
	return b, true
}

// firm puts on the disk what was read: it may have come from the page cache.
func (l *log) firm(raw [2][]byte) error {
	for i, path := range l.paths {
		if err := rewrite(l.fs, path, len(raw[i])); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	return nil
}

// rewrite writes the first n bytes of a file again, unchanged, and syncs it. After
// a failed sync another sync alone does not help: the kernel may have marked the
// pages clean, and then does not write them again.
func rewrite(fs files, path string, n int) error {
	if n == 0 {
		return nil
	}
	f, err := fs.open(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	raw := make([]byte, n)
	if _, err = f.ReadAt(raw, 0); err == nil {
		_, err = f.WriteAt(raw, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// appendOp appends an operation to a batch.
func appendOp(dst []byte, bucket uint8, e *entry) []byte {
	dst = append(dst, bucket, byte(e.kind))
	dst = binary.AppendUvarint(dst, uint64(len(e.key)))
	dst = binary.AppendUvarint(dst, uint64(len(e.value)))
	return append(append(dst, e.key...), e.value...)
}

// play replays a batch into a buffer.
func (b *batch) play(into *buffer) error {
	into.last = b.seq
	for ops := b.ops; len(ops) > 0; {
		if len(ops) < 2 {
			return errOp
		}
		bucket, e := ops[0], entry{kind: kind(ops[1])}
		keyLen, n := binary.Uvarint(ops[2:])
		if n <= 0 {
			return errOp
		}
		valLen, m := binary.Uvarint(ops[2+n:])
		if m <= 0 {
			return errOp
		}
		ops = ops[2+n+m:]
		if keyLen == 0 || keyLen > uint64(len(ops)) || valLen > uint64(len(ops))-keyLen || e.kind > gone || int(bucket) >= len(into.buckets) {
			return errOp
		}
		end := keyLen + valLen
		e.key, e.value = ops[:keyLen:keyLen], ops[keyLen:end:end]
		ops = ops[end:]
		into.buckets[bucket].set(&e)
	}
	return nil
}

var errOp = fmt.Errorf("an operation of the log cannot be read: %w", store.ErrCorrupt)
