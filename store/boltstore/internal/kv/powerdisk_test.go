package kv

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"go.etcd.io/bbolt"
)

// powerDisk is a disk that notes what was written and what was synced, and can
// say what may be on it after a power loss. What was synced is there. Of the rest
// any part may be, in any order:
//
//   - each sector of 512 bytes is as it was synced last or as any later write left
//     it;
//   - a file has the size with which it was synced last, or a later one;
//   - each new, changed or removed name has come about or not.
//
// After a sync that failed its sectors count as clean: they may be on the disk or
// not, and a later sync does nothing about them unless they are written again.
//
// The files lie in a directory as well, as a process sees them: what a killed
// process leaves behind is read from there.
//
// Of bbolt it sees every write, by a hook in its private ops.writeAt. Its syncs
// cannot be seen, but where they stand is known: one behind the growth of the file,
// one between the pages and the meta page, one behind that, unless NoSync is set.
// They are made to fail by putting a pipe in place of the file's descriptor.
type powerDisk struct {
	mu      sync.Mutex
	dir     string
	names   map[string]*inode // as a process sees them
	durable map[string]*inode
	pending []nameChange

	step  func()               // is called between any two calls, with mu held
	fault func(what call) bool // whether a call fails
	note  func(format string, args ...any)
	dead  bool // the process was killed: no call does anything
}

type call struct {
	name string // the file's, without its directory
	what string // write, sync, truncate, open, rename, remove, syncdir; pages, pagesync, metasync
}

type nameChange struct {
	from, to string // from: "" for a new file; to: "" for a removal
	file     *inode
}

type inode struct {
	size     int64
	cache    map[int64][sector]byte
	disk     map[int64][sector]byte
	later    map[int64][]version // than disk, the newest last
	diskSize int64
	sizes    []int64 // later ones
}

type version struct {
	data  [sector]byte
	clean bool // a sync that failed was its last chance
}

func newInode() *inode {
	return &inode{cache: map[int64][sector]byte{}, disk: map[int64][sector]byte{}, later: map[int64][]version{}}
}

func newPowerDisk(dir string) *powerDisk {
	return &powerDisk{dir: dir, names: map[string]*inode{}, durable: map[string]*inode{}, step: func() {}, fault: func(call) bool { return false }, note: func(string, ...any) {}}
}

func (n *inode) write(b []byte, off int64) {
	for at := off; at < off+int64(len(b)); {
		i := at / sector
		s := n.cache[i]
		at += int64(copy(s[at%sector:], b[at-off:]))
		n.cache[i] = s
		n.later[i] = append(n.later[i], version{data: s})
	}
	if end := off + int64(len(b)); end > n.size {
		n.resize(end)
	}
}

func (n *inode) resize(size int64) {
	n.size = size
	n.sizes = append(n.sizes, size)
	for i := range n.cache {
		switch {
		case i*sector >= size:
			delete(n.cache, i)
		case (i+1)*sector > size:
			s := n.cache[i]
			clear(s[size-i*sector:])
			n.cache[i] = s
			n.later[i] = append(n.later[i], version{data: s})
		}
	}
}

func (n *inode) sync() {
	for i, all := range n.later {
		if last := all[len(all)-1]; !last.clean {
			n.disk[i] = last.data
			delete(n.later, i)
		}
	}
	n.diskSize, n.sizes = n.size, nil
	for i := range n.disk {
		if i*sector >= n.size {
			delete(n.disk, i)
		}
	}
	for i := range n.later {
		if i*sector >= n.size {
			delete(n.later, i)
		}
	}
}

func (n *inode) failSync() {
	for _, all := range n.later {
		for k := range all {
			all[k].clean = true
		}
	}
}

// lose is the file after a power loss. how: 0 none of what is open is there, 1 all
// of it, else any of it.
func (n *inode) lose(r *rand.Rand, how int) []byte {
	size := n.diskSize
	if k := len(n.sizes); k > 0 {
		switch how {
		case 0:
		case 1:
			size = n.sizes[k-1]
		default:
			if c := r.IntN(k + 1); c < k {
				size = n.sizes[c]
			}
		}
	}
	raw := make([]byte, size)
	put := func(i int64, s [sector]byte) {
		if i*sector < size {
			copy(raw[i*sector:], s[:])
		}
	}
	for i, s := range n.disk {
		put(i, s)
	}
	for _, i := range slices.Sorted(maps.Keys(n.later)) {
		all := n.later[i]
		switch how {
		case 0:
		case 1:
			put(i, all[len(all)-1].data)
		default:
			if c := r.IntN(len(all) + 1); c < len(all) {
				put(i, all[c].data)
			}
		}
	}
	return raw
}

// open reports whether anything is open: otherwise there is one state only.
func (p *powerDisk) undecided() bool {
	if len(p.pending) > 0 {
		return true
	}
	for _, n := range p.durable {
		if len(n.later)+len(n.sizes) > 0 {
			return true
		}
	}
	return false
}

// lose is the disk after a power loss.
func (p *powerDisk) lose(r *rand.Rand) map[string][]byte {
	names := maps.Clone(p.durable)
	how := r.IntN(6)
	for _, c := range p.pending {
		if how == 0 || how > 1 && r.IntN(2) == 0 {
			continue
		}
		if c.from != "" {
			delete(names, c.from)
		}
		if c.to != "" {
			names[c.to] = c.file
		}
	}
	files := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		each := how
		if r.IntN(3) == 0 {
			each = r.IntN(4)
		}
		files[name] = names[name].lose(r, each)
	}
	return files
}

// fill puts files on an empty disk, synced.
func (p *powerDisk) fill(files map[string][]byte) error {
	for name, raw := range files {
		if err := os.WriteFile(filepath.Join(p.dir, name), raw, 0o600); err != nil {
			return err
		}
		n := newInode()
		n.write(raw, 0)
		n.sync()
		p.names[name], p.durable[name] = n, n
	}
	return nil
}

var (
	errDead = errors.New("the process was killed")
	errDisk = syscall.EIO
)

// do runs a call, unless the process is dead or the call is to fail.
func (p *powerDisk) do(path, what string, fn func(n *inode) error, fail func(n *inode)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := filepath.Base(path)
	p.step()
	if p.dead {
		return errDead
	}
	p.note("    %s %s", what, name)
	failed := p.fault(call{name, what})
	if p.dead {
		return errDead
	}
	n := p.names[name]
	if failed {
		if fail != nil && n != nil {
			fail(n)
			p.step()
		}
		return errDisk
	}
	if err := fn(n); err != nil {
		return err
	}
	p.step()
	if p.dead {
		return errDead
	}
	return nil
}

func (p *powerDisk) open(path string, flag int, mode fs.FileMode) (file, error) {
	var f *os.File
	err := p.do(path, "open", func(n *inode) (err error) {
		if f, err = os.OpenFile(path, flag, mode); err == nil && n == nil {
			p.create(filepath.Base(path))
		}
		return err
	}, nil)
	return powerFile{p, f, path}, err
}

func (p *powerDisk) create(name string) *inode {
	n := newInode()
	p.names[name] = n
	p.pending = append(p.pending, nameChange{to: name, file: n})
	return n
}

func (p *powerDisk) rename(from, to string) error {
	return p.do(from, "rename", func(n *inode) error {
		a, b := filepath.Base(from), filepath.Base(to)
		delete(p.names, a)
		p.names[b] = n
		p.pending = append(p.pending, nameChange{from: a, to: b, file: n})
		return os.Rename(from, to)
	}, nil)
}

func (p *powerDisk) remove(path string) error {
	return p.do(path, "remove", func(*inode) error {
		name := filepath.Base(path)
		if p.names[name] == nil {
			return fs.ErrNotExist
		}
		delete(p.names, name)
		p.pending = append(p.pending, nameChange{from: name})
		return os.Remove(path)
	}, nil)
}

func (p *powerDisk) syncDir(dir string) error {
	return p.do(dir, "syncdir", func(*inode) error {
		p.durable, p.pending = maps.Clone(p.names), nil
		return nil
	}, nil)
}

type powerFile struct {
	p *powerDisk
	*os.File
	path string
}

func (f powerFile) WriteAt(b []byte, off int64) (int, error) {
	err := f.p.do(f.path, "write", func(n *inode) error {
		n.write(b, off)
		_, err := f.File.WriteAt(b, off)
		return err
	}, func(n *inode) { // a part of it
		n.write(b[:len(b)/2], off)
		_, _ = f.File.WriteAt(b[:len(b)/2], off)
	})
	return len(b), err
}

func (f powerFile) Sync() error {
	return f.p.do(f.path, "sync", func(n *inode) error { n.sync(); return nil }, (*inode).failSync)
}

// tree opens bbolt and puts itself between it and its file.
func (p *powerDisk) tree(path string, mode fs.FileMode, opts *bbolt.Options) (*bbolt.DB, error) {
	if err := p.do(path, "open", func(*inode) error { return nil }, nil); err != nil {
		return nil, err
	}
	var of *os.File
	openFile := opts.OpenFile
	opts.OpenFile = func(name string, flag int, mode fs.FileMode) (f *os.File, err error) {
		of, err = openFile(name, flag, mode)
		return of, err
	}
	if opts.NoSync || opts.NoGrowSync {
		return nil, errors.New("the tree would not be synced")
	}
	opts.NoSync, opts.NoGrowSync = true, true // the real disk is left alone
	tree, err := bbolt.Open(path, mode, opts)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := filepath.Base(path)
	n := p.names[name]
	if n == nil {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		n = p.create(name)
		n.write(raw, 0)
		p.step()
		n.sync()
		p.step()
	}
	own, err := os.OpenFile(path, os.O_RDWR, mode)
	if err != nil {
		return nil, err
	}
	t := &powerTree{p: p, n: n, name: name, tree: tree, fd: int(of.Fd()), file: own}
	tree.NoSync, tree.NoGrowSync = false, false
	ops := reflect.ValueOf(tree).Elem().FieldByName("ops").Field(0)
	*(*func([]byte, int64) (int, error))(unsafe.Pointer(ops.UnsafeAddr())) = t.writeAt
	return tree, nil
}

type powerTree struct {
	p     *powerDisk
	n     *inode
	name  string
	tree  *bbolt.DB
	fd    int
	file  *os.File
	fails bool // the next sync of this file fails
}

func (t *powerTree) writeAt(b []byte, off int64) (int, error) {
	p := t.p
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step()
	if p.dead {
		return 0, errDead
	}
	if info, err := t.file.Stat(); err == nil && info.Size() > t.n.size { // it was grown
		t.n.resize(info.Size())
		if p.step(); !t.tree.NoGrowSync {
			t.n.sync()
			p.step()
		}
	}
	meta := off < int64(2*t.tree.Info().PageSize)
	p.note("    %d bytes at %d of %s", len(b), off, t.name)
	if meta && !t.tree.NoSync {
		t.n.sync()
		p.step()
	}
	if !meta && p.fault(call{t.name, "pages"}) {
		return 0, errDisk
	}
	if p.dead {
		return 0, errDead
	}
	t.n.write(b, off)
	if _, err := t.file.WriteAt(b, off); err != nil {
		return 0, err
	}
	p.step()
	switch {
	case p.dead:
		return 0, errDead
	case meta && p.fault(call{t.name, "metasync"}), !meta && !t.fails && p.fault(call{t.name, "pagesync"}):
		t.breakSync()
	case meta && !t.tree.NoSync && !p.dead:
		t.n.sync()
		p.step()
	}
	if t.fails {
		t.n.failSync()
	}
	if p.dead {
		return 0, errDead
	}
	return len(b), nil
}

// breakSync lets the next sync fail: it is one of a pipe.
func (t *powerTree) breakSync() {
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil {
		panic(err)
	}
	if err := syscall.Dup2(pipe[1], t.fd); err != nil {
		panic(err)
	}
	_ = syscall.Close(pipe[0])
	_ = syscall.Close(pipe[1])
	t.fails = true
}
