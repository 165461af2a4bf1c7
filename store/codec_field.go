package store

import (
	"encoding/binary"
	"slices"
	"strconv"
	"time"
)

// field writes and reads one member of a T.
type field[T any] struct {
	bytes bool // its value is bytes, not a number
	put   func(dst []byte, number uint64, v *T) []byte
	get   func(v *T, val value) error
}

// value is what stands behind a tag.
type value struct {
	bytes bool
	n     uint64 // the zigzag number, or the length
	s     string
}

// signed undoes zigzag.
func (v value) signed() int64 { return int64(v.n>>1) ^ -int64(v.n&1) }

func appendNumber(dst []byte, number uint64, n int64) []byte {
	dst = binary.AppendUvarint(dst, number<<1)
	return binary.AppendVarint(dst, n)
}

func appendBytes[B ~string | ~[]byte](dst []byte, number uint64, b B) []byte {
	dst = binary.AppendUvarint(dst, number<<1|1)
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func text[T any, S ~string](at func(*T) *S) field[T] {
	return field[T]{
		bytes: true,
		put: func(dst []byte, number uint64, v *T) []byte {
			if s := *at(v); s != "" {
				dst = appendBytes(dst, number, s)
			}
			return dst
		},
		get: func(v *T, val value) error {
			*at(v) = S(val.s)
			return nil
		},
	}
}

func blob[T any](at func(*T) *[]byte) field[T] {
	return field[T]{
		bytes: true,
		put: func(dst []byte, number uint64, v *T) []byte {
			if b := *at(v); len(b) > 0 {
				dst = appendBytes(dst, number, b)
			}
			return dst
		},
		get: func(v *T, val value) error {
			*at(v) = []byte(val.s)
			return nil
		},
	}
}

func number[T any, N ~int | ~int64](at func(*T) *N) field[T] {
	return field[T]{
		put: func(dst []byte, number uint64, v *T) []byte {
			if n := *at(v); n != 0 {
				dst = appendNumber(dst, number, int64(n))
			}
			return dst
		},
		get: func(v *T, val value) error {
			n := N(val.signed())
			if int64(n) != val.signed() {
				return corrupt("number out of range")
			}
			*at(v) = n
			return nil
		},
	}
}

func flag[T any](at func(*T) *bool) field[T] {
	return field[T]{
		put: func(dst []byte, number uint64, v *T) []byte {
			if *at(v) {
				dst = appendNumber(dst, number, 1)
			}
			return dst
		},
		get: func(v *T, val value) error {
			*at(v) = val.n != 0
			return nil
		},
	}
}

func instant[T any](at func(*T) *time.Time) field[T] {
	return field[T]{
		put: func(dst []byte, number uint64, v *T) []byte {
			if t := *at(v); !t.IsZero() {
				dst = appendNumber(dst, number, t.UnixMicro())
			}
			return dst
		},
		get: func(v *T, val value) error {
			*at(v) = time.UnixMicro(val.signed()).UTC()
			return nil
		},
	}
}

func duration[T any](at func(*T) *time.Duration) field[T] {
	return field[T]{
		put: func(dst []byte, number uint64, v *T) []byte {
			if us := at(v).Microseconds(); us != 0 {
				dst = appendNumber(dst, number, us)
			}
			return dst
		},
		get: func(v *T, val value) error {
			d := time.Duration(val.signed()) * time.Microsecond
			if d.Microseconds() != val.signed() {
				return corrupt("duration out of range")
			}
			*at(v) = d
			return nil
		},
	}
}

func state[T any](at func(*T) *State) field[T] {
	return field[T]{
		put: func(dst []byte, number uint64, v *T) []byte {
			if code := slices.Index(stateCodes[:], *at(v)); code > 0 {
				dst = appendNumber(dst, number, int64(code))
			}
			return dst
		},
		get: func(v *T, val value) error {
			code := val.signed()
			if code < 0 || code >= int64(len(stateCodes)) {
				// Of a newer program. An attempt in it is set aside, but its trail can be read.
				*at(v) = State("state-" + strconv.FormatInt(code, 10))
				return nil
			}
			*at(v) = stateCodes[code]
			return nil
		},
	}
}

func diagnosis[T any](at func(*T) *Diagnosis) field[T] {
	return field[T]{
		put: func(dst []byte, number uint64, v *T) []byte {
			if n := at(v).pack(); n != 0 {
				dst = appendNumber(dst, number, n)
			}
			return dst
		},
		get: func(v *T, val value) error {
			*at(v) = unpackDiagnosis(val.signed())
			return nil
		},
	}
}

func failure[T any](at func(*T) **Failure) field[T] {
	return field[T]{
		bytes: true,
		put: func(dst []byte, number uint64, v *T) []byte {
			f := *at(v)
			if f == nil {
				return dst
			}
			var buf [128]byte
			return appendBytes(dst, number, appendFields(buf[:0], f, failureFields[:], 1))
		},
		get: func(v *T, val value) error {
			f := new(Failure)
			if err := decodeFields(val.s, f, failureFields[:]); err != nil {
				return err
			}
			*at(v) = f
			return nil
		},
	}
}
