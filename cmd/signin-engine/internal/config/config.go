// Package config reads and checks the program's settings. A flag wins over the
// environment (SIGNIN_ENGINE_…), which wins over the YAML file, which wins over
// the default (docs/configuration.md).
package config

import (
	"cmp"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// EnvPrefix begins the name of every environment variable that is read. The key
// policy.duplicate_wait, for example, is SIGNIN_ENGINE_POLICY_DUPLICATE_WAIT.
const EnvPrefix = "SIGNIN_ENGINE_"

// Config holds the settings. Its members are the keys of the YAML file.
type Config struct {
	AppID              string            `koanf:"app_id"`
	TenantID           string            `koanf:"tenant_id"`     // "" = multi-tenant bot
	Cloud              string            `koanf:"cloud"`         // presets the URLs that are not set, and more
	OutboundAuth       string            `koanf:"outbound_auth"` // credentials, none
	ClientSecret       tokensvc.Secret   `koanf:"client_secret"`
	ClientSecretFile   string            `koanf:"client_secret_file"`
	CertificateFile    string            `koanf:"certificate_file"` // PEM with the private key
	ManagedIdentity    string            `koanf:"managed_identity"` // system, or a client id
	Federated          Federated         `koanf:"federated"`
	TokenAtStart       bool              `koanf:"token_at_start"` // serve fetches the bot's own token when it starts
	Listen             string            `koanf:"listen"`
	Store              Store             `koanf:"store"`
	StoreFile          string            `koanf:"store_file"`     // file with the text of Store, read again for each connection
	WaitForStore       time.Duration     `koanf:"wait_for_store"` // how long serve waits for a store that takes commits
	AutoMigrate        bool              `koanf:"auto_migrate"`   // serve brings an older Postgres schema up to date
	ListenDSN          tokensvc.Secret   `koanf:"listen_dsn"`     // address of a direct connection, if Store leads to a pooler
	Postgres           Timeouts          `koanf:"postgres"`
	TokenServiceURL    string            `koanf:"token_service_url"`
	LoginURL           string            `koanf:"login_url"`
	OpenIDMetadataURL  string            `koanf:"openid_metadata_url"`
	InboundAuth        string            `koanf:"inbound_auth"`         // jwt, none
	Agentic            bool              `koanf:"agentic"`              // accept tokens of Agent 365 too
	AgenticBlueprintID string            `koanf:"agentic_blueprint_id"` // "" = tokens for the bot itself only
	AgenticCallers     []string          `koanf:"agentic_callers"`      // app ids; empty = every app of the tenant
	ServiceURLs        []string          `koanf:"service_urls"`
	Operator           string            `koanf:"operator"`              // "" = unix socket beside a bolt file
	OperatorToken      tokensvc.Secret   `koanf:"operator_token"`        // for actions and reads
	OperatorReadToken  tokensvc.Secret   `koanf:"operator_read_token"`   // for reads only
	OperatorTrust      string            `koanf:"operator_trust_header"` // header in which a proxy names the actor
	Metrics            string            `koanf:"metrics"`               // host:port of a separate listener; "" = none
	EncryptionKeyFile  string            `koanf:"encryption_key_file"`   // keys for marks and seals, kept outside the store
	Connections        []Connection      `koanf:"connections"`
	Policy             machine.Policy    `koanf:"policy"`
	Timeouts           machine.Timeouts  `koanf:"timeouts"`
	Limits             teams.Limits      `koanf:"limits"`
	Log                Log               `koanf:"log"`
	MessageExtension   *MessageExtension `koanf:"message_extension"` // nil = none
}

// Timeouts bounds how long the program waits for a database.
type Timeouts struct {
	StatementTimeout time.Duration `koanf:"statement_timeout"` // of a query in a sign-in; three times as long for operators' reads and retention
	AcquireTimeout   time.Duration `koanf:"acquire_timeout"`   // for a free connection of the pool
	ConnectTimeout   time.Duration `koanf:"connect_timeout"`   // for a connection to one host; it wins over the address's own
}

// Federated is a credential that another issuer vouches for. At most one member
// is set.
type Federated struct {
	TokenFile       string `koanf:"token_file"`       // file that the issuer keeps up to date, as Kubernetes does
	ManagedIdentity string `koanf:"managed_identity"` // system, or a client id
}

// Connection is one OAuth connection setting of the bot.
type Connection struct {
	Name        string   `koanf:"name"`
	Alias       string   `koanf:"alias"` // what users type after login; "" = Name
	DisplayName string   `koanf:"display_name"`
	CardText    string   `koanf:"card_text"`
	SSO         *bool    `koanf:"sso"` // false: the card never offers silent SSO; nil = true
	ButtonText  string   `koanf:"button_text"`
	Profile     *Profile `koanf:"profile"`
	Direct      *Direct  `koanf:"direct"` // nil = a connection of the Token Service
}

// Direct is a connection that bypasses the Token Service: the bot itself
// exchanges the client's SSO token, on behalf of the user.
type Direct struct {
	Scopes   []string `koanf:"scopes"`   // of the exchanged token
	Link     string   `koanf:"link"`     // page behind the card's button, which asks for consent
	Resource string   `koanf:"resource"` // Application ID URI; "" = api://botid- followed by the app id
}

// SignInResource returns what a card of the connection contains, without the
// exchange id and the query of the link.
func (d *Direct) SignInResource(appID string) tokensvc.SignInResource {
	return tokensvc.SignInResource{
		SignInLink:            tokensvc.NewSecret(d.Link),
		TokenExchangeResource: &tokensvc.TokenExchangeResource{URI: cmp.Or(d.Resource, "api://botid-"+appID)},
	}
}

// OffersSSO reports whether the connection's card may offer silent SSO.
func (c *Connection) OffersSSO() bool { return c.SSO == nil || *c.SSO }

// Profile is a chat command of the reference bot that calls an API with the
// user's token.
type Profile struct {
	Command string `koanf:"command"`
	URL     string `koanf:"url"`
}

// Log says how much is logged and in which format.
type Log struct {
	Level  string `koanf:"level"`  // trace, debug, info, warn, error
	Format string `koanf:"format"` // auto, console, json
}

// The values of inbound_auth.
const (
	AuthJWT  = teams.InboundAuthJWT
	AuthNone = teams.InboundAuthNone
)

// OutboundCredentials is the value of outbound_auth besides [AuthNone].
const OutboundCredentials = "credentials"

// defaultSignIns is how many messages and sign-in invokes of one user are
// accepted per minute. It is far more than people and their devices send.
const defaultSignIns = 120

// Default returns the settings with every default.
func Default() Config {
	public := tokensvc.PublicCloud()
	limits := teams.DefaultLimits()
	limits.SignInsPerMinute = defaultSignIns
	return Config{
		Cloud:        public.Name,
		OutboundAuth: OutboundCredentials,
		Listen:       "127.0.0.1:3978",
		Store:        Store{Backend: Bolt, Path: "signin.db"},
		AutoMigrate:  true,
		Postgres: Timeouts{
			StatementTimeout: pgstore.DefaultStatementTimeout, AcquireTimeout: pgstore.DefaultAcquireTimeout, ConnectTimeout: pgstore.DefaultConnectTimeout,
		},
		TokenServiceURL:   public.TokenServiceURL,
		LoginURL:          public.LoginURL,
		OpenIDMetadataURL: public.OpenIDMetadataURL,
		InboundAuth:       AuthJWT,
		Policy:            machine.DefaultPolicy(),
		Timeouts:          machine.DefaultTimeouts(),
		Limits:            limits,
		Log:               Log{Level: "info", Format: "auto"},
	}
}

// preset fills in the cloud's URLs for those that are not set.
func (c *Config) preset(isSet func(key string) bool) {
	cloud, ok := tokensvc.CloudNamed(c.Cloud)
	if !ok {
		return // Check reports it
	}
	for _, u := range []struct {
		key   string
		value *string
		of    string
	}{
		{"token_service_url", &c.TokenServiceURL, cloud.TokenServiceURL},
		{"login_url", &c.LoginURL, cloud.LoginURL},
		{"openid_metadata_url", &c.OpenIDMetadataURL, cloud.OpenIDMetadataURL},
	} {
		if !isSet(u.key) || *u.value == "" {
			*u.value = u.of
		}
	}
}
