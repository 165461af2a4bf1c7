package boltstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/storetest"
)

const (
	envWriter   = "BOLTSTORE_TEST_WRITER"    // path: write until killed
	envDiskFull = "BOLTSTORE_TEST_DISK_FULL" // path: run into a file size limit and out of it
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envWriter) != "":
		exit(writeForever(os.Getenv(envWriter)))
	case os.Getenv(envDiskFull) != "":
		exit(fillDisk(os.Getenv(envDiskFull)))
	}
	goleak.VerifyTestMain(m)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// writeForever commits through a group from several goroutines, and says so on
// stdout once a commit is acknowledged.
func writeForever(path string) error {
	// Small tables, so that some of them are on their way to the tree.
	s, err := boltstore.Open(path, boltstore.WithLog(20_000))
	if err != nil {
		return err
	}
	g := store.NewGroup(s)
	var out sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				a := storetest.NewAttempt(time.Now(), fmt.Sprintf("29:%d-%d-%d", os.Getpid(), w, n), "graph")
				for _, to := range []store.State{store.Idle, store.CardSent, store.Exchanging, store.Complete} {
					c := store.Commit{}
					if to != store.Idle {
						a = storetest.Next(a, to, time.Now())
					}
					if to == store.Complete {
						c.Deliveries = []store.Delivery{storetest.Owed(&a, 1, time.Now())}
					}
					c.Put = []store.Attempt{a}
					c.Events = []store.Event{storetest.Line(&a, store.None)}
					if err := g.Commit(context.Background(), c); err != nil {
						exit(err)
					}
					out.Lock()
					_, err := fmt.Fprintln(os.Stdout, a.ID, a.Version)
					out.Unlock()
					if err != nil {
						exit(err)
					}
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// TestKilled kills a writing process at random, again and again on one file:
// whatever it acknowledged is there, and the file is sound.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.db")
	acked := map[string]int64{}
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		n := killed(t, path, acked)
		s := mustOpen(t, path)
		for id, version := range acked {
			snap, err := s.Get(t.Context(), id)
			if err != nil {
				t.Fatalf("round %d: acknowledged attempt: %v", round, err)
			}
			a := &snap.Attempts[0]
			if a.Version < version {
				t.Fatalf("round %d: attempt is at version %d, %d was acknowledged", round, a.Version, version)
			}
			lines, err := s.Events(t.Context(), store.EventFilter{Attempt: id})
			if err != nil || int64(len(lines)) != a.Version {
				t.Fatalf("round %d: %d lines at version %d, %v", round, len(lines), a.Version, err)
			}
		}
		counts, err := s.Counts(t.Context(), time.Now().Add(-time.Hour))
		if err != nil || counts.Owed != counts.Ended["Complete:tokenExchange"] {
			t.Errorf("round %d: Counts = %+v, %v", round, counts, err)
		}
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		sound(t, path)
		t.Logf("round %d: %d acknowledgements, %d attempts", round, n, len(acked))
	}
}

// killed runs a writer, kills it after a random number of acknowledgements and
// notes them.
func killed(t *testing.T, path string, acked map[string]int64) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envWriter+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit, n := 50+rand.IntN(500), 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var id string
		var version int64
		if _, err := fmt.Sscan(lines.Text(), &id, &version); err != nil {
			break // cut off in the middle of a line
		}
		acked[id] = max(acked[id], version)
		if n++; n == limit {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the writer ended with %v after %d acknowledgements", err, n)
	}
	return n
}

// sound runs bbolt's own check.
func sound(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Errorf("check: %v", err)
	}
}

// fillDisk writes until the file may not grow, checks that the store says so,
// still reads, and writes again once there is room.
func fillDisk(path string) error {
	ctx := context.Background()
	s, err := boltstore.Open(path)
	if err != nil {
		return err
	}
	insert := func() (store.Attempt, error) {
		a := storetest.NewAttempt(time.Now(), strconv.FormatUint(rand.Uint64(), 36), "graph")
		a.Request = make([]byte, 100_000)
		return a, s.Apply(ctx, []store.Commit{{Put: []store.Attempt{a}}})[0]
	}
	first, err := insert()
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	full := old
	full.Cur = uint64(info.Size())
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		return err
	}
	written := []string{first.ID}
	failures := 0
	for i := 0; failures < 5; i++ {
		a, err := insert()
		switch {
		case err == nil:
			written = append(written, a.ID)
		case errors.Is(err, store.ErrUnavailable):
			failures++
		default:
			return fmt.Errorf("on a full disk: %w, want ErrUnavailable", err)
		}
		if _, err := s.Get(ctx, first.ID); err != nil {
			return fmt.Errorf("reading on a full disk: %w", err)
		}
		if i > 10_000 {
			return errors.New("the disk never filled")
		}
	}
	full.Cur = 1
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		return err
	}
	for range 3 {
		if err := s.Probe(ctx); !errors.Is(err, store.ErrUnavailable) {
			return fmt.Errorf("a probe on a full disk: %w, want ErrUnavailable", err)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := s.Probe(ctx); err != nil {
		return fmt.Errorf("a probe with room again: %w", err)
	}
	for range 20 {
		a, err := insert()
		if err != nil {
			return fmt.Errorf("with room again: %w", err)
		}
		written = append(written, a.ID)
	}
	for _, id := range written {
		if _, err := s.Get(ctx, id); err != nil {
			return fmt.Errorf("afterwards: %w", err)
		}
	}
	counts, err := s.Counts(ctx, time.Now())
	if err != nil {
		return err
	}
	if n := counts.Open[store.Idle]; n != len(written) {
		return fmt.Errorf("%d attempts, %d were acknowledged", n, len(written))
	}
	return s.Close()
}

func TestDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signin.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envDiskFull+"="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sound(t, path)
}
