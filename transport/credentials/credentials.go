// Package credentials gets a bot's own token in the ways that need Azure's SDK:
// by a certificate, a managed identity, or federated credentials. Each is a
// [tokensvc.TokenSource]. A bot with a client secret uses
// [tokensvc.ClientCredentials], and needs neither this package nor the SDK.
package credentials

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// Bot describes the bot whose token is fetched.
type Bot struct {
	// ClientID is the bot's app id. Required, except for a managed identity.
	ClientID string
	// Tenant of a single-tenant bot. "" = the tenant in which the cloud keeps
	// multi-tenant bots.
	Tenant string
	// Cloud in which the bot is registered. The zero Cloud is the public one.
	Cloud tokensvc.Cloud
	// LoginURL of Entra, with scheme https. "" = the cloud's.
	LoginURL string
	// Timeout of one fetch. 0 = 10 s.
	Timeout time.Duration
	// HTTPClient makes the requests. nil = a client of its own, which follows no
	// redirects.
	HTTPClient *http.Client
}

// SystemAssigned names the system-assigned identity of the machine.
const SystemAssigned = "system"

// Source gives the bot's own token. It implements [tokensvc.TokenDropper]. It
// caches the token until 5 min before its expiry, and makes at most one request
// at a time. Its errors are [*tokensvc.Error] with Op [tokensvc.OpAccessToken],
// the HTTP status and the OAuth error code.
//
// Each fetch reads the credential again. Thus a certificate or an assertion can
// be replaced without a restart, and there is no second cache behind this one.
type Source struct {
	*tokensvc.TokenCache
	bot      Bot
	scope    string
	make     maker
	behalf   behalfMaker // nil: the credentials cannot exchange users' tokens
	bypasses bool        // the SDK has a cache of its own, which a request with claims bypasses
	renew    atomic.Bool
}

var _ tokensvc.TokenDropper = (*Source)(nil)

// maker makes the credential of one fetch; seen records what happens in it.
type maker func(options azcore.ClientOptions, seen *witness) (azcore.TokenCredential, error)

// behalfMaker makes the credential of one exchange of a user's token.
type behalfMaker func(options azcore.ClientOptions, seen *witness, tenant, assertion string) (azcore.TokenCredential, error)

// Certificate uses the client credentials grant with a certificate. The file
// contains the certificate and its private key, as PEM or as PKCS#12 without a
// password. It is read once now, so that an unusable file is reported at once,
// and again before every fetch.
func Certificate(bot Bot, file string) (*Source, error) {
	if _, err := certificate(bot, file, azcore.ClientOptions{}); err != nil {
		return nil, err
	}
	s, err := newSource(bot, func(options azcore.ClientOptions, _ *witness) (azcore.TokenCredential, error) {
		return certificate(bot, file, options)
	})
	if err != nil {
		return nil, err
	}
	s.behalf = func(options azcore.ClientOptions, _ *witness, tenant, assertion string) (azcore.TokenCredential, error) {
		certs, key, err := readCertificate(file)
		if err != nil {
			return nil, err
		}
		return azidentity.NewOnBehalfOfCredentialWithCertificate(tenant, bot.ClientID, assertion, certs, key,
			&azidentity.OnBehalfOfCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	}
	return s, nil
}

// readCertificate reads a certificate and its key.
func readCertificate(file string) ([]*x509.Certificate, crypto.PrivateKey, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	certs, key, err := azidentity.ParseCertificates(pem, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %s: no certificate with its private key: %w", file, err)
	}
	return certs, key, nil
}

func certificate(bot Bot, file string, options azcore.ClientOptions) (azcore.TokenCredential, error) {
	certs, key, err := readCertificate(file)
	if err != nil {
		return nil, err
	}
	cred, err := azidentity.NewClientCertificateCredential(bot.tenant(), bot.ClientID, certs, key,
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return cred, nil
}

// ManagedIdentity uses the identity that Azure gives to the machine:
// [SystemAssigned], or the client id of a user-assigned identity.
func ManagedIdentity(bot Bot, identity string) (*Source, error) {
	if identity == "" {
		return nil, errors.New("managed identity: system, or the client id of a user-assigned one, is required")
	}
	s, err := newSource(bot, func(options azcore.ClientOptions, _ *witness) (azcore.TokenCredential, error) {
		return managed(options, identity)
	})
	if err != nil {
		return nil, err
	}
	s.bypasses = true
	return s, nil
}

func managed(options azcore.ClientOptions, identity string) (azcore.TokenCredential, error) {
	o := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
	if identity != SystemAssigned {
		o.ID = azidentity.ClientID(identity)
	}
	cred, err := azidentity.NewManagedIdentityCredential(o)
	if err != nil {
		return nil, fmt.Errorf("managed identity: %w", err)
	}
	return cred, nil
}

// FederatedFile uses a federated credential whose assertion another issuer keeps
// in a file, as Kubernetes does with the token of a service account. The file is
// read before every fetch.
func FederatedFile(bot Bot, file string) (*Source, error) {
	if _, err := assertion(file); err != nil {
		return nil, err
	}
	return federated(bot, func(azcore.ClientOptions) (func(context.Context) (string, error), error) {
		return func(context.Context) (string, error) { return assertion(file) }, nil
	})
}

func assertion(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("federated credential: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("federated credential: %s is empty", file)
	}
	return token, nil
}

// FederatedIdentity uses a federated credential whose assertion is the token of a
// managed identity: [SystemAssigned], or the client id of a user-assigned
// identity.
func FederatedIdentity(bot Bot, identity string) (*Source, error) {
	if identity == "" {
		return nil, errors.New("federated credential: system, or the client id of a user-assigned identity, is required")
	}
	scope := bot.cloud().FederationScope
	return federated(bot, func(options azcore.ClientOptions) (func(context.Context) (string, error), error) {
		cred, err := managed(options, identity)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (string, error) {
			token, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
			return token.Token, err
		}, nil
	})
}

func federated(bot Bot, how func(azcore.ClientOptions) (func(context.Context) (string, error), error)) (*Source, error) {
	asserts := func(options azcore.ClientOptions, seen *witness) (func(context.Context) (string, error), error) {
		get, err := how(options)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (string, error) {
			token, err := get(ctx)
			seen.assertion = err
			return token, err
		}, nil
	}
	s, err := newSource(bot, func(options azcore.ClientOptions, seen *witness) (azcore.TokenCredential, error) {
		get, err := asserts(options, seen)
		if err != nil {
			return nil, err
		}
		cred, err := azidentity.NewClientAssertionCredential(bot.tenant(), bot.ClientID, get,
			&azidentity.ClientAssertionCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
		if err != nil {
			return nil, fmt.Errorf("federated credential: %w", err)
		}
		return cred, nil
	})
	if err != nil {
		return nil, err
	}
	s.behalf = func(options azcore.ClientOptions, seen *witness, tenant, assertion string) (azcore.TokenCredential, error) {
		get, err := asserts(options, seen)
		if err != nil {
			return nil, err
		}
		return azidentity.NewOnBehalfOfCredentialWithClientAssertions(tenant, bot.ClientID, assertion, get,
			&azidentity.OnBehalfOfCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	}
	return s, nil
}

func (b *Bot) cloud() tokensvc.Cloud {
	if b.Cloud.Name == "" {
		return tokensvc.PublicCloud()
	}
	return b.Cloud
}

func (b *Bot) tenant() string {
	if b.Tenant == "" {
		return b.cloud().LoginTenant
	}
	return b.Tenant
}

// newSource calls make once, so that wrong settings are reported now, and not at
// the first sign-in.
func newSource(bot Bot, make maker) (*Source, error) {
	if bot.LoginURL == "" {
		bot.LoginURL = bot.cloud().LoginURL
	}
	if bot.HTTPClient == nil {
		bot.HTTPClient = &http.Client{
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				ForceAttemptHTTP2:   true,
				TLSHandshakeTimeout: 5 * time.Second,
				IdleConnTimeout:     90 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	s := &Source{bot: bot, scope: bot.cloud().Scope, make: make}
	if _, err := make(s.options(new(witness)), new(witness)); err != nil {
		return nil, err
	}
	s.TokenCache = tokensvc.NewTokenCache(s.fetch, bot.Timeout)
	return s, nil
}

// DropToken drops a token that an upstream refused. The next fetch also bypasses
// the SDK's cache.
func (s *Source) DropToken(token tokensvc.Secret) {
	s.renew.Store(true)
	s.TokenCache.DropToken(token)
}

// CloseIdleConnections closes the idle connections of the HTTP client.
func (s *Source) CloseIdleConnections() { s.bot.HTTPClient.CloseIdleConnections() }

func (s *Source) options(seen *witness) azcore.ClientOptions {
	return azcore.ClientOptions{
		Cloud:            cloud.Configuration{ActiveDirectoryAuthorityHost: s.bot.LoginURL},
		Retry:            policy.RetryOptions{MaxRetries: 2, RetryDelay: 300 * time.Millisecond, MaxRetryDelay: 2 * time.Second},
		PerRetryPolicies: []policy.Policy{seen},
		Transport:        s.bot.HTTPClient,
	}
}

func (s *Source) fetch(ctx context.Context) (tokensvc.Secret, time.Time, error) {
	seen := new(witness)
	cred, err := s.make(s.options(seen), seen)
	if err != nil {
		return tokensvc.Secret{}, time.Time{}, &tokensvc.Error{Op: tokensvc.OpAccessToken, Err: err}
	}
	request := policy.TokenRequestOptions{Scopes: []string{s.scope}}
	if s.renew.Swap(false) && s.bypasses {
		request.Claims = "{}"
	}
	token, err := cred.GetToken(ctx, request)
	if err != nil {
		return tokensvc.Secret{}, time.Time{}, seen.failure(ctx, ofBot)
	}
	return tokensvc.NewSecret(token.Token), token.ExpiresOn, nil
}

// OnBehalfOf exchanges a user's token for one with other scopes, as
// [tokensvc.ClientCredentials.OnBehalfOf] does with a client secret. A managed
// identity cannot do that, but a federated credential with a managed identity's
// assertion can.
func (s *Source) OnBehalfOf(ctx context.Context, assertion tokensvc.Secret, scopes []string) (tokensvc.Token, error) {
	if s.behalf == nil {
		return tokensvc.Token{}, errors.New("on behalf of: a managed identity cannot exchange users' tokens: make it the assertion of a federated credential")
	}
	tenant, err := tokensvc.AssertionTenant(assertion)
	if err != nil {
		return tokensvc.Token{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.bot.Timeout, tokensvc.DefaultTimeout))
	defer cancel()
	seen := new(witness)
	cred, err := s.behalf(s.options(seen), seen, tenant, assertion.Reveal())
	if err != nil {
		return tokensvc.Token{}, &tokensvc.Error{Op: tokensvc.OpOnBehalfOf, Err: err}
	}
	token, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: scopes})
	if err != nil {
		return tokensvc.Token{}, seen.failure(ctx, onBehalf)
	}
	return tokensvc.Token{Token: tokensvc.NewSecret(token.Token), Expiration: token.ExpiresOn}, nil
}

// witness records the last answer of one fetch. Errors are made from it, since
// the SDK's own errors quote bodies and have no parts to inspect.
type witness struct {
	assertion error
	network   error
	status    int
	header    http.Header
	body      []byte
}

// Do implements [policy.Policy].
func (w *witness) Do(req *policy.Request) (*http.Response, error) {
	resp, err := req.Next()
	w.network, w.status = err, 0
	if err != nil {
		return resp, err
	}
	w.status, w.header = resp.StatusCode, resp.Header
	if w.body, err = peek(resp); err != nil {
		w.network = err
	}
	return resp, nil
}

var errUnusable = errors.New("no token in the answer")

// failures makes the errors of one kind of fetch.
type failures struct {
	op         string
	unanswered func(error) *tokensvc.Error
	refused    func(int, http.Header, []byte) *tokensvc.Error
}

var (
	ofBot    = failures{tokensvc.OpAccessToken, tokensvc.NewAccessTokenFailure, tokensvc.NewAccessTokenError}
	onBehalf = failures{tokensvc.OpOnBehalfOf, tokensvc.NewOnBehalfOfFailure, tokensvc.NewOnBehalfOfError}
)

// failure returns the error of a failed fetch.
func (w *witness) failure(ctx context.Context, of failures) error {
	switch {
	case ctx.Err() != nil:
		return &tokensvc.Error{Op: of.op, Err: ctx.Err()}
	case w.network != nil:
		return of.unanswered(w.network)
	case w.status >= http.StatusBadRequest:
		return of.refused(w.status, w.header, w.body)
	case w.assertion != nil:
		return &tokensvc.Error{Op: of.op, Err: w.assertion}
	default:
		return &tokensvc.Error{Op: of.op, Status: w.status, Err: errUnusable}
	}
}

// maxAnswer bounds, in bytes, how much of an answer is read.
const maxAnswer = 1 << 20

// peek reads a body, and replaces it by an unread copy.
func peek(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if closed := resp.Body.Close(); err == nil {
		err = closed
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return body, nil
}
