package kv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

func mustUpdate(t *testing.T, db *DB, key, value string) {
	t.Helper()
	if err := update(db, key, value); err != nil {
		t.Fatal(err)
	}
}

func update(db *DB, key, value string) error {
	return db.Update(context.Background(), func(tx *Tx) error {
		tx.Bucket(0).Put([]byte(key), []byte(value))
		tx.Bucket(2).Put([]byte(key), []byte(value))
		return nil
	})
}

// TestDamagedTree spoils a tree in every place. Neither Open nor what follows
// panics, runs for ever or goes on as if nothing had been.
func TestDamagedTree(t *testing.T) {
	for _, closed := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "db")
		o := powerOptions(nil)
		db, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 60 {
			mustUpdate(t, db, fmt.Sprint("k", i*7919%60), strings.Repeat("v", 300))
		}
		if closed {
			err = db.Close()
		} else {
			Kill(t, db)
		}
		whole := map[string][]byte{}
		for _, name := range []string{"", ".log0", ".log1"} {
			if raw, err := os.ReadFile(path + name); err == nil {
				whole[name] = raw
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		pages := len(whole[""]) / os.Getpagesize()
		refused := 0
		for i := range 40 * pages {
			raw := append([]byte(nil), whole[""]...)
			page := raw[i%pages*os.Getpagesize():][:os.Getpagesize()]
			switch i / pages % 5 {
			case 0: // a bit of the head or of the first elements
				page[r.IntN(200)] ^= 1 << r.IntN(8)
			case 1:
				page[r.IntN(len(page))] ^= 1 << r.IntN(8)
			case 2:
				clear(page)
			case 3: // another page in its place
				copy(page, raw[r.IntN(pages)*len(page):][:len(page)])
			case 4:
				for range 8 {
					page[r.IntN(len(page))] = byte(r.Uint32())
				}
			}
			for name, b := range whole {
				if name == "" {
					b = raw
				}
				if err := os.WriteFile(path+name, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := use(path, o); err != nil {
				refused++
				if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrSchema) && !errors.Is(err, io.EOF) {
					t.Errorf("%d: %v", i, err)
				}
			}
		}
		if refused < pages {
			t.Errorf("%d of %d were refused", refused, 40*pages)
		}
	}
}

// TestLargeFile: one of which not every page is read first is refused all the same
// when it is none of bbolt's.
func TestLargeFile(t *testing.T) {
	for name, begin := range map[string]string{"zero": "", "text": strings.Repeat("no database ", 10_000)} {
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, []byte(begin), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, checkUpTo+1); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, powerOptions(nil)); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
}

// use does with a store what there is to do.
func use(path string, o Options) error {
	db, err := Open(path, o)
	if err != nil {
		return err
	}
	_, err = contentOf(db)
	for i := 0; i < 20 && err == nil; i++ {
		err = update(db, fmt.Sprint("k", i*3), strings.Repeat("w", 300))
		db.running.Wait()
	}
	if err == nil {
		_, err = db.Snapshot(context.Background(), io.Discard)
	}
	return errors.Join(err, db.Close())
}

// TestUncheckedTree damages a tree behind the back of Open: application and reads
// return errors.
func TestUncheckedTree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := Open(path, powerOptions(nil))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		mustUpdate(t, db, fmt.Sprint("k", i), strings.Repeat("v", 300))
	}
	if err := db.drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 2 * os.Getpagesize(); i < len(raw); i++ {
		raw[i] = 0xff
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := contentOf(db); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("read: %v, want ErrCorrupt", err)
	}
	failed := 0
	for i := range 60 {
		if err := update(db, fmt.Sprint("k", i), strings.Repeat("w", 300)); err != nil {
			failed++
		}
		db.running.Wait()
	}
	if failed < 30 {
		t.Errorf("%d of 60 writes said that the tree cannot be written", failed)
	}
	_ = db.Close()
}

// TestLockIsHeld: while a tree is opened anew nobody else gets the file.
func TestLockIsHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	o := powerOptions(nil)
	o.Timeout = 50 * time.Millisecond
	db, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	mustUpdate(t, db, "k", "v")
	BreakTree(t, db) // bbolt has let go of its lock
	for _, readOnly := range []bool{false, true} {
		o := o
		o.ReadOnly = readOnly
		if _, err := Open(path, o); !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), "snapshot") {
			t.Errorf("Open: %v, want ErrLocked and a word about snapshot", err)
		}
	}
	db.stale.Store(true)
	mustUpdate(t, db, "k", "w")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(path + "*")
	if err != nil || len(left) != 1 {
		t.Errorf("Close leaves %v", left)
	}
	if db, err = Open(path, o); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// onPowerDisk opens a store on a disk of which calls can be made to fail.
func onPowerDisk(t *testing.T) (*powerDisk, *DB) {
	t.Helper()
	p := newPowerDisk(t.TempDir())
	db, err := Open(filepath.Join(p.dir, "db"), powerOptions(p))
	if err != nil {
		t.Fatal(err)
	}
	return p, db
}

// TestTreeFails: while the tree cannot be written, every write says so; then
// everything is there.
func TestTreeFails(t *testing.T) {
	p, db := onPowerDisk(t)
	mustUpdate(t, db, "k0", "v")
	for _, what := range []string{"pages", "pagesync", "metasync", "open"} {
		p.fault = func(c call) bool { return c.what == what && c.name == "db" }
		n := 0
		for i := 0; n < 5; i++ {
			if i == 50 {
				t.Fatal("the tree was not broken")
			}
			behind := db.behind.Load()
			err := update(db, "k", strings.Repeat("x", 900))
			if behind && err == nil {
				t.Errorf("%s: a write was taken while the tree cannot be written", what)
			}
			db.running.Wait()
			if errors.Is(err, store.ErrUnavailable) {
				n++
			} else if n > 0 {
				t.Errorf("%s: after a write was refused another one was not: %v", what, err)
			}
			if what == "open" && n == 0 {
				db.stale.Store(true)
			}
		}
		if err := db.Probe(t.Context(), nil); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: Probe: %v, want ErrUnavailable", what, err)
		}
		p.fault = func(call) bool { return false }
		mustUpdate(t, db, "k1", what)
	}
	got, err := contentOf(db)
	if err != nil || got[0]["k1"] != "open" || got[2]["k1"] != "open" {
		t.Errorf("%v, %v", got, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedBatch: one that the disk refused does not come back once another was
// acknowledged, also if the tree could not be written in between; and its number
// is not given again.
func TestRefusedBatch(t *testing.T) {
	p, db := onPowerDisk(t)
	mustUpdate(t, db, "k", "1")
	refuse := func(what string) {
		t.Helper()
		p.fault = func(c call) bool { return strings.Contains(" "+what+" ", " "+c.what+" ") }
	}
	number := func() (n uint64) {
		t.Helper()
		_ = db.Update(t.Context(), func(tx *Tx) error { n = tx.Batch(); return errors.New("only asked") })
		return n
	}
	before := number()
	refuse("sync")
	if err := update(db, "refused", "x"); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("update: %v", err)
	}
	refuse("pages")
	if _, err := db.Snapshot(t.Context(), io.Discard); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("Snapshot: %v", err)
	}
	refuse("")
	if after := number(); after <= before {
		t.Errorf("batch %d comes after batch %d, which was refused", after, before)
	}
	mustUpdate(t, db, "k", "2")
	last := number()
	p.dead = true
	Kill(t, db)
	p.dead = false
	db, err := Open(filepath.Join(p.dir, "db"), powerOptions(p))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := contentOf(db); err != nil || got[0]["refused"] != "" || got[0]["k"] != "2" {
		t.Errorf("after a kill: %v, %v", got, err)
	}
	if n := number(); n <= last {
		t.Errorf("batch %d may have been written before the kill, and batch %d comes after it", last, n)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCloseAfterFailedStart: the tree may say that there is a log although it
// failed to: Close takes that back before it removes the log.
func TestCloseAfterFailedStart(t *testing.T) {
	p, db := onPowerDisk(t)
	p.fault = func(c call) bool { return c.what == "metasync" }
	if err := update(db, "k", "v"); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("update: %v", err)
	}
	p.fault = func(call) bool { return false }
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := Open(filepath.Join(p.dir, "db"), powerOptions(p))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNameIsSynced: a process that was killed before it synced the name of a new
// file leaves that to the next one.
func TestNameIsSynced(t *testing.T) {
	p := newPowerDisk(t.TempDir())
	p.fault = func(c call) bool { p.dead = c.what == "syncdir"; return p.dead }
	if _, err := Open(filepath.Join(p.dir, "db"), powerOptions(p)); !errors.Is(err, errDead) {
		t.Fatalf("Open: %v", err)
	}
	p.dead, p.fault = false, func(call) bool { return false }
	db, err := Open(filepath.Join(p.dir, "db"), powerOptions(p))
	if err != nil {
		t.Fatal(err)
	}
	if p.durable["db"] == nil {
		t.Error("the store is open, and a power loss takes it away")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLogOutlastsRecovery: a process that was killed in the last sync of a recovery
// leaves a tree that says in memory only that it needs no log. The next one does
// not remove the log before that is on the disk.
func TestLogOutlastsRecovery(t *testing.T) {
	p, db := onPowerDisk(t)
	mustUpdate(t, db, "k", "v")
	p.dead = true
	Kill(t, db)
	p.dead, p.fault = false, func(c call) bool { p.dead = p.dead || c.what == "metasync"; return p.dead }
	if _, err := Open(filepath.Join(p.dir, "db"), powerOptions(p)); err == nil {
		t.Fatal("the recovery was not cut off")
	}
	p.dead, p.fault = false, func(call) bool { return false }
	db, err := Open(filepath.Join(p.dir, "db"), powerOptions(p))
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		dir := t.TempDir()
		for name, raw := range p.lose(r) {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		db, err := Open(filepath.Join(dir, "db"), powerOptions(nil))
		if err != nil {
			t.Fatalf("after a power loss: %v", err)
		}
		if got, err := contentOf(db); err != nil || got[0]["k"] != "v" {
			t.Errorf("after a power loss: %v, %v", got, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRecoveryIsFirm: a process that was killed between the write of a batch and
// its sync leaves the batch in memory only. The next one brings it to the disk
// before it gives the tree a part of it: after a power loss all of it is there, or
// nothing.
func TestRecoveryIsFirm(t *testing.T) {
	p, db := onPowerDisk(t)
	mustUpdate(t, db, "k", "v")
	p.fault = func(c call) bool { p.dead = p.dead || c.what == "sync"; return p.dead }
	err := db.Update(t.Context(), func(tx *Tx) error {
		for i := range 12 { // some steps of the tree
			tx.Bucket(0).Put(fmt.Append(nil, "k", i), []byte("new"))
		}
		return nil
	})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("update: %v", err)
	}
	Kill(t, db)
	steps := 0
	p.dead, p.fault = false, func(c call) bool {
		if c.what == "metasync" {
			steps++
		}
		p.dead = p.dead || steps == 3
		return p.dead
	}
	if _, err := Open(filepath.Join(p.dir, "db"), powerOptions(p)); err == nil {
		t.Fatal("the recovery was not cut off")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		dir := t.TempDir()
		for name, raw := range p.lose(r) {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		db, err := Open(filepath.Join(dir, "db"), powerOptions(nil))
		if err != nil {
			t.Fatalf("after a power loss: %v", err)
		}
		got, err := contentOf(db)
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if n := len(got[0]); n != 1 && n != 13 || got[0]["k"] != "v" {
			t.Fatalf("after a power loss %d of 12 keys of a batch are there", n-1)
		}
	}
}

// TestStuckTreeIsLetGo: a tree whose transaction bbolt could not end is given back
// at Close, so that the same process may open it again.
func TestStuckTreeIsLetGo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := Open(path, powerOptions(nil))
	if err != nil {
		t.Fatal(err)
	}
	mustUpdate(t, db, "k", "v")
	if _, err := db.tree.Begin(true); err != nil {
		t.Fatal(err)
	}
	db.stuck = true
	db.stale.Store(true)
	if err := update(db, "k", "w"); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("an update of a stuck tree: %v, want ErrUnavailable", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path, powerOptions(nil))
	if err != nil {
		t.Fatalf("the file is still locked: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
