package machine

import (
	"net/http"
	"time"
)

// Answer is the answer to an invoke: the HTTP status is the invoke status and the body
// is the invoke body.
type Answer struct {
	Status     int
	Body       any           // marshalled as JSON; nil = no body
	RetryAfter time.Duration // > 0: a Retry-After header, in whole seconds
}

// ExchangeResponse is the body of a refused signin/tokenExchange, and of an
// accepted one with success_body echo [S 004 §17].
type ExchangeResponse struct {
	ID             string `json:"id,omitempty"`
	ConnectionName string `json:"connectionName,omitempty"`
	FailureDetail  string `json:"failureDetail,omitempty"`
}

// statusOr412 is an upstream's status as the answer to an invoke. No answer counts
// as a refusal, 412 (B3, C8).
func statusOr412(status int) int {
	if status == 0 {
		return http.StatusPreconditionFailed
	}
	return status
}

// unavailable is the answer while the store is down. Teams then sends again (S).
func unavailable() Answer {
	return Answer{Status: http.StatusServiceUnavailable, RetryAfter: time.Second}
}
