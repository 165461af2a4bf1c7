package emulator

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed" // the page
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

//go:embed provider.html
var providerSource string

// ProviderConfig configures a [Provider]. ClientID and RedirectURL are required.
type ProviderConfig struct {
	ClientID     string
	ClientSecret tokensvc.Secret // empty: a public client
	RedirectURL  string          // the only redirect URL that is accepted
	// User is the user who signs in; the zero User is [DefaultUser].
	User User
	// TokenLifetime is the lifetime of an access token; 0 = 1 h.
	TokenLifetime time.Duration
	NoRefresh     bool             // issue no refresh tokens
	BareIDToken   bool             // id tokens have no name, only /profile has it
	NoIssuer      bool             // answers of /authorize do not have the iss parameter (RFC 9207)
	Seed          uint64           // makes tokens and codes repeatable; 0 = random
	Now           func() time.Time // nil = time.Now
}

// Provider is a small third-party provider for OAuth 2.0 and OpenID Connect. It
// requires PKCE. A code can be used once. Refresh tokens rotate; the second use of one
// revokes all tokens of its sign-in. The answers of /authorize name their issuer
// (RFC 9207). There is revocation (RFC 7009) and a profile. The provider has one user,
// who is everybody that opens its page.
//
// It is an [net/http.Handler] of /authorize, /token, /revoke, /profile, /keys and
// /.well-known/openid-configuration below any prefix. A [Server] serves it below
// /provider/; see [Config].
type Provider struct {
	cfg  ProviderConfig
	ids  *ids
	key  func() (*signingKey, error)
	page *template.Template

	mu      sync.Mutex
	down    bool
	fail    *oauthError
	forged  string // nonce of ForgeNonce
	counts  map[string]int
	codes   map[string]*grant // by code
	tokens  map[string]*grant // by access token
	refresh map[string]*grant // by refresh token
}

// grant is one sign-in with its tokens.
type grant struct {
	challenge, nonce, redirect string
	openid                     bool                 // the scopes have openid
	used                       bool                 // the code was used
	revoked                    bool                 // all its tokens are invalid
	expires                    map[string]time.Time // by access token
	current                    string               // the one valid refresh token
}

// NewProvider returns a provider.
func NewProvider(cfg ProviderConfig) *Provider {
	if cfg.TokenLifetime == 0 {
		cfg.TokenLifetime = DefaultTokenLifetime
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.User.ID == "" {
		cfg.User = DefaultUser()
	}
	return &Provider{
		cfg: cfg, ids: newIDs(cfg.Seed), key: sync.OnceValues(newSigningKey),
		page:   template.Must(template.New("provider").Parse(providerSource)),
		counts: map[string]int{}, codes: map[string]*grant{}, tokens: map[string]*grant{}, refresh: map[string]*grant{},
	}
}

// SetDown makes the provider answer 503 to everything, or ends that.
func (p *Provider) SetDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// SetRedirectURL replaces the redirect URL of the configuration, for a bot whose port
// is known only after it listens.
func (p *Provider) SetRedirectURL(redirectURL string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cfg.RedirectURL = redirectURL
}

func (p *Provider) redirectURL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg.RedirectURL
}

// Refuse makes /authorize redirect the browser back with an error. An empty code ends
// that.
func (p *Provider) Refuse(code, description string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = nil
	if code != "" {
		p.fail = &oauthError{code, description}
	}
}

// ForgeNonce puts a nonce into id tokens that differs from the requested one. An
// empty nonce ends that.
func (p *Provider) ForgeNonce(nonce string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forged = nonce
}

// Count returns how often something happened: "authorize", "token", "refresh",
// "revoke" and "profile" count requests, "refused" the refused token requests, and
// "reused" the second uses of a code or a refresh token.
func (p *Provider) Count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[what]
}

// Good reports whether an access token is valid.
func (p *Provider) Good(accessToken string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.good(accessToken)
}

func (p *Provider) good(access string) bool {
	g := p.tokens[access]
	return g != nil && !g.revoked && p.cfg.Now().Before(g.expires[access])
}

// Secrets returns every code and token that the provider has ever issued, so that a
// test can check that none of them was logged or stored.
func (p *Provider) Secrets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, m := range []map[string]*grant{p.codes, p.tokens, p.refresh} {
		for secret := range m {
			all = append(all, secret)
		}
	}
	return all
}

// ServeHTTP serves the provider. The end of the path selects the endpoint.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	w.Header().Set("Cache-Control", "no-store")
	path := strings.TrimRight(r.URL.Path, "/")
	if down {
		refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "the provider is down")
		return
	}
	base := "http://" + r.Host + path[:strings.LastIndexByte(path, '/')+1]
	switch {
	case strings.HasSuffix(path, "/.well-known/openid-configuration"):
		p.discovery(w, "http://"+r.Host+strings.TrimSuffix(path, "/.well-known/openid-configuration"))
	case strings.HasSuffix(path, "/authorize"):
		p.authorize(w, r, strings.TrimRight(base, "/"))
	case strings.HasSuffix(path, "/token") && r.Method == http.MethodPost:
		p.token(w, r, strings.TrimRight(base, "/"))
	case strings.HasSuffix(path, "/revoke") && r.Method == http.MethodPost:
		p.revokeToken(w, r)
	case strings.HasSuffix(path, "/profile"):
		p.profile(w, r)
	case strings.HasSuffix(path, "/keys"):
		p.keys(w)
	default:
		refuse(w, http.StatusNotFound, "NotFound", "no such page")
	}
}

func (p *Provider) discovery(w http.ResponseWriter, base string) {
	answerJSON(w, statusOK, map[string]any{
		"issuer": base, "authorization_endpoint": base + "/authorize", "token_endpoint": base + "/token",
		"revocation_endpoint": base + "/revoke", "userinfo_endpoint": base + "/profile", "jwks_uri": base + "/keys",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"}, "code_challenge_methods_supported": []string{"S256"},
		"token_endpoint_auth_methods_supported":          []string{"client_secret_basic", "client_secret_post", "none"},
		"authorization_response_iss_parameter_supported": !p.cfg.NoIssuer,
	})
}

// authorize shows the page that asks for consent, and handles its answer.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request, issuer string) {
	q := r.URL.Query()
	// Never redirect a browser to an address that is not registered.
	if q.Get("client_id") != p.cfg.ClientID || q.Get("redirect_uri") != p.redirectURL() {
		refuse(w, http.StatusBadRequest, "invalid_client", "the client or its redirect URL is not registered")
		return
	}
	p.mu.Lock()
	p.counts["authorize"]++
	fail := p.fail
	p.mu.Unlock()
	challenge, err := base64.RawURLEncoding.DecodeString(q.Get("code_challenge"))
	switch {
	case fail != nil:
		p.back(w, r, issuer, url.Values{"error": {fail.Error}, "error_description": {fail.Description}})
	case q.Get("response_type") != "code":
		p.back(w, r, issuer, url.Values{"error": {"unsupported_response_type"}})
	case q.Get("code_challenge_method") != "S256" || err != nil || len(challenge) != sha256.Size:
		p.back(w, r, issuer, url.Values{"error": {"invalid_request"}, "error_description": {"PKCE with S256 is required"}})
	case r.Method == http.MethodGet:
		p.ask(w, r)
	case r.FormValue("answer") != "allow":
		p.back(w, r, issuer, url.Values{"error": {"access_denied"}, "error_description": {"The user said no."}})
	default:
		code := "third-party-code-" + p.ids.hex(16)
		p.mu.Lock()
		p.codes[code] = &grant{
			challenge: q.Get("code_challenge"), nonce: q.Get("nonce"), redirect: q.Get("redirect_uri"),
			openid: strings.Contains(" "+q.Get("scope")+" ", " openid "), expires: map[string]time.Time{},
		}
		p.mu.Unlock()
		p.back(w, r, issuer, url.Values{"code": {code}})
	}
}

func (p *Provider) back(w http.ResponseWriter, r *http.Request, issuer string, answer url.Values) {
	if !p.cfg.NoIssuer {
		answer.Set("iss", issuer)
	}
	answer.Set("state", r.URL.Query().Get("state"))
	http.Redirect(w, r, p.redirectURL()+"?"+answer.Encode(), http.StatusSeeOther)
}

func (p *Provider) ask(w http.ResponseWriter, r *http.Request) {
	var buf bytes.Buffer
	err := p.page.Execute(&buf, map[string]string{"User": p.cfg.User.Name, "Action": "?" + r.URL.RawQuery})
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalServerError", "the page cannot be shown")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// There is no form-action: the answer to the form is a redirect to the client,
	// which has another origin.
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'")
	w.WriteHeader(statusOK)
	write(w, buf.Bytes())
}

func (p *Provider) client(r *http.Request) bool {
	id, secret, basic := r.BasicAuth()
	if basic {
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
	} else {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	return id == p.cfg.ClientID && subtle.ConstantTimeCompare([]byte(secret), []byte(p.cfg.ClientSecret.Reveal())) == 1
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request, base string) {
	if !p.client(r) {
		answerJSON(w, http.StatusUnauthorized, oauthError{"invalid_client", "client id or secret is wrong"})
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var g *grant
	switch r.PostFormValue("grant_type") {
	case "authorization_code":
		g = p.byCode(r)
		p.counts["token"]++
	case "refresh_token":
		g = p.byRefresh(r.PostFormValue("refresh_token"))
		p.counts["refresh"]++
	}
	if g == nil || g.revoked {
		p.counts["refused"]++
		answerJSON(w, http.StatusBadRequest, oauthError{"invalid_grant", "unknown, used, or over"})
		return
	}
	access := "third-party-access-" + p.ids.hex(16)
	g.expires[access] = p.cfg.Now().Add(p.cfg.TokenLifetime)
	p.tokens[access] = g
	answer := map[string]any{
		"access_token": access, "token_type": "Bearer", "expires_in": int(p.cfg.TokenLifetime.Seconds()),
	}
	if !p.cfg.NoRefresh {
		g.current = "third-party-refresh-" + p.ids.hex(16)
		p.refresh[g.current], answer["refresh_token"] = g, g.current
	}
	if g.openid {
		id, err := p.idToken(base, cmp.Or(p.forged, g.nonce))
		if err != nil {
			refuse(w, http.StatusInternalServerError, "InternalServerError", "no key")
			return
		}
		answer["id_token"] = id
	}
	answerJSON(w, statusOK, answer)
}

// byCode finds the grant of a code. The second use of a code revokes all tokens of
// its grant (RFC 6749 §4.1.2).
func (p *Provider) byCode(r *http.Request) *grant {
	g := p.codes[r.PostFormValue("code")]
	if g == nil {
		return nil
	}
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	switch {
	case g.used:
		g.revoked = true
		p.counts["reused"]++
	case b64(sum[:]) != g.challenge, r.PostFormValue("redirect_uri") != g.redirect:
		return nil
	}
	g.used = true
	return g
}

func (p *Provider) byRefresh(token string) *grant {
	g := p.refresh[token]
	if g != nil && g.current != token {
		g.revoked = true
		p.counts["reused"]++
	}
	return g
}

func (p *Provider) revokeToken(w http.ResponseWriter, r *http.Request) {
	if !p.client(r) {
		answerJSON(w, http.StatusUnauthorized, oauthError{"invalid_client", "client id or secret is wrong"})
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts["revoke"]++
	token := r.PostFormValue("token")
	if g := p.refresh[token]; g != nil {
		g.revoked = true
	}
	if g := p.tokens[token]; g != nil {
		delete(g.expires, token)
	}
	w.WriteHeader(statusOK)
}

func (p *Provider) profile(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	good := p.good(bearer(r))
	p.counts["profile"]++
	p.mu.Unlock()
	if !good {
		refuse(w, http.StatusUnauthorized, "invalid_token", "unknown, revoked, or over")
		return
	}
	answerJSON(w, statusOK, map[string]string{"sub": p.cfg.User.AADObjectID, "name": p.cfg.User.Name, "email": p.cfg.User.Mail})
}

func (p *Provider) keys(w http.ResponseWriter) {
	key, err := p.key()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalServerError", "no key")
		return
	}
	answerJSON(w, statusOK, keysAnswer{[]publicKey{key.public()}})
}

func (p *Provider) idToken(issuer, nonce string) (string, error) {
	key, err := p.key()
	if err != nil {
		return "", err
	}
	now := p.cfg.Now()
	claims := map[string]any{
		"iss": issuer, "aud": p.cfg.ClientID, "sub": p.cfg.User.AADObjectID, "nonce": nonce,
		"iat": now.Unix(), "exp": now.Add(p.cfg.TokenLifetime).Unix(),
	}
	if !p.cfg.BareIDToken {
		claims["name"] = p.cfg.User.Name
	}
	return key.sign(claims)
}
