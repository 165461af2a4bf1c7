package emulator

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// Request is a recorded request. It has no Authorization header and no client secret,
// which may be real ones. Its tokens and codes are emulated.
type Request struct {
	Seq            int64             `json:"seq"`
	Time           time.Time         `json:"time"`
	Operation      Operation         `json:"operation"`
	Method         string            `json:"method"`
	Path           string            `json:"path"`
	Query          map[string]string `json:"query,omitempty"` // keys in lower case
	State          *tokensvc.State   `json:"state,omitempty"` // decoded
	ConversationID string            `json:"conversationId,omitempty"`
	ActivityID     string            `json:"activityId,omitempty"`
	Bearer         bool              `json:"bearer"` // it had a bearer token
	Body           string            `json:"body,omitempty"`
	Status         int               `json:"status"` // 0 = the connection was dropped
	Duration       time.Duration     `json:"durationNs"`
}

// Activity is an activity that a bot sent to a conversation.
type Activity struct {
	Seq            int64           `json:"seq"`
	Time           time.Time       `json:"time"`
	Operation      Operation       `json:"operation"` // OpPostActivity or OpUpdateActivity
	ConversationID string          `json:"conversationId"`
	ID             string          `json:"id"` // given by the connector
	Type           string          `json:"type"`
	Text           string          `json:"text,omitempty"`
	ReplyToID      string          `json:"replyToId,omitempty"`
	Recipient      Account         `json:"recipient,omitzero"`
	Targeted       bool            `json:"targeted"` // only the recipient sees it
	Card           *Card           `json:"card,omitempty"`
	Raw            json.RawMessage `json:"raw"`
}

// Card is an OAuth card that a bot sent.
type Card struct {
	Seq                   int64                           `json:"seq"`
	ConversationID        string                          `json:"conversationId"`
	ActivityID            string                          `json:"activityId"`
	RecipientID           string                          `json:"recipientId,omitempty"`
	Targeted              bool                            `json:"targeted"` // only the recipient sees it
	Text                  string                          `json:"text,omitempty"`
	Connection            string                          `json:"connection"`
	ButtonTitle           string                          `json:"buttonTitle,omitempty"`
	SignInLink            string                          `json:"signInLink"`
	TokenExchangeResource *tokensvc.TokenExchangeResource `json:"tokenExchangeResource,omitempty"`
}

// ExchangeID returns the card's tokenExchangeResource.id, or "" if the card does not
// offer SSO.
func (c *Card) ExchangeID() string {
	if c.TokenExchangeResource == nil {
		return ""
	}
	return c.TokenExchangeResource.ID
}

// SetRecording turns the recording of requests and activities on or off. Counts and
// the last card of each conversation are kept in any case.
func (s *Server) SetRecording(on bool) {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	s.recording = on
}

func (s *Server) record(in *incoming, status int) {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	if !s.recording {
		return
	}
	s.seq++
	body := string(in.body)
	if in.op == OpAccessToken {
		body = withoutSecret(body)
	}
	s.requests.add(Request{
		Seq:            s.seq,
		Time:           in.received,
		Operation:      in.op,
		Method:         in.request.Method,
		Path:           in.request.URL.Path,
		Query:          in.query,
		State:          in.state,
		ConversationID: in.conversationID,
		ActivityID:     in.activityID,
		Bearer:         bearer(in.request) != "",
		Body:           body,
		Status:         status,
		Duration:       s.cfg.Now().Sub(in.received),
	})
}

func withoutSecret(form string) string {
	values, err := url.ParseQuery(form)
	if err != nil {
		return ""
	}
	for _, key := range []string{"client_secret", "client_assertion"} {
		if values.Has(key) {
			values.Set(key, "[redacted]")
		}
	}
	return values.Encode()
}

// Requests returns the recorded requests of these operations, or of all operations if
// there are none, in the order in which they were answered.
func (s *Server) Requests(operations ...Operation) []Request {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	return slices.DeleteFunc(s.requests.all(), func(r Request) bool {
		return len(operations) > 0 && !slices.Contains(operations, r.Operation)
	})
}

// Count returns how many requests of an operation came in since the start or
// ResetRequests, recorded or not.
func (s *Server) Count(op Operation) int64 {
	if n, ok := s.counts[op]; ok {
		return n.Load()
	}
	return 0
}

// ResetRequests forgets requests, activities, cards and counts.
func (s *Server) ResetRequests() {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	s.requests.clear()
	s.activities.clear()
	s.cards.clear()
	for _, n := range s.counts {
		n.Store(0)
	}
}

// Activities returns the recorded activities that bots sent to a conversation, in
// order. An empty id stands for all conversations.
func (s *Server) Activities(conversationID string) []Activity {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	return s.activitiesLocked(conversationID)
}

func (s *Server) activitiesLocked(conversationID string) []Activity {
	return slices.DeleteFunc(s.activities.all(), func(a Activity) bool {
		return conversationID != "" && a.ConversationID != conversationID
	})
}

// WaitForActivity returns the first recorded activity of a conversation that fits
// accepts. If there is none yet, it waits for one until ctx is done.
func (s *Server) WaitForActivity(ctx context.Context, conversationID string, fits func(Activity) bool) (Activity, error) {
	var found Activity
	err := s.wait(ctx, func() bool {
		all := s.activitiesLocked(conversationID)
		i := slices.IndexFunc(all, fits)
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found, err
}

// WaitForText is [Server.WaitForActivity] for a text that contains part.
func (s *Server) WaitForText(ctx context.Context, conversationID, part string) (Activity, error) {
	return s.WaitForActivity(ctx, conversationID, func(a Activity) bool { return strings.Contains(a.Text, part) })
}

// LastCard returns the newest OAuth card of a conversation, and whether there is one.
func (s *Server) LastCard(conversationID string) (Card, bool) {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	return s.cards.get(conversationID)
}

// WaitForCard returns the newest OAuth card of a conversation as soon as its Seq is
// greater than after, which is 0 for any card. It waits until ctx is done.
func (s *Server) WaitForCard(ctx context.Context, conversationID string, after int64) (Card, error) {
	var found Card
	err := s.wait(ctx, func() bool {
		card, ok := s.cards.get(conversationID)
		found = card
		return ok && card.Seq > after
	})
	if err != nil {
		return Card{}, err
	}
	return found, nil
}

// keep records an activity and wakes the callers of wait.
func (s *Server) keep(a Activity) {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	s.seq++
	a.Seq = s.seq
	if a.Card != nil {
		a.Card.Seq = s.seq
		s.cards.put(a.ConversationID, *a.Card)
	}
	if s.recording {
		s.activities.add(a)
	}
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
