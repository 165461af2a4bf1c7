package pgstore_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
)

// purgeAll deletes what ended before a time, so many in one call, as the engine and
// the command do.
func purgeAll(tb testing.TB, s store.Store, before time.Time, step int) (total int) {
	tb.Helper()
	for {
		n, err := s.Purge(tb.Context(), before, step, false)
		if total += n; err != nil {
			tb.Errorf("Purge: %v", err)
			return total
		}
		if n < step || step == 0 {
			return total
		}
	}
}

// TestPurgesAtOnce: several purges share the work. Each attempt goes once, with all
// that is its own, none that is to stay goes, and sign-ins are served meanwhile.
func TestPurgesAtOnce(t *testing.T) {
	const rows = 12_000
	dsn := pgtest.Start(t)
	stores := []*pgstore.Store{mustOpen(t, dsn), mustOpen(t, dsn), mustOpen(t, dsn)}
	mustExec(t, dsn, strings.ReplaceAll(fillSQL, "ROWS", fmt.Sprint(rows)))
	info, err := stores[0].Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := info.Now.Add(-10 * 24 * time.Hour)
	_, schema := split(dsn)
	count := func(sql string) int {
		return query[int](t, dsn, strings.ReplaceAll(`select count(*)::int from SCHEMA.`+sql, "SCHEMA", schema))[0]
	}
	stay := fmt.Sprintf(`attempts where (ended is null or ended >= '%s')`, before.Format(time.RFC3339Nano))
	want := count(stay)

	var gone atomic.Int64
	var purges sync.WaitGroup
	for i, step := range []int{1000, 500, 0} {
		purges.Go(func() { gone.Add(int64(purgeAll(t, stores[i], before, step))) })
	}
	if failed, _ := signIns(t, stores[0], info.Now, "meanwhile", 32); failed > 0 {
		t.Errorf("%d sign-ins failed", failed)
	}
	purges.Wait()

	if got := int(gone.Load()); got != rows-want {
		t.Errorf("%d attempts are said to have gone, want %d", got, rows-want)
	}
	if got := count(stay + ` and user_id not like '29:meanwhile%'`); got != want {
		t.Errorf("%d attempts are there, want %d", got, want)
	}
	for sql, want := range map[string]int{
		`events e where attempt <> '' and not exists (select from SCHEMA.attempts a where a.id = e.attempt)`: 0,
		`deliveries d where not exists (select from SCHEMA.attempts a where a.id = d.attempt)`:               0,
		`exchange_ids x where not exists (select from SCHEMA.attempts a where a.id = x.attempt)`:             0,
		fmt.Sprintf(`events where attempt = '' and at < '%s'`, before.Format(time.RFC3339Nano)):              0,
		`events where attempt = ''`: 40, // of those that stay
	} {
		if got := count(sql); got != want {
			t.Errorf("%d rows, want %d: %s", got, want, sql)
		}
	}
}

// BenchmarkPurge deletes attempts, each with two lines, a callback and an exchange
// id, as the engine does (1000 a call), as the command does (500), and at one go.
func BenchmarkPurge(b *testing.B) {
	for _, step := range []int{1000, 500, 0} {
		b.Run(fmt.Sprintf("step=%d", step), func(b *testing.B) {
			dsn := pgtest.Start(b)
			s := mustOpen(b, dsn)
			mustExec(b, dsn, strings.ReplaceAll(fillSQL, "ROWS", fmt.Sprint(max(b.N, 2000))))
			info, err := s.Info(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			n := purgeAll(b, s, info.Now.Add(-24*time.Hour), step)
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "attempts/s")
		})
	}
}
