package traces_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/transport/traces"
)

func recorded() (*traces.Traces, *tracetest.SpanRecorder) {
	spans := tracetest.NewSpanRecorder()
	return traces.New(sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))), spans
}

func has(s sdk.ReadOnlySpan, want ...attribute.KeyValue) bool {
	there := attribute.NewSet(s.Attributes()...)
	for _, kv := range want {
		if v, ok := there.Value(kv.Key); !ok || v != kv.Value {
			return false
		}
	}
	return true
}

// TestInvoke checks that an invoke has one span below the caller's, and below
// that one span for its upstream call.
func TestInvoke(t *testing.T) {
	t.Parallel()
	tr, spans := recorded()
	quiet := func(string, ...any) {}
	eng, err := machine.New(machine.Config{
		AppID: "app", Store: memstore.New(time.Now), Log: zerolog.Nop(), Instance: "a",
		Tokens: machinetest.NewTokenService(quiet), Messenger: machinetest.NewConnector(quiet),
		Connections: []machine.Connection{{Name: "graph"}}, Hooks: tr.Hooks(machine.Hooks{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	act := &machine.Activity{
		Type: "invoke", Name: machine.InvokeTokenExchange, ID: "i-1", Value: json.RawMessage(`{"id":"x-1","connectionName":"graph","token":"canary"}`),
		Conversation: store.Conversation{ServiceURL: "https://smba.example/", Channel: "msteams", ID: "chat", Type: "personal", BotID: "28:app", UserID: "29:canary"},
	}
	var answer machine.Answer
	h := tr.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { answer, _ = eng.HandleInvoke(r.Context(), act) }))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/messages", nil)
	const caller = "4bf92f3577b34da6a3ce929d0e0e4736"
	r.Header.Set("Traceparent", "00-"+caller+"-00f067aa0ba902b7-01")
	h.ServeHTTP(httptest.NewRecorder(), r)

	ended := spans.Ended()
	if len(ended) != 2 {
		t.Fatalf("%d spans, want the call and the invoke", len(ended))
	}
	call, invoke := ended[0], ended[1]
	if invoke.Name() != machine.InvokeTokenExchange || invoke.SpanKind() != trace.SpanKindServer || invoke.SpanContext().TraceID().String() != caller ||
		!has(invoke, attribute.Int("http.response.status_code", answer.Status), attribute.String("signin.activity", "i-1")) {
		t.Errorf("invoke: %s %v in %s", invoke.Name(), invoke.Attributes(), invoke.SpanContext().TraceID())
	}
	if call.Name() != "exchange" || call.SpanKind() != trace.SpanKindClient || call.Parent().SpanID() != invoke.SpanContext().SpanID() {
		t.Errorf("call: %s below %s", call.Name(), call.Parent().SpanID())
	}
	moves := 0
	for _, e := range invoke.Events() {
		if e.Name == "transition" {
			moves++
		}
	}
	if moves < 2 { // at least to Exchanging and from there
		t.Errorf("events: %v", invoke.Events())
	}
	if all := fmt.Sprint(tracetest.SpanStubsFromReadOnlySpans(ended)); strings.Contains(all, "canary") {
		t.Errorf("a token or a user is in the spans: %s", all)
	}
}

// TestLines checks what single audit lines become, and that the hooks of next are
// still called.
func TestLines(t *testing.T) {
	t.Parallel()
	tr, spans := recorded()
	seen := 0
	h := tr.Hooks(machine.Hooks{OnEvent: func(context.Context, store.Event) { seen++ }})
	at := time.Date(2026, 4, 22, 3, 12, 0, 0, time.UTC)
	say := func(lines ...store.Event) sdk.ReadOnlySpan {
		t.Helper()
		tr.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for _, e := range lines {
				h.OnEvent(r.Context(), e)
			}
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
		all := spans.Ended()
		return all[len(all)-1]
	}
	failed := say(store.Event{Kind: store.EventAnswer, Invoke: "signin/verifyState", Status: 503, Duration: 2 * time.Second})
	if failed.Status().Code != codes.Error || !has(failed, attribute.Int64("signin.took_ms", 2000)) {
		t.Errorf("answered 503: %v %v", failed.Status(), failed.Attributes())
	}
	told := say(
		store.Event{Kind: store.EventUpstream, Time: at, Duration: time.Second, Invoke: "GetToken", Status: 500, Source: store.SourceTokenService, Code: "ServiceError"},
		store.Event{Kind: store.EventUpstream, Time: at, Invoke: "GetToken", Status: 404},
		store.Event{Kind: store.EventCallback, Time: at, Detail: "pending: said by the bot"},
		store.Event{Kind: store.EventSecurity, Time: at, Row: "B18", Detail: "exchange id of another user"},
	)
	ended := spans.Ended()
	call, miss := ended[len(ended)-3], ended[len(ended)-2]
	if call.Status() != (sdk.Status{Code: codes.Error, Description: "token_service ServiceError"}) ||
		!call.EndTime().Equal(at) || !call.StartTime().Equal(at.Add(-time.Second)) {
		t.Errorf("a call that failed: %v from %s to %s", call.Status(), call.StartTime(), call.EndTime())
	}
	if miss.Status().Code != codes.Unset {
		t.Errorf("to have no token is no error: %v", miss.Status())
	}
	if got := told.Events(); told.Name() != "activity" || len(got) != 2 || got[0].Name != "callback" || got[1].Name != "security" ||
		got[0].Attributes[0] != attribute.String("signin.outcome", "pending") {
		t.Errorf("%s: %v", told.Name(), got)
	}
	// Without a span nothing fails, and a call of the sweeper becomes a root
	// span.
	h.OnEvent(t.Context(), store.Event{Kind: store.EventTransition, From: store.CardSent, To: store.Failed})
	h.OnEvent(t.Context(), store.Event{Kind: store.EventUpstream, Time: at, Invoke: "GetToken again", Status: 200})
	ended = spans.Ended()
	if alone := ended[len(ended)-1]; alone.Parent().IsValid() || alone.Name() != "GetToken again" {
		t.Errorf("%s below %s", alone.Name(), alone.Parent().SpanID())
	}
	if seen != 7 {
		t.Errorf("the hook of before saw %d lines", seen)
	}
}
