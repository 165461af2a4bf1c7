// Package operator is what people who run a bot look at and act through: the
// attempts with their timelines, what is stuck and why, and the three actions
// reconcile, cancel and redeliver.
//
// The same questions are asked in two places, so they are one interface,
// [Reader]. [Direct] answers from a store; [Client] asks a running process,
// whose answers come from [NewHandler] over a unix socket beside the bbolt
// file or over TCP with a bearer token. A bbolt file belongs to one process,
// even for readers: the socket is the only way to look at a live bot.
//
// Routes, all JSON (docs/operations.md has the shapes):
//
//	GET  /healthz                      the process answers
//	GET  /readyz                       the store answers and has the right schema
//	GET  /info                         what runs here
//	GET  /overview                     states, last hour, stuck list
//	GET  /attempts?user=&state=…       a page of attempts
//	GET  /attempts/{id}                one attempt, by id or unique prefix
//	GET  /events?attempt=&after=…      audit lines, oldest first
//	GET  /snapshot                     a consistent copy of the bbolt file
//	GET  /metrics                      for Prometheus, not JSON; see package metrics
//	POST /attempts/{id}/reconcile      {actor, reason}
//	POST /attempts/{id}/cancel         {actor, reason}
//	POST /attempts/{id}/redeliver      {actor, reason}
//	POST /purge                        {older_than, dry_run, limit}
//	POST /rotate-key                   {actor, reason}
//
// The same addresses are the console for a browser, which asks for text/html:
// /, /attempts, /attempts/{id}, /users/{id}, /connections/{name}, /diagram,
// /search, /login, and actions on many below /attempts/act. GET /events is a
// stream of changes for whoever accepts text/event-stream. Two tokens are two
// levels of access: one acts, one only looks. docs/console.md says the rest.
package operator
