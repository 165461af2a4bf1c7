package kv

import (
	"errors"
	"os"
	"testing"

	"go.etcd.io/bbolt"
)

// BreakLog makes the log's files refuse to be written until mend is called.
func BreakLog(t *testing.T, db *DB) (mend func()) {
	t.Helper()
	db.writer.Lock()
	defer db.writer.Unlock()
	var whole [2]*os.File
	for i := range db.log.files {
		file := &db.log.files[i]
		whole[i] = file.f
		f, err := os.Open(file.path) // for reading
		if err != nil {
			t.Fatal(err)
		}
		file.f = f
	}
	return func() {
		db.writer.Lock()
		defer db.writer.Unlock()
		for i := range db.log.files {
			_ = db.log.files[i].f.Close()
			db.log.files[i].f = whole[i]
		}
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
	db.idle.drain()
	if err := db.tree.Close(); err != nil {
		t.Fatal(err)
	}
}

// Behind reports whether a table is still on its way to the tree.
func Behind(db *DB) bool {
	db.writer.Lock()
	defer db.writer.Unlock()
	db.running.Wait()
	return db.layers.Load().sealed != nil
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
	db.idle.drain()
	if err := errors.Join(db.log.close(), db.tree.Close()); err != nil {
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
	db.idle.pause()
	defer db.idle.resume()
	active := db.layers.Load().active
	err := db.tree.Update(func(tx *bbolt.Tx) error {
		_, err := db.applySome(tx, active, 0, int(active.keys/2))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	active.partly = true
}
