package config

import (
	"errors"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
)

// MessageExtension holds the settings of a message extension, and of Adaptive
// Cards that are refreshed for each user.
type MessageExtension struct {
	Connection       string          `koanf:"connection"`        // name under which its attempts are stored; not a connection of the Token Service
	PublicURL        string          `koanf:"public_url"`        // the bot's public address, as Teams sees it
	TeamsJSURL       string          `koanf:"teamsjs_url"`       // "" = the published library
	TeamsJSIntegrity string          `koanf:"teamsjs_integrity"` // required with any other teamsjs_url
	Provider         Provider        `koanf:"provider"`
	EncryptionKey    tokensvc.Secret `koanf:"encryption_key"`      // 32 bytes in base64, the newest key first, separated by spaces
	KeyFile          string          `koanf:"encryption_key_file"` // file with the same, one key a line
	CodeLifetime     time.Duration   `koanf:"code_lifetime"`       // 0 = 5 min
	TokenService     string          `koanf:"token_service_connection"`
	Width            int             `koanf:"width"` // of the popup, in pixels
	Height           int             `koanf:"height"`
	PagesPerMinute   int             `koanf:"pages_per_minute"` // for one address; 0 = 300
	PagesOverall     int             `koanf:"pages_per_minute_overall"`
	ClientHeader     string          `koanf:"client_header"` // header in which a proxy puts the client's address
	Words            popup.Words     `koanf:"words"`         // texts of its pages
}

// Provider is the identity provider that users of a message extension sign in to.
type Provider struct {
	Issuer           string          `koanf:"issuer"` // OpenID Connect
	AuthorizeURL     string          `koanf:"authorize_url"`
	TokenURL         string          `koanf:"token_url"`
	ProfileURL       string          `koanf:"profile_url"`
	RevokeURL        string          `koanf:"revoke_url"`
	ClientID         string          `koanf:"client_id"`
	ClientSecret     tokensvc.Secret `koanf:"client_secret"`
	ClientSecretFile string          `koanf:"client_secret_file"`
	TokenAuthMethod  string          `koanf:"token_endpoint_auth_method"`
	Scopes           []string        `koanf:"scopes"`
}

// extensionKey begins each key of the section.
const extensionKey = "message_extension."

// HasPopup reports whether users sign in with a popup of the bot's own.
func (m *MessageExtension) HasPopup() bool {
	return m.TokenService == "" || m.Connection != "" || m.PublicURL != "" || m.Provider.ClientID != "" || m.Provider.Issuer != ""
}

// Popup makes the popup's configuration. The caller adds Store and Log.
func (m *MessageExtension) Popup(appID string) (popup.Config, error) {
	p := popup.Config{
		AppID: appID, Connection: m.Connection, PublicURL: m.PublicURL,
		TeamsJSURL: m.TeamsJSURL, TeamsJSIntegrity: m.TeamsJSIntegrity,
		CodeLifetime: m.CodeLifetime, Width: m.Width, Height: m.Height, Words: m.Words,
		Limits: popup.Limits{PerClient: m.PagesPerMinute, Overall: m.PagesOverall, ClientHeader: m.ClientHeader},
		Provider: popup.Provider{
			Issuer: m.Provider.Issuer, AuthorizeURL: m.Provider.AuthorizeURL, TokenURL: m.Provider.TokenURL,
			ProfileURL: m.Provider.ProfileURL, RevokeURL: m.Provider.RevokeURL,
			ClientID: m.Provider.ClientID, ClientSecret: m.Provider.ClientSecret,
			TokenAuthMethod: m.Provider.TokenAuthMethod, Scopes: m.Provider.Scopes,
		},
	}
	var problems Errors
	text := m.EncryptionKey.Reveal()
	switch {
	case m.KeyFile != "" && text != "":
		problems.add(extensionKey+"encryption_key_file", "is set together with encryption_key: use one")
	case m.KeyFile != "":
		secret, err := secretOf(m.KeyFile)
		if err != nil {
			problems.add(extensionKey+"encryption_key_file", "%v", err)
		}
		text = secret.Reveal()
	}
	for _, one := range strings.Fields(text) {
		key, err := popup.ParseKey(one)
		if err != nil {
			problems.add(extensionKey+"encryption_key", "%v", err)
			continue
		}
		p.Keys = append(p.Keys, key)
	}
	if m.Provider.ClientSecretFile != "" {
		secret, err := secretOf(m.Provider.ClientSecretFile)
		switch {
		case !m.Provider.ClientSecret.Empty():
			problems.add(extensionKey+"provider.client_secret_file", "is set together with client_secret: use one")
		case err != nil:
			problems.add(extensionKey+"provider.client_secret_file", "%v", err)
		}
		p.Provider.ClientSecret = secret
	}
	return p, problems.err()
}

func (c *Config) checkExtension(p *Errors) {
	m := c.MessageExtension
	if m == nil {
		return
	}
	if m.TokenService != "" && !c.hasConnection(m.TokenService) {
		p.add(extensionKey+"token_service_connection", "%q is not one of connections", m.TokenService)
	}
	if !m.HasPopup() {
		return
	}
	for i := range c.Connections {
		if one := &c.Connections[i]; m.Connection != "" && (strings.EqualFold(one.Name, m.Connection) || strings.EqualFold(one.Alias, m.Connection)) {
			p.add(extensionKey+"connection", "%q is one of connections: the popup's needs a name of its own", m.Connection)
		}
	}
	cfg, err := m.Popup(c.AppID)
	var own Errors
	errors.As(err, &own)
	*p = append(*p, own...)
	// The package reports one problem a line, with its own names for the keys.
	problems := cfg.Validate()
	if problems == nil {
		return
	}
	for line := range strings.SplitSeq(problems.Error(), "\n") {
		key, text, _ := strings.Cut(line, ": ")
		if key == "app_id" || key == "store" || key == "encryption_key" && (own.about(extensionKey+key) || own.about(extensionKey+"encryption_key_file")) {
			continue
		}
		p.add(extensionKey+key, "%s", text)
	}
}

func (c *Config) hasConnection(name string) bool {
	for i := range c.Connections {
		if strings.EqualFold(c.Connections[i].Name, name) {
			return true
		}
	}
	return false
}
