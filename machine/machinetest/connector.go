package machinetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Connector is a messenger that records what it is given. It implements
// machine.Messenger.
type Connector struct {
	mu    sync.Mutex
	log   func(format string, args ...any)
	cards int
	texts int
	next  []script
	chats []script
	gate  chan struct{}
}

// NewConnector returns a connector that accepts everything. Its log gets a
// line per call.
func NewConnector(log func(format string, args ...any)) *Connector { return &Connector{log: log} }

// Refusal is an error status from the connector.
type Refusal struct {
	Op    string
	With  int // HTTP status
	Code  string
	After time.Duration // Retry-After
}

// Error names the status, and the code if there is one.
func (e *Refusal) Error() string {
	if e.Code != "" {
		return fmt.Sprintf("connector: status %d, code %s", e.With, e.Code)
	}
	return fmt.Sprintf("connector: status %d", e.With)
}

// HTTPStatus returns With.
func (e *Refusal) HTTPStatus() int { return e.With }

// ErrorCode returns Code.
func (e *Refusal) ErrorCode() string { return e.Code }

// Operation returns Op.
func (e *Refusal) Operation() string { return e.Op }

// RetryDelay returns After.
func (e *Refusal) RetryDelay() time.Duration { return e.After }

// Send accepts a card or a text; cards get the ids card-1, card-2 and so on.
func (c *Connector) Send(ctx context.Context, to store.Conversation, m machine.Message) (string, error) {
	if m.Card == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.texts++
		how := "reply"
		if m.ReplyTo == "" {
			how = "proactive message"
		}
		c.log("%s in %s: %q", how, to.ID, m.Text)
		return fmt.Sprintf("text-%d", c.texts), nil
	}
	c.mu.Lock()
	gate := c.gate
	c.gate = nil
	var next script
	if len(c.next) > 0 {
		next, c.next = c.next[0], c.next[1:]
	}
	c.cards++
	id := fmt.Sprintf("card-%d", c.cards)
	c.mu.Unlock()
	sso := "without SSO"
	if m.Card.Resource.TokenExchangeResource != nil {
		sso = "with SSO " + m.Card.Resource.TokenExchangeResource.ID
	}
	about := fmt.Sprintf("POST card %s %s to %s", m.Card.Connection, sso, to.ID)
	if m.Targeted {
		about += " for " + to.UserID + " alone"
	}
	if gate != nil {
		c.log("%s: held", about)
		select {
		case <-gate:
		case <-ctx.Done():
			c.log("%s: %s", about, unanswered(ctx))
			return "", ctx.Err()
		}
	}
	switch {
	case next.silent:
		<-ctx.Done()
		c.log("%s: %s", about, unanswered(ctx))
		return "", errors.Join(errors.New("connector: no answer"), ctx.Err())
	case next.status >= 300:
		c.log("%s: %d", about, next.status)
		return "", &Refusal{Op: "Send", With: next.status, Code: next.code, After: next.retryAfter}
	}
	c.log("%s: 200, id %s", about, id)
	return id, nil
}

// Update records that an activity was replaced.
func (c *Connector) Update(_ context.Context, to store.Conversation, id string, m machine.Message) error {
	c.log("update %s in %s: %q", id, to.ID, m.Text)
	return nil
}

// CreateConversation opens the chat "1:1 USER".
func (c *Connector) CreateConversation(_ context.Context, to store.Conversation) (string, error) {
	c.mu.Lock()
	var next script
	if len(c.chats) > 0 {
		next, c.chats = c.chats[0], c.chats[1:]
	}
	c.mu.Unlock()
	id := "1:1-" + to.UserID
	if next.status >= 300 {
		c.log("create conversation: %d", next.status)
		return "", &Refusal{Op: "CreateConversation", With: next.status, Code: next.code, After: next.retryAfter}
	}
	c.log("create conversation: %s", id)
	return id, nil
}
