package operator

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Errors of this package; those of the store and the machine pass through,
// also over the wire. Compared with errors.Is.
var (
	// ErrBadRequest: a parameter or body that cannot be read.
	ErrBadRequest = errors.New("bad request")
	// ErrAmbiguous: several attempts begin with this prefix.
	ErrAmbiguous = errors.New("ambiguous id prefix")
	// ErrUnauthorized: the bearer token is missing or wrong.
	ErrUnauthorized = errors.New("operator token missing or wrong")
	// ErrTooManyTries: so many wrong tokens came that no more are looked at for now.
	ErrTooManyTries = errors.New("too many wrong operator tokens")
	// ErrForbidden: the token only looks, or the request comes from another site.
	ErrForbidden = errors.New("not allowed")
	// ErrUnsupported: this process or backend does not offer it.
	ErrUnsupported = errors.New("not supported here")
	// ErrUnreachable: nobody answers at the operator endpoint.
	ErrUnreachable = errors.New("operator endpoint unreachable")

	errUnknownParameter = errors.New("unknown parameter")
	errNoPage           = fmt.Errorf("%w: nothing is served at this address", store.ErrNotFound)
	errInternal         = errors.New("internal error")
)

// problems is the one table between errors and what the API says: the first
// match counts.
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

// problem is the JSON body of every refusal.
type problem struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// describe finds status and body for err. An error that is in no table is
// told as internal and without its text: it may name anything.
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

// remoteError is a refusal that came over the wire: its text is the
// server's, and errors.Is sees what the server saw.
type remoteError struct {
	message string
	cause   error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.cause }

// asError turns a refusal back into an error.
func (p problem) asError(status int) error {
	for _, e := range problems {
		if e.code == p.Error.Code {
			return &remoteError{message: p.Error.Message, cause: e.err}
		}
	}
	return fmt.Errorf("operator endpoint answered %d", status)
}
