package teams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// Limits are for one request, for one user, and for all of them together. The zero
// value of a member means its default.
type Limits struct {
	// Body of an activity, in bytes; a longer one is answered 413. 0 = 1 MiB.
	Body int
	// Depth of its JSON; deeper JSON is answered 400. 0 = 64.
	Depth int
	// HeaderTimeout and BodyTimeout cut off slow senders. 0 = 10 s and 30 s.
	HeaderTimeout, BodyTimeout time.Duration
	// Concurrent activities are handled at a time. Further ones wait, at most Queue of
	// them, and at most QueueWait. The others are answered 503 with Retry-After:
	// nothing was done, and Teams sends the activity again. 0 = 512, 1024 and 2 s.
	Concurrent, Queue int
	QueueWait         time.Duration
	// SignInsPerMinute of one user: messages and signin/* invokes, each of which may
	// begin or continue a sign-in. Further ones are answered 429 with Retry-After, and
	// not 503, since Teams sends an activity again after 5xx. 0 = no limit.
	SignInsPerMinute int
	// Connections of a server at a time; further ones wait in the backlog. It takes
	// effect through [Limits.Listener]. 0 = 4096.
	Connections int
}

// The defaults of [Limits].
const (
	defaultDepth       = 64
	defaultConcurrent  = 512
	defaultQueue       = 1024
	defaultQueueWait   = 2 * time.Second
	defaultConnections = 4096
)

const (
	// Activities of Teams are far smaller than smallBody. All bodies above it
	// share largeBodies of memory, so that many senders of large bodies cannot
	// exhaust it.
	smallBody   = 64 << 10
	largeBodies = 32 << 20
	// trustedLength is the largest Content-Length for which memory is allocated
	// at once. For a larger one, memory is allocated as the bytes arrive.
	trustedLength = 16 << 10
	// rememberedUsers is the number of users with a count of their own. A new
	// user replaces the one that was inactive for the longest time.
	rememberedUsers = 1 << 14
	// busyRetryAfter is the Retry-After of a request that is refused because the
	// bot is busy.
	busyRetryAfter = time.Second
)

// withDefaults returns l with every member set.
func (l Limits) withDefaults() (Limits, error) {
	if err := l.Validate(); err != nil {
		return Limits{}, fmt.Errorf("teams: limits: %w", err)
	}
	d := DefaultLimits()
	fill(&l.Body, d.Body)
	fill(&l.Depth, d.Depth)
	fill(&l.HeaderTimeout, d.HeaderTimeout)
	fill(&l.BodyTimeout, d.BodyTimeout)
	fill(&l.Concurrent, d.Concurrent)
	fill(&l.Queue, d.Queue)
	fill(&l.QueueWait, d.QueueWait)
	fill(&l.Connections, d.Connections)
	return l, nil
}

func fill[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// DefaultLimits are the limits of a [Config] without any.
func DefaultLimits() Limits {
	return Limits{
		Body: MaxBody, Depth: defaultDepth, HeaderTimeout: headerTimeout, BodyTimeout: bodyTimeout,
		Concurrent: defaultConcurrent, Queue: defaultQueue, QueueWait: defaultQueueWait, Connections: defaultConnections,
	}
}

// Validate names each invalid member, as "body: …", one a line.
func (l Limits) Validate() error {
	var errs []error
	for _, m := range []struct {
		name     string
		negative bool
	}{
		{"body", l.Body < 0},
		{"depth", l.Depth < 0},
		{"header_timeout", l.HeaderTimeout < 0},
		{"body_timeout", l.BodyTimeout < 0},
		{"concurrent", l.Concurrent < 0},
		{"queue", l.Queue < 0},
		{"queue_wait", l.QueueWait < 0},
		{"sign_ins_per_minute", l.SignInsPerMinute < 0},
		{"connections", l.Connections < 0},
	} {
		if m.negative {
			errs = append(errs, fmt.Errorf("%s: must not be negative", m.name))
		}
	}
	return errors.Join(errs...)
}

// intake reads the bodies of requests to one endpoint.
type intake struct {
	limits Limits
	large  *semaphore.Weighted
}

func newIntake(limits Limits) *intake {
	return &intake{limits: limits, large: semaphore.NewWeighted(max(largeBodies, int64(limits.Body)))}
}

// read returns a body within the limits. The caller calls release when the body
// is not used any more.
func (in *intake) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), f *refusal) {
	in.setDeadline(w, r)
	var buf bytes.Buffer
	if r.ContentLength > 0 && r.ContentLength <= trustedLength {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	limit, release := int64(in.limits.Body), func() {}
	small := min(limit, smallBody)
	tooLong := r.ContentLength > limit
	var err error
	if !tooLong {
		_, err = buf.ReadFrom(io.LimitReader(r.Body, small+1))
	}
	if err == nil && int64(buf.Len()) > small && small < limit {
		if !in.large.TryAcquire(limit) {
			return nil, release, &refusal{why: WhyBusy, status: http.StatusServiceUnavailable, retryAfter: busyRetryAfter, unread: true}
		}
		release = sync.OnceFunc(func() { in.large.Release(limit) })
		_, err = buf.ReadFrom(io.LimitReader(r.Body, limit-int64(buf.Len())+1))
	}
	switch {
	case tooLong, int64(buf.Len()) > limit:
		f = &refusal{why: WhyBodyTooLong, status: http.StatusRequestEntityTooLarge, unread: true}
	case errors.Is(err, os.ErrDeadlineExceeded):
		f = &refusal{why: WhyBodyTooSlow, status: http.StatusRequestTimeout, unread: true}
	case err != nil:
		f = &refusal{why: WhyBodyMalformed, status: http.StatusBadRequest, err: err, unread: true}
	case tooDeep(buf.Bytes(), in.limits.Depth):
		f = &refusal{why: WhyBodyTooDeep, status: http.StatusBadRequest}
	default:
		return buf.Bytes(), release, nil
	}
	release()
	return nil, release, f
}

// setDeadline bounds the time of reading the body, unless the server does so
// itself.
func (in *intake) setDeadline(w http.ResponseWriter, r *http.Request) {
	if srv, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && srv.ReadTimeout > 0 {
		return
	}
	// A writer that supports no deadlines belongs to a test or to another
	// middleware.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(in.limits.BodyTimeout))
}

// tooDeep reports whether JSON is nested deeper than limit. It does not check
// whether body is JSON; the decoder does.
func tooDeep(body []byte, limit int) bool {
	if bytes.Count(body, []byte{'{'})+bytes.Count(body, []byte{'['}) <= limit {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// gate lets a fixed number of activities through at a time. A fixed number of
// others may wait.
type gate struct {
	places  chan struct{}
	waiting atomic.Int64
	queue   int64
	wait    time.Duration
}

func newGate(l Limits) *gate {
	return &gate{places: make(chan struct{}, l.Concurrent), queue: int64(l.Queue), wait: l.QueueWait}
}

// enter returns false if the queue is full, or no place becomes free in time.
func (g *gate) enter(ctx context.Context) bool {
	select {
	case g.places <- struct{}{}:
		return true
	default:
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.queue {
		return false
	}
	patience := time.NewTimer(g.wait)
	defer patience.Stop()
	select {
	case g.places <- struct{}{}:
		return true
	case <-patience.C:
	case <-ctx.Done():
	}
	return false
}

func (g *gate) leave() { <-g.places }

// userLimits has a token bucket for each user.
type userLimits struct {
	perMinute int

	mu    sync.Mutex
	users *simplelru.LRU[string, *rate.Limiter]
}

// newUserLimits returns nil for 0, which limits nobody.
func newUserLimits(perMinute int) *userLimits {
	if perMinute == 0 {
		return nil
	}
	users, err := simplelru.NewLRU[string, *rate.Limiter](rememberedUsers, nil)
	if err != nil {
		return nil // only for a size that is not positive
	}
	return &userLimits{perMinute: perMinute, users: users}
}

// take takes a token from the user's bucket. If it is empty, take returns the
// time until the next token.
func (u *userLimits) take(user string, now time.Time) (time.Duration, bool) {
	if u == nil {
		return 0, true
	}
	u.mu.Lock()
	bucket, ok := u.users.Get(user)
	if !ok {
		bucket = rate.NewLimiter(rate.Limit(float64(u.perMinute)/time.Minute.Seconds()), u.perMinute)
		u.users.Add(strings.Clone(user), bucket)
	}
	u.mu.Unlock()
	reservation := bucket.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
		return wait, false
	}
	return 0, true
}
