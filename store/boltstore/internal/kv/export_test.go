package kv

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"go.etcd.io/bbolt"
)

// BreakLog makes the log's files refuse to be written until mend is called.
func BreakLog(t *testing.T, db *DB) (mend func()) {
	t.Helper()
	db.writer.Lock()
	defer db.writer.Unlock()
	whole := db.log.files
	for i := range db.log.files {
		f, err := disk{}.open(db.log.paths[i], os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		db.log.files[i] = f
	}
	return func() {
		db.writer.Lock()
		defer db.writer.Unlock()
		for i := range db.log.files {
			_ = db.log.files[i].Close()
		}
		db.log.files = whole
	}
}

// fataler is what testing.T and rapid.T share here.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// BreakTree makes the next write of the tree fail; it is read anew after that.
func BreakTree(t *testing.T, db *DB) {
	t.Helper()
	db.writer.Lock()
	defer db.writer.Unlock()
	db.running.Wait()
	if err := db.tree.Close(); err != nil {
		t.Fatal(err)
	}
}

// Behind reports whether a buffer is still on its way to the tree.
func Behind(db *DB) bool {
	db.writer.Lock()
	defer db.writer.Unlock()
	db.running.Wait()
	return db.sealed != nil
}

// Kill lets go of the files and leaves them as they are.
func Kill(t fataler, db *DB) {
	t.Helper()
	db.writer.Lock()
	defer db.writer.Unlock()
	db.running.Wait()
	db.mu.Lock()
	defer db.mu.Unlock()
	db.closed = true
	if db.tree != nil {
		_ = db.tree.Close()
	}
	if err := errors.Join(db.log.close(), db.lock.Close()); err != nil && !errors.Is(err, fs.ErrClosed) {
		t.Fatal(err)
	}
}

// Half gives the tree the beginning of what the log holds, as an apply that was
// cut off.
func Half(t fataler, db *DB) {
	t.Helper()
	db.writer.Lock()
	defer db.writer.Unlock()
	db.running.Wait()
	if !db.logged || db.sealed != nil {
		return
	}
	db.seal()
	keys := 0
	for _, s := range db.sealed.buckets {
		for _, r := range s.runs {
			keys += len(r.entries)
		}
	}
	err := db.commit(func(tx *bbolt.Tx) error {
		_, err := (&applier{db: db, buffer: db.sealed}).step(tx, keys*2/3)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	db.behind.Store(true)
}
