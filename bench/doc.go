// Command bench measures the engine against the ceiling: a bare net/http
// handler that makes the same upstream calls with the same clients and
// remembers nothing. Everything is a ratio within one run, with medians of
// paired rounds.
//
// The upstreams (the emulator) and the users live in the parent process; the
// bot under test is a child, so that its processor time and memory are its
// own. Traffic stays on loopback.
package main
