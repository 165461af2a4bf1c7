package teams_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// popup is the trace's sign-in without an engine: a message sends the card, and
// the code that comes back is redeemed at once. It checks what a real engine
// needs from this package.
type popup struct {
	t         *testing.T
	tokens    *tokensvc.Client
	connector *teams.Connector
	last      *machine.Activity
	card      string
}

func (*popup) Before(context.Context, *machine.Turn) bool { return false }

func (p *popup) Turn(a *machine.Activity) *machine.Turn {
	p.last = a
	return new(machine.Turn)
}

func (p *popup) HandleInvoke(ctx context.Context, a *machine.Activity) (machine.Answer, bool) {
	if a.Name != machine.InvokeVerifyState {
		return machine.Answer{}, false
	}
	var value struct{ State tokensvc.Secret }
	if err := json.Unmarshal(a.Value, &value); err != nil {
		p.t.Error(err)
	}
	if a.ReplyToID != p.card {
		p.t.Errorf("reply to %q, want %q", a.ReplyToID, p.card)
	}
	uc := tokensvc.UserConnection{UserID: a.Conversation.UserID, Connection: "teamsgraph", ChannelID: "msteams"}
	if _, err := p.tokens.GetToken(ctx, uc, value.State); err != nil {
		p.t.Error(err)
		return machine.Answer{Status: http.StatusPreconditionFailed}, true
	}
	if _, err := p.connector.Send(ctx, a.Conversation, machine.Message{ReplyTo: a.ID, Text: "Connected!"}); err != nil {
		p.t.Error(err)
	}
	return machine.Answer{Status: http.StatusOK}, true
}

func (p *popup) OnActivity(ctx context.Context, _ *machine.Turn) (*machine.Answer, error) {
	c := p.last.Conversation
	resource, err := p.tokens.GetSignInResource(ctx, tokensvc.State{
		Connection: "teamsgraph", ActivityID: p.last.ID, BotID: c.BotID, ChannelID: "msteams",
		ConversationID: c.ID, ServiceURL: c.ServiceURL, UserID: c.UserID, MsAppID: "app",
	})
	if err != nil {
		return nil, err
	}
	p.card, err = p.connector.Send(ctx, c, machine.Message{
		ReplyTo: p.last.ID, Card: &machine.OAuthCard{Connection: "teamsgraph", Resource: resource},
	})
	return nil, err
}

func TestPopupAgainstTheEmulator(t *testing.T) {
	t.Parallel()
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "teamsgraph", SSO: true}}, Seed: 1})
	web := httptest.NewServer(emu)
	t.Cleanup(web.Close)
	emu.SetBaseURL(web.URL)
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: web.URL, Credentials: tokensvc.Static(tokensvc.NewSecret(botToken))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tokens.CloseIdleConnections)
	bot := &popup{t: t, tokens: tokens, connector: newConnector(t, teams.ConnectorConfig{})}
	client := emu.Teams(serve(t, newHandler(t, bot, bot.OnActivity, func(c *teams.Config) { c.ServiceURLs = loopback(t) })))

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	said, err := client.SendMessage(ctx, "login graph")
	if err != nil || said.Status != http.StatusOK || len(said.Body) != 0 {
		t.Fatalf("%d %q, %v", said.Status, said.Body, err)
	}
	card, err := emu.WaitForCard(ctx, client.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if card.Connection != "teamsgraph" || card.ButtonTitle != "Sign In" || card.Text != "Please Sign In" || card.ExchangeID() == "" {
		t.Errorf("card %+v", card)
	}
	code, err := client.SignInWithPage(ctx, card.SignInLink)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := client.VerifyState(ctx, code, card.ActivityID)
	if err != nil || verified.Status != http.StatusOK || len(verified.Body) != 0 {
		t.Fatalf("%d %q, %v", verified.Status, verified.Body, err)
	}
	if _, err := emu.WaitForText(ctx, client.Conversation.ID, "Connected!"); err != nil {
		t.Error(err)
	}

	// What the rest of the connector is for.
	to := bot.last.Conversation
	chat, err := bot.connector.CreateConversation(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	to.ID = chat
	sent, err := bot.connector.Send(ctx, to, machine.Message{Text: "before"})
	if err != nil {
		t.Fatal(err)
	}
	if err := bot.connector.Update(ctx, to, sent, machine.Message{Text: "after"}); err != nil {
		t.Fatal(err)
	}
	if _, err := emu.WaitForText(ctx, chat, "after"); err != nil {
		t.Error(err)
	}
}
