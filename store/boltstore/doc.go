// Package boltstore keeps the sign-in engine's records in one bbolt file: the
// store of a bot that runs as one process.
//
// The file is locked while it is open, for readers too: see [WithReadOnly] and
// [store.ErrLocked].
//
// Every call of [store.Apply] is one batch for the whole slice, synced to the
// disk; one call at a time. Wrap the store in a [store.Group] so that concurrent
// commits share batches.
//
// # Files
//
// While a store is open for writing other files lie beside it:
//
//	NAME.log0, NAME.log1  what was acknowledged and is not in NAME yet
//	NAME.lock             keeps other processes out; empty
//	NAME.new              while NAME is made; without meaning after a crash
//
// After Close the file stands alone. After a crash NAME and its two logs belong
// together, and the next Open brings them together: move all of them, or none.
// Copy a store with [Store.Snapshot] (signin-engine snapshot), running, closed or
// crashed: the copy needs no log. A file that was not closed is refused without
// its log, and so is a damaged log: something acknowledged may lie there. Who has
// lost the log and wants to go on without what it held makes two empty files of
// these names.
//
// A new store takes some tens of kilobytes, and grows by an eighth at a time.
//
// # Layout
//
// bucket rows: all that belongs to one attempt stands together, in the order
// of ids, which is the order of time:
//
//	id 00 a                 the record
//	id 00 d kind round      its deliveries
//	id 00 r                 the activity that asked: written once, unlike the record
//	id 00 x hash            exchange ids that it had before its present one
//
// bucket audit, in the order of attempts, those of none before:
//
//	id 00 number            lines that were written at once; the number is that of
//	                        the first one among all lines
//
// bucket live, small:
//
//	o user scope connection  the non-terminal attempt of a key
//	d time id                when Due looks at it: when it is due, or earlier
//	p time id 00 kind round  deliveries pending, by when they are due
//	w id 00 kind round       deliveries pending, when Claim has found that an earlier round is
//	z id 00 kind round       deliveries dead
//	u id 00 kind round       deliveries undeliverable
//	t minute outcome         how many attempts ended so in that minute
//
// bucket index:
//
//	u user id               attempts of a user (MRI)
//	a user id               the same by Entra object id
//	x hash                  exchange id of an app, to attempt
//	m hash                  marks
//	c, n time hash          marks by creation and by expiry
//
// bucket facts: skew, lines (the last number), keys.
//
// # Damage
//
// A record that cannot be decoded stays as it is. Its index rows go on to name
// it, so that it still holds its key, and Due moves them like the others. An
// attempt of which a delivery cannot be decoded is not purged: where that is
// filed is not known. Audit lines that cannot be decoded refuse a read of their
// attempt's lines only.
//
// Open reads every page of a file of up to 64 MB before bbolt trusts it: a damaged
// one is [store.ErrCorrupt]. Of a larger one that is found when bbolt meets the page.
package boltstore
