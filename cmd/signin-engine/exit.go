package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// The exit codes (docs/operations.md).
const (
	exitDone       = 0
	exitUnexpected = 1
	exitUsage      = 2
	exitNotFound   = 3
	exitStore      = 4
	exitStuck      = 5
	exitLostRace   = 6
	exitRefused    = 7
	exitAmbiguous  = 8
)

var (
	errUsage = errors.New("usage")
	// errStuck means that inspect --check found a stuck attempt of level error.
	errStuck = errors.New("stuck attempts")
	// errRefused means that an action lacked --yes or --reason.
	errRefused = errors.New("refused")
	// errIncomplete means that a scripted sign-in of dev did not complete.
	errIncomplete = errors.New("a sign-in did not complete")
	// errNoStore means that no store exists where the settings name one.
	errNoStore = errors.New("no store")
	// errNotReady means that healthcheck found a bot which takes no activities.
	errNotReady = errors.New("the bot is not ready")
	// errUnhealthy means that a check of doctor failed.
	errUnhealthy = errors.New("unhealthy")
)

// usageError is an error in the command line.
type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }
func (e usageError) Unwrap() error      { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitCode is the only table from errors to exit codes. The first match counts.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	var settings config.Errors
	if errors.As(err, &settings) {
		return exitUsage
	}
	for _, e := range []struct {
		err  error
		code int
	}{
		{errUsage, exitUsage},
		{operator.ErrBadRequest, exitUsage},
		{errStuck, exitStuck},
		{errRefused, exitRefused},
		{machine.ErrTerminal, exitRefused},
		{machine.ErrKeysElsewhere, exitRefused},
		{machine.ErrLeaseHeld, exitLostRace},
		{store.ErrConflict, exitLostRace},
		{operator.ErrAmbiguous, exitAmbiguous},
		{store.ErrNotFound, exitNotFound},
		{store.ErrLocked, exitStore},
		{store.ErrSchema, exitStore},
		{store.ErrUnavailable, exitStore},
		{store.ErrCorrupt, exitStore},
		{operator.ErrUnreachable, exitStore},
		{operator.ErrUnauthorized, exitStore},
		{operator.ErrTooManyTries, exitStore},
		{operator.ErrInUse, exitStore},
		{errNoStore, exitStore},
		{errNotReady, exitStore},
		{fs.ErrPermission, exitStore},
	} {
		if errors.Is(err, e.err) {
			return e.code
		}
	}
	return exitUnexpected
}

// report prints an error, one line for each problem.
func report(w io.Writer, err error) {
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	for line := range strings.SplitSeq(joinLines(err.Error()), "\n") {
		fmt.Fprintln(w, "signin-engine:", safe(line)) //nolint:errcheck // nowhere left to tell it
	}
}

// joinLines puts into one line what a database driver reports for each address
// that it tried.
func joinLines(text string) string {
	return strings.NewReplacer(":\n\t", ": ", "\n\t", "; ").Replace(text)
}

// notFound makes an error with exit code 3. Its text says by itself that there is
// nothing.
func notFound(format string, a ...any) error { return notFoundError(fmt.Sprintf(format, a...)) }

type notFoundError string

func (e notFoundError) Error() string { return string(e) }

func (notFoundError) Unwrap() error { return store.ErrNotFound }
