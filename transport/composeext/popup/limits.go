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

// Limits bound how often the start page and the callback are answered: each costs
// a commit of the store, and a callback a call to the provider. What is over is
// answered 429 with Retry-After and a page. 0 = the default.
type Limits struct {
	PerClient int // requests a minute of one address, a /64 with IPv6; [DefaultPerClient]
	Overall   int // of all addresses together; [DefaultOverall]
	// ClientHeader names the header in which a proxy of yours says whose request it
	// is: the last address of it counts. "" = the address that the request came
	// from, which behind a proxy is everybody's.
	ClientHeader string
}

// The defaults of [Limits]. A popup takes two requests, and a whole company may
// have one address.
const (
	DefaultPerClient = 300
	DefaultOverall   = 6000
)

// rememberedClients have a count of their own. The one that was not heard of for
// the longest time makes room.
const rememberedClients = 1 << 14

// The reasons with which a page is refused.
const (
	WhyClient  = "popup_rate" // one address is over its limit
	WhyOverall = "popup_busy" // all together are
)

func (l *Limits) check() error {
	var errs []error
	if l.PerClient < 0 {
		errs = append(errs, errors.New("pages_per_minute: must not be negative"))
	}
	if l.Overall < 0 {
		errs = append(errs, errors.New("pages_per_minute_overall: must not be negative"))
	}
	if l.ClientHeader != "" && !httpguts.ValidHeaderFieldName(l.ClientHeader) { // all clients would be one
		errs = append(errs, fmt.Errorf("client_header: %q is no name of a header", l.ClientHeader))
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

// perMinute lets a third of a minute's requests through at once.
func perMinute(n int) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(float64(n)/time.Minute.Seconds()), max(n/3, 1))
}

// take lets a request through, or says why not and how long to wait. One that its
// own address has no more of does not count for the others.
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

// wants takes one of a bucket, or says when there is one.
func wants(bucket *rate.Limiter, now time.Time) time.Duration {
	one := bucket.ReserveN(now, 1)
	wait := one.DelayFrom(now)
	if wait > 0 {
		one.CancelAt(now)
	}
	return wait
}

// client is whose request it is. What cannot be read is one client.
func (l *limiter) client(r *http.Request) netip.Prefix {
	text := r.RemoteAddr
	if l.cfg.ClientHeader != "" {
		// Whoever sends the request writes what he likes; the proxy adds the last one.
		all := strings.Join(r.Header.Values(l.cfg.ClientHeader), ",")
		text = strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:])
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		at, _ := netip.ParseAddrPort(text) // no address for what is none
		addr = at.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	network, _ := addr.Prefix(bits) // fails for no address
	return network
}
