package machine

import (
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/signin-engine/signin-engine/store"
)

const (
	// quietFor is how long the result of a look at the store is used. If another
	// process opens an attempt meanwhile, and the token comes another way, the attempt
	// is settled later by up to this much (A2).
	quietFor = time.Minute
	// quietKeys bounds the keys remembered; beyond it the least recently used one is
	// evicted.
	quietKeys = 10_000
)

// quiet remembers the users and connections that have no open attempt: a sign-in has
// looked, and this process has opened none since. A signed-in user who writes again
// within the minute then costs no read of the store.
type quiet struct {
	clock func() time.Time

	mu    sync.Mutex
	keys  *simplelru.LRU[store.Key, look]
	looks int
}

// look is what is remembered of a key.
type look struct {
	number int       // of the looks begun since an attempt was last opened
	until  time.Time // when the result expires; zero if no look has ended
}

func newQuiet(clock func() time.Time) *quiet {
	keys, _ := simplelru.NewLRU[store.Key, look](quietKeys, nil) // the size is positive
	return &quiet{clock: clock, keys: keys}
}

// knows reports whether the key is known to have no open attempt. If not, the caller
// looks, and passes the number to [quiet.found].
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

// found notes that a look at the store found no open attempt of the key. The look is
// ignored if an attempt was opened since it began.
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
