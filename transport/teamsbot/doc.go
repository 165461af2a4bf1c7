// Package teamsbot is the usual wiring of a bot with the engine, in one call:
// credentials, the client of the Token Service, the connector, the allow-list of
// hosts, inbound authentication, handler, server, operator endpoint, and a
// shutdown in the right order.
//
// It only combines what the packages tokensvc, machine, transport/teams and
// transport/operator export. Each part can therefore be used alone, or be
// replaced by the caller's own. The package does not import Prometheus,
// OpenTelemetry or Azure's SDK: [Config] takes what transport/metrics,
// transport/traces and transport/credentials make.
//
// The caller's duties:
//
//  1. Open the store before [New], and close it after [Bot.Run] has returned.
//  2. Register handlers on the connections of [Bot.Engine] before [Bot.Run].
//  3. Run [Bot.Run] in every process, from start to end. Without it nothing
//     expires and no callback is repeated.
//  4. On SIGTERM, cancel the context of Run, and give the process 30 s before
//     SIGKILL. Run stops the listener, finishes what is in flight, and then stops
//     the engine and the operator endpoint, in this order.
//  5. Expect each callback at least once; see package machine.
package teamsbot
