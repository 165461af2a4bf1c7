package machine

import (
	"encoding/json"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Activity is what arrived from Teams, as far as the machine needs it.
// Transport adapters fill it in from their own wire form.
type Activity struct {
	Type      string // message, invoke, …
	Name      string // of an invoke: "signin/tokenExchange"
	ID        string
	ReplyToID string
	Text      string // of a message, without the bot's mention
	Platform  string // entities[].platform: Web, Windows, iOS …

	// Agentic: it comes from an agent of Agent 365 and not from a user's client, so
	// nobody can sign in to it.
	Agentic bool
	// ExpectReplies: whoever sent it takes what the bot says from the answer.
	ExpectReplies bool
	// Waited is how long ago it arrived, when it is handed to the engine: the time
	// in which an invoke has to be answered runs since then. 0 = just now.
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

// EventTokensResponse is the name of the event with which channels without invokes
// (Web Chat, Direct Line) say that the user has signed in (C16).
const EventTokensResponse = "tokens/response"

// cancelledByUser is the state that Teams sends when the popup was closed.
const cancelledByUser = "CancelledByUser"

// Failure is what a failure callback gets for a signin/failure of the client;
// a callback for a failure on the server side gets nil [S 004 §16].
type Failure struct {
	Code    string
	Message string
}
