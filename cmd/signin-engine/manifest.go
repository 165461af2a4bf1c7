package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// manifest holds the members of a Teams app manifest that matter to sign-in.
type manifest struct {
	Bots []struct {
		BotID string `json:"botId"`
	} `json:"bots"`
	ValidDomains       []string `json:"validDomains"`
	WebApplicationInfo struct {
		ID       string `json:"id"`
		Resource string `json:"resource"`
	} `json:"webApplicationInfo"`
}

func readManifest(file string) (manifest, error) {
	var m manifest
	b, err := os.ReadFile(file)
	switch {
	case err != nil:
		return m, usage("--manifest: %w", err)
	case bytes.HasPrefix(b, []byte("PK")):
		return m, usage("--manifest: %s is a package: take manifest.json out of it", file)
	}
	if err = json.Unmarshal(bytes.TrimPrefix(b, []byte("\uFEFF")), &m); err != nil {
		return m, usage("--manifest: %s is no Teams app manifest: %w", file, err)
	}
	return m, nil
}

// manifestHealth compares a manifest with the settings, and with what the Token
// Service answers for each connection.
func manifestHealth(ctx context.Context, cfg config.Config, m manifest) []health {
	found := []health{m.bot(cfg.AppID)}
	for _, conn := range cfg.Connections {
		check := "manifest, " + conn.Name
		if conn.Direct != nil {
			found = append(found, m.fits(check, conn.Direct.SignInResource(cfg.AppID)))
			continue
		}
		resource, err := signInResource(ctx, cfg, conn.Name)
		if err != nil {
			found = append(found, health{check, healthSkipped, "the Token Service gave no card: " + err.Error()})
			continue
		}
		found = append(found, m.fits(check, resource))
	}
	return found
}

func (m *manifest) bot(appID string) health {
	const check = "manifest, bots"
	ids := make([]string, len(m.Bots))
	for i := range m.Bots {
		ids[i] = m.Bots[i].BotID
	}
	switch {
	case appID == "":
		return health{check, healthSkipped, "app_id is not known: name the bot's settings with --config"}
	case !slices.ContainsFunc(ids, func(id string) bool { return strings.EqualFold(id, appID) }):
		return health{check, healthFail, fmt.Sprintf("botId is not app_id %s: it is %s", appID, orNone(ids))}
	default:
		return health{check, healthOK, "botId is app_id"}
	}
}

// fits judges whether Teams would accept the sign-in card of a connection.
func (m *manifest) fits(check string, r tokensvc.SignInResource) health {
	link, err := url.Parse(r.SignInLink.Reveal())
	if err != nil {
		return health{check, healthFail, "the Token Service answers a sign-in link that is not a URL"}
	}
	var wrong []string
	if !m.allows(link.Hostname()) {
		wrong = append(wrong, fmt.Sprintf("validDomains lacks %s, so the popup does not open: it has %s", link.Hostname(), orNone(m.ValidDomains)))
	}
	app := m.WebApplicationInfo
	switch {
	case r.TokenExchangeResource == nil:
	case app.ID == "" || app.Resource == "":
		wrong = append(wrong, "webApplicationInfo lacks id or resource, so there is no SSO")
	case !strings.EqualFold(app.Resource, r.TokenExchangeResource.URI):
		wrong = append(wrong, fmt.Sprintf("webApplicationInfo.resource is %s, and the connection's Token Exchange URL is %s, so SSO fails (resourcematchfailed)",
			app.Resource, r.TokenExchangeResource.URI))
	}
	switch {
	case len(wrong) > 0:
		return health{check, healthFail, strings.Join(wrong, "; ")}
	case r.TokenExchangeResource == nil:
		return health{check, healthOK, "the popup opens; the connection offers no SSO"}
	default:
		return health{check, healthOK, "the popup opens, and resource is the connection's Token Exchange URL"}
	}
}

// allows reports whether a popup may open on a host. In a domain, * stands for
// one label.
func (m *manifest) allows(host string) bool {
	return slices.ContainsFunc(m.ValidDomains, func(domain string) bool {
		if rest, ok := strings.CutPrefix(domain, "*."); ok {
			_, behind, _ := strings.Cut(host, ".")
			return strings.EqualFold(rest, behind)
		}
		return strings.EqualFold(domain, host)
	})
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// signInResource asks for what a card of the connection would contain. The call
// changes nothing.
func signInResource(ctx context.Context, cfg config.Config, connection string) (tokensvc.SignInResource, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	client, release, err := tokenClient(cfg)
	if err != nil {
		return tokensvc.SignInResource{}, err
	}
	defer release()
	return client.GetSignInResource(ctx, tokensvc.State{
		Connection: connection, ChannelID: "msteams", UserID: nobody, MsAppID: cfg.AppID, BotID: "28:" + cfg.AppID,
		ConversationID: "a:signin-engine-doctor", ActivityID: "1", ServiceURL: "https://smba.trafficmanager.net/teams/",
	})
}
