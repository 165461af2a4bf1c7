package config

// checkFit checks settings of different groups against each other. A callback
// must end before its lease does, or another instance could try it at the same
// time.
func (c *Config) checkFit(p *Errors) {
	needs := c.Policy.CallbackBudget + c.Timeouts.Upstream
	if c.Policy.CallbackBudget > 0 && c.Timeouts.Upstream > 0 && c.Timeouts.OutboxLease > 0 && c.Timeouts.OutboxLease <= needs {
		p.add("timeouts.outbox_lease", "%s is not longer than policy.callback_budget and timeouts.upstream together (%s)",
			c.Timeouts.OutboxLease, needs)
	}
}
