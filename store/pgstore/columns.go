package pgstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/signin-engine/signin-engine/store"
)

// column is a member of R with a column of its own. array makes one argument of the
// values of many rows; dest is what a row is scanned into.
type column[R any] struct {
	name, typ string
	array     func(rows []R) any
	dest      func(*R) any
}

func each[R, V any](rows []R, value func(*R) V) []V {
	out := make([]V, len(rows))
	for i := range rows {
		out[i] = value(&rows[i])
	}
	return out
}

func text[R any, S ~string](name string, at func(*R) *S) column[R] {
	return column[R]{
		name, "text",
		func(rows []R) any { return each(rows, func(r *R) string { return clean(string(*at(r))) }) },
		func(r *R) any { return at(r) },
	}
}

// value is a column of numbers or booleans.
func value[R, V any](name, typ string, at func(*R) *V) column[R] {
	return column[R]{
		name, typ,
		func(rows []R) any { return each(rows, func(r *R) V { return *at(r) }) },
		func(r *R) any { return at(r) },
	}
}

// instant is a time that is never null; the zero time is the year 1.
func instant[R any](name string, at func(*R) *time.Time) column[R] {
	return column[R]{
		name, "timestamptz",
		func(rows []R) any { return each(rows, func(r *R) time.Time { return store.Time(*at(r)) }) },
		func(r *R) any { return at(r) },
	}
}

// perhaps is a time that is null for the zero time.
func perhaps[R any](name string, at func(*R) *time.Time) column[R] {
	return column[R]{
		name, "timestamptz",
		func(rows []R) any { return each(rows, func(r *R) maybeTime { return maybeTime(*at(r)) }) },
		func(r *R) any { return (*maybeTime)(at(r)) },
	}
}

// blob is bytea or jsonb, null for none.
func blob[R any](name, typ string, at func(*R) *[]byte) column[R] {
	return column[R]{
		name, typ,
		func(rows []R) any { return each(rows, func(r *R) []byte { return *at(r) }) },
		func(r *R) any { return at(r) },
	}
}

// maybeTime is a time that is null in the database if it is zero.
type maybeTime time.Time

// ScanTimestamptz implements [pgtype.TimestamptzScanner].
func (t *maybeTime) ScanTimestamptz(v pgtype.Timestamptz) error {
	*t = maybeTime{}
	if v.Valid {
		*t = maybeTime(store.Time(v.Time))
	}
	return nil
}

// TimestamptzValue implements [pgtype.TimestamptzValuer].
func (t maybeTime) TimestamptzValue() (pgtype.Timestamptz, error) {
	at := store.Time(time.Time(t))
	return pgtype.Timestamptz{Time: at, Valid: !at.IsZero()}, nil
}

// names lists the columns, each with a prefix.
func names[R any](prefix string, columns []column[R]) string {
	return joined(columns, func(c *column[R]) string { return prefix + quoted(c.name) })
}

// rowsOf is a table of the rows that args adds to the arguments.
func rowsOf[R any](alias string, columns []column[R]) string {
	return fmt.Sprintf("unnest(%s) as %s(%s)",
		joined(columns, func(c *column[R]) string { return "@" + alias + "_" + c.name + "::" + c.typ + "[]" }), alias, names("", columns))
}

// args adds rows to the arguments of a statement with rowsOf in it.
func args[R any](to pgx.NamedArgs, alias string, columns []column[R], rows []R) {
	for i := range columns {
		to[alias+"_"+columns[i].name] = columns[i].array(rows)
	}
}

// assign is the set list of an update.
func assign[R any](from string, columns []column[R]) string {
	return joined(columns, func(c *column[R]) string { return quoted(c.name) + " = " + from + "." + quoted(c.name) })
}

func joined[R any](columns []column[R], fn func(*column[R]) string) string {
	out := make([]string, len(columns))
	for i := range columns {
		out[i] = fn(&columns[i])
	}
	return strings.Join(out, ", ")
}

// quoted quotes a name for SQL; only one of ours is a keyword.
func quoted(name string) string {
	if name == "row" {
		return `"row"`
	}
	return name
}

// read scans each row, first into head and then into the columns, and calls fn with it.
func read[R any](rows pgx.Rows, head []any, columns []column[R], fn func(*R) error) error {
	defer rows.Close()
	dest := append([]any{}, head...)
	for rows.Next() {
		r := new(R)
		dest = dest[:len(head)]
		for i := range columns {
			dest = append(dest, columns[i].dest(r))
		}
		if err := rows.Scan(dest...); err != nil {
			return err //nolint:wrapcheck // the caller names the operation
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return rows.Err() //nolint:wrapcheck // the caller names the operation
}

// attemptRow is a row of attempts: the attempt, and columns that are not members of it.
type attemptRow struct {
	store.Attempt
	home   int64
	key    string // the connection in lower case
	due    time.Time
	code   string // of the failure
	detail []byte

	touch // of a row that is written
}

// attemptColumns are the columns of attempts, except for those that the statements
// compute.
var attemptColumns = []column[attemptRow]{
	value("home", "int8", func(r *attemptRow) *int64 { return &r.home }),
	text("id", func(r *attemptRow) *string { return &r.ID }),
	text("app", func(r *attemptRow) *string { return &r.Key.App }),
	text("channel", func(r *attemptRow) *string { return &r.Key.Channel }),
	text("user_id", func(r *attemptRow) *string { return &r.Key.User }),
	text("connection_key", func(r *attemptRow) *string { return &r.key }),
	// The columns from here on may change.
	text("connection", func(r *attemptRow) *string { return &r.Key.Connection }),
	value("version", "int8", func(r *attemptRow) *int64 { return &r.Version }),
	instant("created", func(r *attemptRow) *time.Time { return &r.Created }),
	instant("entered", func(r *attemptRow) *time.Time { return &r.Entered }),
	perhaps("expires", func(r *attemptRow) *time.Time { return &r.Expires }),
	perhaps("due", func(r *attemptRow) *time.Time { return &r.due }),
	perhaps("lease_until", func(r *attemptRow) *time.Time { return &r.Lease.Until }),
	value("lease_fence", "int8", func(r *attemptRow) *int64 { return &r.Lease.Fence }),
	value("verify_tries", "int8", func(r *attemptRow) *int { return &r.VerifyTries }),
	value("rounds", "int8", func(r *attemptRow) *int { return &r.Rounds }),
	value("invokes", "int8", func(r *attemptRow) *int { return &r.Invokes }),
	value("sso_offered", "bool", func(r *attemptRow) *bool { return &r.SSOOffered }),
	text("state", func(r *attemptRow) *store.State { return &r.State }),
	text("origin", func(r *attemptRow) *store.Origin { return &r.Origin }),
	text("method", func(r *attemptRow) *store.Method { return &r.Method }),
	text("reason", func(r *attemptRow) *store.Reason { return &r.Reason }),
	text("failure_code", func(r *attemptRow) *string { return &r.code }),
	text("tenant", func(r *attemptRow) *string { return &r.Conversation.Tenant }),
	text("user_aad", func(r *attemptRow) *string { return &r.Conversation.UserAAD }),
	text("user_name", func(r *attemptRow) *string { return &r.Conversation.UserName }),
	text("conversation_id", func(r *attemptRow) *string { return &r.Conversation.ID }),
	text("conversation_type", func(r *attemptRow) *string { return &r.Conversation.Type }),
	text("platform", func(r *attemptRow) *string { return &r.Platform }),
	text("lease_owner", func(r *attemptRow) *string { return &r.Lease.Owner }),
	text("exchange_id", func(r *attemptRow) *string { return &r.ExchangeID }),
	text("card_activity_id", func(r *attemptRow) *string { return &r.CardActivityID }),
	text("activity_id", func(r *attemptRow) *string { return &r.Activity }),
	text("supersedes", func(r *attemptRow) *string { return &r.Supersedes }),
	text("superseded_by", func(r *attemptRow) *string { return &r.SupersededBy }),
	text("sso_outcome", func(r *attemptRow) *string { return &r.SSOOutcome }),
	blob("token_mark", "bytea", func(r *attemptRow) *[]byte { return &r.TokenMark }),
	blob("code_mark", "bytea", func(r *attemptRow) *[]byte { return &r.CodeMark }),
	blob("detail", "jsonb", func(r *attemptRow) *[]byte { return &r.detail }),
	// The last column hardly ever changes: see requestSQL.
	blob("request", "bytea", func(r *attemptRow) *[]byte { return &r.Request }),
}

// unchanging is how many of attemptColumns never change.
const unchanging = 6

// detail has the members of an attempt without a column, under the names that the
// command line uses. Unknown members are ignored: a newer program wrote them.
type detail struct {
	ServiceURL       string     `json:"service_url,omitempty"`
	ChannelID        string     `json:"channel_id,omitempty"` // sub-channel included
	IsGroup          bool       `json:"is_group,omitempty"`
	BotID            string     `json:"bot_id,omitempty"`
	BotName          string     `json:"bot_name,omitempty"`
	SenderID         string     `json:"sender_id,omitempty"` // of the conversation
	Locale           string     `json:"locale,omitempty"`
	CardConversation string     `json:"card_conversation_id,omitempty"`
	ResourceURI      string     `json:"resource_uri,omitempty"`
	DeliveryUnknown  bool       `json:"delivery_unknown,omitempty"`
	PopupClosed      bool       `json:"popup_closed,omitempty"`
	CheckAt          time.Time  `json:"check_at,omitzero"`
	Checks           int        `json:"checks,omitempty"`
	Calls            int        `json:"callbacks,omitempty"`
	Failure          *failure   `json:"failure,omitempty"`
	Diagnosis        *diagnosis `json:"diagnosis,omitempty"`
	NoSSOUntil       time.Time  `json:"no_sso_until,omitzero"`
	AnswerStatus     int        `json:"answer_status,omitempty"`
	AnswerDetail     string     `json:"answer_detail,omitempty"`
	AnswerCause      int        `json:"answer_cause,omitempty"`
	AnswerAt         time.Time  `json:"answer_at,omitzero"`
	CodeStatus       int        `json:"code_status,omitempty"`
	Generation       int64      `json:"generation,omitempty"`
}

// failure is a [store.Failure] as JSON.
type failure struct {
	Source    string `json:"source,omitempty"`
	Operation string `json:"operation,omitempty"`
	Status    int    `json:"http_status,omitempty"`
	Code      string `json:"code,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Message   string `json:"message,omitempty"`
}

// diagnosis is a [store.Diagnosis] as JSON.
type diagnosis struct {
	Audience verdict `json:"audience,omitzero"`
	Version  verdict `json:"version,omitzero"`
	Tenant   verdict `json:"tenant,omitzero"`
	User     verdict `json:"user,omitzero"`
	Client   verdict `json:"client,omitzero"`
	Fresh    verdict `json:"fresh,omitzero"`
}

// verdict is true or false in JSON, and omitted if unknown.
type verdict store.Verdict

// MarshalJSON implements [json.Marshaler].
func (v verdict) MarshalJSON() ([]byte, error) {
	return strconv.AppendBool(nil, v == verdict(store.Holds)), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (v *verdict) UnmarshalJSON(b []byte) error {
	var holds bool
	if err := json.Unmarshal(b, &holds); err != nil {
		return err //nolint:wrapcheck // the caller names the record
	}
	*v = verdict(store.Fails)
	if holds {
		*v = verdict(store.Holds)
	}
	return nil
}

// fill takes over an attempt to be written and computes the other columns.
func (r *attemptRow) fill(put *store.Attempt) {
	r.Attempt = *put // a shallow copy: what it points to is only read
	a := &r.Attempt
	a.Normalize()
	r.home, r.key, r.due = home(a.Key.UserKey()), strings.ToLower(a.Key.Connection), a.Due()
	c := &a.Conversation
	d := detail{
		ServiceURL: c.ServiceURL, ChannelID: c.Channel, IsGroup: c.IsGroup, BotID: c.BotID, BotName: c.BotName, SenderID: c.UserID,
		Locale: c.Locale, CardConversation: a.CardConversation, ResourceURI: a.ResourceURI, DeliveryUnknown: a.DeliveryUnknown,
		PopupClosed: a.PopupClosed, CheckAt: a.CheckAt, Checks: a.Checks, Calls: a.Calls, NoSSOUntil: a.NoSSOUntil,
		AnswerStatus: a.AnswerStatus, AnswerDetail: a.AnswerDetail, AnswerCause: a.AnswerCause, AnswerAt: a.AnswerAt,
		CodeStatus: a.CodeStatus, Generation: a.Generation,
	}
	if a.Failure != nil {
		f := failure(*a.Failure)
		r.code, f.Code = f.Code, "" // it has a column
		d.Failure = &f
	}
	if a.Diagnosis != (store.Diagnosis{}) {
		g := &a.Diagnosis
		d.Diagnosis = &diagnosis{verdict(g.Audience), verdict(g.Version), verdict(g.Tenant), verdict(g.User), verdict(g.Client), verdict(g.Fresh)}
	}
	r.detail = encode(d)
}

// attempt returns the attempt of a row that was read. An error is [store.ErrCorrupt].
func (r *attemptRow) attempt() (store.Attempt, error) {
	a := &r.Attempt
	var d detail
	err := json.Unmarshal(r.detail, &d)
	if err == nil && !a.State.Valid() {
		err = fmt.Errorf("state %q", a.State)
	}
	if err != nil {
		return store.Attempt{}, corrupt("attempt "+a.ID, err)
	}
	c := &a.Conversation
	c.ServiceURL, c.Channel, c.IsGroup, c.BotID, c.BotName, c.UserID, c.Locale = d.ServiceURL, d.ChannelID, d.IsGroup, d.BotID, d.BotName, d.SenderID, d.Locale
	a.CardConversation, a.ResourceURI, a.DeliveryUnknown, a.PopupClosed = d.CardConversation, d.ResourceURI, d.DeliveryUnknown, d.PopupClosed
	a.CheckAt, a.Checks, a.Calls, a.NoSSOUntil = d.CheckAt, d.Checks, d.Calls, d.NoSSOUntil
	a.AnswerStatus, a.AnswerDetail, a.AnswerCause, a.AnswerAt = d.AnswerStatus, d.AnswerDetail, d.AnswerCause, d.AnswerAt
	a.CodeStatus, a.Generation = d.CodeStatus, d.Generation
	if d.Failure != nil {
		a.Failure = new(store.Failure(*d.Failure))
		a.Failure.Code = r.code
	}
	if g := d.Diagnosis; g != nil {
		a.Diagnosis = store.Diagnosis{
			Audience: store.Verdict(g.Audience), Version: store.Verdict(g.Version), Tenant: store.Verdict(g.Tenant),
			User: store.Verdict(g.User), Client: store.Verdict(g.Client), Fresh: store.Verdict(g.Fresh),
		}
	}
	a.Normalize()
	return *a, nil
}

// eventRow is an audit line.
type eventRow struct {
	store.Event
	us int64 // its duration

	// Set for a line to be written.
	commit int
	n      int64 // of the touch that it belongs to; -1: of none, always written
	nth    int64 // of the touch's lines, from 1
	ord    int64 // of the transaction's lines, from 1
	home   int64
}

var (
	// eventColumns are the columns of events, except for those that the statements
	// compute.
	eventColumns = []column[eventRow]{
		text("attempt", func(r *eventRow) *string { return &r.Attempt }),
		instant("at", func(r *eventRow) *time.Time { return &r.Time }),
		value("version", "int8", func(r *eventRow) *int64 { return &r.Version }),
		value("status", "int8", func(r *eventRow) *int { return &r.Status }),
		value("duration_us", "int8", func(r *eventRow) *int64 { return &r.us }),
		text("instance", func(r *eventRow) *string { return &r.Instance }),
		text("kind", func(r *eventRow) *store.EventKind { return &r.Kind }),
		text("row", func(r *eventRow) *string { return &r.Row }),
		text("from_state", func(r *eventRow) *store.State { return &r.From }),
		text("to_state", func(r *eventRow) *store.State { return &r.To }),
		text("invoke", func(r *eventRow) *string { return &r.Invoke }),
		text("activity_id", func(r *eventRow) *string { return &r.Activity }),
		text("source", func(r *eventRow) *string { return &r.Source }),
		text("code", func(r *eventRow) *string { return &r.Code }),
		text("platform", func(r *eventRow) *string { return &r.Platform }),
		text("detail", func(r *eventRow) *string { return &r.Detail }),
		text("actor", func(r *eventRow) *string { return &r.Actor }),
		text("app", func(r *eventRow) *string { return &r.Key.App }),
		text("channel", func(r *eventRow) *string { return &r.Key.Channel }),
		text("user_id", func(r *eventRow) *string { return &r.Key.User }),
		text("connection", func(r *eventRow) *string { return &r.Key.Connection }),
	}
	lineColumns = append([]column[eventRow]{
		value("n", "int8", func(r *eventRow) *int64 { return &r.n }),
		value("nth", "int8", func(r *eventRow) *int64 { return &r.nth }),
		value("ord", "int8", func(r *eventRow) *int64 { return &r.ord }),
		value("home", "int8", func(r *eventRow) *int64 { return &r.home }),
	}, eventColumns...)
)

// event returns the line of a row that was read.
func (r *eventRow) event() store.Event {
	e := r.Event
	e.Time, e.Duration = store.Time(e.Time), time.Duration(r.us)*time.Microsecond
	return e
}

// deliveryRow is a row of deliveries.
type deliveryRow struct {
	store.Delivery
	home             int64
	failure, refusal []byte

	n   int64  // of the commit that writes it
	by  string // of an ack
	try int
}

var (
	deliveryColumns = []column[deliveryRow]{
		value("home", "int8", func(r *deliveryRow) *int64 { return &r.home }),
		text("attempt", func(r *deliveryRow) *string { return &r.Attempt }),
		text("kind", func(r *deliveryRow) *store.DeliveryKind { return &r.Kind }),
		value("round", "int4", func(r *deliveryRow) *int { return &r.Round }),
		// An ack replaces the columns from here on.
		text("status", func(r *deliveryRow) *store.DeliveryStatus { return &r.Status }),
		value("tries", "int8", func(r *deliveryRow) *int { return &r.Tries }),
		text("owner", func(r *deliveryRow) *string { return &r.Owner }),
		instant("created", func(r *deliveryRow) *time.Time { return &r.Created }),
		instant("next_at", func(r *deliveryRow) *time.Time { return &r.NextAt }),
		text("error", func(r *deliveryRow) *string { return &r.Error }),
		value("fanout", "bool", func(r *deliveryRow) *bool { return &r.Fanout }),
		blob("failure", "jsonb", func(r *deliveryRow) *[]byte { return &r.failure }),
		blob("refusal", "jsonb", func(r *deliveryRow) *[]byte { return &r.refusal }),
	}
	// keyed is how many of deliveryColumns are the key.
	keyed = 4

	owedColumns = append([]column[deliveryRow]{value("n", "int8", func(r *deliveryRow) *int64 { return &r.n })}, deliveryColumns...)
	ackColumns  = append([]column[deliveryRow]{
		text("by", func(r *deliveryRow) *string { return &r.by }),
		value("try", "int8", func(r *deliveryRow) *int { return &r.try }),
	}, owedColumns...)
)

// newDeliveryRow returns the row of a delivery to be written.
func newDeliveryRow(n int64, home int64, d *store.Delivery) deliveryRow {
	r := deliveryRow{Delivery: *d, home: home, n: n}
	if d.Failure != nil {
		r.failure = encode(failure(*d.Failure))
	}
	if d.Refusal != nil {
		r.refusal = encode(failure(*d.Refusal))
	}
	return r
}

// delivery returns the delivery of a row that was read. An error is [store.ErrCorrupt].
func (r *deliveryRow) delivery() (store.Delivery, error) {
	d := &r.Delivery
	for _, f := range []struct {
		from []byte
		to   **store.Failure
	}{{r.failure, &d.Failure}, {r.refusal, &d.Refusal}} {
		if f.from == nil {
			continue
		}
		var got failure
		if err := json.Unmarshal(f.from, &got); err != nil {
			return store.Delivery{}, corrupt("delivery "+d.String(), err)
		}
		*f.to = new(store.Failure(got))
	}
	if !d.Kind.Valid() || !d.Status.Valid() {
		return store.Delivery{}, corrupt("delivery "+d.String(), fmt.Errorf("status %q", d.Status))
	}
	d.Normalize()
	return *d, nil
}

func corrupt(what string, err error) error {
	return fmt.Errorf("%s: %w: %w", what, store.ErrCorrupt, err)
}

// encode returns v as JSON, with NUL replaced by U+FFFD: Postgres cannot store it.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and times do not fail
	}
	return bytes.ReplaceAll(b, []byte(`\u0000`), []byte(`\ufffd`))
}
