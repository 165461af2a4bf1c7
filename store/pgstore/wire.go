//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signin-engine/signin-engine/store"
)

// The two statements of every sign-in, Find's and Apply's, take their arguments
// as arrays of hundreds of values. They are written here in the server's binary
// form as they come, since pgx would look up an encoder and allocate for every
// one of them. So a tracer of pgx does not see these two.

// statement is prepared once per connection.
type statement struct {
	name, sql string
}

func (s *statement) prepare(ctx context.Context, conn *pgx.Conn) (*pgconn.StatementDescription, error) {
	return conn.Prepare(ctx, s.name, s.sql)
}

// binaryFormat is the format code of every argument and result.
var binaryFormat = []int16{pgx.BinaryFormatCode}

// arrayHeader is what stands before the values of an array: dimensions, whether
// there are nulls, type, length, first index.
const arrayHeader = 5 * 4

// array is an argument: values of one type.
type array struct {
	oid   uint32
	n     uint32
	nulls bool
	b     []byte
}

func (a *array) reset() { a.n, a.nulls, a.b = 0, false, a.b[:0] }

// size begins a value of so many bytes.
func (a *array) size(n int) {
	if a.n == 0 {
		a.b = append(a.b, make([]byte, arrayHeader)...)
	}
	a.n++
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(n))
}

// begin begins a value whose size end finds out.
func (a *array) begin() (from int) {
	a.size(0)
	return len(a.b)
}

func (a *array) end(from int) {
	binary.BigEndian.PutUint32(a.b[from-4:], uint32(len(a.b)-from))
}

func (a *array) null() {
	const noValue = -1
	a.size(noValue)
	a.nulls = true
}

func (a *array) text(v string) {
	a.size(len(v))
	a.b = append(a.b, v...)
}

// bytea adds bytes, none as null.
func (a *array) bytea(v []byte) {
	if len(v) == 0 {
		a.null()
		return
	}
	a.size(len(v))
	a.b = append(a.b, v...)
}

func (a *array) hash(kind string, parts ...string) {
	a.size(hashSize)
	a.b = appendHash(a.b, kind, parts...)
}

func (a *array) int4(v int) {
	a.size(4)
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(v))
}

func (a *array) int8(v int64) {
	a.size(8)
	a.b = binary.BigEndian.AppendUint64(a.b, uint64(v))
}

func (a *array) bool(v bool) {
	a.size(1)
	a.b = append(a.b, boolean(v)...)
}

// epoch is where the server's times begin, in microseconds.
const epoch = 946684800 * int64(time.Second/time.Microsecond)

// time adds a timestamptz, the zero time as it is: the year 1.
func (a *array) time(v time.Time) { a.int8(v.UnixMicro() - epoch) }

// timeOrNull is time, but the zero time is null.
func (a *array) timeOrNull(v time.Time) {
	if v.IsZero() {
		a.null()
		return
	}
	a.time(v)
}

// value returns the argument.
func (a *array) value() []byte {
	if a.n == 0 {
		a.b = append(a.b[:0], make([]byte, 3*4)...) // no dimension
	} else {
		binary.BigEndian.PutUint32(a.b, 1)
		binary.BigEndian.PutUint32(a.b[12:], a.n)
		binary.BigEndian.PutUint32(a.b[16:], 1)
	}
	if a.nulls {
		binary.BigEndian.PutUint32(a.b[4:], 1)
	}
	binary.BigEndian.PutUint32(a.b[8:], a.oid)
	return a.b
}

func boolean(v bool) []byte {
	if v {
		return []byte{1}
	}
	return []byte{0}
}

// round is statements that go in one round trip; the server runs them as one
// transaction.
type round struct {
	conn  *pgx.Conn
	batch pgconn.Batch
	read  []func(*pgconn.ResultReader) error
}

// add appends a statement; read gets its result.
func (r *round) add(ctx context.Context, s *statement, args [][]byte, read func(*pgconn.ResultReader) error) error {
	sd, err := s.prepare(ctx, r.conn)
	if err != nil {
		return err
	}
	r.batch.ExecStatement(sd, args, binaryFormat, binaryFormat)
	r.read = append(r.read, read)
	return nil
}

func (r *round) send(ctx context.Context) error {
	if len(r.read) == 0 {
		return nil
	}
	results := r.conn.PgConn().ExecBatch(ctx, &r.batch)
	var err error
	for i := 0; err == nil && results.NextResult(); i++ {
		err = r.read[i](results.ResultReader())
	}
	return errors.Join(results.Close(), err)
}

var errShortRow = errors.New("the server sent a value of another size")

// row reads the values of a result's row one by one.
type row struct {
	values [][]byte
	err    error
}

// next returns the next value, nil for null.
func (r *row) next() []byte {
	if len(r.values) == 0 {
		r.err = errShortRow
		return nil
	}
	v := r.values[0]
	r.values = r.values[1:]
	return v
}

func (r *row) int4() int {
	v := r.next()
	if len(v) != 4 {
		r.err = errShortRow
		return 0
	}
	return int(int32(binary.BigEndian.Uint32(v)))
}

// int8 returns 0 for null, and whether there is a value.
func (r *row) int8() (n int64, ok bool) {
	v := r.next()
	if v == nil {
		return 0, false
	}
	if len(v) != 8 {
		r.err = errShortRow
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(v)), true
}

func (r *row) bool() bool {
	v := r.next()
	if len(v) != 1 {
		r.err = errShortRow
		return false
	}
	return v[0] != 0
}

func (r *row) time() time.Time {
	n, _ := r.int8()
	return store.Time(time.UnixMicro(n + epoch))
}
