// Package config reads and checks the program's settings: flag, then
// environment (SIGNIN_ENGINE_…), then YAML file, then default (product.md §4).
package config

import (
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// EnvPrefix begins the name of every environment variable that is read: the
// key policy.duplicate_wait is SIGNIN_ENGINE_POLICY_DUPLICATE_WAIT.
const EnvPrefix = "SIGNIN_ENGINE_"

// Config is the YAML file.
type Config struct {
	AppID             string           `koanf:"app_id"`
	TenantID          string           `koanf:"tenant_id"` // "" = multi-tenant bot
	ClientSecret      tokensvc.Secret  `koanf:"client_secret"`
	ClientSecretFile  string           `koanf:"client_secret_file"`
	Listen            string           `koanf:"listen"`
	Store             Store            `koanf:"store"`
	AutoMigrate       bool             `koanf:"auto_migrate"` // serve brings an older Postgres schema up to date
	TokenServiceURL   string           `koanf:"token_service_url"`
	LoginURL          string           `koanf:"login_url"`
	OpenIDMetadataURL string           `koanf:"openid_metadata_url"`
	InboundAuth       string           `koanf:"inbound_auth"` // jwt, none
	ServiceURLs       []string         `koanf:"service_urls"`
	Operator          string           `koanf:"operator"` // "" = unix socket beside a bolt file
	OperatorToken     tokensvc.Secret  `koanf:"operator_token"`
	Connections       []Connection     `koanf:"connections"`
	Policy            machine.Policy   `koanf:"policy"`
	Timeouts          machine.Timeouts `koanf:"timeouts"`
	Log               Log              `koanf:"log"`
	MessageExtension  any              `koanf:"message_extension"` // refused in this version
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
	AuthJWT  = "jwt"
	AuthNone = "none"
)

// Default is every setting that nobody changed.
func Default() Config {
	return Config{
		Listen:            "127.0.0.1:3978",
		Store:             Store{Backend: Bolt, Path: "signin.db"},
		AutoMigrate:       true,
		TokenServiceURL:   tokensvc.PublicURL,
		LoginURL:          tokensvc.PublicLoginURL,
		OpenIDMetadataURL: "https://login.botframework.com/v1/.well-known/openidconfiguration",
		InboundAuth:       AuthJWT,
		Policy:            machine.DefaultPolicy(),
		Timeouts:          machine.DefaultTimeouts(),
		Log:               Log{Level: "info", Format: "auto"},
	}
}

// ShutdownGrace is how long activities in flight may take after SIGTERM.
const ShutdownGrace = 10 * time.Second
