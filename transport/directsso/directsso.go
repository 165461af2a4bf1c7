// Package directsso signs users in to a connection without the Token Service. It
// exchanges the Teams client's SSO token, on behalf of the user, for a token with
// the scopes that the bot needs. The attempt, its rows and its callbacks are the
// same as for any other connection. The bot registers it as a machine.Connection
// with a [Service] as its Tokens.
//
// The SDK v2 calls this SignIn(SSOOptions). It needs no OAuth connection in the
// Azure Bot resource. It does need the user's consent: before that the exchange
// is refused, and the card's button opens [Config].SignInLink, a page of the
// bot's own that asks for consent. After that, the user's next message signs in
// silently.
package directsso

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/internal/vault"
)

// Store keeps the tokens. Every store of this module implements it.
type Store interface {
	Apply(ctx context.Context, commits []store.Commit) []error
	Mark(ctx context.Context, name string) (store.Mark, error)
	Secret() []byte
}

// Config configures a [Service]. All members are required except Resource,
// Tenant, Clock and Log.
type Config struct {
	AppID      string
	Connection string   // its name, as registered with the engine
	Scopes     []string // of the token that the bot gets, for example "https://graph.microsoft.com/User.Read"
	// SignInLink is the page behind the card's button. Its scheme is https,
	// unless its host is a loopback one. New adds scope, clientId and tenantId to
	// its query.
	SignInLink string
	// Resource is the Application ID URI for which Teams makes the SSO token. ""
	// = "api://botid-" followed by the app id.
	Resource string
	Tenant   string // of a single-tenant bot; "" = any
	// OnBehalfOf exchanges the client's token, for example a source of
	// transport/credentials.
	OnBehalfOf machine.OnBehalfOf
	Store      Store
	// Keys returns the keys of 32 bytes that protect the tokens. The first one
	// seals, and each can open. Service calls it again after 5 s, so that keys
	// can be rotated.
	Keys  func() ([]store.SecretKey, error)
	Clock func() time.Time // nil = time.Now
	Log   zerolog.Logger
}

// Service is the machine.TokenService of one connection. It may be used from many
// goroutines, and by many instances on one store.
type Service struct {
	cfg  Config
	link string
	macs []byte // key for the names of records

	mu    sync.Mutex
	ring  *vault.Ring // made of the keys that were read last
	asked time.Time
}

var _ machine.TokenService = (*Service)(nil)

// New checks cfg and makes a Service. It connects to nothing.
func New(cfg Config) (*Service, error) {
	var errs []error
	missing := func(name string, is bool) {
		if is {
			errs = append(errs, fmt.Errorf("%s is missing", name))
		}
	}
	missing("AppID", cfg.AppID == "")
	missing("Connection", cfg.Connection == "")
	missing("Scopes", len(cfg.Scopes) == 0)
	missing("OnBehalfOf", cfg.OnBehalfOf == nil)
	missing("Store", cfg.Store == nil)
	missing("Keys", cfg.Keys == nil)
	link, err := cfg.page()
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("directsso: %w", err)
	}
	if cfg.Resource == "" {
		cfg.Resource = "api://botid-" + cfg.AppID
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	s := &Service{cfg: cfg, link: link, macs: vault.MAC(cfg.Store.Secret(), "signin-engine direct sso")}
	if _, err := s.keys(); err != nil {
		return nil, fmt.Errorf("directsso: %w", err)
	}
	return s, nil
}

// keysFor is how long the keys are used before they are read again.
const keysFor = 5 * time.Second

// keys returns the present keys. If they cannot be read, it returns those that
// were read last.
func (s *Service) keys() (*vault.Ring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Clock()
	if s.ring != nil && now.Sub(s.asked) < keysFor {
		return s.ring, nil
	}
	ring, err := s.askKeys()
	switch {
	case err == nil:
		s.ring = ring
	case s.ring == nil:
		return nil, err
	default:
		s.cfg.Log.Error().Err(err).Str("connection", s.cfg.Connection).Msg("direct sso: the keys cannot be had, and those before are used")
	}
	s.asked = now
	return s.ring, nil
}

func (s *Service) askKeys() (*vault.Ring, error) {
	keys, err := s.cfg.Keys()
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if len(keys) == 0 {
		return nil, errors.New("no keys")
	}
	var raw [][]byte
	for _, k := range keys {
		if len(k.Secret) != store.KeySize {
			return nil, fmt.Errorf("a key has %d bytes, not %d", len(k.Secret), store.KeySize)
		}
		raw = append(raw, k.Secret)
	}
	return vault.New(raw)
}

// page returns the address that the card's button opens.
func (cfg *Config) page() (string, error) {
	at, err := url.Parse(cfg.SignInLink)
	if err != nil || at.Host == "" || at.User != nil {
		return "", errors.New("SignInLink is not an absolute URL")
	}
	host := at.Hostname()
	if local := host == "localhost" || host == "127.0.0.1" || host == "::1"; at.Scheme != "https" && (at.Scheme != "http" || !local) {
		return "", errors.New("SignInLink has to be https")
	}
	query := at.Query()
	query.Set("scope", strings.Join(cfg.Scopes, " "))
	query.Set("clientId", cfg.AppID)
	if cfg.Tenant != "" {
		query.Set("tenantId", cfg.Tenant)
	}
	at.RawQuery = query.Encode()
	return at.String(), nil
}

// kept is a user's token as it is sealed and stored.
type kept struct {
	Access  string    `json:"access"`
	Expires time.Time `json:"expires,omitzero"`
}

// name returns the name of a user's record, which does not reveal the user.
func (s *Service) name(user string) string {
	mac := vault.MAC(s.macs, s.cfg.AppID, strings.ToLower(s.cfg.Connection), user)
	return "direct sso " + base64.RawURLEncoding.EncodeToString(mac)
}

// GetToken returns the user's token until it expires. After that, the next
// sign-in gets a new one silently. This connection has no codes, so with a code
// it returns [tokensvc.ErrNoToken].
func (s *Service) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	if !code.Empty() {
		return tokensvc.Token{}, tokensvc.ErrNoToken
	}
	name := s.name(uc.UserID)
	m, err := s.cfg.Store.Mark(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return tokensvc.Token{}, tokensvc.ErrNoToken
	case err != nil:
		return tokensvc.Token{}, &tokensvc.Error{Op: tokensvc.OpGetToken, Err: err}
	}
	ring, err := s.keys()
	if err != nil {
		return tokensvc.Token{}, &tokensvc.Error{Op: tokensvc.OpGetToken, Err: err}
	}
	var got kept
	if err := ring.Open(name, m.Value, &got); err != nil {
		s.cfg.Log.Error().Err(err).Str("connection", s.cfg.Connection).Msg("direct sso: a token cannot be opened: the user signs in again")
		return tokensvc.Token{}, tokensvc.ErrNoToken
	}
	if !got.Expires.IsZero() && !s.cfg.Clock().Before(got.Expires) {
		return tokensvc.Token{}, tokensvc.ErrNoToken
	}
	return s.token(uc, got), nil
}

func (s *Service) token(uc tokensvc.UserConnection, got kept) tokensvc.Token {
	return tokensvc.Token{
		ChannelID: uc.ChannelID, Connection: s.cfg.Connection, Token: tokensvc.NewSecret(got.Access), Expiration: got.Expires,
	}
}

// Exchange exchanges the client's SSO token on behalf of the user and stores the
// result. A missing consent, or a token that cannot be exchanged, is a refusal
// after which the user can still use the card's button.
func (s *Service) Exchange(ctx context.Context, uc tokensvc.UserConnection, ssoToken tokensvc.Secret) (tokensvc.Token, error) {
	tok, err := s.cfg.OnBehalfOf.OnBehalfOf(ctx, ssoToken, s.cfg.Scopes)
	switch {
	case errors.Is(err, tokensvc.ErrAudience):
		return tokensvc.Token{}, &tokensvc.Error{Op: tokensvc.OpExchange, Status: http.StatusBadRequest, Code: "Audience", Err: err}
	case err != nil:
		return tokensvc.Token{}, err
	}
	got := kept{Access: tok.Token.Reveal(), Expires: tok.Expiration.UTC()}
	if err := s.keep(ctx, uc.UserID, got); err != nil {
		return tokensvc.Token{}, &tokensvc.Error{Op: tokensvc.OpExchange, Err: err}
	}
	return s.token(uc, got), nil
}

// races bounds how often a write is repeated because another device wrote first.
const races = 20

var errRaces = errors.New("others were always faster")

// keep stores a token and replaces the one before it.
func (s *Service) keep(ctx context.Context, user string, got kept) error {
	ring, err := s.keys()
	if err != nil {
		return err
	}
	name := s.name(user)
	sealed, err := ring.Seal(name, got)
	if err != nil {
		return err
	}
	return s.replace(ctx, name, func(before int64) *store.Mark {
		return &store.Mark{Name: name, Version: before + 1, Value: sealed, Expires: got.Expires}
	})
}

// replace writes the mark that next makes. It passes next the stored version, 0
// if there is none. If next returns nil, it writes nothing.
func (s *Service) replace(ctx context.Context, name string, next func(before int64) *store.Mark) error {
	for range races {
		there, err := s.cfg.Store.Mark(ctx, name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		m := next(there.Version)
		if m == nil {
			return nil
		}
		err = s.cfg.Store.Apply(ctx, []store.Commit{{Marks: []store.Mark{*m}}})[0]
		if !errors.Is(err, store.ErrDuplicate) && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return errRaces
}

// SignOut deletes the user's token. Entra is not told, since its token expires by
// itself.
func (s *Service) SignOut(ctx context.Context, uc tokensvc.UserConnection) error {
	name := s.name(uc.UserID)
	err := s.replace(ctx, name, func(before int64) *store.Mark {
		if before == 0 {
			return nil
		}
		return &store.Mark{Name: name, Version: before + 1, Gone: true}
	})
	if err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	return nil
}

// GetSignInResource returns the page behind the card's button, and the resource
// for which Teams makes an SSO token.
func (s *Service) GetSignInResource(context.Context, tokensvc.State) (tokensvc.SignInResource, error) {
	return tokensvc.SignInResource{
		SignInLink:            tokensvc.NewSecret(s.link),
		TokenExchangeResource: &tokensvc.TokenExchangeResource{ID: rand.Text(), URI: s.cfg.Resource},
	}, nil
}

// GetTokenOrSignInResource returns GetToken's token, or GetSignInResource's
// result if there is no token.
func (s *Service) GetTokenOrSignInResource(ctx context.Context, uc tokensvc.UserConnection, state tokensvc.State, code tokensvc.Secret) (*tokensvc.Token, *tokensvc.SignInResource, error) {
	tok, err := s.GetToken(ctx, uc, code)
	switch {
	case err == nil:
		return &tok, nil, nil
	case !errors.Is(err, tokensvc.ErrNoToken):
		return nil, nil, err
	}
	res, err := s.GetSignInResource(ctx, state)
	return nil, &res, err
}

// GetTokenStatus reports whether the user has a token that has not expired.
func (s *Service) GetTokenStatus(ctx context.Context, userID, channelID string, _ ...string) ([]tokensvc.TokenStatus, error) {
	_, err := s.GetToken(ctx, tokensvc.UserConnection{UserID: userID, ChannelID: channelID}, tokensvc.Secret{})
	if err != nil && !errors.Is(err, tokensvc.ErrNoToken) {
		return nil, err
	}
	return []tokensvc.TokenStatus{{ChannelID: channelID, Connection: s.cfg.Connection, HasToken: err == nil, DisplayName: s.cfg.Connection}}, nil
}
