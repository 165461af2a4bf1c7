package kv

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// datasync waits until the file's content is on the disk.
func datasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("fdatasync: %w", err)
		}
	}
}
