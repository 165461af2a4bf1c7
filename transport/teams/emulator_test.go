package teams_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// popup plays the recorded sign-in without an engine: a message sends the card,
// and the code that comes back is redeemed at once. It uses what a real engine
// needs of this package.
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

	// The other operations of the connector.
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

// TestConnectorTroubleAgainstTheEmulator covers the troubles of a connector that
// bots meet in the field: the emulator plays them, and the connector has to
// report them.
func TestConnectorTroubleAgainstTheEmulator(t *testing.T) {
	t.Parallel()
	emu := emulator.New(emulator.Config{})
	web := httptest.NewServer(emu)
	t.Cleanup(web.Close)
	emu.SetBaseURL(web.URL)
	connector := newConnector(t, teams.ConnectorConfig{})
	to := seedReference()
	to.ServiceURL, to.ID, to.Type = emu.ServiceURL(), "19:g@thread.v2", "groupChat"
	card := seedCardMessage()
	card.Targeted = true
	send := func(m machine.Message) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := connector.Send(ctx, to, m)
			return err
		}
	}
	text := send(machine.Message{Text: "Connected!"})
	create := func(ctx context.Context) error {
		_, err := connector.CreateConversation(ctx, to)
		return err
	}
	for _, tt := range []struct {
		fault  emulator.Fault
		call   func(context.Context) error
		others func(context.Context) error // calls that the fault does not affect
		want   teams.ConnectorError
	}{
		{
			emulator.Fault{Operation: emulator.OpPostActivity, Activity: emulator.CardActivity, Status: 429, RetryAfter: time.Second},
			send(card), text,
			teams.ConnectorError{Op: teams.OpSend, Status: 429, Code: "TooManyRequests", RetryAfter: time.Second},
		},
		{
			emulator.Fault{Operation: emulator.OpPostActivity, Activity: emulator.CardActivity, Status: 403, Code: "BotDisabledByAdmin"},
			send(card), text,
			teams.ConnectorError{Op: teams.OpSend, Status: 403, Code: "BotDisabledByAdmin"},
		},
		{
			emulator.Fault{
				Operation: emulator.OpPostActivity, Activity: emulator.TextActivity, Status: 403,
				Body: `{"code":"ConversationBlockedByUser","message":"the older form"}`,
			},
			text, send(card),
			teams.ConnectorError{Op: teams.OpSend, Status: 403, Code: "ConversationBlockedByUser"},
		},
		{
			emulator.Fault{Operation: emulator.OpCreateConversation, Status: 403, Code: "BotNotInConversationRoster"},
			create, send(card),
			teams.ConnectorError{Op: teams.OpCreateConversation, Status: 403, Code: "BotNotInConversationRoster"},
		},
	} {
		emu.AddFault(tt.fault)
		var got *teams.ConnectorError
		if err := tt.call(t.Context()); !errors.As(err, &got) || *got != tt.want {
			t.Errorf("err = %+v, want %+v", err, tt.want)
		}
		if err := tt.others(t.Context()); err != nil {
			t.Errorf("%s: another call: %v", tt.want.Code, err)
		}
		emu.ClearFaults()
	}
	shown, ok := emu.LastCard(to.ID)
	if !ok || !shown.Targeted || shown.RecipientID != to.UserID {
		t.Errorf("card %+v", shown)
	}
}

// TestMentionsAgainstTheEmulator covers the mentions of field reports that kept
// commands from matching.
func TestMentionsAgainstTheEmulator(t *testing.T) {
	t.Parallel()
	emu := emulator.New(emulator.Config{BaseURL: "http://127.0.0.1"})
	eng := &fakeEngine{}
	client := emu.Teams(serve(t, newHandler(t, eng, silent, func(c *teams.Config) { c.ServiceURLs = loopback(t) })))
	client.Conversation = emulator.Conversation{ID: "19:g@thread.v2", Type: "groupChat"}
	client.Bot.Name = "R&D Helper"

	withoutText := client.Message("login graph")
	withoutText.Entities[1].Text = ""
	attributes := client.Message("login graph")
	attributes.Text = `<at id="0">R&amp;D Helper</at>&nbsp;` + "\u200blogin graph"
	attributes.Entities[1].Text = "<at>r&D helper</at>"
	for _, message := range []emulator.Incoming{withoutText, attributes} {
		if answer, err := client.Send(t.Context(), message); err != nil || answer.Status != http.StatusOK {
			t.Fatalf("%d, %v", answer.Status, err)
		}
		if got := eng.turns[len(eng.turns)-1].Text; got != "login graph" {
			t.Errorf("%q is read as %q", message.Text, got)
		}
	}
}
