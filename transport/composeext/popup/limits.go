package popup

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/time/rate"
)

// Limits bound the rate of requests to the start page and the callback. Each request
// costs a commit of the store, and a callback also a call to the provider. Requests
// over a limit are answered 429 with Retry-After and a page. A third of a minute's
// requests may come at once.
type Limits struct {
	PerClient int // requests per minute from one IPv4 address or IPv6 /64 prefix; 0 = 300
	Overall   int // requests per minute from all addresses together; 0 = 6000
	// ClientHeader is the header in which your proxy passes on the client's address.
	// The last address in it counts, which is the one that the proxy added. "" = the
	// address of the connection, which is the proxy's if there is one.
	ClientHeader string
}

// The defaults of [Limits]. One sign-in takes two requests, and all users of a company
// may share one address.
const (
	DefaultPerClient = 300
	DefaultOverall   = 6000
)

// rememberedClients is how many clients have a limiter of their own. The least recently
// used one is evicted.
const rememberedClients = 1 << 14

// The reasons for which a request is refused.
const (
	WhyClient  = "popup_rate" // one address is over its limit
	WhyOverall = "popup_busy" // all addresses together are over the limit
)

func (l *Limits) check() error {
	var errs []error
	if l.PerClient < 0 {
		errs = append(errs, errors.New("pages_per_minute: must not be negative"))
	}
	if l.Overall < 0 {
		errs = append(errs, errors.New("pages_per_minute_overall: must not be negative"))
	}
	if l.ClientHeader != "" && !httpguts.ValidHeaderFieldName(l.ClientHeader) { // no request has it, so all clients would share one limit
		errs = append(errs, fmt.Errorf("client_header: %q is not a header name", l.ClientHeader))
	}
	return errors.Join(errs...)
}

// limiter counts requests. It may be used from many goroutines.
type limiter struct {
	cfg     Limits
	overall *rate.Limiter

	mu      sync.Mutex
	clients *simplelru.LRU[netip.Prefix, *rate.Limiter]
}

func newLimiter(cfg Limits) (*limiter, error) {
	cfg.PerClient, cfg.Overall = or(cfg.PerClient, DefaultPerClient), or(cfg.Overall, DefaultOverall)
	clients, err := simplelru.NewLRU[netip.Prefix, *rate.Limiter](rememberedClients, nil)
	return &limiter{cfg: cfg, overall: perMinute(cfg.Overall), clients: clients}, err
}

// perMinute returns a limiter for n requests per minute, with a burst of a third of
// them.
func perMinute(n int) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(float64(n)/time.Minute.Seconds()), max(n/3, 1))
}

// take returns an empty reason if the request is within the limits, and otherwise the
// reason and the time to wait. A request over the limit of its own address does not
// count against the overall limit.
func (l *limiter) take(r *http.Request, now time.Time) (why string, wait time.Duration) {
	client := l.client(r)
	l.mu.Lock()
	bucket, ok := l.clients.Get(client)
	if !ok {
		bucket = perMinute(l.cfg.PerClient)
		l.clients.Add(client, bucket)
	}
	l.mu.Unlock()
	if wait = wants(bucket, now); wait > 0 {
		return WhyClient, wait
	}
	if wait = wants(l.overall, now); wait > 0 {
		return WhyOverall, wait
	}
	return "", 0
}

// wants takes one token from a bucket. If there is none, it returns the time until
// there is one.
func wants(bucket *rate.Limiter, now time.Time) time.Duration {
	one := bucket.ReserveN(now, 1)
	wait := one.DelayFrom(now)
	if wait > 0 {
		one.CancelAt(now)
	}
	return wait
}

// client is the client that sent a request: an IPv4 address or an IPv6 /64 prefix. All
// requests whose address cannot be read are one client.
func (l *limiter) client(r *http.Request) netip.Prefix {
	text := r.RemoteAddr
	if l.cfg.ClientHeader != "" {
		// The client can send any addresses; only the last one is the proxy's.
		all := strings.Join(r.Header.Values(l.cfg.ClientHeader), ",")
		text = strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:])
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		at, _ := netip.ParseAddrPort(text) // the zero address if it cannot be read
		addr = at.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	network, _ := addr.Prefix(bits) // the zero prefix for the zero address
	return network
}
