// Package pgstore keeps the sign-in engine's records in a Postgres schema. It is the
// store for a bot that runs as several processes. It needs Postgres 14 or later.
//
// The address may have the parameter schema (default signin), besides those of
// Postgres itself. Several stores, of one bot or of many, may share a database, each
// in its own schema. A pooler may stand in between, in session or in transaction
// mode. Then each transaction brings its own settings, no statement is named, and
// the store relies on nothing in a session ([WithListenAddress]).
//
// # Writing
//
// [Store.Apply] writes all commits that touch one attempt each with one statement
// over arrays, in one transaction and one round trip, at READ COMMITTED. A wrong
// version, key or id raises no error in it: that commit writes nothing and returns
// what was found, and the other commits succeed. Acknowledgements are a second
// statement. A commit of several attempts, or with marks, has a transaction of its
// own, in its place in the order. If a value, or the taken key of a new delivery,
// makes the statement fail, its commits are tried one by one. Serialization failures
// and deadlocks are retried, and so are commits that lost a race between reading and
// writing. Wrap the store in a [store.Group], so that concurrent commits share a
// statement.
//
// # Reading
//
// Calls of [Store.Find] that arrive while one is in flight gather, and then go as one
// query over arrays, on one connection. Each has its own answer and its own context:
// if the caller that sends the query is cancelled, the others ask again.
//
// Every statement goes through pgx, so that a tracer set by [WithPoolConfig] sees
// all of them. Postgres cannot store NUL and invalid UTF-8 in text: both are stored,
// and searched for, as U+FFFD.
//
// # Tables
//
//	attempts      one row for each attempt: columns for what people and the
//	              program look for, jsonb for the rest
//	events        the audit trail, one row for each line, partitioned by week
//	deliveries    the outbox
//	exchange_ids  the attempt of an exchange id
//	marks         names that are remembered, with their values
//	meta          the store's random keys
//
// Each column has a comment. The views signin_attempts_v1, signin_events_v1 and
// signin_deliveries_v1 are for others to build on; the tables may change.
//
// Updates of an attempt touch no index between its insertion and its end: what changes
// meanwhile is not indexed. The exception is wake, the sweeper's lower bound of the due
// time. An update changes it only if it would no longer be one, and [Store.Due] moves it
// forward when it has fallen behind. What people filter by is indexed when the attempt
// ends. Each of these indexes ends with the id, which begins with its time, so that the
// cost of a page depends only on what it shows.
//
// # Distribution
//
// All rows of a user have the same home, a hash of app, channel and user that never
// changes. Every unique constraint contains it, and every statement of a sign-in
// names it. So attempts, deliveries and exchange_ids can be partitioned by hash of
// home, or distributed by it together with the audit trail, and each row is looked
// for in one partition. An exchange id is looked for among the user's own first, and
// only then everywhere. Marks are independent and may be distributed by their hash.
// On one server this gains nothing, so the migrations do not do it.
//
// These ask every partition: the sweeper, the claim of callbacks, operators' reads,
// and whatever has only an attempt's id, which is [Store.Get], [Store.Changed], the
// acknowledgement of a handler's transaction, and commits without
// [store.Commit].User. By id that is one lookup in the primary key of each partition,
// two or three blocks. A sign-in needs it only when somebody waits for its end or
// acknowledges in a transaction. The uniqueness of an id is checked per user.
//
// Some engines speak Postgres' protocol but are not one server. By their own
// documentation they lack the following; none was tried:
//
//   - Citus runs statements that go to one shard. Across shards it refuses SELECT …
//     FOR UPDATE; anywhere, subqueries within INSERT and volatile functions in
//     UPDATE. So Due, Claim, Purge and groups of commits of several users do not
//     work; commits of one user at a time may. Each worker numbers its own
//     transactions, so [Store.Trail] cannot follow.
//     (https://docs.citusdata.com/en/stable/develop/reference_workarounds.html)
//   - CockroachDB refuses a statement that changes one table in several parts,
//     unless sql.multiple_modifications_of_table.enabled is set, which may damage
//     indexes. So it refuses every commit. It has no LISTEN (the store polls), no
//     partitions that are tables and can be attached and dropped, and only since
//     2026 the transaction-level advisory locks that migrations take.
//     (https://github.com/cockroachdb/cockroach/issues/70731, 51295, 168355)
//   - YugabyteDB has stored generated columns and advisory locks since version
//     2025.1, LISTEN since 2025.2.3 as early access (without it the store polls),
//     and READ COMMITTED if yb_enable_read_committed_isolation is set. It does not
//     say whether transaction ids are ordered across nodes, on which [Store.Trail]
//     relies.
//     (https://docs.yugabyte.com/stable/api/ysql/pg15-features/,
//     https://github.com/yugabyte/yugabyte-db/issues/3642)
//
// # Following the audit trail
//
// A transaction may commit long after others that began later. So the cursor of
// [Store.Trail] holds the server's snapshot, and the next read asks for what has
// become visible since. Writers share no counter.
//
// # Clock
//
// All times that are compared come from the server's clock: leases, holds, due times.
// Now is the start of the statement that read.
//
// # Waiting
//
// [Store.Changed] listens on one connection beside the pool, for all callers. A
// commit that settles an attempt (into CardSent, Complete or Failed) notifies after
// it is on the disk. Polling makes up for lost notifications.
//
// # Handlers
//
// [Store.AckInTx] gives a handler a transaction, for writes that commit together with
// the acknowledgement of its callback, or not at all. Its connection comes from a
// small pool beside the store's ([WithHandlerConns]) and has the database's own
// settings. It holds no lock of the store's while the handler runs. A slow handler
// keeps only other handlers waiting. If the delivery changes meanwhile, that change
// wins: the acknowledgement compares at the end, and an overtaken handler has
// written nothing.
//
// # Damage
//
// A record is set aside if its jsonb does not decode or its state is unknown, be it
// damaged or written by a newer program. Reads of many attempts name it and go on
// ([store.Corrupt]), its key stays taken, and a purge leaves it. Where its columns
// suffice (counts, drops), it is treated like any other. Unknown jsonb members are
// ignored. A delivery that does not decode is not handed out, does not block those
// behind it, and is looked at again after the hold; [Store.List] names its attempt.
//
// # Failure
//
// No call hangs: the wait for a connection and every statement have a timeout. To
// tell a dead connection from a slow server, the store asks the server on another
// connection. So the timeout can be as long as a disk may stall. An error that has no
// meaning of its own in package store is [store.ErrUnavailable] and wraps the
// server's error (a *pgconn.PgError, with its SQLSTATE). Broken connections are
// replaced, and so are those that turn out to be read-only, since the server may have
// become a standby. The store need not be reopened. [Store.Probe] reports whether a
// commit would work.
//
// In a session whose synchronous_commit is off the store sets it to on. Its
// transactions run at READ COMMITTED, whatever the session's default.
package pgstore
