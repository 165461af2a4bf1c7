package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// reader is an [operator.Reader] that also finds attempts by any id.
type reader interface {
	operator.Reader
	operator.Searcher
}

// source is what a reading command reads from: a running process or a store.
type source struct {
	reader
	io.Closer
	client *operator.Client // nil: a database, or a file that no process holds
	config config.Config
}

// connect finds the source to read from (docs/operations.md). That is the
// operator endpoint if one was named; else the database, which any number of
// processes can read; else the socket beside the bbolt file; else the file
// itself, read-only.
func (c *cli) connect(ctx context.Context, cmd *cobra.Command) (*source, error) {
	cfg, err := c.settings(cmd)
	if err != nil {
		return nil, err
	}
	c.place = placeOf(cmd)
	if cfg.Operator != "" {
		e, err := operator.ParseEndpoint(cfg.Operator)
		if err != nil {
			return nil, usage("operator: %q %w", cfg.Operator, err)
		}
		return c.shown(asked(cfg, e)), nil
	}
	where := cfg.Store
	switch where.Backend {
	case config.Memory:
		return nil, usage("store: memory: lives in the process that made it: name its endpoint with --operator")
	case config.Postgres:
		st, err := openPostgres(ctx, cfg, pgstore.WithReadOnly())
		if err != nil {
			return nil, err
		}
		return c.shown(direct(cfg, st)), nil
	case config.Bolt:
	}
	socket := operator.SocketBeside(where.Path)
	if _, err = os.Stat(socket.Address); err == nil {
		s := asked(cfg, socket)
		if _, err = s.Info(ctx); err == nil || !errors.Is(err, operator.ErrUnreachable) {
			return c.shown(s), err
		}
		if err = s.Close(); err != nil {
			return nil, err
		}
	}
	st, err := openFile(where.Path)
	if err != nil {
		return nil, err
	}
	return c.shown(direct(cfg, st)), nil
}

// shown makes the texts of a source safe for people. A machine format gets them
// unchanged.
func (c *cli) shown(s *source) *source {
	switch c.format {
	case formatJSON, formatJSONL, formatCSV:
	default:
		s.reader = safeReader{s.reader}
	}
	return s
}

// placeOf returns the flags that name the store, as they were given. It leaves
// out an address with a password, since its result is printed.
func placeOf(cmd *cobra.Command) []string {
	var words []string
	for _, name := range []string{"config", "store", "store-file", "operator"} {
		f := cmd.Flags().Lookup(name)
		if f == nil || !f.Changed {
			continue
		}
		if u, err := url.Parse(f.Value.String()); err == nil && u.User != nil {
			continue
		}
		words = append(words, "--"+name, operator.Quote(f.Value.String()))
	}
	return words
}

func direct(cfg config.Config, st store.Store) *source {
	return &source{
		reader: operator.NewDirect(st, operator.DefaultRules(), operator.Info{}), Closer: st, config: cfg,
	}
}

func asked(cfg config.Config, e operator.Endpoint) *source {
	token := cfg.OperatorToken
	if token.Empty() {
		token = cfg.OperatorReadToken
	}
	client := operator.NewClient(e, token)
	return &source{reader: client, Closer: client, client: client, config: cfg}
}

// openFile opens a bbolt file that no process holds. If a process holds the file,
// the error says what to do.
func openFile(path string) (store.Store, error) {
	st, err := boltstore.Open(path, boltstore.WithReadOnly())
	switch {
	case err == nil:
		return st, nil
	case errors.Is(err, store.ErrLocked):
		return nil, fmt.Errorf("%w: %s is held by a running process without an operator endpoint at %s: "+
			"start that process with one, name it with --operator, or stop the process",
			store.ErrLocked, path, operator.SocketBeside(path).Address)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w at %s: start the bot first, or name the file with --store bolt:PATH", errNoStore, path)
	default:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
}

// with connects, runs do and closes the source.
func (c *cli) with(cmd *cobra.Command, do func(ctx context.Context, s *source) error) (err error) {
	ctx := cmd.Context()
	s, err := c.connect(ctx, cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(ctx, s)
}
