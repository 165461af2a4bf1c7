// Command bench measures the engine against a ceiling: a bare net/http handler
// that makes the same upstream calls with the same clients and stores nothing.
// Every figure is a ratio within one run, the median of paired rounds.
//
// The upstreams (the emulator) and the users live in the parent process. The bot
// under test is a child process, so that its processor time and memory can be
// measured alone. All traffic stays on loopback.
package main
