package pgstore

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/signin-engine/signin-engine/store"
)

// home is the hash by which the rows of a user are distributed.
func home(u store.UserKey) int64 {
	sum := hash("home", clean(u.App), clean(u.Channel), clean(u.User))
	return int64(binary.BigEndian.Uint64(sum))
}

// markHash is the hash by which a mark is found: 16 bytes, enough that nobody finds two
// names with the same hash.
func markHash(name string) []byte { return hash("mark", name)[:16] }

func hash(parts ...string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x1f")))
	return sum[:]
}

// clean makes any string valid text for Postgres, which cannot store NUL or invalid
// UTF-8.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune { // Map passes invalid bytes as RuneError
		if r == 0 {
			return utf8.RuneError
		}
		return r
	}, s)
}
