package teams

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// ErrMalformed means that a body is no activity. It never says what it was.
var ErrMalformed = errors.New("teams: malformed activity")

// The activity types that the handler tells apart.
const (
	typeMessage = "message"
	typeInvoke  = "invoke"
)

// maxMember bounds every id and name of an activity, in bytes. Those of Teams
// stay below 300; ids become part of a store's keys, which are bounded too.
const maxMember = 1024

// The wire form (wire.md §1). encoding/json compares names without regard to
// case, which is what both spellings ask for.
type (
	activityJSON struct {
		Type         string           `json:"type"`
		Name         string           `json:"name"`
		ID           string           `json:"id"`
		ReplyToID    string           `json:"replyToId"`
		ChannelID    string           `json:"channelId"`
		ServiceURL   string           `json:"serviceUrl"`
		Text         string           `json:"text"`
		Locale       string           `json:"locale"`
		From         accountJSON      `json:"from"`
		Recipient    accountJSON      `json:"recipient"`
		Conversation conversationJSON `json:"conversation"`
		ChannelData  struct {
			Tenant struct {
				ID string `json:"id"`
			} `json:"tenant"`
		} `json:"channelData"`
		Entities []entityJSON    `json:"entities"`
		Value    json.RawMessage `json:"value"`
		Address  addressJSON     `json:"address"`
	}

	accountJSON struct {
		ID          string `json:"id,omitempty"`
		Name        string `json:"name,omitempty"`
		AADObjectID string `json:"aadObjectId,omitempty"`
	}

	conversationJSON struct {
		TenantID         string `json:"tenantId,omitempty"`
		ConversationType string `json:"conversationType,omitempty"`
		ID               string `json:"id,omitempty"`
		IsGroup          bool   `json:"isGroup,omitempty"`
	}

	entityJSON struct {
		Type      string      `json:"type"`
		Locale    string      `json:"locale"`   // of clientInfo
		Platform  string      `json:"platform"` // of clientInfo
		Text      string      `json:"text"`     // of mention
		Mentioned accountJSON `json:"mentioned"`
	}

	// addressJSON is the envelope of the older SDKs (M9) [S 002, 003].
	addressJSON struct {
		ID           string           `json:"id"`
		ChannelID    string           `json:"channelId"`
		ServiceURL   string           `json:"serviceUrl"`
		User         accountJSON      `json:"user"`
		Bot          accountJSON      `json:"bot"`
		Conversation conversationJSON `json:"conversation"`
	}
)

// wires are used again: they are large, and nothing of them but strings and the
// value goes on.
var wires = sync.Pool{New: func() any { return new(activityJSON) }}

// DecodeActivity reads a Bot Framework activity. The error matches
// [ErrMalformed]: no JSON object, no type, or an id that cannot be one (a
// control character in it, or longer than 1024 bytes). Which ids must be there
// depends on the activity; see [NewHandler].
//
// The result keeps body as its Raw and must be its only owner.
func DecodeActivity(body []byte) (*machine.Activity, error) {
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return nil, fmt.Errorf("%w: no JSON object", ErrMalformed)
	}
	wire, _ := wires.Get().(*activityJSON)
	defer func() {
		*wire = activityJSON{}
		wires.Put(wire)
	}()
	if err := json.Unmarshal(body, wire); err != nil {
		// After a wrong type the decoder goes on with the next member: what
		// is needed and missing is found out below.
		var wrongType *json.UnmarshalTypeError
		if !errors.As(err, &wrongType) {
			return nil, fmt.Errorf("%w: invalid JSON", ErrMalformed)
		}
	}
	if wire.Type == "" {
		return nil, fmt.Errorf("%w: no type", ErrMalformed)
	}
	wire.fillFromAddress()
	if !wire.plausible() {
		return nil, fmt.Errorf("%w: implausible id", ErrMalformed)
	}
	return wire.activity(body), nil
}

// fillFromAddress takes from the older envelope what the newer members lack.
func (w *activityJSON) fillFromAddress() {
	fill := func(to *string, from string) {
		if *to == "" {
			*to = from
		}
	}
	fill(&w.ID, w.Address.ID)
	fill(&w.ChannelID, w.Address.ChannelID)
	fill(&w.ServiceURL, w.Address.ServiceURL)
	if w.From.ID == "" {
		w.From = w.Address.User
	}
	if w.Recipient.ID == "" {
		w.Recipient = w.Address.Bot
	}
	if w.Conversation.ID == "" {
		w.Conversation.ID = w.Address.Conversation.ID
		fill(&w.Conversation.ConversationType, w.Address.Conversation.ConversationType)
		fill(&w.Conversation.TenantID, w.Address.Conversation.TenantID)
		w.Conversation.IsGroup = w.Conversation.IsGroup || w.Address.Conversation.IsGroup
	}
	fill(&w.Conversation.TenantID, w.ChannelData.Tenant.ID)
}

// plausible: ids become keys of a store, segments of a path and fields of a
// log.
func (w *activityJSON) plausible() bool {
	for _, id := range [...]string{
		w.Type, w.Name, w.ID, w.ReplyToID, w.ChannelID, w.ServiceURL,
		w.From.ID, w.From.AADObjectID, w.Recipient.ID,
		w.Conversation.ID, w.Conversation.TenantID, w.Conversation.ConversationType,
	} {
		if len(id) > maxMember {
			return false
		}
		for i := range len(id) {
			if id[i] < ' ' || id[i] == 0x7f {
				return false
			}
		}
	}
	return true
}

func (w *activityJSON) activity(body []byte) *machine.Activity {
	a := &machine.Activity{
		Type:      w.Type,
		Name:      w.Name,
		ID:        w.ID,
		ReplyToID: w.ReplyToID,
		Text:      w.Text,
		Conversation: store.Conversation{
			ServiceURL: w.ServiceURL,
			Channel:    w.ChannelID,
			ID:         w.Conversation.ID,
			Type:       w.Conversation.ConversationType,
			IsGroup:    w.Conversation.IsGroup,
			Tenant:     w.Conversation.TenantID,
			BotID:      w.Recipient.ID,
			BotName:    short(w.Recipient.Name),
			UserID:     w.From.ID,
			UserName:   short(w.From.Name),
			UserAAD:    w.From.AADObjectID,
			Locale:     short(w.Locale),
		},
		Raw: body,
	}
	if string(w.Value) != "null" {
		a.Value = w.Value
	}
	for i := range w.Entities {
		if w.Entities[i].Type != "clientInfo" {
			continue
		}
		a.Platform = short(w.Entities[i].Platform)
		if a.Conversation.Locale == "" {
			a.Conversation.Locale = short(w.Entities[i].Locale)
		}
		break
	}
	if w.Type == typeMessage {
		a.Text = withoutMention(w.Text, w.Recipient.ID, w.Entities)
	}
	return a
}

// short leaves out what is too long to be a name.
func short(name string) string {
	if len(name) > maxMember {
		return ""
	}
	return name
}
