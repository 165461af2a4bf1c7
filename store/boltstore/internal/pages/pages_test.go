package pages_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore/internal/pages"
)

// tree is a bbolt file with branches, a bucket in a bucket, overflow and free pages.
func tree(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{300, 9000, 10} {
		err := db.Update(func(tx *bbolt.Tx) error {
			outer, err := tx.CreateBucketIfNotExists([]byte("outer"))
			if err != nil {
				return err
			}
			inner, err := outer.CreateBucketIfNotExists([]byte("inner"))
			if err != nil {
				return err
			}
			for i := range 60 {
				err = errors.Join(err, outer.Put(fmt.Append(nil, "k", i), []byte(strings.Repeat("v", 300))), inner.Put(fmt.Append(nil, "k", i%9), make([]byte, size)))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func check(raw []byte) error { return pages.Check(bytes.NewReader(raw), int64(len(raw))) }

func TestCheck(t *testing.T) {
	raw := tree(t)
	if err := check(raw); err != nil {
		t.Errorf("a whole file: %v", err)
	}
	for name, raw := range map[string][]byte{
		"short": raw[:100], "cut": raw[:len(raw)/2/os.Getpagesize()*os.Getpagesize()], "zero": make([]byte, len(raw)), "text": bytes.Repeat([]byte("no database "), 5000),
	} {
		if err := check(raw); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
}

// TestMisleadingBranch lets leaves begin with another key than their branch says:
// bbolt would free them and use them on.
func TestMisleadingBranch(t *testing.T) {
	whole := tree(t)
	refused := 0
	for at := 2 * os.Getpagesize(); at < len(whole); at += os.Getpagesize() {
		raw := bytes.Clone(whole)
		raw[at+16+8]++ // the length of a leaf's first key
		if err := check(raw); err != nil && strings.Contains(err.Error(), "leads to another key") {
			refused++
		}
	}
	if refused < 3 {
		t.Errorf("%d leaves were refused", refused)
	}
}
