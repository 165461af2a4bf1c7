// Package table is the heart of the engine: what becomes of a sign-in attempt
// when something happens to it (docs/state-machine.md §4).
//
// It is pure. [Table.Step] takes an attempt and an event and returns what is to
// be written, done and answered. It reads no clock, holds no context and talks
// to nobody.
//
// The rules stand in one file per event that starts them: signin.go,
// exchange.go, verify.go, failure.go, signout.go, sweep.go. A block of rules is
// all that there is to know about its events in its states. Inside a block the
// rules are tried from top to bottom, and the first whose guards hold is taken.
// What a guard or an op means is in guards.go and ops.go.
//
// A rule names the edge that it takes. Whether there is such an edge, and where
// it leads, looplab/fsm decides (fsm.go).
package table
