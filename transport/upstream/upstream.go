// Package upstream limits the harm that a dead or ailing upstream does. A
// [Transport] stands between the network and a client of an upstream: the Token
// Service, the connector, Entra, or an identity provider.
//
//   - A request that only reads is repeated as long as its deadline allows. The
//     pause has jitter, or is the one that Retry-After asks for.
//   - A circuit breaker opens if the upstream does not answer. While it is open,
//     requests fail at once with an [OpenError]. Every few seconds it lets one
//     request through, and it closes once such a request is answered. Any status
//     is an answer, except 502 and 504, which a gateway sends in the upstream's
//     place. A request that its caller canceled, or that cannot be sent, does not
//     count.
//
// Package teamsbot uses it. A bot with its own wiring makes a [Set] and gives its
// transports to the clients:
//
//	ways := upstream.NewSet(log, nil)
//	tokens, err := tokensvc.New(tokensvc.Config{HTTPClient: ways.To(upstream.TokenService).Client(), …})
package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/rs/zerolog"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/net/http/httpguts"
)

// Names of upstreams, as in [Config.Name].
const (
	TokenService = "token_service"
	Connector    = "connector"
	Login        = "login"        // Entra, for the bot's own token
	SigningKeys  = "signing_keys" // of the issuers of incoming tokens
	Provider     = "provider"     // of a message extension's own sign-in
)

// CodeOpen is the error code of an [OpenError].
const CodeOpen = "circuit_open"

// The defaults of [Config].
const (
	DefaultTries    = 3
	DefaultFailures = 5
	DefaultOpenFor  = 5 * time.Second
)

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
	// longest bounds the pause that Retry-After may ask for. If the upstream asks
	// for a longer one, the request is not repeated.
	longest = 10 * time.Second
	// patience is how long an upstream may take. If a caller's deadline passes
	// sooner, that does not count as a failure.
	patience = time.Second
	// The breaker opens if, of at least few requests within window, half have
	// failed. The window is long because a request that takes longer would not be
	// counted.
	window, bucket = 2 * time.Minute, 10 * time.Second
	few            = 20
	// recent is how long after its last failure an upstream still counts as dead
	// if it gets no more requests.
	recent = 5 * time.Minute
	// maxHosts bounds the number of breakers in one transport.
	maxHosts = 64

	connectTimeout = 5 * time.Second
	idlePerHost    = 256
)

// Config of a [Transport].
type Config struct {
	// Name of the upstream, for errors, metrics and the log. Required.
	Name string
	// Next makes the requests. nil = a pooled transport of its own.
	Next http.RoundTripper
	// Repeatable says which requests may be made more than once. nil = [Reads].
	Repeatable func(*http.Request) bool
	// Tries of a request that may be repeated, the first one included. 0 = 3.
	Tries int
	// Failures in a row open the breaker of a host. It also opens if half of 20
	// or more requests within 2 min have failed. A failure is no answer, or a
	// gateway's status for that (502, 504). Any other answer shows that the
	// upstream lives. 0 = 5.
	Failures int
	// OpenFor is how long an open breaker refuses requests before it lets one
	// through. 0 = 5 s.
	OpenFor time.Duration
	// Log gets a warning when a breaker opens, and a message when it closes.
	Log zerolog.Logger
}

// Transport is an [http.RoundTripper] with a breaker for each host. Its methods
// may be called from many goroutines.
type Transport struct {
	cfg   Config
	mu    sync.Mutex // held while a breaker is made
	hosts *lru.Cache[string, *circuit]
}

// circuit is the breaker of one host.
type circuit struct {
	*gobreaker.TwoStepCircuitBreaker[struct{}]
	host             string
	until            atomic.Int64 // Unix ns: when the next request is let through
	since            atomic.Int64 // Unix ns: when it last opened
	opened           atomic.Int64
	refused, retried atomic.Int64
}

// New makes a transport. It does not connect.
func New(cfg Config) *Transport {
	cfg.Tries = cmp.Or(cfg.Tries, DefaultTries)
	cfg.Failures = cmp.Or(cfg.Failures, DefaultFailures)
	cfg.OpenFor = cmp.Or(cfg.OpenFor, DefaultOpenFor)
	if cfg.Repeatable == nil {
		cfg.Repeatable = Reads
	}
	if cfg.Next == nil {
		cfg.Next = Pooled()
	}
	hosts, _ := lru.New[string, *circuit](maxHosts) // fails only for a size below 1
	return &Transport{cfg: cfg, hosts: hosts}
}

// Pooled returns a transport that keeps many connections to few hosts open.
func Pooled() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: connectTimeout,
		MaxIdleConnsPerHost: idlePerHost,
		IdleConnTimeout:     90 * time.Second,
	}
}

// Reads reports whether a request only reads: a GET or HEAD, unless its query has
// a code, which the upstream would use up.
func Reads(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if key, _, _ := strings.Cut(part, "="); strings.EqualFold(key, "code") {
			return false
		}
	}
	return true
}

// Always allows any request to be repeated. It serves for Entra: to ask for the
// bot's own token changes nothing.
func Always(*http.Request) bool { return true }

// Client returns a client that uses t. It follows no redirects, so that what a
// request carries goes only to the host that it was made for.
func (t *Transport) Client() *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// CloseIdleConnections closes the idle connections of the pool.
func (t *Transport) CloseIdleConnections() {
	if pool, ok := t.cfg.Next.(interface{ CloseIdleConnections() }); ok {
		pool.CloseIdleConnections()
	}
}

// OpenError means that a request was not made, because the upstream did not
// answer earlier ones.
type OpenError struct {
	Upstream string        // [Config.Name]
	Wait     time.Duration // until the next request is let through
}

// Error returns a text that names the upstream.
func (e *OpenError) Error() string {
	return fmt.Sprintf("not asked: %s does not answer, the next try is in %s", e.Upstream, e.Wait.Round(time.Millisecond))
}

// ErrorCode returns [CodeOpen].
func (e *OpenError) ErrorCode() string { return CodeOpen }

// RetryDelay returns Wait.
func (e *OpenError) RetryDelay() time.Duration { return e.Wait }

// NotSent returns true: the upstream has received nothing of the request.
func (e *OpenError) NotSent() bool { return true }

// NonRetriable keeps Azure's SDK from retrying.
func (e *OpenError) NonRetriable() {}

// RoundTrip makes the request if the breaker lets it through, and repeats it if
// that may help.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := t.circuit(req.URL.Host)
	if !t.cfg.Repeatable(req) || req.Body != nil && req.GetBody == nil {
		return t.once(c, req)
	}
	pauses := &backoff.ExponentialBackOff{
		InitialInterval: firstPause, RandomizationFactor: 0.5, Multiplier: 3, MaxInterval: maxPause,
	}
	pauses.Reset()
	for try := 1; ; try++ {
		resp, err := t.once(c, req)
		asked, again := passing(resp, err)
		if !again || try == t.cfg.Tries {
			return resp, err
		}
		pause := max(asked, pauses.NextBackOff())
		if asked > longest || !fits(req.Context(), pause) {
			return resp, err
		}
		next, problem := fresh(req)
		if problem != nil {
			return resp, err
		}
		if resp != nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is reused
			_ = resp.Body.Close()
		}
		if err := sleep(req.Context(), pause); err != nil {
			return nil, err
		}
		c.retried.Add(1)
		req = next
	}
}

// fresh returns the request with an unread body.
func fresh(req *http.Request) (*http.Request, error) {
	if req.Body == nil {
		return req, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	next := req.Clone(req.Context())
	next.Body = body
	return next, nil
}

// passing reports whether another try may succeed, and how long the upstream asks
// to be left alone.
func passing(resp *http.Response, err error) (time.Duration, bool) {
	var open *OpenError
	switch {
	case errors.As(err, &open), errors.Is(err, errUnsendable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return 0, false
	case err != nil:
		return 0, true
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return retryAfter(resp.Header, time.Now()), true
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return 0, true
	default:
		return 0, false
	}
}

// retryAfter parses seconds or an HTTP date (RFC 9110 §10.2.3). It returns 0 for
// anything else, and for a date that has passed.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(date.Sub(now), 0)
	}
	return 0
}

// fits reports whether the deadline leaves time for a pause and another request.
func fits(ctx context.Context, pause time.Duration) bool {
	deadline, bounded := ctx.Deadline()
	return !bounded || time.Until(deadline) > pause+firstPause
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// circuit returns the breaker of a host.
func (t *Transport) circuit(host string) *circuit {
	if c, ok := t.hosts.Get(host); ok {
		return c
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.hosts.Get(host); ok {
		return c
	}
	c := &circuit{host: host}
	log := t.cfg.Log.With().Str("upstream", t.cfg.Name).Str("host", host).Logger()
	c.TwoStepCircuitBreaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1, Interval: window, BucketPeriod: bucket, Timeout: t.cfg.OpenFor,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return int64(n.ConsecutiveFailures) >= int64(t.cfg.Failures) || n.Requests >= few && 2*n.TotalFailures >= n.Requests
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errUntold) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch to {
			case gobreaker.StateHalfOpen: // one request is let through
			case gobreaker.StateOpen:
				if from == gobreaker.StateClosed {
					c.since.Store(time.Now().UnixNano())
				}
				c.until.Store(time.Now().Add(t.cfg.OpenFor).UnixNano())
				if from == gobreaker.StateClosed {
					c.opened.Add(1)
					log.Warn().Str("code", CodeOpen).Msg("upstream does not answer: requests to it are refused until it does")
				}
			case gobreaker.StateClosed:
				log.Info().Msg("upstream answers again")
			}
		},
	})
	t.hosts.Add(host, c)
	return c
}

var (
	// errUntold is an outcome that says nothing about the upstream.
	errUntold     = errors.New("the caller gave up")
	errUnsendable = errors.New("the request cannot be sent")
	errDead       = errors.New("no answer")
)

// once makes one request if the breaker lets it through.
func (t *Transport) once(c *circuit, req *http.Request) (*http.Response, error) {
	done, err := c.Allow()
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		c.refused.Add(1)
		return nil, &OpenError{t.cfg.Name, max(time.Until(time.Unix(0, c.until.Load())), firstPause)}
	}
	begun := time.Now()
	resp, err := t.send(req, done)
	if err != nil {
		if unsendable(req) {
			err = fmt.Errorf("%w: %w", errUnsendable, err)
		}
		done(verdict(req.Context(), err, begun))
		return nil, err
	}
	if resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusGatewayTimeout {
		done(errDead)
		return resp, nil
	}
	resp.Body = &body{ReadCloser: resp.Body, ctx: req.Context(), begun: begun, done: done}
	return resp, nil
}

// send makes the request. If something below panics, it still tells the breaker,
// which would otherwise wait for ever for the outcome of the request that it let
// through.
func (t *Transport) send(req *http.Request, done func(error)) (*http.Response, error) {
	returned := false
	defer func() {
		if !returned {
			done(errUntold)
		}
	}()
	resp, err := t.cfg.Next.RoundTrip(req)
	returned = true
	return resp, err
}

// unsendable reports whether package net/http refuses to send such a request.
func unsendable(req *http.Request) bool {
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" || req.URL.Host == "" {
		return true
	}
	if req.Method != "" && !httpguts.ValidHeaderFieldName(req.Method) { // both are tokens (RFC 9110 §5.6.2)
		return true
	}
	for name, values := range req.Header {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return true
		}
	}
	return false
}

// verdict is what an error says about the upstream. If the context has ended,
// package net/http returns its cause, which may be any error.
func verdict(ctx context.Context, err error, begun time.Time) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = ctx.Err()
	}
	switch {
	case errors.Is(err, errUnsendable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded) && time.Since(begun) < patience:
		return errUntold
	default:
		return errDead
	}
}

// body tells the breaker how an answer ended. An answer that breaks off counts as
// none.
type body struct {
	io.ReadCloser
	ctx   context.Context //nolint:containedctx // the request's context also bounds its answer
	begun time.Time
	once  sync.Once
	done  func(error)
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.once.Do(func() { b.done(nil) })
	case err != nil:
		b.once.Do(func() { b.done(verdict(b.ctx, err, b.begun)) })
	}
	return n, err
}

// Close implements [io.Closer].
func (b *body) Close() error {
	b.once.Do(func() { b.done(nil) })
	return b.ReadCloser.Close()
}

// Circuit is the state of one host's breaker.
type Circuit struct {
	Upstream, Host string
	// Open means that requests are refused, except the one that is let through
	// now and then. It is false if nobody has sent a request for 5 min, since the
	// state is not known any more.
	Open bool
	// Since is when the breaker opened. Zero if it is not open.
	Since time.Time
	// Opened counts how often the breaker opened, Refused the requests that it
	// refused, and Retried the repeats. All count from the start.
	Opened, Refused, Retried int64
}

// dead reports whether the breaker is open and the upstream's last failure is
// recent.
func (c *circuit) dead(now time.Time) bool {
	return c.State() != gobreaker.StateClosed && now.UnixNano() < c.until.Load()+int64(recent)
}

// Circuits lists the breakers of t, ordered by host.
func (t *Transport) Circuits() []Circuit {
	var all []Circuit
	for _, c := range t.hosts.Values() {
		one := Circuit{
			Upstream: t.cfg.Name, Host: c.host, Open: c.dead(time.Now()),
			Opened: c.opened.Load(), Refused: c.refused.Load(), Retried: c.retried.Load(),
		}
		if one.Open {
			one.Since = time.Unix(0, c.since.Load()).UTC()
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Circuit) int { return cmp.Compare(a.Host, b.Host) })
	return all
}
