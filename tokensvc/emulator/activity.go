package emulator

import (
	"encoding/json"
	"time"
)

// Account is a user or a bot in an activity.
type Account struct {
	ID          string `json:"id"`
	Name        string `json:"name,omitempty"`
	AADObjectID string `json:"aadObjectId,omitempty"`
	// IsTargeted marks a recipient that alone sees the activity.
	IsTargeted bool `json:"isTargeted,omitempty"`
}

// Conversation is the conversation of an activity.
type Conversation struct {
	ID       string `json:"id"`
	Type     string `json:"conversationType,omitempty"` // personal, groupChat, channel
	TenantID string `json:"tenantId,omitempty"`
	IsGroup  bool   `json:"isGroup,omitempty"`
}

// Incoming is an activity as Teams sends it to a bot (docs/protocol.md §1).
type Incoming struct {
	Type         string          `json:"type"`
	Name         string          `json:"name,omitempty"`
	ID           string          `json:"id"`
	ReplyToID    string          `json:"replyToId,omitempty"`
	Timestamp    time.Time       `json:"timestamp"`
	ChannelID    string          `json:"channelId"`
	ServiceURL   string          `json:"serviceUrl"`
	From         Account         `json:"from"`
	Recipient    Account         `json:"recipient"`
	Conversation Conversation    `json:"conversation"`
	Locale       string          `json:"locale,omitempty"`
	DeliveryMode string          `json:"deliveryMode,omitempty"`
	Text         string          `json:"text,omitempty"`
	TextFormat   string          `json:"textFormat,omitempty"`
	Entities     []Entity        `json:"entities,omitempty"`
	ChannelData  *ChannelData    `json:"channelData,omitempty"`
	Value        json.RawMessage `json:"value,omitempty"`
}

// Entity is an entity of an activity: of type clientInfo or mention.
type Entity struct {
	Type      string   `json:"type"`
	Locale    string   `json:"locale,omitempty"`
	Country   string   `json:"country,omitempty"`
	Platform  string   `json:"platform,omitempty"`
	Timezone  string   `json:"timezone,omitempty"`
	Mentioned *Account `json:"mentioned,omitempty"`
	Text      string   `json:"text,omitempty"`
}

// ChannelData is the part of an activity that is specific to Teams.
type ChannelData struct {
	Tenant *struct {
		ID string `json:"id"`
	} `json:"tenant,omitempty"`
	Team    *Place `json:"team,omitempty"`
	Channel *Place `json:"channel,omitempty"`
	Meeting *Place `json:"meeting,omitempty"`
	Source  *struct {
		Name string `json:"name"`
	} `json:"source,omitempty"`
	Legacy *struct {
		ReplyToID string `json:"replyToId"`
	} `json:"legacy,omitempty"`
}

// Place is a team, a channel (Type standard, private or shared) or a meeting.
type Place struct {
	ID   string `json:"id"`
	Type string `json:"type,omitempty"`
}

func channelData(tenant string) *ChannelData {
	d := &ChannelData{}
	if tenant != "" {
		d.Tenant = &struct {
			ID string `json:"id"`
		}{tenant}
	}
	return d
}

// ofCard marks an activity that a card in a message caused.
func (d *ChannelData) ofCard(legacyID string) {
	d.Source = &struct {
		Name string `json:"name"`
	}{"message"}
	d.Legacy = &struct {
		ReplyToID string `json:"replyToId"`
	}{legacyID}
}
