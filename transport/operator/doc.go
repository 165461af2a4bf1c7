// Package operator is the interface of the people who run a bot. It shows them
// the attempts with their timelines, what is stuck and why, and lets them
// reconcile, cancel and redeliver.
//
// The interface [Reader] has all queries. [Direct] answers them from a store;
// [Client] sends them to a running process, which answers with [NewHandler] over
// a unix socket beside the bbolt file or over TCP with a bearer token. A bbolt
// file can be open in one process only, even for reading, so the socket is the
// only way to look at a live bot that uses one.
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
// The same addresses serve the console to a browser, that is to requests that
// accept text/html: /, /attempts, /attempts/{id}, /users/{id},
// /connections/{name}, /diagram, /search, /login, and actions on many attempts at
// /attempts/act. GET /events is a stream of changes for requests that accept
// text/event-stream. There are two tokens for two levels of access: one may act,
// the other may only read. See docs/console.md.
package operator
