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
	// remembered is how many links, codes, bearer tokens and cards are kept, each.
	// It is enough for any test, and it bounds the memory of a load test.
	remembered = 1 << 16
)

// Config configures a [Server]. The zero value works.
type Config struct {
	// BaseURL is the server's own URL as bots and browsers see it; see
	// [Server.SetBaseURL]. "" = the Host header of each request.
	BaseURL string
	// Connections are the bot's OAuth connection settings. If it is empty, every
	// name is a connection, without SSO.
	Connections []Connection
	// Users have a profile in Graph. Every other user gets that of [DefaultUser].
	Users []User
	// ClientID and ClientSecret are what the Entra endpoint accepts from the bot.
	// An empty one is not checked.
	ClientID     string
	ClientSecret tokensvc.Secret
	// Bearer is which bearer tokens the Token Service and the connector accept.
	Bearer BearerPolicy
	// CodeLifetime is the lifetime of a verification code; 0 = 10 min.
	CodeLifetime time.Duration
	// TokenLifetime is the lifetime of a user token; 0 = 1 h.
	TokenLifetime time.Duration
	// Record is how many requests and how many activities are kept; 0 = 1000,
	// negative = none. The counts and the last card of each conversation are kept
	// in any case.
	Record int
	// Seed makes ids, tokens and codes repeatable; 0 = random.
	Seed uint64
	// Switches are the switches at the start and after [Server.Reset].
	Switches Switches
	// Now is the clock; nil = time.Now.
	Now func() time.Time
	// Provider is served below /provider/; nil = none.
	Provider *Provider
}

// Connection is an OAuth connection setting of the bot.
type Connection struct {
	Name        string
	DisplayName string // serviceProviderDisplayName; "" = Name
	SSO         bool   // has a token exchange URL
	URI         string // token exchange URL; "" = api://botid-{app id}
	ProviderID  string // "" = Azure Active Directory v2
	// Audience makes the connection's tokens JSON Web Tokens for this audience: the
	// bot's client id for tokens that can be exchanged on behalf of the user, or the
	// URL of an API. "" = opaque tokens.
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

// BearerPolicy is which bearer tokens of a bot are accepted.
type BearerPolicy string

// The policies.
const (
	BearerAny      BearerPolicy = ""         // any token that is not empty
	BearerOptional BearerPolicy = "optional" // any token, or none
	BearerIssued   BearerPolicy = "issued"   // only tokens that the Entra endpoint issued
)

// Switches change how the emulator behaves: where the behaviour of the live service
// is not known for certain, or to make a test's case happen. All are off in the zero
// value.
type Switches struct {
	// WrongConnectionSpendsCode makes a code unusable after it was redeemed for
	// another connection of the same user.
	WrongConnectionSpendsCode bool `json:"wrongConnectionSpendsCode"`
	// WrongCodeReturnsStored answers a wrong code with the token that the service
	// already holds, instead of 404.
	WrongCodeReturnsStored bool `json:"wrongCodeReturnsStored"`
	// SSO has the status that token exchanges are answered with, by connection name.
	// Exchanges on other connections, and those with 0 or 200, succeed.
	SSO map[string]int `json:"sso,omitempty"`
	// SSOTokens has the status by SSO token. It takes precedence over SSO.
	SSOTokens map[string]int `json:"ssoTokens,omitempty"`
	// NoConsent answers on-behalf-of requests as if the user had not consented.
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

// exchangeStatus is the status that a token exchange is answered with.
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
