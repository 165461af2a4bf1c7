package outbox

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// The back-off of a callback that failed: 1 s, 2 s, 4 s … 10 min, until it is
// given up and visible as stuck.
const (
	firstRetry = time.Second
	lastRetry  = 10 * time.Minute
	maxTries   = 10
)

// patience is how long after the row's creation a throttled try does not count.
const patience = 24 * time.Hour

// maxError bounds what is kept of an error, in bytes.
const maxError = 256

// settle hands the outcome of a try to the next group of commits and returns its
// audit line. A lost acknowledgement only repeats the callback. known means that the
// store already has the outcome.
//
// The line is not part of that commit: the callback was made even if another
// process holds the row by now.
func (o *Outbox) settle(ctx context.Context, h *held, err error, known bool) store.Event {
	if h.row.Attempt == "" {
		return store.Event{} // no attempt, so no row
	}
	row, now := h.row, o.clock(h)
	outcome(&row, now, err)
	if h.row.Status == store.DeliveryPending && !known {
		o.Store.Later(context.WithoutCancel(ctx), store.Commit{Acks: []store.Ack{{Delivery: row, By: h.row.Owner, Try: h.row.Tries}}, User: h.user})
	}
	return o.told(&row, now)
}

// giveBack releases a row whose callback was not started.
func (o *Outbox) giveBack(ctx context.Context, h *held) {
	row := h.row
	row.Owner, row.Tries, row.NextAt = "", row.Tries-1, o.clock(h)
	o.Store.Later(context.WithoutCancel(ctx), store.Commit{Acks: []store.Ack{{Delivery: row, By: h.row.Owner, Try: h.row.Tries}}, User: h.user})
}

// outcome records the result of a try in the row.
func outcome(row *store.Delivery, now time.Time, err error) {
	row.Owner, row.Error = "", ""
	if err != nil {
		row.Error = clip(err.Error())
	}
	asked, throttled := throttled(err)
	switch {
	case row.Status != store.DeliveryPending: // acknowledged before the callback was made
	case err == nil:
		row.Status = store.DeliveryDone
	case final(err):
		row.Status = store.DeliveryUndeliverable
	case throttled && now.Sub(row.Created) < patience:
		row.Tries--
		row.NextAt = now.Add(max(asked, firstRetry))
	case row.Tries >= maxTries:
		row.Status = store.DeliveryDead
	default:
		row.NextAt = now.Add(retryDelay(row.Tries))
	}
}

func retryDelay(tries int) time.Duration {
	d := firstRetry
	for range tries - 1 {
		if d *= 2; d >= lastRetry {
			return lastRetry
		}
	}
	return d
}

// answer is an error with an upstream's answer.
type answer interface {
	error
	HTTPStatus() int
	ErrorCode() string
	RetryDelay() time.Duration
}

// throttled reports whether an upstream asked to retry later, and after how long.
func throttled(err error) (time.Duration, bool) {
	var a answer
	if !errors.As(err, &a) {
		return 0, false
	}
	switch a.HTTPStatus() {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return a.RetryDelay(), true
	}
	return 0, false
}

// Several are the errors of several handlers of one callback. A retry calls all of
// them, so it is pointless only if it is for each.
type Several []error

func (s Several) Error() string   { return errors.Join(s...).Error() }
func (s Several) Unwrap() []error { return s }

// Permanent reports whether a retry is pointless.
func (s Several) Permanent() bool {
	return !slices.ContainsFunc(s, func(err error) bool { return !final(err) })
}

// final reports whether a retry is pointless, by the bot's own error or by the
// connector's answer.
func final(err error) bool {
	var own interface{ Permanent() bool }
	if errors.As(err, &own) {
		// Several has asked each of its errors, also for the connector's answer.
		if _, several := own.(Several); several || own.Permanent() {
			return own.Permanent()
		}
	}
	var a answer
	if !errors.As(err, &a) {
		return false
	}
	switch a.HTTPStatus() {
	case http.StatusForbidden:
		switch a.ErrorCode() {
		case "BotDisabledByAdmin", "BotNotInConversationRoster", "ConversationBlockedByUser", "MessageWritesBlocked":
			return true
		}
	case http.StatusNotFound:
		return a.ErrorCode() == "ConversationNotFound"
	}
	return false
}

// told creates the audit line of a try.
func (o *Outbox) told(row *store.Delivery, now time.Time) store.Event {
	detail := string(row.Status)
	if row.Error != "" {
		detail += ": " + row.Error
	}
	return store.Event{
		Attempt: row.Attempt, Time: now, Instance: o.Instance, Kind: store.EventCallback,
		Invoke: row.String(), Detail: detail,
	}
}

func clip(s string) string {
	if len(s) <= maxError {
		return s
	}
	return strings.ToValidUTF8(s[:maxError], "")
}
