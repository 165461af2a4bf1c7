package teams

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// ErrMalformed means that a body is no activity. It never contains the body.
var ErrMalformed = errors.New("teams: malformed activity")

// The activity types that the handler distinguishes.
const (
	typeMessage = "message"
	typeInvoke  = "invoke"
	typeEvent   = "event"
)

// maxMember bounds every id and name of an activity, in bytes. Those of Teams
// have fewer than 300. Ids become part of a store's keys, whose length is
// bounded, too.
const maxMember = 1024

// The wire form of an incoming activity (docs/protocol.md §1). encoding/json
// matches names without regard to case, so that both spellings are read.
type (
	activityJSON struct {
		Type         string           `json:"type"`
		Name         string           `json:"name"`
		ID           looseString      `json:"id"`
		ReplyToID    looseString      `json:"replyToId"`
		ChannelID    string           `json:"channelId"`
		ServiceURL   string           `json:"serviceUrl"`
		Text         looseString      `json:"text"`
		Locale       string           `json:"locale"`
		DeliveryMode looseString      `json:"deliveryMode"`
		From         accountJSON      `json:"from"`
		Recipient    accountJSON      `json:"recipient"`
		Conversation conversationJSON `json:"conversation"`
		ChannelData  struct {
			Tenant  placeJSON `json:"tenant"`
			Team    placeJSON `json:"team"`
			Channel placeJSON `json:"channel"`
		} `json:"channelData"`
		Entities []entityJSON    `json:"entities"`
		Value    json.RawMessage `json:"value"`
		Address  addressJSON     `json:"address"`
	}

	accountJSON struct {
		ID          looseString `json:"id"`
		Name        string      `json:"name"`
		AADObjectID string      `json:"aadObjectId"`
	}

	conversationJSON struct {
		ID               looseString `json:"id"`
		ConversationType string      `json:"conversationType"`
		TenantID         string      `json:"tenantId"`
		IsGroup          bool        `json:"isGroup"`
	}

	// placeJSON is a tenant, a team or a channel.
	placeJSON struct {
		ID string `json:"id"`
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
		ID           looseString      `json:"id"`
		ChannelID    string           `json:"channelId"`
		ServiceURL   string           `json:"serviceUrl"`
		User         accountJSON      `json:"user"`
		Bot          accountJSON      `json:"bot"`
		Conversation conversationJSON `json:"conversation"`
	}
)

// DecodeActivity reads a Bot Framework activity. The error matches
// [ErrMalformed]: no JSON object, no type, or an id that cannot be one (a
// control character in it, or longer than 1024 bytes). Which ids must be there
// depends on the activity; see [NewHandler].
//
// The result does not depend on the client. A number instead of a string becomes its
// decimal text. A value with an object in a string becomes that object. The name of a
// known invoke gets its usual spelling. A message's text has no mention of the bot. A
// conversation without a type gets one if its id or its channel data has it.
//
// The result keeps body as its Raw and must be its only owner.
func DecodeActivity(body []byte) (*machine.Activity, error) {
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return nil, fmt.Errorf("%w: no JSON object", ErrMalformed)
	}
	var wire activityJSON
	if err := json.Unmarshal(body, &wire); err != nil {
		// After a wrong type the decoder continues with the next member. The
		// checks below report a required member that is missing for that reason.
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

// fillFromAddress copies members that are missing from the older envelope.
func (w *activityJSON) fillFromAddress() {
	fillText(&w.ID, w.Address.ID)
	fillText(&w.ChannelID, w.Address.ChannelID)
	fillText(&w.ServiceURL, w.Address.ServiceURL)
	if w.From.ID == "" {
		w.From = w.Address.User
	}
	if w.Recipient.ID == "" {
		w.Recipient = w.Address.Bot
	}
	if w.Conversation.ID == "" {
		w.Conversation.ID = w.Address.Conversation.ID
		fillText(&w.Conversation.ConversationType, w.Address.Conversation.ConversationType)
		fillText(&w.Conversation.TenantID, w.Address.Conversation.TenantID)
		w.Conversation.IsGroup = w.Conversation.IsGroup || w.Address.Conversation.IsGroup
	}
	fillText(&w.Conversation.TenantID, w.ChannelData.Tenant.ID)
}

func fillText[S ~string](to *S, from S) {
	if *to == "" {
		*to = from
	}
}

// plausible reports whether the ids can be used in keys of a store, in a path and
// in a log.
func (w *activityJSON) plausible() bool {
	for _, id := range [...]string{
		w.Type, w.Name, string(w.ID), string(w.ReplyToID), w.ChannelID, w.ServiceURL,
		string(w.From.ID), w.From.AADObjectID, string(w.Recipient.ID),
		string(w.Conversation.ID), w.Conversation.TenantID, w.Conversation.ConversationType,
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
		ID:        string(w.ID),
		ReplyToID: string(w.ReplyToID),
		Text:      string(w.Text),
		Conversation: store.Conversation{
			ServiceURL: w.ServiceURL,
			Channel:    w.ChannelID,
			ID:         string(w.Conversation.ID),
			Type:       w.conversationType(),
			IsGroup:    w.Conversation.IsGroup,
			Tenant:     w.Conversation.TenantID,
			BotID:      string(w.Recipient.ID),
			BotName:    short(w.Recipient.Name),
			UserID:     string(w.From.ID),
			UserName:   short(w.From.Name),
			UserAAD:    w.From.AADObjectID,
			Locale:     short(w.Locale),
		},
		ExpectReplies: strings.EqualFold(string(w.DeliveryMode), expectReplies),
		Raw:           body,
	}
	if w.Type == typeInvoke {
		a.Name = invokeName(w.Name)
	}
	a.Value = readValue(w.Value)
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
		a.Text = withoutMention(a.Text, &w.Recipient, w.Entities)
	}
	return a
}

// short returns a name, or "" if it is too long to be one.
func short(name string) string {
	if len(name) > maxMember {
		return ""
	}
	return name
}
