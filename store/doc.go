// Package store says what the sign-in engine remembers and what it asks of a
// backend. It is a leaf: it imports the standard library only.
//
// One row per sign-in attempt ([Attempt]), an append-only audit trail
// ([Event]) and the outbox of callbacks that are owed ([Delivery]). They are
// written together or not at all by one call, [Store.Apply], whose unit is a
// [Commit]: it succeeds only if every attempt in it is still at the version
// that the writer read.
//
// Backends: memstore (tests), boltstore (one process, one file), pgstore
// (many processes). All run the suites of package storetest.
//
// Duties of a backend:
//
//  1. A commit is all or nothing, and one commit's refusal leaves its
//     neighbours in the same call untouched.
//  2. A commit that was acknowledged survives kill -9 and power loss
//     (memstore excepted).
//  3. At most one non-terminal attempt per [Key]: a constraint, not a check.
//  4. [Snapshot.Now] is the backend's own clock; leases, expiry and due times
//     are compared with it and with no other.
//  5. Values are copied: nothing that a caller holds is shared with the store.
//  6. Times are UTC with microsecond precision; see [Time].
package store
