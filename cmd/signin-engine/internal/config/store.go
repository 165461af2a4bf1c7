package config

import (
	"strings"

	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Backend is a kind of store.
type Backend string

// The backends.
const (
	Bolt     Backend = "bolt"
	Postgres Backend = "postgres"
	Memory   Backend = "memory"
)

// Store says which backend, and where. Its text is bolt:PATH, memory: or a
// Postgres URL, whose parameter schema names the schema.
type Store struct {
	Backend Backend         `koanf:"-"`
	Path    string          `koanf:"-"` // of a bbolt file
	Address tokensvc.Secret `koanf:"-"` // of a Postgres database: it may hold a password
}

// UnmarshalText reads the text of a store, and never repeats it.
func (s *Store) UnmarshalText(text []byte) error {
	scheme, rest, ok := strings.Cut(string(text), ":")
	switch {
	case ok && scheme == string(Bolt) && rest != "":
		*s = Store{Backend: Bolt, Path: rest}
	case ok && scheme == string(Memory) && rest == "":
		*s = Store{Backend: Memory}
	case strings.HasPrefix(rest, "//") && (scheme == "postgres" || scheme == "postgresql"):
		if err := pgstore.Check(string(text)); err != nil {
			return valueError(err.Error())
		}
		*s = Store{Backend: Postgres, Address: tokensvc.NewSecret(string(text))}
	default:
		return valueError("is neither bolt:PATH, postgres://… nor memory:")
	}
	return nil
}

// String is the store's text, without the address of a Postgres database.
func (s Store) String() string {
	if s.Backend == Postgres {
		return "postgres://" + s.Address.String()
	}
	return string(s.Backend) + ":" + s.Path
}
