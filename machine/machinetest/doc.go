// Package machinetest runs the engine in a small world of its own: an
// in-memory store, a token service and a connector that do as they are told,
// users and their clients, and time that stands still until somebody waits.
//
// Its scenarios are text files that a person who does not write Go can read:
// what happens, a line of four dashes, what comes of it. See [Run].
package machinetest
