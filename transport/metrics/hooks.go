package metrics

import (
	"context"
	"strconv"
	"strings"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Hooks returns hooks that count what the engine does and then call those of
// next.
func (m *Metrics) Hooks(next machine.Hooks) machine.Hooks {
	onEvent, onSignIn := next.OnEvent, next.OnSignIn
	next.OnEvent = func(ctx context.Context, e store.Event) {
		m.event(&e)
		m.oauth.event(&e)
		if onEvent != nil {
			onEvent(ctx, e)
		}
	}
	next.OnSignIn = func(ctx context.Context, a store.Attempt) {
		method := known(methods, string(a.Method))
		m.completed.WithLabelValues(method).Inc()
		m.completeTime.WithLabelValues(method).Observe(a.Entered.Sub(a.Created).Seconds())
		if onSignIn != nil {
			onSignIn(ctx, a)
		}
	}
	return next
}

// event counts one audit line.
func (m *Metrics) event(e *store.Event) {
	switch e.Kind {
	case store.EventTransition:
		m.clientFailure(e)
		m.transition(e)
	case store.EventNote:
		m.clientFailure(e)
	case store.EventUpstream:
		m.upstreamTime.WithLabelValues(known(operations, e.Invoke), statusClass(e.Status)).Observe(e.Duration.Seconds())
	case store.EventAnswer:
		invoke := known(invokes, e.Invoke)
		m.answers.WithLabelValues(invoke, status(e.Status)).Inc()
		m.answerTime.WithLabelValues(invoke).Observe(e.Duration.Seconds())
		if how := repeats[e.Row]; how != "" {
			m.duplicates.WithLabelValues(how).Inc()
		}
	case store.EventCallback:
		m.callbacks.WithLabelValues(outcome(e.Detail)).Inc()
	case store.EventReceived, store.EventOperator, store.EventSecurity:
	}
}

func (m *Metrics) transition(e *store.Event) {
	if e.From == e.To {
		return // a change in place is no transition
	}
	m.transitions.WithLabelValues(state(e.From), state(e.To)).Inc()
	if e.To == store.Failed {
		reason, _, _ := strings.Cut(e.Detail, ":")
		m.failed.WithLabelValues(known(reasons, reason)).Inc()
	}
}

// clientFailure counts the audit line of a signin/failure invoke, whatever its
// row. The lines that the same invoke leaves on other attempts (D3) have no
// source, so they are not counted.
func (m *Metrics) clientFailure(e *store.Event) {
	if e.Source == store.SourceClient && strings.EqualFold(e.Invoke, machine.InvokeFailure) {
		m.clientFailures.WithLabelValues(known(failureCodes, e.Code)).Inc()
	}
}

// state returns the label of a state. An attempt that is not stored yet is "new".
func state(s store.State) string {
	switch {
	case s == store.None:
		return "new"
	case s.Valid():
		return string(s)
	default:
		return other
	}
}

// status returns an HTTP status as a label.
func status(code int) string {
	if code < 100 || code > 599 {
		return other
	}
	return strconv.Itoa(code)
}

// statusClass returns "2xx" to "5xx", or "none" without an answer.
func statusClass(code int) string {
	if code < 200 || code > 599 {
		return "none"
	}
	return strconv.Itoa(code/100) + "xx"
}

// outcome returns how one try of a callback ended. The detail of its audit line
// begins with the status of the delivery; an error, if there was one, follows.
func outcome(detail string) string {
	word, _, hasError := strings.Cut(detail, ":")
	switch s := store.DeliveryStatus(word); {
	case s == store.DeliveryUndeliverable, s == store.DeliveryDead:
		return word
	case s == store.DeliveryDone && !hasError:
		return word
	default:
		return failed
	}
}
