package machinetest

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// faultStore is a store that fails on demand.
type faultStore struct {
	store.Store

	mu    sync.Mutex
	how   string // up, down (every call fails), readonly (writes fail), lost (a write is done, its answer is lost)
	after int    // that many writes still succeed

	exclusive bool // one process at a time owns it
}

// disturb sets how the store behaves from now on:
//
//	store down            every call fails
//	store readonly        writes fail
//	store lost            writes are done, but their answer does not arrive
//	store down after=2    … once two more writes went well
//	store up              all is well again
func (w *world) disturb(_ context.Context, c command) string {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.how = c.word(0)
	w.store.after, _ = strconv.Atoi(c.opt("after", "0"))
	return ""
}

func outOfOrder() error { return fmt.Errorf("fault: %w", store.ErrUnavailable) }

// write reports whether a write is applied, and whether its answer arrives.
func (s *faultStore) write() (does, answers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.after > 0 {
		s.after--
		return true, true
	}
	switch s.how {
	case "down", "readonly":
		return false, false
	case "lost":
		return true, false
	default:
		return true, true
	}
}

func (s *faultStore) read() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.how == "down" && s.after == 0 {
		return outOfOrder()
	}
	return nil
}

func (s *faultStore) Apply(ctx context.Context, commits []store.Commit) []error {
	does, answers := s.write()
	errs := make([]error, len(commits))
	if does {
		errs = s.Store.Apply(ctx, commits)
	}
	if !answers {
		for i := range errs {
			errs[i] = outOfOrder()
		}
	}
	return errs
}

func (s *faultStore) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	if err := s.read(); err != nil {
		return store.Snapshot{}, err
	}
	return s.Store.Find(ctx, q)
}

func (s *faultStore) Get(ctx context.Context, id string) (store.Snapshot, error) {
	if err := s.read(); err != nil {
		return store.Snapshot{}, err
	}
	return s.Store.Get(ctx, id)
}

func (s *faultStore) Due(ctx context.Context, limit int, hold time.Duration) (store.Snapshot, error) {
	if err := s.read(); err != nil {
		return store.Snapshot{}, err
	}
	return s.Store.Due(ctx, limit, hold)
}

func (s *faultStore) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	if does, _ := s.write(); !does {
		return nil, outOfOrder()
	}
	return s.Store.Claim(ctx, q)
}

func (s *faultStore) Probe(ctx context.Context) error {
	if does, _ := s.write(); !does {
		return outOfOrder()
	}
	return s.Store.Probe(ctx)
}

// Exclusive reports whether the scenario's store belongs to one process.
func (s *faultStore) Exclusive() bool { return s.exclusive }

func (s *faultStore) List(ctx context.Context, f store.Filter) (store.Page, error) {
	if err := s.read(); err != nil {
		return store.Page{}, err
	}
	return s.Store.List(ctx, f)
}

// moment delays what other processes hear of a change. A process's own actions then
// come first, so scenarios have a stable order.
const moment = time.Microsecond

// settle returns when every goroutine is blocked.
func settle() {
	time.Sleep(100 * moment)
	synctest.Wait()
}

func (s *faultStore) Changed(ctx context.Context, id string, version int64) error {
	err := s.Store.Changed(ctx, id, version)
	time.Sleep(moment)
	return err
}

func (s *faultStore) Info(ctx context.Context) (store.Info, error) {
	if err := s.read(); err != nil {
		return store.Info{}, err
	}
	return s.Store.Info(ctx)
}
