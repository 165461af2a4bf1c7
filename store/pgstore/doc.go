// Package pgstore keeps the sign-in engine's records in a Postgres schema: the
// store of a bot that runs as many processes. It needs Postgres 14 or later.
//
// The address has, beside what Postgres itself knows, the parameter schema
// (default signin). Several stores, of one bot or of many, may share a
// database, each in its schema. Sessions are not to be shared by a pooler in
// transaction mode: the store sets parameters of its sessions and listens.
//
// # Writing
//
// A call of [Store.Apply] is one statement over arrays for all commits that
// touch one attempt each, in one transaction and one round trip, at READ
// COMMITTED. Nothing in it raises an error when a version, a key or an id does
// not fit: that commit writes nothing, comes back with what was found, and its
// neighbours pass. Commits of several attempts, or with marks, have a
// transaction each, between those before and after them. When a value makes the
// statement fail, or the key of a new delivery that is taken, its commits are
// tried one by one. Serialization failures and deadlocks are tried again, and so
// is what was overtaken between reading and writing. Wrap the store in a
// [store.Group], so that concurrent commits go together.
//
// # Reading
//
// Calls of [Store.Find] that come while one is in flight gather, and then go as
// one query over arrays, on one connection. Each has its own answer, and its
// own context: whoever asks for the others may be called off, and then they ask
// again.
//
// Find and Apply talk to the server past pgx's encoders; a tracer that
// [WithPoolConfig] sets does not see their statements.
//
// # Tables
//
//	attempts      one row per attempt: columns to search by, and the whole of
//	              it as one binary value
//	events        the audit trail, one row for the lines of one commit about
//	              one attempt, partitioned by week
//	deliveries    the outbox: what a try changes has columns, and counts as they
//	              say; the rest is one binary value
//	exchange_ids  where an exchange id leads
//	marks         names that are remembered, with their values
//	orphans       the number of the last line of no attempt
//	meta          the store's random key
//
// Every unique constraint contains a hash that rows may be distributed by:
// user_hash for attempts, home (the user's hash when the attempt was inserted)
// for deliveries, hash for exchange ids and marks; the audit trail has home
// and no constraint. That an attempt's id is used once is checked by the
// statement and not by a constraint, which could not contain the hash; ids are
// random enough that nothing hangs on it.
//
// An update of an attempt touches no index between its insertion and its end:
// what changes meanwhile is not indexed. For the sweeper there is wake, a
// bound below the due time that stays while it still is one; [Store.Due] moves
// it on where it fell behind.
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
// A record that does not decode, be it damaged or a newer program's, is set aside:
// reads of many name it and go on ([store.Corrupt]), its key stays taken, and a
// purge leaves it. Where columns are enough (counts, drops) it counts as they say.
// A delivery that does not decode is handed to nobody, keeps none behind it, and
// is looked at again after the hold; [Store.List] names its attempt.
//
// # Failure
//
// No call hangs: waiting for a connection, and every statement, has a timeout.
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
