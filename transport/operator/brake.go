package operator

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// Refusal is why a token was refused at the operator endpoint; see
// [HandlerConfig.OnRefused].
type Refusal string

// The refusals.
const (
	WrongToken   Refusal = "wrong_token"
	TooManyTries Refusal = "too_many_tries"
)

// Refusals lists them.
func Refusals() []Refusal { return []Refusal{WrongToken, TooManyTries} }

// How fast tokens may be guessed. Only wrong ones count, so nobody who has the
// right one meets these limits, unless he shares an address with somebody who
// guesses.
const (
	addressTries = 10 // wrong tokens of one address at once
	addressEvery = 6 * time.Second
	overallTries = 100 // of all addresses together
	overallEvery = 600 * time.Millisecond
	// rememberedAddresses have a count of their own; the one that was not heard of
	// for the longest time makes room.
	rememberedAddresses = 1 << 12
	brakeLogEvery       = time.Minute
)

// brake slows down who tries tokens out.
type brake struct {
	mu      sync.Mutex
	clock   func() time.Time
	overall *rate.Limiter
	callers *simplelru.LRU[string, *caller]
	told    rate.Sometimes // the log of who is over
}

// caller is one address. Who had a right token from there lately is not stopped by
// what other addresses do.
type caller struct {
	tries *rate.Limiter
	known bool
}

func newBrake(clock func() time.Time) *brake {
	callers, _ := simplelru.NewLRU[string, *caller](rememberedAddresses, nil) // the size is positive
	return &brake{
		clock: clock, overall: rate.NewLimiter(rate.Every(overallEvery), overallTries), callers: callers,
		told: rate.Sometimes{First: 1, Interval: brakeLogEvery},
	}
}

// try judges a token of an address, unless there were too many wrong ones: then it
// returns how long to wait, and the token is not looked at.
func (b *brake) try(remote string, right func() bool) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key, now := addressOf(remote), b.clock()
	c, there := b.callers.Get(key)
	if !there {
		c = &caller{tries: rate.NewLimiter(rate.Every(addressEvery), addressTries)}
	}
	wait = until(c.tries, now)
	if !c.known {
		wait = max(wait, until(b.overall, now))
	}
	if wait > 0 {
		return wait, false
	}
	if ok = right(); ok {
		if c.known = true; there {
			return 0, true
		}
	} else {
		c.tries.AllowN(now, 1)
		b.overall.AllowN(now, 1)
	}
	b.callers.Add(key, c)
	return 0, ok
}

// until is the time to the next whole token of a limiter.
func until(l *rate.Limiter, now time.Time) time.Duration {
	if missing := 1 - l.TokensAt(now); missing > 0 {
		return time.Duration(missing / float64(l.Limit()) * float64(time.Second))
	}
	return 0
}

// addressOf is who a connection comes from. A customer's network of IPv6 is one
// caller: its owner has all the addresses in it.
func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote // a unix socket has no addresses
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		if network, err := ip.Prefix(64); err == nil {
			return network.String()
		}
	}
	return ip.String()
}

// levelOf is what a token lets do. The error says why it is none; the token is in
// neither error nor log.
func (h *handler) levelOf(w http.ResponseWriter, r *http.Request, token string) (access, error) {
	var level access
	wait, ok := h.brake.try(r.RemoteAddr, func() (right bool) {
		level, right = h.match(token)
		return right
	})
	switch {
	case ok:
		return level, nil
	case wait > 0:
		seconds := int64((wait + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", fmt.Sprint(seconds))
		h.brake.told.Do(func() {
			h.Log.Warn().Str("remote", r.RemoteAddr).Int64("retry_after", seconds).Msg("somebody tries operator tokens out: no more are looked at")
		})
		h.OnRefused(TooManyTries)
		return "", fmt.Errorf("%w: try again in %d s", ErrTooManyTries, seconds)
	default:
		h.Log.Warn().Str("remote", r.RemoteAddr).Str("route", r.URL.Path).Msg("operator token refused")
		h.OnRefused(WrongToken)
		return "", ErrUnauthorized
	}
}
