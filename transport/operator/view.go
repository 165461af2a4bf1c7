package operator

import (
	"strconv"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Schema is the version of the JSON shapes of this package. A new member does not
// change it; a member that changes its meaning does.
const Schema = 1

// Time is a point in time. In JSON it is RFC 3339 in UTC with milliseconds, or null
// for the zero time.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// String returns the JSON form without quotes, or "" for the zero time.
func (t Time) String() string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// MarshalJSON writes the time, or null.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return strconv.AppendQuote(nil, t.String()), nil
}

// Milliseconds is a duration. In JSON it is a number of milliseconds, with a
// fraction down to microseconds.
type Milliseconds time.Duration

// MarshalJSON writes the number of milliseconds.
func (m Milliseconds) MarshalJSON() ([]byte, error) {
	ms := float64(time.Duration(m).Round(time.Microsecond)) / float64(time.Millisecond)
	return strconv.AppendFloat(nil, ms, 'f', -1, 64), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (m *Milliseconds) UnmarshalJSON(b []byte) error {
	ms, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return err
	}
	*m = Milliseconds(ms * float64(time.Millisecond))
	return nil
}

// Duration returns m as a duration.
func (m Milliseconds) Duration() time.Duration { return time.Duration(m) }

// View is one attempt as operators see it. It has no secrets, no HMACs and no sealed
// data (docs/operations.md).
type View struct {
	Schema         int              `json:"schema"`
	ID             string           `json:"id"`
	Key            KeyView          `json:"key"`
	Tenant         string           `json:"tenant"`
	UserAAD        string           `json:"user_aad"`
	UserName       string           `json:"user_name,omitempty"` // display name that the activity had
	State          store.State      `json:"state"`
	Version        int64            `json:"version"`
	Origin         store.Origin     `json:"origin"`
	Method         store.Method     `json:"method"`
	Reason         store.Reason     `json:"reason"`
	SSOOffered     bool             `json:"sso_offered"`
	ExchangeID     string           `json:"exchange_id"`
	CardActivityID string           `json:"card_activity_id"`
	Conversation   ConversationView `json:"conversation"`
	Created        Time             `json:"created"`
	Entered        Time             `json:"entered"`
	Expires        Time             `json:"expires"`
	Lease          LeaseView        `json:"lease"`
	VerifyTries    int              `json:"verify_tries"`
	Supersedes     string           `json:"supersedes"`
	SupersededBy   string           `json:"superseded_by"`
	Failure        *FailureView     `json:"failure"`
	Diagnosis      *DiagnosisView   `json:"diagnosis"`
	Callback       CallbackView     `json:"callback"`
	Stuck          *StuckView       `json:"stuck"`
}

// KeyView is the key of an attempt: whose sign-in to which connection it is.
type KeyView struct {
	App        string `json:"app"`
	Channel    string `json:"channel"`
	User       string `json:"user"`
	Connection string `json:"connection"`
}

// ConversationView is where the attempt began.
type ConversationView struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// LeaseView is the lease of an attempt. Until is null if there never was one.
type LeaseView struct {
	Owner   string `json:"owner"`
	Fence   int64  `json:"fence"`
	Until   Time   `json:"until"`
	Expired bool   `json:"expired"`
}

// FailureView is the last failure of an attempt or a callback.
type FailureView struct {
	Source     string `json:"source"`         // who reported it: client, token_service, connector, credentials
	Operation  string `json:"operation"`      // the call that failed, or the invoke that reported the failure
	HTTPStatus int    `json:"http_status"`    // 0 = no answer
	Code       string `json:"code"`           // the code of the upstream or the client
	Kind       string `json:"kind,omitempty"` // what the code means, such as consent_required; "" = not known
	Message    string `json:"message"`
}

// DiagnosisView has the results of the checks of the SSO token whose exchange was
// refused last. A member is null if the token does not have the claim.
type DiagnosisView struct {
	Audience *bool `json:"audience"` // the audience is the card's resource, or the client id at its end
	Version  *bool `json:"version"`  // the version is 2.0
	Tenant   *bool `json:"tenant"`   // the tenant is the conversation's
	User     *bool `json:"user"`     // the user is the sender of the invoke
	Client   *bool `json:"client"`   // the client is one of the two Teams clients
	Fresh    *bool `json:"fresh"`    // the token had not expired
}

// CallbackView sums up the callbacks of an attempt. Status is that of the delivery
// that matters most: a dead one, else a pending one, else an undeliverable one, else
// the latest. It is "none" if there is no delivery.
type CallbackView struct {
	Status string `json:"status"`
	Tries  int    `json:"tries"`
}

// callbackNone is the status of an attempt without deliveries.
const callbackNone = "none"

// StuckView is the most serious finding about an attempt.
type StuckView struct {
	Rule  string       `json:"rule"`
	Level string       `json:"level"`
	Age   Milliseconds `json:"age_ms"`
}

// Finding is a broken stuck rule, with what to do about it.
type Finding struct {
	Attempt    string       `json:"attempt,omitempty"` // the newest of many; "" = the finding is about the whole engine
	Subject    string       `json:"subject,omitempty"` // what many attempts have in common: a key, a code, an upstream
	User       string       `json:"user,omitempty"`
	UserName   string       `json:"user_name,omitempty"`
	Connection string       `json:"connection,omitempty"`
	State      store.State  `json:"state,omitempty"`
	Rule       string       `json:"rule"`
	Level      string       `json:"level"`
	Age        Milliseconds `json:"age_ms"`
	Detail     string       `json:"detail,omitempty"`  // the evidence: counts, codes, names
	Advice     string       `json:"advice"`            // the same for every finding of a rule
	Command    string       `json:"command,omitempty"` // shell command to paste, without the flags that name the store
}

// Serious reports whether the level of the finding is [LevelError].
func (f Finding) Serious() bool { return f.Level == LevelError }

// EventView is one line of the audit trail.
type EventView struct {
	Attempt    string          `json:"attempt"` // "" = the line belongs to no attempt
	Seq        int64           `json:"seq"`
	Time       Time            `json:"time"`
	Instance   string          `json:"instance,omitempty"`
	Kind       store.EventKind `json:"kind"`
	Row        string          `json:"row,omitempty"`
	Version    int64           `json:"version,omitempty"`
	From       store.State     `json:"from,omitempty"`
	To         store.State     `json:"to,omitempty"`
	Invoke     string          `json:"invoke,omitempty"`
	ActivityID string          `json:"activity_id,omitempty"`
	Status     int             `json:"status,omitempty"`
	Source     string          `json:"source,omitempty"` // who failed
	Code       string          `json:"code,omitempty"`
	Duration   Milliseconds    `json:"duration_ms,omitempty"`
	Platform   string          `json:"platform,omitempty"`
	Detail     string          `json:"detail,omitempty"`
	Actor      string          `json:"actor,omitempty"`
	Key        *KeyView        `json:"key,omitempty"` // only if Attempt is empty
}

// EventPage is a page of audit lines. NextCursor and More are set for the trail of
// all attempts only. NextCursor continues after the page, now or later: no line is
// missed and none comes twice. More means that there are further lines already.
type EventPage struct {
	Events     []EventView `json:"events"`
	NextCursor string      `json:"next_cursor,omitempty"`
	More       bool        `json:"more,omitempty"`
}

// DeliveryView is one row of the outbox.
type DeliveryView struct {
	Key     string               `json:"key"` // attempt/kind/round, the key that the handler gets
	Kind    store.DeliveryKind   `json:"kind"`
	Round   int                  `json:"round"`
	Status  store.DeliveryStatus `json:"status"`
	Tries   int                  `json:"tries"`
	Created Time                 `json:"created"`
	NextAt  Time                 `json:"next_at"`
	Owner   string               `json:"owner,omitempty"`
	Failure *FailureView         `json:"failure"`           // the client's failure, which the handler gets; null = none, or on the server side
	Refusal *FailureView         `json:"refusal,omitempty"` // the failure of an upstream, which the handler does not get
	Error   string               `json:"error,omitempty"`
}

// Detail has everything about one attempt.
type Detail struct {
	View
	Now             Time           `json:"now"`
	Platform        string         `json:"platform"`
	ActivityID      string         `json:"activity_id"` // the activity that opened the attempt
	ResourceURI     string         `json:"resource_uri"`
	NoSSOUntil      Time           `json:"no_sso_until"` // until then, cards do not offer SSO
	SSOOutcome      string         `json:"sso_outcome"`
	DeliveryUnknown bool           `json:"delivery_unknown"`
	PopupClosed     bool           `json:"popup_closed"`
	Rounds          int            `json:"rounds"`
	Invokes         int            `json:"invokes"`
	Findings        []Finding      `json:"findings"`
	Deliveries      []DeliveryView `json:"deliveries"`
	Events          []EventView    `json:"events"`
}

// Page is a page of attempts, newest first.
type Page struct {
	Attempts   []View   `json:"attempts"`
	NextCursor string   `json:"next_cursor"`          // "" = this is the last page
	Unreadable []string `json:"unreadable,omitempty"` // ids of records that cannot be decoded
}

// NewView returns the view of a at the time now. deliveries may have rows of other
// attempts too. findings are those about a, the most serious first.
func NewView(now time.Time, a *store.Attempt, deliveries []store.Delivery, findings []Finding) View {
	v := View{
		Schema:         Schema,
		ID:             a.ID,
		Key:            keyView(a.Key),
		Tenant:         a.Conversation.Tenant,
		UserAAD:        a.Conversation.UserAAD,
		UserName:       a.Conversation.UserName,
		State:          a.State,
		Version:        a.Version,
		Origin:         a.Origin,
		Method:         a.Method,
		Reason:         a.Reason,
		SSOOffered:     a.SSOOffered,
		ExchangeID:     a.ExchangeID,
		CardActivityID: a.CardActivityID,
		Conversation:   ConversationView{Type: a.Conversation.Type, ID: a.Conversation.ID},
		Created:        Time{a.Created},
		Entered:        Time{a.Entered},
		Expires:        Time{a.Expires},
		Lease: LeaseView{
			Owner: a.Lease.Owner, Fence: a.Lease.Fence, Until: Time{a.Lease.Until},
			Expired: !a.Lease.Until.IsZero() && !a.Lease.Live(now),
		},
		VerifyTries:  a.VerifyTries,
		Supersedes:   a.Supersedes,
		SupersededBy: a.SupersededBy,
		Failure:      failureView(a.Failure),
		Diagnosis:    diagnosisView(a.Diagnosis),
		Callback:     callbackView(a.ID, deliveries),
	}
	if len(findings) > 0 {
		f := findings[0]
		v.Stuck = &StuckView{Rule: f.Rule, Level: f.Level, Age: f.Age}
	}
	return v
}

func keyView(k store.Key) KeyView {
	return KeyView{App: k.App, Channel: k.Channel, User: k.User, Connection: k.Connection}
}

func failureView(f *store.Failure) *FailureView {
	if f == nil {
		return nil
	}
	return &FailureView{
		Source: f.Source, Operation: f.Operation, HTTPStatus: f.Status, Code: f.Code, Kind: f.Kind, Message: f.Message,
	}
}

func diagnosisView(d store.Diagnosis) *DiagnosisView {
	if d == (store.Diagnosis{}) {
		return nil
	}
	return &DiagnosisView{
		Audience: verdict(d.Audience), Version: verdict(d.Version), Tenant: verdict(d.Tenant),
		User: verdict(d.User), Client: verdict(d.Client), Fresh: verdict(d.Fresh),
	}
}

func verdict(v store.Verdict) *bool {
	switch v {
	case store.Holds, store.Fails:
		return new(v == store.Holds)
	case store.Unknown:
	}
	return nil
}

// callbackView picks the delivery that matters most to an operator.
func callbackView(id string, deliveries []store.Delivery) CallbackView {
	var pick *store.Delivery
	for i := range deliveries {
		d := &deliveries[i]
		if d.Attempt != id {
			continue
		}
		if pick == nil || weight(d.Status) > weight(pick.Status) ||
			weight(d.Status) == weight(pick.Status) && d.Round > pick.Round {
			pick = d
		}
	}
	if pick == nil {
		return CallbackView{Status: callbackNone}
	}
	return CallbackView{Status: string(pick.Status), Tries: pick.Tries}
}

func weight(s store.DeliveryStatus) int {
	switch s {
	case store.DeliveryDead:
		return 3
	case store.DeliveryPending:
		return 2
	case store.DeliveryUndeliverable:
		return 1
	case store.DeliveryDone, store.DeliveryDropped, store.DeliveryNotOwed:
		return 0
	}
	return 0
}

func eventView(e *store.Event) EventView {
	v := EventView{
		Attempt: e.Attempt, Seq: e.Seq, Time: Time{e.Time}, Instance: e.Instance, Kind: e.Kind,
		Row: e.Row, Version: e.Version, From: e.From, To: e.To, Invoke: e.Invoke, ActivityID: e.Activity,
		Status: e.Status, Source: e.Source, Code: e.Code, Duration: Milliseconds(e.Duration), Platform: e.Platform, Detail: e.Detail, Actor: e.Actor,
	}
	if e.Key != (store.Key{}) {
		k := keyView(e.Key)
		v.Key = &k
	}
	return v
}

func eventViews(events []store.Event) []EventView {
	views := make([]EventView, len(events))
	for i := range events {
		views[i] = eventView(&events[i])
	}
	return views
}

func deliveryViews(id string, deliveries []store.Delivery) []DeliveryView {
	views := make([]DeliveryView, 0, len(deliveries))
	for i := range deliveries {
		d := &deliveries[i]
		if d.Attempt != id {
			continue
		}
		views = append(views, DeliveryView{
			Key: d.String(), Kind: d.Kind, Round: d.Round, Status: d.Status, Tries: d.Tries,
			Created: Time{d.Created}, NextAt: Time{d.NextAt}, Owner: d.Owner,
			Failure: failureView(d.Failure), Refusal: failureView(d.Refusal), Error: d.Error,
		})
	}
	return views
}
