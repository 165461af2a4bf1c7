package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// filter is the flags that select attempts.
type filter struct {
	states       []string
	since, until string
	reason       string
	method       string
	query        operator.Query
}

// filterFlags adds the filters (docs/operations.md).
func filterFlags(cmd *cobra.Command) *filter {
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
	fl.StringVar(&f.since, "since", "", "created at or after: RFC 3339, a date, or an age such as 24h")
	fl.StringVar(&f.until, "until", "", "created before: RFC 3339, a date, or an age")
	fl.DurationVar(&f.query.AgeGT, "age-gt", 0, "longer than this in its state")
	fl.BoolVar(&f.query.Stuck, "stuck", false, "only what breaks a stuck rule")
	fl.IntVar(&f.query.Limit, "limit", 0, "at most this many (default 50)")
	fl.StringVar(&f.query.Cursor, "cursor", "", "go on where the page before ended")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(
		[]string{"Idle", "CardSent", "Exchanging", "Verifying", "Complete", "Failed"}, cobra.ShellCompDirectiveNoFileComp))
	return f
}

// read is the query that the flags ask for.
func (f *filter) read(now time.Time) (operator.Query, error) {
	q := f.query
	q.Reason, q.Method = store.Reason(f.reason), store.Method(f.method)
	var err error
	if q.States, err = operator.ParseStates(f.states...); err != nil {
		return q, usage("--state: %w", err)
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
	if q.AgeGT < 0 {
		return q, usage("--age-gt: is negative")
	}
	if q.Limit < 0 || q.Limit > operator.MaxLimit {
		return q, usage("--limit: is not from 1 to %d", operator.MaxLimit)
	}
	return q, nil
}
