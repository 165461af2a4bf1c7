// Package table is the core of the engine: it decides how an event changes a
// sign-in attempt (docs/state-machine.md §4).
//
// It is pure. [Table.Step] takes an attempt and an event and returns what to
// write, do and answer. It reads no clock, holds no context and makes no calls.
//
// The rules are grouped into files by the event that starts them: signin.go,
// exchange.go, verify.go, failure.go, signout.go, sweep.go. A block holds all
// rules for its events in its states. They are tried from top to bottom, and the
// first one whose guards all hold is taken. guards.go and ops.go define the
// guards and ops.
//
// A rule names the edge that it takes. looplab/fsm decides whether that edge
// exists and where it leads (fsm.go).
package table
