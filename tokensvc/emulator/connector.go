package emulator

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// oauthCard is the content type of a sign-in card.
const oauthCard = "application/vnd.microsoft.card.oauth"

type postedActivity struct {
	Type         string       `json:"type"`
	Text         string       `json:"text"`
	ReplyToID    string       `json:"replyToId"`
	Recipient    Account      `json:"recipient"`
	Conversation Conversation `json:"conversation"`
	Attachments  []struct {
		ContentType string          `json:"contentType"`
		Content     json.RawMessage `json:"content"`
	} `json:"attachments"`
}

// readActivity returns nil if the body is not an activity.
func readActivity(body []byte) *postedActivity {
	var posted postedActivity
	if json.Unmarshal(body, &posted) != nil || posted.Type == "" {
		return nil
	}
	return &posted
}

func (a *postedActivity) hasCard() bool {
	for _, attachment := range a.Attachments {
		if attachment.ContentType == oauthCard {
			return true
		}
	}
	return false
}

// card returns the last OAuth card of the activity, or nil if it has none. It
// returns false if Teams would refuse one of its cards.
func (a *postedActivity) card() (*Card, bool) {
	var found *Card
	for _, attachment := range a.Attachments {
		if attachment.ContentType != oauthCard {
			continue
		}
		var content cardContent
		if json.Unmarshal(attachment.Content, &content) != nil || hasNull(attachment.Content) {
			return nil, false
		}
		found = content.card()
	}
	return found, true
}

type cardContent struct {
	Text           string `json:"text"`
	ConnectionName string `json:"connectionName"`
	Buttons        []struct {
		Type  string `json:"type"`
		Title string `json:"title"`
		Value string `json:"value"`
	} `json:"buttons"`
	TokenExchangeResource *tokensvc.TokenExchangeResource `json:"tokenExchangeResource"`
}

type idAnswer struct {
	ID string `json:"id"`
}

// postActivity handles a send, a reply or an update (docs/protocol.md §4).
func (s *Server) postActivity(w http.ResponseWriter, in *incoming) {
	posted := in.posted
	if posted == nil {
		refuse(w, http.StatusBadRequest, "BadSyntax", "the activity cannot be read or has no type")
		return
	}
	targeted := strings.EqualFold(in.query["istargetedactivity"], "true")
	if targeted && (posted.Recipient.ID == "" || posted.Conversation.Type == "personal") {
		refuse(w, http.StatusBadRequest, "BadArgument", "a targeted activity needs a recipient, and a group chat or channel")
		return
	}
	card, ok := posted.card()
	if !ok {
		// This is how Teams refuses a card with an explicit null [S 001].
		refuse(w, http.StatusBadRequest, "ServiceError", "Unknown")
		return
	}
	a := Activity{
		Time:           in.received,
		Operation:      in.op,
		ConversationID: in.conversationID,
		Type:           posted.Type,
		Text:           posted.Text,
		ReplyToID:      posted.ReplyToID,
		Recipient:      posted.Recipient,
		Targeted:       targeted,
		Card:           card,
		Raw:            in.body,
	}
	status := http.StatusCreated
	switch {
	case in.op == OpUpdateActivity:
		a.ID, status = in.activityID, statusOK
	case a.Card != nil:
		a.ID, status = s.ids.timestamp(s.cfg.Now()), statusOK
	default:
		a.ID = s.ids.timestamp(s.cfg.Now())
	}
	if a.Card != nil {
		a.Card.ConversationID, a.Card.ActivityID = a.ConversationID, a.ID
		a.Card.RecipientID, a.Card.Targeted = a.Recipient.ID, targeted
	}
	s.keep(a)
	answerJSON(w, status, idAnswer{a.ID})
}

func (c *cardContent) card() *Card {
	card := &Card{Text: c.Text, Connection: c.ConnectionName, TokenExchangeResource: c.TokenExchangeResource}
	for _, b := range c.Buttons {
		if b.Type == "signin" {
			card.ButtonTitle, card.SignInLink = b.Title, b.Value
		}
	}
	return card
}

// hasNull reports whether a JSON value has a null at any depth.
func hasNull(raw []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(raw))
	for {
		token, err := dec.Token()
		if err != nil {
			return false
		}
		if token == nil {
			return true
		}
	}
}

// createConversation opens the personal chat of a bot and a user. As in Teams there
// is one such chat, so every call for the same two returns the same id.
func (s *Server) createConversation(w http.ResponseWriter, in *incoming) {
	var asked struct {
		Bot     idAnswer   `json:"bot"`
		Members []idAnswer `json:"members"`
		IsGroup bool       `json:"isGroup"`
	}
	if json.Unmarshal(in.body, &asked) != nil || len(asked.Members) != 1 || asked.Members[0].ID == "" || asked.IsGroup {
		refuse(w, http.StatusBadRequest, "BadSyntax", "a personal chat needs exactly one member")
		return
	}
	sum := sha256.Sum256([]byte(asked.Bot.ID + "\n" + asked.Members[0].ID))
	answerJSON(w, http.StatusCreated, idAnswer{"a:1" + base64.RawURLEncoding.EncodeToString(sum[:])})
}
