package tokensvc_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// What each cloud stands for (docs/protocol.md §1–§3).
func TestClouds(t *testing.T) {
	t.Parallel()
	type want struct{ tokens, login, metadata, issuer, scope string }
	public := want{
		"https://token.botframework.com", "https://login.microsoftonline.com",
		"https://login.botframework.com/v1/.well-known/openidconfiguration",
		"https://api.botframework.com", "https://api.botframework.com/.default",
	}
	high := want{
		"https://tokengcch.botframework.azure.us", "https://login.microsoftonline.us",
		"https://login.botframework.azure.us/v1/.well-known/openidconfiguration",
		"https://api.botframework.us", "https://api.botframework.us/.default",
	}
	dod := high
	dod.tokens = "https://apiDoD.botframework.azure.us"
	all := map[string]want{
		"public": public, "gcc": public, "gcc_high": high, "dod": dod,
		"china": {
			"https://token.botframework.azure.cn", "https://login.partner.microsoftonline.cn",
			"https://login.botframework.azure.cn/v1/.well-known/openidconfiguration",
			"https://api.botframework.azure.cn", "https://api.botframework.azure.cn/.default",
		},
	}
	if names := tokensvc.CloudNames(); len(names) != len(all) {
		t.Errorf("clouds %v", names)
	}
	for name, w := range all {
		c, ok := tokensvc.CloudNamed(name)
		if got := (want{c.TokenServiceURL, c.LoginURL, c.OpenIDMetadataURL, c.Issuer, c.Scope}); !ok || got != w || c.Name != name {
			t.Errorf("%s: %+v", name, c)
		}
		for _, address := range []string{c.TokenServiceURL, c.LoginURL, c.STSURL, c.OpenIDMetadataURL, c.Issuer} {
			if u, err := url.Parse(address); err != nil || u.Scheme != "https" || strings.HasSuffix(address, "/") {
				t.Errorf("%s: %q, %v", name, address, err)
			}
		}
		if c.LoginTenant == "" || c.FederationScope == "" || len(c.ServiceHosts) == 0 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if c, ok := tokensvc.CloudNamed("PUBLIC"); ok {
		t.Errorf("%+v", c)
	}
	if tokensvc.PublicCloud().Name != "public" {
		t.Error("the public cloud is another one")
	}
	hosts := []string{
		"*.botframework.com", "smba.trafficmanager.net", "smba.infra.gcc.teams.microsoft.com", "smba.infra.gov.teams.microsoft.us",
		"smba.infra.dod.teams.microsoft.us", "*.botframework.us", "*.botframework.azure.cn",
	}
	slices.Sort(hosts)
	if got := tokensvc.ServiceHosts(); !slices.Equal(got, hosts) {
		t.Errorf("hosts %v", got)
	}
}
