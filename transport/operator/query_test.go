package operator_test

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func TestQueryRoundTrip(t *testing.T) {
	want := operator.Query{
		User: "29:1cg", Connection: "graph", Tenant: "t", Conversation: "a:1", States: []store.State{store.Idle, store.Failed},
		Reason: store.ReasonExpired, FailureCode: "tokenmissing", Method: store.MethodSilent, Platform: "Web", Instance: "bot-b",
		Since: morning().Add(-time.Hour), Until: morning(), AgeGT: time.Minute, Stuck: true, Limit: 7, Cursor: "next",
	}
	got, err := operator.ParseQuery(want.Values(), morning())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	events := operator.EventQuery{Attempt: stuckID, Orphans: true, Since: morning(), After: 3, Limit: 9}
	gotEvents, err := operator.ParseEventQuery(events.Values(), morning())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(events, gotEvents); diff != "" {
		t.Error(diff)
	}
}

func TestQueryRefuses(t *testing.T) {
	for _, query := range []string{
		"state=Asleep", "since=yesterday", "until=-3h", "age_gt=-1m", "age_gt=5", "stuck=perhaps", "limit=-1", "limit=5000",
		"limit=x", "usr=29:1", "connections=graph",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = operator.ParseQuery(v, morning()); !errors.Is(err, operator.ErrBadRequest) {
			t.Errorf("%s: %v, want ErrBadRequest", query, err)
		}
	}
}

func TestParseTime(t *testing.T) {
	for s, want := range map[string]time.Time{
		"24h":                  morning().Add(-24 * time.Hour),
		"0s":                   morning(),
		"2026-04-01":           time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC),
		"2026-04-01T10:00:00Z": time.Date(2026, 4, 1, 10, 0, 0, 0, time.UTC),
	} {
		got, err := operator.ParseTime(s, morning())
		if err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v, want %v", s, got, err, want)
		}
	}
}
