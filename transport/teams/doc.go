// Package teams is the adapter between Microsoft Teams and the machine: it
// reads the activities that the Bot Connector posts to a bot ([NewHandler]),
// and it sends the bot's own messages back ([Connector]).
//
// Reading is tolerant (camelCase and PascalCase, unknown members ignored, a
// wrong type in a member nobody needs does no harm); writing is strict: an
// optional member without a value is omitted and never null, because Teams
// refuses a card with an explicit null [S 001].
//
// An [Authenticator] knows the Bot Connector by its tokens, and stands in front
// of a handler or inside it. The bot's own bearer token goes to the service URL
// that an activity names, so an [AllowList] of hosts stands before both
// directions. [Limits] bound what anybody outside can cost, and [Refusals] count
// and tell who was not let in.
package teams
