package teams_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// reply holds the members of a reply that the tests check.
type reply struct {
	Type, Text, ReplyToID string
	Value                 struct{ Status int }
	Attachments           []struct {
		Content struct {
			ConnectionName        string
			TokenExchangeResource struct{ ID string }
		}
	}
}

func repliesIn(t *testing.T, a emulator.Answer, err error) []reply {
	t.Helper()
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d %s, %v", a.Status, a.Body, err)
	}
	raw, err := a.Replies()
	if err != nil {
		t.Fatal(err)
	}
	all := make([]reply, len(raw))
	for i := range raw {
		if err := json.Unmarshal(raw[i], &all[i]); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestExpectReplies checks that a caller who expects replies gets cards and
// messages in the answer, and after them the answer to the invoke. The connector
// gets no request.
func TestExpectReplies(t *testing.T) {
	g := newGuarded(t)
	bot, stop := g.start(t, "a")
	defer stop()
	user := g.emu.Teams(bot.URL)
	user.DeliveryMode = "expectReplies"

	said, err := user.SendMessage(t.Context(), "show my issues")
	card := repliesIn(t, said, err)
	if len(card) != 1 || card[0].Type != "message" || len(card[0].Attachments) != 1 || card[0].Attachments[0].Content.ConnectionName != "graph" ||
		card[0].ReplyToID != said.Sent.ID {
		t.Fatalf("%s", said.Body)
	}
	exchanged, err := user.TokenExchange(t.Context(), card[0].Attachments[0].Content.TokenExchangeResource.ID, "graph", "sso")
	all := repliesIn(t, exchanged, err)
	if len(all) != 2 || all[0].Attachments[0].Content.ConnectionName != "github" ||
		all[1].Type != "invokeResponse" || all[1].Value.Status != http.StatusOK || all[1].ReplyToID != exchanged.Sent.ID {
		t.Fatalf("%s", exchanged.Body)
	}
	refused, err := user.VerifyState(t.Context(), "000000", "")
	if all = repliesIn(t, refused, err); len(all) == 0 || all[len(all)-1].Value.Status < 400 {
		t.Errorf("a wrong code: %s", refused.Body)
	}
	if sent := g.emu.Activities(user.Conversation.ID); len(sent) != 0 {
		t.Errorf("the connector got %+v", sent)
	}
}

// TestExpectRepliesEndsWithTheTurn checks that what a bot sends after its answer,
// or to another conversation, goes to the connector.
func TestExpectRepliesEndsWithTheTurn(t *testing.T) {
	g := newGuarded(t)
	connector := newConnector(t, teams.ConnectorConfig{ServiceURLs: loopback(t)})
	answered, later := make(chan struct{}), make(chan error, 1)
	engine := &fakeEngine{}
	bot := teams.BotFunc(func(ctx context.Context, _ *machine.Turn) (*machine.Answer, error) {
		here := engine.turns[0].Conversation
		elsewhere := here
		elsewhere.ID = "a:elsewhere"
		go func() {
			<-answered
			_, err := connector.Send(context.WithoutCancel(ctx), here, machine.Message{Text: "later"})
			later <- err
		}()
		for _, m := range []struct {
			to   store.Conversation
			text string
		}{{here, "now"}, {elsewhere, "there"}} {
			if _, err := connector.Send(ctx, m.to, machine.Message{Text: m.text}); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	user := g.emu.Teams(serve(t, newHandler(t, engine, bot, func(c *teams.Config) { c.ServiceURLs = loopback(t) })))
	user.DeliveryMode = "ExpectReplies"
	said, err := user.SendMessage(t.Context(), "hello")
	if all := repliesIn(t, said, err); len(all) != 1 || all[0].Text != "now" {
		t.Errorf("%s", said.Body)
	}
	close(answered)
	if err := <-later; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for conversation, text := range map[string]string{user.Conversation.ID: "later", "a:elsewhere": "there"} {
		if _, err := g.emu.WaitForText(ctx, conversation, text); err != nil {
			t.Error(err)
		}
	}
}

// TestExpectRepliesWithoutAStore checks that a turn which did nothing, because
// the store is unavailable, is answered 503. The caller then sends again.
func TestExpectRepliesWithoutAStore(t *testing.T) {
	engine := &fakeEngine{handle: answering(machine.Answer{Status: http.StatusServiceUnavailable, RetryAfter: time.Second})}
	w := post(t, newHandler(t, engine, silent), `{"type":"invoke","name":"signin/tokenExchange","deliveryMode":"expectReplies","from":{"id":"29:a"},
		"conversation":{"id":"a:1"},"serviceUrl":"https://smba.trafficmanager.net/amer/"}`)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestExpectRepliesKeepsWhatWasSaid checks that the replies of a turn are not
// lost if the store becomes unavailable at its end.
func TestExpectRepliesKeepsWhatWasSaid(t *testing.T) {
	g := newGuarded(t)
	connector := newConnector(t, teams.ConnectorConfig{ServiceURLs: loopback(t)})
	engine := &fakeEngine{}
	bot := teams.BotFunc(func(ctx context.Context, _ *machine.Turn) (*machine.Answer, error) {
		if _, err := connector.Send(ctx, engine.turns[0].Conversation, machine.Message{Text: "card"}); err != nil {
			return nil, err
		}
		return nil, store.ErrUnavailable
	})
	user := g.emu.Teams(serve(t, newHandler(t, engine, bot, func(c *teams.Config) { c.ServiceURLs = loopback(t) })))
	user.DeliveryMode = "expectReplies"
	said, err := user.Invoke(t.Context(), "task/fetch", "", map[string]string{})
	if all := repliesIn(t, said, err); len(all) != 2 || all[0].Text != "card" || all[1].Value.Status != http.StatusServiceUnavailable {
		t.Errorf("%s", said.Body)
	}
}
