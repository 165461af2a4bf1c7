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
	Times      int       // 0 = until cleared
	// Delay comes first; alone it only makes the answer late.
	Delay time.Duration
	// Status to answer; 0 = as usual.
	Status int
	Code   string // error.code of the body
	// Body instead of an error body; with Status 200 an answer without a token.
	Body string
	// RetryAfter header, in whole seconds; 0 = none.
	RetryAfter time.Duration
	// Drop closes the connection without an answer.
	Drop bool
	// AfterEffect does what was asked for first: only the answer is lost.
	AfterEffect bool
}

type faultJSON struct {
	Operation   Operation `json:"operation,omitempty"`
	Connection  string    `json:"connection,omitempty"`
	Times       int       `json:"times,omitempty"`
	Delay       string    `json:"delay,omitempty"`
	Status      int       `json:"status,omitempty"`
	Code        string    `json:"code,omitempty"`
	Body        string    `json:"body,omitempty"`
	RetryAfter  string    `json:"retryAfter,omitempty"`
	Drop        bool      `json:"drop,omitempty"`
	AfterEffect bool      `json:"afterEffect,omitempty"`
}

// MarshalJSON writes durations as text, "1.5s".
func (f Fault) MarshalJSON() ([]byte, error) {
	wire := faultJSON{
		Operation: f.Operation, Connection: f.Connection, Times: f.Times, Status: f.Status, Code: f.Code,
		Body: f.Body, Drop: f.Drop, AfterEffect: f.AfterEffect,
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
	delay, err := duration(wire.Delay)
	if err != nil {
		return fmt.Errorf("fault: delay: %w", err)
	}
	retry, err := duration(wire.RetryAfter)
	if err != nil {
		return fmt.Errorf("fault: retryAfter: %w", err)
	}
	*f = Fault{
		Operation: wire.Operation, Connection: wire.Connection, Times: wire.Times, Delay: delay, Status: wire.Status,
		Code: wire.Code, Body: wire.Body, RetryAfter: retry, Drop: wire.Drop, AfterEffect: wire.AfterEffect,
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
		if f.Operation != "" && f.Operation != in.op || f.Connection != "" && !strings.EqualFold(f.Connection, in.connection()) {
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
		refuse(w, f.Status, code, "ordered by a fault")
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
