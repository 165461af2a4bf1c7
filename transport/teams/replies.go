package teams

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// expectReplies is the delivery mode of a caller who reads the bot's replies from
// the answer to the request. Bots that call this one as a skill use it, and so do
// callers who cannot be called back.
const expectReplies = "expectReplies"

// replies collects what the bot sends to the conversation of a turn, until the
// turn is answered. What the bot sends later, or elsewhere, goes to the
// connector.
type replies struct {
	conversation string

	mu         sync.Mutex
	answered   bool
	activities []json.RawMessage
}

type repliesKey struct{}

// expecting returns ctx for a turn whose replies go into the answer.
func expecting(ctx context.Context, a *machine.Activity) (context.Context, *replies) {
	r := &replies{conversation: a.Conversation.ID, activities: []json.RawMessage{}}
	return context.WithValue(ctx, repliesKey{}, r), r
}

// collected reports whether the turn of ctx has added the activity to its answer.
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

// answer returns the turn's answer with the collected replies. The answer to an
// invoke becomes one more activity.
//
// If the store is unavailable, a turn without replies keeps its 503, so that the
// caller sends the activity again. A turn with replies gets 200, so that they are
// not lost.
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
