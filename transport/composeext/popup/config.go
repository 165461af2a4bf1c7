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

// The library of the Teams client as Microsoft publishes it, and the hash that
// its release notes give.
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

// Store is what a popup asks of a store; every store.Store is one.
type Store interface {
	Apply(ctx context.Context, commits []store.Commit) []error
	Mark(ctx context.Context, name string) (store.Mark, error)
	Secret() []byte
}

// Config of a [Popup]. AppID, Connection, PublicURL, Store, Keys and Provider
// are required.
type Config struct {
	AppID      string
	Connection string
	// PublicURL is the bot's own host as Teams sees it. https, or http on a
	// loopback host. Its pages are at {PublicURL}/auth/.
	PublicURL string
	Store     Store
	// Keys seal credentials, 32 bytes each. The first one seals, every one opens:
	// a new key goes in front of the old one.
	Keys     [][]byte
	Provider Provider

	// TeamsJSURL is the library that tells the Teams client how the popup ended;
	// "" = [DefaultTeamsJSURL]. Any other URL needs its hash.
	TeamsJSURL       string
	TeamsJSIntegrity string // "sha384-…"

	CodeLifetime  time.Duration // of a security code; 0 = [DefaultCodeLifetime]
	PopupLifetime time.Duration // from start page to callback; 0 = [DefaultPopupLifetime]
	LinkLifetime  time.Duration // of the link to the start page; 0 = [DefaultLinkLifetime]

	Width, Height int   // of the popup in pixels; 0 = [DefaultWidth], [DefaultHeight]
	Words         Words // what the pages say; empty members have a default

	Limits Limits // of requests to the pages; the zero value has the defaults
	// OnRefused sees why a page was not shown: [WhyClient], [WhyOverall]. nil = nobody.
	OnRefused func(why string)

	HTTPClient *http.Client     // to the provider; nil = own
	Clock      func() time.Time // nil = time.Now
	Log        zerolog.Logger
}

// Provider is who the users sign in to: OpenID Connect with Issuer, plain OAuth
// 2.0 with AuthorizeURL and TokenURL.
type Provider struct {
	Issuer string // its discovery document names the rest

	AuthorizeURL string
	TokenURL     string
	ProfileURL   string // answers JSON about the user; "" = nobody's name is known
	RevokeURL    string // RFC 7009; "" = the provider cannot

	ClientID     string
	ClientSecret tokensvc.Secret // empty for a public client
	// TokenAuthMethod is how the client shows its secret: [AuthBasic] or [AuthPost].
	// "" = AuthBasic, which every server of OAuth 2.0 takes (RFC 6749 §2.3.1), unless the
	// discovery document lists its methods without it. The other way is never tried:
	// a code is good for one request.
	TokenAuthMethod string
	Scopes          []string
	// Params are added to the authorization request.
	Params map[string]string
}

// How a client shows its secret at the token endpoint, in the words of RFC 7591.
const (
	AuthBasic = "client_secret_basic" // in a header
	AuthPost  = "client_secret_post"  // in the body
)

// check names what is wrong, by its key in the configuration file.
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

// Validate names everything that is wrong, by the keys of the configuration
// file, one error a line.
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

// ParseKey reads a key of 32 bytes in base64, padded or not, of either alphabet.
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

// safeURL is a URL that secrets may go to: https, or http on this machine.
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

// policyHost is a host that means the same in a content security policy as in a URL,
// where ; and , would end the directive, and * would allow many hosts.
var policyHost = regexp.MustCompile(`^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:]+\])(:[0-9]+)?$`)

// scriptURL is a URL of a script whose host is named in a content security policy.
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
