package pgstore

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/signin-engine/signin-engine/store"
)

// home is what the rows of a user are distributed by.
func home(u store.UserKey) int64 {
	sum := hash("home", clean(u.App), clean(u.Channel), clean(u.User))
	return int64(binary.BigEndian.Uint64(sum))
}

// markHash is what a mark is found by: 16 bytes, enough that nobody finds two
// names with one hash.
func markHash(name string) []byte { return hash("mark", name)[:16] }

func hash(parts ...string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x1f")))
	return sum[:]
}

// clean makes a text of any string: Postgres keeps no NUL and no broken UTF-8.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune { // what is broken comes as RuneError, byte for byte
		if r == 0 {
			return utf8.RuneError
		}
		return r
	}, s)
}
