package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Disk is a small file system in memory, for a tablespace that a test fills up.
type Disk struct{ Dir string }

// SmallDisk mounts a disk of size MiB that the server may write to. If the machine does
// not allow mounts, the test is skipped and says so.
func (c *Cluster) SmallDisk(tb testing.TB, size int) Disk {
	tb.Helper()
	d := Disk{Dir: filepath.Join(tb.TempDir(), "disk")}
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if c.cred != nil {
		uid, gid = int(c.cred.Uid), int(c.cred.Gid)
		// The server must be able to enter the test's directories above it.
		for dir := filepath.Dir(d.Dir); strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o711); err != nil {
				tb.Fatalf("pgtest: %v", err)
			}
		}
	}
	if err := run("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=0700,uid=%d,gid=%d", size, uid, gid), "tmpfs", d.Dir); err != nil {
		tb.Skipf("this machine lets the tests mount no small disk: %v", err)
	}
	tb.Cleanup(func() {
		// Lazily: the server still has files open, and ends later.
		if err := run("umount", "--lazy", d.Dir); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return d
}

// Grow sets the disk's size to size MiB.
func (d Disk) Grow(tb testing.TB, size int) {
	tb.Helper()
	if err := run("mount", "-o", fmt.Sprintf("remount,size=%dm", size), d.Dir); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
}

func run(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
