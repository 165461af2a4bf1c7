package metrics_test

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/metrics"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// world is a bot with an engine, served over HTTP, and the emulator.
type world struct {
	t        *testing.T
	emulator *emulator.Server
	robin    *emulator.Teams
	engine   *machine.Engine
	metrics  *metrics.Metrics
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, emulator: emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}}, Seed: 1})}
	services := httptest.NewServer(w.emulator)
	t.Cleanup(services.Close)
	w.emulator.SetBaseURL(services.URL)
	own := tokensvc.Static(tokensvc.NewSecret("bot"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: services.URL, Credentials: own})
	no(t, err)
	t.Cleanup(tokens.CloseIdleConnections)
	hosts, err := teams.NewAllowList(nil, true)
	no(t, err)
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: own, ServiceURLs: hosts})
	no(t, err)
	t.Cleanup(connector.CloseIdleConnections)

	st := memstore.New(time.Now)
	w.metrics = metrics.New(metrics.Config{
		Store: st, Version: "v1.2.3",
		Connections: []string{"graph"},
		Refused:     func() *operator.Refused { return &operator.Refused{Reasons: map[string]int64{"service_host": 3}} },
		Circuits: func() []operator.Circuit {
			return []operator.Circuit{{Upstream: "token_service", Host: "token.example", Open: true, Opened: 1, Refused: 2, Retried: 3}}
		},
	})
	w.engine, err = machine.New(machine.Config{
		AppID: "app", Store: w.metrics.Store(st), Tokens: tokens, Messenger: connector,
		Connections: []machine.Connection{{Name: "graph"}}, Hooks: w.metrics.Hooks(machine.Hooks{}), Log: zerolog.Nop(),
	})
	no(t, err)
	graph, err := w.engine.Flow("graph")
	no(t, err)
	graph.OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error { return nil })
	handler, err := teams.NewHandler(w.engine, teams.Config{
		InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:3978", ServiceURLs: hosts, Log: zerolog.Nop(),
	}, teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := graph.SignIn(ctx, turn)
		return nil, err
	}))
	no(t, err)
	bot := httptest.NewServer(handler)
	t.Cleanup(bot.Close)
	w.robin = w.emulator.Teams(bot.URL)
	return w
}

func no(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signIn signs the user in silently. The client sends its invoke twice.
func (w *world) signIn() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	_, err := w.robin.SendMessage(ctx, "hello")
	no(w.t, err)
	card, err := w.emulator.WaitForCard(ctx, w.robin.Conversation.ID, 0)
	no(w.t, err)
	for range 2 {
		answer, err := w.robin.TokenExchange(ctx, card.ExchangeID(), "graph", "sso")
		no(w.t, err)
		if answer.Status != http.StatusOK {
			w.t.Fatalf("signin/tokenExchange: %d", answer.Status)
		}
	}
	no(w.t, w.engine.Drain(ctx))
}

// scrape returns what Prometheus would read.
func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Errorf("/metrics: %d %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

// has checks that each sample is a line of the scrape.
func has(t *testing.T, page string, samples ...string) {
	t.Helper()
	lines := strings.Split(page, "\n")
	for _, s := range samples {
		if !slices.Contains(lines, s) {
			t.Errorf("no %s", s)
		}
	}
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signIn()
	page := scrape(t, w.metrics)
	has(t, page,
		`signin_transitions_total{from="new",to="Idle"} 1`,
		`signin_transitions_total{from="Exchanging",to="Complete"} 1`,
		`signin_completed_total{method="tokenExchange"} 1`,
		`signin_completed_total{method="silent"} 0`,
		`signin_failed_total{reason="expired"} 0`,
		`signin_time_to_complete_seconds_count{method="tokenExchange"} 1`,
		`signin_invoke_answers_total{invoke="signin/tokenExchange",status="200"} 2`,
		`signin_invoke_seconds_count{invoke="signin/tokenExchange"} 2`,
		`signin_duplicates_total{how="complete"} 1`,
		`signin_duplicates_total{how="recorded"} 0`,
		`signin_upstream_seconds_count{operation="exchange",status_class="2xx"} 1`,
		`signin_upstream_seconds_count{operation="GetToken",status_class="4xx"} 1`,
		`signin_callbacks_total{outcome="delivered"} 1`,
		`signin_callbacks_total{outcome="dead"} 0`,
		`signin_callbacks_total{outcome="failed"} 0`,
		`signin_attempts_open{state="CardSent"} 0`,
		`signin_outbox_depth 0`,
		`signin_stuck{rule="lease-expired"} 0`,
		`signin_refused_total{why="service_host"} 3`,
		`signin_refused_total{why="expired"} 0`,
		`teams_oauth_operations_total{oauth_connection="graph",oauth_operation="signin",oauth_result="signin_card_sent"} 1`,
		`teams_oauth_operations_total{oauth_connection="graph",oauth_operation="token_exchange",oauth_result="operation_succeeded"} 1`,
		`teams_oauth_operations_total{oauth_connection="graph",oauth_operation="token_exchange",oauth_result="request_deduplicated"} 1`,
		`teams_oauth_operation_duration_milliseconds_count{oauth_connection="graph",oauth_operation="token_exchange",oauth_result="operation_succeeded"} 1`,
		`signin_circuit_open{host="token.example",upstream="token_service"} 1`,
		`signin_circuit_refused_total{host="token.example",upstream="token_service"} 2`,
		`signin_upstream_retries_total{host="token.example",upstream="token_service"} 3`,
	)
	if n := strings.Count(page, `="other"`); n != 1 { // the zero of signin_client_failures_total
		t.Errorf("an ordinary sign-in has a word that is not known: %d times other", n)
	}
}

const root = "../../"

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(root + name)
	no(t, err)
	return string(text)
}

// TestDocumented checks that a scrape has exactly the metrics of the runbook,
// with its labels and types, and that the alert rules and the dashboard use no
// others.
func TestDocumented(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signIn()
	page := scrape(t, w.metrics)
	types, labels := map[string]string{}, map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (signin_\w+) (\w+)$`).FindAllStringSubmatch(page, -1) {
		types[m[1]] = m[2]
	}
	name := regexp.MustCompile(`_(bucket|sum|count)$`)
	label := regexp.MustCompile(`(\w+)="`)
	for _, m := range regexp.MustCompile(`(?m)^(signin_\w+)(?:\{(.*)\})? \S+$`).FindAllStringSubmatch(page, -1) {
		metric := m[1]
		if types[metric] == "" {
			metric = name.ReplaceAllString(metric, "")
		}
		var names []string
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "le" {
				names = append(names, l[1])
			}
		}
		slices.Sort(names)
		labels[metric] = strings.Join(names, " ")
	}

	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(signin_\\w+)` \\|([^|]*)\\| (\\w+) \\|").FindAllStringSubmatch(read(t, "docs/operations.md"), -1) {
		documented[row[1]] = true
		said := strings.Fields(strings.NewReplacer("`", "", ",", "").Replace(row[2]))
		slices.Sort(said)
		if got, want := types[row[1]]+" "+labels[row[1]], row[3]+" "+strings.Join(said, " "); got != want {
			t.Errorf("%s is %q in a scrape, and documented as %q", row[1], got, want)
		}
	}
	for _, metric := range slices.Sorted(maps.Keys(types)) {
		if !documented[metric] {
			t.Errorf("%s is not documented", metric)
		}
	}
	for _, file := range []string{"deploy/prometheus/rules.yaml", "deploy/prometheus/rules_test.yaml", "deploy/grafana/dashboard.json"} {
		used := regexp.MustCompile(`\bsignin_[a-z_]+\b`).FindAllString(read(t, file), -1)
		if len(used) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, metric := range used {
			if types[metric] == "" && types[name.ReplaceAllString(metric, "")] != "histogram" {
				t.Errorf("%s names %s, which no scrape has", file, metric)
			}
		}
	}
}
