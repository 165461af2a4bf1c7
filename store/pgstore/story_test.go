package pgstore_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/store/storetest"
)

// TestStory: the two selects of docs/postgres.md tell one sign-in, with the columns
// that are shown there.
func TestStory(t *testing.T) {
	doc, err := os.ReadFile("../../docs/postgres.md")
	if err != nil {
		t.Fatal(err)
	}
	_, story, ok := strings.Cut(string(doc), "<!-- story -->\n")
	if !ok {
		t.Fatal("docs/postgres.md has no story")
	}
	story, _, _ = strings.Cut(story, "<!-- end of the story -->")
	dsn := pgtest.Start(t)
	s := mustOpen(t, dsn)
	at := time.Date(2026, 4, 22, 9, 14, 3, 120e6, time.UTC)
	a := storetest.NewAttempt(at, "29:ada", "graph")
	a.ID, a.Key.App, a.Conversation.UserName, a.Activity, a.Lease = "01KPTCZ3RG4T9Q2V6W8XJ3M5N7", "bot", "Ada", "1776849243001", store.Lease{}
	line := func(after time.Duration, kind store.EventKind, e store.Event) store.Event {
		e.Attempt, e.Time, e.Kind, e.Instance = a.ID, at.Add(after), kind, "bot-1"
		return e
	}
	sent := storetest.Next(a, store.CardSent, at.Add(210*time.Millisecond))
	sent.ExchangeID = "5f0c"
	claimed := storetest.Next(sent, store.Exchanging, at.Add(900*time.Millisecond))
	done := storetest.Next(claimed, store.Complete, at.Add(1100*time.Millisecond))
	told := storetest.Owed(&a, 1, done.Entered)
	told.Status, told.Tries = store.DeliveryDone, 1
	for _, c := range []store.Commit{
		{Put: []store.Attempt{a}, Events: []store.Event{
			line(0, store.EventReceived, store.Event{Invoke: "SignIn", Activity: "1776849243001"}),
			line(90*time.Millisecond, store.EventUpstream, store.Event{Invoke: "GetToken", Status: 404, Duration: 88 * time.Millisecond}),
			line(150*time.Millisecond, store.EventUpstream, store.Event{Invoke: "GetSignInResource", Status: 200, Duration: 59 * time.Millisecond}),
			line(151*time.Millisecond, store.EventTransition, store.Event{Row: "A3", Version: 1, To: store.Idle, Status: 200}),
		}},
		{Put: []store.Attempt{sent}, Events: []store.Event{
			line(209*time.Millisecond, store.EventUpstream, store.Event{Invoke: "POST card", Status: 200, Duration: 57 * time.Millisecond}),
			line(210*time.Millisecond, store.EventTransition, store.Event{Row: "A6", Version: 2, From: store.Idle, To: store.CardSent, Status: 200}),
		}},
		{Put: []store.Attempt{claimed}, Events: []store.Event{
			line(890*time.Millisecond, store.EventReceived, store.Event{Invoke: "signin/tokenExchange", Platform: "Web"}),
			line(900*time.Millisecond, store.EventTransition, store.Event{Row: "B1", Version: 3, Invoke: "signin/tokenExchange", From: store.CardSent, To: store.Exchanging}),
		}},
		{Put: []store.Attempt{done}, Deliveries: []store.Delivery{told}, Events: []store.Event{
			line(1090*time.Millisecond, store.EventUpstream, store.Event{Invoke: "exchange", Status: 200, Duration: 187500 * time.Microsecond}),
			line(1100*time.Millisecond, store.EventTransition, store.Event{Row: "B2", Version: 4, Invoke: "signin/tokenExchange", From: store.Exchanging, To: store.Complete, Status: 200}),
		}},
		{Events: []store.Event{
			line(1108*time.Millisecond, store.EventCallback, store.Event{Detail: "delivered", Duration: 7 * time.Millisecond}),
			line(1109*time.Millisecond, store.EventAnswer, store.Event{Invoke: "signin/tokenExchange", Row: "B2", Status: 200}),
		}},
	} {
		if err := s.Apply(t.Context(), []store.Commit{c})[0]; err != nil {
			t.Fatal(err)
		}
	}
	server, schema := split(dsn)
	psql := pgtest.Psql()
	for i, block := range strings.Split(story, "```sql\n")[1:] {
		sql, rest, _ := strings.Cut(block, "```")
		_, want, _ := strings.Cut(rest, "```text\n")
		want, _, _ = strings.Cut(want, "```")
		out, err := exec.CommandContext(t.Context(), psql, "-X", "-q", server, "-c", `set timezone = 'UTC'`, "-c", strings.ReplaceAll(sql, "signin.", schema+".")).CombinedOutput()
		if err != nil {
			t.Fatalf("psql: %v: %s", err, out)
		}
		if got := trimmed(string(out)); got != trimmed(want) {
			t.Errorf("select %d gives\n%s", i+1, got)
		}
	}
}

// trimmed is text without blanks at the ends of lines.
func trimmed(s string) string {
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(s)) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return strings.Join(lines, "\n")
}
