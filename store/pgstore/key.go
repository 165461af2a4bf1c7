package pgstore

import (
	"crypto/sha256"
	"strings"
	"unicode/utf8"

	"github.com/signin-engine/signin-engine/store"
)

// hashSize is enough that nobody finds two names with one hash.
const hashSize = 16

func hash(parts ...string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x1f")))
	return sum[:hashSize:hashSize]
}

// userHash is of the user alone, not of the app: people look for a user.
func userHash(user string) []byte { return hash("u", user) }

func keyHash(k store.Key) []byte { return hash("k", k.Index()) }

func exchangeHash(app, id string) []byte { return hash("x", app, id) }

func markHash(name string) []byte { return hash("m", name) }

// clean makes a text of any string; Postgres refuses NUL and broken UTF-8. The
// record has the string as it was.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

// fold is the form of an Entra object id that is searched for.
func fold(s string) string { return clean(strings.ToLower(s)) }
