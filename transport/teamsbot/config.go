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

// Config says what the bot is made of. Required are the members AppID, Store and
// Connections of Engine, and, unless Engine has Tokens and Messenger of the
// caller's own, one of ClientSecret and Credentials.
type Config struct {
	// Engine is the configuration of the engine. Tokens and Messenger are made
	// here where they are nil.
	Engine machine.Config

	// ClientSecret of the bot, at Tenant. Or Credentials, which give the bot's
	// own token in another way; package transport/credentials has some.
	ClientSecret tokensvc.Secret
	Credentials  tokensvc.TokenSource
	// TokenAtStart has Serve fetch the bot's own token when it begins, so that no
	// activity waits for it and a wrong credential is in the log at once. Serve goes
	// on if there is none. Without it the first call to an upstream fetches the token.
	TokenAtStart bool
	// Tenant of a single-tenant bot. "" = a multi-tenant bot.
	Tenant string

	// Cloud that the bot lives in. The zero Cloud is the public one.
	Cloud tokensvc.Cloud
	// TokenServiceURL, such as that of a region. "" = the cloud's.
	TokenServiceURL string
	// LoginURL of Entra. "" = the cloud's.
	LoginURL string

	// Listen is the host:port of the bot. "" = [DefaultListen]. TLS ends in
	// front of it.
	Listen string
	// InboundAuth is how requests are let in, one of teams.InboundAuthJWT,
	// InboundAuthNone and InboundAuthCustom. "" = JWT.
	InboundAuth string
	// Auth is for JWT. AppID, Cloud, ServiceURLs, Limits, Refusals and Log are
	// filled in.
	Auth teams.AuthConfig
	// Authenticate is the bot's own authentication, for InboundAuthCustom; see
	// teams.Config.
	Authenticate func(next http.Handler) http.Handler
	// ServiceURLs are hosts that activities may come from and messages go to,
	// beside Microsoft's own: host, host:port or *.host.
	ServiceURLs []string
	// Limits of what comes in. The zero value means the defaults.
	Limits teams.Limits
	// Refusals count and tell what was refused. nil = an own count.
	Refusals *teams.Refusals
	// Upstreams are the ways out, with their breakers. nil = an own set.
	Upstreams *upstream.Set

	// OperatorAt is where operators look and act, such as
	// operator.SocketBeside("signin.db"). The zero Endpoint means nowhere.
	OperatorAt operator.Endpoint
	// Operator says who gets in there: on TCP its Token is required. What it
	// looks at is filled in where it is nil.
	Operator operator.HandlerConfig
	// Metrics measures engine and store. *metrics.Metrics of transport/metrics
	// does. nil = nothing does.
	Metrics Metrics
	// Version of the program, for operators.
	Version string

	// Grace is how long activities in flight may take once Run is to end.
	// 0 = [DefaultGrace].
	Grace time.Duration
}

// Metrics stand between the engine and its store and hooks; package
// transport/metrics has them for Prometheus.
type Metrics interface {
	Hooks(next machine.Hooks) machine.Hooks
	Store(st store.Store) store.Store
	Handler() http.Handler
	OperatorRefused(why operator.Refusal)
}

// complete is cfg with its defaults.
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

// credentials are how the bot proves who it is.
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

// authenticator knows the Bot Connector; nil where nobody is asked for its token.
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

// upstreams makes what the engine calls, where the caller has not.
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
