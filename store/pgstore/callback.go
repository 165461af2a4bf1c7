//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// AckIn is [Store.AckInTx] for a caller that does not import pgx: fn gets the pgx.Tx as
// any. It makes the store a machine.Transactor.
func (s *Store) AckIn(ctx context.Context, row store.Delivery, fn func(ctx context.Context, tx any) error) error {
	return s.AckInTx(ctx, row, func(ctx context.Context, tx pgx.Tx) error { return fn(ctx, tx) })
}

// AckInTx acknowledges a callback in a transaction that fn writes to. fn's writes and
// the acknowledgement commit together or not at all, which makes a callback effectively
// once (docs/state-machine.md §6). row is the delivery as it was claimed or written.
//
// fn runs first; then the row is compared and changed. While fn runs, the transaction
// holds no lock that another call of the store waits for, so fn may sign the user out,
// and so may others. If the row has been claimed, acknowledged or dropped by then, the
// transaction is rolled back and the error is [store.ErrConflict]. If that happened
// before fn began, fn is not called.
//
// tx is on a connection of a separate pool ([WithHandlerConns]). Its session has the
// settings of the database and the address, and none of the store's: neither its search
// path nor its timeouts, isolation level or plans. ctx bounds it. fn must not end tx.
// An error of fn rolls everything back and is wrapped in the returned error.
func (s *Store) AckInTx(ctx context.Context, row store.Delivery, fn func(ctx context.Context, tx pgx.Tx) error) error {
	const op = "acknowledge"
	if err := validate(&store.Commit{Deliveries: []store.Delivery{row}}); err != nil {
		return classify(ctx, op, err)
	}
	if s.opts.readOnly {
		return classify(ctx, op, store.ErrReadOnly)
	}
	at, err := s.heldIn(ctx, &row)
	if err != nil {
		return err
	}
	conn, err := s.handlerConn(ctx)
	if err != nil {
		return classify(ctx, op, err)
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return classify(ctx, op, err)
	}
	defer undo(ctx, tx) // does nothing after the commit
	if err := fn(ctx, tx); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	err = s.acknowledge(ctx, tx, at, &row)
	if sqlState(err) == codeSerialization {
		// At a stricter isolation level the server refuses to change a row that another
		// transaction has changed. Was it this row?
		undo(ctx, tx)
		if _, lost := s.heldIn(ctx, &row); lost != nil {
			return lost
		}
	}
	return classify(ctx, op, err)
}

// heldIn returns the row's home. The error is [store.ErrConflict] unless the row is
// pending, with the owner and the try that the caller knows.
func (s *Store) heldIn(ctx context.Context, row *store.Delivery) (at int64, err error) {
	err = s.use(ctx, "acknowledge", func(ctx context.Context, conn *pgxpool.Conn) error {
		var (
			status store.DeliveryStatus
			owner  string
			tries  int
		)
		err := conn.QueryRow(ctx, `select home, status, owner, tries from deliveries where attempt = $1 and kind = $2 and round = $3`,
			row.Attempt, row.Kind, row.Round).Scan(&at, &status, &owner, &tries)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && (status != store.DeliveryPending || owner != clean(row.Owner) || tries != row.Tries) {
			return notHeld(row.DeliveryKey)
		}
		return err
	})
	return at, err
}

// acknowledge changes the row, if it is as it was read, and commits.
func (s *Store) acknowledge(ctx context.Context, tx pgx.Tx, at int64, row *store.Delivery) error {
	// The session has no settings of the store: names are qualified, and no statement is
	// prepared in it.
	tag, err := tx.Exec(ctx, `update `+pgx.Identifier{s.opts.schema, "deliveries"}.Sanitize()+`
		set status = 'delivered', error = ''
		where home = $1 and attempt = $2 and kind = $3 and round = $4 and status = 'pending' and owner = $5 and tries = $6`,
		pgx.QueryExecModeExec, at, row.Attempt, string(row.Kind), row.Round, clean(row.Owner), row.Tries)
	switch {
	case err != nil:
		return fmt.Errorf("delivery %s: %w", row.DeliveryKey, err)
	case tag.RowsAffected() == 0:
		return notHeld(row.DeliveryKey)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// handlerConn takes a connection for a handler's transaction. The first call makes the
// pool.
func (s *Store) handlerConn(ctx context.Context) (*pgxpool.Conn, error) {
	pool, err := s.handlerPool() //nolint:contextcheck // it outlives the caller
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, s.opts.acquire)
	defer cancel()
	conn, err := pool.Acquire(wait)
	if err != nil {
		return nil, fmt.Errorf("acquire a connection for the handler: %w", err)
	}
	return conn, nil
}

func (s *Store) handlerPool() (*pgxpool.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, fmt.Errorf("closed: %w", store.ErrUnavailable)
	case s.handlers != nil:
		return s.handlers, nil
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), s.opts.handlers)
	if err != nil {
		return nil, fmt.Errorf("pool for handlers: %w", err)
	}
	s.handlers = pool
	return pool, nil
}
