// Package tokensvc is a client of the Bot Framework Token Service (docs/protocol.md
// §3): users' tokens, sign-in links, the SSO exchange, sign-out.
//
// It is a leaf: it imports only the standard library. Secrets have the type [Secret],
// which prints as [redacted] everywhere. Errors are [*Error], and never have a body or
// a query string.
package tokensvc
