// Package kv is an ordered key/value file: a bbolt tree with a log in front of
// it.
//
// A bbolt transaction writes every page that it touches, wherever it lies, and
// waits for the disk twice. So what [DB.Update] writes goes to the end of a log,
// is synced there once, and is kept in memory, in order ([buffer]). When a log
// file is full its turn ends: the tree gets the buffer, key by key, in steps of
// bounded size, while a new buffer and the other one of two log files take their
// place.
//
//	Update ──► log (synced) ──► active buffer ──► sealed buffer ──► tree
//	                                 │                  │            │
//	View, Scan ◄── newest first ─────┴──────────────────┴────────────┘
//
// There is one writer at a time. It reads its own batch, then what everybody
// reads. Its batch joins the active buffer once it is on the disk. A View holds
// the lock of the active buffer; a Scan has a copy of it.
//
// # After a crash
//
// The tree says up to which batch it has the log, and whether there is one. Open
// plays the rest; Close applies everything and removes the log, so that a file
// that was closed stands alone. These rules make it right, and each has a test
// that fails without it:
//
//   - A batch is synced before anybody reads it. What recovery reads of the log is
//     written and synced again before anything of it goes to the tree: it may have
//     come from memory only, and after a sync that failed another one does not help.
//   - So are the meta pages of a tree that was opened, before it is written or its
//     log is removed, and the name of the file.
//   - A batch names the one before it, and a number is given once. A file is
//     searched whole for batches: what cannot be read hides nothing behind it, and
//     a gap is [store.ErrCorrupt]. Only a last batch that cannot be read may have
//     been torn, and then it was never acknowledged.
//   - A file of the log takes its turn when the tree has all that is in it. What
//     was refused is written over by the next batch, in the same file.
//   - A tree that could not be written is read anew before it is written again, and
//     until that works every update is refused.
//
// TestPowerLoss builds what a power loss may leave at any moment, see powerDisk;
// make powerloss runs it at length.
package kv
