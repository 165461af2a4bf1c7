package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
)

// TestFailover lets 150 people sign in while the primary dies and its standby is
// promoted. The bot then reaches the new primary, either through a PgBouncer in
// transaction mode that is pointed to it, or by an address that names both
// servers. Every sign-in is exchanged once and completed once, and the bot is
// ready again soon after the promotion.
func TestFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("two servers, a pooler and 150 sign-ins")
	}
	for _, way := range []string{"pooler", "hosts"} {
		t.Run(way, func(t *testing.T) {
			primary := pgtest.NewCluster(t)
			standby := primary.NewReplica(t)
			// A commit that was acknowledged is on the standby, too.
			if err := primary.Configure(t.Context(), "synchronous_standby_names", "*"); err != nil {
				t.Fatal(err)
			}
			repoint := func(context.Context) error { return nil }
			address := pgtest.Either(primary, standby)
			if way == "pooler" {
				bouncer := pgtest.NewBouncer(t, primary, pgtest.ByTransaction)
				address = bouncer.DSN()
				repoint = func(ctx context.Context) error { return bouncer.Point(ctx, standby) }
			}
			// Each request is repeated many times a second while the store is down. Those
			// repeats must not use up what a user may send in a minute.
			extra := "limits: {sign_ins_per_minute: 0}\n"
			failover(t, newFleetAt(t, newWorld(t, true), released, primary, address, 2, extra, true), standby, repoint)
		})
	}
}

func failover(t *testing.T, f *fleet, standby *pgtest.Cluster, repoint func(context.Context) error) {
	t.Helper()
	const n = 150
	ctx, cancel := within(t, n)
	defer cancel()
	died := make(chan struct{})
	var mishap sync.WaitGroup
	mishap.Go(func() {
		if !happens(ctx, died) {
			return
		}
		if err := f.cluster.Stop(pgtest.Immediate); err != nil {
			t.Error(err)
		}
		if f.ready(ctx) == nil {
			t.Error("a bot is ready whose database is gone")
		}
		if err := errors.Join(standby.Promote(ctx), repoint(ctx)); err != nil {
			t.Error(err)
		}
		promoted := time.Now()
		for f.ready(ctx) != nil && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("ready again %s after the promotion", time.Since(promoted).Round(10*time.Millisecond))
		if took := time.Since(promoted); took > 10*time.Second {
			t.Errorf("the bot was not ready for %s after the promotion", took)
		}
	})
	err := f.each(ctx, n, map[int]func(){n / 3: func() { close(died) }}, func(ctx context.Context, i int) error {
		return (&person{w: f.w, teams: f.user(i)}).insist(ctx)
	})
	if err != nil {
		cancel()
	}
	mishap.Wait()
	if err != nil {
		t.Fatal(err)
	}
	s := f.settled(t)
	f.stop(t)
	sound(t, s)
	f.oneEach(t, n)
	rows := f.rows(t, s)
	if len(rows) != n {
		t.Errorf("%d users are complete, want %d", len(rows), n)
	}
	for user, r := range rows {
		if len(r) != 1 || r[0].Status != store.DeliveryDone {
			t.Errorf("the outbox holds %+v for %s, want one row that is delivered", r, user)
		}
	}
}

// ready returns an error unless every process is ready.
func (f *fleet) ready(ctx context.Context) error {
	for i, client := range f.clients {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bot/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.RoundTrip(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("process %d: %d %s", i, resp.StatusCode, strings.TrimSpace(string(body)))
		}
	}
	return nil
}
