// Package machine is the sign-in engine: every attempt of a user to sign in
// to a connection is an explicit, persisted state machine.
//
// The rooms, in the order data flows: an [Activity] comes in (engine.go) and
// is attributed to attempts (exchange.go, verify.go, failure.go, signin.go,
// signout.go); the loop (loop.go) loads, steps, commits and acts; the step
// (step.go) is pure and looks the event up in the table (table.go); effects
// (act.go) talk to the Token Service and the connector and come back as
// events; callbacks owed lie in the outbox (outbox.go); the sweeper
// (sweep.go) settles what was left behind.
//
// The caller's duties:
//
//  1. Register all connections in [Config] and their callbacks before the
//     first activity.
//  2. Run [Engine.Run] in a goroutine of its own until the process ends: it
//     owns the sweeper, the recovery and the redelivery. Without it nothing
//     expires and no callback is repeated.
//  3. Give every process of one bot the same store, and each its own
//     instance name.
//  4. Expect callbacks at least once; [Turn.DeliveryKey] is stable, and
//     [Engine.Once] makes a handler effectively once.
//  5. Answer every invoke with the [Answer] that the engine returned, status
//     and body.
package machine
