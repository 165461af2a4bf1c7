// Package pgstore keeps the sign-in engine's records in a Postgres schema: the
// store of a bot that runs as many processes. It needs Postgres 14 or later.
//
// The address has, beside what Postgres itself knows, the parameter schema
// (default signin). Several stores, of one bot or of many, may share a
// database, each in its schema. A pooler may stand in between, in session or in
// transaction mode: then each transaction brings its settings along, no statement
// has a name, and nothing of a session is relied on ([WithListenAddress]).
//
// # Writing
//
// A call of [Store.Apply] is one statement over arrays for all commits that
// touch one attempt each, in one transaction and one round trip, at READ
// COMMITTED. Nothing in it raises an error when a version, a key or an id does
// not fit: that commit writes nothing, comes back with what was found, and its
// neighbours pass. Acknowledgements are a statement beside it. Commits of several
// attempts, or with marks, have a transaction each, between those before and
// after them. When a value makes the statement fail, or the key of a new delivery
// that is taken, its commits are tried one by one. Serialization failures and
// deadlocks are tried again, and so is what was overtaken between reading and
// writing. Wrap the store in a [store.Group], so that concurrent commits go
// together.
//
// # Reading
//
// Calls of [Store.Find] that come while one is in flight gather, and then go as
// one query over arrays, on one connection. Each has its own answer, and its
// own context: whoever asks for the others may be called off, and then they ask
// again.
//
// Every statement goes through pgx with named arguments: a tracer that
// [WithPoolConfig] sets sees them all. Texts that Postgres cannot keep, with NUL
// or broken UTF-8, are kept and looked for with U+FFFD in their place.
//
// # Tables
//
//	attempts      one row for each attempt: a column for what people and the
//	              program look for, jsonb for the rest
//	events        the audit trail, one row for each line, partitioned by week
//	deliveries    the outbox
//	exchange_ids  where an exchange id leads
//	marks         names that are remembered, with their values
//	meta          the store's random key
//
// Each column has a comment. The views signin_attempts_v1, signin_events_v1 and
// signin_deliveries_v1 are for others to build on; the tables may change.
//
// An update of an attempt touches no index between its insertion and its end:
// what changes meanwhile is not indexed. For the sweeper there is wake, a
// bound below the due time that stays while it still is one; [Store.Due] moves
// it on where it fell behind. What people filter by is indexed when the attempt
// ends. Each of these indexes ends with the id, which begins with its time, so
// that a page costs what it shows.
//
// # Distribution
//
// Every row of a user has the same home, a hash of app, channel and user, which
// never changes; every unique constraint contains it; and every statement of a
// sign-in names it. So attempts, deliveries and exchange_ids can be partitioned by
// hash of home, or distributed by it with the audit trail beside them, and each
// row is looked for in one partition. An exchange id is looked for among the
// user's own first; only one that is not there is looked for everywhere. Marks
// stand alone and may be distributed by their hash. On one server nothing is
// gained by that, so the migrations do not do it.
//
// What asks everywhere are the sweeper, the claim of callbacks, operators' reads,
// and whoever has an attempt's id and nothing else: [Store.Get], [Store.Changed],
// the acknowledgement of a handler's transaction, and commits without
// [store.Commit].User. By id it is one look into the primary key of each partition,
// two blocks or three, and a sign-in needs it only where somebody waits for its end
// or has a transaction of his own. That an id is used once is checked for each user.
//
// What engines lack that speak Postgres' protocol but are not one server, by their
// own documentation; none of them was tried:
//
//   - Citus runs what goes to one shard. Across shards it refuses SELECT … FOR
//     UPDATE; anywhere, subqueries within INSERT and volatile functions in UPDATE.
//     So Due, Claim, Purge and groups of commits of several users do not work as
//     they are; commits of one user at a time may. Each worker numbers its own
//     transactions, so [Store.Trail] cannot follow.
//     (https://docs.citusdata.com/en/stable/develop/reference_workarounds.html)
//   - CockroachDB refuses a statement of which several parts change one table,
//     unless sql.multiple_modifications_of_table.enabled is set, which may damage
//     indexes: so it refuses every commit. It has no LISTEN (the store polls), no
//     partitions that are tables and can be attached and dropped, and advisory
//     locks of transactions, which migrations take, only since 2026.
//     (https://github.com/cockroachdb/cockroach/issues/70731, 51295, 168355)
//   - YugabyteDB has stored generated columns and advisory locks since version
//     2025.1, LISTEN since 2025.2.3 as early access (the store polls without), and
//     READ COMMITTED where yb_enable_read_committed_isolation is set. Whether
//     ids of transactions order those of several nodes, on which [Store.Trail]
//     relies, it does not say.
//     (https://docs.yugabyte.com/stable/api/ysql/pg15-features/,
//     https://github.com/yugabyte/yugabyte-db/issues/3642)
//
// # Following the audit trail
//
// A transaction may commit long after others that began later. [Store.Trail]
// therefore keeps the server's snapshot in its cursor, and asks for what has
// become visible since. No number is drawn from a counter that writers share.
//
// # Clock
//
// All times that are compared are the server's: leases, holds, due times. Now
// is the beginning of the statement that read.
//
// # Waiting
//
// [Store.Changed] listens on one connection beside the pool, for all who wait;
// commits that settle an attempt (into CardSent, Complete or Failed) notify,
// after they are on the disk. Where a notification is lost, it polls.
//
// # Handlers
//
// [Store.AckInTx] gives a handler a transaction, for writes that are to stand or
// fall with the acknowledgement of its callback. It is on a connection of a small
// pool beside the store's ([WithHandlerConns]), with the database's own settings,
// and holds nothing of the store's while the handler runs. A handler that is slow
// keeps other handlers waiting, and nobody else. Whatever happens to the delivery
// meanwhile wins: the acknowledgement is compared at the end, and a handler that
// was overtaken has written nothing.
//
// # Damage
//
// A record whose jsonb has another shape, or whose state this program does not
// know, be it damaged or a newer program's, is set aside: reads of many name it
// and go on ([store.Corrupt]), its key stays taken, and a purge leaves it.
// Members that this program does not know are passed over. Where columns are
// enough (counts, drops) it counts as they say. A delivery that does not decode is
// handed to nobody, keeps none behind it, and is looked at again after the hold;
// [Store.List] names its attempt.
//
// # Failure
//
// No call hangs: waiting for a connection, and every statement, has a timeout. A
// connection that is dead is told from a server that is slow by asking the server
// on another one, so that the timeout can be as long as a disk may stall.
// What is not one of the errors of package store for a reason of its own is
// [store.ErrUnavailable], with the server's error (a *pgconn.PgError, for its
// SQLSTATE) wrapped. Connections that break are replaced, and so are those that
// turn out to be read-only, since the server may have become a standby; the store
// is not reopened. [Store.Probe] finds out whether a commit would work, without
// one.
//
// A session whose synchronous_commit is off has it set to on, and one that would
// begin at another isolation level begins at READ COMMITTED.
package pgstore
