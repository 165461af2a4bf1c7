// Package boltstore keeps the sign-in engine's records in one bbolt file: the
// store of a bot that runs as one process.
//
// The file is locked while it is open, for readers too: see [WithReadOnly] and
// [store.ErrLocked].
//
// Every call of [Store.Apply] is one transaction, synced to the disk, for the
// whole slice; one call at a time. Wrap the store in a [store.Group] so that
// concurrent commits share transactions.
//
// # Layout
//
// bucket rows: all that belongs to one attempt stands together, in the order
// of ids, which is the order of time:
//
//	id 00 a                 the record
//	id 00 d kind round      its deliveries
//	id 00 e seq             its audit lines; all of one commit share a row,
//	                        whose key carries the last seq
//	id 00 x hash            exchange ids that it had before its present one
//	00 e seq                audit lines of no attempt
//
// bucket live, small:
//
//	o user scope connection  the non-terminal attempt of a key
//	d time id                when Due shows it
//	p time id 00 kind round  deliveries pending
//	z id 00 kind round       deliveries dead
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
// bucket meta: format, secret, created, skew.
//
// # The free list
//
// It is not written with every commit: after a large purge it has hundreds of
// kilobytes, and each commit would pay for it. It is written by Close, so that
// a store that was closed opens at once, whatever its size; after a crash it is
// rebuilt from the tree, which reads all branch and leaf pages once.
package boltstore
