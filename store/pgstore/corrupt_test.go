package pgstore_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// notDecodable is JSON of another shape.
const notDecodable = `'"damaged"'`

// fill stores so many attempts of one user that ended at a time, oldest first.
func fill(t *testing.T, s *pgstore.Store, at time.Time, n int) []store.Attempt {
	t.Helper()
	var commits []store.Commit
	var out []store.Attempt
	for i := range n {
		a := storetest.NewAttempt(at.Add(time.Duration(i)*time.Millisecond), "29:x", fmt.Sprint("conn-", i))
		commits = append(commits, store.Commit{Put: []store.Attempt{a, storetest.Next(a, store.Failed, a.Created)}})
		out = append(out, a)
	}
	for i, err := range s.Apply(t.Context(), commits) {
		if err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
	return out
}

// TestManyDamaged: more records than fit a batch or a page cannot be decoded,
// and those behind them are found all the same.
func TestManyDamaged(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const damaged = 1200
	long := info.Now.Add(-48 * time.Hour)
	sound := fill(t, s, long, 2)
	fill(t, s, long.Add(time.Second), damaged)
	mustExec(t, dsn, `update SCHEMA.attempts set detail = `+notDecodable+` where id > '`+sound[1].ID+`'`)
	behind := fill(t, s, long.Add(time.Minute), 1)

	t.Run("Find", func(t *testing.T) {
		snap, err := s.Find(t.Context(), store.Query{User: behind[0].Key.UserKey(), Limit: 3})
		if err != nil || len(snap.Attempts) != 3 || snap.Attempts[0].ID != behind[0].ID || snap.Attempts[2].ID != sound[0].ID || len(snap.Corrupt) != damaged {
			t.Errorf("Find: %d attempts, %d passed over, %v", len(snap.Attempts), len(snap.Corrupt), err)
		}
	})
	t.Run("List", func(t *testing.T) {
		var good, bad []string
		for f := (store.Filter{Limit: 10}); ; {
			page, err := s.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for i := range page.Attempts {
				good = append(good, page.Attempts[i].ID)
			}
			for _, c := range page.Corrupt {
				if bad = append(bad, c.ID); !errors.Is(c.Err, store.ErrCorrupt) {
					t.Errorf("passed over for %v", c.Err)
				}
			}
			if f.Cursor = page.Next; f.Cursor == "" {
				break
			}
		}
		if want := []string{behind[0].ID, sound[1].ID, sound[0].ID}; !slices.Equal(good, want) {
			t.Errorf("listed %v, want %v", good, want)
		}
		if n := len(slices.Compact(bad)); n != damaged || len(bad) != damaged {
			t.Errorf("%d passed over, %d different, want %d", len(bad), n, damaged)
		}
	})
	t.Run("Purge", func(t *testing.T) {
		before := info.Now.Add(-time.Hour)
		for _, tc := range []struct {
			limit int
			dry   bool
			want  int
		}{{0, true, 3}, {2, true, 2}, {2, false, 2}, {0, false, 1}, {0, true, 0}, {0, false, 0}} {
			if n, err := s.Purge(t.Context(), before, tc.limit, tc.dry); err != nil || n != tc.want {
				t.Errorf("Purge(limit %d, dry %v) = %d, %v; want %d", tc.limit, tc.dry, n, err, tc.want)
			}
		}
		if n := query[int](t, dsn, `select count(*) from `+schemaOf(dsn)+`.attempts`)[0]; n != damaged {
			t.Errorf("%d records are left, want %d", n, damaged)
		}
	})
}

// TestDamagedDelivery: a row of the outbox that cannot be decoded keeps nobody
// from claiming the others.
func TestDamagedDelivery(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for n := range 3 {
		a := storetest.NewAttempt(info.Now, fmt.Sprint("29:", n), "graph")
		d := storetest.Owed(&a, 1, info.Now.Add(time.Duration(n-10)*time.Second))
		if err := s.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Deliveries: []store.Delivery{d}}})[0]; err != nil {
			t.Fatal(err)
		}
		ids = append(ids, a.ID)
	}
	mustExec(t, dsn, `update SCHEMA.deliveries set failure = `+notDecodable+` where attempt in ('`+ids[0]+`', '`+ids[1]+`')`)
	rows, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "bot-a", Limit: 1, Hold: time.Hour})
	if err != nil || len(rows) != 1 || rows[0].Attempt != ids[2] {
		t.Errorf("Claim = %+v, %v; want the third", rows, err)
	}
	if rows, err := s.Claim(t.Context(), store.ClaimQuery{Owner: "bot-a", Limit: 10, Hold: 0}); err != nil || len(rows) != 0 {
		t.Errorf("Claim = %+v, %v; want nothing", rows, err)
	}
	// Nobody has tried them.
	if n := query[int](t, dsn, `select count(*) from `+schemaOf(dsn)+`.deliveries where tries = 0 and owner = '' and next_at > now()`)[0]; n != 2 {
		t.Errorf("%d rows are held and without a try, want 2", n)
	}
	page, err := s.List(t.Context(), store.Filter{})
	named := func(id string) bool {
		return slices.ContainsFunc(page.Corrupt, func(c store.Corrupt) bool { return c.ID == id && errors.Is(c.Err, store.ErrCorrupt) })
	}
	if err != nil || len(page.Attempts) != 3 || len(page.Deliveries) != 1 || len(page.Corrupt) != 2 || !named(ids[0]) || !named(ids[1]) {
		t.Errorf("List: %d attempts, %d deliveries, passed over %+v, %v", len(page.Attempts), len(page.Deliveries), page.Corrupt, err)
	}
	if c, err := s.Counts(t.Context(), info.Now); err != nil || c.Owed != 3 {
		t.Errorf("Counts = %+v, %v", c, err)
	}
	// What the columns say is enough to get rid of one.
	if err := s.Apply(t.Context(), []store.Commit{{Drop: ids[:1]}})[0]; err != nil {
		t.Errorf("Drop: %v", err)
	}
	if c, err := s.Counts(t.Context(), info.Now); err != nil || c.Owed != 2 {
		t.Errorf("Counts = %+v, %v", c, err)
	}
}
