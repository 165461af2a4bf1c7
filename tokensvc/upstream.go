package tokensvc

import "time"

// HTTPStatus returns Status.
func (e *Error) HTTPStatus() int { return e.Status }

// ErrorCode returns Code.
func (e *Error) ErrorCode() string { return e.Code }

// Operation returns Op.
func (e *Error) Operation() string { return e.Op }

// RetryDelay returns RetryAfter.
func (e *Error) RetryDelay() time.Duration { return e.RetryAfter }

// CredentialsFailure finds the failed fetch of the bot's own token that caused err: an
// [*Error] whose Op is [OpAccessToken], anywhere in the chain. It tells a fault of the
// bot's own credentials, which no user can repair, from other refusals.
func CredentialsFailure(err error) (*Error, bool) {
	for err != nil {
		if e, ok := err.(*Error); ok && e.Op == OpAccessToken { //nolint:errorlint // walks the chain itself
			return e, true
		}
		switch wrapped := err.(type) { //nolint:errorlint // walks the chain itself
		case interface{ Unwrap() error }:
			err = wrapped.Unwrap()
		case interface{ Unwrap() []error }:
			for _, inner := range wrapped.Unwrap() {
				if e, ok := CredentialsFailure(inner); ok {
					return e, true
				}
			}
			return nil, false
		default:
			return nil, false
		}
	}
	return nil, false
}
