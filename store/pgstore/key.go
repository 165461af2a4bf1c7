package pgstore

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/signin-engine/signin-engine/store"
)

// hashSize is enough that nobody finds two names with one hash.
const hashSize = 16

// separator stands between what is put together; it occurs in none of it.
const separator = "\x1f"

// The kinds of what is hashed.
const (
	hashUser     = "u" // the user alone, without the app: people look for a user
	hashKey      = "k"
	hashExchange = "x" // app and exchange id
	hashMark     = "m"
)

func userHash(user string) []byte { return appendHash(nil, hashUser, user) }

func appendHash(dst []byte, kind string, parts ...string) []byte {
	var buf [256]byte
	b := append(buf[:0], kind...)
	for _, part := range parts {
		b = append(b, separator...)
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return append(dst, sum[:hashSize]...)
}

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

// What people filter by and no index is for stands in one column, in this
// order, with a separator behind each.
const (
	facetApp = iota + 1
	facetChannel
	facetUser
	facetConnection
	facetMethod
	facetReason
	facetFailure
	facetTenant
	facetConversation
	facetPlatform
	facetInstance
)

func appendFacets(dst []byte, a *store.Attempt) []byte {
	code := ""
	if a.Failure != nil {
		code = a.Failure.Code
	}
	for _, v := range [...]string{
		a.Key.App, a.Key.Channel, a.Key.User, a.Key.Connection, string(a.Method), string(a.Reason), code,
		a.Conversation.Tenant, a.Conversation.ID, a.Platform, a.Lease.Owner,
	} {
		dst = append(append(dst, facet(v)...), separator...)
	}
	return dst
}

// facet is a value as it stands among the facets.
func facet(s string) string { return strings.ReplaceAll(clean(s), separator, "\uFFFD") }

// facetColumn is the SQL of one of them.
func facetColumn(n int) string { return fmt.Sprintf(`split_part(facets, e'\x1f', %d)`, n) }
