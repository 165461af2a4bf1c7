package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// fleet is one bot that runs as several processes on one database. Each request
// goes to the next process, as behind a load balancer.
type fleet struct {
	w       *world
	cluster *pgtest.Cluster
	address string // of the store
	bots    []*bot
	clients []*http.Transport
	turn    atomic.Uint64
	// again: a request whose connection broke, or which was answered 5xx, is sent
	// again to the next process, as Teams does.
	again bool
}

func newFleet(t *testing.T, size int, extra string, again bool) *fleet {
	t.Helper()
	return newFleetOf(t, released, size, extra, again)
}

// newFleetOf is newFleet with another build of the program.
func newFleetOf(t *testing.T, built func() (string, error), size int, extra string, again bool) *fleet {
	t.Helper()
	return newFleetIn(t, newWorld(t, true), built, size, extra, again)
}

// newFleetIn is newFleetOf in a given world.
func newFleetIn(t *testing.T, w *world, built func() (string, error), size int, extra string, again bool) *fleet {
	t.Helper()
	c := pgtest.NewCluster(t)
	return newFleetAt(t, w, built, c, c.DSN(), size, extra, again)
}

// newFleetAt is newFleetIn on a given cluster, which the bots reach by an
// address.
func newFleetAt(t *testing.T, w *world, built func() (string, error), c *pgtest.Cluster, address string, size int, extra string, again bool) *fleet {
	t.Helper()
	f := &fleet{w: w, cluster: c, address: pgtest.WithParam(address, "schema", "bot"), again: again}
	if !again { // without redelivery, a disk that stalls for some seconds must fail no request
		extra += "postgres: {statement_timeout: 30s}\n"
	}
	for range size {
		b := newBot(t, f.w, program(t, built), extra)
		transport := &http.Transport{DialContext: b.dial, MaxIdleConnsPerHost: 64}
		t.Cleanup(transport.CloseIdleConnections)
		f.bots, f.clients = append(f.bots, b), append(f.clients, transport)
	}
	var group errgroup.Group
	for i := range f.bots { // all at once; one of them creates the schema
		group.Go(func() error { return f.start(i) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return f
}

// start starts a process.
func (f *fleet) start(i int) error {
	_, err := f.bots[i].tryStart("SIGNIN_ENGINE_STORE="+f.address, "SIGNIN_ENGINE_LOG_LEVEL=info")
	return err
}

// kill sends SIGKILL to a process.
func (f *fleet) kill(i int) { f.bots[i].serving().kill() }

// stop stops every process and fails the test unless each exits without an error.
func (f *fleet) stop(t *testing.T) {
	t.Helper()
	for _, b := range f.bots {
		b.serving().stopped(t)
	}
}

// RoundTrip implements [http.RoundTripper].
func (f *fleet) RoundTrip(req *http.Request) (*http.Response, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for first := true; ; first = false {
		i := int(f.turn.Add(1) % uint64(len(f.bots)))
		if f.again && f.bots[i].serving() == nil {
			i = (i + 1) % len(f.bots)
		}
		once := req.Clone(req.Context())
		var err error
		if !first {
			if once.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
		resp, err := whole(f.clients[i].RoundTrip(once))
		if err == nil && resp.StatusCode < http.StatusInternalServerError || !f.again || req.Context().Err() != nil {
			return resp, err
		}
		select {
		case <-tick.C:
		case <-req.Context().Done():
		}
	}
}

// whole reads the body. If the body breaks off, whole returns an error, as for a
// broken connection.
func whole(resp *http.Response, err error) (*http.Response, error) {
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// user makes a user whose activities go to all processes in turn.
func (f *fleet) user(n int) *emulator.Teams {
	return f.w.user(&http.Client{Transport: f}, fmt.Sprintf("user-%d", n))
}

// each calls do for n users, at most atOnce at a time, until one returns an
// error. When as many users are done as a key of at says, it calls that function.
func (f *fleet) each(ctx context.Context, n int, at map[int]func(), do func(ctx context.Context, n int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n) && ctx.Err() == nil; i = next.Add(1) {
				if err := do(ctx, int(i)); err != nil {
					cancel(fmt.Errorf("user %d: %w", i, err))
					return
				}
				if reached := at[int(done.Add(1))]; reached != nil {
					reached()
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// settled waits until no upstream call is in flight and no callback is owed. It
// returns the store.
func (f *fleet) settled(t *testing.T) store.Store {
	t.Helper()
	s, err := pgstore.Open(t.Context(), f.address, pgstore.WithReadOnly())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var c store.Counts
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the store counts %+v (%v)", c, err)
		}
	})
	eventuallyWithin(t, longestLease, "nothing is under way", func() bool {
		c, err = s.Counts(t.Context(), time.Now())
		return err == nil && c.Owed == 0 && c.Open[store.Idle]+c.Open[store.Exchanging]+c.Open[store.Verifying] == 0
	})
	return s
}
