package metrics_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/transport/metrics"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// TestForeignWords checks that a word of a client, an upstream or a bot's own
// code becomes a label only if it is known.
func TestForeignWords(t *testing.T) {
	t.Parallel()
	const foreign = "canary"
	m := metrics.New(metrics.Config{Store: memstore.New(time.Now)})
	h := m.Hooks(machine.Hooks{})
	for _, e := range []store.Event{
		{Kind: store.EventTransition, From: foreign, To: foreign + "2", Row: foreign, Detail: foreign},
		{Kind: store.EventTransition, From: store.CardSent, To: store.Failed, Detail: foreign + ": " + foreign},
		{Kind: store.EventNote, Invoke: machine.InvokeFailure, Source: store.SourceClient, Code: foreign},
		{Kind: store.EventUpstream, Invoke: foreign, Status: 9999, Code: foreign},
		{Kind: store.EventAnswer, Invoke: foreign, Status: 1234567, Row: foreign},
		{Kind: store.EventCallback, Invoke: foreign, Detail: foreign},
		{Kind: foreign, Invoke: foreign},
	} {
		e.Attempt, e.Instance, e.Activity, e.Platform, e.Actor = foreign, foreign, foreign, foreign, foreign
		e.Key = store.Key{App: foreign, Channel: foreign, User: foreign, Connection: foreign}
		h.OnEvent(t.Context(), e)
	}
	h.OnSignIn(t.Context(), store.Attempt{Method: foreign, Key: store.Key{User: foreign, Connection: foreign}})
	page := scrape(t, m)
	if strings.Contains(page, foreign) {
		t.Errorf("a foreign word is a label:\n%s", page)
	}
	has(t, page,
		`signin_transitions_total{from="other",to="other"} 1`,
		`signin_failed_total{reason="other"} 1`,
		`signin_client_failures_total{code="other"} 1`,
		`signin_upstream_seconds_count{operation="other",status_class="none"} 1`,
		`signin_invoke_answers_total{invoke="other",status="other"} 1`,
		`signin_callbacks_total{outcome="failed"} 1`,
		`signin_completed_total{method="other"} 1`,
	)
}

func TestEvents(t *testing.T) {
	t.Parallel()
	m := metrics.New(metrics.Config{Store: memstore.New(time.Now)})
	h := m.Hooks(machine.Hooks{})
	failure := store.Event{Invoke: "SIGNIN/failure", Source: store.SourceClient, Code: "ResourceMatchFailed"}
	d1, d0, d3 := failure, failure, failure
	d1.Kind, d1.From, d1.To, d1.Detail = store.EventTransition, store.CardSent, store.Failed, "client_failure: resourcematchfailed"
	d0.Kind = store.EventNote
	d3.Kind, d3.Source = store.EventNote, ""
	for _, e := range []store.Event{
		d1, d0, d3,
		{Kind: store.EventTransition, From: store.CardSent, To: store.CardSent},
		{Kind: store.EventUpstream, Invoke: "exchange", Duration: 2 * time.Second},
		{Kind: store.EventUpstream, Invoke: "exchange", Status: 503, Duration: 3 * time.Second},
		{Kind: store.EventAnswer, Row: "B6", Invoke: "signin/tokenexchange", Status: 412, Duration: 6 * time.Second},
		{Kind: store.EventAnswer, Row: "C9", Invoke: machine.InvokeVerifyState, Status: 200},
		{Kind: store.EventAnswer, Row: "B9", Invoke: machine.InvokeTokenExchange, Status: 412},
		{Kind: store.EventCallback, Detail: "delivered"},
		{Kind: store.EventCallback, Detail: "delivered: but its handler failed"},
		{Kind: store.EventCallback, Detail: "pending: boom"},
		{Kind: store.EventCallback, Detail: "undeliverable: blocked"},
		{Kind: store.EventCallback, Detail: "dead: boom"},
	} {
		h.OnEvent(t.Context(), e)
	}
	began := time.Date(2026, 4, 22, 3, 12, 0, 0, time.UTC)
	h.OnSignIn(t.Context(), store.Attempt{Method: store.MethodVerifyState, Created: began, Entered: began.Add(40 * time.Second)})
	page := scrape(t, m)
	has(t, page,
		`signin_client_failures_total{code="resourcematchfailed"} 2`,
		`signin_failed_total{reason="client_failure"} 1`,
		`signin_upstream_seconds_sum{operation="exchange",status_class="none"} 2`,
		`signin_upstream_seconds_sum{operation="exchange",status_class="5xx"} 3`,
		`signin_invoke_answers_total{invoke="signin/tokenExchange",status="412"} 2`,
		`signin_invoke_seconds_sum{invoke="signin/tokenExchange"} 6`,
		`signin_duplicates_total{how="waited"} 2`,
		`signin_duplicates_total{how="recorded"} 1`,
		`signin_callbacks_total{outcome="delivered"} 1`,
		`signin_callbacks_total{outcome="failed"} 2`,
		`signin_callbacks_total{outcome="undeliverable"} 1`,
		`signin_callbacks_total{outcome="dead"} 1`,
		`signin_time_to_complete_seconds_sum{method="verifyState"} 40`,
		`signin_time_to_complete_seconds_bucket{method="verifyState",le="60"} 1`,
	)
	if strings.Contains(page, `signin_transitions_total{from="CardSent",to="CardSent"}`) {
		t.Error("a change in place is an edge")
	}
}

// TestCalls checks that every call which explain knows is a value of the label
// operation.
func TestCalls(t *testing.T) {
	t.Parallel()
	m := metrics.New(metrics.Config{Store: memstore.New(time.Now)})
	h := m.Hooks(machine.Hooks{})
	calls := 0
	for _, e := range operator.Explanations() {
		if e.Kind == "call" && e.Code != "SignIn" && !strings.HasPrefix(e.Code, "signin/") {
			calls++
			h.OnEvent(t.Context(), store.Event{Kind: store.EventUpstream, Invoke: e.Code, Status: 200})
		}
	}
	if page := scrape(t, m); calls < 5 || strings.Contains(page, `operation="other"`) {
		t.Errorf("of %d calls one is not known:\n%s", calls, page)
	}
}

// TestHooksChain checks that the hooks of next are called as well.
func TestHooksChain(t *testing.T) {
	t.Parallel()
	var seen []string
	m := metrics.New(metrics.Config{Store: memstore.New(time.Now)})
	h := m.Hooks(machine.Hooks{
		OnEvent:  func(_ context.Context, e store.Event) { seen = append(seen, string(e.Kind)) },
		OnSignIn: func(_ context.Context, a store.Attempt) { seen = append(seen, string(a.Method)) },
		OnError:  func(_ context.Context, _ *machine.Activity, err error) { seen = append(seen, err.Error()) },
	})
	h.OnEvent(t.Context(), store.Event{Kind: store.EventNote})
	h.OnSignIn(t.Context(), store.Attempt{Method: store.MethodSilent})
	h.OnError(t.Context(), nil, store.ErrUnavailable)
	if want := []string{"note", "silent", store.ErrUnavailable.Error()}; !slices.Equal(seen, want) {
		t.Errorf("called %v, want %v", seen, want)
	}
}

// stored is a memory store that can hang, and can be exclusive.
type stored struct {
	store.Store
	hangs, exclusive bool
	reads            *atomic.Int64
}

func (s stored) Counts(ctx context.Context, since time.Time) (store.Counts, error) {
	s.reads.Add(1)
	time.Sleep(10 * time.Millisecond) // so that concurrent scrapes overlap
	if s.hangs {
		<-ctx.Done()
		return store.Counts{}, ctx.Err()
	}
	return s.Store.Counts(ctx, since)
}

func (s stored) Exclusive() bool { return s.exclusive }

// TestStoreHangs checks that a scrape waits for the store no longer than its
// timeout, and then has the metrics that need no store.
func TestStoreHangs(t *testing.T) {
	t.Parallel()
	m := metrics.New(metrics.Config{Store: stored{Store: memstore.New(time.Now), hangs: true, reads: new(atomic.Int64)}, Timeout: 10 * time.Millisecond})
	began := time.Now()
	page := scrape(t, m)
	if took := time.Since(began); took > metrics.DefaultTimeout {
		t.Errorf("the scrape took %s", took)
	}
	if strings.Contains(page, "\nsignin_attempts_open") || strings.Contains(page, "\nsignin_stuck") {
		t.Error("the scrape has gauges that nobody read")
	}
	has(t, page, `signin_callbacks_total{outcome="delivered"} 0`)
}

// TestScrapesShareARead checks that concurrent scrapes cost one read of the
// store.
func TestScrapesShareARead(t *testing.T) {
	t.Parallel()
	var reads atomic.Int64
	m := metrics.New(metrics.Config{Store: stored{Store: memstore.New(time.Now), reads: &reads}})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { scrape(t, m) })
	}
	all.Wait()
	if n := reads.Load(); n != 1 {
		t.Errorf("%d reads", n)
	}
}

// TestGauges reads a store in which something is stuck.
func TestGauges(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 4, 22, 3, 12, 30, 0, time.UTC)
	st := memstore.New(func() time.Time { return now })
	a := store.Attempt{
		ID: "01JSD4K2Q80000000000000001", Version: 1, State: store.Idle, Origin: store.OriginSignIn,
		Key:     store.Key{App: "app", Channel: "msteams", User: "29:1", Connection: "graph"},
		Created: now.Add(-90 * time.Second), Entered: now.Add(-90 * time.Second), Expires: now.Add(time.Minute),
	}
	row := store.Delivery{
		DeliveryKey: store.DeliveryKey{Attempt: a.ID, Kind: store.DeliverFailure, Round: 1},
		Status:      store.DeliveryPending, Created: now.Add(-80 * time.Second), NextAt: now.Add(-50 * time.Second),
	}
	for _, err := range st.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}, Deliveries: []store.Delivery{row}}}) {
		no(t, err)
	}
	rules := operator.DefaultRules()
	has(t, scrape(t, metrics.New(metrics.Config{Store: st})),
		`signin_attempts_open{state="Idle"} 1`,
		`signin_oldest_seconds{state="Idle"} 90`,
		`signin_outbox_depth 1`,
		`signin_outbox_oldest_seconds 50`,
		`signin_stuck{rule="idle-old"} 1`,
	)
	rules.IdleOld = time.Hour
	has(t, scrape(t, metrics.New(metrics.Config{Store: st, Rules: &rules})), `signin_stuck{rule="idle-old"} 0`)
}

// giving is a store that hands out transactions.
type giving struct{ stored }

func (giving) AckIn(context.Context, store.Delivery, func(context.Context, any) error) error {
	return store.ErrConflict
}

// TestStoreStaysWhatItIs checks that a measured store is exclusive, and hands out
// transactions, exactly if the store does. It also checks that groups are
// measured.
func TestStoreStaysWhatItIs(t *testing.T) {
	t.Parallel()
	m := metrics.New(metrics.Config{Store: memstore.New(time.Now)})
	plain := stored{Store: memstore.New(time.Now), reads: new(atomic.Int64)}
	alone := plain
	alone.exclusive = true
	for _, one := range []struct {
		st              store.Store
		alone, transact bool
	}{{plain, false, false}, {alone, true, false}, {giving{plain}, false, true}, {giving{alone}, true, true}} {
		wrapped := m.Store(one.st)
		_, transacts := wrapped.(machine.Transactor)
		if store.IsExclusive(wrapped) != one.alone || transacts != one.transact {
			t.Errorf("%T: exclusive %t, transactions %t", one.st, store.IsExclusive(wrapped), transacts)
		}
	}
	m.Store(plain).Apply(t.Context(), make([]store.Commit, 3))
	has(t, scrape(t, m), `signin_store_commit_seconds_count 1`, `signin_store_group_size_sum 3`)
}

// TestOAuth checks how audit lines become the metrics of the .NET SDK.
func TestOAuth(t *testing.T) {
	t.Parallel()
	m := metrics.New(metrics.Config{Store: memstore.New(time.Now), Connections: []string{"graph"}})
	h := m.Hooks(machine.Hooks{})
	for _, e := range []store.Event{
		{Kind: store.EventUpstream, Invoke: "GetToken", Status: 200, Duration: 20 * time.Millisecond},
		{Kind: store.EventUpstream, Invoke: "GetToken", Status: 404},
		{Kind: store.EventUpstream, Invoke: "GetToken", Status: 503},
		{Kind: store.EventTransition, Row: "A6"},
		{Kind: store.EventUpstream, Invoke: "GetToken with code", Status: 404},
		{Kind: store.EventUpstream, Invoke: "GetToken with code", Status: 200},
		{Kind: store.EventUpstream, Invoke: "GetToken with code"},
		{Kind: store.EventUpstream, Invoke: "exchange", Status: 412},
		{Kind: store.EventAnswer, Row: "B3", Invoke: machine.InvokeTokenExchange, Status: 412},
		{Kind: store.EventAnswer, Invoke: machine.InvokeFailure, Status: 200},
		{Kind: store.EventUpstream, Invoke: "SignOut", Status: 200},
		{Kind: store.EventUpstream, Invoke: "SignOut", Status: 500},
		{Kind: store.EventUpstream, Invoke: "POST card", Status: 500},
	} {
		e.Key.Connection = "Graph"
		h.OnEvent(t.Context(), e)
	}
	operation := func(operation, result string) string {
		return `teams_oauth_operations_total{oauth_connection="graph",oauth_operation="` + operation + `",oauth_result="` + result + `"} 1`
	}
	page := scrape(t, m)
	has(t, page,
		operation("signin", "token_cached"), operation("signin", "signin_card_sent"),
		operation("verify_state", "connection_not_matched"), operation("verify_state", "operation_succeeded"), operation("verify_state", "operation_failed"),
		operation("token_exchange", "operation_failed"), operation("signin_failure", "failure_callback_notified"),
		operation("signout", "operation_succeeded"), operation("signout", "operation_failed"),
		`teams_oauth_operation_duration_milliseconds_sum{oauth_connection="graph",oauth_operation="signin",oauth_result="token_cached"} 20`,
		`teams_oauth_errors_total{oauth_connection="graph",oauth_error_type="http_error",oauth_operation="signin"} 1`,
		`teams_oauth_errors_total{oauth_connection="graph",oauth_error_type="http_error",oauth_operation="verify_state"} 1`,
		`teams_oauth_errors_total{oauth_connection="graph",oauth_error_type="http_error",oauth_operation="signout"} 1`,
	)
	if n := strings.Count(page, "\nteams_oauth_operations_total{"); n != 9 {
		t.Errorf("%d kinds of operations", n)
	}
}
