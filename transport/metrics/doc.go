// Package metrics exposes an engine's metrics to Prometheus. docs/operations.md
// lists the metrics and their labels.
//
// The engine's hooks count events; gauges are read from the store at each scrape.
// To use the package:
//
//  1. Call [New] with the store of the engine.
//  2. Set machine.Config.Hooks to what [Metrics.Hooks] returns.
//  3. Set machine.Config.Store to what [Metrics.Store] returns.
//  4. Serve [Metrics.Handler], as HandlerConfig.Metrics of the operator endpoint or
//     elsewhere. Alternatively, register the Metrics with a prometheus.Registerer.
//
// Each label has a small, fixed set of values. A word of a client or an upstream
// that is not in the set counts as "other". Users, tenants and conversations are
// never labels. A connection is a label only in teams_oauth_…, and only if
// Config.Connections names it.
package metrics
