package emulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault makes requests fail, or their answers come late. A request gets the first
// fault that matches it, in the order in which they were added.
type Fault struct {
	Operation  Operation // only requests of this operation; "" = all
	Connection string    // only requests that name this connection; "" = all
	// Activity matches only requests to the connector with this kind of activity;
	// "" = all requests.
	Activity ActivityKind
	Times    int // number of requests that get the fault; 0 = until cleared
	// Delay is the time before the answer. A fault with a delay alone only makes
	// the answer late.
	Delay time.Duration
	// Status is the status of the answer; 0 = the usual answer.
	Status int
	Code   string // error.code of the error body; "" = the name of the status
	// Body replaces the error body. With Status 200 it can be a successful answer
	// that makes no sense.
	Body string
	// RetryAfter is the Retry-After header, rounded up to whole seconds; 0 = none.
	RetryAfter time.Duration
	// Expiration replaces the expiration of the tokens in a usual answer; zero =
	// their own expiration.
	Expiration time.Time
	// Drop closes the connection without an answer.
	Drop bool
	// AfterEffect carries the request out before the fault, so that only the
	// answer is lost.
	AfterEffect bool
}

// ActivityKind is the kind of content that an activity has.
type ActivityKind string

// The kinds of activities that a [Fault] can select.
const (
	CardActivity ActivityKind = "card" // has an OAuth card
	TextActivity ActivityKind = "text" // has a text and no OAuth card
)

func (k ActivityKind) fits(a *postedActivity) bool {
	if k == "" {
		return true
	}
	if a == nil {
		return false
	}
	card := a.hasCard()
	return k == CardActivity && card || k == TextActivity && !card && a.Text != ""
}

type faultJSON struct {
	Operation   Operation    `json:"operation,omitempty"`
	Connection  string       `json:"connection,omitempty"`
	Activity    ActivityKind `json:"activity,omitempty"`
	Times       int          `json:"times,omitempty"`
	Delay       string       `json:"delay,omitempty"`
	Status      int          `json:"status,omitempty"`
	Code        string       `json:"code,omitempty"`
	Body        string       `json:"body,omitempty"`
	RetryAfter  string       `json:"retryAfter,omitempty"`
	Expiration  time.Time    `json:"expiration,omitzero"`
	Drop        bool         `json:"drop,omitempty"`
	AfterEffect bool         `json:"afterEffect,omitempty"`
}

// MarshalJSON writes durations as text, such as "1.5s".
func (f Fault) MarshalJSON() ([]byte, error) {
	wire := faultJSON{
		Operation: f.Operation, Connection: f.Connection, Activity: f.Activity, Times: f.Times, Status: f.Status, Code: f.Code,
		Body: f.Body, Expiration: f.Expiration, Drop: f.Drop, AfterEffect: f.AfterEffect,
	}
	if f.Delay > 0 {
		wire.Delay = f.Delay.String()
	}
	if f.RetryAfter > 0 {
		wire.RetryAfter = f.RetryAfter.String()
	}
	b, err := json.Marshal(wire)
	if err != nil {
		return nil, fmt.Errorf("fault: %w", err)
	}
	return b, nil
}

// UnmarshalJSON reads the form that MarshalJSON writes. Unknown members are errors.
func (f *Fault) UnmarshalJSON(b []byte) error {
	var wire faultJSON
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields() // with a misspelt fault a test would test nothing
	if err := dec.Decode(&wire); err != nil {
		return fmt.Errorf("fault: %w", err)
	}
	switch wire.Activity {
	case "", CardActivity, TextActivity:
	default:
		return fmt.Errorf("fault: activity: neither %q nor %q", CardActivity, TextActivity)
	}
	delay, err := duration(wire.Delay)
	if err != nil {
		return fmt.Errorf("fault: delay: %w", err)
	}
	retry, err := duration(wire.RetryAfter)
	if err != nil {
		return fmt.Errorf("fault: retryAfter: %w", err)
	}
	*f = Fault{
		Operation: wire.Operation, Connection: wire.Connection, Activity: wire.Activity, Times: wire.Times,
		Delay: delay, Status: wire.Status, Code: wire.Code, Body: wire.Body, RetryAfter: retry,
		Expiration: wire.Expiration, Drop: wire.Drop, AfterEffect: wire.AfterEffect,
	}
	return nil
}

func duration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = errors.New("negative")
	}
	return d, err
}

// AddFault adds a fault behind those that are already there.
func (s *Server) AddFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Faults returns the faults that are still active.
func (s *Server) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Fault{}, s.faults...)
}

// ClearFaults removes all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// takeFault returns the first fault that matches a request, and counts it as used
// once. The switch Down comes before all faults.
func (s *Server) takeFault(in *incoming) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.switches.Down {
		return Fault{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable"}, true
	}
	for i, f := range s.faults {
		if !f.fits(in) {
			continue
		}
		switch {
		case f.Times == 1:
			s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
		case f.Times > 1:
			s.faults[i].Times--
		}
		return f, true
	}
	return Fault{}, false
}

func (f *Fault) fits(in *incoming) bool {
	return (f.Operation == "" || f.Operation == in.op) &&
		(f.Connection == "" || strings.EqualFold(f.Connection, in.connection())) &&
		f.Activity.fits(in.posted)
}

// answerWithFault applies a fault. It returns done if the request needs no usual
// answer any more, and dropped if the connection has to be closed without an answer.
func (s *Server) answerWithFault(w http.ResponseWriter, in *incoming, f Fault) (done, dropped bool) {
	if f.Delay > 0 {
		late := time.NewTimer(f.Delay)
		defer late.Stop()
		select {
		case <-late.C:
		case <-in.request.Context().Done():
		}
	}
	in.expiration = f.Expiration
	if !f.Drop && f.Status == 0 {
		return false, false
	}
	if f.AfterEffect {
		s.handle(&discard{header: make(http.Header)}, in)
	}
	if f.Drop {
		return true, true
	}
	if f.RetryAfter > 0 {
		seconds := int64((f.RetryAfter + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	switch {
	case f.Body != "":
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(f.Status)
		write(w, []byte(f.Body))
	case f.Status >= http.StatusBadRequest:
		code := f.Code
		if code == "" {
			code = strings.ReplaceAll(http.StatusText(f.Status), " ", "")
		}
		const why = "ordered by a fault"
		if in.op == OpAccessToken {
			answerJSON(w, f.Status, oauthError{code, why})
		} else {
			refuse(w, f.Status, code, why)
		}
	default:
		w.WriteHeader(f.Status)
	}
	return true, false
}

// discard is an http.ResponseWriter that drops the answer.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// drop closes the connection without an answer.
func drop(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // resets the stream of HTTP/2, which cannot be hijacked
	}
	conn.Close() //nolint:errcheck // the client sees a broken connection in any case
}
