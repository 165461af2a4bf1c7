package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
)

// Checks of the message extension's own sign-in.
const (
	checkProvider       = "provider"
	checkProviderClient = "provider client"
	checkPublicURL      = "public url"
)

func providerChecks() []string { return []string{checkProvider, checkProviderClient, checkPublicURL} }

// providerHealth checks the provider that users of the message extension sign in
// to, and the address to which they come back.
func providerHealth(ctx context.Context, cfg config.Config) []health {
	m := cfg.MessageExtension
	if m == nil || !m.HasPopup() {
		return skipped("message_extension has no popup of its own", providerChecks()...)
	}
	p, err := m.Popup(cfg.AppID)
	if err != nil {
		return skipped("message_extension is not complete: see settings", providerChecks()...)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: probeTimeout}
	found := p.Provider.Probe(ctx, p.PublicURL, client)
	return []health{foundHealth(&p.Provider, &found), clientHealth(&found), publicHealth(ctx, p.PublicURL, client)}
}

// foundHealth judges whether the provider answers, and is the configured one.
func foundHealth(p *popup.Provider, found *popup.Probe) health {
	const check = checkProvider
	revokes := "sign-outs are told to it"
	if !found.Revokes {
		revokes = "it cannot be told of sign-outs: it has no revocation endpoint (RFC 7009)"
	}
	switch {
	case found.Discovery != nil:
		return health{check, healthFail, fmt.Sprintf("%v: check message_extension.provider.issuer: it must be exactly the issuer in the discovery document", found.Discovery)}
	case p.Issuer == "":
		return health{check, healthOK, "plain OAuth 2.0, so there is nothing to discover; " + revokes}
	default:
		return health{check, healthOK, "the discovery document is there and names the same issuer; " + revokes}
	}
}

// clientHealth judges the token endpoint's answer to a code that was never
// issued.
func clientHealth(found *popup.Probe) health {
	const check = checkProviderClient
	switch {
	case found.Discovery != nil:
		return health{check, healthSkipped, "the provider was not found"}
	case found.Token != nil:
		return health{check, healthFail, found.Token.Error()}
	case found.Code == "invalid_grant":
		return health{check, healthOK, "the token endpoint knows the client"}
	case found.Status == http.StatusUnauthorized, found.Code == "invalid_client", found.Code == "unauthorized_client":
		return health{check, healthFail, fmt.Sprintf("the token endpoint answers %s: check client_id, client_secret and token_endpoint_auth_method of message_extension.provider", answeredWith(found))}
	case found.Status >= http.StatusInternalServerError:
		return health{check, healthFail, fmt.Sprintf("the token endpoint answers %s", answeredWith(found))}
	default:
		return health{check, healthWarn, fmt.Sprintf("the token endpoint answers an invalid code with %s, and not with invalid_grant: is it the token endpoint?", answeredWith(found))}
	}
}

func answeredWith(found *popup.Probe) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", found.Status, found.Code))
}

// publicHealth checks that browsers can reach the pages, under a host that the
// app's manifest can name.
func publicHealth(ctx context.Context, public string, client *http.Client) health {
	const check = checkPublicURL
	u, err := url.Parse(public)
	if err != nil {
		return health{check, healthFail, "message_extension.public_url is not a URL"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(public, "/")+"/auth/page.css", nil)
	if err != nil {
		return health{check, healthFail, "message_extension.public_url is not a URL"}
	}
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	isAddress := err == nil
	switch {
	case strings.EqualFold(host, "localhost"), isAddress && addr.IsLoopback():
		return health{check, healthWarn, host + " is this machine: only a browser here can open the popup"}
	case isAddress, !strings.Contains(host, "."):
		return health{check, healthWarn, host + " is not a name that validDomains of the Teams app can list, so Teams does not open the popup"}
	}
	res, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return health{check, healthFail, host + " does not exist (DNS)"}
		}
		return health{check, healthWarn, fmt.Sprintf("%s could not be asked from here: %v", host, err)}
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return health{check, healthWarn, err.Error()}
	}
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/css") {
		return health{check, healthFail, fmt.Sprintf("%s answers %d to /auth/page.css, so it is not the bot: check public_url and what stands in front of it", host, res.StatusCode)}
	}
	return health{check, healthOK, "the popup's pages are there; validDomains of the Teams app has to list " + host}
}
