package metrics

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// oauth holds the metrics of the .NET SDK for Teams (teams.oauth.operations,
// teams.oauth.operation.duration, teams.oauth.errors), under the names that
// OpenTelemetry's exporter gives them in Prometheus. Dashboards made for that SDK
// therefore work with this engine, too.
type oauth struct {
	connections words
	operations  *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	errors      *prometheus.CounterVec
}

// The values of oauth_operation and oauth_result that the engine can tell apart.
const (
	oauthSignIn   = "signin"
	oauthSignOut  = "signout"
	oauthExchange = "token_exchange"
	oauthVerify   = "verify_state"
	oauthFailure  = "signin_failure"

	oauthCached     = "token_cached"
	oauthCardSent   = "signin_card_sent"
	oauthSucceeded  = "operation_succeeded"
	oauthFailed     = "operation_failed"
	oauthDuplicate  = "request_deduplicated"
	oauthNotMatched = "connection_not_matched"
	oauthNotified   = "failure_callback_notified"

	oauthHTTPError = "http_error"
)

// oauthBuckets are callBuckets in milliseconds.
var oauthBuckets = []float64{5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 15_000}

func newOAuth(connections []string) *oauth {
	labels := []string{"oauth_connection", "oauth_operation", "oauth_result"}
	return &oauth{
		connections: list(connections...),
		operations:  counter("teams_oauth_operations_total", "OAuth operations, as the .NET SDK counts them.", labels...),
		duration:    histogram("teams_oauth_operation_duration_milliseconds", "OAuth operations, as the .NET SDK measures them.", oauthBuckets, labels...),
		errors: counter("teams_oauth_errors_total", "OAuth operations that failed otherwise than the protocol expects.",
			"oauth_connection", "oauth_operation", "oauth_error_type"),
	}
}

func (o *oauth) collectors() []prometheus.Collector {
	return []prometheus.Collector{o.operations, o.duration, o.errors}
}

// event counts one audit line. As in the SDK, each connection that a code is
// offered to counts as an operation.
func (o *oauth) event(e *store.Event) {
	switch {
	case e.Kind == store.EventTransition && e.Row == "A6":
		o.operations.WithLabelValues(known(o.connections, e.Key.Connection), oauthSignIn, oauthCardSent).Inc()
	case e.Kind == store.EventAnswer && strings.EqualFold(e.Invoke, machine.InvokeTokenExchange):
		result := oauthFailed
		switch {
		case repeats[e.Row] != "":
			result = oauthDuplicate
		case e.Status == http.StatusOK:
			result = oauthSucceeded
		}
		o.done(e, oauthExchange, result)
	case e.Kind == store.EventAnswer && strings.EqualFold(e.Invoke, machine.InvokeFailure):
		o.done(e, oauthFailure, oauthNotified)
	case e.Kind == store.EventUpstream:
		o.call(e)
	}
}

// call counts the operation for which the Token Service was called. A call
// without an answer, or with one that the protocol does not expect, also counts
// as an error.
func (o *oauth) call(e *store.Event) {
	fine := e.Status >= 200 && e.Status < 300
	operation := oauthSignIn
	switch e.Invoke {
	case "GetToken":
		if fine {
			o.done(e, oauthSignIn, oauthCached)
		}
	case "GetSignInResource":
	case "exchange":
		operation = oauthExchange // the operation is counted by its answer
	case "GetToken with code":
		operation = oauthVerify
		switch {
		case fine:
			o.done(e, operation, oauthSucceeded)
		case e.Status == http.StatusNotFound:
			o.done(e, operation, oauthNotMatched)
		default:
			o.done(e, operation, oauthFailed)
		}
	case "SignOut":
		operation = oauthSignOut
		if fine {
			o.done(e, operation, oauthSucceeded)
		} else {
			o.done(e, operation, oauthFailed)
		}
	default:
		return
	}
	switch {
	case fine, e.Status == http.StatusNotFound, e.Status == http.StatusBadRequest, e.Status == http.StatusPreconditionFailed:
	default:
		o.errors.WithLabelValues(known(o.connections, e.Key.Connection), operation, oauthHTTPError).Inc()
	}
}

func (o *oauth) done(e *store.Event, operation, result string) {
	connection := known(o.connections, e.Key.Connection)
	o.operations.WithLabelValues(connection, operation, result).Inc()
	o.duration.WithLabelValues(connection, operation, result).Observe(float64(e.Duration) / float64(time.Millisecond))
}
