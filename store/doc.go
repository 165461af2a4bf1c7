// Package store defines what the sign-in engine stores and what it needs from a
// backend. It is a leaf: it imports only the standard library.
//
// One row per sign-in attempt ([Attempt]), an append-only audit trail ([Event]) and the
// outbox of callbacks ([Delivery]). One call, [Store.Apply], writes them together or
// not at all. Its unit is a [Commit], which succeeds only if every attempt in it still
// has the version that the writer read.
//
// Backends: memstore (tests), boltstore (one process, one file), pgstore
// (many processes). All run the suites of package storetest.
//
// Duties of a backend:
//
//  1. A commit is all or nothing. A refused commit does not affect the others in the
//     same call.
//  2. A commit that was acknowledged survives kill -9 and power loss
//     (memstore excepted).
//  3. At most one non-terminal attempt per [Key]: a constraint, not a check.
//  4. [Snapshot.Now] is the backend's own clock. Leases, expiry and due times are
//     compared only with it.
//  5. Values are copied: the store shares nothing with its callers.
//  6. Times are UTC with microsecond precision; see [Time].
package store
