package config

import (
	"context"
	"fmt"
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

// Store names a backend and where its data is. Its text is bolt:PATH, memory: or
// a Postgres URL, whose parameter schema names the schema.
type Store struct {
	Backend Backend         `koanf:"-"`
	Path    string          `koanf:"-"` // of a bbolt file
	Address tokensvc.Secret `koanf:"-"` // of a Postgres database; it may contain a password
}

// UnmarshalText parses the text of a store. Its errors never repeat the text.
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

// String returns the store's text, without the address of a Postgres database.
func (s Store) String() string {
	if s.Backend == Postgres {
		return "postgres://" + s.Address.String()
	}
	return string(s.Backend) + ":" + s.Path
}

// readStore reads store_file, if there is one.
func (c *Config) readStore(isSet func(key string) bool) Errors {
	var p Errors
	switch {
	case c.StoreFile == "":
	case isSet("store"):
		p.add("store_file", "is set together with store: use one")
	default:
		text, err := textOf(c.StoreFile)
		if err == nil {
			err = c.Store.UnmarshalText([]byte(text))
		}
		if err != nil {
			p.add("store_file", "%v", err)
		}
	}
	if !c.ListenDSN.Empty() {
		if err := pgstore.Check(c.ListenDSN.Reveal()); err != nil {
			p.add("listen_dsn", "%v", err)
		}
	}
	return p
}

func (c *Config) checkStore(p *Errors) {
	for _, d := range []struct {
		key   string
		wrong bool
	}{
		{"wait_for_store", c.WaitForStore < 0},
		{"postgres.statement_timeout", c.Postgres.StatementTimeout <= 0},
		{"postgres.acquire_timeout", c.Postgres.AcquireTimeout <= 0},
		{"postgres.connect_timeout", c.Postgres.ConnectTimeout <= 0},
	} {
		if d.wrong {
			p.add(d.key, "must be positive")
		}
	}
}

// PostgresOptions returns the options with which the settings open a database.
func (c *Config) PostgresOptions() []pgstore.Option {
	opts := []pgstore.Option{
		pgstore.WithAutoMigrate(c.AutoMigrate), pgstore.WithListenAddress(c.ListenDSN.Reveal()),
		pgstore.WithStatementTimeout(c.Postgres.StatementTimeout),
		pgstore.WithAcquireTimeout(c.Postgres.AcquireTimeout),
		pgstore.WithConnectTimeout(c.Postgres.ConnectTimeout),
	}
	if path := c.StoreFile; path != "" {
		opts = append(opts, pgstore.WithAddress(func(context.Context) (string, error) {
			text, err := textOf(path)
			if err != nil {
				return "", fmt.Errorf("store_file: %w", err)
			}
			return text, nil
		}))
	}
	return opts
}
