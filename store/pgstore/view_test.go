package pgstore_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// whole is an attempt with every member that the command line shows, its lines
// and its callbacks.
func whole(at time.Time) store.Commit {
	a := storetest.NewAttempt(at, "29:x", "Graph")
	a.Origin, a.Method, a.Reason, a.State, a.Version = store.OriginCompose, store.MethodSilent, store.ReasonExpired, store.Failed, 1
	a.Conversation.UserName, a.SSOOffered, a.ExchangeID, a.CardActivityID, a.Activity = "Ada", true, "ex", "card", "activity"
	a.Lease.Fence, a.VerifyTries, a.Supersedes, a.SupersededBy = 3, 2, "before", "after"
	a.Platform, a.ResourceURI, a.NoSSOUntil, a.SSOOutcome = "Web", "api://bot", at.Add(time.Hour), "rejected"
	a.DeliveryUnknown, a.PopupClosed, a.Rounds, a.Invokes = true, true, 4, 5
	a.Failure = &store.Failure{Source: "client", Operation: "exchange", Status: 412, Code: "code", Kind: store.KindConsent, Message: "no"}
	a.Diagnosis = store.Diagnosis{Audience: store.Holds, Version: store.Fails, Tenant: store.Holds, User: store.Fails, Client: store.Holds, Fresh: store.Fails}
	line := store.Event{
		Attempt: a.ID, Time: at, Instance: "bot", Kind: store.EventTransition, Row: "B1", Version: 1, From: store.Idle, To: store.Failed,
		Invoke: "signin/failure", Activity: "activity", Status: 200, Source: "client", Code: "code", Duration: 1500 * time.Microsecond,
		Platform: "Web", Detail: "detail", Actor: "ada",
	}
	orphan := store.Event{Time: at, Kind: store.EventNote, Key: a.Key}
	d := storetest.Owed(&a, 1, at)
	d.Kind, d.Tries, d.Owner, d.Error, d.Failure, d.Refusal = store.DeliverFailure, 2, "bot/1", "error", a.Failure, a.Failure
	return store.Commit{Put: []store.Attempt{a}, Events: []store.Event{line, orphan}, Deliveries: []store.Delivery{d}}
}

// names are other words of the views for what the JSON calls so.
func names() map[string]string {
	return map[string]string{
		"key.app": "app", "key.channel": "channel", "key.user": "user_id", "key.connection": "connection",
		"from": "from_state", "to": "to_state", "diagnosis.audience": "sso_token_audience", "diagnosis.version": "sso_token_version",
		"diagnosis.tenant": "sso_token_tenant", "diagnosis.user": "sso_token_user", "diagnosis.client": "sso_token_client", "diagnosis.fresh": "sso_token_fresh",
	}
}

// flat is JSON as one level of members, by the names of the views.
func flat(t *testing.T, v any, skip ...string) map[string]string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	numbers := json.NewDecoder(bytes.NewReader(b))
	numbers.UseNumber()
	if err := numbers.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	var walk func(under string, tree map[string]any)
	walk = func(under string, tree map[string]any) {
		for k, v := range tree {
			path := under + k
			if slices.Contains(skip, path) {
				continue
			}
			if inner, ok := v.(map[string]any); ok {
				walk(path+".", inner)
				continue
			}
			name, ok := names()[path]
			if !ok {
				name = under + k
				for i := range name {
					if name[i] == '.' {
						name = name[:i] + "_" + name[i+1:]
					}
				}
			}
			out[name] = fmt.Sprint(v)
		}
	}
	walk("", tree)
	return out
}

// viewed is the only row of a view, its times as JSON has them.
func viewed(t *testing.T, dsn, view, where string) map[string]string {
	t.Helper()
	server, schema := split(dsn)
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), `select * from `+schema+`.`+view+` where `+where)
	if err != nil {
		t.Fatal(err)
	}
	found, err := pgx.CollectOneRow(rows, pgx.RowToMap)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for k, v := range found {
		if at, ok := v.(time.Time); ok {
			v = operator.Time{Time: at}
		}
		if v != nil {
			out[k] = fmt.Sprint(v)
		}
		if n, err := json.Marshal(v); err == nil && k == "duration_ms" {
			out[k] = string(n)
		}
	}
	return out
}

// TestViews: every member that the command line shows of an attempt, an audit line
// and a callback can be had with plain SQL, with the same value.
func TestViews(t *testing.T) {
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := whole(info.Now.Add(-time.Hour))
	if err := s.Apply(t.Context(), []store.Commit{c})[0]; err != nil {
		t.Fatal(err)
	}
	reader := operator.NewDirect(s, operator.DefaultRules(), operator.Info{})
	d, err := reader.Get(t.Context(), c.Put[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	orphans, err := reader.Events(t.Context(), operator.EventQuery{Orphans: true})
	if err != nil || len(orphans.Events) != 1 {
		t.Fatal(orphans, err)
	}
	for what, tc := range map[string]struct {
		want map[string]string
		view map[string]string
	}{
		// What the rules say is not in the database.
		"attempt":  {flat(t, d, "schema", "now", "stuck", "findings", "deliveries", "events"), viewed(t, dsn, "signin_attempts_v1", "true")},
		"line":     {flat(t, d.Events[0]), viewed(t, dsn, "signin_events_v1", "attempt is not null")},
		"orphan":   {flat(t, orphans.Events[0], "attempt"), viewed(t, dsn, "signin_events_v1", "attempt is null")},
		"callback": {flat(t, d.Deliveries[0]), viewed(t, dsn, "signin_deliveries_v1", "true")},
	} {
		got := map[string]string{}
		for name := range tc.want {
			got[name] = tc.view[name]
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-command line +view):\n%s", what, diff)
		}
	}
	// A member that is the zero value would prove nothing.
	for _, v := range []any{d.View, d.Events[0], d.Deliveries[0]} {
		for name, value := range flat(t, v, "stuck") {
			if value == "" || value == "0" || value == "<nil>" {
				t.Errorf("%s is %q in the test", name, value)
			}
		}
	}
}

// TestComments: every table, column and view says what it means.
func TestComments(t *testing.T) {
	dsn := pgtest.Start(t)
	mustOpen(t, dsn)
	_, schema := split(dsn)
	silent := query[string](t, dsn, `select c.relname || coalesce('.' || a.attname, '')
		from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and c.relkind <> 'v'
		where c.relnamespace = $1::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
		  and (col_description(c.oid, a.attnum) is null and a.attnum is not null or obj_description(c.oid, 'pg_class') is null) order by 1`, schema)
	if len(silent) > 0 {
		t.Errorf("without a comment: %v", silent)
	}
}
