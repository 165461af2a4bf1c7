// Package teams is the adapter between Microsoft Teams and the machine: it
// reads the activities that the Bot Connector posts to a bot ([NewHandler]),
// and it sends the bot's own messages back ([Connector]).
//
// Reading is tolerant: it accepts camelCase and PascalCase, and ignores unknown members
// and wrong types in unused members. Writing is strict: an optional member without a
// value is omitted and never null, because Teams refuses a card with an explicit null
// [S 001].
//
// An [Authenticator] checks the Bot Connector's tokens, in front of a handler or inside
// it. The bot sends its own bearer token to the service URL of an activity, so an
// [AllowList] of hosts applies in both directions. [Limits] limit what a client can
// cost. [Refusals] count and log refused requests.
package teams
