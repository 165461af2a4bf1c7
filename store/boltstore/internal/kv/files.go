package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/signin-engine/signin-engine/store"
)

// file is an open file.
type file interface {
	ReadAt(b []byte, off int64) (int, error)
	WriteAt(b []byte, off int64) (int, error)
	Sync() error // of its content
	Close() error
}

// files is every operation by which this package changes the disk. The power-loss
// test replaces it with one that records what was written and what was synced.
type files interface {
	open(path string, flag int, mode fs.FileMode) (file, error)
	tree(path string, mode fs.FileMode, opts *bbolt.Options) (*bbolt.DB, error)
	rename(from, to string) error
	remove(path string) error
	syncDir(dir string) error
}

// disk is the real disk. With noSync it does not sync.
type disk struct{ noSync bool }

type diskFile struct {
	*os.File
	noSync bool
}

func (f diskFile) Sync() error {
	if f.noSync {
		return nil
	}
	return datasync(f.File)
}

func (d disk) open(path string, flag int, mode fs.FileMode) (file, error) {
	f, err := os.OpenFile(path, flag, mode)
	return diskFile{f, d.noSync}, err //nolint:wrapcheck // names the path
}

func (disk) tree(path string, mode fs.FileMode, opts *bbolt.Options) (*bbolt.DB, error) {
	return bbolt.Open(path, mode, opts) //nolint:wrapcheck // openTree looks at it
}

func (disk) rename(from, to string) error { return os.Rename(from, to) } //nolint:wrapcheck // names both

func (disk) remove(path string) error { return os.Remove(path) } //nolint:wrapcheck // names it

// syncDir makes the names in a directory survive a power loss.
func (d disk) syncDir(dir string) error {
	if d.noSync {
		return nil
	}
	return syncDirectory(dir)
}

// resolve follows symbolic links, so that every name of the file has the same log
// and lock files.
func resolve(path string) (string, error) {
	whole, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return whole, err //nolint:wrapcheck // names the path
	}
	if target, err := os.Readlink(path); err == nil { // the target does not exist yet
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		return target, nil
	}
	return path, nil
}

// lockPoll is how long to wait before a held lock is tried again.
const lockPoll = 20 * time.Millisecond

// errHeld means that another process holds the lock.
var errHeld = errors.New("the lock is held")

// acquire takes the lock file, which is held from Open to Close. The tree has a
// lock too, but releases it when it is reopened. A read-only opener uses a lock
// file that exists but does not create one: it may lack the permission.
func acquire(path string, opts *Options) (*os.File, error) {
	flag := os.O_RDWR | os.O_CREATE
	if opts.ReadOnly {
		flag = os.O_RDONLY
	}
	for end := time.Now().Add(opts.Timeout); ; time.Sleep(lockPoll) {
		f, err := os.OpenFile(path, flag, opts.Mode)
		switch {
		case opts.ReadOnly && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
			return nil, nil //nolint:nilnil // the tree's own lock has to suffice
		case err != nil:
			return nil, fmt.Errorf("lock: %w", err)
		}
		err = flock(f, opts.ReadOnly)
		if err == nil && sameFile(f, path) {
			return f, nil
		}
		_ = f.Close()
		switch {
		case err == nil: // its holder removed it in the meantime
		case !errors.Is(err, errHeld):
			return nil, fmt.Errorf("lock %s: %w", path, err)
		case !time.Now().Before(end):
			return nil, fmt.Errorf("another process has it open (%s); snapshot copies it all the same: %w", path, store.ErrLocked)
		}
	}
}

func sameFile(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}
