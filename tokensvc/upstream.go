package tokensvc

import (
	"errors"
	"time"
)

// HTTPStatus returns Status.
func (e *Error) HTTPStatus() int { return e.Status }

// ErrorCode returns Code.
func (e *Error) ErrorCode() string { return e.Code }

// Operation returns Op.
func (e *Error) Operation() string { return e.Op }

// RetryDelay returns RetryAfter.
func (e *Error) RetryDelay() time.Duration { return e.RetryAfter }

// CredentialsFailure finds the failed fetch of the bot's own token in an error
// of a call that needed one. It is no fault of the call, and no user can repair
// it.
func CredentialsFailure(err error) (*Error, bool) {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return nil, false
		}
		if e.Op == OpAccessToken {
			return e, true
		}
		err = e.Err
	}
	return nil, false
}
