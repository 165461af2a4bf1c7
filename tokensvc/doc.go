// Package tokensvc is a client of the Bot Framework Token Service (docs/protocol.md
// §3): who holds a user's token, the sign-in link, the SSO exchange, sign-out.
//
// It is a leaf: standard library and net/http only. Secrets travel as
// [Secret], which prints as [redacted] everywhere; errors are [*Error] and
// never carry a body or a query string.
package tokensvc
