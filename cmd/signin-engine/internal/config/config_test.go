package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// good is the smallest configuration that can be served.
const good = `
app_id: 00000000-0000-4000-8000-0000000000b0
client_secret: hunter2
inbound_auth: none
connections: [{name: teamsgraph}]
`

// extension is a valid message extension in which setting replaces the value of
// its key.
func extension(setting string) string {
	all := []string{
		"connection: wiki", "public_url: https://bot.example", "encryption_key: " + strings.Repeat("A", 43),
		"provider: {issuer: https://login.example, client_id: x}",
	}
	key, _, _ := strings.Cut(setting, ":")
	all = slices.DeleteFunc(all, func(s string) bool { return strings.HasPrefix(s, key+":") })
	return "message_extension:\n  " + strings.Join(append(all, setting), "\n  ") + "\n"
}

func TestMessageExtension(t *testing.T) {
	for name, yaml := range map[string]string{
		"popup":             good + extension("code_lifetime: 1m"),
		"plain OAuth 2.0":   good + extension("provider: {authorize_url: https://l.example/a, token_url: https://l.example/t, profile_url: https://l.example/p, revoke_url: https://l.example/r, client_id: x, client_secret: y, token_endpoint_auth_method: client_secret_post, scopes: [a, b]}"),
		"only an extension": strings.ReplaceAll(good, "connections: [{name: teamsgraph}]", "") + extension("width: 400"),
		"Token Service":     good + "message_extension: {token_service_connection: teamsgraph}",
		"two keys":          good + extension("encryption_key: "+strings.Repeat("A", 43)+" "+strings.Repeat("B", 43)+"="),
		"words":             good + extension("words: {language: de, title: Anmelden, signed_in: Angemeldet}"),
	} {
		if err := check(t, yaml); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg, err := load(t, good+extension("words: {title: Anmelden}"), "SIGNIN_ENGINE_MESSAGE_EXTENSION_ENCRYPTION_KEY="+strings.Repeat("C", 43),
		"SIGNIN_ENGINE_MESSAGE_EXTENSION_PROVIDER_CLIENT_SECRET=hunter2", "SIGNIN_ENGINE_MESSAGE_EXTENSION_PROVIDER_SCOPES=a, b")
	if err != nil {
		t.Fatal(err)
	}
	p, err := cfg.MessageExtension.Popup(cfg.AppID)
	if err != nil || len(p.Keys) != 1 || p.Keys[0][0] != 8 || p.Provider.ClientSecret.Reveal() != "hunter2" || p.Words.Title != "Anmelden" ||
		len(p.Provider.Scopes) != 2 || p.Connection != "wiki" {
		t.Errorf("%+v, %v", p, err)
	}
	if text := fmt.Sprintf("%+v", cfg); strings.Contains(text, "hunter2") || strings.Contains(text, "CCCC") {
		t.Error("a secret is printed")
	}
}

func load(t *testing.T, yaml string, environ ...string) (config.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(config.Source{File: path, Environ: environ})
}

// check loads and checks the settings, as serve does.
func check(t *testing.T, yaml string, environ ...string) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := config.LoadChecked(config.Source{File: path, Environ: environ})
	return err
}

// TestEverythingAtOnce checks that all mistakes are reported together, so that
// one start shows them all.
func TestEverythingAtOnce(t *testing.T) {
	err := check(t, `
app_idd: x
tenant: x
listen: nowhere
inbound_auth: maybe
service_urls: ["*", "b ad", "https://x"]
polcy: {a: 1}
duplicate_wait: 3s
policy: {duplicate_wait: -3s, failed_duplicate: nope, group_card: foo, wrong: 1, max_code_tries: many}
timeouts: {attempt: 0s, upstream: 40s, sweep: -5s, retention: abc}
limits: {body: 0, depth: -1, queue: -4}
connections: [{name: a}, {name: A}, {name: c, alais: x, sso: maybe, profile: {command: help, url: "http://x"}}]
message_extension: {width: -1}
log: {level: loud, format: pretty}
agentic: [a]
`, "SIGNIN_ENGINE_OPERATR=x", "SIGNIN_ENGINE_CONNECTIONS=a")
	var problems config.Errors
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	want := []string{
		`SIGNIN_ENGINE_OPERATR: unknown environment variable: did you mean SIGNIN_ENGINE_OPERATOR?`,
		`SIGNIN_ENGINE_CONNECTIONS: connections can be set in the file only`,
		`agentic: has the wrong kind of value: it is true or false`,
		`app_idd: unknown key: did you mean app_id?`,
		`connections[2].alais: unknown key: did you mean connections[2].alias?`,
		`connections[2].sso: has a value that cannot be read: it is true or false`,
		`duplicate_wait: unknown key: did you mean policy.duplicate_wait?`,
		`polcy: unknown key: did you mean policy?`,
		`policy.max_code_tries: has a value that cannot be read: it is a whole number`,
		`policy.wrong: unknown key (signin-engine config lists them)`,
		`tenant: unknown key: did you mean tenant_id?`,
		`timeouts.retention: "abc" is no duration such as 3s, 15m or 720h`,
		`app_id: is missing: it is on the Configuration page of the Azure Bot resource`,
		`client_secret: is missing: set it, client_secret_file, certificate_file, managed_identity or federated; outbound_auth: none does without, beside an emulator`,
		`listen: "nowhere" is no host:port such as 0.0.0.0:3978`,
		`inbound_auth: "maybe" is neither jwt nor none`,
		`service_urls: "*": * must be the leftmost label of a longer name`,
		`service_urls: "b ad": is not host[:port], with * as the leftmost label only`,
		`service_urls: "https://x": is a URL: name its host[:port] alone`,
		`connections[1].name: "a" is taken by connections[0].name`,
		`connections[2].profile.command: "help" begins with a word of the bot itself`,
		`connections[2].profile.url: is not an https URL: the user's token goes there`,
		`policy.failed_duplicate: "nope" is neither "replay" nor "noop"`,
		`policy.group_card: "foo" is neither "targeted" nor "everyone"`,
		`policy.duplicate_wait: must not be negative`,
		`timeouts.attempt: must be positive`,
		`timeouts.sweep: must be positive`,
		`timeouts.upstream: 40s is not shorter than timeouts.lease (30s)`,
		`limits.depth: must not be negative`,
		`limits.queue: must not be negative`,
		`limits.body: must be positive`,
		`message_extension.connection: is missing`,
		`message_extension.public_url: is missing`,
		`message_extension.encryption_key: is missing`,
		`message_extension.provider.client_id: is missing`,
		`message_extension.provider: issuer, or authorize_url and token_url, are missing`,
		`message_extension.width and height: must be positive`,
		`log.level: "loud" is not one of trace, debug, info, warn, error`,
		`log.format: "pretty" is not one of auto, console, json`,
	}
	var got []string
	for _, one := range problems {
		got = append(got, one.Error())
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
		t.Error(diff)
	}
}

func TestGood(t *testing.T) {
	if err := check(t, good); err != nil {
		t.Fatal(err)
	}
	cfg, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.Connections[0].OffersSSO() {
		t.Error("a connection offers SSO unless it is told not to")
	}
	if diff := cmp.Diff(machine.DefaultPolicy(), cfg.Policy); diff != "" {
		t.Errorf("policy: %s", diff)
	}
	if diff := cmp.Diff(machine.DefaultTimeouts(), cfg.Timeouts); diff != "" {
		t.Errorf("timeouts: %s", diff)
	}
}

// TestEveryKey checks that every key of the documented file is known, and sets
// the right member.
func TestEveryKey(t *testing.T) {
	cfg, err := load(t, `
app_id: a
tenant_id: 3f3d1cea-7a18-41af-872b-cfbbd5140984
cloud: gcc_high
outbound_auth: credentials
client_secret: s
listen: 127.0.0.1:1
store: "bolt:x.db"
token_service_url: https://token.example
login_url: https://login.example
openid_metadata_url: https://meta.example
inbound_auth: none
agentic: true
agentic_blueprint_id: b
service_urls: ["*.example.com"]
operator: "unix:x.sock"
operator_token: o
connections:
  - name: teamsgraph
    alias: graph
    display_name: Microsoft Graph
    card_text: Please Sign In
    sso: false
    button_text: Sign In
    profile: {command: my ad user, url: https://graph.microsoft.com/v1.0/me}
policy: {duplicate_wait: 0s, failed_duplicate: noop, failure_fanout: all, late_invoke: reject, identity_mismatch: reject, group_card: everyone, typed_codes: true, keep_request: false, token_cache: 5m, resend_cooldown: 1s, max_code_tries: 2, on_silent_error: card, group_chat: one_to_one, group_sso: false, success_body: echo, popup_closed: fail, compose_cooldown: 31s, combined_lookup: true, callback_budget: 6s, callback_mode: at_most_once}
timeouts: {attempt: 16m, upstream: 11s, lease: 31s, outbox_lease: 61s, sweep: 6s, retention: 721h}
limits: {body: 1, depth: 2, header_timeout: 3s, body_timeout: 4s, concurrent: 5, queue: 6, queue_wait: 7s, sign_ins_per_minute: 0, connections: 9}
log: {level: debug, format: json}
`)
	if err != nil {
		t.Fatal(err)
	}
	if err = cfg.Check(); err != nil {
		t.Fatal(err)
	}
	wantLimits := teams.Limits{
		Body: 1, Depth: 2, HeaderTimeout: 3 * time.Second, BodyTimeout: 4 * time.Second, Concurrent: 5, Queue: 6,
		QueueWait: 7 * time.Second, Connections: 9,
	}
	if diff := cmp.Diff(wantLimits, cfg.Limits); diff != "" {
		t.Errorf("limits: %s", diff)
	}
	if cfg.CloudPreset().Issuer != "https://api.botframework.us" || !cfg.Agentic || cfg.AgenticBlueprintID != "b" {
		t.Errorf("%+v", cfg)
	}
	wantPolicy := machine.Policy{
		FailedDuplicate: machine.Noop, FailureFanout: machine.All, LateInvoke: machine.Reject, ResendCooldown: time.Second,
		MaxCodeTries: 2, OnSilentError: machine.CardAnyway, GroupChat: machine.OneToOne, SuccessBody: machine.Echo,
		PopupClosed: machine.Fail, ComposeCooldown: 31 * time.Second, CombinedLookup: true, CallbackBudget: 6 * time.Second,
		CallbackMode: machine.AtMostOnce, IdentityMismatch: machine.Reject, GroupCard: machine.Everyone, TypedCodes: true,
		TokenCache: 5 * time.Minute,
	}
	if diff := cmp.Diff(wantPolicy, cfg.Policy); diff != "" {
		t.Errorf("policy: %s", diff)
	}
	wantTimeouts := machine.Timeouts{
		Attempt: 16 * time.Minute, Upstream: 11 * time.Second, Lease: 31 * time.Second, OutboxLease: 61 * time.Second,
		Sweep: 6 * time.Second, Retention: 721 * time.Hour,
	}
	if diff := cmp.Diff(wantTimeouts, cfg.Timeouts); diff != "" {
		t.Errorf("timeouts: %s", diff)
	}
	wantConnection := config.Connection{
		Name: "teamsgraph", Alias: "graph", DisplayName: "Microsoft Graph", CardText: "Please Sign In", SSO: new(bool), ButtonText: "Sign In",
		Profile: &config.Profile{Command: "my ad user", URL: "https://graph.microsoft.com/v1.0/me"},
	}
	if diff := cmp.Diff([]config.Connection{wantConnection}, cfg.Connections); diff != "" {
		t.Errorf("connections: %s", diff)
	}
	if cfg.Connections[0].OffersSSO() {
		t.Error("sso: false is not taken")
	}
	if cfg.ClientSecret.Reveal() != "s" || cfg.OperatorToken.Reveal() != "o" || cfg.Log != (config.Log{Level: "debug", Format: "json"}) {
		t.Errorf("%+v", cfg)
	}
}

// direct is a bot with one direct connection.
func direct(settings string) string {
	return "inbound_auth: none\napp_id: a\nclient_secret: x\nconnections: [{name: x, direct: {" + settings + "}}]\n"
}

// TestMistakes checks that each mistake is reported in one line that names its
// key.
func TestMistakes(t *testing.T) {
	const connection = "\nconnections: [{name: teamsgraph}]\n"
	for name, tc := range map[string]struct {
		yaml    string
		environ []string
		want    string
	}{
		"unknown key":             {yaml: good + "listn: x", want: "listn: unknown key"},
		"unknown nested key":      {yaml: good + "policy: {duplicate: 3s}", want: "policy.duplicate: unknown key"},
		"direct: unknown key":     {yaml: direct("scope: [x]"), want: "connections[0].direct.scope: unknown key"},
		"direct: no scopes":       {yaml: direct("link: https://bot.example"), want: "connections[0].direct.scopes: name the scopes of the token"},
		"direct: blank scope":     {yaml: direct("scopes: [' '], link: https://bot.example"), want: "connections[0].direct.scopes: name the scopes of the token"},
		"direct: no link":         {yaml: direct("scopes: [x]"), want: "connections[0].direct.link: is not an https URL"},
		"direct: plain link":      {yaml: direct("scopes: [x], link: 'http://bot.example'"), want: "connections[0].direct.link: is not an https URL"},
		"direct: no keys":         {yaml: direct("scopes: [x], link: https://bot.example"), want: "connections[0].direct: keeps tokens, sealed with the keys of encryption_key_file, which is not set"},
		"direct: without sso":     {yaml: strings.Replace(direct("scopes: [x]"), "name: x", "name: x, sso: false", 1), want: "connections[0].direct: goes by the client's SSO token, and sso is false"},
		"direct: no credentials":  {yaml: direct("scopes: [x]") + "outbound_auth: none", want: "connections[0].direct: exchanges tokens with the bot's own credentials, but outbound_auth is none"},
		"direct: an identity":     {yaml: strings.Replace(direct("scopes: [x]"), "client_secret: x", "managed_identity: system", 1), want: "connections[0].direct: exchanges users' tokens, which a managed identity cannot"},
		"unknown connection key":  {yaml: "app_id: a\nconnections: [{nam: x}]", want: "connections[0].nam: unknown key"},
		"go name as a key":        {yaml: good + "policy: {DuplicateWait: 3s}", want: "policy.DuplicateWait: unknown key"},
		"unknown variable":        {yaml: good, environ: []string{"SIGNIN_ENGINE_LISTN=x"}, want: "SIGNIN_ENGINE_LISTN: unknown environment variable"},
		"token over http":         {yaml: good + "token_service_url: http://token.example", want: "token_service_url: needs https: the bot's credentials go there"},
		"token over http by IP":   {yaml: good + "token_service_url: http://10.0.0.1", want: "token_service_url: needs https: the bot's credentials go there"},
		"secret over http":        {yaml: good + "login_url: http://login.example", want: "login_url: needs https: the bot's credentials go there"},
		"no such port":            {yaml: good + "listen: 127.0.0.1:99999", want: `listen: "127.0.0.1:99999" is no host:port`},
		"no port":                 {yaml: good + "listen: '127.0.0.1:'", want: `listen: "127.0.0.1:" is no host:port`},
		"no port for metrics":     {yaml: good + "metrics: 127.0.0.1:99999", want: `metrics: "127.0.0.1:99999" is no host:port`},
		"no port for operators":   {yaml: good + "operator: 127.0.0.1:99999\noperator_token: x", want: `operator: "127.0.0.1:99999" has no port`},
		"variable":                {yaml: good + "operator_token: ${TOKEN}", want: "operator_token: is the name of a variable"},
		"template":                {yaml: good + "operator_token: '{{ .token }}'", want: "operator_token: is the name of a variable"},
		"variable in a list":      {yaml: good + "service_urls: ['${HOST}']", want: "service_urls[0]: is the name of a variable"},
		"two documents":           {yaml: good + "---\nlistn: x", want: "--config: "},
		"secret as an alias":      {yaml: good + "operator_token: *hunter2", want: "--config: "},
		"secret as a template":    {yaml: good + "operator_token: {{hunter2}}", want: "--config: "},
		"secret with a tag":       {yaml: good + "operator_token: !!int hunter2", want: "--config: "},
		"secret alone":            {yaml: "hunter2", want: "--config: "},
		"secret in a host":        {yaml: good + "service_urls: ['https://u:h/hunter2@h']", want: `service_urls: "https://[redacted]@h"`},
		"secret in an operator":   {yaml: good + "operator: http://u:hunter2@h", want: `operator: "http://[redacted]@h"`},
		"one connection":          {yaml: "app_id: a\nclient_secret: x\nconnections: {name: x, sos: false}", want: "connections: has the wrong kind of value: it is a list"},
		"fraction":                {yaml: good + "limits: {queue: 1.9}", want: "limits.queue: has the wrong kind of value: it is a whole number"},
		"beyond all numbers":      {yaml: good + "limits: {queue: 99999999999999999999}", want: "limits.queue: has the wrong kind of value"},
		"beyond most numbers":     {yaml: good + "limits: {queue: 18446744073709551615}", want: "limits.queue: has the wrong kind of value"},
		"true as a number":        {yaml: good + "limits: {queue: true}", want: "limits.queue: has the wrong kind of value"},
		"number as true":          {yaml: good + "auto_migrate: 2", want: "auto_migrate: has the wrong kind of value: it is true or false"},
		"number as a text":        {yaml: good + "tenant_id: 007", want: "tenant_id: is a number, true or false as it is written"},
		"true as a text":          {yaml: "app_id: a\nconnections: [{name: true}]", want: "connections[0].name: is a number, true or false as it is written"},
		"number as a secret":      {yaml: good + "operator_token: 0123", want: "operator_token: is a number, true or false as it is written"},
		"broken yaml":             {yaml: "a: [", want: "--config: "},
		"no duration":             {yaml: good + "timeouts: {sweep: soon}", want: `timeouts.sweep: "soon" is no duration`},
		"duration without unit":   {yaml: good + "timeouts: {sweep: 5}", want: `timeouts.sweep: "5" is no duration`},
		"variable no duration":    {yaml: good, environ: []string{"SIGNIN_ENGINE_TIMEOUTS_SWEEP=x"}, want: `timeouts.sweep: "x" is no duration`},
		"duration of ten years":   {yaml: good + "policy: {callback_budget: 87601h}", want: `policy.callback_budget: "87601h" is longer than ten years (87600h)`},
		"duration that overflows": {yaml: good + "timeouts: {outbox_lease: 2562047h}", want: `timeouts.outbox_lease: "2562047h" is longer than ten years (87600h)`},
		"blank secret":            {yaml: good + `operator_token: "  "`, want: "operator_token: has blanks only"},
		"blank client secret":     {yaml: "inbound_auth: none\napp_id: a\nclient_secret: \"\\t\"" + connection, want: "client_secret: has blanks only"},
		"blank address":           {yaml: good + `listen_dsn: " "`, want: "listen_dsn: has blanks only"},
		"extension: blank":        {yaml: good + extension(`provider: {client_id: x, issuer: https://login.example, client_secret: " "}`), want: "message_extension.provider.client_secret: has blanks only"},
		"extension: blank key":    {yaml: good + extension(`encryption_key: " "`), want: "message_extension.encryption_key: has blanks only"},
		"extension: empty file":   {yaml: good + extension("encryption_key: \"\"\n  encryption_key_file: /dev/null"), want: "message_extension.encryption_key_file: /dev/null is empty"},
		"no number":               {yaml: good + "policy: {max_code_tries: many}", want: "policy.max_code_tries: has a value that cannot be read"},
		"secret is a list":        {yaml: "client_secret: [hunter2]" + connection, want: "client_secret: has the wrong kind of value"},
		"zero duration":           {yaml: good + "timeouts: {sweep: 0s}", want: "timeouts.sweep: must be positive"},
		"negative wait":           {yaml: good + "policy: {duplicate_wait: -1s}", want: "policy.duplicate_wait: must not be negative"},
		"unknown word":            {yaml: good + "policy: {late_invoke: maybe}", want: `policy.late_invoke: "maybe" is neither`},
		"upstream not < lease":    {yaml: good + "timeouts: {upstream: 30s}", want: "timeouts.upstream: 30s is not shorter than timeouts.lease"},
		"odd identity policy":     {yaml: good + "policy: {identity_mismatch: adopt}", want: `policy.identity_mismatch: "adopt" is neither`},
		"odd group policy":        {yaml: good + "policy: {group_card: all}", want: `policy.group_card: "all" is neither`},
		"typed codes maybe":       {yaml: good + "policy: {typed_codes: maybe}", want: "policy.typed_codes: has a value that cannot be read"},
		"sso maybe":               {yaml: "app_id: a\nconnections: [{name: x, sso: maybe}]", want: "connections[0].sso: has a value that cannot be read"},
		"outbox lease too short":  {yaml: good + "timeouts: {outbox_lease: 15s}", want: "timeouts.outbox_lease: 15s is not longer than policy.callback_budget and timeouts.upstream together (15s)"},
		"no app id":               {yaml: "inbound_auth: none\nclient_secret: x" + connection, want: "app_id: is missing"},
		"no secret":               {yaml: "inbound_auth: none\napp_id: a" + connection, want: "client_secret: is missing"},
		"no secret file":          {yaml: "inbound_auth: none\napp_id: a\nclient_secret_file: /nonexistent" + connection, want: "client_secret_file: "},
		"two secrets":             {yaml: good + "client_secret_file: x", want: "client_secret_file: is set together with client_secret"},
		"no connection":           {yaml: "inbound_auth: none\napp_id: a\nclient_secret: x", want: "connections: at least one"},
		"nameless connection":     {yaml: "inbound_auth: none\napp_id: a\nclient_secret: x\nconnections: [{alias: x}]", want: "connections[0].name: is missing"},
		"keys over plain http":    {yaml: good + "openid_metadata_url: http://login.example/x", environ: []string{"SIGNIN_ENGINE_INBOUND_AUTH=jwt"}, want: "openid_metadata_url: needs https"},
		"another cloud":           {yaml: good + "cloud: azure", want: `cloud: "azure" is not one of public, gcc, gcc_high, dod, china`},
		"other outbound auth":     {yaml: good + "outbound_auth: basic", want: `outbound_auth: "basic" is neither`},
		"secret beside emulator":  {yaml: "inbound_auth: none\napp_id: a\ntoken_service_url: http://127.0.0.1:3979" + connection, want: "client_secret: is missing"},
		"secret and certificate":  {yaml: good + "certificate_file: x", want: "certificate_file: is set together with client_secret"},
		"secret and identity":     {yaml: good + "managed_identity: system", want: "managed_identity: is set together with client_secret"},
		"two federated":           {yaml: "inbound_auth: none\napp_id: a\nfederated: {token_file: x, managed_identity: system}" + connection, want: "federated.managed_identity: is set together with federated.token_file"},
		"unknown federated key":   {yaml: good + "federated: {tokens: x}", want: "federated.tokens: unknown key"},
		"no certificate":          {yaml: "inbound_auth: none\napp_id: a\ncertificate_file: /nonexistent" + connection, want: "certificate_file: "},
		"no assertion":            {yaml: "inbound_auth: none\napp_id: a\nfederated: {token_file: /nonexistent}" + connection, want: "federated.token_file: "},
		"empty secret file":       {yaml: "inbound_auth: none\napp_id: a\nclient_secret_file: /dev/null" + connection, want: "client_secret_file: /dev/null is empty"},
		"agentic for everybody":   {yaml: good + "agentic: true", want: "tenant_id: has to be the tenant's id"},
		"agentic for a domain":    {yaml: good + "agentic: true\ntenant_id: contoso.example", want: "tenant_id: has to be the tenant's id"},
		"blueprint alone":         {yaml: good + "agentic_blueprint_id: x", want: "agentic_blueprint_id: is set, and agentic is not"},
		"agentic perhaps":         {yaml: good + "agentic: perhaps", want: "agentic: has a value that cannot be read"},
		"negative limit":          {yaml: good + "limits: {body: -1}", want: "limits.body: must not be negative"},
		"zero limit":              {yaml: good + "limits: {queue: 0}", want: "limits.queue: must be positive"},
		"zero timeout":            {yaml: good + "limits: {header_timeout: 0s}", want: "limits.header_timeout: must be positive"},
		"unknown limit":           {yaml: good + "limits: {bodies: 1}", want: "limits.bodies: unknown key"},
		"none off loopback":       {yaml: good + "listen: 0.0.0.0:3978", want: "inbound_auth: none needs a loopback listener"},
		"none on every address":   {yaml: good + `listen: ":3978"`, want: "inbound_auth: none needs a loopback listener"},
		"other auth":              {yaml: good, environ: []string{"SIGNIN_ENGINE_INBOUND_AUTH=basic"}, want: `inbound_auth: "basic" is neither`},
		"no listener":             {yaml: good + "listen: here", want: `listen: "here" is no host:port`},
		"service url star":        {yaml: good + `service_urls: ["*"]`, want: "service_urls: "},
		"odd postgres":            {yaml: good + "store: postgres://u:hunter2@h:port/d", want: "store: malformed Postgres address"},
		"odd schema":              {yaml: good + "store: postgres://u:hunter2@h/d?schema=" + strings.Repeat("x", 51), want: "store: schema name"},
		"store is a map":          {yaml: good + "store: {path: hunter2}", want: "store"},
		"auto migrate":            {yaml: good + "auto_migrate: perhaps", want: "auto_migrate: has a value that cannot be read"},
		"other store":             {yaml: good + "store: signin.db", want: "store: is neither"},
		"tcp without token":       {yaml: good + `operator: "127.0.0.1:3980"`, want: "operator_token: is missing"},
		"short token":             {yaml: good + "operator: \"0.0.0.0:3980\"\noperator_token: hunter2", want: "operator_token: has 7 characters"},
		"odd operator":            {yaml: good + "operator: ftp://x", want: `operator: "ftp://x" is neither`},
		"odd url":                 {yaml: good + "token_service_url: token.example", want: "token_service_url: is not an http or https URL"},
		"log level":               {yaml: good + "log: {level: loud}", want: `log.level: "loud" is not one of`},
		"log format":              {yaml: good + "log: {format: xml}", want: `log.format: "xml" is not one of`},
		"extension without all":   {yaml: good + "message_extension: {connection: wiki}", want: "message_extension.public_url: is missing"},
		"extension: unknown key":  {yaml: good + "message_extension: {public: wiki}", want: "message_extension.public: unknown key"},
		"extension: go name":      {yaml: good + "message_extension: {PublicURL: x}", want: "message_extension.PublicURL: unknown key"},
		"extension: provider":     {yaml: good + "message_extension: {provider: {isuer: x}}", want: "message_extension.provider.isuer: unknown key"},
		"extension: http":         {yaml: good + extension("public_url: http://bot.example"), want: "message_extension.public_url: needs https"},
		"extension: key":          {yaml: good + extension("encryption_key: AAAA"), want: "message_extension.encryption_key: 3 bytes, want 32"},
		"extension: no key":       {yaml: good + extension(`encryption_key: ""`), want: "message_extension.encryption_key: is missing"},
		"extension: two keys":     {yaml: good + extension("encryption_key_file: /dev/null"), want: "message_extension.encryption_key_file: is set together with encryption_key"},
		"extension: key file":     {yaml: good + extension("encryption_key: \"\"\n  encryption_key_file: /nonexistent"), want: "message_extension.encryption_key_file: "},
		"extension: taken name":   {yaml: good + extension("connection: TeamsGraph"), want: `message_extension.connection: "TeamsGraph" is one of connections`},
		"extension: no name":      {yaml: good + extension(`connection: ""`), want: "message_extension.connection: is missing"},
		"extension: no such one":  {yaml: good + extension("token_service_connection: other"), want: `message_extension.token_service_connection: "other" is not one of connections`},
		"extension: lifetime":     {yaml: good + extension("code_lifetime: -1s"), want: "message_extension.code_lifetime: must be positive"},
		"extension: number":       {yaml: good + extension("code_lifetime: 5"), want: `message_extension.code_lifetime: "5" is no duration`},
		"extension: TeamsJS":      {yaml: good + extension("teamsjs_url: https://cdn.example/x.js"), want: "message_extension.teamsjs_integrity: is missing"},
		"extension: TeamsJS host": {yaml: good + extension("teamsjs_url: https://cdn.example;x/x.js"), want: `message_extension.teamsjs_url: the host "cdn.example;x" has no place in a Content-Security-Policy`},
		"extension: hash":         {yaml: good + extension("teamsjs_integrity: md5-x"), want: "message_extension.teamsjs_integrity: not of the form"},
		"extension: no client":    {yaml: good + extension("provider: {issuer: https://login.example}"), want: "message_extension.provider.client_id: is missing"},
		"extension: no issuer":    {yaml: good + extension("provider: {client_id: x}"), want: "message_extension.provider: issuer, or authorize_url and token_url, are missing"},
		"extension: both":         {yaml: good + extension("provider: {client_id: x, issuer: https://login.example, token_url: https://login.example/t}"), want: "message_extension.provider.issuer: stands alone"},
		"extension: header":       {yaml: good + extension("client_header: X Forwarded For"), want: `message_extension.client_header: "X Forwarded For" is not a header name`},
		"extension: issuer":       {yaml: good + extension("provider: {client_id: x, issuer: http://login.example}"), want: "message_extension.provider.issuer: needs https"},
		"extension: auth method":  {yaml: good + extension("provider: {client_id: x, issuer: https://login.example, token_endpoint_auth_method: basic}"), want: `message_extension.provider.token_endpoint_auth_method: "basic" is neither client_secret_basic nor client_secret_post`},
		"extension: secrets":      {yaml: good + extension("provider: {client_id: x, issuer: https://login.example, client_secret: hunter2, client_secret_file: x}"), want: "message_extension.provider.client_secret_file: is set together"},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(t, tc.yaml, tc.environ...)
			var all config.Errors
			if !errors.As(err, &all) {
				t.Fatalf("%v, want config.Errors", err)
			}
			if !hasLine(err, tc.want) {
				t.Errorf("%q has no line %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret is in %q", err)
			}
		})
	}
}

func hasLine(err error, start string) bool {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if strings.HasPrefix(line, start) {
			return true
		}
	}
	return false
}

func TestConnectionsTwice(t *testing.T) {
	const head = "app_id: a\nclient_secret: x\ninbound_auth: none\n"
	for name, tc := range map[string]struct{ connections, want string }{
		"name":          {"[{name: a}, {name: A}]", "connections[1].name: "},
		"alias":         {"[{name: a, alias: x}, {name: b, alias: X}]", "connections[1].alias: "},
		"alias is name": {"[{name: a}, {name: b, alias: a}]", "connections[1].alias: "},
		"own alias":     {"[{name: a, alias: A}]", ""},
		"command": {
			"[{name: a, profile: {command: me, url: https://x.example}}, {name: b, profile: {command: Me, url: https://x.example}}]",
			"connections[1].profile.command: ",
		},
		"bot's own word": {"[{name: a, profile: {command: login now, url: https://x.example}}]", "connections[0].profile.command: "},
		"plain http":     {"[{name: a, profile: {command: me, url: http://x.example}}]", "connections[0].profile.url: "},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(t, head+"connections: "+tc.connections)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !hasLine(err, tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("store: bolt:file.db\nlisten: 127.0.0.1:1\napp_id: file\nlogin_url:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	flags.String("store", "bolt:default.db", "")
	flags.String("listen", "default", "")
	flags.String("app-id", "", "")
	flags.StringSlice("service-url", nil, "")
	if err := flags.Parse([]string{"--store", "bolt:flag.db", "--service-url", "a.example,b.example"}); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Source{File: path, Flags: flags, Environ: []string{
		"SIGNIN_ENGINE_STORE=bolt:env.db", "SIGNIN_ENGINE_LISTEN=127.0.0.1:2", "SIGNIN_ENGINE_POLICY_GROUP_SSO=false",
		"SIGNIN_ENGINE_CLIENT_SECRET=", "SIGNIN_ENGINE_CONFIG=x", "SIGNIN_ENGINE_SERVICE_HOST=10.0.0.1",
		"SIGNIN_ENGINE_PORT=tcp://10.0.0.1:80", "SIGNIN_ENGINE_PORT_80_TCP=tcp://10.0.0.1:80", "OTHER=1",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Store.String() != "bolt:flag.db" || cfg.Listen != "127.0.0.1:2" || cfg.AppID != "file" || cfg.Policy.GroupSSO {
		t.Errorf("%+v", cfg)
	}
	if cfg.LoginURL != config.Default().LoginURL {
		t.Errorf("a key without a value is not set: %q", cfg.LoginURL)
	}
	if diff := cmp.Diff([]string{"a.example", "b.example"}, cfg.ServiceURLs); diff != "" {
		t.Error(diff)
	}
}

// TestLongFlag checks that a flag has the limits of the file.
func TestLongFlag(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.Duration("wait-for-store", 0, "")
	if err := flags.Parse([]string{"--wait-for-store=87601h"}); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(config.Source{Flags: flags}); err == nil || !hasLine(err, `wait_for_store: "87601h0m0s" is longer than ten years`) {
		t.Errorf("%v", err)
	}
}

// TestSettingsHidePasswords checks that Settings shows a wrong value, but never a
// password in it.
func TestSettingsHidePasswords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(good+"service_urls: ['https://u:hunter2@h', b.example]\nlogin_url: https://u:hunter2@h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := config.Settings(config.Source{File: path})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if strings.Contains(s.Value, "hunter2") {
			t.Errorf("%s is shown as %s", s.Key, s.Value)
		}
		if s.Key == "service_urls" && s.Value != "https://[redacted]@h,b.example" {
			t.Errorf("%s is shown as %s", s.Key, s.Value)
		}
	}
}

// TestWindows checks that what Windows puts around a value does not become part
// of it.
func TestWindows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	fromFile := "\ufeff" + strings.ReplaceAll(strings.Replace(good, "client_secret: hunter2", "client_secret_file: "+path, 1), "\n", "\r\n")
	if err := os.WriteFile(path, []byte("\ufeffhunter2\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := load(t, fromFile, "SIGNIN_ENGINE_OPERATOR_TOKEN=$SWORDFISH\r")
	if err != nil || cfg.ClientSecret.Reveal() != "hunter2" || cfg.OperatorToken.Reveal() != "$SWORDFISH" || cfg.InboundAuth != config.AuthNone {
		t.Errorf("%v: %q, %q", err, cfg.ClientSecret.Reveal(), cfg.OperatorToken.Reveal())
	}
	if err := os.WriteFile(path, []byte("\xff\xfeh\x00u\x00n\x00t\x00e\x00r\x002\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := check(t, fromFile); err == nil || !hasLine(err, "client_secret_file: "+path+" is not UTF-8 text") {
		t.Errorf("UTF-16: %v", err)
	}
}

func TestSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := load(t, strings.Replace(good, "client_secret: hunter2", "client_secret_file: "+path, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err = cfg.Check(); err != nil {
		t.Fatal(err)
	}
	if cfg.ClientSecret.Reveal() != "hunter2" {
		t.Error("the secret is not the file's content")
	}
}

// TestOutboundAuthNone checks that a bot may have no credentials only if
// outbound_auth says so, even if it uses an emulator.
func TestOutboundAuthNone(t *testing.T) {
	yaml := strings.Replace(good, "client_secret: hunter2", "token_service_url: http://127.0.0.1:3979\noutbound_auth: none", 1)
	cfg, err := load(t, yaml)
	if err != nil {
		t.Fatal(err)
	}
	if err = cfg.Check(); err != nil {
		t.Error(err)
	}
	source, err := cfg.Credentials(nil)
	if err != nil {
		t.Fatal(err)
	}
	if token, err := source.Token(t.Context()); err != nil || token.Empty() {
		t.Errorf("%v: an emulator wants to see some token", err)
	}
	if err = check(t, good, "SIGNIN_ENGINE_OUTBOUND_AUTH=none"); err != nil {
		t.Errorf("with a secret that is not used: %v", err)
	}
}

// TestClouds checks that the name of a cloud sets every URL. A URL that is set in
// any other way wins.
func TestClouds(t *testing.T) {
	for _, name := range tokensvc.CloudNames() {
		cloud, _ := tokensvc.CloudNamed(name)
		cfg, err := load(t, good+"cloud: "+name)
		if err != nil {
			t.Fatal(err)
		}
		if err = cfg.Check(); err != nil {
			t.Error(err)
		}
		if cfg.TokenServiceURL != cloud.TokenServiceURL || cfg.LoginURL != cloud.LoginURL || cfg.OpenIDMetadataURL != cloud.OpenIDMetadataURL {
			t.Errorf("%s: %+v", name, cfg)
		}
		cfg, err = load(t, good+"login_url: https://login.example\nopenid_metadata_url: ''\ncloud: "+name, "SIGNIN_ENGINE_TOKEN_SERVICE_URL="+tokensvc.EuropeURL)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.TokenServiceURL != tokensvc.EuropeURL || cfg.LoginURL != "https://login.example" || cfg.OpenIDMetadataURL != cloud.OpenIDMetadataURL {
			t.Errorf("%s: %+v", name, cfg)
		}
	}
	cfg, err := load(t, good, "SIGNIN_ENGINE_CLOUD=china")
	if err != nil || cfg.TokenServiceURL != "https://token.botframework.azure.cn" {
		t.Errorf("%q, %v", cfg.TokenServiceURL, err)
	}
}

// TestCredentials covers each kind of credentials, as far as it can be checked
// without Azure.
func TestCredentials(t *testing.T) {
	assertion := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(assertion, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, setting := range map[string]string{
		"system assigned": "managed_identity: system", "user assigned": "managed_identity: 00000000-0000-4000-8000-0000000000b1",
		"workload identity": "federated: {token_file: " + assertion + "}", "federated by identity": "federated: {managed_identity: system}",
	} {
		cfg, err := load(t, strings.Replace(good, "client_secret: hunter2", setting, 1))
		if err != nil {
			t.Fatal(err)
		}
		if err = cfg.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if source, err := cfg.Credentials(nil); err != nil || source == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInboundAuth checks that the bot may listen on any address if it requires
// tokens.
func TestInboundAuth(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:3978", `":3978"`, "bot.example:443"} {
		if err := check(t, strings.Replace(good, "inbound_auth: none", "listen: "+listen, 1)); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

// TestPostgres checks that the address of a database, which may contain a
// password, is shown only where it is asked for by name.
func TestPostgres(t *testing.T) {
	const address = "postgres://bot:hunter2@db.example/bots?schema=signin"
	cfg, err := load(t, good+"auto_migrate: false", "SIGNIN_ENGINE_STORE="+address)
	if err != nil {
		t.Fatal(err)
	}
	if err = cfg.Check(); err != nil {
		t.Fatal(err)
	}
	if cfg.Store.Backend != config.Postgres || cfg.Store.Address.Reveal() != address || cfg.AutoMigrate {
		t.Errorf("%+v", cfg)
	}
	if s := fmt.Sprintf("%v %+v %#v", cfg, cfg, cfg.Store); strings.Contains(s, "hunter2") {
		t.Errorf("a password is in %s", s)
	}
	if cfg, err = load(t, good, "SIGNIN_ENGINE_AUTO_MIGRATE=true"); err != nil || !cfg.AutoMigrate {
		t.Errorf("auto_migrate: %+v, %v", cfg, err)
	}
}
