// Package config reads and checks the program's settings: flag, then
// environment (SIGNIN_ENGINE_…), then YAML file, then default (docs/configuration.md).
package config

import (
	"cmp"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// EnvPrefix begins the name of every environment variable that is read: the
// key policy.duplicate_wait is SIGNIN_ENGINE_POLICY_DUPLICATE_WAIT.
const EnvPrefix = "SIGNIN_ENGINE_"

// Config is the YAML file.
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
	TokenAtStart       bool              `koanf:"token_at_start"` // serve fetches the bot's own token when it begins
	Listen             string            `koanf:"listen"`
	Store              Store             `koanf:"store"`
	StoreFile          string            `koanf:"store_file"`     // with the text of Store, read again for each connection
	WaitForStore       time.Duration     `koanf:"wait_for_store"` // how long serve waits for one that takes no commit yet
	AutoMigrate        bool              `koanf:"auto_migrate"`   // serve brings an older Postgres schema up to date
	ListenDSN          tokensvc.Secret   `koanf:"listen_dsn"`     // of a direct connection, where Store leads to a pooler
	Postgres           Timeouts          `koanf:"postgres"`
	TokenServiceURL    string            `koanf:"token_service_url"`
	LoginURL           string            `koanf:"login_url"`
	OpenIDMetadataURL  string            `koanf:"openid_metadata_url"`
	InboundAuth        string            `koanf:"inbound_auth"`         // jwt, none
	Agentic            bool              `koanf:"agentic"`              // accept tokens of Agent 365 too
	AgenticBlueprintID string            `koanf:"agentic_blueprint_id"` // "" = made for the bot itself only
	AgenticCallers     []string          `koanf:"agentic_callers"`      // app ids; empty = every app of the tenant
	ServiceURLs        []string          `koanf:"service_urls"`
	Operator           string            `koanf:"operator"`              // "" = unix socket beside a bolt file
	OperatorToken      tokensvc.Secret   `koanf:"operator_token"`        // acts
	OperatorReadToken  tokensvc.Secret   `koanf:"operator_read_token"`   // only looks
	OperatorTrust      string            `koanf:"operator_trust_header"` // in which a proxy names the actor
	Metrics            string            `koanf:"metrics"`               // host:port of a listener of their own; "" = none
	EncryptionKeyFile  string            `koanf:"encryption_key_file"`   // keys for marks and seals outside of the store
	Connections        []Connection      `koanf:"connections"`
	Policy             machine.Policy    `koanf:"policy"`
	Timeouts           machine.Timeouts  `koanf:"timeouts"`
	Limits             teams.Limits      `koanf:"limits"`
	Log                Log               `koanf:"log"`
	MessageExtension   *MessageExtension `koanf:"message_extension"` // nil = there is none
}

// Timeouts bounds what a database may keep us waiting for.
type Timeouts struct {
	StatementTimeout time.Duration `koanf:"statement_timeout"` // of a sign-in; operators' reads and retention: three times that
	AcquireTimeout   time.Duration `koanf:"acquire_timeout"`   // for a free connection
	ConnectTimeout   time.Duration `koanf:"connect_timeout"`   // to one host; it wins over the address
}

// Federated is a credential that another issuer vouches for; one of the two.
type Federated struct {
	TokenFile       string `koanf:"token_file"`       // that the issuer keeps up to date, as Kubernetes does
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
	Direct      *Direct  `koanf:"direct"` // nil = the Token Service has the connection
}

// Direct is a connection of which the Token Service knows nothing: the bot exchanges
// the client's SSO token by itself, on behalf of the user.
type Direct struct {
	Scopes   []string `koanf:"scopes"`   // of the token
	Link     string   `koanf:"link"`     // page behind the card's button, which asks for consent
	Resource string   `koanf:"resource"` // Application ID URI; "" = api://botid- and the app id
}

// SignInResource is what a card of the connection is made of, but for an exchange id
// and the query of the link.
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

// Log says how much is logged and how it looks.
type Log struct {
	Level  string `koanf:"level"`  // trace, debug, info, warn, error
	Format string `koanf:"format"` // auto, console, json
}

// The words of inbound_auth.
const (
	AuthJWT  = teams.InboundAuthJWT
	AuthNone = teams.InboundAuthNone
)

// OutboundCredentials is the word of outbound_auth beside [AuthNone].
const OutboundCredentials = "credentials"

// defaultSignIns is how many messages and sign-in invokes of one user are taken
// per minute: far more than people and their devices send.
const defaultSignIns = 120

// Default is every setting that nobody changed.
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

// preset fills the URLs that nobody set with those of the cloud.
func (c *Config) preset(isSet func(key string) bool) {
	cloud, ok := tokensvc.CloudNamed(c.Cloud)
	if !ok {
		return // Check says so
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
