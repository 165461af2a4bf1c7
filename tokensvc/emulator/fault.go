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

// Fault is trouble on order: what happens to the next requests of an
// operation. Faults are tried in the order in which they were added and the
// first that fits is used.
type Fault struct {
	Operation  Operation // "" = every operation
	Connection string    // only requests that name it; "" = all
	// Activity narrows it to one kind of activity of the connector; "" = all.
	Activity ActivityKind
	Times    int // 0 = until cleared
	// Delay comes first; alone it only makes the answer late.
	Delay time.Duration
	// Status to answer; 0 = as usual.
	Status int
	Code   string // error.code of the body
	// Body instead of an error body; with Status 200 an answer without a token.
	Body string
	// RetryAfter header, in whole seconds; 0 = none.
	RetryAfter time.Duration
	// Expiration is what an answer as usual says of the tokens in it, such as a
	// time that is past; zero = their own.
	Expiration time.Time
	// Drop closes the connection without an answer.
	Drop bool
	// AfterEffect does what was asked for first: only the answer is lost.
	AfterEffect bool
}

// ActivityKind is what an activity brings.
type ActivityKind string

// The kinds that a [Fault] tells apart.
const (
	CardActivity ActivityKind = "card" // an OAuth card
	TextActivity ActivityKind = "text" // a text, and no OAuth card
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

// MarshalJSON writes durations as text, "1.5s".
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

// UnmarshalJSON is the reverse.
func (f *Fault) UnmarshalJSON(b []byte) error {
	var wire faultJSON
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields() // a misspelt fault would be a test that tests nothing
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

// AddFault orders trouble.
func (s *Server) AddFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Faults returns what is still on order.
func (s *Server) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Fault{}, s.faults...)
}

// ClearFaults cancels all of them.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// takeFault uses up one of the first fault that fits.
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

// answerWithFault reports whether that was the whole answer; it returns
// dropped if the connection is gone.
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

// discard takes an answer that nobody gets.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// drop closes the connection without an answer.
func drop(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2: resets the stream
	}
	conn.Close() //nolint:errcheck // closing it is all there is to do
}
