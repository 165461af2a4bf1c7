package teamsbot_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// TestSurfaces plays a sign-in over HTTP wherever users meet bots outside a
// personal chat. It checks what the card offers, who sees it, how the sign-in
// ends, and under which channel the store and the Token Service know the user.
func TestSurfaces(t *testing.T) {
	group := emulator.Conversation{ID: "19:meeting_ab@thread.v2", Type: "groupChat", IsGroup: true, TenantID: "host"}
	channel := emulator.Conversation{ID: "19:ab@thread.tacv2;messageid=1", Type: "channel", IsGroup: true, TenantID: "host"}
	tests := []struct {
		name     string
		channel  string // channelId
		where    *emulator.Conversation
		data     func(*emulator.ChannelData)
		sso      bool
		targeted bool
		end      func(*surface, *emulator.Card)
	}{
		{name: "Copilot", channel: "msteams:COPILOT", sso: true, end: (*surface).exchange},
		{name: "Copilot, by code", channel: "msteams:COPILOT", sso: true, end: (*surface).code},
		{
			name: "a meeting", channel: "msteams", where: &group, sso: true, targeted: true, end: (*surface).exchange,
			data: func(d *emulator.ChannelData) { d.Meeting = &emulator.Place{ID: "MCMx"} },
		},
		{
			name: "a shared channel", channel: "msteams", where: &channel, targeted: true, end: (*surface).code,
			data: func(d *emulator.ChannelData) {
				d.Team, d.Channel = &emulator.Place{ID: "19:team@thread.tacv2"}, &emulator.Place{ID: "19:ab@thread.tacv2", Type: "shared"}
				d.Tenant.ID = "guest" // the user's own tenant; the conversation has the host's
			},
		},
		{name: "Direct Line, a typed code", channel: "directline", sso: true, end: (*surface).typed},
		{name: "Web Chat, tokens/response", channel: "webchat", sso: true, end: (*surface).event},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSurface(t)
			s.user.ChannelID = tt.channel
			if tt.where != nil {
				s.user.Conversation = *tt.where
			}
			hello := s.user.Message("login")
			if tt.data != nil {
				tt.data(hello.ChannelData)
			}
			if a, err := s.user.Send(s.ctx, hello); err != nil || a.Status != http.StatusOK {
				t.Fatalf("%+v, %v", a, err)
			}
			card, err := s.emu.WaitForCard(s.ctx, s.user.Conversation.ID, 0)
			if err != nil {
				t.Fatal(err)
			}
			if (card.ExchangeID() != "") != tt.sso || card.Targeted != tt.targeted {
				t.Errorf("the card offers SSO: %v, is targeted: %v", card.ExchangeID() != "", card.Targeted)
			}
			tt.end(s, &card)
			if _, err := s.emu.WaitForText(s.ctx, s.user.Conversation.ID, "Connected!"); err != nil {
				t.Error(err)
			}
			page, err := s.store.List(s.ctx, store.Filter{})
			if err != nil || len(page.Attempts) != 1 {
				t.Fatalf("%+v, %v", page.Attempts, err)
			}
			a, base := &page.Attempts[0], strings.TrimSuffix(tt.channel, ":COPILOT")
			if a.State != store.Complete || a.Key.Channel != base || a.Conversation.Channel != tt.channel {
				t.Errorf("%s, channel %s, from %s", a.State, a.Key.Channel, a.Conversation.Channel)
			}
			if !s.emu.HasToken(s.about(base)) {
				t.Error("the Token Service knows the user under another channel")
			}
		})
	}
}

// surface is a running bot that says Connected!, and a user of it.
type surface struct {
	t     *testing.T
	ctx   context.Context //nolint:containedctx // lives for one test
	emu   *emulator.Server
	user  *emulator.Teams
	store store.Store
}

func newSurface(t *testing.T) *surface {
	t.Helper()
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}}})
	azure := httptest.NewServer(emu)
	t.Cleanup(azure.Close)
	emu.SetBaseURL(azure.URL)
	cfg := small()
	policy := machine.DefaultPolicy()
	policy.TypedCodes = true
	cfg.Engine.Policy = &policy
	cfg.TokenServiceURL, cfg.LoginURL = azure.URL, azure.URL
	cfg.ServiceURLs = []string{strings.TrimPrefix(azure.URL, "http://")}
	cfg.InboundAuth = teams.InboundAuthNone
	r := serveWith(t, cfg, func(eng *machine.Engine) teams.Bot {
		eng.OnSignIn(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			return turn.Send(ctx, "Connected!")
		})
		return teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
			_, err := turn.SignIn(ctx)
			return nil, err
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(func() {
		cancel()
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
	return &surface{t: t, ctx: ctx, emu: emu, user: emu.Teams("http://" + r.address + "/api/messages"), store: cfg.Engine.Store}
}

func (s *surface) about(channel string) tokensvc.UserConnection {
	return tokensvc.UserConnection{UserID: s.user.User.ID, Connection: "graph", ChannelID: channel}
}

func (s *surface) answered(a emulator.Answer, err error) {
	s.t.Helper()
	if err != nil || a.Status != http.StatusOK {
		s.t.Fatalf("%d %s, %v", a.Status, a.Body, err)
	}
}

func (s *surface) exchange(card *emulator.Card) {
	s.answered(s.user.TokenExchange(s.ctx, card.ExchangeID(), "graph", "sso"))
}

func (s *surface) popup(card *emulator.Card) string {
	code, err := s.user.SignInWithPage(s.ctx, card.SignInLink)
	if err != nil {
		s.t.Fatal(err)
	}
	return code
}

func (s *surface) code(card *emulator.Card) {
	s.answered(s.user.VerifyState(s.ctx, s.popup(card), card.ActivityID))
}

func (s *surface) typed(card *emulator.Card) {
	s.answered(s.user.SendMessage(s.ctx, s.popup(card)))
}

func (s *surface) event(*emulator.Card) {
	s.emu.PutToken(s.about("webchat"))
	event := s.user.Message("")
	event.Type, event.Name, event.Text = "event", machine.EventTokensResponse, ""
	event.Value = json.RawMessage(`{"connectionName":"graph","token":"made-up"}`)
	s.answered(s.user.Send(s.ctx, event))
}
