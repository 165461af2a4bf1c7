//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// moveWakeSQL moves wake up to due where it has fallen behind; see the migration.
const moveWakeSQL = `
update attempts a set wake = a.due
from (select home, id from attempts
  where wake <= now() and due > now()
  for update skip locked) late
where a.home = late.home and a.id = late.id`

var dueSQL = `
with late as (
  select home, id, due from attempts
  where wake <= now() and due <= now()
  order by due, id
  limit @limit
  for update skip locked
), held as (
  update attempts a set due = now() + @hold, wake = now() + @hold
  from late
  where a.home = late.home and a.id = late.id
  returning late.due as was, ` + names("a.", attemptColumns) + `
)
select ` + names("", attemptColumns) + ` from held order by was, id`

// Due takes attempts whose time has come; see [store.Store]. Several instances may call
// it at once: none waits for rows that another has locked.
func (s *Store) Due(ctx context.Context, limit int, hold time.Duration) (store.Snapshot, error) {
	var snap store.Snapshot
	err := s.use(ctx, "due", func(ctx context.Context, conn *pgxpool.Conn) error {
		snap = store.Snapshot{}
		b := clocked(&snap.Now)
		b.Queue(moveWakeSQL)
		b.Queue(dueSQL, pgx.NamedArgs{"limit": max(limit, 0), "hold": hold}).Query(func(rows pgx.Rows) error {
			return read(rows, nil, attemptColumns, func(r *attemptRow) error {
				if a, err := r.attempt(); err != nil {
					snap.Corrupt = append(snap.Corrupt, store.Corrupt{ID: r.ID, Err: err})
				} else {
					snap.Attempts = append(snap.Attempts, a)
				}
				return nil
			})
		})
		return send(ctx, conn, b)
	})
	if err != nil {
		return store.Snapshot{}, err
	}
	return snap, nil
}

// claimSQL takes deliveries of any attempt, claimOfSQL those of one attempt. @over are
// the keys of deliveries to skip.
var (
	claimSQL   = claimStatement(`d.status = 'pending'`)
	claimOfSQL = claimStatement(`d.attempt = @attempt and ` + pendingSQL)
)

func claimStatement(which string) string {
	return `
with ready as (
  select d.home, d.attempt, d.kind, d.round, d.next_at from deliveries d
  where ` + which + ` and d.next_at <= now()
    and d.attempt || '/' || d.kind || '/' || d.round <> all (@over::text[])
    and (select o.round from deliveries o
      where o.home = d.home and o.attempt = d.attempt and o.round < d.round and o.status || '' = 'pending'
        and o.attempt || '/' || o.kind || '/' || o.round <> all (@over::text[]) limit 1) is null
  order by d.next_at, d.attempt, d.kind, d.round
  limit @limit
  for update skip locked
), taken as (
  update deliveries d set owner = @owner, tries = d.tries + 1, next_at = now() + @hold
  from ready
  where d.home = ready.home and d.attempt = ready.attempt and d.kind = ready.kind and d.round = ready.round
  returning ready.next_at as was, ` + names("d.", deliveryColumns) + `
)
select ` + names("", deliveryColumns) + ` from taken order by was, attempt, kind, round`
}

// untrySQL takes back the try of rows that could not be decoded. They stay held, so
// that the next call does not find only them.
const untrySQL = `
update deliveries d set owner = '', tries = d.tries - 1
where d.attempt = any (@ids::text[]) and d.owner = @owner and d.attempt || '/' || d.kind || '/' || d.round = any (@keys::text[])`

// claimPasses bounds how often one call of Claim looks for rows that can be decoded.
// The next call continues from there.
const claimPasses = 100

// Claim takes deliveries whose time has come; see [store.Store]. A row that cannot be
// decoded does not block those behind it: Claim looks again, without that row.
func (s *Store) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	var out []store.Delivery
	over := []string{} // keys to skip
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

// claim returns the rows that it took. bad are the keys of those that cannot be
// decoded.
func (s *Store) claim(ctx context.Context, q store.ClaimQuery, over []string) (good []store.Delivery, bad []string, err error) {
	sql, args := claimSQL, pgx.NamedArgs{"limit": max(q.Limit, 0), "owner": clean(q.Owner), "hold": q.Hold, "over": over}
	if q.Attempt != "" {
		sql = claimOfSQL
		args["attempt"] = clean(q.Attempt)
	}
	err = s.use(ctx, "claim", func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, sql, args)
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
		_, err = conn.Exec(ctx, untrySQL, pgx.NamedArgs{"ids": ids, "owner": clean(q.Owner), "keys": bad})
		return err
	})
	for i := range good {
		good[i].Owner = q.Owner
	}
	return good, bad, err
}
