package tokensvc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Defaults of a [Client].
const (
	// DefaultTimeout is the limit of one call, within the caller's context.
	DefaultTimeout = 10 * time.Second
	// idleConns per host are kept open: every bot instance talks to one host
	// and Go's default of two would reconnect on every burst.
	idleConns = 256
)

// Config of a [Client].
type Config struct {
	// BaseURL is the service's URL, such as [PublicURL]. Required.
	BaseURL string
	// Credentials give the bearer token of the bot. They may be nil only if BaseURL is
	// a loopback address, as of the emulator.
	Credentials TokenSource
	// HTTPClient is used as it is, but never follows a redirect. nil makes an
	// own one with a pooled transport.
	HTTPClient *http.Client
	// Timeout of one call including the fetch of a bearer token; it acts
	// within the caller's context. 0 = [DefaultTimeout].
	Timeout time.Duration
}

// Client calls the Token Service. Its methods may be used from many
// goroutines. All their errors are [*Error].
type Client struct {
	scheme, host string
	prefix       string // path of the base URL, without a trailing slash
	credentials  TokenSource
	http         *http.Client
	timeout      time.Duration
}

// New checks cfg and makes a client. It does not connect.
func New(cfg Config) (*Client, error) {
	base, err := parseBase(cfg.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("token service: base URL: %w", err)
	}
	if cfg.Credentials == nil && !loopback(base.Hostname()) {
		return nil, errors.New("token service: credentials are required unless the base URL is a loopback address")
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("token service: timeout is negative")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Client{
		scheme:      base.Scheme,
		host:        base.Host,
		prefix:      strings.TrimRight(base.Path, "/"),
		credentials: cfg.Credentials,
		http:        pooled(cfg.HTTPClient),
		timeout:     cfg.Timeout,
	}, nil
}

// CloseIdleConnections closes pooled connections that nobody uses.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// parseBase never repeats the URL in its errors: a user may have put a
// password into it.
func parseBase(raw string) (*url.URL, error) {
	base, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("malformed")
	case base.Scheme != "http" && base.Scheme != "https":
		return nil, errors.New("neither http nor https")
	case base.Host == "":
		return nil, errors.New("no host")
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("user, query and fragment are not allowed")
	}
	return base, nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// pooled returns a client that hands out redirects instead of following them:
// the bearer token goes to the configured host and to no other.
func pooled(given *http.Client) *http.Client {
	own := http.Client{}
	if given != nil {
		own = *given
	}
	if own.Transport == nil && given == nil {
		own.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConnsPerHost: idleConns,
			IdleConnTimeout:     90 * time.Second,
		}
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// TokenSource returns the bot's own bearer token for the Token Service and the
// connector.
type TokenSource interface {
	// Token returns a valid token. It waits no longer than ctx.
	Token(ctx context.Context) (Secret, error)
}

// Static is a [TokenSource] that always returns the same token.
func Static(token Secret) TokenSource { return static{token} }

type static struct{ token Secret }

func (s static) Token(context.Context) (Secret, error) { return s.token, nil }
