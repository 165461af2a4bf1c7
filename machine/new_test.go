package machine_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store/memstore"
)

// TestNewRefuses: what cannot work is refused with the name of the member, or of the
// key in the configuration file.
func TestNewRefuses(t *testing.T) {
	say := func(string, ...any) {}
	for want, change := range map[string]func(*machine.Config){
		"Config.AppID is missing":                  func(c *machine.Config) { c.AppID = "" },
		"Config.Store is missing":                  func(c *machine.Config) { c.Store = nil },
		"Config.Tokens is missing":                 func(c *machine.Config) { c.Tokens = nil },
		"Config.Messenger is missing":              func(c *machine.Config) { c.Messenger = nil },
		"Config.Connections is missing":            func(c *machine.Config) { c.Connections = nil },
		"a connection has no name":                 func(c *machine.Config) { c.Connections[0].Name = "" },
		`connection "GRAPH" is registered twice`:   func(c *machine.Config) { c.Connections = append(c.Connections, machine.Connection{Name: "GRAPH"}) },
		"prefetch":                                 func(c *machine.Config) { c.Prefetch = []string{"github"} },
		"policy.late_invoke":                       func(c *machine.Config) { c.Policy.LateInvoke = "perhaps" },
		"policy.token_cache: must not be negative": func(c *machine.Config) { c.Policy.TokenCache = -1 },
		"timeouts.sweep: must be positive":         func(c *machine.Config) { c.Timeouts.Sweep = 0 },
		"timeouts.upstream: 30s is not shorter":    func(c *machine.Config) { c.Timeouts.Upstream = c.Timeouts.Lease },
		"timeouts.retention: 1h0m0s is shorter":    func(c *machine.Config) { c.Timeouts.Retention = time.Hour },
		"timeouts.outbox_lease: 1m0s is not longer than policy.callback_budget (2562047h47m16.854775807s)": func(c *machine.Config) {
			c.Policy.CallbackBudget = math.MaxInt64
		},
		"timeouts.outbox_lease: 10s is not longer": func(c *machine.Config) { c.Timeouts.OutboxLease = 10 * time.Second },
	} {
		t.Run(want, func(t *testing.T) {
			policy, timeouts := machine.DefaultPolicy(), machine.DefaultTimeouts()
			cfg := machine.Config{
				AppID: "app", Store: memstore.New(time.Now), Tokens: machinetest.NewTokenService(say), Messenger: machinetest.NewConnector(say),
				Policy: &policy, Timeouts: &timeouts, Connections: []machine.Connection{{Name: "graph"}},
			}
			change(&cfg)
			if _, err := machine.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}
