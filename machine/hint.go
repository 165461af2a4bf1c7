package machine

import (
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// hints are the attempts that this engine wrote last and whose cards wait for
// an exchange. Who acts on one need not read it first: the commit's
// compare-and-set says whether the store still has it so. If it has not, or if
// there is nothing to be written, the store is asked after all; so a hint is
// never the reason of an answer.
type hints struct {
	mu   sync.Mutex
	of   map[string]hint // by exchange id
	last [maxHints]string
	next int // place of the oldest in last
}

// hint is an attempt as it was written, with the store's clock then.
type hint struct {
	attempt      *store.Attempt // never changed
	seen, seenAt time.Time
}

const (
	// maxHints bounds them; the oldest goes.
	maxHints = 1024
	// maxHintAge bounds how far the store's clock is carried on by ours. Clients
	// exchange within seconds.
	maxHintAge = time.Minute
)

// keep notes what a commit has written.
func (h *hints) keep(c *call, puts []store.Attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range puts {
		a := &puts[i]
		switch {
		case a.ExchangeID == "":
		case a.State == store.Idle, a.State == store.CardSent:
			if _, known := h.of[a.ExchangeID]; !known {
				delete(h.of, h.last[h.next])
				h.last[h.next] = a.ExchangeID
				h.next = (h.next + 1) % maxHints
			}
			h.of[a.ExchangeID] = hint{attempt: a, seen: c.seen, seenAt: c.seenAt}
		default:
			delete(h.of, a.ExchangeID)
		}
	}
}

// take returns the attempt of an exchange id, if it is the key's own. The next
// one who asks gets none.
func (h *hints) take(exchangeID string, key store.Key, now time.Time) (hint, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found, ok := h.of[exchangeID]
	if !ok || !found.attempt.Key.Same(key) {
		return hint{}, false
	}
	delete(h.of, exchangeID)
	// By the wall clock: the other one stands still while the machine sleeps.
	age := now.Round(0).Sub(found.seenAt.Round(0))
	return found, age >= 0 && age <= maxHintAge
}
