// Package outbox makes the callbacks that transitions owe
// (docs/state-machine.md §6).
//
// A callback is a row of the store, written with the transition that owes it. It
// is called by whoever holds the row, and only while he holds it. The invoke
// that settled an attempt holds the row of its first callback from the start and
// calls at once ([Outbox.Inline]). Everything else is claimed from the store, one
// row per free worker ([Outbox.Run]).
//
// A row is acknowledged by compare-and-set on its owner and try, so whoever
// comes too late changes nothing. The order per attempt is a condition of the
// claim. Callbacks are made at least once; the row's key is stable.
package outbox
