package config

import (
	"errors"
	"strings"
)

// Backend is a kind of store.
type Backend string

// The backends of this version.
const (
	Bolt   Backend = "bolt"
	Memory Backend = "memory"
)

// Store says which backend, and where.
type Store struct {
	Backend Backend
	Path    string // of a bbolt file
}

// ParseStore reads bolt:PATH or memory:. A Postgres address is refused, and
// not repeated: it may hold a password.
func ParseStore(s string) (Store, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	switch {
	case ok && scheme == string(Bolt) && rest != "":
		return Store{Backend: Bolt, Path: rest}, nil
	case ok && scheme == string(Memory) && rest == "":
		return Store{Backend: Memory}, nil
	case ok && (scheme == "postgres" || scheme == "postgresql"):
		return Store{}, errors.New("postgres is not available in this version: use bolt:PATH")
	default:
		return Store{}, errors.New("is neither memory: nor bolt:PATH")
	}
}
