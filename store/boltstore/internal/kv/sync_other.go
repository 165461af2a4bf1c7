//go:build !linux

package kv

import (
	"fmt"
	"os"
)

// datasync waits until the file's content is on the disk.
func datasync(f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}
