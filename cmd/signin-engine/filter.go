package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// filter holds the flags that select attempts.
type filter struct {
	states       []string
	since, until string
	age          string
	reason       string
	method       string
	query        operator.Query
}

// filterFlags adds the filters (docs/operations.md).
func (c *cli) filterFlags(cmd *cobra.Command) *filter {
	f := &filter{}
	fl := cmd.Flags()
	fl.StringVar(&f.query.User, "user", "", "user: MRI (29:…) or Entra object `id`")
	fl.StringVar(&f.query.Connection, "connection", "", "connection `name`")
	fl.StringVar(&f.query.Tenant, "tenant", "", "tenant `id`")
	fl.StringVar(&f.query.Conversation, "conversation", "", "conversation `id`")
	fl.StringSliceVar(&f.states, "state", nil, "Idle, CardSent, Exchanging, Verifying, Complete, Failed (several: a,b)")
	fl.StringVar(&f.reason, "reason", "", "why it failed, such as expired")
	fl.StringVar(&f.query.FailureCode, "failure-code", "", "failure `code`, such as resourcematchfailed")
	fl.StringVar(&f.method, "method", "", "how it completed, such as tokenExchange")
	fl.StringVar(&f.query.Platform, "platform", "", "client platform, such as Web")
	fl.StringVar(&f.query.Instance, "instance", "", "last holder of the lease")
	fl.StringVar(&f.since, "since", "", "created at or after: RFC 3339, a date, or an age such as 24h or 7d")
	fl.StringVar(&f.until, "until", "", "created before: RFC 3339, a date, or an age")
	fl.StringVar(&f.age, "age-gt", "", "longer than this in its state: an `age` such as 2m, 24h or 7d")
	fl.BoolVar(&f.query.Stuck, "stuck", false, "only what breaks a stuck rule")
	fl.IntVar(&f.query.Limit, "limit", 0, "at most this many (default 50; jsonl and csv: all)")
	fl.StringVar(&f.query.Cursor, "cursor", "", "go on where the page before ended")
	complete := func(flag string, values cobra.CompletionFunc) { _ = cmd.RegisterFlagCompletionFunc(flag, values) }
	complete("state", completeKind("state"))
	complete("reason", completeKind("reason"))
	complete("method", completeKind("method"))
	complete("failure-code", completeKind("failure code", "service code", "connector code", "OAuth code", "exchange code", "upstream code"))
	complete("connection", c.completeConnections)
	complete("user", c.completeFrom(func(v *operator.View) string { return v.Key.User }))
	complete("instance", c.completeFrom(func(v *operator.View) string { return v.Lease.Owner }))
	complete("tenant", c.completeFrom(func(v *operator.View) string { return v.Tenant }))
	complete("conversation", c.completeFrom(func(v *operator.View) string { return v.Conversation.ID }))
	return f
}

// read builds the query that the flags ask for.
func (f *filter) read(now time.Time) (operator.Query, error) {
	q := f.query
	for _, id := range []struct{ flag, value string }{
		{"user", q.User},
		{"connection", q.Connection},
		{"tenant", q.Tenant},
		{"conversation", q.Conversation},
		{"failure-code", q.FailureCode},
		{"platform", q.Platform},
		{"instance", q.Instance},
	} {
		if strings.HasSuffix(id.value, "…") {
			return q, usage("--%s: %w", id.flag, shortened(id.value))
		}
	}
	var err error
	if q.States, err = operator.ParseStates(f.states...); err != nil {
		return q, usage("--state: %w", err)
	}
	reason, err := known("reason", f.reason)
	if err != nil {
		return q, err
	}
	method, err := known("method", f.method)
	if err != nil {
		return q, err
	}
	q.Reason, q.Method = store.Reason(reason), store.Method(method)
	if e, ok := operator.Explain(q.FailureCode); ok {
		q.FailureCode = e.Code // the stored spelling
	}
	for _, t := range []struct {
		flag, value string
		into        *time.Time
	}{{"since", f.since, &q.Since}, {"until", f.until, &q.Until}} {
		if t.value == "" {
			continue
		}
		if *t.into, err = operator.ParseTime(t.value, now); err != nil {
			return q, usage("--%s: %w", t.flag, err)
		}
	}
	if !q.Until.IsZero() && q.Until.Before(q.Since) {
		return q, usage("--until: is before --since, so nothing can match")
	}
	if f.age != "" {
		if q.AgeGT, err = operator.ParseAge(f.age); err != nil {
			return q, usage("--age-gt: %w", err)
		}
	}
	if q.Cursor != "" {
		if _, err = ulid.ParseStrict(q.Cursor); err != nil {
			return q, usage("--cursor: %q is not a cursor: take it from the page before, behind More, or next_cursor in JSON", q.Cursor)
		}
	}
	if q.Limit < 0 || q.Limit > operator.MaxLimit {
		return q, usage("--limit: is not from 1 to %d", operator.MaxLimit)
	}
	return q, nil
}

// shortened is the error for a value that was copied from a shortened table cell.
func shortened(value string) error {
	return fmt.Errorf("%s was shortened for the screen: list --show-ids shows ids in full, -o json everything", value)
}

// known finds a word of this kind in any case. Its error lists all words of the
// kind.
func known(kind, word string) (string, error) {
	if word == "" {
		return "", nil
	}
	all := wordsOf(kind)
	i := slices.IndexFunc(all, func(w string) bool { return strings.EqualFold(w, word) })
	if i < 0 {
		return "", usage("--%s: %q is no %s: %s", kind, word, kind, strings.Join(all, ", "))
	}
	return all[i], nil
}

// wordsOf lists all words of these kinds.
func wordsOf(kinds ...string) []string {
	var all []string
	for _, e := range operator.Explanations() {
		if slices.Contains(kinds, e.Kind) {
			all = append(all, e.Code)
		}
	}
	return all
}
