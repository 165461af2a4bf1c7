package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signin-engine/signin-engine/store"
)

// SQLSTATEs with a meaning for the store; see the appendix "PostgreSQL Error Codes".
const (
	opApply = "apply" // the operation of commits in errors

	codeUniqueViolation = "23505"
	codeSerialization   = "40001"
	codeDeadlock        = "40P01"
	codeReadOnly        = "25006"
	codeLocked          = "55P03"

	classData       = "22" // a value that Postgres cannot keep
	classConstraint = "23"
	cardinality     = "21000" // one statement changes a row twice
)

// sqlState returns the server's code in err, "" if err is not from the server.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// again reports whether a retry may help: the server ended the transaction in favour of
// another one, which the next try will see, or nothing was sent.
func again(err error) bool {
	switch sqlState(err) {
	case codeSerialization, codeDeadlock:
		return true
	}
	return pgconn.SafeToRetry(err) || errors.Is(err, errPooled)
}

// poisoned reports whether the values of one commit made the statement fail, and not
// the state of the server. Without that commit the others would succeed.
func poisoned(err error) bool {
	code := sqlState(err)
	return strings.HasPrefix(code, classData) || strings.HasPrefix(code, classConstraint) || code == cardinality
}

// classify maps err to an error of package store. ctx is the caller's: if it is done,
// its error is returned. The cause is wrapped, with its SQLSTATE; pgx names host, user
// and database in it, never the password.
func classify(ctx context.Context, op string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("pgstore: %s: %w", op, ctx.Err())
	case isStoreError(err):
		return fmt.Errorf("pgstore: %s: %w", op, err)
	case sqlState(err) == codeUniqueViolation:
		return fmt.Errorf("pgstore: %s: %w: %w", op, store.ErrExists, err)
	case strings.HasPrefix(sqlState(err), classData):
		return fmt.Errorf("pgstore: %s: %w: %w", op, store.ErrInvalid, err)
	case errors.Is(err, context.DeadlineExceeded):
		// Our own deadline: it must not look like the caller's.
		return fmt.Errorf("pgstore: %s: %w: no answer in time", op, store.ErrUnavailable)
	default:
		return fmt.Errorf("pgstore: %s: %w: %w", op, store.ErrUnavailable, err)
	}
}

func isStoreError(err error) bool {
	for _, target := range []error{
		store.ErrNotFound, store.ErrExists, store.ErrConflict, store.ErrDuplicate,
		store.ErrInvalid, store.ErrCorrupt, store.ErrSchema, store.ErrUnavailable, store.ErrReadOnly,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
