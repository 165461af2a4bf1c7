package storetest

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
)

// Marks tests that a name is taken once, and the values of marks.
func Marks(t *testing.T, open New) {
	t.Helper()
	t.Run("Names", func(t *testing.T) { names(t, open(t)) })
	t.Run("Values", func(t *testing.T) { values(t, open(t)) })
	t.Run("Race", func(t *testing.T) { markRace(t, open(t)) })
}

// mark writes one mark.
func mark(t *testing.T, s store.Store, m store.Mark) error {
	t.Helper()
	return apply(t, s, store.Commit{Marks: []store.Mark{m}})
}

func names(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store
	take := func(name string, forHowLong time.Duration) error {
		t.Helper()
		return mark(t, s, store.Mark{Name: name, Version: 1, Expires: now(t, s).Add(forHowLong)})
	}
	if err := take("long", longHold); err != nil {
		t.Fatalf("first: %v", err)
	}
	if err := take("long", longHold); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("again: %v, want ErrDuplicate", err)
	}
	if err := take("other", longHold); err != nil {
		t.Errorf("another name: %v", err)
	}
	if err := take("short", shortHold); err != nil {
		t.Errorf("short: %v", err)
	}
	h.pass(t, 2*shortHold)
	if err := take("short", longHold); err != nil {
		t.Errorf("one that is over: %v", err)
	}
	if err := take("short", longHold); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("one that was over and is taken: %v, want ErrDuplicate", err)
	}
	must(t, s, store.Commit{Marks: []store.Mark{{Name: "with the retention", Version: 1}}})
	if _, err := s.Purge(t.Context(), now(t, s).Add(-longHold), 0, false); err != nil {
		t.Errorf("Purge: %v", err)
	}
	for _, name := range []string{"long", "with the retention"} {
		if err := take(name, longHold); !errors.Is(err, store.ErrDuplicate) {
			t.Errorf("%s, after a purge of older things: %v, want ErrDuplicate", name, err)
		}
	}
	h.pass(t, shortHold)
	if _, err := s.Purge(t.Context(), now(t, s), 0, false); err != nil {
		t.Errorf("Purge: %v", err)
	}
	for _, name := range []string{"long", "with the retention"} {
		if err := take(name, longHold); err != nil {
			t.Errorf("%s, beyond the retention: %v", name, err)
		}
	}
}

func values(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store
	at := now(t, s)
	expect := func(what string, want store.Mark) {
		t.Helper()
		got, err := s.Mark(t.Context(), want.Name)
		if err != nil {
			t.Errorf("%s: Mark: %v", what, err)
		}
		want.Expires = store.Time(want.Expires)
		if diff := cmp.Diff(want, got, equateEmpty); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	absent := func(what, name string) {
		t.Helper()
		if m, err := s.Mark(t.Context(), name); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %+v, %v; want ErrNotFound", what, m, err)
		}
	}
	refused := func(what string, m store.Mark, want error) {
		t.Helper()
		if err := mark(t, s, m); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	absent("nothing was written", "popup")
	refused("a replacement of nothing", store.Mark{Name: "popup", Version: 2}, store.ErrConflict)
	refused("a removal of nothing", store.Mark{Name: "popup", Version: 2, Gone: true}, store.ErrConflict)

	first := store.Mark{Name: "popup", Version: 1, Value: []byte{0, 1, 255}, Expires: at.Add(longHold + 999*time.Nanosecond)}
	must(t, s, store.Commit{Marks: []store.Mark{first}})
	expect("inserted", first)
	refused("inserted again", first, store.ErrDuplicate)
	refused("of a version too far", store.Mark{Name: "popup", Version: 3, Value: []byte("x")}, store.ErrConflict)
	refused("gone, of a version too far", store.Mark{Name: "popup", Version: 3, Gone: true}, store.ErrConflict)
	expect("after refusals", first)

	first.Value[0] = 9 // the store must have copied it
	got, err := s.Mark(t.Context(), "popup")
	if err != nil || got.Value[0] != 0 {
		t.Fatalf("the value was changed by its writer: %v, %v", got.Value, err)
	}
	got.Value[1] = 9
	first.Value[0] = 0
	expect("after a reader changed its copy", first)

	second := store.Mark{Name: "popup", Version: 2, Value: []byte("other"), Expires: at.Add(2 * longHold)}
	must(t, s, store.Commit{Marks: []store.Mark{second}})
	expect("replaced", second)
	refused("replaced by one who was late", store.Mark{Name: "popup", Version: 2, Value: []byte("late")}, store.ErrConflict)
	refused("inserted while another version is there", first, store.ErrDuplicate)
	third := store.Mark{Name: "popup", Version: 3}
	must(t, s, store.Commit{Marks: []store.Mark{third}})
	expect("replaced by one without value and end", third)
	must(t, s, store.Commit{Marks: []store.Mark{{Name: "popup", Version: 4, Gone: true, Value: []byte("of no use")}}})
	absent("gone", "popup")
	refused("replaced when gone", store.Mark{Name: "popup", Version: 4}, store.ErrConflict)
	must(t, s, store.Commit{Marks: []store.Mark{first}})
	expect("inserted after it was gone", first)

	short := store.Mark{Name: "short", Version: 1, Value: []byte("v"), Expires: at.Add(shortHold)}
	must(t, s, store.Commit{Marks: []store.Mark{short}})
	h.pass(t, 2*shortHold)
	absent("over", "short")
	refused("replaced when over", store.Mark{Name: "short", Version: 2}, store.ErrConflict)
	refused("removed when over", store.Mark{Name: "short", Version: 2, Gone: true}, store.ErrConflict)
	short.Expires, short.Value = at.Add(longHold), []byte("w")
	must(t, s, store.Commit{Marks: []store.Mark{short}})
	expect("inserted when over", short)
	// A replacement moves the expiry, and the old expiry has no effect.
	short.Version, short.Expires = 2, at.Add(3*longHold)
	must(t, s, store.Commit{Marks: []store.Mark{short}})
	if h.Advance != nil { // waiting would take hours
		h.Advance(2 * longHold)
		if _, err := s.Purge(t.Context(), at.Add(-longHold), 0, false); err != nil {
			t.Errorf("Purge: %v", err)
		}
		expect("beyond the end that it had", short)
		absent("purged at its end", "popup")
	}

	// The retention counts from the first version: a replacement does not extend it.
	must(t, s, store.Commit{Marks: []store.Mark{{Name: "old", Version: 1}}})
	h.pass(t, shortHold)
	between := now(t, s)
	must(t, s, store.Commit{Marks: []store.Mark{{Name: "old", Version: 2}, {Name: "young", Version: 1}}})
	if _, err := s.Purge(t.Context(), between, 0, false); err != nil {
		t.Errorf("Purge: %v", err)
	}
	absent("older than the retention", "old")
	expect("younger than the retention", store.Mark{Name: "young", Version: 1})

	large := store.Mark{Name: "large", Version: 1, Value: bytes.Repeat([]byte{0xa5}, store.MaxMark)}
	must(t, s, store.Commit{Marks: []store.Mark{large}})
	expect("as large as can be", large)
	for what, m := range map[string]store.Mark{
		"too large":          {Name: "larger", Version: 1, Value: make([]byte, store.MaxMark+1)},
		"no version":         {Name: "m"},
		"a negative version": {Name: "m", Version: -1},
		"gone at birth":      {Name: "m", Version: 1, Gone: true},
		"no name":            {Version: 1},
	} {
		refused(what, m, store.ErrInvalid)
	}
	// A name may be any text, and these are all different names.
	for i, name := range []string{"a", "A", "a\x1fb", "a/b", "ü", string(bytes.Repeat([]byte("n"), 1000))} {
		m := store.Mark{Name: name, Version: 1, Value: []byte{byte(i)}}
		must(t, s, store.Commit{Marks: []store.Mark{m}})
		defer expect("among other names", m)
	}
	if h.Reopen != nil {
		s = h.Reopen(t)
		expect("after a reopening", large)
	}
}

func markRace(t *testing.T, h Harness) {
	t.Helper()
	var won, replaced, removed atomic.Int32
	count := func(n *atomic.Int32, s store.Store, m store.Mark, want error) {
		switch err := s.Apply(t.Context(), []store.Commit{{Marks: []store.Mark{m}}})[0]; {
		case err == nil:
			n.Add(1)
		case !errors.Is(err, want):
			t.Errorf("Apply: %v, want %v", err, want)
		}
	}
	race(t, h, func(s store.Store, _ int) { count(&won, s, store.Mark{Name: "race", Version: 1}, store.ErrDuplicate) })
	race(t, h, func(s store.Store, n int) {
		count(&replaced, s, store.Mark{Name: "race", Version: 2, Value: []byte{byte(n)}}, store.ErrConflict)
	})
	race(t, h, func(s store.Store, _ int) {
		count(&removed, s, store.Mark{Name: "race", Version: 3, Gone: true}, store.ErrConflict)
	})
	if won.Load() != 1 || replaced.Load() != 1 || removed.Load() != 1 {
		t.Errorf("%d took one mark, %d replaced it, %d removed it", won.Load(), replaced.Load(), removed.Load())
	}
}
