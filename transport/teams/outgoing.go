package teams

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// OAuthCardType is the content type of the card that starts a sign-in.
const OAuthCardType = "application/vnd.microsoft.card.oauth"

// The texts of a card, unless the connection sets others [S 004].
const (
	defaultCardText   = "Please Sign In"
	defaultCardButton = "Sign In"
)

// The members have the order of the recorded trace [S 001 steps 4, 7].
type (
	outgoingJSON struct {
		From         partyJSON        `json:"from"`
		Recipient    *partyJSON       `json:"recipient,omitempty"`
		Conversation threadJSON       `json:"conversation"`
		Attachments  []attachmentJSON `json:"attachments,omitempty"`
		Type         string           `json:"type"`
		ID           string           `json:"id,omitempty"` // only in an update
		ChannelID    string           `json:"channelId,omitempty"`
		ServiceURL   string           `json:"serviceUrl,omitempty"`
		ReplyToID    string           `json:"replyToId,omitempty"`
		Text         string           `json:"text,omitempty"`
		TextFormat   string           `json:"textFormat,omitempty"`
	}

	// partyJSON is a bot or a user.
	partyJSON struct {
		ID          string `json:"id,omitempty"`
		Name        string `json:"name,omitempty"`
		AADObjectID string `json:"aadObjectId,omitempty"`
		IsTargeted  bool   `json:"isTargeted,omitempty"` // of a recipient: nobody else sees the message
	}

	// threadJSON is the conversation to which a message goes.
	threadJSON struct {
		TenantID         string `json:"tenantId,omitempty"`
		ConversationType string `json:"conversationType,omitempty"`
		ID               string `json:"id,omitempty"`
		IsGroup          bool   `json:"isGroup,omitempty"`
	}

	attachmentJSON struct {
		ContentType string        `json:"contentType"`
		Content     oauthCardJSON `json:"content"`
	}

	oauthCardJSON struct {
		Text                  string                          `json:"text"`
		ConnectionName        string                          `json:"connectionName"`
		Buttons               []buttonJSON                    `json:"buttons"`
		TokenExchangeResource *tokensvc.TokenExchangeResource `json:"tokenExchangeResource,omitempty"`
		TokenPostResource     *tokenPostJSON                  `json:"tokenPostResource,omitempty"`
	}

	buttonJSON struct {
		Type  string `json:"type"`
		Title string `json:"title"`
		Value string `json:"value"`
	}

	tokenPostJSON struct {
		SasURL string `json:"sasUrl"`
	}

	newConversationJSON struct {
		Bot         partyJSON        `json:"bot"`
		Members     []partyJSON      `json:"members"`
		ChannelData *channelDataJSON `json:"channelData,omitempty"`
		IsGroup     bool             `json:"isGroup"`
	}

	channelDataJSON struct {
		Tenant placeJSON `json:"tenant"`
	}
)

var errNoObject = errors.New("raw message is no JSON object")

// encodeMessage makes the body of a message to a conversation. updates is the id
// of the activity that the message replaces, "" for a new one.
func encodeMessage(to *store.Conversation, m *machine.Message, updates string) ([]byte, error) {
	out := outgoingJSON{
		From: partyJSON{ID: to.BotID, Name: to.BotName},
		Conversation: threadJSON{
			TenantID:         to.Tenant,
			ConversationType: to.Type,
			ID:               to.ID,
			IsGroup:          to.IsGroup,
		},
		Type:       typeMessage,
		ID:         updates,
		ChannelID:  to.Channel,
		ServiceURL: to.ServiceURL,
		ReplyToID:  m.ReplyTo,
	}
	if m.Card != nil || m.Targeted {
		// Teams needs to know the card's user for silent SSO.
		out.Recipient = &partyJSON{ID: to.UserID, Name: to.UserName, AADObjectID: to.UserAAD, IsTargeted: m.Targeted}
	}
	if m.Raw != nil {
		return encodeRaw(&out, m.Raw)
	}
	if m.Card != nil {
		out.Attachments = []attachmentJSON{{ContentType: OAuthCardType, Content: newOAuthCard(m.Card)}}
	}
	if m.Text != "" {
		out.Text, out.TextFormat = m.Text, "plain"
	}
	return encodeJSON(out)
}

func newOAuthCard(card *machine.OAuthCard) oauthCardJSON {
	content := oauthCardJSON{
		Text:           card.Text,
		ConnectionName: card.Connection,
		Buttons: []buttonJSON{{
			Type:  "signin",
			Title: card.Button,
			Value: card.Resource.SignInLink.Reveal(),
		}},
		TokenExchangeResource: card.Resource.TokenExchangeResource,
	}
	if content.Text == "" {
		content.Text = defaultCardText
	}
	if card.Button == "" {
		content.Buttons[0].Title = defaultCardButton
	}
	if post := card.Resource.TokenPostResource; post != nil && !post.SasURL.Empty() {
		content.TokenPostResource = &tokenPostJSON{SasURL: post.SasURL.Reveal()}
	}
	return content
}

// encodeRaw replaces the address members of a raw activity by those of out, since
// the author of a message must not choose where it goes. It omits members that
// are null.
func encodeRaw(out *outgoingJSON, raw json.RawMessage) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		return nil, errNoObject // the decoder's error would quote the message
	}
	for name, value := range members {
		if string(value) == "null" {
			delete(members, name)
		}
	}
	envelope, err := encodeJSON(out)
	if err != nil {
		return nil, err
	}
	given, hasType := members["type"]
	if err := json.Unmarshal(envelope, &members); err != nil {
		return nil, fmt.Errorf("address of a raw message: %w", err)
	}
	if hasType {
		members["type"] = given
	}
	if out.ReplyToID == "" {
		delete(members, "replyToId")
	}
	if out.ID == "" {
		delete(members, "id")
	}
	return encodeJSON(members)
}

// encodeJSON does not escape &, < and >, so that links stay unchanged.
func encodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'}), nil
}
