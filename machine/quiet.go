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

	mu    sync.Mutex
	keys  *simplelru.LRU[store.Key, look]
	looks int
}

// look is what is remembered of a key.
type look struct {
	number int       // of those who have begun to look since an attempt was opened
	until  time.Time // when it ceases to count; zero: nobody has ended
}

func newQuiet(clock func() time.Time) *quiet {
	keys, _ := simplelru.NewLRU[store.Key, look](quietKeys, nil) // the size is positive
	return &quiet{clock: clock, keys: keys}
}

// knows reports whether the key has no open attempt. If it does not know, the caller
// looks, and tells [quiet.found] with the number of the look.
func (q *quiet) knows(k store.Key) (known bool, number int) {
	k.Connection = strings.ToLower(k.Connection)
	now := q.clock()
	q.mu.Lock()
	defer q.mu.Unlock()
	l, ok := q.keys.Get(k)
	if !ok {
		q.looks++
		l.number = q.looks
		q.keys.Add(k, l)
	}
	return now.Before(l.until), l.number
}

// found notes that a look at the store saw no open attempt of the key. It does not
// count when one was opened since it began.
func (q *quiet) found(k store.Key, number int) {
	k.Connection = strings.ToLower(k.Connection)
	until := q.clock().Add(quietFor)
	q.mu.Lock()
	defer q.mu.Unlock()
	if l, _ := q.keys.Peek(k); l.number == number {
		q.keys.Add(k, look{number, until})
	}
}

// opens notes that this process has written an open attempt, or may have.
func (q *quiet) opens(k store.Key) {
	k.Connection = strings.ToLower(k.Connection)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keys.Remove(k)
}
