package tokensvc

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// TokenFetch gets a new token of the bot, and its expiry. The zero time means that the
// token is for one use.
type TokenFetch func(ctx context.Context) (token Secret, expires time.Time, err error)

// TokenDropper is a [TokenSource] that caches tokens and can drop one that was refused.
type TokenDropper interface {
	TokenSource
	// DropToken drops token, unless a newer one has replaced it.
	DropToken(token Secret)
}

const (
	refreshEarly = 5 * time.Minute  // before the expiry
	refreshAgain = 30 * time.Second // after a refresh that failed

	// An upstream that answers everything with 401 must not make the bot ask
	// Entra for a token with every call.
	dropWindow = time.Minute
	maxDrops   = 5 // per window
)

// TokenCache is a [TokenDropper] around a fetch. A token is kept until 5 min before its
// expiry (or half its lifetime, if that is shorter). Only one fetch is in flight at a
// time: other callers wait for it, each with its own context. If a token cannot be
// renewed before its expiry, it is still used until then.
//
// A dropped token is not used again. More than five drops a minute are ignored: if
// every token is refused, the fault is elsewhere.
type TokenCache struct {
	get     TokenFetch
	timeout time.Duration

	mu       sync.Mutex
	token    Secret
	expires  time.Time
	renewAt  time.Time
	inFlight *fetch
	drops    int
	window   time.Time // when the first of the drops was
}

// fetch is one request that several callers wait for; err is set before done
// is closed.
type fetch struct {
	done  chan struct{}
	token Secret
	err   error
}

// NewTokenCache caches the tokens of get. A fetch may take up to timeout; 0 =
// [DefaultTimeout].
func NewTokenCache(get TokenFetch, timeout time.Duration) *TokenCache {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &TokenCache{get: get, timeout: timeout}
}

// Token returns a valid token. Its error is an [*Error] with the Op
// [OpAccessToken].
func (c *TokenCache) Token(ctx context.Context) (Secret, error) {
	c.mu.Lock()
	if time.Now().Before(c.renewAt) {
		token := c.token
		c.mu.Unlock()
		return token, nil
	}
	running := c.inFlight
	if running == nil {
		running = &fetch{done: make(chan struct{})}
		c.inFlight = running
		// It belongs to all who wait: that the first of them gives up must
		// not cost the others their token. The timeout ends it.
		go c.fetch(context.WithoutCancel(ctx), running)
	}
	c.mu.Unlock()

	select {
	case <-running.done:
		return running.token, running.err
	case <-ctx.Done():
		return Secret{}, &Error{Op: OpAccessToken, Err: ctx.Err()}
	}
}

// DropToken implements [TokenDropper].
func (c *TokenCache) DropToken(token Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if token.Reveal() != c.token.Reveal() {
		return
	}
	now := time.Now()
	if now.Sub(c.window) >= dropWindow {
		c.window, c.drops = now, 0
	}
	if c.drops >= maxDrops {
		return
	}
	c.drops++
	c.token, c.expires, c.renewAt = Secret{}, time.Time{}, time.Time{}
}

func (c *TokenCache) fetch(ctx context.Context, f *fetch) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	token, expires, err := c.get(ctx)

	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil:
		c.token, c.expires = token, expires
		c.renewAt = expires.Add(-min(refreshEarly, max(0, expires.Sub(now)/2)))
		f.token = token
	case now.Before(c.expires):
		c.renewAt = now.Add(min(refreshAgain, c.expires.Sub(now)))
		f.token = c.token
	default:
		f.err = accessTokenError(err)
	}
	c.inFlight = nil
	close(f.done)
}

// accessTokenError: whatever fails here is about the bot's credentials.
func accessTokenError(err error) error {
	if _, ok := CredentialsFailure(err); ok {
		return err
	}
	return &Error{Op: OpAccessToken, Err: withoutURL(err)}
}

// RenewToken is for a caller whose token from source was answered 401. It drops the
// token and gets another. The result is empty if source has no other.
func RenewToken(ctx context.Context, source TokenSource, refused Secret) (Secret, error) {
	cached, ok := source.(TokenDropper)
	if !ok {
		return Secret{}, nil
	}
	cached.DropToken(refused)
	next, err := cached.Token(ctx)
	if err != nil {
		return Secret{}, bearerError(err)
	}
	if next.Reveal() == refused.Reveal() {
		return Secret{}, nil
	}
	return next, nil
}

// bearerError says that it was the bot's own token that could not be had.
func bearerError(err error) error {
	if _, ok := CredentialsFailure(err); !ok {
		err = withoutURL(err)
	}
	return fmt.Errorf("bearer token: %w", err)
}
