package memstore_test

import (
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Harness {
		var offset atomic.Int64
		start := time.Now()
		s := memstore.New(func() time.Time { return start.Add(time.Duration(offset.Load())) })
		return storetest.Harness{
			Store:   s,
			Advance: func(d time.Duration) { offset.Add(int64(d)) },
			Damage:  func(_ *testing.T, id string) { s.Damage(id) },
		}
	})
}

// TestConformanceRealClock runs the suites as a backend with a clock of its own
// would.
func TestConformanceRealClock(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Harness {
		return storetest.Harness{Store: memstore.New(nil)}
	})
}

func TestConformanceGrouped(t *testing.T) {
	grouped := func(*testing.T) storetest.Harness {
		return storetest.Harness{Store: store.NewGroup(memstore.New(nil))}
	}
	for _, suite := range []func(*testing.T, storetest.New){
		storetest.Semantics, storetest.Uniqueness, storetest.Groups, storetest.Concurrency, storetest.Outbox, storetest.Marks, storetest.Changed,
	} {
		suite(t, grouped)
	}
}

func TestChangedParks(t *testing.T) {
	storetest.ChangedParks(t, func() store.Store { return memstore.New(nil) })
}
