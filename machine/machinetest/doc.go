// Package machinetest runs the engine in a simulated world: an in-memory store,
// a scripted token service and connector, users and their clients, and fake time
// that advances only while everything waits.
//
// Its scenarios are text files that can be read without knowing Go: commands, a
// line of four dashes, and their results. See [Run].
package machinetest
