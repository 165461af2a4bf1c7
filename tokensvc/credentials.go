package tokensvc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Names around the bot's own token (wire.md §2).
const (
	// OpAccessToken is [Error.Op] of a failed fetch of the bot's own token.
	OpAccessToken = "AccessToken"
	// PublicLoginURL is Entra's public cloud.
	PublicLoginURL = "https://login.microsoftonline.com"
	// MultiTenant is the tenant of a multi-tenant bot.
	MultiTenant = "botframework.com"
	// DefaultScope is that of the connector and the Token Service.
	DefaultScope = "https://api.botframework.com/.default"
)

const (
	refreshEarly = 5 * time.Minute  // before the expiry
	refreshAgain = 30 * time.Second // after a refresh that failed
)

// ClientCredentialsConfig says how the bot gets its own token.
type ClientCredentialsConfig struct {
	LoginURL     string        // "" = [PublicLoginURL]
	Tenant       string        // "" = [MultiTenant]
	ClientID     string        // the bot's app id. Required.
	ClientSecret Secret        // Required.
	Scope        string        // "" = [DefaultScope]
	HTTPClient   *http.Client  // nil = own, pooled; redirects are never followed
	Timeout      time.Duration // of one fetch; 0 = [DefaultTimeout]
}

// ClientCredentials is a [TokenSource]: the OAuth 2.0 client credentials grant
// at Entra. A token is cached until 5 min before its expiry (half its life, if
// that is shorter). One request is in flight at a time: whoever asks meanwhile
// waits for it, each with an own context. While a token that is about to
// expire cannot be renewed, it is still given out until it has expired.
type ClientCredentials struct {
	endpoint string
	form     Secret
	http     *http.Client
	timeout  time.Duration

	mu       sync.Mutex
	token    Secret
	expires  time.Time
	renewAt  time.Time
	inFlight *fetch
}

// fetch is one request that several callers wait for; err is set before done
// is closed.
type fetch struct {
	done  chan struct{}
	token Secret
	err   error
}

// NewClientCredentials checks cfg. It does not connect.
func NewClientCredentials(cfg ClientCredentialsConfig) (*ClientCredentials, error) {
	if cfg.ClientID == "" || cfg.ClientSecret.Empty() {
		return nil, errors.New("client credentials: client id and secret are required")
	}
	if cfg.LoginURL == "" {
		cfg.LoginURL = PublicLoginURL
	}
	if cfg.Tenant == "" {
		cfg.Tenant = MultiTenant
	}
	if cfg.Scope == "" {
		cfg.Scope = DefaultScope
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if _, err := parseBase(cfg.LoginURL); err != nil {
		return nil, fmt.Errorf("client credentials: login URL: %w", err)
	}
	form := url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {cfg.ClientID},
		"client_secret": {cfg.ClientSecret.Reveal()},
		"scope":         {cfg.Scope},
	}
	return &ClientCredentials{
		endpoint: strings.TrimRight(cfg.LoginURL, "/") + "/" + url.PathEscape(cfg.Tenant) + "/oauth2/v2.0/token",
		form:     NewSecret(form.Encode()),
		http:     pooled(cfg.HTTPClient),
		timeout:  cfg.Timeout,
	}, nil
}

// Token returns a valid token. Its error is an [*Error] with the status and
// the OAuth error code, or the context's error.
func (c *ClientCredentials) Token(ctx context.Context) (Secret, error) {
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

func (c *ClientCredentials) fetch(ctx context.Context, f *fetch) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	token, life, fail := c.request(ctx)

	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case fail == nil:
		c.token, c.expires = token, now.Add(life)
		c.renewAt = c.expires.Add(-min(refreshEarly, life/2))
		f.token = token
	case now.Before(c.expires):
		c.renewAt = now.Add(min(refreshAgain, c.expires.Sub(now)))
		f.token = c.token
	default:
		f.err = fail
	}
	c.inFlight = nil
	close(f.done)
}

func (c *ClientCredentials) request(ctx context.Context) (Secret, time.Duration, *Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, nil)
	if err != nil {
		return Secret{}, 0, &Error{Op: OpAccessToken, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	setBody(req, []byte(c.form.Reveal()))
	answer, fail := roundTrip(c.http, req, OpAccessToken)
	if fail != nil {
		return Secret{}, 0, fail
	}
	var wire struct {
		AccessToken Secret      `json:"access_token"`
		ExpiresIn   json.Number `json:"expires_in"` // some endpoints quote it
	}
	if json.Unmarshal(answer, &wire) != nil {
		return Secret{}, 0, unreadable(OpAccessToken, errMalformed)
	}
	if wire.AccessToken.Empty() {
		return Secret{}, 0, unreadable(OpAccessToken, errWithoutToken)
	}
	seconds, err := wire.ExpiresIn.Int64()
	if err != nil {
		seconds = 0 // good for this one use
	}
	const longest = 24 * 60 * 60
	return wire.AccessToken, time.Duration(min(max(seconds, 0), longest)) * time.Second, nil
}
