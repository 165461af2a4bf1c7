package teams

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jws/jwsbb"
	"github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/tokensvc"
)

const (
	// tokenSkew is how far the clocks of bot and issuer may differ.
	tokenSkew = 300 * time.Second
	// maxToken bounds the length of a bearer token, in bytes. Those of the
	// connector have fewer than 2,000.
	maxToken = 16 << 10
	// keysRetryAfter is the Retry-After of a request that arrives before any keys
	// were fetched.
	keysRetryAfter = 5 * time.Second
)

// AuthConfig of an [Authenticator].
type AuthConfig struct {
	// AppID of the bot, the audience of the tokens. Required.
	AppID string
	// Cloud of the bot. The zero Cloud is the public one.
	Cloud tokensvc.Cloud
	// OpenIDMetadataURL leads to the connector's keys; https, or plain http on
	// a loopback address. "" = the cloud's.
	OpenIDMetadataURL string
	// Agentic also accepts tokens of Agent 365. nil = no.
	Agentic *Agentic
	// ServiceURLs are the allowed service URLs of activities. Only
	// [Authenticator.Middleware] uses them. nil = the connector's own hosts.
	ServiceURLs *AllowList
	// Limits of what the middleware reads: Body, BodyTimeout and Depth.
	Limits Limits
	// Refusals counts and logs refused requests. nil = a count of its own.
	Refusals *Refusals
	// HTTPClient fetches metadata and keys. nil = a client of its own.
	HTTPClient *http.Client
	// Clock is the time for the checks of tokens. nil = time.Now.
	Clock func() time.Time
	// Log gets messages about the keys. If Refusals is nil, it also gets a
	// warning for each kind of refusal.
	Log zerolog.Logger
}

// Agentic says which Entra tokens of Agent 365 are accepted (docs/protocol.md §1). They
// name no service URL, so the allow-list replaces that claim.
type Agentic struct {
	// Tenant is the id of the only tenant of such tokens. Required.
	Tenant string
	// BlueprintID is the app id of the agent's blueprint, which may be the audience of
	// such a token too. "" = the bot's own app id only.
	BlueprintID string
	// Callers are the app ids (azp, or appid in a token of version 1) that may send
	// such a token. Any app of the tenant can get one for the bot. Empty = all of them.
	Callers []string
	// LoginURL of Entra. "" = the cloud's.
	LoginURL string
}

// Authenticator checks whether a request comes from the Bot Connector
// (docs/protocol.md §1, rules 1–9). [Authenticator.Middleware] puts it in front
// of any handler; [Config.Authenticator] makes it part of [NewHandler]. Its
// methods may be used from many goroutines. It fetches no keys before it needs
// them.
type Authenticator struct {
	channel  issuer
	agentic  *issuer  // nil: their tokens are not accepted
	tenant   string   // of agentic tokens
	callers  []string // of agentic tokens; empty: any
	allowed  *AllowList
	intake   *intake
	refusals *Refusals
	now      func() time.Time
}

// issuer is an issuer whose tokens are accepted.
type issuer struct {
	names     []string // accepted values of iss
	audiences []string
	keys      *keySource
}

// NewAuthenticator checks cfg.
func NewAuthenticator(cfg AuthConfig) (*Authenticator, error) {
	if cfg.AppID == "" {
		return nil, errors.New("teams: authenticator: an app id is required")
	}
	if cfg.Cloud.Name == "" {
		cfg.Cloud = tokensvc.PublicCloud()
	}
	if cfg.OpenIDMetadataURL == "" {
		cfg.OpenIDMetadataURL = cfg.Cloud.OpenIDMetadataURL
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Refusals == nil {
		cfg.Refusals = NewRefusals(cfg.Log)
	}
	if cfg.ServiceURLs == nil {
		cfg.ServiceURLs = &AllowList{rules: builtinRules()}
	}
	limits, err := cfg.Limits.withDefaults()
	if err != nil {
		return nil, err
	}
	keys, err := newKeySource(cfg.OpenIDMetadataURL, cfg.HTTPClient, cfg.Clock, cfg.Log)
	if err != nil {
		return nil, err
	}
	a := &Authenticator{
		channel:  issuer{names: []string{cfg.Cloud.Issuer}, audiences: audiences(cfg.AppID), keys: keys},
		allowed:  cfg.ServiceURLs,
		intake:   newIntake(limits),
		refusals: cfg.Refusals,
		now:      cfg.Clock,
	}
	if cfg.Agentic != nil {
		if err := a.addAgentic(cfg); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *Authenticator) addAgentic(cfg AuthConfig) error {
	if !tokensvc.IsTenantID(cfg.Agentic.Tenant) {
		return errors.New("teams: authenticator: agentic tokens need the id of their tenant, a GUID")
	}
	a.tenant, a.callers = strings.ToLower(cfg.Agentic.Tenant), cfg.Agentic.Callers
	login := strings.TrimRight(cfg.Agentic.LoginURL, "/")
	if login == "" {
		login = cfg.Cloud.LoginURL
	}
	keys, err := newKeySource(login+"/"+a.tenant+"/v2.0/.well-known/openid-configuration", cfg.HTTPClient, cfg.Clock, cfg.Log)
	if err != nil {
		return err
	}
	a.agentic = &issuer{
		names: []string{
			login + "/" + a.tenant + "/v2.0",
			cfg.Cloud.LoginURL + "/" + a.tenant + "/v2.0",
			cfg.Cloud.STSURL + "/" + a.tenant + "/",
		},
		audiences: audiences(cfg.AppID),
		keys:      keys,
	}
	if cfg.Agentic.BlueprintID != "" {
		a.agentic.audiences = append(a.agentic.audiences, cfg.Agentic.BlueprintID)
	}
	return nil
}

// audiences returns the accepted forms of an app id (rule 3).
func audiences(appID string) []string {
	return []string{appID, "api://" + appID, "api://botid-" + appID}
}

// Ready reports whether tokens can be checked. If no keys were ever fetched, it tries
// to fetch them, and returns an error if it cannot.
func (a *Authenticator) Ready(ctx context.Context) error {
	if err := a.channel.keys.ready(ctx); err != nil {
		return fmt.Errorf("teams: authenticator: %w", err)
	}
	return nil
}

// Refusals returns the count of refused requests.
func (a *Authenticator) Refusals() *Refusals { return a.refusals }

// CloseIdleConnections closes idle connections to the issuers.
func (a *Authenticator) CloseIdleConnections() {
	a.channel.keys.http.CloseIdleConnections()
	if a.agentic != nil {
		a.agentic.keys.http.CloseIdleConnections()
	}
}

// Caller is the sender of a request, as far as its token says.
type Caller struct {
	// Agentic: the token is one of Agent 365.
	Agentic bool
	// Tenant of an agentic token, and App to which it was issued.
	Tenant, App string
	// ServiceURL and Channel are those of the activity, as they were checked
	// against the token. Code that reads the body itself must take them from
	// here, since a body may contain a member twice.
	ServiceURL, Channel string
}

type callerKey struct{}

// CallerOf returns the caller that an [Authenticator] accepted; false without one.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

func withCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Middleware passes POST requests of the connector to next. Their body can be read
// again, and their context has a [Caller]. It answers other requests without a reason:
// 401 to a token that is not valid for this activity, 503 while no keys were ever
// fetched, 403 to a service URL that is not on the list, 413, 408 and 400 to a body
// that is too long, too slow, or no activity.
func (a *Authenticator) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, release, caller, f := a.admit(w, r)
		defer release()
		if f != nil {
			a.refusals.add(f)
			f.answer(w, r)
			return
		}
		r = r.WithContext(withCaller(r.Context(), caller))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		next.ServeHTTP(w, r)
	})
}

func (a *Authenticator) admit(w http.ResponseWriter, r *http.Request) ([]byte, func(), Caller, *refusal) {
	nothing := func() {}
	p, f := a.authenticate(r)
	if f != nil {
		return nil, nothing, Caller{}, f
	}
	body, release, f := a.intake.read(w, r)
	if f != nil {
		return nil, release, Caller{}, f
	}
	activity, err := DecodeActivity(body)
	if err != nil {
		return nil, release, Caller{}, malformed(err)
	}
	caller, f := p.admit(activity.Conversation.Channel, activity.Conversation.ServiceURL)
	if f != nil {
		return nil, release, Caller{}, f
	}
	if err := a.allowed.Check(caller.ServiceURL); err != nil {
		return nil, release, Caller{}, unlisted(err)
	}
	return body, release, caller, nil
}

// pass is a valid token that still has to match its activity.
type pass struct {
	agentic      bool
	tenant, app  string
	endorsements []string
	serviceURL   string
}

func unauthorized(why Why, err error) *refusal {
	return &refusal{why: why, status: http.StatusUnauthorized, err: err}
}

// authenticate applies the rules that need no activity. It does not read the
// body.
func (a *Authenticator) authenticate(r *http.Request) (*pass, *refusal) {
	p, f := a.check(r)
	if f != nil {
		f.unread = true
		return nil, f
	}
	return p, nil
}

func (a *Authenticator) check(r *http.Request) (*pass, *refusal) {
	token, f := bearerOf(r)
	if f != nil {
		return nil, f
	}
	by, id, f := a.issuerOf(token)
	if f != nil {
		return nil, f
	}
	key, err := by.keys.key(r.Context(), id)
	switch {
	case errors.Is(err, errNoKeys):
		return nil, &refusal{why: WhyKeysUnavailable, status: http.StatusServiceUnavailable, err: err, retryAfter: keysRetryAfter}
	case err != nil:
		return nil, unauthorized(WhyKeyUnknown, fmt.Errorf("key %q: %w", short(id), err))
	}
	// VerifyCompactFast also requires RS256 in the header, and refuses critical
	// header members.
	payload, err := jws.VerifyCompactFast(key.public, token, jwa.RS256())
	if err != nil {
		return nil, unauthorized(WhySignature, fmt.Errorf("key %q", short(id)))
	}
	claims := jwt.New()
	if err := json.Unmarshal(payload, claims); err != nil {
		return nil, unauthorized(WhyTokenMalformed, errors.New("claims"))
	}
	if f := a.judge(by, claims); f != nil {
		return nil, f
	}
	p := &pass{agentic: by == a.agentic, endorsements: key.endorsements}
	if p.agentic {
		return p, a.judgeAgent(p, claims)
	}
	if claims.Get("serviceurl", &p.serviceURL) != nil || strings.Trim(p.serviceURL, "/") == "" {
		return nil, unauthorized(WhyServiceURLClaim, errors.New("the token has none"))
	}
	return p, nil
}

// bearerOf applies rule 1. It refuses two headers, and two tokens in one header,
// since no honest client sends them.
func bearerOf(r *http.Request) ([]byte, *refusal) {
	headers := r.Header["Authorization"]
	if len(headers) == 0 {
		return nil, unauthorized(WhyTokenMissing, nil)
	}
	scheme, token, two := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !two || !strings.EqualFold(scheme, "Bearer") || len(token) > maxToken || !isCompact(token) {
		return nil, unauthorized(WhyTokenMalformed, nil)
	}
	return []byte(token), nil
}

// isCompact reports whether a token has three parts of base64url (RFC 7515 §7.1).
func isCompact(token string) bool {
	dots := 0
	for i := range len(token) {
		switch c := token[i]; {
		case c == '.':
			dots++
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return dots == 2
}

// issuerOf reads what the token claims about itself: the algorithm (rule 4), the
// id of its key (rule 6), and the issuer, who decides which keys are valid. None
// of this is trusted yet.
func (a *Authenticator) issuerOf(token []byte) (*issuer, string, *refusal) {
	var header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}
	var claims struct {
		Issuer string `json:"iss"`
		Azp    string `json:"azp"`
		AppID  string `json:"appid"`
	}
	head, payload, _, err := jwsbb.SplitCompact(token)
	if err != nil || decodePart(head, &header) != nil || decodePart(payload, &claims) != nil {
		return nil, "", unauthorized(WhyTokenMalformed, nil)
	}
	if header.Algorithm != jwa.RS256().String() {
		return nil, "", unauthorized(WhyAlgorithm, fmt.Errorf("%q", short(header.Algorithm)))
	}
	if header.KeyID == "" {
		return nil, "", unauthorized(WhyKeyMissing, nil)
	}
	for _, by := range []*issuer{&a.channel, a.agentic} {
		if by != nil && slices.Contains(by.names, claims.Issuer) {
			return by, header.KeyID, nil
		}
	}
	f := unauthorized(WhyIssuer, fmt.Errorf("%q", short(claims.Issuer)))
	f.caller = cmp.Or(claims.Azp, claims.AppID) // as claimed; not verified
	return nil, "", f
}

func decodePart(encoded []byte, into any) error {
	decoded, err := base64.RawURLEncoding.AppendDecode(nil, encoded)
	if err != nil {
		return err
	}
	return json.Unmarshal(decoded, into)
}

// judge applies rules 2, 3 and 5 to claims whose signature is valid.
func (a *Authenticator) judge(by *issuer, claims jwt.Token) *refusal {
	if name, _ := claims.Issuer(); !slices.Contains(by.names, name) {
		return unauthorized(WhyIssuer, fmt.Errorf("%q", short(name)))
	}
	audience, _ := claims.Audience()
	if !slices.ContainsFunc(audience, func(of string) bool {
		return slices.ContainsFunc(by.audiences, func(own string) bool { return strings.EqualFold(of, own) })
	}) {
		return unauthorized(WhyAudience, fmt.Errorf("%.256q", audience))
	}
	if !claims.Has(jwt.ExpirationKey) {
		return unauthorized(WhyExpiryMissing, nil)
	}
	err := jwt.Validate(claims, jwt.WithResetValidators(true),
		jwt.WithValidator(jwt.IsExpirationValid()), jwt.WithValidator(jwt.IsNbfValid()),
		jwt.WithAcceptableSkew(tokenSkew), jwt.WithClock(jwt.ClockFunc(a.now)))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.TokenNotYetValidError()):
		return unauthorized(WhyNotYetValid, nil)
	default:
		return unauthorized(WhyExpired, nil)
	}
}

// judgeAgent checks the tenant of an agentic token, and the app to which it was
// issued. A token that was issued in a user's name, such as the SSO token that
// Teams sends, has the same issuer, tenant and audience. Its scope gives it away.
func (a *Authenticator) judgeAgent(p *pass, claims jwt.Token) *refusal {
	if claims.Get("azp", &p.app) != nil {
		_ = claims.Get("appid", &p.app) // stays "" if the token has neither
	}
	refuse := func(why Why, err error) *refusal {
		f := unauthorized(why, err)
		f.caller = p.app
		return f
	}
	switch {
	case claims.Has("scp"):
		return refuse(WhyTenant, errors.New("a token in a user's name, not a service's"))
	case claims.Get("tid", &p.tenant) != nil || !strings.EqualFold(p.tenant, a.tenant):
		return refuse(WhyTenant, fmt.Errorf("%q", short(p.tenant)))
	case len(a.callers) > 0 && !slices.ContainsFunc(a.callers, func(app string) bool { return app != "" && strings.EqualFold(app, p.app) }):
		return refuse(WhyCaller, fmt.Errorf("%q", short(p.app)))
	}
	return nil
}

// admit applies rules 7 and 8: the token must be valid for this activity.
func (p *pass) admit(channel, serviceURL string) (Caller, *refusal) {
	caller := Caller{Agentic: p.agentic, Tenant: p.tenant, App: p.app, ServiceURL: serviceURL, Channel: channel}
	if p.agentic {
		return caller, nil
	}
	base, _, _ := strings.Cut(channel, ":")
	if len(p.endorsements) > 0 && !slices.Contains(p.endorsements, base) {
		return Caller{}, unauthorized(WhyEndorsement, fmt.Errorf("channel %q", short(base)))
	}
	if strings.TrimRight(serviceURL, "/") != strings.TrimRight(p.serviceURL, "/") {
		return Caller{}, unauthorized(WhyServiceURLClaim, errors.New("the activity names another service URL"))
	}
	return caller, nil
}
