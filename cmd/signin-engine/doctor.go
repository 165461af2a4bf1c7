package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/upstream"
)

// The results of a check.
const (
	healthOK   = "ok"
	healthWarn = "warn"
	healthFail = "fail"
	// healthSkipped means that the check could not be made.
	healthSkipped = "skipped"
)

// health is the result of one check.
type health struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

func (c *cli) doctorCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check store, clock, sweeper, outbox, Token Service and connections",
		Long: `Checks what a bot needs. Each check is ok, warn, fail, or skipped when it could
not be made. The exit code is 1 if a check fails, and 4 if that is the store.

The checks of the Token Service need the bot's settings, from --config or the
environment. So do those of a message extension's provider: its discovery
document, its token endpoint with the bot's own client, and public_url.

--manifest compares the manifest of the Teams app with what the Token Service
answers: validDomains with the host of the sign-in link, and
webApplicationInfo.resource with the connection's Token Exchange URL.`,
		Example: `  signin-engine doctor --config bot.yaml
  signin-engine doctor --config bot.yaml --manifest manifest.json`,
		Args: args(cobra.NoArgs),
	}
	cmd.Flags().StringVar(&file, "manifest", "", "`file` with the manifest of the Teams app (JSON)")
	c.formatFlag(cmd, formatTable, formatJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.settings(cmd)
		if err != nil {
			return err
		}
		var m manifest
		if file != "" {
			if m, err = readManifest(file); err != nil {
				return err
			}
		}
		found, failed := c.examine(cmd, cfg)
		if file != "" {
			found = append(found, manifestHealth(cmd.Context(), cfg, m)...)
		} else {
			found = append(found, health{"manifest", healthSkipped, "name the manifest of the Teams app with --manifest"})
		}
		if c.format == formatJSON {
			err = c.printJSON(found)
		} else {
			g := &grid{head: []string{"check", "result", "detail"}, prose: true}
			for _, h := range found {
				g.add(safe(h.Check), c.levelColor(h.Result, h.Result), safe(h.Detail))
			}
			err = c.printGrid(g)
		}
		if failed == nil && slices.ContainsFunc(found, func(h health) bool { return h.Result == healthFail }) {
			failed = errUnhealthy
		}
		return errors.Join(err, failed)
	}
	return cmd
}

// examine runs every check. Its error is the store's.
func (c *cli) examine(cmd *cobra.Command, cfg config.Config) ([]health, error) {
	ctx := cmd.Context()
	var found []health
	var names []string
	err := c.with(cmd, func(ctx context.Context, s *source) error {
		info, err := s.Info(ctx)
		if err != nil {
			return err
		}
		o, err := s.Overview(ctx)
		if err != nil {
			return err
		}
		names = info.Names
		found = append(found,
			health{"store", healthOK, fmt.Sprintf("%s %s, schema %d", info.Backend, info.Where, info.Store)},
			upkeep(info), c.live(info), c.skew(info), sweeper(o), outbox(o), stuckHealth(o))
		found = append(found, refusedHealth(info.Refused), circuitHealth(info))
		return nil
	})
	if err != nil {
		found = append([]health{{"store", healthFail, err.Error()}},
			skipped("the store could not be read", "upkeep", "engine", "clock", "sweeper", "outbox", "stuck", checkRefused, checkCircuits)...)
	}
	if c.configFile == "" && cfg.AppID == "" {
		return append(found, skipped("name the bot's settings with --config",
			append([]string{"settings", checkFiles, "credentials", "signing keys", checkService, checkConnections}, providerChecks()...)...)...), err
	}
	found = append(found, settingsHealth(cfg), filesHealth(cfg.SecretFiles(), runtime.GOOS), credentialsHealth(ctx, cfg), keysHealth(ctx, cfg))
	found = append(found, serviceHealth(ctx, cfg), connectionHealth(ctx, cfg, names))
	found = append(found, providerHealth(ctx, cfg)...)
	return found, err
}

// Names of checks that two places use.
const (
	checkFiles       = "secret files"
	checkRefused     = "refused"
	checkCircuits    = "upstreams"
	checkService     = "token service"
	checkConnections = "connections"
)

func skipped(why string, checks ...string) []health {
	found := make([]health, len(checks))
	for i, check := range checks {
		found[i] = health{check, healthSkipped, why}
	}
	return found
}

// upkeep reports what the store's administrator should see to.
func upkeep(i operator.Info) health {
	if len(i.Warnings) > 0 {
		return health{"upkeep", healthWarn, strings.Join(i.Warnings, "; ")}
	}
	return health{"upkeep", healthOK, "the store needs nothing"}
}

func (c *cli) live(i operator.Info) health {
	if !i.Live && i.Backend == string(config.Postgres) {
		return health{"engine", healthWarn, "no running process was asked: name one's endpoint with --operator"}
	}
	if !i.Live {
		return health{"engine", healthWarn, "no running process: nothing expires and no callback is repeated"}
	}
	return health{"engine", healthOK, fmt.Sprintf("running since %s, process %d, listening on %s", c.time(i.Started.Time), i.PID, i.Listen)}
}

// Clock differences that matter: leases last seconds, and the connector's tokens
// are checked with a tolerance of 5 minutes.
const (
	skewWarn = 2 * time.Second
	skewFail = time.Minute
)

func (c *cli) skew(i operator.Info) health {
	d := i.Now.Sub(c.now()).Abs()
	h := health{"clock", healthOK, "store and this machine differ by " + age(d)}
	switch {
	case d >= skewFail:
		h.Result = healthFail
	case d >= skewWarn:
		h.Result = healthWarn
	}
	return h
}

// sweeper infers the sweeper's health from the attempts that it should have
// settled.
func sweeper(o operator.Overview) health {
	late := int64(0)
	for _, f := range o.Stuck {
		switch f.Rule {
		case operator.RuleLeaseExpired, operator.RulePastExpiry, operator.RuleIdleOld:
			late++
		}
	}
	if late > 0 {
		return health{"sweeper", healthFail, operator.Count(late, "attempt") + " overdue: is a bot running on this store?"}
	}
	return health{"sweeper", healthOK, "nothing is overdue"}
}

func outbox(o operator.Overview) health {
	lag := 0
	for _, f := range o.Stuck {
		if f.Rule == operator.RuleCallbackLag {
			lag++
		}
	}
	h := health{"outbox", healthOK, "callbacks: " + callbacks(o)}
	switch {
	case o.Dead > 0:
		h.Result, h.Detail = healthFail, h.Detail+": see inspect, then redeliver"
	case lag > 0:
		h.Result = healthWarn
	}
	return h
}

func stuckHealth(o operator.Overview) health {
	serious := 0
	for _, f := range o.Stuck {
		if f.Serious() {
			serious++
		}
	}
	switch {
	case serious > 0:
		return health{"stuck", healthFail, fmt.Sprintf("%d of level error: see inspect", serious)}
	case len(o.Stuck) > 0:
		return health{"stuck", healthWarn, fmt.Sprintf("%d of level warn: see inspect", len(o.Stuck))}
	default:
		return health{"stuck", healthOK, "nothing is stuck"}
	}
}

// telling lists the reasons that point to wrong settings more often than to an
// attacker.
func telling() []teams.Why {
	return []teams.Why{
		teams.WhyIssuer, teams.WhyAudience, teams.WhyTenant, teams.WhyCaller, teams.WhyEndorsement, teams.WhyServiceURLClaim, teams.WhyKeysUnavailable, teams.WhyBusy,
	}
}

// refusedHealth names the hosts that are not listed in the settings, and what
// else was refused.
func refusedHealth(r *operator.Refused) health {
	const check = checkRefused
	if r == nil {
		return health{check, healthSkipped, "only a running bot knows: name its endpoint with --operator"}
	}
	var parts []string
	warn := len(r.Hosts) > 0
	for _, h := range r.Hosts {
		parts = append(parts, fmt.Sprintf("host %s (%s): add it to service_urls if it is yours", h.Host, operator.Count(h.Count, "time")))
	}
	for _, c := range r.Callers {
		parts = append(parts, fmt.Sprintf("agentic caller %s (%s): set agentic, and add it to agentic_callers, if it is your agent", c.App, operator.Count(c.Count, "time")))
	}
	if r.OtherHosts > 0 {
		parts = append(parts, fmt.Sprintf("further hosts (%s)", operator.Count(r.OtherHosts, "time")))
	}
	for _, why := range slices.Sorted(maps.Keys(r.Reasons)) {
		if why == string(teams.WhyServiceHost) {
			continue
		}
		warn = warn || slices.Contains(telling(), teams.Why(why))
		parts = append(parts, fmt.Sprintf("%s (%s)", why, operator.Count(r.Reasons[why], "time")))
	}
	switch {
	case len(parts) == 0:
		return health{check, healthOK, "nothing"}
	case warn:
		return health{check, healthWarn, strings.Join(parts, ", ")}
	default:
		return health{check, healthOK, strings.Join(parts, ", ")}
	}
}

// circuitHealth names the upstreams to which the running bot sends no requests at
// the moment.
func circuitHealth(i operator.Info) health {
	const check = checkCircuits
	if !i.Live {
		return health{check, healthSkipped, "only a running bot knows: name its endpoint with --operator"}
	}
	var open, before []string
	for _, c := range i.Circuits {
		switch what := c.Upstream + " at " + c.Host; {
		case c.Open:
			open = append(open, fmt.Sprintf("%s does not answer (%d requests refused at once): see explain %s", what, c.Refused, upstream.CodeOpen))
		case c.Opened > 0:
			before = append(before, fmt.Sprintf("%s did not answer before (%s)", what, operator.Count(c.Opened, "time")))
		}
	}
	switch {
	case len(open) > 0:
		return health{check, healthFail, strings.Join(append(open, before...), ", ")}
	case len(before) > 0:
		return health{check, healthOK, strings.Join(before, ", ")}
	default:
		return health{check, healthOK, "all that were asked answered"}
	}
}

func settingsHealth(cfg config.Config) health {
	if err := cfg.Check(); err != nil {
		return health{"settings", healthFail, strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	return health{"settings", healthOK, "complete"}
}

// filesHealth warns of secrets that every user of the machine can read or change.
// The group may: it is how Kubernetes and systemd hand a secret to a service. A file
// that cannot be looked at is the settings' own check.
func filesHealth(files []config.SecretFile, system string) health {
	const others fs.FileMode = 0o006
	if system == "windows" {
		return health{checkFiles, healthSkipped, "Windows has no modes of files"}
	}
	var open []string
	for _, f := range files {
		info, err := os.Stat(f.Path)
		if err != nil || info.Mode()&others == 0 || fromVolume(f.Path) {
			continue
		}
		open = append(open, fmt.Sprintf("the mode of %s, %04o, opens it to every user of this machine: chmod o= %s", f.Key, info.Mode().Perm(), f.Path))
	}
	if len(open) > 0 {
		return health{checkFiles, healthWarn, strings.Join(open, "; ")}
	}
	return health{checkFiles, healthOK, "open to nobody but the owner and the group"}
}

// fromVolume reports whether Kubernetes has put a file there. It gives files mode
// 0644 unless it is told otherwise, in a container that has no other users. Its
// volumes keep the files in a directory such as ..2026_01_31_09_00_00.123, to which
// links lead.
func fromVolume(path string) bool {
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	return err == nil && strings.Contains(path, string(filepath.Separator)+"..")
}

// probeTimeout bounds one call to the Token Service or to Entra.
const probeTimeout = 5 * time.Second

// credentialsHealth gets a token of the bot, as its first sign-in would.
func credentialsHealth(ctx context.Context, cfg config.Config) health {
	const check = "credentials"
	if cfg.OutboundAuth == config.AuthNone {
		return health{check, healthOK, "outbound_auth is none: the bot does not authenticate to anybody"}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	source, err := cfg.Credentials(nil)
	if err != nil {
		return health{check, healthFail, err.Error()}
	}
	defer source.CloseIdleConnections()
	if _, err = source.Token(ctx); err == nil {
		return health{check, healthOK, "Entra gave the bot a token"}
	}
	detail := err.Error()
	if fail, ok := tokensvc.CredentialsFailure(err); ok && fail.ErrorCode() != "" {
		detail = fmt.Sprintf("Entra answered %d %s: see explain %s", fail.HTTPStatus(), fail.ErrorCode(), fail.ErrorCode())
	}
	return health{check, healthFail, detail}
}

// keysHealth fetches the keys that verify incoming tokens.
func keysHealth(ctx context.Context, cfg config.Config) health {
	const check = "signing keys"
	if cfg.InboundAuth != config.AuthJWT {
		return health{check, healthOK, "inbound_auth is " + cfg.InboundAuth + ": no token is checked"}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	auth, err := teams.NewAuthenticator(authConfig(cfg))
	if err != nil {
		return health{check, healthFail, err.Error()}
	}
	defer auth.CloseIdleConnections()
	if err = auth.Ready(ctx); err != nil {
		return health{check, healthFail, err.Error()}
	}
	return health{check, healthOK, "fetched from " + cfg.OpenIDMetadataURL}
}

// serviceHealth calls the Token Service without credentials. Any answer means
// that it is reachable.
func serviceHealth(ctx context.Context, cfg config.Config) health {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	const check = checkService
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.TokenServiceURL, nil)
	if err != nil {
		return health{check, healthFail, "token_service_url is malformed"}
	}
	begin := time.Now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return health{check, healthFail, err.Error()}
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return health{check, healthWarn, err.Error()}
	}
	return health{check, healthOK, fmt.Sprintf("%s answered in %s", req.URL.Host, age(time.Since(begin)))}
}

// nobody is a user that no bot has. Asking for the tokens of nobody lists the
// bot's connections and changes nothing.
const nobody = "29:signin-engine-doctor"

// connectionHealth compares the configured connections with those that the Token
// Service knows, and with those of the running bot. The Token Service does not
// know direct connections.
func connectionHealth(ctx context.Context, cfg config.Config, running []string) health {
	const check = checkConnections
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	known, err := knownConnections(ctx, cfg)
	var answer *tokensvc.Error
	switch {
	case err == nil:
	case errors.As(err, &answer) && answer.Code == "" && (answer.Status == http.StatusNotFound || answer.Status == http.StatusInternalServerError):
		return health{check, healthFail, fmt.Sprintf("the Token Service answered a bare %d: the bot may belong to another region. "+
			"Set token_service_url to https://europe.token.botframework.com, https://unitedstates.token.botframework.com or "+
			"https://india.token.botframework.com, or set cloud", answer.Status)}
	case errors.As(err, &answer) && answer.Status != 0:
		return health{check, healthFail, err.Error()}
	default:
		return health{check, healthSkipped, "the Token Service could not be asked: " + err.Error()}
	}
	var unknown, idle []string
	for _, conn := range cfg.Connections {
		same := func(name string) bool { return strings.EqualFold(name, conn.Name) }
		if conn.Direct == nil && len(known) > 0 && !slices.ContainsFunc(known, same) {
			unknown = append(unknown, conn.Name)
		}
		if len(running) > 0 && !slices.ContainsFunc(running, same) {
			idle = append(idle, conn.Name)
		}
	}
	switch {
	case len(unknown) > 0:
		return health{check, healthFail, "unknown to the Token Service: " + strings.Join(unknown, ", ")}
	case len(idle) > 0:
		return health{check, healthWarn, "not in the running bot: " + strings.Join(idle, ", ")}
	default:
		return health{check, healthOK, fmt.Sprintf("%d configured", len(cfg.Connections))}
	}
}

func knownConnections(ctx context.Context, cfg config.Config) ([]string, error) {
	client, release, err := tokenClient(cfg)
	if err != nil {
		return nil, err
	}
	defer release()
	statuses, err := client.GetTokenStatus(ctx, nobody, "msteams")
	if err != nil {
		return nil, err
	}
	names := make([]string, len(statuses))
	for i, s := range statuses {
		names[i] = s.Connection
	}
	return names, nil
}

// tokenClient returns a client that asks the Token Service as the bot does. The
// caller releases it.
func tokenClient(cfg config.Config) (client *tokensvc.Client, release func(), err error) {
	credentials, err := cfg.Credentials(nil)
	if err != nil {
		return nil, nil, err
	}
	client, err = tokensvc.New(tokensvc.Config{BaseURL: cfg.TokenServiceURL, Credentials: credentials, Timeout: probeTimeout})
	if err != nil {
		credentials.CloseIdleConnections()
		return nil, nil, err
	}
	return client, func() {
		client.CloseIdleConnections()
		credentials.CloseIdleConnections()
	}, nil
}
