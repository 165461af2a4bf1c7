//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// moveWakeSQL brings wake up to due where it fell behind: see the migration.
const moveWakeSQL = `
update attempts a set wake = a.due
from (select user_hash, id from attempts
  where wake <= now() and due > now()
  for update skip locked) late
where a.user_hash = late.user_hash and a.id = late.id`

const dueSQL = `
with late as (
  select user_hash, id, due from attempts
  where wake <= now() and due <= now()
  order by due, id
  limit $1
  for update skip locked
), held as (
  update attempts a set due = now() + $2, wake = now() + $2
  from late
  where a.user_hash = late.user_hash and a.id = late.id
  returning late.due, a.id, a.record
)
select now(), held.id, held.record from (select) one left join held on true
order by held.due, held.id`

// Due takes attempts whose time has come; see [store.Store]. Several instances
// share them: none waits for the rows of another.
func (s *Store) Due(ctx context.Context, limit int, hold time.Duration) (store.Snapshot, error) {
	var snap store.Snapshot
	err := s.use(ctx, "due", func(ctx context.Context, conn *pgxpool.Conn) error {
		snap = store.Snapshot{}
		var b pgx.Batch
		b.Queue(moveWakeSQL)
		b.Queue(dueSQL, max(limit, 0), hold).Query(func(rows pgx.Rows) error {
			var (
				id     *string
				record []byte
			)
			_, err := pgx.ForEachRow(rows, []any{&snap.Now, &id, &record}, func() error {
				if id == nil {
					return nil
				}
				if a, err := store.DecodeAttempt(record); err != nil {
					snap.Corrupt = append(snap.Corrupt, store.Corrupt{ID: *id, Err: err})
				} else {
					snap.Attempts = append(snap.Attempts, a)
				}
				return nil
			})
			return err
		})
		err := conn.SendBatch(ctx, &b).Close()
		snap.Now = store.Time(snap.Now)
		return err
	})
	if err != nil {
		return store.Snapshot{}, err
	}
	return snap, nil
}

// claimSQL takes deliveries of any attempt, claimOfSQL those of one. The last
// argument are the keys of those to pass over, as texts.
//
// The rows of one attempt are few, and stand together in the primary key. While
// the table is small the planner would rather read all that is pending, and keep
// to that when it has grown: a status that it cannot see through spares it the
// choice.
const (
	claimSQL = `
with ready as (
  select d.home, d.attempt, d.kind, d.round, d.next_at from deliveries d
  where d.status = 'pending' and d.next_at <= now()` + claimRest

	claimOfSQL = `
with ready as (
  select d.home, d.attempt, d.kind, d.round, d.next_at from deliveries d
  where d.home = (select a.home from attempts a where a.id = $5 limit 1) and d.attempt = $5
    and d.status || '' = 'pending' and d.next_at <= now()` + claimRest

	claimRest = `
    and d.attempt || '/' || d.kind || '/' || d.round <> all ($4::text[])
    and (select o.round from deliveries o
      where o.home = d.home and o.attempt = d.attempt and o.round < d.round and o.status || '' = 'pending'
        and o.attempt || '/' || o.kind || '/' || o.round <> all ($4::text[]) limit 1) is null
  order by d.next_at, d.attempt, d.kind, d.round
  limit $1
  for update skip locked
), taken as (
  update deliveries d set owner = $2, tries = d.tries + 1, next_at = now() + $3
  from ready
  where d.home = ready.home and d.attempt = ready.attempt and d.kind = ready.kind and d.round = ready.round
  returning d.*, ready.next_at as was
)
select ` + deliveryColumns + ` from taken d order by d.was, d.attempt, d.kind, d.round`

	// untrySQL takes the try back from rows that nobody could be told of. They
	// stay held, lest they are all that is ever found.
	untrySQL = `
update deliveries d set owner = '', tries = d.tries - 1
from attempts a
where a.id = any ($1) and d.home = a.home and d.attempt = a.id and d.owner = $2
  and d.attempt || '/' || d.kind || '/' || d.round = any ($3::text[])`
)

// claimPasses bounds how often one call of Claim looks for rows that can be
// decoded; the next call goes on from there.
const claimPasses = 100

// Claim takes deliveries whose time has come; see [store.Store]. A row that
// cannot be decoded keeps none behind it: they are looked for once more, without
// it.
func (s *Store) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	var out []store.Delivery
	over := []string{} // keys to pass over
	for range claimPasses {
		good, bad, err := s.claim(ctx, q, over)
		if err != nil {
			return nil, err
		}
		out, q.Limit = append(out, good...), q.Limit-len(good)
		if len(bad) == 0 || q.Limit <= 0 {
			break
		}
		over = append(over, bad...)
	}
	return out, nil
}

// claim returns the rows that it took; bad are the keys of those that cannot be
// decoded.
func (s *Store) claim(ctx context.Context, q store.ClaimQuery, over []string) (good []store.Delivery, bad []string, err error) {
	sql, args := claimSQL, []any{max(q.Limit, 0), clean(q.Owner), q.Hold, over}
	if q.Attempt != "" {
		sql, args = claimOfSQL, append(args, clean(q.Attempt))
	}
	err = s.use(ctx, "claim", func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		var corrupt []corruptDelivery
		good, corrupt, err = readDeliveries(rows)
		if err != nil || len(corrupt) == 0 {
			return err
		}
		var ids []string
		bad = nil
		for _, c := range corrupt {
			ids, bad = append(ids, c.key.Attempt), append(bad, c.key.String())
		}
		_, err = conn.Exec(ctx, untrySQL, ids, clean(q.Owner), bad)
		return err
	})
	for i := range good {
		good[i].Owner = q.Owner
	}
	return good, bad, err
}
