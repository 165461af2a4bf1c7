package config

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// readSecret reads client_secret_file.
func (c *Config) readSecret() Errors {
	var problems Errors
	if !c.ClientSecret.Empty() {
		problems.add("client_secret_file", "is set together with client_secret: use one")
		return problems
	}
	secret, err := secretOf(c.ClientSecretFile)
	if err != nil {
		problems.add("client_secret_file", "%v", err)
	}
	c.ClientSecret = secret
	return problems
}

// Check reports every problem that prevents the bot from being served, as
// [Errors]. It opens no listener and makes no request.
func (c *Config) Check() error {
	var p Errors
	if c.AppID == "" {
		p.add("app_id", "is missing: it is on the Configuration page of the Azure Bot resource")
	}
	c.checkUpstream(&p)
	c.checkCredentials(&p)
	c.checkInbound(&p)
	c.checkOperator(&p)
	if c.Metrics != "" && !isAddress(c.Metrics) {
		p.add("metrics", "%q is no host:port", c.Metrics)
	}
	if keys := c.Keys(); keys != nil {
		if _, err := keys(); err != nil {
			p.add("encryption_key_file", "%v", err)
		}
	}
	c.checkConnections(&p)
	c.checkNumbers(&p)
	c.checkStore(&p)
	c.checkFit(&p)
	c.checkExtension(&p)
	if _, err := zerolog.ParseLevel(c.Log.Level); err != nil || c.Log.Level == "" {
		p.add("log.level", "%q is not one of trace, debug, info, warn, error", c.Log.Level)
	}
	if !slices.Contains([]string{"auto", "console", "json"}, c.Log.Format) {
		p.add("log.format", "%q is not one of auto, console, json", c.Log.Format)
	}
	return p.err()
}

func (c *Config) checkUpstream(p *Errors) {
	for _, u := range []struct {
		key, value string
		base       bool // paths are appended to it
	}{
		{"token_service_url", c.TokenServiceURL, true},
		{"login_url", c.LoginURL, true},
		{"openid_metadata_url", c.OpenIDMetadataURL, false},
	} {
		parsed, ok := webURL(u.value)
		switch {
		case !ok:
			p.add(u.key, "is not an http or https URL")
		case u.base && (parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != ""):
			p.add(u.key, "has a user, a query or a fragment, which is not allowed")
		case u.base && c.OutboundAuth != AuthNone && parsed.Scheme != "https" && !loopback(parsed.Hostname()):
			p.add(u.key, "needs https: the bot's credentials go there")
		}
	}
	if _, ok := tokensvc.CloudNamed(c.Cloud); !ok {
		p.add("cloud", "%q is not one of %s", c.Cloud, strings.Join(tokensvc.CloudNames(), ", "))
	}
}

// webURL parses a URL. It returns no error, since the error would repeat the URL,
// which may contain a password.
func webURL(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, false
	}
	return u, true
}

// isAddress reports whether one can listen on s. A bind would report a port above
// 65535 only later, and without a port it would take any.
func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil || port == "" {
		return false
	}
	_, err = net.DefaultResolver.LookupPort(context.Background(), "tcp", port)
	return err == nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (c *Config) checkInbound(p *Errors) {
	if !isAddress(c.Listen) {
		p.add("listen", "%q is no host:port such as 0.0.0.0:3978", c.Listen)
	}
	switch c.InboundAuth {
	case AuthNone:
		if err := teams.CheckListener(c.Listen); err != nil {
			p.add("inbound_auth", "none needs a loopback listener, and listen is %q", c.Listen)
		}
	case AuthJWT:
		if u, ok := webURL(c.OpenIDMetadataURL); ok && u.Scheme != "https" && !loopback(u.Hostname()) {
			p.add("openid_metadata_url", "needs https: who can change the keys on their way can sign anything")
		}
	default:
		p.add("inbound_auth", "%q is neither jwt nor none", c.InboundAuth)
	}
	if _, err := teams.NewAllowList(c.ServiceURLs, false); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			p.add("service_urls", "%s", strings.TrimPrefix(line, "teams: service host "))
		}
	}
	switch {
	case c.Agentic && !tokensvc.IsTenantID(c.TenantID):
		p.add("tenant_id", "has to be the tenant's id, a GUID, where agentic is on: it says whose agents are let in")
	case !c.Agentic && c.AgenticBlueprintID != "":
		p.add("agentic_blueprint_id", "is set, and agentic is not")
	case !c.Agentic && len(c.AgenticCallers) > 0:
		p.add("agentic_callers", "is set, and agentic is not")
	}
}

// minToken is the least length, in characters, of a token that protects an
// endpoint off loopback.
const minToken = 16

func checkToken(p *Errors, key string, token tokensvc.Secret) {
	if n := len(token.Reveal()); n > 0 && n < minToken {
		p.add(key, "has %d characters, and an endpoint off loopback needs %d: openssl rand -hex 16 makes one", n, minToken)
	}
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

func (c *Config) checkOperator(p *Errors) {
	if !c.OperatorReadToken.Empty() && c.OperatorReadToken.Reveal() == c.OperatorToken.Reveal() {
		p.add("operator_read_token", "equals operator_token: a reader could act")
	}
	if strings.Trim(strings.ToLower(c.OperatorTrust), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		p.add("operator_trust_header", "%q is not a header name", c.OperatorTrust)
	}
	if c.Operator == "" {
		return
	}
	e, err := operator.ParseEndpoint(c.Operator)
	switch {
	case err != nil:
		p.add("operator", "%q %v", c.Operator, err)
	case e.Network == "tcp" && !isAddress(e.Address):
		p.add("operator", "%q has no port that can be listened on", c.Operator)
	case e.Network == "tcp" && c.OperatorToken.Empty():
		p.add("operator_token", "is missing: an operator endpoint on TCP needs one")
	case e.Network == "tcp" && !loopback(hostOf(e.Address)):
		checkToken(p, "operator_token", c.OperatorToken)
		checkToken(p, "operator_read_token", c.OperatorReadToken)
	}
}

// reserved reports whether a command begins with a word of the reference bot
// itself.
func reserved(command string) bool {
	word, _, _ := strings.Cut(command, " ")
	return slices.Contains([]string{"help", "login", "logout", "status"}, word)
}

func (c *Config) checkConnections(p *Errors) {
	if len(c.Connections) == 0 && c.MessageExtension == nil {
		p.add("connections", "at least one is needed: the name of an OAuth connection of the Azure Bot resource")
	}
	taken := map[string]string{} // word in lower case → the key that uses it
	take := func(key, word string) {
		word = strings.ToLower(word)
		if first, ok := taken[word]; ok {
			p.add(key, "%q is taken by %s", word, first)
			return
		}
		taken[word] = key
	}
	commands := map[string]string{}
	for i, conn := range c.Connections {
		key := "connections[" + strconv.Itoa(i) + "]"
		if strings.TrimSpace(conn.Name) == "" {
			p.add(key+".name", "is missing: it is that of an OAuth connection of the Azure Bot resource")
			continue
		}
		take(key+".name", conn.Name)
		if conn.Alias != "" && !strings.EqualFold(conn.Alias, conn.Name) {
			take(key+".alias", conn.Alias)
		}
		c.checkDirect(&conn, key, p)
		if conn.Profile == nil {
			continue
		}
		command := strings.ToLower(strings.TrimSpace(conn.Profile.Command))
		first, again := commands[command]
		switch {
		case command == "":
			p.add(key+".profile.command", "is missing")
		case reserved(command):
			p.add(key+".profile.command", "%q begins with a word of the bot itself", command)
		case again:
			p.add(key+".profile.command", "%q is taken by %s", command, first)
		}
		commands[command] = key + ".profile.command"
		if u, ok := webURL(conn.Profile.URL); !ok || u.Scheme != "https" && !loopback(u.Hostname()) {
			p.add(key+".profile.url", "is not an https URL: the user's token goes there")
		}
	}
}

// checkDirect checks a connection for which the bot itself exchanges tokens.
func (c *Config) checkDirect(conn *Connection, key string, p *Errors) {
	d := conn.Direct
	if d == nil {
		return
	}
	key += ".direct"
	if len(d.Scopes) == 0 || slices.ContainsFunc(d.Scopes, func(scope string) bool { return strings.TrimSpace(scope) == "" }) {
		p.add(key+".scopes", "name the scopes of the token, such as https://graph.microsoft.com/User.Read")
	}
	if u, ok := webURL(d.Link); !ok || u.Scheme != "https" && !loopback(u.Hostname()) {
		p.add(key+".link", "is not an https URL: it is the page behind the card's button, which asks the user for consent")
	}
	if !conn.OffersSSO() {
		p.add(key, "goes by the client's SSO token, and sso is false")
	}
	if c.OutboundAuth == AuthNone {
		p.add(key, "exchanges tokens with the bot's own credentials, but outbound_auth is none")
	}
	if c.ManagedIdentity != "" {
		p.add(key, "exchanges users' tokens, which a managed identity cannot: make it the assertion of a federated credential with federated.managed_identity")
	}
	if c.EncryptionKeyFile == "" {
		p.add(key, "keeps tokens, sealed with the keys of encryption_key_file, which is not set: openssl rand -base64 32 makes a key")
	}
}

// checkNumbers has the machine and the transport check their settings. Each
// reports one problem per line, with the key in front.
func (c *Config) checkNumbers(p *Errors) {
	for _, v := range []struct {
		prefix string
		err    error
	}{{"", c.Policy.Validate()}, {"", c.Timeouts.Validate()}, {"limits.", c.Limits.Validate()}} {
		if v.err == nil {
			continue
		}
		for line := range strings.SplitSeq(v.err.Error(), "\n") {
			key, text, _ := strings.Cut(line, ": ")
			p.add(v.prefix+key, "%s", text)
		}
	}
	for _, l := range []struct {
		key  string
		zero bool
	}{
		{"body", c.Limits.Body == 0},
		{"depth", c.Limits.Depth == 0},
		{"header_timeout", c.Limits.HeaderTimeout == 0},
		{"body_timeout", c.Limits.BodyTimeout == 0},
		{"concurrent", c.Limits.Concurrent == 0},
		{"queue", c.Limits.Queue == 0},
		{"queue_wait", c.Limits.QueueWait == 0},
		{"connections", c.Limits.Connections == 0},
	} {
		if l.zero {
			p.add("limits."+l.key, "must be positive")
		}
	}
}
