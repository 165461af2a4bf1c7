package config

// checkFit compares settings of different groups with each other: a callback
// must be through before another instance may try it.
func (c *Config) checkFit(p *Errors) {
	needs := c.Policy.CallbackBudget + c.Timeouts.Upstream
	if c.Policy.CallbackBudget > 0 && c.Timeouts.Upstream > 0 && c.Timeouts.OutboxLease > 0 && c.Timeouts.OutboxLease <= needs {
		p.add("timeouts.outbox_lease", "%s is not longer than policy.callback_budget and timeouts.upstream together (%s)",
			c.Timeouts.OutboxLease, needs)
	}
}
