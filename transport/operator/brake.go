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

// Refusal is the reason why the operator endpoint refused a token. It is passed
// to [HandlerConfig.OnRefused].
type Refusal string

// The reasons for a refusal.
const (
	// WrongToken means that the token matches neither token of the endpoint.
	WrongToken Refusal = "wrong_token"
	// TooManyTries means that too many wrong tokens came before: this one was not
	// compared at all.
	TooManyTries Refusal = "too_many_tries"
)

// Refusals lists all reasons for a refusal.
func Refusals() []Refusal { return []Refusal{WrongToken, TooManyTries} }

// These limits slow down callers that guess tokens. Only wrong tokens count, so
// callers with the right one never meet the limits, unless they share an address
// with somebody who guesses.
const (
	addressTries = 10              // burst of wrong tokens from one address
	addressEvery = 6 * time.Second // then one in this time
	overallTries = 100             // burst of wrong tokens from all addresses together
	overallEvery = 600 * time.Millisecond
	// rememberedAddresses is how many addresses have a limiter of their own. The
	// least recently used one is evicted.
	rememberedAddresses = 1 << 12
	brakeLogEvery       = time.Minute
)

// brake limits the rate at which tokens can be guessed.
type brake struct {
	mu      sync.Mutex
	clock   func() time.Time
	overall *rate.Limiter
	callers *simplelru.LRU[string, *caller]
	told    rate.Sometimes // limits the log lines about callers over the limit
}

// caller is one address. The overall limit does not apply to an address that has
// sent a right token: guesses from elsewhere cannot lock its operators out.
type caller struct {
	tries *rate.Limiter
	known bool // a right token came from here
}

func newBrake(clock func() time.Time) *brake {
	callers, _ := simplelru.NewLRU[string, *caller](rememberedAddresses, nil) // the size is positive
	return &brake{
		clock: clock, overall: rate.NewLimiter(rate.Every(overallEvery), overallTries), callers: callers,
		told: rate.Sometimes{First: 1, Interval: brakeLogEvery},
	}
}

// try calls right to compare the token that came from an address. After too many
// wrong tokens it does not call right, and returns how long the caller has to wait.
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

// until is the time until a limiter has its next whole token.
func until(l *rate.Limiter, now time.Time) time.Duration {
	if missing := 1 - l.TokensAt(now); missing > 0 {
		return time.Duration(missing / float64(l.Limit()) * float64(time.Second))
	}
	return 0
}

// addressOf is the key under which a remote address is limited: the IPv4 address,
// or the /64 prefix of an IPv6 address, because one customer usually owns all the
// addresses in it.
func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote // a unix socket has no host and port
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

// levelOf is the access that a token gives. The error says why it gives none.
// Neither the error nor the log contains the token.
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
