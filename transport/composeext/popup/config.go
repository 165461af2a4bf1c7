package popup

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// The Teams JavaScript library as Microsoft publishes it, and the hash in its release
// notes.
const (
	DefaultTeamsJSURL       = "https://res.cdn.office.net/teams-js/2.58.0/js/MicrosoftTeams.min.js"
	DefaultTeamsJSIntegrity = "sha384-sMo/EOqQPa1OCup2/VBRum7oFeOS22kvs8WGDc45xK53tUVZzFR5WwFYDUYN1LO4"
)

// Defaults of a [Config].
const (
	DefaultCodeLifetime  = 5 * time.Minute
	DefaultPopupLifetime = 10 * time.Minute
	DefaultLinkLifetime  = 15 * time.Minute
	DefaultWidth         = 600
	DefaultHeight        = 640

	providerTimeout = 10 * time.Second
	keySize         = 32
)

// Store has the methods of store.Store that a popup calls.
type Store interface {
	Apply(ctx context.Context, commits []store.Commit) []error
	Mark(ctx context.Context, name string) (store.Mark, error)
	Secret() []byte
}

// Config configures a [Popup]. AppID, Connection, PublicURL, Store, Keys and Provider
// are required.
type Config struct {
	AppID      string
	Connection string
	// PublicURL is the URL at which browsers reach the bot: https, or http on a
	// loopback host. The pages are at {PublicURL}/auth/.
	PublicURL string
	Store     Store
	// Keys encrypt the credentials; each has 32 bytes. The first key encrypts, and
	// all keys decrypt. To rotate, put the new key in front of the old one.
	Keys     [][]byte
	Provider Provider

	// TeamsJSURL is the URL of the Teams JavaScript library, with which the last page
	// reports the result; "" = [DefaultTeamsJSURL]. Any other URL needs its hash in
	// TeamsJSIntegrity.
	TeamsJSURL       string
	TeamsJSIntegrity string // such as "sha384-…"

	CodeLifetime  time.Duration // lifetime of a security code; 0 = 5 min
	PopupLifetime time.Duration // longest time from the start page to the callback; 0 = 10 min
	LinkLifetime  time.Duration // lifetime of the link to the start page; 0 = 15 min

	Width, Height int   // size of the popup in pixels; 0 = 600 and 640
	Words         Words // texts of the pages; an empty one has the default

	Limits Limits // limits on requests to the pages; the zero value has the defaults
	// OnRefused is called with the reason if a request is over a limit: [WhyClient] or
	// [WhyOverall]. nil = not called.
	OnRefused func(why string)

	HTTPClient *http.Client     // for requests to the provider; nil = a client with a timeout of 10 s
	Clock      func() time.Time // nil = time.Now
	Log        zerolog.Logger
}

// Provider is the identity provider at which users sign in. With Issuer it is an
// OpenID Connect provider; with AuthorizeURL and TokenURL it is a plain OAuth 2.0
// provider.
type Provider struct {
	Issuer string // the discovery document has the URLs

	AuthorizeURL string
	TokenURL     string
	ProfileURL   string // returns a JSON object about the user; "" = users have no name
	RevokeURL    string // RFC 7009; "" = from the discovery document, or no revocation

	ClientID     string
	ClientSecret tokensvc.Secret // empty for a public client
	// TokenAuthMethod is how the client sends its secret: [AuthBasic] or [AuthPost].
	// "" = AuthBasic, which every OAuth 2.0 server accepts (RFC 6749 §2.3.1), unless
	// the discovery document lists methods without it. The other method is never
	// tried after a failure, because a code can be used once.
	TokenAuthMethod string
	Scopes          []string // openid is added for an OpenID Connect provider
	// Params are further parameters of the authorization request.
	Params map[string]string
}

// The ways in which a client sends its secret to the token endpoint, with their names
// in RFC 7591.
const (
	AuthBasic = "client_secret_basic" // in a header
	AuthPost  = "client_secret_post"  // in the body
)

// check returns everything that is wrong, with the keys of the configuration file.
func (p *Provider) check() error {
	var errs []error
	if p.ClientID == "" {
		errs = append(errs, errors.New("provider.client_id: is missing"))
	}
	switch {
	case p.Issuer != "" && (p.AuthorizeURL != "" || p.TokenURL != "" || p.ProfileURL != ""):
		errs = append(errs, errors.New("provider.issuer: stands alone, authorize_url, token_url and profile_url are found by it"))
	case p.Issuer == "" && (p.AuthorizeURL == "" || p.TokenURL == ""):
		errs = append(errs, errors.New("provider: issuer, or authorize_url and token_url, are missing"))
	}
	if m := p.TokenAuthMethod; m != "" && m != AuthBasic && m != AuthPost {
		errs = append(errs, fmt.Errorf("provider.token_endpoint_auth_method: %q is neither %s nor %s", m, AuthBasic, AuthPost))
	}
	for _, u := range []struct{ key, value string }{
		{"issuer", p.Issuer},
		{"authorize_url", p.AuthorizeURL},
		{"token_url", p.TokenURL},
		{"profile_url", p.ProfileURL},
		{"revoke_url", p.RevokeURL},
	} {
		if u.value == "" {
			continue
		}
		if _, err := safeURL(u.value); err != nil {
			errs = append(errs, fmt.Errorf("provider.%s: %w", u.key, err))
		}
	}
	return errors.Join(errs...)
}

// sri is the form of a subresource integrity hash.
var sri = regexp.MustCompile(`^sha(256|384|512)-[A-Za-z0-9+/]+={0,2}$`)

// Validate returns everything that is wrong with c, one error a line, with the keys of
// the configuration file.
func (c *Config) Validate() error {
	var errs []error
	for _, m := range []struct {
		key   string
		there bool
	}{
		{"app_id", c.AppID != ""},
		{"connection", c.Connection != ""},
		{"store", c.Store != nil},
	} {
		if !m.there {
			errs = append(errs, fmt.Errorf("%s: is missing", m.key))
		}
	}
	if c.PublicURL == "" {
		errs = append(errs, errors.New("public_url: is missing"))
	} else if _, err := publicURL(c.PublicURL); err != nil {
		errs = append(errs, fmt.Errorf("public_url: %w", err))
	}
	if len(c.Keys) == 0 {
		errs = append(errs, errors.New("encryption_key: is missing"))
	}
	for _, k := range c.Keys {
		if len(k) != keySize {
			errs = append(errs, fmt.Errorf("encryption_key: %d bytes, want %d", len(k), keySize))
		}
	}
	errs = append(errs, c.Provider.check(), c.Limits.check())
	if c.TeamsJSURL != "" && c.TeamsJSURL != DefaultTeamsJSURL {
		if _, err := scriptURL(c.TeamsJSURL); err != nil {
			errs = append(errs, fmt.Errorf("teamsjs_url: %w", err))
		}
		if c.TeamsJSIntegrity == "" {
			errs = append(errs, errors.New("teamsjs_integrity: is missing: only the default teamsjs_url has a known hash"))
		}
	}
	if c.TeamsJSIntegrity != "" && !sri.MatchString(c.TeamsJSIntegrity) {
		errs = append(errs, errors.New("teamsjs_integrity: not of the form sha384-BASE64"))
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"code_lifetime", c.CodeLifetime},
		{"popup_lifetime", c.PopupLifetime},
		{"link_lifetime", c.LinkLifetime},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("%s: must be positive", d.key))
		}
	}
	if c.Width < 0 || c.Height < 0 {
		errs = append(errs, errors.New("width and height: must be positive"))
	}
	return errors.Join(errs...)
}

// ParseKey decodes a key of 32 bytes from base64: standard or URL encoding, with or
// without padding.
func ParseKey(text string) ([]byte, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if key, err := enc.DecodeString(text); err == nil {
			if len(key) != keySize {
				return nil, fmt.Errorf("%d bytes, want %d", len(key), keySize)
			}
			return key, nil
		}
	}
	return nil, errors.New("no base64")
}

// safeURL parses a URL to which secrets may be sent: https, or http on a loopback
// host.
func safeURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("no URL")
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, errors.New("not of the form https://host/path")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return u, nil
	default:
		return nil, errors.New("needs https, or http on a loopback host")
	}
}

// policyHost matches the hosts that may be written into a Content-Security-Policy. In
// other hosts a ; or , would end the directive, and a * would allow many hosts.
var policyHost = regexp.MustCompile(`^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:]+\])(:[0-9]+)?$`)

// scriptURL parses the URL of a script whose host goes into a Content-Security-Policy.
func scriptURL(text string) (*url.URL, error) {
	u, err := safeURL(text)
	if err != nil {
		return nil, err
	}
	if !policyHost.MatchString(u.Host) {
		return nil, fmt.Errorf("the host %q has no place in a Content-Security-Policy: "+
			"it needs a name of letters (other than a to z: in its xn-- form), digits, - and ., and perhaps a port", u.Host)
	}
	return u, nil
}

func publicURL(text string) (*url.URL, error) {
	u, err := safeURL(text)
	if err != nil {
		return nil, err
	}
	if u.RawQuery != "" {
		return nil, errors.New("has a query")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
