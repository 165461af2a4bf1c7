package tokensvc

import "slices"

// Regional base URLs of the Token Service in the public cloud (docs/protocol.md §3).
// Any other URL works too.
const (
	PublicURL       = "https://token.botframework.com"
	EuropeURL       = "https://europe.token.botframework.com"
	UnitedStatesURL = "https://unitedstates.token.botframework.com"
	IndiaURL        = "https://india.token.botframework.com"
)

// The names of the clouds, as in [CloudNamed].
const (
	CloudPublic  = "public"
	CloudGCC     = "gcc"
	CloudGCCHigh = "gcc_high"
	CloudDoD     = "dod"
	CloudChina   = "china"
)

// Cloud is one of Microsoft's clouds, with all addresses for a bot in it: those for the
// Token Service client, the credentials and the transports. So one name sets them all.
type Cloud struct {
	Name              string
	TokenServiceURL   string // base URL of the Token Service
	LoginURL          string // Entra
	STSURL            string // begins the issuer of Entra's v1 tokens
	LoginTenant       string // tenant of a multi-tenant bot
	Scope             string // of the bot's own token
	FederationScope   string // of a managed identity's token that is exchanged for the bot's
	OpenIDMetadataURL string // leads to the keys of the connector's tokens
	Issuer            string // of the connector's tokens
	// ServiceHosts are the connector's own hosts; * is the leftmost label.
	ServiceHosts []string
}

// clouds is the one table of them.
func clouds() []Cloud {
	public := Cloud{
		Name:              CloudPublic,
		TokenServiceURL:   PublicURL,
		LoginURL:          PublicLoginURL,
		STSURL:            "https://sts.windows.net",
		LoginTenant:       MultiTenant,
		Scope:             DefaultScope,
		FederationScope:   "api://AzureADTokenExchange/.default",
		OpenIDMetadataURL: "https://login.botframework.com/v1/.well-known/openidconfiguration",
		Issuer:            "https://api.botframework.com",
		ServiceHosts:      []string{"*.botframework.com", "smba.trafficmanager.net"},
	}
	gcc := public
	gcc.Name = CloudGCC
	gcc.ServiceHosts = []string{"smba.infra.gcc.teams.microsoft.com"}

	high := Cloud{ //nolint:gosec // addresses, no credentials
		Name:              CloudGCCHigh,
		TokenServiceURL:   "https://tokengcch.botframework.azure.us",
		LoginURL:          "https://login.microsoftonline.us",
		STSURL:            "https://sts.windows.net",
		LoginTenant:       "MicrosoftServices.onmicrosoft.us",
		Scope:             "https://api.botframework.us/.default",
		FederationScope:   "api://AzureADTokenExchangeUSGov/.default",
		OpenIDMetadataURL: "https://login.botframework.azure.us/v1/.well-known/openidconfiguration",
		Issuer:            "https://api.botframework.us",
		ServiceHosts:      []string{"smba.infra.gov.teams.microsoft.us", "*.botframework.us"},
	}
	dod := high
	dod.Name = CloudDoD
	dod.TokenServiceURL = "https://apiDoD.botframework.azure.us"
	dod.ServiceHosts = []string{"smba.infra.dod.teams.microsoft.us"}

	china := Cloud{ //nolint:gosec // addresses, no credentials
		Name:              CloudChina,
		TokenServiceURL:   "https://token.botframework.azure.cn",
		LoginURL:          "https://login.partner.microsoftonline.cn",
		STSURL:            "https://sts.chinacloudapi.cn",
		LoginTenant:       "microsoftservices.partner.onmschina.cn",
		Scope:             "https://api.botframework.azure.cn/.default",
		FederationScope:   "api://AzureADTokenExchangeChina/.default",
		OpenIDMetadataURL: "https://login.botframework.azure.cn/v1/.well-known/openidconfiguration",
		Issuer:            "https://api.botframework.azure.cn",
		ServiceHosts:      []string{"*.botframework.azure.cn"},
	}
	return []Cloud{public, gcc, high, dod, china}
}

// PublicCloud is the default cloud.
func PublicCloud() Cloud { return clouds()[0] }

// CloudNamed returns the cloud with that name; false means that there is none.
func CloudNamed(name string) (Cloud, bool) {
	for _, c := range clouds() {
		if c.Name == name {
			return c, true
		}
	}
	return Cloud{}, false
}

// CloudNames lists the clouds.
func CloudNames() []string {
	var names []string
	for _, c := range clouds() {
		names = append(names, c.Name)
	}
	return names
}

// ServiceHosts lists the connector's hosts of every cloud. A connector's signed token
// says which of them it is, so a bot may safely know the hosts of other clouds.
func ServiceHosts() []string {
	var hosts []string
	for _, c := range clouds() {
		hosts = append(hosts, c.ServiceHosts...)
	}
	slices.Sort(hosts)
	return hosts
}
