package teams

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ConnectorError says that a message was not accepted, or that this is not known. It
// has neither body nor URL. If the bot's bearer token is missing, Err is the error of
// its source, a *tokensvc.Error if Entra refused it.
type ConnectorError struct {
	Op         string        // Send, Update, CreateConversation
	Status     int           // HTTP status; 0: no answer, or never sent
	Code       string        // that the body or the transport's error gives, "" if none
	RetryAfter time.Duration // of 429 and 503, or of the transport's error; 0 if absent
	Err        error         // the cause when there was no usable answer

	refused int // never sent: the status that stands for that
}

// unsent makes the error of a message that never left the process. It is as
// definite as a refusal.
func unsent(op string, status int, err error) *ConnectorError {
	return &ConnectorError{Op: op, Err: err, refused: status}
}

// noAnswer makes the error of a request to which the transport returned an error.
// If that error has a code and says that the request was not sent, as that of an
// open circuit breaker does, the result says so, too.
func noAnswer(op string, err error) *ConnectorError {
	var own interface {
		error
		ErrorCode() string
		RetryDelay() time.Duration
		NotSent() bool
	}
	if errors.As(err, &own) && own.NotSent() {
		e := unsent(op, http.StatusServiceUnavailable, withoutURL(err))
		e.Code, e.RetryAfter = own.ErrorCode(), own.RetryDelay()
		return e
	}
	return &ConnectorError{Op: op, Err: withoutURL(err)}
}

// Error names operation, status and code.
func (e *ConnectorError) Error() string {
	switch {
	case e.refused != 0:
		return fmt.Sprintf("connector: %s: not sent: %v", e.Op, e.Err)
	case e.Status == 0:
		return fmt.Sprintf("connector: %s: no answer: %v", e.Op, e.Err)
	case e.Err != nil:
		return fmt.Sprintf("connector: %s: status %d: %v", e.Op, e.Status, e.Err)
	case e.Code != "":
		return fmt.Sprintf("connector: %s: status %d, code %s", e.Op, e.Status, e.Code)
	default:
		return fmt.Sprintf("connector: %s: status %d", e.Op, e.Status)
	}
}

// Unwrap returns the cause.
func (e *ConnectorError) Unwrap() error { return e.Err }

// HTTPStatus returns Status. For a message that was certainly not sent it returns 403
// if the service URL is not allowed ([ErrServiceURL]), 401 if the bearer token is
// missing, 400 if the message or the address is invalid, and 503 if the connector's
// circuit breaker is open.
func (e *ConnectorError) HTTPStatus() int {
	if e.refused != 0 {
		return e.refused
	}
	return e.Status
}

// NotSent reports whether the message certainly was not sent.
func (e *ConnectorError) NotSent() bool { return e.refused != 0 }

// ErrorCode returns Code.
func (e *ConnectorError) ErrorCode() string { return e.Code }

// Operation returns Op.
func (e *ConnectorError) Operation() string { return e.Op }

// RetryDelay returns RetryAfter.
func (e *ConnectorError) RetryDelay() time.Duration { return e.RetryAfter }
