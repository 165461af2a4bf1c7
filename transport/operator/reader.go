package operator

import (
	"context"
	"io"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Reader answers an operator's questions. [Direct] and [Client] are readers.
type Reader interface {
	// Overview says what is open, what ended in the last hour and what is stuck.
	Overview(ctx context.Context) (Overview, error)
	// List returns attempts, newest first.
	List(ctx context.Context, q Query) (Page, error)
	// Get returns one attempt by id or unique prefix: store.ErrNotFound,
	// ErrAmbiguous.
	Get(ctx context.Context, id string) (Detail, error)
	// Events returns audit lines.
	Events(ctx context.Context, q EventQuery) (EventPage, error)
	// Info says what answers.
	Info(ctx context.Context) (Info, error)
}

// Snapshotter writes a consistent copy of a live store; boltstore is one.
type Snapshotter interface {
	Snapshot(ctx context.Context, w io.Writer) (int64, error)
}

// Info says what answers: which store, and which process holds it.
type Info struct {
	Schema   int               `json:"schema"`
	Backend  string            `json:"backend"` // memory, bolt, postgres
	Where    string            `json:"where"`   // without secrets
	Store    int               `json:"store_schema"`
	Now      Time              `json:"now"`
	Warnings []string          `json:"store_warnings,omitempty"` // what the store's administrator should see to
	Live     bool              `json:"live"`                     // a running engine answers, not a file
	Instance string            `json:"instance,omitempty"`
	Version  string            `json:"version,omitempty"`
	PID      int               `json:"pid,omitempty"`
	Started  Time              `json:"started"`
	Listen   string            `json:"listen,omitempty"`
	Settings map[string]string `json:"settings,omitempty"` // what doctor checks from outside
	Names    []string          `json:"connections,omitempty"`
	Refused  *Refused          `json:"refused,omitempty"`  // only a live process knows
	Circuits []Circuit         `json:"circuits,omitempty"` // likewise
}

// Refused is what the bot's endpoint did not let in since the process started.
type Refused struct {
	Reasons    map[string]int64 `json:"reasons,omitempty"` // as in signin_refused_total
	Hosts      []RefusedHost    `json:"hosts,omitempty"`   // that service_urls does not list
	OtherHosts int64            `json:"other_hosts,omitempty"`
	Callers    []RefusedCaller  `json:"callers,omitempty"` // that tokens of Entra name, whether they were good or not
}

// RefusedCaller is an app whose token of Entra was refused.
type RefusedCaller struct {
	App   string `json:"app"`
	Count int64  `json:"count"`
	First Time   `json:"first"`
	Last  Time   `json:"last"`
}

// RefusedHost is a host that activities came from and that is not allowed.
type RefusedHost struct {
	Host  string `json:"host"`
	Count int64  `json:"count"`
	First Time   `json:"first"`
	Last  Time   `json:"last"`
}

// Circuit is what a process knows of one host of an upstream since it started.
type Circuit struct {
	Upstream string `json:"upstream"` // token_service, connector, login …
	Host     string `json:"host"`
	Open     bool   `json:"open"`    // requests are refused, but for the one that tries
	Since    Time   `json:"since"`   // when it opened; zero unless it is open
	Opened   int64  `json:"opened"`  // how often that began
	Refused  int64  `json:"refused"` // requests that were refused
	Retried  int64  `json:"retried"` // requests that were made again
}

// Overview is the first page of an operator's morning.
type Overview struct {
	Schema        int          `json:"schema"`
	Now           Time         `json:"now"`
	States        []StateView  `json:"states"` // the open states, in the order of a sign-in
	LastHour      EndedView    `json:"last_hour"`
	Owed          int          `json:"callbacks_pending"`
	Dead          int          `json:"callbacks_dead"`
	Undeliverable int          `json:"callbacks_undeliverable"`
	Stuck         []Finding    `json:"stuck"`
	Window        Milliseconds `json:"window_ms"` // what LastHour spans
}

// StateView is how many attempts are in a state, and since when the oldest.
type StateView struct {
	State  store.State  `json:"state"`
	Count  int          `json:"count"`
	Oldest Time         `json:"oldest"`
	Age    Milliseconds `json:"oldest_age_ms"`
}

// EndedView counts the attempts that ended, by method and by reason.
type EndedView struct {
	Complete map[string]int `json:"complete"`
	Failed   map[string]int `json:"failed"`
}

// window is what "last hour" spans.
const window = time.Hour
