package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// The metrics that are read at a scrape.
var (
	openDesc    = prometheus.NewDesc("signin_attempts_open", "Attempts that have not ended.", []string{"state"}, nil)
	oldestDesc  = prometheus.NewDesc("signin_oldest_seconds", "How long the oldest of them has been in its state.", []string{"state"}, nil)
	depthDesc   = prometheus.NewDesc("signin_outbox_depth", "Callbacks that are pending.", nil, nil)
	dueDesc     = prometheus.NewDesc("signin_outbox_oldest_seconds", "How long the oldest of them has been due.", nil, nil)
	stuckDesc   = prometheus.NewDesc("signin_stuck", "Findings of a stuck rule.", []string{"rule"}, nil)
	upkeepDesc  = prometheus.NewDesc("signin_store_warnings", "What the store's administrator should see to: doctor says it.", nil, nil)
	refusedDesc = prometheus.NewDesc("signin_refused_total", "Requests that were not let in.", []string{"why"}, nil)

	circuitDesc = prometheus.NewDesc("signin_circuit_open", "1 while requests to an upstream's host are refused because it does not answer.", upstreamHost, nil)
	skippedDesc = prometheus.NewDesc("signin_circuit_refused_total", "Requests to an upstream that were refused for that.", upstreamHost, nil)
	retriedDesc = prometheus.NewDesc("signin_upstream_retries_total", "Requests to an upstream that were made again.", upstreamHost, nil)
)

var upstreamHost = []string{"upstream", "host"}

var readDescs = []*prometheus.Desc{
	openDesc, oldestDesc, depthDesc, dueDesc, stuckDesc, upkeepDesc, refusedDesc, circuitDesc, skippedDesc, retriedDesc,
}

// look is the result of one read of the store.
type look struct {
	at       time.Time
	overview operator.Overview
	due      time.Duration
	warnings int
	err      error
}

// now reads the store, or returns the result of a read that is less than a second
// old. Concurrent scrapes thus share one read.
func (m *Metrics) now() look {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.read.at.IsZero() && time.Since(m.read.at) < fresh {
		return m.read
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.timeout)
	defer cancel()
	var l look
	if l.overview, l.err = m.reader.Overview(ctx); l.err == nil && l.overview.Owed > 0 {
		l.due, l.err = m.reader.CallbackDue(ctx)
	}
	if l.err == nil {
		var info operator.Info
		info, l.err = m.reader.Info(ctx)
		l.warnings = len(info.Warnings)
	}
	l.at = time.Now()
	m.read = l
	if l.err != nil {
		m.log.Warn().Err(l.err).Msg("metrics: the store was not read; its gauges are missing from this scrape")
	}
	return l
}

func (m *Metrics) collectRead(ch chan<- prometheus.Metric) {
	l := m.now()
	if l.err != nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, s := range l.overview.States {
		gauge(openDesc, float64(s.Count), string(s.State))
		gauge(oldestDesc, time.Duration(s.Age).Seconds(), string(s.State))
	}
	gauge(depthDesc, float64(l.overview.Owed))
	gauge(dueDesc, l.due.Seconds())
	hits := map[string]int{}
	for _, f := range l.overview.Stuck {
		hits[f.Rule]++
	}
	gauge(upkeepDesc, float64(l.warnings))
	for _, rule := range stuckRules {
		gauge(stuckDesc, float64(hits[rule]), rule)
	}
}

// collectRefused reports how often the listener has refused a request, for each
// reason.
func (m *Metrics) collectRefused(ch chan<- prometheus.Metric) {
	if m.refused == nil {
		return
	}
	reasons := m.refused().Reasons
	for _, why := range teams.Whys() {
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(reasons[string(why)]), string(why))
	}
}

// collectCircuits reports the state of the upstreams' breakers.
func (m *Metrics) collectCircuits(ch chan<- prometheus.Metric) {
	if m.circuit == nil {
		return
	}
	for _, c := range m.circuit() {
		open := 0.0
		if c.Open {
			open = 1
		}
		ch <- prometheus.MustNewConstMetric(circuitDesc, prometheus.GaugeValue, open, c.Upstream, c.Host)
		ch <- prometheus.MustNewConstMetric(skippedDesc, prometheus.CounterValue, float64(c.Refused), c.Upstream, c.Host)
		ch <- prometheus.MustNewConstMetric(retriedDesc, prometheus.CounterValue, float64(c.Retried), c.Upstream, c.Host)
	}
}
