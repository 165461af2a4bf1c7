// Package kv is an ordered key/value file: a bbolt tree with a log in front of
// it.
//
// A bbolt transaction writes every page that it touches, wherever it lies, and
// waits for the disk twice. So what [DB.Update] writes goes to the end of a
// log, is synced there once, and is kept in memory ([table]); when the table is
// full it goes to the tree, key by key in order, while a new table and the other
// one of two log files take its place. What was overwritten or deleted in the
// meantime never reaches the tree, and a value that was appended to reaches it
// once.
//
//	Update ──► log (synced) ──► table ──► tree
//	                              │         │
//	View   ◄── newest first ──────┴─────────┘
//
// There is one writer at a time. Readers never wait for it: a table keeps the
// versions of a key, and a reader sees those that were synced when it began.
//
// # Recovery
//
// The tree's meta bucket says up to which batch the log has been applied. Open
// plays the rest; Close applies everything and removes the log, so that a file
// that was closed stands alone. A file that was not is refused without its log:
// something acknowledged might lie in it.
//
// Batches are numbered without a gap, and each has a checksum. The last one may
// be torn: then it was never acknowledged. Anything else that does not fit is
// [store.ErrCorrupt].
package kv
