package metrics

import (
	"cmp"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// Config configures [Metrics].
type Config struct {
	// Store is read at each scrape. Required.
	Store store.Store
	// Rules judge what is stuck. nil = operator.DefaultRules.
	Rules *operator.Rules
	// Refused returns the counts of requests that the bot's listener refused. nil
	// = there is no signin_refused_total.
	Refused func() *operator.Refused
	// Circuits returns the state of the upstreams' breakers. nil = there are no
	// signin_circuit_* and no signin_upstream_retries_total.
	Circuits func() []operator.Circuit
	// Connections are the values of the label oauth_connection in teams_oauth_….
	// Any other connection counts as "other".
	Connections []string
	// Version of the program, for signin_build_info. "" = "unknown".
	Version string
	// Timeout bounds the reads of one scrape. If they fail, the scrape lacks the
	// gauges that come from the store and has the rest. 0 = 5 s.
	Timeout time.Duration
	Log     zerolog.Logger
}

// DefaultTimeout bounds the reads of one scrape.
const DefaultTimeout = 5 * time.Second

// fresh is how long the result of one read of the store serves later scrapes.
const fresh = time.Second

// Metrics is a prometheus.Collector. Its methods may be called from many
// goroutines.
type Metrics struct {
	reader  *operator.Direct
	refused func() *operator.Refused
	circuit func() []operator.Circuit
	timeout time.Duration
	log     zerolog.Logger

	transitions    *prometheus.CounterVec
	completed      *prometheus.CounterVec
	failed         *prometheus.CounterVec
	clientFailures *prometheus.CounterVec
	answers        *prometheus.CounterVec
	answerTime     *prometheus.HistogramVec
	upstreamTime   *prometheus.HistogramVec
	duplicates     *prometheus.CounterVec
	completeTime   *prometheus.HistogramVec
	callbacks      *prometheus.CounterVec
	guesses        *prometheus.CounterVec
	commitTime     prometheus.Histogram
	groupSize      prometheus.Histogram
	build          prometheus.Gauge
	oauth          *oauth

	mu   sync.Mutex // held during the reads of a scrape
	read look
}

// Buckets in seconds. Teams gives up on an invoke after 15 s, and an attempt
// lives 15 min.
var (
	callBuckets     = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15}
	completeBuckets = []float64{.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900}
	commitBuckets   = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
)

// New makes the metrics of one engine.
func New(cfg Config) *Metrics {
	rules := operator.DefaultRules()
	if cfg.Rules != nil {
		rules = *cfg.Rules
	}
	m := &Metrics{
		reader:  operator.NewDirect(cfg.Store, rules, operator.Info{}),
		refused: cfg.Refused, circuit: cfg.Circuits, timeout: cmp.Or(cfg.Timeout, DefaultTimeout), log: cfg.Log,

		transitions:    counter("signin_transitions_total", "Edges taken.", "from", "to"),
		completed:      counter("signin_completed_total", "Attempts that became Complete.", "method"),
		failed:         counter("signin_failed_total", "Attempts that became Failed.", "reason"),
		clientFailures: counter("signin_client_failures_total", "signin/failure invokes, by the code of the client.", "code"),
		answers:        counter("signin_invoke_answers_total", "What invokes were answered.", "invoke", "status"),
		answerTime:     histogram("signin_invoke_seconds", "From an invoke to its answer.", callBuckets, "invoke"),
		upstreamTime:   histogram("signin_upstream_seconds", "Calls to upstreams.", callBuckets, "operation", "status_class"),
		duplicates:     counter("signin_duplicates_total", "Repeats that were answered without a call upstream.", "how"),
		completeTime:   histogram("signin_time_to_complete_seconds", "From the beginning of an attempt to Complete.", completeBuckets, "method"),
		callbacks:      counter("signin_callbacks_total", "Tries of callbacks, by how they ended.", "outcome"),
		guesses:        counter("signin_operator_refused_total", "Tokens that the operator endpoint refused.", "why"),
		commitTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "signin_store_commit_seconds", Help: "One group of commits, until it is durable.", Buckets: commitBuckets,
		}),
		groupSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "signin_store_group_size", Help: "Commits in a group.", Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		build: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "signin_build_info", Help: "1.",
			ConstLabels: prometheus.Labels{"version": cmp.Or(cfg.Version, "unknown"), "goversion": runtime.Version()},
		}),
	}
	m.oauth = newOAuth(cfg.Connections)
	m.build.Set(1)
	begin(m.completed, methods)
	begin(m.failed, reasons)
	begin(m.clientFailures, failureCodes)
	begin(m.duplicates, hows)
	begin(m.callbacks, outcomes)
	begin(m.guesses, list(operator.Refusals()...))
	return m
}

// begin sets a counter to zero for each value. Without that, Prometheus would not
// see the first count as an increase.
func begin(c *prometheus.CounterVec, values words) {
	for _, v := range values {
		c.WithLabelValues(v)
	}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

// counted are the metrics that accumulate between scrapes.
func (m *Metrics) counted() []prometheus.Collector {
	return append(m.oauth.collectors(),
		m.transitions, m.completed, m.failed, m.clientFailures, m.answers, m.answerTime, m.upstreamTime,
		m.duplicates, m.completeTime, m.callbacks, m.guesses, m.commitTime, m.groupSize, m.build)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.counted() {
		c.Describe(ch)
	}
	for _, d := range readDescs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It reads the store.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.counted() {
		c.Collect(ch)
	}
	m.collectRefused(ch)
	m.collectCircuits(ch)
	m.collectRead(ch)
}

// OperatorRefused counts a token that the operator endpoint refused. It fits
// operator.HandlerConfig.OnRefused.
func (m *Metrics) OperatorRefused(why operator.Refusal) { m.guesses.WithLabelValues(string(why)).Inc() }

// Handler serves these metrics, and those of the Go runtime and of the process.
func (m *Metrics) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
