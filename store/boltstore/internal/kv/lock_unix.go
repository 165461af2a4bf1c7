//go:build unix

package kv

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFileStays reports that a held lock file cannot be removed.
const lockFileStays = false

// flock locks a file, or returns errHeld at once.
func flock(f *os.File, shared bool) error {
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	switch err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return errHeld
	case err != nil:
		return fmt.Errorf("flock: %w", err)
	default:
		return nil
	}
}

// funlock releases the lock of a file, even if the file cannot be closed.
func funlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// syncDirectory makes the names in a directory survive a power loss.
func syncDirectory(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}
