package teams

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// expectReplies is the delivery mode in which the caller takes what the bot says from
// the answer to its request. A bot that calls this one as a skill sends it, and so does
// whoever cannot be called back.
const expectReplies = "expectReplies"

// replies collects what is sent to the conversation of a turn until the turn is
// answered. What is sent elsewhere, or later, goes to the connector.
type replies struct {
	conversation string

	mu         sync.Mutex
	answered   bool
	activities []json.RawMessage
}

type repliesKey struct{}

// expecting is ctx for a turn whose replies go into the answer.
func expecting(ctx context.Context, a *machine.Activity) (context.Context, *replies) {
	r := &replies{conversation: a.Conversation.ID, activities: []json.RawMessage{}}
	return context.WithValue(ctx, repliesKey{}, r), r
}

// collected reports whether the turn of ctx has taken an activity into its answer.
func collected(ctx context.Context, to *store.Conversation, activity []byte) bool {
	r, ok := ctx.Value(repliesKey{}).(*replies)
	if !ok || r.conversation != to.ID {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered {
		return false
	}
	r.activities = append(r.activities, activity)
	return true
}

// answer is the answer of the turn with what was collected. That of an invoke is one
// more activity. While the store is down a turn that has said nothing stays a 503, so
// that the caller sends again; what was said must not be lost.
func (r *replies) answer(a *machine.Activity, given machine.Answer) machine.Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered = true
	if given.Status == http.StatusServiceUnavailable && len(r.activities) == 0 {
		return given
	}
	all := r.activities
	if a.Type == typeInvoke {
		response, err := encodeJSON(invokeResponseJSON{
			Type: "invokeResponse", ReplyToID: a.ID, Value: invokeValueJSON{Status: statusOf(given), Body: given.Body},
		})
		if err != nil {
			return machine.Answer{Status: http.StatusInternalServerError}
		}
		all = append(all, response)
	}
	return machine.Answer{Status: http.StatusOK, Body: expectedRepliesJSON{all}}
}

type (
	expectedRepliesJSON struct {
		Activities []json.RawMessage `json:"activities"`
	}

	invokeResponseJSON struct {
		Type      string          `json:"type"`
		ReplyToID string          `json:"replyToId,omitempty"`
		Value     invokeValueJSON `json:"value"`
	}

	invokeValueJSON struct {
		Status int `json:"status"`
		Body   any `json:"body,omitempty"`
	}
)
