package kv

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// lockFileStays reports that a held lock file cannot be removed.
const lockFileStays = true

// flock locks a file, or returns errHeld at once.
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

// funlock releases bbolt's lock of a file, which covers one byte at the largest
// possible offset.
func funlock(f *os.File) {
	const last = ^uint32(0)
	_ = windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &windows.Overlapped{Offset: last, OffsetHigh: last})
}

// syncDirectory does nothing: NTFS journals names, and has no call to sync them.
func syncDirectory(string) error { return nil }
