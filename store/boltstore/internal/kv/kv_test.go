package kv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options() kv.Options {
	return kv.Options{Format: 1, Buckets: []string{"a", "b", "c"}, Mode: 0o600, Timeout: time.Second, NoSync: true, LogSize: 2000}
}

func open(t *testing.T, path string) *kv.DB {
	t.Helper()
	db, err := kv.Open(path, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// content is a file as a plain map: bucket, then key.
type content [3]map[string]string

func newContent() content { return content{{}, {}, {}} }

func (c content) clone() content {
	return content{maps.Clone(c[0]), maps.Clone(c[1]), maps.Clone(c[2])}
}

// compare reads everything in every way and compares it.
func (c content) compare(t rapid.TB, tx *kv.Tx) {
	t.Helper()
	for bucket, want := range c {
		b := tx.Bucket(bucket)
		keys := slices.Sorted(maps.Keys(want))
		var forth, back []string
		next := b.From(nil)
		for k, v := next(); k != nil; k, v = next() {
			forth = append(forth, string(k))
			if want[string(k)] != string(v) {
				t.Fatalf("bucket %d, key %q: %q, want %q", bucket, k, v, want[string(k)])
			}
		}
		next = b.Down(nil)
		for k, _ := next(); k != nil; k, _ = next() {
			back = append(back, string(k))
		}
		slices.Reverse(back)
		if !slices.Equal(forth, keys) || !slices.Equal(back, keys) {
			t.Fatalf("bucket %d: forth %q, back %q, want %q", bucket, forth, back, keys)
		}
		for i := range 30 {
			key := fmt.Sprint("k", i)
			value, ok := want[key]
			if got := b.Get([]byte(key)); string(got) != value || (got != nil) != ok {
				t.Fatalf("bucket %d, key %q: %q, want %q, %v", bucket, key, got, value, ok)
			}
			at, _ := slices.BinarySearch(keys, key)
			next, before := "", ""
			if at < len(keys) {
				next = keys[at]
			}
			if at > 0 {
				before = keys[at-1]
			}
			if k, _ := b.From([]byte(key))(); string(k) != next {
				t.Fatalf("bucket %d: From(%q) = %q, want %q", bucket, key, k, next)
			}
			if k, _ := b.Down([]byte(key))(); string(k) != before {
				t.Fatalf("bucket %d: Down(%q) = %q, want %q", bucket, key, k, before)
			}
		}
	}
}

var errGivenUp = errors.New("given up")

// TestModel plays random transactions, given-up ones among them, on a file and
// on a map; between them the file is closed, or its process dies.
func TestModel(t *testing.T) {
	base, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "db")
		o := options()
		o.NoSync = rapid.Bool().Draw(t, "leave the disk alone")
		db, err := kv.Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		want := newContent()
		view := func() {
			if err := db.View(t.Context(), func(tx *kv.Tx) error { want.compare(t, tx); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"update": func(t *rapid.T) {
				next, give := want.clone(), rapid.IntRange(0, 4).Draw(t, "give up") == 0
				err := db.Update(t.Context(), func(tx *kv.Tx) error {
					for range rapid.IntRange(0, 12).Draw(t, "ops") {
						bucket := rapid.IntRange(0, 2).Draw(t, "bucket")
						key := fmt.Sprint("k", rapid.IntRange(0, 29).Draw(t, "key"))
						if rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
							delete(next[bucket], key)
							tx.Bucket(bucket).Delete([]byte(key))
							continue
						}
						n++
						value := strings.Repeat(string(rune('a'+n%26)), rapid.IntRange(0, 90).Draw(t, "size"))
						tx.Bucket(bucket).Put([]byte(key), []byte(value))
						next[bucket][key] = value
					}
					next.compare(t, tx)
					if give {
						return errGivenUp
					}
					return nil
				})
				switch {
				case give && errors.Is(err, errGivenUp):
				case err == nil && !give:
					want = next
				default:
					t.Fatal(err)
				}
			},
			"view": func(*rapid.T) { view() },
			"scan": func(t *rapid.T) {
				if err := db.Scan(t.Context(), func(tx *kv.Tx) error { want.compare(t, tx); return nil }); err != nil {
					t.Fatal(err)
				}
			},
			"reopen": func(t *rapid.T) { db = reopen(t, db, path, o); view() },
			"die":    func(t *rapid.T) { db = die(t, db, path, o); view() },
			"half":   func(t *rapid.T) { kv.Half(t, db); view() },
			"copy": func(t *rapid.T) {
				var b bytes.Buffer
				if _, err := db.Snapshot(t.Context(), &b); err != nil {
					t.Fatal(err)
				}
				copied := filepath.Join(dir, "copy")
				if err := os.WriteFile(copied, b.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				o := o
				o.ReadOnly = true
				c, err := kv.Open(copied, o)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.View(t.Context(), func(tx *kv.Tx) error { want.compare(t, tx); return nil }); err != nil {
					t.Fatal(err)
				}
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

func reopen(t rapid.TB, db *kv.DB, path string, o kv.Options) *kv.DB {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".log0", ".log1"} {
		if _, err := os.Stat(path + name); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s is there after Close: %v", name, err)
		}
	}
	again, err := kv.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// die leaves the files as a process does that is killed.
func die(t rapid.TB, db *kv.DB, path string, o kv.Options) *kv.DB {
	t.Helper()
	kv.Kill(t, db)
	reader := o
	reader.ReadOnly = true // it sees what lies in the log, and leaves it there
	r, err := kv.Open(path, reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := kv.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// TestIsolation lets readers look while a writer goes on, through many tables:
// each sees one state, from the beginning of its transaction to the end.
func TestIsolation(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	write := func(n int) {
		err := db.Update(t.Context(), func(tx *kv.Tx) error {
			for i := range 10 {
				key := fmt.Sprint("k", (n+i)%20)
				tx.Bucket(0).Delete(fmt.Append(nil, "k", (n+i+10)%20))
				tx.Bucket(0).Put([]byte(key), fmt.Append(nil, n))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	write(0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		look := db.View
		if i%2 == 0 {
			look = db.Scan
		}
		wg.Go(func() {
			for last := 0; ; {
				select {
				case <-stop:
					return
				default:
				}
				err := look(t.Context(), func(tx *kv.Tx) error {
					var first string
					for range 3 {
						values := map[string]int{}
						next := tx.Bucket(0).From(nil)
						for k, v := next(); k != nil; k, v = next() {
							values[string(v)]++
							if first == "" {
								first = string(v)
							}
						}
						if len(values) != 1 || values[first] != 10 {
							return fmt.Errorf("one transaction sees %v, first %s", values, first)
						}
						if i%2 == 0 {
							time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
						}
					}
					n := 0
					_, _ = fmt.Sscan(first, &n)
					if n < last {
						return fmt.Errorf("it saw %d and then %d", last, n)
					}
					last = n
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range 2000 {
		write(n)
	}
	close(stop)
	wg.Wait()
}

func put(t *testing.T, db *kv.DB, key, value string) {
	t.Helper()
	if err := tryPut(t, db, key, value); err != nil {
		t.Fatal(err)
	}
}

func tryPut(t *testing.T, db *kv.DB, key, value string) error {
	t.Helper()
	return db.Update(t.Context(), func(tx *kv.Tx) error {
		tx.Bucket(0).Put([]byte(key), []byte(value))
		return nil
	})
}

func get(t *testing.T, db *kv.DB, key string) (value string) {
	t.Helper()
	err := db.View(t.Context(), func(tx *kv.Tx) error { value = string(tx.Bucket(0).Get([]byte(key))); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// left leaves ten batches behind in a log, as a process that was killed.
func left(t *testing.T) (path string, log []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "db")
	o := options()
	o.LogSize = 1 << 20
	db, err := kv.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		put(t, db, fmt.Sprint("k", i), strings.Repeat("v", i))
	}
	kv.Kill(t, db)
	if log, err = os.ReadFile(path + ".log0"); err != nil {
		t.Fatal(err)
	}
	return path, log
}

// TestTornLog cuts the log off behind its head: the batches before stand.
func TestTornLog(t *testing.T) {
	path, log := left(t)
	other, err := os.ReadFile(path + ".log1")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := 0
	for cut := 512; cut <= len(log); cut += 16 {
		if err := os.WriteFile(path, tree, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".log0", log[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".log1", other, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := kv.Open(path, options())
		if err != nil {
			t.Fatalf("cut off at %d: %v", cut, err)
		}
		n := 0
		err = db.View(t.Context(), func(tx *kv.Tx) error {
			for tx.Bucket(0).Get(fmt.Append(nil, "k", n)) != nil {
				n++
			}
			return nil
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if n < before || n > before+1 {
			t.Fatalf("cut off at %d: %d batches, with a byte less %d", cut, n, before)
		}
		before = n
	}
	if before != 10 {
		t.Fatalf("the whole log has %d batches", before)
	}
}

// TestDamagedLog damages what was acknowledged: it is said, not passed over.
func TestDamagedLog(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, path string, log []byte) error
		text string
	}{
		{"missing", func(_ *testing.T, path string, _ []byte) error { return os.Remove(path + ".log0") }, "missing"},
		{"missing, the other one", func(_ *testing.T, path string, _ []byte) error { return os.Remove(path + ".log1") }, "missing"},
		{"of another file", func(t *testing.T, path string, _ []byte) error {
			t.Helper()
			_, other := left(t)
			return os.WriteFile(path+".log0", other, 0o600)
		}, "another file"},
		{"of a later time", func(t *testing.T, path string, _ []byte) error {
			t.Helper()
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			db := open(t, path)
			if err := db.Close(); err != nil {
				return err
			}
			db = open(t, path)
			put(t, db, "late", "x")
			log, err := os.ReadFile(path + ".log0")
			other, err1 := os.ReadFile(path + ".log1")
			if err := errors.Join(err, err1, db.Close(), os.WriteFile(path, raw, 0o600), os.WriteFile(path+".log1", other, 0o600)); err != nil {
				return err
			}
			return os.WriteFile(path+".log0", log, 0o600)
		}, "goes on after batch"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path, log := left(t)
			if err := tc.do(t, path, log); err != nil {
				t.Fatal(err)
			}
			for _, readOnly := range []bool{true, false} {
				o := options()
				o.ReadOnly = readOnly
				db, err := kv.Open(path, o)
				if err == nil {
					t.Fatalf("opened; Close: %v", db.Close())
				}
				if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("Open: %v, want ErrCorrupt and %q", err, tc.text)
				}
			}
		})
	}
}

// TestFlippedBit flips every bit of a log in turn. A file is refused, or nothing
// of it is missing: but for its last batch, which cannot be told from one that was
// torn and never acknowledged.
func TestFlippedBit(t *testing.T) {
	path, log := left(t)
	tree, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	o.ReadOnly = true
	refused := 0
	for bit := 0; bit < 8*len(log); bit++ {
		if bit/8%512 > 50 { // there is nothing but the rest of the sector
			bit += 97
		}
		if bit >= 8*len(log) {
			break
		}
		damaged := bytes.Clone(log)
		damaged[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path+".log0", damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := kv.Open(path, o)
		if errors.Is(err, store.ErrCorrupt) && strings.Contains(err.Error(), "snapshot") {
			refused++
			continue
		}
		if err != nil {
			t.Fatalf("bit %d: %v", bit, err)
		}
		want := 9
		if bit/8 >= len(log)-512 {
			want = 8
		}
		for i := range want + 1 {
			if got := get(t, db, fmt.Sprint("k", i)); got != strings.Repeat("v", i) {
				t.Errorf("bit %d: k%d = %q", bit, i, got)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if refused < 100 {
		t.Errorf("only %d were refused", refused)
	}
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(tree, again) {
		t.Errorf("the tree was changed: %v", err)
	}
}

// TestReadOnlyAfterCrash reads what lies in the log, and leaves the files.
func TestReadOnlyAfterCrash(t *testing.T) {
	path, _ := left(t)
	o := options()
	o.ReadOnly = true
	db, err := kv.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, db, "k9"); got != strings.Repeat("v", 9) {
		t.Errorf("k9 = %q", got)
	}
	if err := tryPut(t, db, "x", "y"); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Update: %v", err)
	}
	var whole bytes.Buffer
	if _, err := db.Snapshot(t.Context(), &whole); err != nil {
		t.Errorf("Snapshot: %v", err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, whole.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := get(t, open(t, copied), "k9"); got != strings.Repeat("v", 9) {
		t.Errorf("in the copy k9 = %q", got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := get(t, open(t, path), "k9"); got != strings.Repeat("v", 9) {
		t.Errorf("k9 = %q", got)
	}
}

// TestSymlink opens a file by two names: its log is found by both.
func TestSymlink(t *testing.T) {
	path, _ := left(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if got := get(t, open(t, link), "k9"); got != strings.Repeat("v", 9) {
		t.Errorf("k9 = %q", got)
	}
}

// TestLogFails lets the disk refuse a batch: it is not there, and the next one
// is written where it was.
func TestLogFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	o := options()
	o.NoSync = false
	db, err := kv.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, "before", "1")
	mend := kv.BreakLog(t, db)
	for range 3 {
		if err := tryPut(t, db, "lost", strings.Repeat("x", 500)); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("Update: %v, want ErrUnavailable", err)
		}
		if got := get(t, db, "lost") + get(t, db, "before"); got != "1" {
			t.Fatalf("a batch that was refused is seen: %q", got)
		}
	}
	mend()
	put(t, db, "after", "2")
	db = die(t, db, path, o)
	t.Cleanup(func() { _ = db.Close() })
	if got := get(t, db, "before") + get(t, db, "after") + get(t, db, "lost"); got != "12" {
		t.Errorf("after a crash: %q", got)
	}
}

// TestProbe counts when a probe writes: not while the last write speaks for the
// next one.
func TestProbe(t *testing.T) {
	wrote := 0
	probe := func(t *testing.T, db *kv.DB, writes int, want error) {
		t.Helper()
		wrote = 0
		err := db.Probe(t.Context(), func(tx *kv.Tx) error {
			wrote++
			tx.Bucket(0).Put([]byte("probe"), make([]byte, 100))
			return nil
		})
		if !errors.Is(err, want) || wrote != writes {
			t.Errorf("Probe: %v after %d writes, want %v after %d", err, wrote, want, writes)
		}
	}
	t.Run("Log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			db := open(t, filepath.Join(t.TempDir(), "db"))
			probe(t, db, 1, nil) // nobody knows yet
			probe(t, db, 0, nil)
			put(t, db, "k", "1")
			probe(t, db, 0, nil)
			mend := kv.BreakLog(t, db)
			probe(t, db, 0, nil) // nobody knows yet
			if err := tryPut(t, db, "k", "2"); !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("Update: %v, want ErrUnavailable", err)
			}
			probe(t, db, 1, store.ErrUnavailable)
			probe(t, db, 1, store.ErrUnavailable)
			mend()
			probe(t, db, 1, nil)
			probe(t, db, 0, nil)
			if got := get(t, db, "k"); got != "1" {
				t.Errorf("k = %q", got)
			}
			mend = kv.BreakLog(t, db)
			_ = tryPut(t, db, "k", "2")
			mend()
			put(t, db, "k", "3")
			probe(t, db, 0, nil)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := db.Probe(ctx, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("Probe: %v, want Canceled", err)
			}
		})
	})
	t.Run("Tree", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options()
			o.LogSize = 1000
			db, err := kv.Open(filepath.Join(t.TempDir(), "db"), o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			put(t, db, "k", strings.Repeat("x", 1000))
			kv.BreakTree(t, db)
			_ = tryPut(t, db, "l", "1") // it sends the first buffer on its way
			if !kv.Behind(db) {
				t.Fatal("the tree was not broken")
			}
			probe(t, db, 1, nil)
			if kv.Behind(db) {
				t.Error("the tree has not what it should have, and the probe says that all is well")
			}
			probe(t, db, 0, nil)
		})
	})
	t.Run("Idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			db := open(t, filepath.Join(t.TempDir(), "db"))
			put(t, db, "k", "1")
			time.Sleep(900 * time.Millisecond)
			probe(t, db, 0, nil)
			time.Sleep(200 * time.Millisecond)
			probe(t, db, 1, nil)
			probe(t, db, 0, nil)
		})
	})
	t.Run("Closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			db := open(t, filepath.Join(t.TempDir(), "db"))
			put(t, db, "k", "1")
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			probe(t, db, 0, store.ErrUnavailable)
		})
	})
}

// TestLostLog goes on without a log that was lost, as the documentation of
// package boltstore says: what is written then is not taken for something that
// the tree has already.
func TestLostLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	for range 5 {
		put(t, db, "k", "old")
		put(t, db, "z", "old")
	}
	kv.Half(t, db)
	kv.Kill(t, db)
	for _, name := range []string{".log0", ".log1"} {
		if err := os.WriteFile(path+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db = open(t, path)
	put(t, db, "k", "new")
	kv.Kill(t, db)
	if got := get(t, open(t, path), "k"); got != "new" {
		t.Errorf("an acknowledged value is gone: %q", got)
	}
}

// TestKeys refuses what the tree would refuse later, when it is too late.
func TestKeys(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	for _, key := range []string{"", strings.Repeat("k", 1<<15+1)} {
		if err := tryPut(t, db, key, "v"); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("a key of %d bytes: %v", len(key), err)
		}
	}
	err := db.Update(t.Context(), func(tx *kv.Tx) error {
		for _, key := range []string{"before", "", "after"} {
			tx.Bucket(0).Put([]byte(key), []byte("v"))
		}
		return nil
	})
	if !errors.Is(err, store.ErrInvalid) || get(t, db, "before") != "" || get(t, db, "after") != "" {
		t.Errorf("%v; before %q, after %q", err, get(t, db, "before"), get(t, db, "after"))
	}
	put(t, db, strings.Repeat("k", 1<<15), strings.Repeat("v", 300_000))
	put(t, db, "next", "v")
	if got := get(t, db, strings.Repeat("k", 1<<15)); len(got) != 300_000 {
		t.Errorf("a large value has %d bytes", len(got))
	}
}

// FuzzLog opens whatever lies in a log file.
func FuzzLog(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add([]byte("\x00\x01\x02kv"), 60)
	f.Fuzz(func(t *testing.T, patch []byte, at int) {
		path, log := left(t)
		if at < 0 || at > len(log) {
			return
		}
		log = append(log[:at:at], patch...)
		if err := os.WriteFile(path+".log0", log, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := kv.Open(path, options())
		if err == nil {
			err = db.Close()
		}
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Fatal(err)
		}
	})
}

// TestReadOnlyAfterFirstRefusal: the tree says that there is a log, and the log is
// empty. A copy needs no log.
func TestReadOnlyAfterFirstRefusal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	put(t, db, "k", "v")
	if _, err := db.Snapshot(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	refused := db.Update(t.Context(), func(*kv.Tx) error { return errGivenUp }) // it starts the log
	if !errors.Is(refused, errGivenUp) {
		t.Fatal(refused)
	}
	kv.Kill(t, db)
	o := options()
	o.ReadOnly = true
	db, err := kv.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	_, err = db.Snapshot(t.Context(), &whole)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, whole.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := get(t, open(t, copied), "k"); got != "v" {
		t.Errorf("in the copy k = %q", got)
	}
}

// TestCloseTwice: a store that is closed leaves the file's next user alone.
func TestCloseTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	first := open(t, path)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, path)
	put(t, second, "k", "v")
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := tryPut(t, first, "k", "w"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Update: %v, want ErrUnavailable", err)
	}
	kv.Kill(t, second)
	if got := get(t, open(t, path), "k"); got != "v" {
		t.Errorf("k = %q", got)
	}
}
