// Package outbox makes the callbacks that transitions owe
// (docs/state-machine.md §6).
//
// A callback is a row of the store, written in the transition's transaction. Only
// the row's holder makes the callback, and only while it holds the row. The invoke
// that settled an attempt holds the row of its first callback from the start and
// makes it at once ([Outbox.Inline]). All other rows are claimed from the store, one
// per free worker ([Outbox.Run]).
//
// A row is acknowledged by compare-and-set on its owner and try, so a late
// acknowledgement changes nothing. The claim enforces the order per attempt.
// Callbacks are made at least once; the row's key is stable.
package outbox
