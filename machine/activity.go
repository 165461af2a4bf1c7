package machine

import (
	"encoding/json"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Activity is an activity from Teams, as far as the machine needs it. Transport
// adapters make it from their own wire form.
type Activity struct {
	Type      string // message, invoke, …
	Name      string // of an invoke: "signin/tokenExchange"
	ID        string
	ReplyToID string
	Text      string // of a message, without the bot's mention
	Platform  string // entities[].platform: Web, Windows, iOS …

	// Agentic: it comes from an agent of Agent 365 and not from a user's client, so no
	// user can sign in.
	Agentic bool
	// ExpectReplies: the caller expects the bot's activities in the answer.
	ExpectReplies bool
	// Waited is the time since it arrived, when the engine gets it. The deadline of an
	// invoke's answer counts from the arrival. 0 = just now.
	Waited time.Duration

	Conversation store.Conversation
	Value        json.RawMessage // of an invoke, as it came
	Raw          json.RawMessage // the whole activity as it came
}

// The invokes that the engine answers (docs/protocol.md §1).
const (
	InvokeTokenExchange = "signin/tokenExchange" //nolint:gosec // the name of an invoke
	InvokeVerifyState   = "signin/verifyState"
	InvokeFailure       = "signin/failure"
)

// EventTokensResponse is the name of the event that channels without invokes (Web Chat,
// Direct Line) send when the user has signed in (C16).
const EventTokensResponse = "tokens/response"

// cancelledByUser is the state that Teams sends when the popup was closed.
const cancelledByUser = "CancelledByUser"

// Failure is the client's signin/failure, for a failure callback. A callback for a
// failure on the server side gets nil [S 004 §16].
type Failure struct {
	Code    string
	Message string
}
