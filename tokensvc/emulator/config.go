package emulator

import (
	"cmp"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// Defaults of a [Config].
const (
	DefaultCodeLifetime  = 10 * time.Minute
	DefaultTokenLifetime = time.Hour
	DefaultRecord        = 1000
	// remembered bounds what is kept of links, codes and cards each: enough
	// for any test, and a load test does not eat the machine.
	remembered = 1 << 16
)

// Config of a [Server]. The zero value works.
type Config struct {
	// BaseURL is the server's own URL as bots and browsers see it; see
	// [Server.SetBaseURL]. "" = taken from each request's Host header.
	BaseURL string
	// Connections are the bot's OAuth connection settings. None = every name
	// is a connection, without SSO.
	Connections []Connection
	// Users are known to Graph; anybody else gets a made-up profile.
	Users []User
	// ClientID and ClientSecret are checked by the Entra endpoint unless empty.
	ClientID     string
	ClientSecret tokensvc.Secret
	// Bearer says who may call the Token Service and the connector.
	Bearer BearerPolicy
	// CodeLifetime of a verification code; 0 = [DefaultCodeLifetime].
	CodeLifetime time.Duration
	// TokenLifetime of a user token; 0 = [DefaultTokenLifetime].
	TokenLifetime time.Duration
	// Record is how many requests and how many activities are kept; 0 =
	// [DefaultRecord], negative = none (counts and the last card of a
	// conversation are kept all the same).
	Record int
	// Seed makes ids, tokens and codes repeatable; 0 = random.
	Seed uint64
	// Switches at the start.
	Switches Switches
	// Now is the clock; nil = time.Now.
	Now func() time.Time
	// Provider is served below /provider/; nil = there is none.
	Provider *Provider
}

// Connection is an OAuth connection setting of the bot.
type Connection struct {
	Name        string
	DisplayName string // serviceProviderDisplayName; "" = Name
	SSO         bool   // has a token exchange URL
	URI         string // of the token exchange; "" = api://botid-{app id}
	ProviderID  string // "" = that of Entra
	// Audience is for whom the connection's tokens are made, JSON Web Tokens: the
	// bot's client id for tokens that can be exchanged on behalf of their user, the
	// URL of an API for its own. "" = tokens that nobody can read.
	Audience string
}

// entraProvider is the provider id of Azure Active Directory v2.
const entraProvider = "30dd229c-58e3-4a48-bdfd-91ec48eb906c"

// User is a person in the emulated tenant.
type User struct {
	ID          string // MRI, "29:…"
	Name        string
	AADObjectID string
	Mail        string
	JobTitle    string
}

// BearerPolicy says which bearer tokens of a bot are taken.
type BearerPolicy string

// The policies.
const (
	BearerAny      BearerPolicy = ""         // any that is not empty
	BearerOptional BearerPolicy = "optional" // any, also none
	BearerIssued   BearerPolicy = "issued"   // only those of the Entra endpoint
)

// Switches are the behaviours that nobody has verified against the live
// service, or that a test wants otherwise.
type Switches struct {
	// WrongConnectionSpendsCode: asking with a code on another connection of
	// the same user uses the code up.
	WrongConnectionSpendsCode bool `json:"wrongConnectionSpendsCode"`
	// WrongCodeReturnsStored: a wrong code gets the token that is already
	// there instead of 404.
	WrongCodeReturnsStored bool `json:"wrongCodeReturnsStored"`
	// SSO is the status that an exchange is answered by connection name; 0,
	// 200 or absent accepts.
	SSO map[string]int `json:"sso,omitempty"`
	// SSOTokens is the same by SSO token, and comes first.
	SSOTokens map[string]int `json:"ssoTokens,omitempty"`
	// NoConsent: the users have not consented to what is asked on their behalf.
	NoConsent bool `json:"noConsent"`
	// Down answers everything with 503.
	Down bool `json:"down"`
}

func (s Switches) clone() Switches {
	s.SSO = cloneMap(s.SSO)
	s.SSOTokens = cloneMap(s.SSOTokens)
	return s
}

func cloneMap(m map[string]int) map[string]int {
	c := make(map[string]int, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// exchangeStatus is what an exchange is to be answered.
func (s *Switches) exchangeStatus(connection, token string) int {
	if status, ok := s.SSOTokens[token]; ok {
		return cmp.Or(status, statusOK)
	}
	for name, status := range s.SSO {
		if strings.EqualFold(name, connection) {
			return cmp.Or(status, statusOK)
		}
	}
	return statusOK
}
