package metrics

import (
	"context"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Store returns st with the groups of commits measured that are written to it. It
// is meant for machine.Config.Store. It is exclusive or concurrent, and hands out
// transactions, exactly if st does.
func (m *Metrics) Store(st store.Store) store.Store {
	s := measured{Store: st, m: m}
	if tx, ok := st.(machine.Transactor); ok {
		return transacting{measured: s, Transactor: tx}
	}
	return s
}

type measured struct {
	store.Store
	m *Metrics
}

// Apply implements store.Store.
func (s measured) Apply(ctx context.Context, commits []store.Commit) []error {
	began := time.Now()
	errs := s.Store.Apply(ctx, commits)
	s.m.commitTime.Observe(time.Since(began).Seconds())
	s.m.groupSize.Observe(float64(len(commits)))
	return errs
}

// Exclusive implements store.Exclusive.
func (s measured) Exclusive() bool { return store.IsExclusive(s.Store) }

// Concurrent implements store.Concurrent.
func (s measured) Concurrent() bool { return store.IsConcurrent(s.Store) }

type transacting struct {
	measured
	machine.Transactor
}
