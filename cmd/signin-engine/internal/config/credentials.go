package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/credentials"
)

// way is one way to hold the bot's credentials.
type way struct {
	key  string
	make func(credentials.Bot) (TokenSource, error)
}

// TokenSource gives the bot's own token.
type TokenSource interface {
	tokensvc.TokenSource
	CloseIdleConnections()
}

// ways lists the kinds of credentials that are set.
func (c *Config) ways() []way {
	var all []way
	for _, w := range []struct {
		key, value string // "" = not set
		make       func(credentials.Bot) (TokenSource, error)
	}{
		{"client_secret", c.ClientSecret.String(), c.bySecret},
		{"certificate_file", c.CertificateFile, func(b credentials.Bot) (TokenSource, error) {
			return credentials.Certificate(b, c.CertificateFile)
		}},
		{"managed_identity", c.ManagedIdentity, func(b credentials.Bot) (TokenSource, error) {
			return credentials.ManagedIdentity(b, c.ManagedIdentity)
		}},
		{"federated.token_file", c.Federated.TokenFile, func(b credentials.Bot) (TokenSource, error) {
			return credentials.FederatedFile(b, c.Federated.TokenFile)
		}},
		{"federated.managed_identity", c.Federated.ManagedIdentity, func(b credentials.Bot) (TokenSource, error) {
			return credentials.FederatedIdentity(b, c.Federated.ManagedIdentity)
		}},
	} {
		if w.value != "" {
			all = append(all, way{w.key, w.make})
		}
	}
	return all
}

func (c *Config) bySecret(bot credentials.Bot) (TokenSource, error) {
	tenant := bot.Tenant
	if tenant == "" {
		tenant = bot.Cloud.LoginTenant
	}
	cfg := tokensvc.ClientCredentialsConfig{
		LoginURL: bot.LoginURL, Tenant: tenant, ClientID: bot.ClientID, ClientSecret: c.ClientSecret, Scope: bot.Cloud.Scope,
		HTTPClient: bot.HTTPClient, Timeout: bot.Timeout,
	}
	if file := c.ClientSecretFile; file != "" {
		cfg.SecretSource = func() (tokensvc.Secret, error) { return secretOf(file) }
	}
	return tokensvc.NewClientCredentials(cfg)
}

// textOf reads a file that holds one text. It removes the byte order mark that
// Windows editors write, and refuses the UTF-16 that a Windows shell may write.
func textOf(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		return "", fmt.Errorf("%s is not UTF-8 text", file)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(b), "\ufeff")), nil
}

// secretOf reads a file that holds nothing but a secret.
func secretOf(file string) (tokensvc.Secret, error) {
	text, err := textOf(file)
	if err != nil {
		return tokensvc.Secret{}, err
	}
	secret := tokensvc.NewSecret(text)
	if secret.Empty() {
		return tokensvc.Secret{}, fmt.Errorf("%s is empty", file)
	}
	return secret, nil
}

// Keys returns a function that reads the keys from encryption_key_file each time
// it is called, or nil if that setting is empty.
func (c *Config) Keys() func() ([]store.SecretKey, error) {
	file := c.EncryptionKeyFile
	if file == "" {
		return nil
	}
	return func() ([]store.SecretKey, error) {
		text, err := secretOf(file)
		if err != nil {
			return nil, err
		}
		var keys []store.SecretKey
		for _, one := range strings.Fields(text.Reveal()) {
			key, err := popup.ParseKey(one)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			keys = append(keys, store.SecretKey{Secret: key})
		}
		return keys, nil
	}
}

// CloudPreset returns the cloud that the settings name.
func (c *Config) CloudPreset() tokensvc.Cloud {
	cloud, _ := tokensvc.CloudNamed(c.Cloud)
	return cloud
}

func (c *Config) bot() credentials.Bot {
	return credentials.Bot{
		ClientID: c.AppID, Tenant: c.TenantID, Cloud: c.CloudPreset(), LoginURL: c.LoginURL, Timeout: c.Timeouts.Upstream,
	}
}

// nobody is the token source of a bot without credentials. Emulators expect a
// token, but accept any.
type nobody struct{ tokensvc.TokenSource }

func (nobody) CloseIdleConnections() {}

// Credentials returns the source of the bot's own tokens. The settings must have
// been checked. It sends requests by client; nil means a client that follows no
// redirects.
func (c *Config) Credentials(client *http.Client) (TokenSource, error) {
	if c.OutboundAuth == AuthNone {
		return nobody{tokensvc.Static(tokensvc.NewSecret("outbound-auth-none"))}, nil
	}
	ways := c.ways()
	if len(ways) == 0 {
		return nil, errors.New("the bot has no credentials")
	}
	bot := c.bot()
	bot.HTTPClient = client
	return ways[0].make(bot)
}

func (c *Config) checkCredentials(p *Errors) {
	ways := c.ways()
	switch c.OutboundAuth {
	case OutboundCredentials:
	case AuthNone:
		return
	default:
		p.add("outbound_auth", "%q is neither %s nor %s", c.OutboundAuth, OutboundCredentials, AuthNone)
		return
	}
	switch {
	case len(ways) == 0 && c.ClientSecretFile != "": // Load has reported why the file gave nothing
	case len(ways) == 0:
		p.add("client_secret", "is missing: set it, client_secret_file, certificate_file, managed_identity or federated; "+
			"outbound_auth: none does without, beside an emulator")
	case len(ways) > 1:
		for _, w := range ways[1:] {
			p.add(w.key, "is set together with %s: use one", ways[0].key)
		}
	case p.about("app_id"), p.about("cloud"), p.about("login_url"): // these must be right first
	default:
		if _, err := ways[0].make(c.bot()); err != nil {
			p.add(ways[0].key, "%v", err)
		}
	}
}

// SecretFile is a file with a secret that a setting names.
type SecretFile struct{ Key, Path string }

// SecretFiles are all of them.
func (c *Config) SecretFiles() []SecretFile {
	all := []SecretFile{
		{"client_secret_file", c.ClientSecretFile},
		{"certificate_file", c.CertificateFile},
		{"federated.token_file", c.Federated.TokenFile},
		{"store_file", c.StoreFile},
		{"encryption_key_file", c.EncryptionKeyFile},
	}
	if m := c.MessageExtension; m != nil {
		all = append(all, SecretFile{extensionKey + "encryption_key_file", m.KeyFile},
			SecretFile{extensionKey + "provider.client_secret_file", m.Provider.ClientSecretFile})
	}
	return slices.DeleteFunc(all, func(f SecretFile) bool { return f.Path == "" })
}
