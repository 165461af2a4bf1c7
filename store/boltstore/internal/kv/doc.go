// Package kv is an ordered key/value file: a bbolt tree with a write-ahead log in
// front of it.
//
// A bbolt transaction writes every page it touches, wherever the page lies, and
// syncs twice. So [DB.Update] appends its batch to a log, syncs once, and keeps
// the batch in memory, in a sorted [buffer]. When a log file is full, its buffer
// is sealed and flushed to the tree, key by key, in steps of bounded size.
// Meanwhile a new buffer and the other one of two log files take over.
//
//	Update ──► log (synced) ──► active buffer ──► sealed buffer ──► tree
//	                                 │                  │            │
//	View, Scan ◄── newest first ─────┴──────────────────┴────────────┘
//
// There is one writer at a time. It reads its own batch first, then what other
// readers see. Its batch joins the active buffer once it is on the disk. A View
// holds the lock of the active buffer; a Scan has a copy of the buffer.
//
// # After a crash
//
// The tree records the last batch that it holds, and whether there is a log. Open
// replays the rest of the log. Close flushes everything and removes the log, so
// that a closed file stands alone. Recovery relies on these rules, and each has a
// test that fails without it:
//
//   - A batch is synced before anybody reads it. Recovery writes and syncs what it
//     read of the log again before any of it goes to the tree: it may have come from
//     the page cache only, and after a failed sync another sync does not help.
//   - The same goes for the file's name, and for the meta pages of a tree that was
//     opened, before the tree is written or its log is removed.
//   - A batch names its predecessor, and a batch number is never reused. Recovery
//     scans a log file to its end: an unreadable batch hides none behind it, and a
//     gap is [store.ErrCorrupt]. Only the last batch may be torn, and then it was
//     never acknowledged.
//   - A log file is reused once the tree has everything in it. The next batch
//     overwrites one that was refused, in the same file.
//   - After a failed write the tree is reopened before it is written again. Until
//     the flush succeeds, every update is refused.
//
// TestPowerLoss builds what a power loss may leave at any moment (see powerDisk);
// make powerloss runs it at length.
package kv
