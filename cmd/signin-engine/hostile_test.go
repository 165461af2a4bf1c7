package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// evil holds what text may not do to a terminal or a file: clear the screen, set
// the title, reverse the direction of writing, begin a new line, end a string
// early, be a formula or markup. It is also 10 kB long.
var evil = "\x1b[2J\x1b]0;owned\a\u202egnp.exe\u2066\r\nStuck: none\x00\u0085\u200b\u2028=cmd|'/c'<script>alert(1)</script>" + strings.Repeat("W", 10<<10)

// poison replaces every text in v by evil, except the words of the machine
// itself.
func poison(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // the others hold no text
	case reflect.String:
		if v.CanSet() && v.Type() != reflect.TypeFor[store.State]() && v.Type() != reflect.TypeFor[store.EventKind]() &&
			v.Type() != reflect.TypeFor[store.DeliveryKind]() && v.Type() != reflect.TypeFor[store.DeliveryStatus]() {
			v.SetString(evil)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			poison(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			poison(v.Field(i))
		}
	}
}

const poisoned = "01JSD4P0000000000000000006"

// poisonedStore writes an attempt, audit lines of every kind, callbacks, and an
// audit line without an attempt. Every text in them is evil.
func poisonedStore(s *situation) {
	a := seeded(poisoned, "", "", store.Exchanging, s.now().Add(-time.Hour), s.now().Add(-time.Hour))
	a.Failure = &store.Failure{Status: 400}
	a.SSOOffered = true
	poison(reflect.ValueOf(&a).Elem())
	a.ID, a.Supersedes, a.SupersededBy = poisoned, "", ""
	a.Lease.Until = s.now().Add(-time.Hour)
	c := store.Commit{Put: []store.Attempt{a}}
	for i, kind := range []store.EventKind{
		store.EventReceived, store.EventTransition, store.EventUpstream, store.EventAnswer, store.EventCallback, store.EventNote,
		store.EventOperator, store.EventSecurity,
	} {
		e := store.Event{Kind: kind, Time: s.now().Add(-time.Duration(10-i) * time.Minute), From: store.CardSent, To: store.Exchanging, Status: 400}
		poison(reflect.ValueOf(&e).Elem())
		e.Attempt = poisoned
		orphan := e
		orphan.Attempt = ""
		if kind == store.EventNote {
			orphan.Row, orphan.Key.User = "A4", "29:nocard"
		}
		c.Events = append(c.Events, e, orphan)
	}
	for round, status := range []store.DeliveryStatus{store.DeliveryDead, store.DeliveryPending} {
		d := store.Delivery{DeliveryKey: store.DeliveryKey{Kind: store.DeliverFailure, Round: round + 1}, Status: status, Tries: 7, Failure: &store.Failure{}}
		poison(reflect.ValueOf(&d).Elem())
		d.Attempt = poisoned
		c.Deliveries = append(c.Deliveries, d)
	}
	for _, err := range s.store.Apply(s.t.Context(), []store.Commit{c}) {
		s.must(err)
	}
}

// TestHostileText checks that every command shows foreign text as inert text: in
// each format, on a terminal and elsewhere, and in errors.
func TestHostileText(t *testing.T) {
	s := newSituation(t)
	poisonedStore(s)
	const token = "token-of-the-test"
	console := httptest.NewServer(s.bot.Operators(operator.HandlerConfig{Token: tokensvc.NewSecret(token)}))
	t.Cleanup(console.Close)
	argument := strings.ReplaceAll(evil, "\x00", "")[:2000] // no operating system passes a NUL in an argument
	human := [][]string{
		{"inspect"},
		{"inspect", "--check"},
		{"inspect", poisoned},
		{"inspect", poisoned, "--show-ids"},
		{"inspect", poisoned, "--sequence"},
		{"inspect", poisoned, "--diagram"},
		{"inspect", argument},
		{"inspect", "29:nocard"},
		{"inspect", "--state", argument},
		{"list"},
		{"list", "-o", "wide"},
		{"list", "--show-ids"},
		{"list", "--stuck"},
		{"list", "--user", argument},
		{"list", "--cursor", argument},
		{"list", "--since", argument},
		{"list", "-o", argument},
		{"list", argument},
		{"watch", "--count", "1"},
		{"watch", "--events", "--since", "2026-01-05T00:00:00Z", "--count", "1"},
		{"diagram", "--attempt", poisoned},
		{"diagram", "--attempt", poisoned, "--format", "dot"},
		{"diagram", "--attempt", poisoned, "--format", "svg"},
		{"diagram", "--attempt", poisoned, "--format", "markdown"},
		{"diagram", "--attempt", argument},
		{"diagram", "--format", argument},
		{"explain", argument},
		{"config", argument},
		{"config", "check", argument},
		{"healthcheck", argument},
		{argument},
		{"--" + argument},
		{"doctor"},
		{"doctor", "--manifest", argument},
		{"export", "--state", argument},
		{"snapshot", argument},
		{"purge", "--older-than", argument},
		{"inspect", "--store", argument},
		{"inspect", "--operator", argument},
		{"reconcile", poisoned, "--yes", "--reason", argument, "--actor", argument},
		{"redeliver", poisoned, "--yes", "--reason", argument, "--actor", argument},
		{"cancel", poisoned, "--yes", "--reason", argument, "--actor", argument},
		{"cancel", argument, "--yes", "--reason", "x"},
		{"inspect", poisoned},
		{"__complete", "inspect", ""},
		{"__complete", "list", "--user", ""},
		{"__complete", "list", "--connection", ""},
		{"__complete", "list", "--failure-code", ""},
	}
	for _, columns := range []string{"", "80"} {
		environ := []string{"TZ=UTC", "SIGNIN_ENGINE_OPERATOR=" + console.URL, "SIGNIN_ENGINE_OPERATOR_TOKEN=" + token, "COLUMNS=" + columns}
		for _, args := range human {
			var out, errs bytes.Buffer
			run(t.Context(), args, &out, &errs, environ)
			if out.Len()+errs.Len() == 0 {
				t.Errorf("%.60q says nothing", args)
			}
			for _, r := range out.String() + errs.String() {
				if !unicode.IsPrint(r) && r != '\n' && (r != '\t' || args[0] != "__complete") { // a shell expects a tab before a description there
					t.Errorf("%.80q: %q passes in %.300q", args, r, out.String()+errs.String())
					break
				}
			}
			if strings.Contains("\n"+out.String()+errs.String(), "\nStuck: none") {
				t.Errorf("%.80q: a line of somebody else's", args)
			}
		}
		for _, args := range [][]string{
			{"inspect", "-o", "json"}, {"inspect", poisoned, "-o", "json"}, {"list", "-o", "json"}, {"list", "-o", "jsonl"}, {"export"},
		} {
			var out, errs bytes.Buffer
			if code := run(t.Context(), args, &out, &errs, environ); code != 0 {
				t.Errorf("%q: exit %d: %.300s", args, code, errs.String())
			}
			if at := strings.IndexFunc(out.String(), func(r rune) bool { return r < ' ' && r != '\n' }); at >= 0 {
				t.Errorf("%q: a control character passes: %.80q", args, out.String()[at:])
			}
			for d := json.NewDecoder(&out); d.More(); {
				var any any
				if err := d.Decode(&any); err != nil {
					t.Fatalf("%q: %v", args, err)
				}
			}
		}
		for _, args := range [][]string{{"list", "-o", "csv"}, {"export", "-o", "csv"}} {
			var out, errs bytes.Buffer
			if code := run(t.Context(), args, &out, &errs, environ); code != 0 {
				t.Errorf("%q: exit %d: %.300s", args, code, errs.String())
			}
			rows, err := csv.NewReader(&out).ReadAll()
			if err != nil || len(rows) != 2 || len(rows[0]) != len(rows[1]) {
				t.Errorf("%q: %d rows, %v", args, len(rows), err)
			}
			if slices.ContainsFunc(rows[1], func(cell string) bool { return strings.HasPrefix(cell, "=") }) {
				t.Errorf("%q: a formula", args)
			}
		}
	}
}
