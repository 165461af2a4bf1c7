// Package boltstore keeps the sign-in engine's records in one bbolt file. It is the
// store for a bot that runs as one process.
//
// The file is locked while it is open, for readers too; see [WithReadOnly] and
// [store.ErrLocked].
//
// Every call of [Store.Apply] writes its whole slice of commits as one batch, with
// one sync. Calls run one at a time. Wrap the store in a [store.Group] so that
// concurrent commits share batches.
//
// # Files
//
// While a store is open for writing, these files lie beside it:
//
//	NAME.log0, NAME.log1  acknowledged writes that are not in NAME yet
//	NAME.lock             keeps other processes out; empty
//	NAME.new              while NAME is created; meaningless after a crash
//
// After Close the file stands alone. After a crash NAME and its two logs belong
// together until the next Open replays them: move all of them, or none. Copy a
// store with [Store.Snapshot] (signin-engine snapshot), be it running, closed or
// crashed: the copy needs no log. Open refuses a file that was not closed if its
// log is missing or damaged, because acknowledged writes may be lost. To go on
// without a lost log, create two empty files with the names of the logs.
//
// A new store takes some tens of kilobytes, and grows by an eighth at a time.
//
// # Layout
//
// Bucket rows holds everything of an attempt side by side. Attempts are in the
// order of their ids, which is the order of time:
//
//	id 00 a                 the record
//	id 00 d kind round      its deliveries
//	id 00 r                 the activity that asked: written once, unlike the record
//	id 00 x hash            its former exchange ids
//
// Bucket audit is in the order of attempts; lines without an attempt come first:
//
//	id 00 number            lines that were written together; the number is that of
//	                        the first one among all lines
//
// Bucket live is small:
//
//	o user scope connection  the non-terminal attempt of a key
//	d time id                when Due looks at an attempt: when it is due, or earlier
//	p time id 00 kind round  pending deliveries, by their due time
//	w id 00 kind round       pending deliveries that Claim found behind an earlier round
//	z id 00 kind round       dead deliveries
//	u id 00 kind round       undeliverable deliveries
//	t minute outcome         how many attempts ended with the outcome in the minute
//
// Bucket index:
//
//	u user id               attempts of a user (MRI)
//	a user id               the same by Entra object id
//	x hash                  exchange id of an app, to attempt
//	m hash                  marks
//	c, n time hash          marks by creation and by expiry
//
// Bucket facts: lines (the last number), keys.
//
// # Damage
//
// A record that cannot be decoded stays as it is. Its index rows stay too, so that
// it still holds its key, and Due moves them like any others. An attempt with a
// delivery that cannot be decoded is not purged, since the delivery's index rows
// are unknown. Audit lines that cannot be decoded fail only reads of their
// attempt's lines.
//
// Open checks every page of a file of up to 64 MiB: a damaged one is
// [store.ErrCorrupt]. In a larger file a damaged page is found when it is read.
package boltstore
