package machine

import (
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/signin-engine/signin-engine/store"
)

const (
	// quietFor is how long a look at the store counts. Another process may open an
	// attempt meanwhile: a token that comes another way settles it so much later (A2).
	quietFor = time.Minute
	// quietKeys bounds what is remembered; beyond it the key that was asked for
	// longest ago is forgotten.
	quietKeys = 10_000
)

// quiet remembers for which users and connections the store has no open attempt: a
// sign-in has looked, and this process has opened none since. A user who writes again
// within the minute costs no read of the store then, as long as there is a token.
type quiet struct {
	clock func() time.Time

	mu   sync.Mutex
	keys *simplelru.LRU[store.Key, time.Time] // until when; zero: somebody is looking
}

func newQuiet(clock func() time.Time) *quiet {
	keys, _ := simplelru.NewLRU[store.Key, time.Time](quietKeys, nil) // the size is positive
	return &quiet{clock: clock, keys: keys}
}

// knows reports whether the key has no open attempt. If it does not know, the caller
// looks, and tells [quiet.found].
func (q *quiet) knows(k store.Key) bool {
	k.Connection = strings.ToLower(k.Connection)
	now := q.clock()
	q.mu.Lock()
	defer q.mu.Unlock()
	until, ok := q.keys.Get(k)
	if !ok {
		q.keys.Add(k, time.Time{})
	}
	return now.Before(until)
}

// found notes that the store had no open attempt of the key, unless one was opened
// since the caller began to look.
func (q *quiet) found(k store.Key) {
	k.Connection = strings.ToLower(k.Connection)
	until := q.clock().Add(quietFor)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.keys.Contains(k) {
		q.keys.Add(k, until)
	}
}

// opens notes that this process has written an open attempt.
func (q *quiet) opens(k store.Key) {
	k.Connection = strings.ToLower(k.Connection)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keys.Remove(k)
}
