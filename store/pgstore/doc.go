// Package pgstore keeps the sign-in engine's records in a Postgres schema: the
// store of a bot that runs as many processes.
package pgstore
