package table

import (
	"bytes"
	"slices"
)

// Marked reports whether one of marks equals the kept mark, so that both are of
// the same secret.
func Marked(marks [][]byte, kept []byte) bool {
	return slices.ContainsFunc(marks, func(m []byte) bool { return bytes.Equal(m, kept) })
}

// newest returns the mark to store, nil if there is none.
func newest(marks [][]byte) []byte {
	if len(marks) == 0 {
		return nil
	}
	return marks[0]
}
