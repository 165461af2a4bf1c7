package store

import (
	"slices"
	"strings"
)

// The defaults for a zero Limit.
const (
	DefaultFindLimit  = 50
	DefaultListLimit  = 50
	DefaultEventLimit = 1000
)

// Max is Limit, or what stands in for zero.
func (q *Query) Max() int {
	switch {
	case q.Limit > 0:
		return q.Limit
	case q.Connection != "":
		return 1
	default:
		return DefaultFindLimit
	}
}

// Key is the key of the query. Its Connection may be empty.
func (q *Query) Key() Key {
	return Key{App: q.User.App, Channel: q.User.Channel, User: q.User.User, Connection: q.Connection}
}

// Max is Limit, or what stands in for zero.
func (f *Filter) Max() int {
	if f.Limit > 0 {
		return f.Limit
	}
	return DefaultListLimit
}

// OpenOnly reports whether only non-terminal attempts can match.
func (f *Filter) OpenOnly() bool {
	return f.Open || len(f.States) > 0 && !slices.ContainsFunc(f.States, State.Terminal)
}

// Match reports whether an attempt passes the filter, without Limit and Cursor.
func (f *Filter) Match(a *Attempt) bool {
	return strings.HasPrefix(a.ID, f.IDPrefix) &&
		(f.User == "" || f.User == a.Key.User || strings.EqualFold(f.User, a.Conversation.UserAAD)) &&
		(f.Connection == "" || strings.EqualFold(f.Connection, a.Key.Connection)) &&
		same(f.Tenant, a.Conversation.Tenant) &&
		same(f.Conversation, a.Conversation.ID) &&
		(f.Activity == "" || f.Activity == a.Activity || f.Activity == a.CardActivityID) &&
		(len(f.States) == 0 || slices.Contains(f.States, a.State)) &&
		(!f.Open || !a.State.Terminal()) &&
		same(f.Reason, a.Reason) &&
		(f.FailureCode == "" || a.Failure != nil && a.Failure.Code == f.FailureCode) &&
		same(f.Method, a.Method) &&
		same(f.Platform, a.Platform) &&
		same(f.Instance, a.Lease.Owner) &&
		(f.Since.IsZero() || !a.Created.Before(f.Since)) &&
		(f.Until.IsZero() || a.Created.Before(f.Until)) &&
		(f.EnteredUntil.IsZero() || a.Entered.Before(f.EnteredUntil))
}

func same[T ~string](want, got T) bool { return want == "" || want == got }

// Max is Limit, or what stands in for zero.
func (f *EventFilter) Max() int {
	if f.Limit > 0 {
		return f.Limit
	}
	return DefaultEventLimit
}

// Max is Limit, or what stands in for zero.
func (q *TrailQuery) Max() int {
	if q.Limit > 0 {
		return q.Limit
	}
	return DefaultEventLimit
}
