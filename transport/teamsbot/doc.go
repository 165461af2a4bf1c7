// Package teamsbot is the usual wiring of a bot with the engine in it, in one
// call: credentials, client of the Token Service, connector, allow-list of hosts,
// inbound authentication, handler, server, operator endpoint, and an end in the
// right order. It only puts together what the packages tokensvc, machine,
// transport/teams and transport/operator export, so each part can also be used
// alone or be replaced by the caller's own. It pulls in neither Prometheus nor
// OpenTelemetry nor Azure's SDK: [Config] takes what transport/metrics,
// transport/traces and transport/credentials make.
//
// The caller's duties:
//
//  1. Open the store before [New], and close it when [Bot.Run] has returned.
//  2. Register handlers on the connections of [Bot.Engine] before [Bot.Run].
//  3. Run [Bot.Run] in every process, from the start to the end. Without it
//     nothing expires and no callback is repeated.
//  4. End the context of Run at SIGTERM, and give the process 30 s before
//     SIGKILL. Run stops the listener, finishes what is in flight, and ends the
//     engine and the operator endpoint, in this order.
//  5. Expect callbacks at least once; see package machine.
package teamsbot
