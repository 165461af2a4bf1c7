package table

import (
	"bytes"
	"slices"
)

// Marked reports whether one of the marks of something that came is the mark that
// was kept: then it is the same.
func Marked(marks [][]byte, kept []byte) bool {
	return slices.ContainsFunc(marks, func(m []byte) bool { return bytes.Equal(m, kept) })
}

// newest is the mark that is kept; nil if there is none.
func newest(marks [][]byte) []byte {
	if len(marks) == 0 {
		return nil
	}
	return marks[0]
}
