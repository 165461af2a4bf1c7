package tokensvc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

type idJSON struct {
	ID string `json:"Id"`
}

type stateConversationJSON struct {
	ActivityID   string `json:"ActivityId,omitempty"`
	Bot          idJSON `json:"Bot"`
	ChannelID    string `json:"ChannelId"`
	Conversation idJSON `json:"Conversation"`
	ServiceURL   string `json:"ServiceUrl"`
	User         idJSON `json:"User"`
}

type stateJSON struct {
	ConnectionName string                `json:"ConnectionName"`
	Conversation   stateConversationJSON `json:"Conversation"`
	MsAppID        string                `json:"MsAppId,omitempty"`
}

// Encode returns the state for a query: standard base64 of its JSON (docs/protocol.md
// §3). An empty ActivityID or MsAppID is left out.
func (s State) Encode() string {
	wire := stateJSON{
		ConnectionName: s.Connection,
		Conversation: stateConversationJSON{
			ActivityID:   s.ActivityID,
			Bot:          idJSON{s.BotID},
			ChannelID:    s.ChannelID,
			Conversation: idJSON{s.ConversationID},
			ServiceURL:   s.ServiceURL,
			User:         idJSON{s.UserID},
		},
		MsAppID: s.MsAppID,
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(wire); err != nil {
		return "" // a struct of strings always encodes
	}
	return base64.StdEncoding.EncodeToString(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

// ParseState is the inverse of [State.Encode]. It also accepts camelCase member names,
// the URL-safe alphabet and missing padding.
func ParseState(encoded string) (State, error) {
	alphabet := base64.StdEncoding
	if strings.ContainsAny(encoded, "-_") {
		alphabet = base64.URLEncoding
	}
	raw, err := alphabet.WithPadding(base64.NoPadding).DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return State{}, fmt.Errorf("state: %w", err)
	}
	var wire stateJSON
	if err := json.Unmarshal(raw, &wire); err != nil {
		return State{}, errors.New("state: malformed JSON")
	}
	c := wire.Conversation
	return State{
		Connection:     wire.ConnectionName,
		ActivityID:     c.ActivityID,
		BotID:          c.Bot.ID,
		ChannelID:      c.ChannelID,
		ConversationID: c.Conversation.ID,
		ServiceURL:     c.ServiceURL,
		UserID:         c.User.ID,
		MsAppID:        wire.MsAppID,
	}, nil
}
