package kv

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

var (
	powerStates = flag.Int("power.states", 5000, "how many states after a power loss TestPowerLoss builds and opens")
	powerSeed   = flag.Uint64("power.seed", 0, "the one life of a store that TestPowerLoss plays; 0: many")
)

// powerOptions are those of small files with many turns of the log.
func powerOptions(p *powerDisk) Options {
	o := Options{Format: 1, Buckets: []string{"a", "b", "c"}, Mode: 0o600, Timeout: time.Second, LogSize: 4000, step: 4}
	if p == nil {
		o.NoSync = true
	} else {
		o.files = p
	}
	return o
}

type content [3]map[string]string

func newContent() content { return content{{}, {}, {}} }

func (c content) clone() content {
	return content{maps.Clone(c[0]), maps.Clone(c[1]), maps.Clone(c[2])}
}

func (c content) equal(d content) bool {
	return maps.Equal(c[0], d[0]) && maps.Equal(c[1], d[1]) && maps.Equal(c[2], d[2])
}

func (c content) String() string {
	var b strings.Builder
	for i, m := range c {
		for k, v := range m {
			fmt.Fprintf(&b, " %d/%s=%d:%.14q", i, k, len(v), v)
		}
	}
	return b.String()
}

func contentOf(db *DB) (content, error) {
	c := newContent()
	err := db.Scan(context.Background(), func(tx *Tx) error {
		for i := range c {
			next := tx.Bucket(i).From(nil)
			for k, v := next(); k != nil; k, v = next() {
				c[i][string(k)] = string(v)
			}
		}
		return nil
	})
	return c, err
}

// life is a store that lives through closes, kills and power losses. It knows
// what was acknowledged, and what may be there besides.
type life struct {
	t      *testing.T
	seed   uint64
	r      *rand.Rand
	dir    string
	disk   *powerDisk
	db     *DB
	n      int       // of updates
	sure   content   // what was acknowledged
	maybe  []content // what may be there instead: with a batch that was not
	secret []byte    // once somebody may have seen it
	states *int      // how many were opened
	limit  int
	depth  int // of recoveries within recoveries
	trace  []string
	dirs   int
	chance int // one crash in so many is looked at
	kill   int // steps to a kill; 0: none
}

func (l *life) note(format string, args ...any) {
	l.trace = append(l.trace, fmt.Sprintf(format, args...))
}

func (l *life) fail(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("-power.seed=%d: %s\n%s", l.seed, fmt.Sprintf(format, args...), strings.Join(l.trace[max(0, len(l.trace)-100):], "\n"))
}

// newDisk puts files on a disk of their own.
func (l *life) newDisk(files map[string][]byte) *powerDisk {
	l.dirs++
	dir := filepath.Join(l.dir, fmt.Sprint(l.depth, "-", l.dirs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	p := newPowerDisk(dir)
	if err := p.fill(files); err != nil {
		l.t.Fatal(err)
	}
	p.step = l.step
	if *powerSeed != 0 {
		p.note = l.note
	}
	return p
}

// step comes between any two calls to the disk: there the power may go, or the
// process be killed.
func (l *life) step() {
	if l.disk.dead {
		return
	}
	if l.kill > 0 {
		if l.kill--; l.kill == 0 {
			l.disk.dead = true
		}
	}
	if *l.states >= l.limit || !l.disk.undecided() || l.r.IntN(l.chance) > 0 {
		return
	}
	l.look(l.disk.lose(l.r))
}

// look opens what a power loss left.
func (l *life) look(files map[string][]byte) {
	l.t.Helper()
	*l.states++
	if l.depth == 0 && l.r.IntN(8) == 0 {
		l.again(files)
		return
	}
	l.dirs++
	dir := filepath.Join(l.dir, fmt.Sprint("look", l.depth, "-", l.dirs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for name, raw := range files {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	db, err := Open(filepath.Join(dir, "db"), powerOptions(nil))
	if err != nil {
		l.fail("after a power loss: %v", err)
	}
	l.allowed(db)
	if l.r.IntN(4) == 0 {
		l.goOn(db, dir)
		return
	}
	if err := db.Close(); err != nil {
		l.fail("Close: %v", err)
	}
}

// allowed checks what a store has, and returns it.
func (l *life) allowed(db *DB) content {
	l.t.Helper()
	got, err := contentOf(db)
	if err != nil {
		l.fail("read: %v", err)
	}
	if l.secret != nil && !bytes.Equal(l.secret, db.secret) {
		l.fail("the store is another one")
	}
	for _, c := range append(l.maybe, l.sure) {
		if c.equal(got) {
			return got
		}
	}
	l.fail("the store has\n%s\nacknowledged was\n%s\nor any of %d", got, l.sure, len(l.maybe))
	return got
}

// goOn writes to a store that was opened after a power loss, and kills it: its
// batches must not be taken for others.
func (l *life) goOn(db *DB, dir string) {
	l.t.Helper()
	want, err := contentOf(db)
	if err != nil {
		l.fail("read: %v", err)
	}
	for range 2 {
		l.n++
		next := want.clone()
		if err := db.Update(context.Background(), func(tx *Tx) error {
			l.put(tx, next)
			return nil
		}); err != nil {
			l.fail("write after a power loss: %v", err)
		}
		want = next
	}
	Kill(l.t, db)
	if db, err = Open(filepath.Join(dir, "db"), powerOptions(nil)); err != nil {
		l.fail("after a power loss and a kill: %v", err)
	}
	got, err := contentOf(db)
	if err := errors.Join(err, db.Close()); err != nil || !got.equal(want) {
		l.fail("after a power loss, two writes and a kill: %v\n%s\nwant\n%s", err, got, want)
	}
}

// again opens what a power loss left on a disk of which the power goes once more.
func (l *life) again(files map[string][]byte) {
	l.t.Helper()
	in := &life{
		t: l.t, seed: l.seed, r: l.r, dir: l.dir, sure: l.sure, maybe: l.maybe, secret: l.secret, states: l.states, limit: l.limit,
		depth: 1, dirs: l.dirs, chance: 3, n: l.n, trace: l.trace,
	}
	in.note("power loss; in the recovery:")
	in.disk = in.newDisk(files)
	defer func() {
		l.dirs, l.n = in.dirs, in.n
		_ = os.RemoveAll(in.disk.dir)
	}()
	in.open()
	for range 2 {
		in.update()
	}
	if err := in.db.Close(); err != nil {
		in.fail("Close: %v", err)
	}
}

// put writes a batch, here and there.
func (l *life) put(tx *Tx, next content) {
	for range 1 + l.r.IntN(6) {
		bucket, key := l.r.IntN(3), fmt.Sprint("k", l.r.IntN(12))
		if l.r.IntN(4) == 0 {
			delete(next[bucket], key)
			tx.Bucket(bucket).Delete([]byte(key))
			continue
		}
		value := fmt.Sprint(l.n, ":", strings.Repeat(string(rune('a'+l.n%26)), l.r.IntN(500)))
		next[bucket][key] = value
		tx.Bucket(bucket).Put([]byte(key), []byte(value))
	}
}

// open opens the store on its disk; what it has then is sure.
func (l *life) open() bool {
	l.t.Helper()
	l.note("open")
	db, err := Open(filepath.Join(l.disk.dir, "db"), powerOptions(l.disk))
	switch {
	case err == nil:
		l.db = db
		l.sure, l.maybe, l.secret = l.allowed(db), nil, db.Secret()
		return true
	case l.disk.dead || errors.Is(err, store.ErrUnavailable) || errors.Is(err, errDisk) || errors.Is(err, syscall.EINVAL):
		l.note("open: %v", err)
	default:
		l.fail("open: %v", err)
	}
	return false
}

// update writes a batch. The tree may get what was before it meanwhile: in three
// lives of four that is waited for, so that they can be played again.
func (l *life) update() {
	l.t.Helper()
	next := l.sure.clone()
	err := l.db.Update(context.Background(), func(tx *Tx) error {
		if l.seed%4 > 0 {
			l.db.running.Wait()
		}
		l.disk.mu.Lock()
		defer l.disk.mu.Unlock()
		l.n++
		l.note("update %d", l.n)
		l.put(tx, next)
		l.maybe = append(l.maybe, next)
		return nil
	})
	l.disk.mu.Lock()
	switch {
	case err == nil && l.disk.dead:
		l.note("the process was killed at the very end")
	case err == nil:
		l.sure, l.maybe = next, nil
	case errors.Is(err, store.ErrUnavailable):
		l.note("update %d: %v", l.n, err)
	default:
		l.fail("update: %v", err)
	}
	dead := l.disk.dead
	l.disk.mu.Unlock()
	if !dead {
		got, err := contentOf(l.db)
		if err == nil && !got.equal(l.sure) {
			l.fail("the store shows\n%s\nacknowledged was\n%s", got, l.sure)
		}
	}
}

// faults lets calls of one kind fail for a while.
func (l *life) faults() {
	kinds := []string{"sync", "sync", "sync", "write", "sync write", "syncdir", "pages", "pagesync", "metasync", "open", "remove rename"}
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	kind, from, n := kinds[l.r.IntN(len(kinds))], l.r.IntN(4), 1+l.r.IntN(3)
	l.note("%d calls of %q fail", n, kind)
	l.disk.fault = func(c call) bool {
		if l.disk.dead || !strings.Contains(" "+kind+" ", " "+c.what+" ") {
			return false
		}
		if from--; from >= 0 || from < -n {
			return false
		}
		l.note("  %s of %s fails", c.what, c.name)
		return true
	}
}

// run lives one life: some processes, one after the other.
func (l *life) run() {
	for range 3 + l.r.IntN(4) {
		l.disk.dead, l.disk.fault, l.kill = false, func(call) bool { return false }, 0
		if l.r.IntN(2) == 0 {
			l.faults()
		}
		if l.r.IntN(2) == 0 {
			l.kill = 1 + l.r.IntN(120)
		}
		if l.open() {
			for range l.r.IntN(30) {
				l.disk.mu.Lock()
				what := l.r.IntN(12)
				if l.disk.dead {
					what = -1
				}
				l.disk.mu.Unlock()
				switch what {
				case -1:
				case 0, 1:
					l.faults()
				case 2:
					_, _ = l.db.Snapshot(context.Background(), &bytes.Buffer{})
				default:
					l.update()
				}
				if l.seed%4 > 0 {
					l.db.running.Wait()
				}
			}
			l.disk.mu.Lock()
			kill := l.disk.dead || l.r.IntN(3) == 0
			l.disk.dead = kill
			l.disk.mu.Unlock()
			if kill {
				Kill(l.t, l.db)
			} else {
				_ = l.db.Close()
			}
		}
		if l.r.IntN(3) == 0 {
			l.note("power loss")
			l.disk.dead = true
			dir := l.disk.dir
			l.disk = l.newDisk(l.disk.lose(l.r))
			_ = os.RemoveAll(dir)
		}
	}
}

// TestPowerLoss lets stores live through everything, and the power go at any
// moment. See [powerDisk] for what is on the disk then.
func TestPowerLoss(t *testing.T) {
	base := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "power"); err == nil { //nolint:usetesting // in memory, where there is such a place
		base = shm
		t.Cleanup(func() { _ = os.RemoveAll(shm) })
	}
	states, limit, seed := 0, *powerStates, uint64(1)
	if *powerSeed != 0 {
		seed = *powerSeed
	}
	for ; states < limit; seed++ {
		dir := filepath.Join(base, fmt.Sprint(seed))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		l := &life{
			t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 1)), dir: dir, sure: newContent(), states: &states, limit: limit, chance: 10,
		}
		l.disk = l.newDisk(nil)
		l.run()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if *powerSeed != 0 {
			break
		}
	}
	t.Logf("%d states after a power loss, in %d lives", states, seed-1)
}
