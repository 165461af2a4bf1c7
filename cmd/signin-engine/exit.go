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
	// errStuck: inspect --check found a rule of level error.
	errStuck = errors.New("stuck attempts")
	// errRefused: an action without --yes or --reason.
	errRefused = errors.New("refused")
	// errIncomplete: a scripted sign-in of dev did not complete.
	errIncomplete = errors.New("a sign-in did not complete")
	// errNoStore: there is no store where one was looked for.
	errNoStore = errors.New("no store")
	// errNotReady: healthcheck asked, and the bot would take no activity.
	errNotReady = errors.New("the bot is not ready")
	// errUnhealthy: doctor found something that fails.
	errUnhealthy = errors.New("unhealthy")
)

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }
func (e usageError) Unwrap() error      { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitCode is the one table from errors to exit codes: the first match counts.
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

// report prints an error, a line per problem.
func report(w io.Writer, err error) {
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	for line := range strings.SplitSeq(joinLines(err.Error()), "\n") {
		fmt.Fprintln(w, "signin-engine:", safe(line)) //nolint:errcheck // nowhere left to tell it
	}
}

// joinLines brings back into one line what a database's driver says of each
// address that it tried.
func joinLines(text string) string {
	return strings.NewReplacer(":\n\t", ": ", "\n\t", "; ").Replace(text)
}

// notFound is an error with exit code 3.
func notFound(format string, a ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, a...), store.ErrNotFound)
}
