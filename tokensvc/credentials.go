package tokensvc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Names around the bot's own token (docs/protocol.md §2).
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

// ClientCredentialsConfig says how the bot gets its own token.
type ClientCredentialsConfig struct {
	LoginURL     string // "" = [PublicLoginURL]
	Tenant       string // "" = [MultiTenant]
	ClientID     string // the bot's app id. Required.
	ClientSecret Secret // required unless SecretSource is set
	// SecretSource is called before every fetch, so a new secret needs no restart. nil
	// = ClientSecret.
	SecretSource func() (Secret, error) `json:"-"`
	Scope        string                 // "" = [DefaultScope]
	HTTPClient   *http.Client           // nil = own, pooled; redirects are never followed
	Timeout      time.Duration          // of one fetch; 0 = [DefaultTimeout]
}

// ClientCredentials is a [TokenSource]: the OAuth 2.0 client credentials grant at Entra
// with a client secret, behind a [TokenCache].
type ClientCredentials struct {
	*TokenCache
	login   string
	tenant  string
	form    url.Values // without the secret
	secret  func() (Secret, error)
	http    *http.Client
	timeout time.Duration
}

// NewClientCredentials checks cfg. It does not connect.
func NewClientCredentials(cfg ClientCredentialsConfig) (*ClientCredentials, error) {
	if cfg.ClientID == "" || cfg.ClientSecret.Empty() && cfg.SecretSource == nil {
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
	if _, err := parseBase(cfg.LoginURL); err != nil {
		return nil, fmt.Errorf("client credentials: login URL: %w", err)
	}
	secret := cfg.SecretSource
	if secret == nil {
		secret = func() (Secret, error) { return cfg.ClientSecret, nil }
	}
	c := &ClientCredentials{
		login: strings.TrimRight(cfg.LoginURL, "/"), tenant: cfg.Tenant,
		form: url.Values{
			"grant_type": {"client_credentials"},
			"client_id":  {cfg.ClientID},
			"scope":      {cfg.Scope},
		},
		secret:  secret,
		http:    pooled(cfg.HTTPClient),
		timeout: cmp.Or(cfg.Timeout, DefaultTimeout),
	}
	c.TokenCache = NewTokenCache(c.request, cfg.Timeout)
	return c, nil
}

// CloseIdleConnections closes pooled connections that nobody uses.
func (c *ClientCredentials) CloseIdleConnections() { c.http.CloseIdleConnections() }

func (c *ClientCredentials) endpoint(tenant string) string {
	return c.login + "/" + url.PathEscape(tenant) + "/oauth2/v2.0/token"
}

func (c *ClientCredentials) request(ctx context.Context) (Secret, time.Time, error) {
	secret, err := c.secret()
	if err != nil {
		return Secret{}, time.Time{}, &Error{Op: OpAccessToken, Err: fmt.Errorf("client secret: %w", err)}
	}
	form := maps.Clone(c.form)
	form.Set("client_secret", secret.Reveal())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint(c.tenant), nil)
	if err != nil {
		return Secret{}, time.Time{}, &Error{Op: OpAccessToken, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	setBody(req, []byte(form.Encode()))
	answer, fail := roundTrip(c.http, req, OpAccessToken)
	if fail != nil {
		return Secret{}, time.Time{}, fail
	}
	return readAccessToken(answer, OpAccessToken)
}

// readAccessToken reads an answer of the token endpoint. One without a life is good
// for one use.
func readAccessToken(answer []byte, op string) (token Secret, expires time.Time, err error) {
	var wire struct {
		AccessToken Secret      `json:"access_token"`
		ExpiresIn   json.Number `json:"expires_in"` // some endpoints quote it
	}
	if json.Unmarshal(answer, &wire) != nil {
		return Secret{}, time.Time{}, unreadable(op, errMalformed)
	}
	if wire.AccessToken.Empty() {
		return Secret{}, time.Time{}, unreadable(op, errWithoutToken)
	}
	seconds, err := wire.ExpiresIn.Int64()
	if err != nil {
		seconds = 0
	}
	const longest = 24 * 60 * 60
	life := time.Duration(min(max(seconds, 0), longest)) * time.Second
	return wire.AccessToken, time.Now().Add(life), nil
}

// NewAccessTokenFailure is the error of a fetch without an answer, for other
// implementations of credentials.
func NewAccessTokenFailure(err error) *Error { return noAnswer(OpAccessToken, err) }

// NewAccessTokenError is the error of a fetch whose answer is no success, for other
// implementations of credentials. Of the body it keeps only the OAuth error code.
func NewAccessTokenError(status int, header http.Header, body []byte) *Error {
	return &Error{
		Op:         OpAccessToken,
		Status:     status,
		Code:       errorCode(body),
		RetryAfter: retryAfter(header.Get("Retry-After"), time.Now()),
	}
}
