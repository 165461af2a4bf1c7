package operator

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Errors of this package, for errors.Is. The errors of packages store and machine
// are passed on too; [Client] returns the same errors as [Direct].
var (
	// ErrBadRequest means that a parameter or the body cannot be read.
	ErrBadRequest = errors.New("bad request")
	// ErrAmbiguous means that the ids of several attempts begin with the prefix.
	ErrAmbiguous = errors.New("ambiguous id prefix")
	// ErrUnauthorized means that the bearer token is missing or wrong.
	ErrUnauthorized = errors.New("operator token missing or wrong")
	// ErrTooManyTries means that too many wrong tokens came lately. For now no
	// token of this caller is compared.
	ErrTooManyTries = errors.New("too many wrong operator tokens")
	// ErrForbidden means that the token may only read, or that the request comes
	// from another site.
	ErrForbidden = errors.New("not allowed")
	// ErrUnsupported means that this process or store backend does not offer it.
	ErrUnsupported = errors.New("not supported here")
	// ErrUnreachable means that the operator endpoint gives no usable answer.
	ErrUnreachable = errors.New("operator endpoint unreachable")

	errUnknownParameter = errors.New("unknown parameter")
	errNoPage           = fmt.Errorf("%w: nothing is served at this address", store.ErrNotFound)
	errInternal         = errors.New("internal error")
)

// problems maps errors to the codes and statuses of the API, in both directions.
// The first match counts.
var problems = [...]struct {
	err    error
	code   string
	status int
}{
	{ErrBadRequest, "bad_request", http.StatusBadRequest},
	{ErrUnauthorized, "unauthorized", http.StatusUnauthorized},
	{ErrTooManyTries, "too_many_tries", http.StatusTooManyRequests},
	{ErrForbidden, "forbidden", http.StatusForbidden},
	{ErrAmbiguous, "ambiguous", http.StatusConflict},
	{machine.ErrTerminal, "terminal", http.StatusConflict},
	{machine.ErrLeaseHeld, "lease_held", http.StatusConflict},
	{machine.ErrKeysElsewhere, "keys_elsewhere", http.StatusConflict},
	{store.ErrConflict, "conflict", http.StatusConflict},
	{store.ErrNotFound, "not_found", http.StatusNotFound},
	{ErrUnsupported, "unsupported", http.StatusNotImplemented},
	{store.ErrSchema, "schema", http.StatusServiceUnavailable},
	{store.ErrLocked, "locked", http.StatusServiceUnavailable},
	{store.ErrCorrupt, "corrupt", http.StatusInternalServerError},
	{store.ErrUnavailable, "unavailable", http.StatusServiceUnavailable},
	{errInternal, "internal", http.StatusInternalServerError},
}

// problem is the JSON body of every error response.
type problem struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// describe returns the status and the body for err. An error that the table does
// not have becomes "internal" without its text, which might contain anything.
func describe(err error) (int, problem) {
	var p problem
	for _, e := range problems {
		if errors.Is(err, e.err) {
			p.Error.Code, p.Error.Message = e.code, err.Error()
			return e.status, p
		}
	}
	p.Error.Code, p.Error.Message = "internal", errInternal.Error()
	return http.StatusInternalServerError, p
}

// remoteError is an error that the server returned. It has the server's text and
// unwraps to the local error with the same code.
type remoteError struct {
	message string
	cause   error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.cause }

// asError turns an error response back into an error.
func (p problem) asError(status int) error {
	for _, e := range problems {
		if e.code == p.Error.Code {
			return &remoteError{message: p.Error.Message, cause: e.err}
		}
	}
	return fmt.Errorf("operator endpoint answered %d", status)
}
