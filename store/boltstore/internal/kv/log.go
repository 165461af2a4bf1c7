package kv

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	"github.com/signin-engine/signin-engine/store"
)

// The log is two files, which take turns: one is written while the other one's
// batches go to the tree. A file begins with a head:
//
//	magic 8 | id of the tree 16 | number of the first batch 8 | crc 4 | 0 4
//
// and then has batches, of which the numbers go up by one:
//
//	crc 4 | length 4 | number 8 | operations
//
// An operation is bucket 1 | length of the key | length of the value + 1, or 0
// for a deletion | key | value, the lengths as varints. Checksums are CRC-32C,
// of all that follows them; numbers are little-endian. A file is written over
// from its beginning when its turn comes, so what follows the last batch may be
// anything.
const (
	logMagic  = "signlog1"
	headSize  = 40
	batchHead = 16
	idSize    = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type log struct {
	id     [idSize]byte
	noSync bool
	files  [2]logFile
	turn   int // index of the one that is written
}

type logFile struct {
	path string
	f    *os.File
	end  int64 // of the last batch; 0: not begun
	torn bool  // something that failed may stand behind the end
}

func newLog(path string, secret []byte, noSync bool) *log {
	sum := sha256.Sum256(append([]byte("log of "), secret...))
	l := &log{noSync: noSync, id: [idSize]byte(sum[:idSize])}
	for i := range l.files {
		l.files[i].path = logPath(path, i)
	}
	return l
}

func logPath(path string, i int) string { return fmt.Sprintf("%s.log%d", path, i) }

// create opens both files for writing, as they are.
func (l *log) create(mode fs.FileMode) error {
	for i := range l.files {
		f, err := os.OpenFile(l.files[i].path, os.O_RDWR|os.O_CREATE, mode)
		if err != nil {
			return errors.Join(fmt.Errorf("log: %w", err), l.close())
		}
		l.files[i].f = f
	}
	return nil
}

func (l *log) close() error {
	var errs []error
	for i := range l.files {
		if f := l.files[i].f; f != nil {
			errs = append(errs, f.Close())
			l.files[i].f = nil
		}
	}
	return errors.Join(errs...)
}

func (l *log) remove() error {
	var errs []error
	for i := range l.files {
		if err := os.Remove(l.files[i].path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// swap gives the turn to the other file, whose batches the tree has.
func (l *log) swap() {
	l.turn = 1 - l.turn
	l.files[l.turn].end = 0
}

// append writes a batch, which has room for its head in front, and returns when
// it is on the disk. After an error it is not there.
func (l *log) append(batch []byte, seq uint64) error {
	file := &l.files[l.turn]
	if file.torn {
		if err := l.mend(file); err != nil {
			return err
		}
	}
	binary.LittleEndian.PutUint32(batch[4:], uint32(len(batch)-batchHead))
	binary.LittleEndian.PutUint64(batch[8:], seq)
	binary.LittleEndian.PutUint32(batch, crc32.Checksum(batch[4:], castagnoli))
	err := l.write(file, batch, seq)
	if err != nil {
		file.torn = true
		return errors.Join(err, l.mend(file))
	}
	return nil
}

func (l *log) write(file *logFile, batch []byte, seq uint64) error {
	end := file.end
	if end == 0 {
		end = headSize
		if _, err := file.f.WriteAt(l.head(seq), 0); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	if _, err := file.f.WriteAt(batch, end); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if err := l.sync(file); err != nil {
		return err
	}
	file.end = end + int64(len(batch))
	return nil
}

// mend cuts off what a failed write has left.
func (l *log) mend(file *logFile) error {
	if err := file.f.Truncate(file.end); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if err := l.sync(file); err != nil {
		return err
	}
	file.torn = false
	return nil
}

func (l *log) sync(file *logFile) error {
	if l.noSync {
		return nil
	}
	if err := datasync(file.f); err != nil {
		return fmt.Errorf("log: sync: %w", err)
	}
	return nil
}

func (l *log) head(first uint64) []byte {
	h := make([]byte, headSize)
	copy(h, logMagic)
	copy(h[len(logMagic):], l.id[:])
	binary.LittleEndian.PutUint64(h[24:], first)
	binary.LittleEndian.PutUint32(h[32:], crc32.Checksum(h[:32], castagnoli))
	return h
}

// replay calls fn with every batch after the one that the tree has, in order.
// needed: the tree says that there is a log.
func (l *log) replay(applied uint64, needed bool, fn func(seq uint64, ops []byte) error) error {
	var logs [2]batches
	for i := range l.files {
		raw, err := os.ReadFile(l.files[i].path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && needed:
			return fmt.Errorf("%s is missing, and the file was not closed: something acknowledged may lie there: %w",
				l.files[i].path, store.ErrCorrupt)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("log: %w", err)
		}
		if logs[i], err = l.read(raw); err != nil {
			return fmt.Errorf("%s: %w", l.files[i].path, err)
		}
	}
	if logs[1].begun && (!logs[0].begun || logs[1].seq < logs[0].seq) {
		logs[0], logs[1] = logs[1], logs[0]
	}
	for i := range logs {
		b := &logs[i]
		for ops := b.next(); ops != nil; ops = b.next() {
			seq := b.seq - 1
			if seq <= applied {
				continue
			}
			if seq != applied+1 {
				return fmt.Errorf("the log goes on with batch %d, the file ends with %d: %w", seq, applied, store.ErrCorrupt)
			}
			if err := fn(seq, ops); err != nil {
				return err
			}
			applied = seq
		}
		if b.seq > applied && b.holed() {
			return fmt.Errorf("batch %d of the log is damaged, and others follow: %w", b.seq, store.ErrCorrupt)
		}
	}
	return nil
}

// batches reads a log file.
type batches struct {
	begun bool
	seq   uint64 // of the next one
	rest  []byte
}

// read checks a log file's head. One that was torn had no batch behind it.
func (l *log) read(raw []byte) (batches, error) {
	if len(raw) < headSize || string(raw[:len(logMagic)]) != logMagic ||
		crc32.Checksum(raw[:32], castagnoli) != binary.LittleEndian.Uint32(raw[32:]) {
		return batches{}, nil
	}
	if !bytes.Equal(raw[len(logMagic):len(logMagic)+idSize], l.id[:]) {
		return batches{}, fmt.Errorf("the log of another file, move it away: %w", store.ErrCorrupt)
	}
	return batches{begun: true, seq: binary.LittleEndian.Uint64(raw[24:]), rest: raw[headSize:]}, nil
}

// next returns the operations of the next batch; nil at the end.
func (b *batches) next() []byte {
	size, ok := whole(b.rest, b.seq)
	if !ok {
		return nil
	}
	ops := b.rest[batchHead:size]
	b.rest = b.rest[size:]
	b.seq++
	return ops
}

// whole reports whether a batch begins here, and its size.
func whole(raw []byte, seq uint64) (size int, ok bool) {
	if len(raw) < batchHead {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(raw[4:])
	if uint64(n) > uint64(len(raw)-batchHead) || binary.LittleEndian.Uint64(raw[8:]) != seq {
		return 0, false
	}
	size = batchHead + int(n)
	return size, crc32.Checksum(raw[4:size], castagnoli) == binary.LittleEndian.Uint32(raw)
}

// holed reports whether the batch that cannot be read is followed by the one
// after it, so that it is no torn end.
func (b *batches) holed() bool {
	if len(b.rest) < batchHead {
		return false
	}
	n := uint64(binary.LittleEndian.Uint32(b.rest[4:]))
	if n > uint64(len(b.rest)-batchHead) {
		return false
	}
	_, ok := whole(b.rest[batchHead+n:], b.seq+1)
	return ok
}

// appendOp adds an operation to a batch.
func appendOp(dst []byte, o *op) []byte {
	dst = append(dst, o.bucket)
	dst = binary.AppendUvarint(dst, uint64(len(o.key)))
	if o.gone {
		dst = binary.AppendUvarint(dst, 0)
		return append(dst, o.key...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(o.value))+1)
	return append(append(dst, o.key...), o.value...)
}

// eachOp calls fn with the operations of a batch.
func eachOp(ops []byte, fn func(o op) error) error {
	for len(ops) > 0 {
		o := op{bucket: ops[0]}
		keyLen, n := binary.Uvarint(ops[1:])
		if n <= 0 {
			return fmt.Errorf("operation: %w", store.ErrCorrupt)
		}
		valLen, m := binary.Uvarint(ops[1+n:])
		if m <= 0 {
			return fmt.Errorf("operation: %w", store.ErrCorrupt)
		}
		ops = ops[1+n+m:]
		if o.gone = valLen == 0; !o.gone {
			valLen--
		}
		if keyLen > uint64(len(ops)) || valLen > uint64(len(ops))-keyLen {
			return fmt.Errorf("operation: %w", store.ErrCorrupt)
		}
		o.key, o.value = ops[:keyLen], ops[keyLen:keyLen+valLen]
		ops = ops[keyLen+valLen:]
		if err := fn(o); err != nil {
			return err
		}
	}
	return nil
}
