package teams

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/netutil"
)

const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	// maxHeader bounds the headers of a request, in bytes. A connection must not
	// cost more before its sender is known.
	maxHeader = 32 << 10
)

// NewServer returns a server for the bot's endpoint with the default [Limits]: it cuts
// off headers that take longer than 10 s, requests that take longer than 30 s, and
// headers over 32 KiB. Its answers have no deadline; a turn has one.
func NewServer(addr string, handler http.Handler) *http.Server {
	return DefaultLimits().Server(addr, handler)
}

// Server is [NewServer] with these limits.
func (l Limits) Server(addr string, handler http.Handler) *http.Server {
	fill(&l.HeaderTimeout, headerTimeout)
	fill(&l.BodyTimeout, bodyTimeout)
	return &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: l.HeaderTimeout,
		ReadTimeout:       l.BodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
}

// Listener limits the connections of inner at a time to Connections.
func (l Limits) Listener(inner net.Listener) net.Listener {
	fill(&l.Connections, defaultConnections)
	return netutil.LimitListener(inner, l.Connections)
}

// CheckListener returns an error unless addr, host:port, is a loopback address.
// Only such an address may be served without inbound authentication. An empty
// host means every interface and is refused.
func CheckListener(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("teams: listener %q is not host:port", addr)
	}
	if !isLoopback(host, net.ParseIP(host)) {
		return fmt.Errorf("teams: inbound_auth: none works on a loopback listener only, and %q is not one", addr)
	}
	return nil
}

// wholeSeconds formats a Retry-After, rounded up to seconds.
func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
