package teamsbot

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/upstream"
)

// Defaults of [Config].
const (
	DefaultListen = "127.0.0.1:3978"
	DefaultGrace  = 10 * time.Second
)

// Config configures a bot. The members AppID, Store and Connections of Engine are
// required. So is either ClientSecret or Credentials, unless Engine has the
// caller's own Tokens and Messenger.
type Config struct {
	// Engine is the configuration of the engine. New makes Tokens and Messenger
	// if they are nil.
	Engine machine.Config

	// ClientSecret of the bot. Alternatively, Credentials give the bot's own
	// token in another way; see package transport/credentials.
	ClientSecret tokensvc.Secret
	Credentials  tokensvc.TokenSource
	// TokenAtStart makes Serve fetch the bot's own token when it starts. Then no
	// activity waits for the token, and a wrong credential is logged at once.
	// Serve continues if the fetch fails. false = the first call to an upstream
	// fetches the token.
	TokenAtStart bool
	// Tenant of a single-tenant bot. "" = a multi-tenant bot.
	Tenant string

	// Cloud in which the bot is registered. The zero Cloud is the public one.
	Cloud tokensvc.Cloud
	// TokenServiceURL, for example that of a region. "" = the cloud's.
	TokenServiceURL string
	// LoginURL of Entra. "" = the cloud's.
	LoginURL string

	// Listen is the host:port of the bot. A proxy in front of it has to terminate
	// TLS. "" = 127.0.0.1:3978.
	Listen string
	// InboundAuth says how requests are authenticated: teams.InboundAuthJWT,
	// InboundAuthNone or InboundAuthCustom. "" = JWT.
	InboundAuth string
	// Auth is the configuration for JWT. New sets its AppID, Cloud, ServiceURLs,
	// Limits, Refusals and Log.
	Auth teams.AuthConfig
	// Authenticate is the bot's own authentication, for InboundAuthCustom; see
	// teams.Config.
	Authenticate func(next http.Handler) http.Handler
	// ServiceURLs are the hosts, besides Microsoft's own, from which activities
	// may come and to which messages may go: host, host:port or *.host.
	ServiceURLs []string
	// Limits of incoming requests. The zero value means the defaults.
	Limits teams.Limits
	// Refusals counts and logs what was refused. nil = a count of its own.
	Refusals *teams.Refusals
	// Upstreams holds the transports to the upstreams, with their breakers. nil =
	// a set of its own.
	Upstreams *upstream.Set

	// OperatorAt is the endpoint for operators, for example
	// operator.SocketBeside("signin.db"). The zero Endpoint means none.
	OperatorAt operator.Endpoint
	// Operator configures that endpoint. On TCP its Token is required. New sets
	// what the endpoint reads from, if it is nil.
	Operator operator.HandlerConfig
	// Metrics measures engine and store; see transport/metrics. nil = nothing is
	// measured.
	Metrics Metrics
	// Version of the program, shown to operators.
	Version string

	// Grace is how long Run waits for activities in flight once its context has
	// ended. 0 = 10 s.
	Grace time.Duration
}

// Metrics wraps the hooks and the store of the engine. *metrics.Metrics of
// package transport/metrics implements it for Prometheus.
type Metrics interface {
	Hooks(next machine.Hooks) machine.Hooks
	Store(st store.Store) store.Store
	Handler() http.Handler
	OperatorRefused(why operator.Refusal)
}

// complete returns cfg with its defaults.
func (cfg Config) complete() (Config, error) {
	switch {
	case cfg.Engine.Store == nil:
		return cfg, errors.New("teamsbot: Engine.Store is required")
	case cfg.Credentials != nil && !cfg.ClientSecret.Empty():
		return cfg, errors.New("teamsbot: ClientSecret and Credentials exclude each other")
	case cfg.OperatorAt.Network == "tcp" && cfg.Operator.Token.Empty():
		return cfg, errors.New("teamsbot: Operator.Token is required for an operator endpoint on TCP")
	case cfg.Grace < 0:
		return cfg, errors.New("teamsbot: Grace is negative")
	}
	if cfg.Cloud.Name == "" {
		cfg.Cloud = tokensvc.PublicCloud()
	}
	cfg.TokenServiceURL = cmp.Or(cfg.TokenServiceURL, cfg.Cloud.TokenServiceURL)
	cfg.LoginURL = cmp.Or(cfg.LoginURL, cfg.Cloud.LoginURL)
	cfg.Listen = cmp.Or(cfg.Listen, DefaultListen)
	cfg.InboundAuth = cmp.Or(cfg.InboundAuth, teams.InboundAuthJWT)
	cfg.Grace = cmp.Or(cfg.Grace, DefaultGrace)
	if cfg.Refusals == nil {
		cfg.Refusals = teams.NewRefusals(cfg.Engine.Log)
	}
	if cfg.Upstreams == nil {
		cfg.Upstreams = upstream.NewSet(cfg.Engine.Log, nil)
	}
	return cfg, nil
}

// timeout bounds one call to the Token Service or the connector.
func (cfg *Config) timeout() time.Duration {
	if cfg.Engine.Timeouts == nil {
		return machine.DefaultTimeouts().Upstream
	}
	return cfg.Engine.Timeouts.Upstream
}

// credentials returns the source of the bot's own tokens.
func (cfg *Config) credentials() (tokensvc.TokenSource, error) {
	if cfg.Credentials != nil {
		return cfg.Credentials, nil
	}
	if cfg.ClientSecret.Empty() {
		return nil, errors.New("teamsbot: ClientSecret or Credentials is required")
	}
	return tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: cfg.LoginURL, Tenant: cmp.Or(cfg.Tenant, cfg.Cloud.LoginTenant), Scope: cfg.Cloud.Scope,
		ClientID: cfg.Engine.AppID, ClientSecret: cfg.ClientSecret, Timeout: cfg.timeout(),
		HTTPClient: cfg.Upstreams.To(upstream.Login).Client(),
	})
}

// authenticator makes the check of the connector's tokens, nil if InboundAuth
// requires none.
func (cfg *Config) authenticator(hosts *teams.AllowList) (*teams.Authenticator, error) {
	if cfg.InboundAuth != teams.InboundAuthJWT {
		return nil, nil //nolint:nilnil // there is none
	}
	auth := cfg.Auth
	auth.AppID, auth.Cloud, auth.ServiceURLs = cfg.Engine.AppID, cfg.Cloud, hosts
	auth.Limits, auth.Refusals, auth.Log = cfg.Limits, cfg.Refusals, cfg.Engine.Log
	if auth.HTTPClient == nil {
		auth.HTTPClient = cfg.Upstreams.To(upstream.SigningKeys).Client()
	}
	return teams.NewAuthenticator(auth)
}

// upstreams makes the engine's clients of the upstreams, unless the caller has
// set them.
func (b *Bot) upstreams(engine *machine.Config) error {
	if engine.Tokens != nil && engine.Messenger != nil {
		return nil
	}
	credentials, err := b.cfg.credentials()
	if err != nil {
		return err
	}
	b.releases(credentials)
	b.own = credentials
	if behalf, ok := credentials.(machine.OnBehalfOf); ok && engine.OnBehalfOf == nil {
		engine.OnBehalfOf = behalf
	}
	if engine.Tokens == nil {
		tokens, err := tokensvc.New(tokensvc.Config{
			BaseURL: b.cfg.TokenServiceURL, Credentials: credentials, Timeout: b.cfg.timeout(),
			HTTPClient: b.cfg.Upstreams.To(upstream.TokenService).Client(),
		})
		if err != nil {
			return fmt.Errorf("teamsbot: %w", err)
		}
		b.releases(tokens)
		engine.Tokens = tokens
	}
	if engine.Messenger == nil {
		connector, err := teams.NewConnector(teams.ConnectorConfig{
			Tokens: credentials, ServiceURLs: b.hosts, Timeout: b.cfg.timeout(),
			Transport: b.cfg.Upstreams.To(upstream.Connector),
		})
		if err != nil {
			return fmt.Errorf("teamsbot: %w", err)
		}
		b.releases(connector)
		engine.Messenger = connector
	}
	return nil
}
