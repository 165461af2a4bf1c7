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

// AckIn is [Store.AckInTx] for a caller that knows no pgx: fn gets the pgx.Tx
// as any. It makes the store a machine.Transactor.
func (s *Store) AckIn(ctx context.Context, row store.Delivery, fn func(ctx context.Context, tx any) error) error {
	return s.AckInTx(ctx, row, func(ctx context.Context, tx pgx.Tx) error { return fn(ctx, tx) })
}

// AckInTx acknowledges a callback in a transaction that fn writes to: its writes
// and the acknowledgement are there together or not at all, which makes a
// callback effectively once (docs/state-machine.md §6). row is the delivery as it was
// claimed or written.
//
// fn runs first, and the row is compared and changed when it is over: while fn
// runs, the transaction holds nothing that another call of the store waits for,
// so fn may sign the user out, and so may others. If the row has been claimed,
// acknowledged or dropped by then, everything is undone and the error is
// [store.ErrConflict]. If it was before fn began, fn is not called.
//
// tx is on a connection of its own pool ([WithHandlerConns]), with the settings
// that the database and the address give to a session and none of the store's:
// not its search path, its timeouts, its isolation nor its plans. ctx bounds it.
// fn must not end tx. An error of fn is returned as it is, and undoes everything.
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
	defer undo(ctx, tx) // nothing, once it is committed
	if err := fn(ctx, tx); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	err = s.acknowledge(ctx, tx, at, &row)
	if sqlState(err) == codeSerialization {
		// Where transactions see one snapshot the server refuses to change a row
		// that another has changed. Was it ours?
		undo(ctx, tx)
		if _, lost := s.heldIn(ctx, &row); lost != nil {
			return lost
		}
	}
	return classify(ctx, op, err)
}

// heldIn returns where the row is, its home. It is [store.ErrConflict] unless the row is
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

// acknowledge changes the row, if it is still as it was read, and commits.
func (s *Store) acknowledge(ctx context.Context, tx pgx.Tx, at int64, row *store.Delivery) error {
	// The session is the database's own: names are qualified, and no statement is
	// kept in it.
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

// handlerConn takes a connection for a handler's transaction. The first call
// makes the pool.
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
