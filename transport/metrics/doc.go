// Package metrics shows an engine to Prometheus. docs/operations.md lists the
// metrics with their labels.
//
// What happens is counted by the engine's hooks, what is there now is read from
// the store at each scrape. An embedder does four things:
//
//  1. [New] with the store that the engine gets.
//  2. machine.Config.Hooks is what [Metrics.Hooks] returns.
//  3. machine.Config.Store is what [Metrics.Store] returns.
//  4. [Metrics.Handler] is served, as HandlerConfig.Metrics of the operator
//     endpoint or elsewhere; or the Metrics are registered with a
//     prometheus.Registerer of his own.
//
// Labels have few values, all known before: a word of a client or of an upstream
// that is not among them counts as "other". No user, tenant or conversation is
// ever a label, and a connection only in teams_oauth_…, as Config.Connections
// names it.
package metrics
