package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Notifier wakes the callers in this process that wait for a change of an attempt. It
// is a part of a backend's [Store.Changed]. The zero value is ready.
type Notifier struct {
	mu      sync.Mutex
	waiters map[string][]chan struct{}
	closed  bool
}

// Wait registers for changes of id, then calls stale. It returns if stale is true, when
// the id is woken, when the notifier is closed, or when ctx is done (then with ctx's
// error). It registers first, so no change between the two is lost.
func (n *Notifier) Wait(ctx context.Context, id string, stale func() (bool, error)) error {
	ch := make(chan struct{})
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	if n.waiters == nil {
		n.waiters = make(map[string][]chan struct{})
	}
	n.waiters[id] = append(n.waiters[id], ch)
	n.mu.Unlock()
	defer n.leave(id, ch)

	if now, err := stale(); now || err != nil {
		return err
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", ctx.Err())
	}
}

func (n *Notifier) leave(id string, ch chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	rest := slices.DeleteFunc(n.waiters[id], func(c chan struct{}) bool { return c == ch })
	if len(rest) == 0 {
		delete(n.waiters, id)
		return
	}
	n.waiters[id] = rest
}

// Wake wakes all callers that wait for one of the ids.
func (n *Notifier) Wake(ids ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiters) == 0 {
		return
	}
	for _, id := range ids {
		n.wake(id)
	}
}

// Close wakes all callers. Later calls do not wait.
func (n *Notifier) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for id := range n.waiters {
		n.wake(id)
	}
}

func (n *Notifier) wake(id string) {
	for _, ch := range n.waiters[id] {
		close(ch)
	}
	delete(n.waiters, id)
}
