package operator

import (
	"context"
	"io"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Reader answers an operator's queries. [Direct] and [Client] implement it.
type Reader interface {
	// Overview returns what is open, what ended in the last hour and what is stuck.
	Overview(ctx context.Context) (Overview, error)
	// List returns a page of attempts, newest first.
	List(ctx context.Context, q Query) (Page, error)
	// Get returns one attempt by its id or a unique prefix. Errors:
	// store.ErrNotFound, store.ErrCorrupt, ErrAmbiguous.
	Get(ctx context.Context, id string) (Detail, error)
	// Events returns a page of audit lines.
	Events(ctx context.Context, q EventQuery) (EventPage, error)
	// Info describes the store and the process that answers.
	Info(ctx context.Context) (Info, error)
}

// Snapshotter writes a consistent copy of a live store. The boltstore implements
// it.
type Snapshotter interface {
	// Snapshot writes the copy to w and returns the number of bytes.
	Snapshot(ctx context.Context, w io.Writer) (int64, error)
}

// Info describes the store and the process that answers.
type Info struct {
	Schema   int               `json:"schema"`
	Backend  string            `json:"backend"`                  // memory, bolt, postgres
	Where    string            `json:"where"`                    // location of the store, without secrets
	Store    int               `json:"store_schema"`             // schema version of the store
	Now      Time              `json:"now"`                      // the store's clock
	Warnings []string          `json:"store_warnings,omitempty"` // for the administrator of the store
	Live     bool              `json:"live"`                     // a running engine answers; false: a command that opened the store
	Instance string            `json:"instance,omitempty"`
	Version  string            `json:"version,omitempty"`
	PID      int               `json:"pid,omitempty"`
	Started  Time              `json:"started"`
	Listen   string            `json:"listen,omitempty"`
	Settings map[string]string `json:"settings,omitempty"`    // settings that doctor checks
	Names    []string          `json:"connections,omitempty"` // names of the connections
	Refused  *Refused          `json:"refused,omitempty"`     // null unless a live process counts
	Circuits []Circuit         `json:"circuits,omitempty"`    // empty unless a live process answers
}

// Refused counts the requests that the bot's endpoint has refused since the process
// started.
type Refused struct {
	Reasons    map[string]int64 `json:"reasons,omitempty"`     // by reason, as in signin_refused_total
	Hosts      []RefusedHost    `json:"hosts,omitempty"`       // hosts that service_urls does not list
	OtherHosts int64            `json:"other_hosts,omitempty"` // requests of further hosts, which Hosts has no room for
	Callers    []RefusedCaller  `json:"callers,omitempty"`     // apps that the refused Entra tokens name; their signature may be wrong
}

// RefusedCaller is an app whose Entra tokens were refused.
type RefusedCaller struct {
	App   string `json:"app"`
	Count int64  `json:"count"`
	First Time   `json:"first"`
	Last  Time   `json:"last"`
}

// RefusedHost is a host that activities named in their service URL, and that is not
// allowed.
type RefusedHost struct {
	Host  string `json:"host"`
	Count int64  `json:"count"`
	First Time   `json:"first"`
	Last  Time   `json:"last"`
}

// Circuit is the state of a circuit breaker: one for each host of an upstream. The
// counts begin with the process.
type Circuit struct {
	Upstream string `json:"upstream"` // token_service, connector, login …
	Host     string `json:"host"`
	Open     bool   `json:"open"`    // requests are refused, except one now and then that probes
	Since    Time   `json:"since"`   // when it opened; zero unless it is open
	Opened   int64  `json:"opened"`  // how often it opened
	Refused  int64  `json:"refused"` // requests that it refused
	Retried  int64  `json:"retried"` // requests that were retried
}

// Overview is the state of the whole engine at a glance.
type Overview struct {
	Schema        int          `json:"schema"`
	Now           Time         `json:"now"`
	States        []StateView  `json:"states"` // the open states, in the order of a sign-in
	LastHour      EndedView    `json:"last_hour"`
	Owed          int          `json:"callbacks_pending"`
	Dead          int          `json:"callbacks_dead"`
	Undeliverable int          `json:"callbacks_undeliverable"`
	Stuck         []Finding    `json:"stuck"`     // the most serious first
	Window        Milliseconds `json:"window_ms"` // length of LastHour
}

// StateView counts the attempts in one state.
type StateView struct {
	State  store.State  `json:"state"`
	Count  int          `json:"count"`
	Oldest Time         `json:"oldest"` // when the oldest of them entered the state
	Age    Milliseconds `json:"oldest_age_ms"`
}

// EndedView counts the attempts that ended.
type EndedView struct {
	Complete map[string]int `json:"complete"` // by method
	Failed   map[string]int `json:"failed"`   // by reason
}

// window is the length of "the last hour".
const window = time.Hour
