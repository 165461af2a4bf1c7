package popup

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// provider is the client of an identity provider.
type provider struct {
	cfg      Provider
	redirect string
	http     *http.Client
	clock    func() time.Time

	mu     sync.Mutex
	known  *endpoints
	failed error     // of the last discovery
	again  time.Time // when a discovery is tried again
}

// endpoints has what the configuration or the discovery document says of a provider.
type endpoints struct {
	oauth       *oauth2.Config
	revoke      string
	oidc        *oidc.Provider // nil for plain OAuth 2.0
	verifier    *oidc.IDTokenVerifier
	issuer      string // "" for plain OAuth 2.0
	namesItself bool   // every answer names the issuer (RFC 9207)
}

// sent reports whether an answer that names an issuer ("" = none) is this provider's
// (RFC 9207). With plain OAuth 2.0 nothing is known to compare it with.
func (at *endpoints) sent(iss string) bool {
	if iss == "" {
		return !at.namesItself
	}
	return at.issuer == "" || strings.TrimRight(iss, "/") == strings.TrimRight(at.issuer, "/")
}

func newProvider(cfg Provider, redirect string, client *http.Client, clock func() time.Time) *provider {
	own := http.Client{Timeout: providerTimeout}
	if client != nil {
		own = *client
	}
	// Follow no redirects: they could send a secret to another host.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p := &provider{cfg: cfg, redirect: redirect, http: &own, clock: clock}
	if cfg.Issuer == "" {
		p.known = &endpoints{
			oauth:  p.oauth(oauth2.Endpoint{AuthURL: cfg.AuthorizeURL, TokenURL: cfg.TokenURL}, nil),
			revoke: cfg.RevokeURL,
		}
	}
	return p
}

// oauth returns the OAuth client for an endpoint. methods are the authentication
// methods that the discovery document lists, if it lists any. It always sets the style:
// the library would otherwise try both, and send a code, which can be used once, twice.
func (p *provider) oauth(at oauth2.Endpoint, methods []string) *oauth2.Config {
	method := p.cfg.TokenAuthMethod
	if method == "" && (len(methods) == 0 || slices.Contains(methods, AuthBasic)) {
		method = AuthBasic
	}
	at.AuthStyle = oauth2.AuthStyleInParams
	if method == AuthBasic && !p.cfg.ClientSecret.Empty() {
		at.AuthStyle = oauth2.AuthStyleInHeader
	}
	scopes := p.cfg.Scopes
	if p.cfg.Issuer != "" && !slices.Contains(scopes, oidc.ScopeOpenID) {
		scopes = append([]string{oidc.ScopeOpenID}, scopes...)
	}
	return &oauth2.Config{
		ClientID: p.cfg.ClientID, ClientSecret: p.cfg.ClientSecret.Reveal(),
		Endpoint: at, RedirectURL: p.redirect, Scopes: scopes,
	}
}

// context returns a context with the HTTP client for both libraries, and with a
// timeout.
func (p *provider) context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(oidc.ClientContext(ctx, p.http), providerTimeout)
}

// findAgain is how long a failed discovery counts: callers that waited for it get its
// error, and do not wait for a discovery of their own.
const findAgain = time.Second

// find returns the endpoints. It reads the discovery document until that succeeds once.
func (p *provider) find(ctx context.Context) (*endpoints, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.known != nil:
		return p.known, nil
	case p.failed != nil && p.clock().Before(p.again):
		return nil, p.failed
	}
	found, err := p.discover(ctx)
	if err != nil {
		// Cut the error's text: it may quote a whole page of the provider.
		p.failed, p.again = fmt.Errorf("discovery: %s", bounded(withoutURL(err).Error())), p.clock().Add(findAgain)
		return nil, p.failed
	}
	p.known = found
	return found, nil
}

func (p *provider) discover(ctx context.Context) (*endpoints, error) {
	// Other requests may wait for the result, so it must not depend on this one.
	ctx, cancel := p.context(context.WithoutCancel(ctx))
	defer cancel()
	found, err := oidc.NewProvider(ctx, p.cfg.Issuer)
	if err != nil {
		return nil, err
	}
	var more struct {
		Revoke      string   `json:"revocation_endpoint"`
		Methods     []string `json:"token_endpoint_auth_methods_supported"`
		NamesItself bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := found.Claims(&more); err != nil {
		return nil, err
	}
	at := found.Endpoint()
	for _, u := range []string{at.AuthURL, at.TokenURL, more.Revoke} {
		if _, err := safeURL(u); u != "" && err != nil {
			return nil, fmt.Errorf("an endpoint %w", err)
		}
	}
	return &endpoints{
		oauth: p.oauth(at, more.Methods), revoke: or(p.cfg.RevokeURL, more.Revoke), oidc: found, issuer: p.cfg.Issuer, namesItself: more.NamesItself,
		verifier: found.Verifier(&oidc.Config{ClientID: p.cfg.ClientID, Now: p.clock}),
	}, nil
}

// authorize is the address to which the start page sends the browser.
func (p *provider) authorize(at *endpoints, state, verifier, nonce string) string {
	opts := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	if at.oidc != nil {
		opts = append(opts, oidc.Nonce(nonce))
		if slices.Contains(at.oauth.Scopes, oidc.ScopeOfflineAccess) && p.cfg.Params["prompt"] == "" {
			// OpenID Connect Core §11: without it there is no refresh token.
			opts = append(opts, oauth2.SetAuthURLParam("prompt", "consent"))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.cfg.Params)) {
		opts = append(opts, oauth2.SetAuthURLParam(key, p.cfg.Params[key]))
	}
	return at.oauth.AuthCodeURL(state, opts...)
}

// credentials are the tokens of a user's sign-in. They are always encrypted in the
// store.
type credentials struct {
	Access  string    `json:"access"`
	Type    string    `json:"type,omitempty"`
	Refresh string    `json:"refresh,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	Subject string    `json:"subject,omitempty"` // the provider's id of the user
	Name    string    `json:"name,omitempty"`    // display name
}

func (c *credentials) token() *oauth2.Token {
	return &oauth2.Token{AccessToken: c.Access, TokenType: c.Type, Expiry: c.Expires}
}

// expires is when an access token expires, by the popup's clock. It is zero if the
// provider does not say.
func (p *provider) expires(tok *oauth2.Token) time.Time {
	if tok.ExpiresIn > 0 {
		return p.clock().Add(time.Duration(tok.ExpiresIn) * time.Second).UTC()
	}
	return tok.Expiry
}

// errIDToken means that the provider's id token is not valid.
var errIDToken = errors.New("id token")

// redeem turns an authorization code into credentials.
func (p *provider) redeem(ctx context.Context, code, verifier, nonce string) (credentials, error) {
	at, err := p.find(ctx)
	if err != nil {
		return credentials{}, err
	}
	ctx, cancel := p.context(ctx)
	defer cancel()
	tok, err := at.oauth.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return credentials{}, fmt.Errorf("code: %w", err)
	}
	got := credentials{Access: tok.AccessToken, Type: tok.TokenType, Refresh: tok.RefreshToken, Expires: p.expires(tok)}
	if at.oidc == nil {
		got.Subject, got.Name = p.profile(ctx, tok)
		return got, nil
	}
	raw, _ := tok.Extra("id_token").(string)
	id, err := at.verifier.Verify(ctx, raw)
	if err != nil {
		return credentials{}, fmt.Errorf("%w: %w", errIDToken, withoutURL(err))
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1 {
		return credentials{}, fmt.Errorf("%w: made for another popup", errIDToken)
	}
	var claims profile
	if err := id.Claims(&claims); err != nil {
		return credentials{}, fmt.Errorf("%w: claims cannot be read", errIDToken)
	}
	got.Subject, got.Name = id.Subject, claims.name()
	if got.Name == "" {
		got.Name = p.userInfo(ctx, at, tok, id.Subject)
	}
	return got, nil
}

// userInfo asks the provider for the user's name. It returns "" if there is none.
func (p *provider) userInfo(ctx context.Context, at *endpoints, tok *oauth2.Token, subject string) string {
	info, err := at.oidc.UserInfo(ctx, oauth2.StaticTokenSource(tok))
	if err != nil || info.Subject != subject {
		return ""
	}
	var claims profile
	if info.Claims(&claims) != nil {
		return ""
	}
	return claims.name()
}

// profile has the members in which providers return the user's id and name.
type profile struct {
	Subject   userID `json:"sub"`
	ID        userID `json:"id"`
	Name      string `json:"name"`
	Display   string `json:"displayName"`
	Preferred string `json:"preferred_username"`
	Login     string `json:"login"`
	Mail      string `json:"email"`
}

// userID is the id of a user. Providers send it as a text or as a number; the digits of
// a number are kept exactly.
type userID string

// UnmarshalJSON never fails. A value that is neither text nor number is no id.
func (id *userID) UnmarshalJSON(b []byte) error {
	var text string
	var number json.Number
	switch {
	case json.Unmarshal(b, &text) == nil:
		*id = userID(text)
	case json.Unmarshal(b, &number) == nil:
		*id = userID(number)
	}
	return nil
}

func (p *profile) name() string {
	for _, n := range []string{p.Name, p.Display, p.Preferred, p.Login, p.Mail} {
		if n = strings.TrimSpace(n); n != "" {
			return bounded(n)
		}
	}
	return ""
}

// profile asks a plain OAuth 2.0 provider for the user's id and name. The sign-in does
// not depend on it, so an error counts as no answer.
func (p *provider) profile(ctx context.Context, tok *oauth2.Token) (subject, name string) {
	if p.cfg.ProfileURL == "" {
		return "", ""
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.cfg.ProfileURL, nil)
	if err != nil {
		return "", ""
	}
	tok.SetAuthHeader(req)
	req.Header.Set("Accept", "application/json")
	body, status, err := p.do(req)
	var got profile
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &got) != nil {
		return "", ""
	}
	return bounded(string(or(got.Subject, got.ID))), got.name()
}

// refresh uses the refresh token and returns the new credentials. The provider may have
// replaced the refresh token.
func (p *provider) refresh(ctx context.Context, old credentials) (credentials, error) {
	at, err := p.find(ctx)
	if err != nil {
		return credentials{}, err
	}
	ctx, cancel := p.context(ctx)
	defer cancel()
	tok, err := at.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: old.Refresh}).Token()
	if err != nil {
		return credentials{}, fmt.Errorf("refresh: %w", err)
	}
	got := old
	got.Access, got.Type, got.Expires = tok.AccessToken, tok.TokenType, p.expires(tok)
	got.Refresh = or(tok.RefreshToken, old.Refresh)
	return got, nil
}

// revoke revokes the credentials at the provider (RFC 7009), if it has an endpoint for
// that.
func (p *provider) revoke(ctx context.Context, c credentials) error {
	at, err := p.find(ctx)
	if err != nil {
		return err
	}
	if at.revoke == "" {
		return nil
	}
	ctx, cancel := p.context(ctx)
	defer cancel()
	var errs []error
	for _, t := range []struct{ hint, token string }{{"refresh_token", c.Refresh}, {"access_token", c.Access}} {
		if t.token != "" {
			errs = append(errs, p.revokeOne(ctx, at, t.hint, t.token))
		}
	}
	return errors.Join(errs...)
}

func (p *provider) revokeOne(ctx context.Context, at *endpoints, hint, token string) error {
	form := url.Values{"token": {token}, "token_type_hint": {hint}}
	basic := at.oauth.Endpoint.AuthStyle == oauth2.AuthStyleInHeader
	if !basic {
		form.Set("client_id", at.oauth.ClientID)
		if at.oauth.ClientSecret != "" {
			form.Set("client_secret", at.oauth.ClientSecret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.revoke, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("revoke: %w", withoutURL(err))
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if basic {
		req.SetBasicAuth(url.QueryEscape(at.oauth.ClientID), url.QueryEscape(at.oauth.ClientSecret))
	}
	_, status, err := p.do(req)
	switch {
	case err != nil:
		return fmt.Errorf("revoke: %w", withoutURL(err))
	case status != http.StatusOK && status != http.StatusNoContent:
		return fmt.Errorf("revoke: status %d", status)
	default:
		return nil
	}
}

// do sends a request and reads the answer, up to a limit.
func (p *provider) do(req *http.Request) ([]byte, int, error) {
	const limit = 1 << 20
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // the body was read
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	return body, resp.StatusCode, err
}

// withoutURL removes the URL from an error, because its query may have a secret.
func withoutURL(err error) error {
	var located *url.Error
	if errors.As(err, &located) {
		return located.Err
	}
	return err
}

// bounded makes a provider's text fit for a page or a log: it cuts it to 300 characters
// and replaces control characters by spaces.
func bounded(text string) string {
	const most = 300
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len([]rune(text)) > most {
		text = string([]rune(text)[:most]) + "…"
	}
	return text
}
