// Package machine is the sign-in engine: every attempt of a user to sign in to a
// connection is an explicit, persisted state machine.
//
// An [Activity] comes in. [Engine.HandleInvoke] and [Turn.SignIn] make it an event and
// find its attempt. The table (machine/internal/table) has the transition. The loop
// commits it, makes the call that it asks for, and takes the answer as the next event.
// Pending callbacks are in the outbox (machine/internal/outbox). docs/walk.md follows
// one invoke through these packages; docs/state-machine.md is the contract.
//
// The caller's duties:
//
//  1. Register all connections in [Config] and their handlers before the first
//     activity.
//  2. Run [Engine.Run] in a goroutine of its own: it owns the sweeper, the
//     recovery and the redelivery. Without it nothing expires and no callback is
//     repeated.
//  3. At the end stop the listener, cancel Run, wait for it, and close the store,
//     in this order. Run finishes what it holds.
//  4. Give every process of one bot the same store, and each its own instance
//     name.
//  5. Expect callbacks at least once. [Turn.DeliveryKey] is stable, and
//     [Engine.Once] makes a handler effectively once.
//  6. Answer every invoke with the [Answer] that the engine returned, status and
//     body.
package machine
