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

// Request is a request that came in. Tokens and codes in it are emulated ones;
// a client secret and the Authorization header are left out all the same.
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
	Bearer         bool              `json:"bearer"` // an Authorization header was there
	Body           string            `json:"body,omitempty"`
	Status         int               `json:"status"` // 0: the connection was dropped
	Duration       time.Duration     `json:"durationNs"`
}

// Activity is what a bot sent to a conversation.
type Activity struct {
	Seq            int64           `json:"seq"`
	Time           time.Time       `json:"time"`
	Operation      Operation       `json:"operation"` // OpPostActivity or OpUpdateActivity
	ConversationID string          `json:"conversationId"`
	ID             string          `json:"id"` // that the connector gave it
	Type           string          `json:"type"`
	Text           string          `json:"text,omitempty"`
	ReplyToID      string          `json:"replyToId,omitempty"`
	Recipient      Account         `json:"recipient,omitzero"`
	Targeted       bool            `json:"targeted"` // the query said so: nobody but the recipient sees it
	Card           *Card           `json:"card,omitempty"`
	Raw            json.RawMessage `json:"raw"`
}

// Card is an OAuth card that a bot sent.
type Card struct {
	Seq                   int64                           `json:"seq"`
	ConversationID        string                          `json:"conversationId"`
	ActivityID            string                          `json:"activityId"`
	RecipientID           string                          `json:"recipientId,omitempty"`
	Targeted              bool                            `json:"targeted"` // nobody but the recipient sees it
	Text                  string                          `json:"text,omitempty"`
	Connection            string                          `json:"connection"`
	ButtonTitle           string                          `json:"buttonTitle,omitempty"`
	SignInLink            string                          `json:"signInLink"`
	TokenExchangeResource *tokensvc.TokenExchangeResource `json:"tokenExchangeResource,omitempty"`
}

// ExchangeID is the card's tokenExchangeResource.id, "" without SSO.
func (c *Card) ExchangeID() string {
	if c.TokenExchangeResource == nil {
		return ""
	}
	return c.TokenExchangeResource.ID
}

// SetRecording switches the record of requests and activities on or off.
// Counts and cards go on.
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

// Requests returns the requests on record in the order in which they were
// answered, only those of the operations if any are named.
func (s *Server) Requests(operations ...Operation) []Request {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	return slices.DeleteFunc(s.requests.all(), func(r Request) bool {
		return len(operations) > 0 && !slices.Contains(operations, r.Operation)
	})
}

// Count says how many requests of the operation came in since the start or
// ResetRequests, whether recorded or not.
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

// Activities returns what bots sent to the conversation, or to all if it is
// empty, in order.
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

// WaitForActivity returns the first recorded activity of the conversation that
// fits. Without one it waits until ctx is done.
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

// WaitForText is WaitForActivity for a message whose text contains part.
func (s *Server) WaitForText(ctx context.Context, conversationID, part string) (Activity, error) {
	return s.WaitForActivity(ctx, conversationID, func(a Activity) bool { return strings.Contains(a.Text, part) })
}

// LastCard returns the newest OAuth card of the conversation.
func (s *Server) LastCard(conversationID string) (Card, bool) {
	s.recMu.Lock()
	defer s.recMu.Unlock()
	return s.cards.get(conversationID)
}

// WaitForCard returns the newest OAuth card of the conversation as soon as its
// Seq is greater than after; 0 takes any.
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

// keep records an activity and wakes those who wait.
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
