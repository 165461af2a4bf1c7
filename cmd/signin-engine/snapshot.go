package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) snapshotCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot FILE",
		Short: "Write a consistent copy of a bbolt store, live or not",
		Long: `Writes a consistent copy of the bbolt store to FILE, while the bot goes on. FILE
must not exist before. It is complete, or not there at all.`,
		Example: `  signin-engine snapshot /var/backups/signin.db --store bolt:signin.db`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			return c.with(cmd, func(ctx context.Context, s *source) error {
				info, err := s.Info(ctx)
				if err != nil {
					return err
				}
				if info.Backend == string(config.Postgres) {
					return fmt.Errorf("%w: snapshot copies a bbolt file; for a Postgres store use pg_dump", errRefused)
				}
				from, ok := s.Closer.(operator.Snapshotter)
				if !ok {
					return fmt.Errorf("snapshot: %w: only a bbolt store has one", operator.ErrUnsupported)
				}
				n, err := c.writeFile(given[0], func(w io.Writer) error {
					_, err := from.Snapshot(ctx, w)
					return err
				})
				if err != nil {
					return fmt.Errorf("snapshot: %w", err)
				}
				return c.printf("%s: %d bytes\n", given[0], n)
			})
		},
	}
}

// writeFile writes a temporary file beside path, syncs it and moves it to path.
// The file has mode 0600. An existing file is never overwritten.
func (c *cli) writeFile(path string, write func(io.Writer) error) (n int64, err error) {
	if _, err = os.Lstat(path); err == nil {
		return 0, fmt.Errorf("%w: %s exists", errRefused, path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".snapshot-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.Remove(tmp.Name())) }()
	counted := &progressWriter{w: tmp, tell: func(n int64) { c.progress("%d bytes", n) }}
	err = write(counted)
	c.progressDone()
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return 0, err
	}
	if err = os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("%w: %s exists", errRefused, path)
	}
	return counted.n, err
}

// progressWriter reports the number of bytes written, every 8 MiB.
type progressWriter struct {
	w    io.Writer
	n    int64
	told int64
	tell func(int64)
}

func (p *progressWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.n += int64(n)
	if p.n-p.told > 8<<20 {
		p.told = p.n
		p.tell(p.n)
	}
	return n, err
}
