// Package traces makes OpenTelemetry spans of what an engine does. There is one
// for each request to the bot, named after its invoke, and below it one for each
// call to the Token Service and the connector. Transitions, callbacks, notes and
// operators' actions become events of the span in which they happen.
//
// Whether and where spans are exported is up to the caller's provider. To use the
// package:
//
//  1. Set machine.Config.Hooks to what [Traces.Hooks] returns.
//  2. Serve the bot's handler through [Traces.Handler], or through otelhttp, whose
//     span is used then.
//  3. Send requests to the upstreams through [Transport], which passes the
//     traceparent on: give it to upstream.NewSet.
//
// A span has ids of attempts and activities, rows, statuses and error codes. It
// has no user, tenant, conversation or text.
package traces

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

const scope = "github.com/signin-engine/signin-engine/transport/traces"

// Traces makes the spans of one engine.
type Traces struct{ tracer trace.Tracer }

// New returns a Traces that makes its spans by p.
func New(p trace.TracerProvider) *Traces { return &Traces{p.Tracer(scope)} }

// Handler begins a span for each request that next answers, as a child of the one
// that a traceparent header names.
func (t *Traces) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := t.tracer.Start(ctx, "activity", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Forward returns a Traces that makes no spans. Its [Traces.Handler] and
// [Transport] together pass the caller's traceparent on to the upstreams
// unchanged.
func Forward() *Traces { return New(noop.NewTracerProvider()) }

// Transport adds the traceparent of its context, if there is one, to each request
// that it makes by next. It has to stand below whatever repeats requests.
func Transport(next http.RoundTripper) http.RoundTripper { return transport{next} }

type transport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if ctx := r.Context(); trace.SpanContextFromContext(ctx).IsValid() {
		r = r.Clone(ctx)
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(r.Header))
	}
	return t.next.RoundTrip(r)
}

// CloseIdleConnections closes the idle connections of the transport below.
func (t transport) CloseIdleConnections() {
	if pool, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		pool.CloseIdleConnections()
	}
}

// Hooks returns hooks that record what the engine does and then call those of
// next.
func (t *Traces) Hooks(next machine.Hooks) machine.Hooks {
	onEvent := next.OnEvent
	next.OnEvent = func(ctx context.Context, e store.Event) {
		t.event(ctx, &e)
		if onEvent != nil {
			onEvent(ctx, e)
		}
	}
	return next
}

func (t *Traces) event(ctx context.Context, e *store.Event) {
	span := trace.SpanFromContext(ctx)
	at := trace.WithTimestamp(e.Time)
	switch e.Kind {
	case store.EventReceived: // the span's own start says it
	case store.EventUpstream:
		t.call(ctx, e)
	case store.EventAnswer:
		span.SetName(e.Invoke)
		span.SetAttributes(about(e)...)
		span.SetAttributes(attribute.Int64("signin.took_ms", e.Duration.Milliseconds()))
		if e.Status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(e.Status))
		}
	case store.EventTransition:
		span.AddEvent("transition", at, trace.WithAttributes(append(about(e),
			attribute.String("signin.from", string(e.From)), attribute.String("signin.to", string(e.To)))...))
	case store.EventCallback:
		outcome, _, _ := strings.Cut(e.Detail, ":")
		span.AddEvent("callback", at, trace.WithAttributes(append(about(e), attribute.String("signin.outcome", outcome))...))
	case store.EventNote, store.EventOperator, store.EventSecurity:
		span.AddEvent(string(e.Kind), at, trace.WithAttributes(about(e)...))
	}
}

// call makes the span of a finished call. Its times are those of the engine, by
// the store's clock.
func (t *Traces) call(ctx context.Context, e *store.Event) {
	_, span := t.tracer.Start(ctx, e.Invoke, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(e.Time.Add(-e.Duration)), trace.WithAttributes(about(e)...))
	if e.Source != "" {
		span.SetStatus(codes.Error, strings.TrimSpace(e.Source+" "+e.Code))
	}
	span.End(trace.WithTimestamp(e.Time))
}

// about returns the attributes of an audit line, without empty ones.
func about(e *store.Event) []attribute.KeyValue {
	var all []attribute.KeyValue
	for name, value := range map[string]string{
		"signin.attempt": e.Attempt, "signin.activity": e.Activity, "signin.row": e.Row,
		"signin.source": e.Source, "signin.code": e.Code, "signin.instance": e.Instance,
	} {
		if value != "" {
			all = append(all, attribute.String(name, value))
		}
	}
	if e.Status != 0 {
		all = append(all, attribute.Int("http.response.status_code", e.Status))
	}
	return all
}
