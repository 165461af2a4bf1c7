package operator

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Query selects attempts: those that match every member. A zero member selects all.
type Query struct {
	User         string // MRI or Entra object id
	Connection   string
	Tenant       string
	Conversation string
	States       []store.State // one of these
	Reason       store.Reason
	FailureCode  string // code of the last failure
	Method       store.Method
	Platform     string        // the Teams client: Web, Windows, Mac, iOS, Android
	Instance     string        // last owner of the lease
	Since        time.Time     // created at or after this time
	Until        time.Time     // created before this time
	AgeGT        time.Duration // in its state for longer than this
	Stuck        bool          // breaks a stuck rule
	Limit        int           // attempts per page, at most MaxLimit; 0 = 50
	Cursor       string        // Page.NextCursor of the page before; "" = the first page
}

// EventQuery selects audit lines: with Attempt those of one attempt, with Orphans
// those without an attempt, both oldest first. With neither it selects the audit
// trail of all attempts, in the order in which it was written.
type EventQuery struct {
	Attempt string    // full id of the attempt
	Orphans bool      // lines without an attempt
	Since   time.Time // written at or after this time
	After   int64     // only lines with a greater Seq; needs Attempt or Orphans
	Limit   int       // lines per page, at most MaxLimit; 0 = 1000
	Cursor  string    // EventPage.NextCursor of the page before; only without Attempt and Orphans
}

const (
	defaultLimit = 50
	// MaxLimit is the highest Limit of a query.
	MaxLimit          = 1000
	defaultEventLimit = 1000
)

// Values returns q as a query string; [ParseQuery] reads it.
func (q Query) Values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("user", q.User)
	set("connection", q.Connection)
	set("tenant", q.Tenant)
	set("conversation", q.Conversation)
	for _, s := range q.States {
		v.Add("state", string(s))
	}
	set("reason", string(q.Reason))
	set("failure_code", q.FailureCode)
	set("method", string(q.Method))
	set("platform", q.Platform)
	set("instance", q.Instance)
	set("since", formatTime(q.Since))
	set("until", formatTime(q.Until))
	if q.AgeGT > 0 {
		v.Set("age_gt", q.AgeGT.String())
	}
	if q.Stuck {
		v.Set("stuck", "true")
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	set("cursor", q.Cursor)
	return v
}

// ParseQuery reads a query string that [Query.Values] wrote, or a person: since
// and until may also be a date or an age such as 24h, counted back from now. Errors
// match [ErrBadRequest] and name the parameter. An unknown parameter is an error.
func ParseQuery(v url.Values, now time.Time) (Query, error) {
	p := params{Values: v, now: now}
	q := Query{
		User:         p.Get("user"),
		Connection:   p.Get("connection"),
		Tenant:       p.Get("tenant"),
		Conversation: p.Get("conversation"),
		States:       p.states("state"),
		Reason:       store.Reason(p.Get("reason")),
		FailureCode:  p.Get("failure_code"),
		Method:       store.Method(p.Get("method")),
		Platform:     p.Get("platform"),
		Instance:     p.Get("instance"),
		Since:        p.time("since"),
		Until:        p.time("until"),
		AgeGT:        p.duration("age_gt"),
		Stuck:        p.bool("stuck"),
		Limit:        int(p.number("limit", MaxLimit)),
		Cursor:       p.Get("cursor"),
	}
	p.only("user", "connection", "tenant", "conversation", "state", "reason", "failure_code", "method",
		"platform", "instance", "since", "until", "age_gt", "stuck", "limit", "cursor")
	return q, p.err
}

// Values returns q as a query string; [ParseEventQuery] reads it.
func (q EventQuery) Values() url.Values {
	v := url.Values{}
	if q.Attempt != "" {
		v.Set("attempt", q.Attempt)
	}
	if q.Orphans {
		v.Set("orphans", "true")
	}
	if !q.Since.IsZero() {
		v.Set("since", formatTime(q.Since))
	}
	if q.After > 0 {
		v.Set("after", strconv.FormatInt(q.After, 10))
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Cursor != "" {
		v.Set("cursor", q.Cursor)
	}
	return v
}

// ParseEventQuery reads a query string that [EventQuery.Values] wrote. since may
// also be a date or an age such as 24h, counted back from now. Errors match
// [ErrBadRequest] and name the parameter. An unknown parameter is an error.
func ParseEventQuery(v url.Values, now time.Time) (EventQuery, error) {
	p := params{Values: v, now: now}
	q := EventQuery{
		Attempt: p.Get("attempt"),
		Orphans: p.bool("orphans"),
		Since:   p.time("since"),
		After:   p.number("after", 0),
		Limit:   int(p.number("limit", MaxLimit)),
		Cursor:  p.Get("cursor"),
	}
	p.only("attempt", "orphans", "since", "after", "limit", "cursor")
	return q, p.err
}

// ParseStates reads the names of states. A word may have several, separated by
// commas. Upper and lower case are the same.
func ParseStates(words ...string) ([]store.State, error) {
	all := []store.State{store.Idle, store.CardSent, store.Exchanging, store.Verifying, store.Complete, store.Failed}
	var states []store.State
	for _, word := range words {
		for name := range strings.SplitSeq(word, ",") {
			i := slices.IndexFunc(all, func(s store.State) bool { return strings.EqualFold(string(s), strings.TrimSpace(name)) })
			if i < 0 {
				return nil, fmt.Errorf("%q is no state: Idle, CardSent, Exchanging, Verifying, Complete or Failed", name)
			}
			states = append(states, all[i])
		}
	}
	return states, nil
}

// ParseTime reads RFC 3339, a date (2006-01-02, UTC), or an age such as 24h
// counted back from now.
func ParseTime(s string, now time.Time) (time.Time, error) {
	if d, err := ParseAge(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither RFC 3339, nor a date, nor an age such as 24h", s)
}

// ParseAge reads a duration in the form of [time.ParseDuration], or a whole number
// of days or weeks: 90s, 24h, 7d, 2w. A negative duration is an error.
func ParseAge(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	for unit, length := range map[string]time.Duration{"d": day, "w": 7 * day} {
		digits, ok := strings.CutSuffix(s, unit)
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return time.Duration(n) * length, nil
		}
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no age such as 90s, 24h, 7d or 2w", s)
	case d < 0:
		return 0, fmt.Errorf("%q is negative", s)
	default:
		return d, nil
	}
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// params reads query parameters and keeps the first error.
type params struct {
	url.Values
	now time.Time
	err error
}

func (p *params) fail(name string, err error) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s: %w", ErrBadRequest, name, err)
	}
}

func (p *params) states(name string) []store.State {
	if !p.Has(name) {
		return nil
	}
	states, err := ParseStates(p.Values[name]...)
	if err != nil {
		p.fail(name, err)
	}
	return states
}

func (p *params) time(name string) time.Time {
	s := p.Get(name)
	if s == "" {
		return time.Time{}
	}
	t, err := ParseTime(s, p.now)
	if err != nil {
		p.fail(name, err)
	}
	return t
}

func (p *params) duration(name string) time.Duration {
	s := p.Get(name)
	if s == "" {
		return 0
	}
	d, err := ParseAge(s)
	if err != nil {
		p.fail(name, err)
	}
	return d
}

func (p *params) bool(name string) bool {
	s := p.Get(name)
	if s == "" {
		return false
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		p.fail(name, fmt.Errorf("%q is neither true nor false", s))
	}
	return b
}

func (p *params) number(name string, highest int64) int64 {
	s := p.Get(name)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || highest > 0 && n > highest {
		p.fail(name, fmt.Errorf("%q is no number from 0 to %d", s, highest))
		return 0
	}
	return n
}

// only fails if there is a parameter with another name: a misspelt filter must not
// select everything.
func (p *params) only(names ...string) {
	for name := range p.Values {
		if !slices.Contains(names, name) {
			p.fail(name, errUnknownParameter)
		}
	}
}
