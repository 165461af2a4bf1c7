package pgstore

import (
	"slices"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestTrailSeesWhatCommitsLate: a transaction that has begun before others commits
// after them. Whoever has read theirs sees its lines all the same, and each once,
// wherever he is: at the beginning, between two pages or at the end.
func TestTrailSeesWhatCommitsLate(t *testing.T) {
	s, err := Open(t.Context(), pgtest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line := func(user, detail string) store.Commit {
		a := storetest.NewAttempt(info.Now, user, "graph")
		return store.Commit{Put: []store.Attempt{a}, Events: []store.Event{{Attempt: a.ID, Kind: store.EventNote, Time: info.Now, Detail: detail}}}
	}
	apply := func(user, detail string) {
		t.Helper()
		if err := s.Apply(t.Context(), []store.Commit{line(user, detail)})[0]; err != nil {
			t.Fatal(err)
		}
	}
	// follow reads on from a cursor, a page or all that there is.
	follow := func(cursor string, whole bool) (details []string, next string) {
		t.Helper()
		for more := true; more; {
			page, err := s.Trail(t.Context(), store.TrailQuery{Cursor: cursor, Since: info.Now.Add(-time.Minute), Limit: 2})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Events {
				details = append(details, e.Detail)
			}
			cursor, more = page.Next, page.More && whole
		}
		return details, cursor
	}
	apply("29:1", "before 1")
	apply("29:2", "before 2")
	_, begun := follow("", true)

	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer undo(t.Context(), tx)
	w := &writer{commits: []store.Commit{line("29:late", "late")}, errs: make([]error, 1)}
	w.plan()
	if err := w.together(t.Context(), tx, w.steps[0].levels); err != nil || w.errs[0] != nil {
		t.Fatal(err, w.errs[0])
	}
	for _, name := range []string{"after 1", "after 2", "after 3"} {
		apply("29:"+name, name)
	}
	fresh, first := follow("", false)
	seen, end := follow(begun, true)
	if want := []string{"after 1", "after 2", "after 3"}; !slices.Equal(seen, want) || len(fresh) != 2 {
		t.Fatalf("before the commit: %q and %q, want %q", seen, fresh, want)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply("29:last", "last")
	for what, tc := range map[string]struct {
		cursor string
		had    []string
	}{
		"from the beginning": {"", nil},
		"between two pages":  {first, fresh},
		"from a cursor":      {begun, []string{"before 1", "before 2"}},
		"from the end":       {end, append([]string{"before 1", "before 2"}, seen...)},
	} {
		got, next := follow(tc.cursor, true)
		more, _ := follow(next, true) // of a reader in the midst of a snapshot
		got = slices.Sorted(slices.Values(slices.Concat(tc.had, got, more)))
		if want := []string{"after 1", "after 2", "after 3", "before 1", "before 2", "last", "late"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

// TestTrailAfterRestore: lines that came with the dump of a server which had made more
// transactions hide none that are written here.
func TestTrailAfterRestore(t *testing.T) {
	s, err := Open(t.Context(), pgtest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write := func(user string, at time.Time) {
		t.Helper()
		a := storetest.NewAttempt(at, user, "graph")
		c := store.Commit{Put: []store.Attempt{a}, Events: []store.Event{{Attempt: a.ID, Kind: store.EventNote, Time: at, Detail: user}}}
		if err := s.Apply(t.Context(), []store.Commit{c})[0]; err != nil {
			t.Fatal(err)
		}
	}
	write("29:old", info.Now.Add(-3*time.Hour))
	if _, err := s.pool.Exec(t.Context(), `update events set pos = pos + (1::bigint << 48)`); err != nil {
		t.Fatal(err)
	}
	write("29:new", info.Now)
	page, err := s.Trail(t.Context(), store.TrailQuery{Since: info.Now.Add(-time.Minute)})
	if err != nil || len(page.Events) != 1 || page.Events[0].Detail != "29:new" {
		t.Errorf("%+v, %v; want the line that was written here", page.Events, err)
	}
}
