package kv

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// lockFileStays says that a lock file cannot be removed while it is held.
const lockFileStays = true

// flock takes the lock of a file, or returns errHeld at once.
func flock(f *os.File, shared bool) error {
	flags := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if !shared {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	switch err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped)); {
	case errors.Is(err, windows.ERROR_LOCK_VIOLATION):
		return errHeld
	case err != nil:
		return fmt.Errorf("LockFileEx: %w", err)
	default:
		return nil
	}
}

// funlock gives back the lock that bbolt has of a file: of one byte, at the end of
// all that there can be.
func funlock(f *os.File) {
	const last = ^uint32(0)
	_ = windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &windows.Overlapped{Offset: last, OffsetHigh: last})
}

// syncDirectory: NTFS keeps a journal of names, and has no call for it.
func syncDirectory(string) error { return nil }
