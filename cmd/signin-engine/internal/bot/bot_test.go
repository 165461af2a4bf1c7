package bot_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/bot"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// chat is the reference bot behind its handler, with the emulator around it and
// one user.
type chat struct {
	t        *testing.T
	services *emulator.Server
	user     *emulator.Teams
}

func newChat(t *testing.T) *chat {
	t.Helper()
	return newChatWith(t, "")
}

// newChatWith makes a chat whose tokens are for an audience and name their user.
func newChatWith(t *testing.T, audience string) *chat {
	t.Helper()
	services := emulator.New(emulator.Config{Connections: []emulator.Connection{
		{Name: "teamsgraph", DisplayName: "Microsoft Graph", Audience: audience},
		{Name: "sso", DisplayName: "Contoso", SSO: true, Audience: audience},
	}})
	upstream := httptest.NewServer(services)
	t.Cleanup(upstream.Close)
	services.SetBaseURL(upstream.URL)

	token := tokensvc.Static(tokensvc.NewSecret("bot"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: upstream.URL, Credentials: token})
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := teams.NewAllowList([]string{strings.TrimPrefix(upstream.URL, "http://")}, false)
	if err != nil {
		t.Fatal(err)
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: token, ServiceURLs: allowed})
	if err != nil {
		t.Fatal(err)
	}
	eng, err := machine.New(machine.Config{
		AppID: "bot", Store: memstore.New(time.Now), Tokens: tokens, Messenger: connector, Log: zerolog.Nop(),
		Connections: []machine.Connection{{Name: "teamsgraph"}, {Name: "sso"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bot.New(eng, []config.Connection{
		{
			Name: "teamsgraph", Alias: "graph", DisplayName: "Microsoft Graph",
			Profile: &config.Profile{Command: "my ad user", URL: upstream.URL + "/v1.0/me"},
		},
		{Name: "sso", DisplayName: "Contoso"},
	}, upstream.Client())
	if err != nil {
		t.Fatal(err)
	}
	h, err := teams.NewHandler(eng, teams.Config{
		InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: allowed,
	}, b)
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(h)
	t.Cleanup(listener.Close)
	user := services.Teams(listener.URL)
	user.Platform = "Web"
	return &chat{t, services, user}
}

// say sends a message and returns what the bot wrote in response.
func (c *chat) say(text string) []string {
	c.t.Helper()
	before := len(c.services.Activities(c.user.Conversation.ID))
	answer, err := c.user.SendMessage(c.t.Context(), text)
	if err != nil || answer.Status != http.StatusOK {
		c.t.Fatalf("%q: %d, %v", text, answer.Status, err)
	}
	return c.written(before)
}

func (c *chat) written(since int) []string {
	var texts []string
	for _, a := range c.services.Activities(c.user.Conversation.ID)[since:] {
		if a.Card != nil {
			texts = append(texts, "[card "+a.Card.Connection+"]")
		} else {
			texts = append(texts, a.Text)
		}
	}
	return texts
}

func (c *chat) want(got []string, want ...string) {
	c.t.Helper()
	if strings.Join(got, "\n--\n") != strings.Join(want, "\n--\n") {
		c.t.Errorf("the bot wrote %q, want %q", got, want)
	}
}

// popup signs in by the last card, and returns what the bot wrote.
func (c *chat) popup() []string {
	c.t.Helper()
	card, ok := c.services.LastCard(c.user.Conversation.ID)
	if !ok {
		c.t.Fatal("no card")
	}
	before := len(c.services.Activities(c.user.Conversation.ID))
	code, err := c.user.SignInWithPage(c.t.Context(), card.SignInLink)
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.user.VerifyState(c.t.Context(), code, card.ActivityID)
	if err != nil || answer.Status != http.StatusOK || len(answer.Body) > 0 {
		c.t.Fatalf("verifyState: %d %q, %v", answer.Status, answer.Body, err)
	}
	return c.written(before)
}

// TestTrace plays the seed's trace: login graph, popup, my ad user, logout graph
// [S 001].
func TestTrace(t *testing.T) {
	c := newChat(t)
	c.want(c.say("login graph"), "[card teamsgraph]")
	c.want(c.popup(), "Connected to Microsoft Graph (teamsgraph)!")
	c.want(c.say("LOGIN  teamsgraph"), "Already signed in to Microsoft Graph.")

	got := c.say("my AD user please")
	const head, tail = "Your Azure AD user :\n```json\n", "\n```"
	if len(got) != 1 || !strings.HasPrefix(got[0], head) || !strings.HasSuffix(got[0], tail) {
		t.Fatalf("profile: %q", got)
	}
	if body := got[0][len(head) : len(got[0])-len(tail)]; !json.Valid([]byte(body)) || !strings.Contains(body, "displayName") {
		t.Errorf("profile: %s", body)
	}
	c.want(c.say("logout graph"), "Signed out from Microsoft Graph.")
	c.want(c.say("my ad user"), "[card teamsgraph]")
}

// TestProfileRefusesTheToken checks that the bot gives up a user token which the
// provider does not accept any more (field report 9).
func TestProfileRefusesTheToken(t *testing.T) {
	c := newChat(t)
	c.say("login graph")
	c.popup()
	c.services.AddFault(emulator.Fault{Operation: emulator.OpMe, Times: 1, Status: http.StatusUnauthorized})
	c.want(c.say("my ad user"), "[card teamsgraph]")
	if n := c.services.Count(emulator.OpSignOut); n != 1 {
		t.Errorf("%d sign-outs", n)
	}
	c.want(c.popup(), "Connected to Microsoft Graph (teamsgraph)!")
	if got := c.say("my ad user"); len(got) != 1 || !strings.HasPrefix(got[0], "Your Azure AD user") {
		t.Errorf("after a new sign-in: %q", got)
	}

	c.services.AddFault(emulator.Fault{Operation: emulator.OpMe, Times: 1, Status: http.StatusForbidden})
	c.want(c.say("my ad user"), "The profile is not available right now.")
	c.services.AddFault(emulator.Fault{Operation: emulator.OpMe, Times: 1, Status: http.StatusUnauthorized})
	c.services.AddFault(emulator.Fault{Operation: emulator.OpSignOut, Times: 1, Status: http.StatusInternalServerError})
	c.want(c.say("my ad user"), "Sign-in is not available right now.")
}

func TestAllConnections(t *testing.T) {
	c := newChat(t)
	c.want(c.say("login"), "[card teamsgraph]", "[card sso]")
	c.want(c.say("status"), "OAuth connections:\n- **teamsgraph** (Microsoft Graph): not connected\n- **sso** (Contoso): not connected")
	card, _ := c.services.LastCard(c.user.Conversation.ID)
	if _, err := c.user.TokenExchange(t.Context(), card.ExchangeID(), "sso", "jwt"); err != nil {
		t.Fatal(err)
	}
	c.want(c.say("status"), "OAuth connections:\n- **teamsgraph** (Microsoft Graph): not connected\n- **sso** (Contoso): connected")
	c.want(c.say("logout"), "Signed out from all connections.")
	c.want(c.say("status"), "OAuth connections:\n- **teamsgraph** (Microsoft Graph): not connected\n- **sso** (Contoso): not connected")
}

// TestFailureTexts checks that users are told of a failure only if the attempt
// ended. A refusal after which the card still works is not a failure.
func TestFailureTexts(t *testing.T) {
	const failed, goOn = "Sign-in to Contoso failed.", "Use the Sign In button to continue."
	c := newChat(t)
	exchange := func(token string) []string {
		t.Helper()
		card, _ := c.services.LastCard(c.user.Conversation.ID)
		before := len(c.services.Activities(c.user.Conversation.ID))
		if _, err := c.user.TokenExchange(t.Context(), card.ExchangeID(), "sso", token); err != nil {
			t.Fatal(err)
		}
		return c.written(before)
	}
	report := func(code, message string) []string {
		t.Helper()
		before := len(c.services.Activities(c.user.Conversation.ID))
		if _, err := c.user.Failure(t.Context(), code, message); err != nil {
			t.Fatal(err)
		}
		return c.written(before)
	}
	c.say("login sso")
	c.want(report("oauthcardnotvalid", "Not valid"), "Sign-in to Contoso failed: oauthcardnotvalid — Not valid")
	c.say("login sso")
	c.want(report("invokeerror", ""), "Sign-in to Contoso failed: invokeerror")

	c.services.SetSSO("sso", http.StatusPreconditionFailed)
	c.say("login sso")
	c.want(exchange("first"), goOn)
	c.services.SetSSO("sso", http.StatusServiceUnavailable)
	c.want(exchange("second"), failed)
	c.services.SetSSO("sso", 0)
	c.want(exchange("second"), "Connected to Contoso (sso)!")
}

// TestWhoseAccount checks that the user is told which account was chosen in a
// popup. A silent sign-in uses the user's own account, and does not name it.
func TestWhoseAccount(t *testing.T) {
	c := newChatWith(t, "https://graph.microsoft.com")
	whose := emulator.DefaultUser()
	c.say("login graph")
	c.want(c.popup(), "Connected to Microsoft Graph (teamsgraph)! The account is "+whose.Name+" ("+whose.Mail+").")

	c.say("login sso")
	card, _ := c.services.LastCard(c.user.Conversation.ID)
	before := len(c.services.Activities(c.user.Conversation.ID))
	if _, err := c.user.TokenExchange(t.Context(), card.ExchangeID(), "sso", "token"); err != nil {
		t.Fatal(err)
	}
	c.want(c.written(before), "Connected to Contoso (sso)!")
}

func TestWrongCode(t *testing.T) {
	c := newChat(t)
	c.say("login graph")
	card, _ := c.services.LastCard(c.user.Conversation.ID)
	before := len(c.services.Activities(c.user.Conversation.ID))
	answer, err := c.user.VerifyState(t.Context(), "000000", card.ActivityID)
	if err != nil || answer.Status != http.StatusNotFound {
		t.Fatalf("a wrong code: %d, %v", answer.Status, err)
	}
	c.want(c.written(before), "Use the Sign In button to continue.")
	c.want(c.popup(), "Connected to Microsoft Graph (teamsgraph)!")
}

// TestUnderWay checks that the bot answers a user who asks to sign in while
// another device is signing in.
func TestUnderWay(t *testing.T) {
	c := newChat(t)
	c.say("login sso")
	card, _ := c.services.LastCard(c.user.Conversation.ID)
	c.services.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Delay: 3 * time.Second})
	done := make(chan error, 1)
	go func() {
		_, err := c.user.TokenExchange(context.WithoutCancel(t.Context()), card.ExchangeID(), "sso", "jwt")
		done <- err
	}()
	for c.services.Count(emulator.OpExchange) == 0 {
		time.Sleep(time.Millisecond)
	}
	c.want(c.say("login sso"), "Sign-in to Contoso is already under way on another device.")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.want(c.say("login sso"), "Already signed in to Contoso.")
}

// TestRepeatedMessage checks that a message which Teams repeats causes neither a
// second card nor a second text.
func TestRepeatedMessage(t *testing.T) {
	c := newChat(t)
	message := c.user.Message("login graph")
	send := func() []string {
		t.Helper()
		before := len(c.services.Activities(c.user.Conversation.ID))
		if answer, err := c.user.Send(t.Context(), message); err != nil || answer.Status != http.StatusOK {
			t.Fatalf("%d, %v", answer.Status, err)
		}
		return c.written(before)
	}
	c.want(send(), "[card teamsgraph]")
	c.want(send())
}

func TestUnavailable(t *testing.T) {
	c := newChat(t)
	c.services.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Status: http.StatusInternalServerError})
	c.want(c.say("login graph"), "Sign-in is not available right now.")
}

func TestHelp(t *testing.T) {
	c := newChat(t)
	const help = "You can say:\n- help\n- login\n- status\n- logout\n- login graph\n- logout graph\n- my ad user\n- login sso\n- logout sso"
	c.want(c.say("help"), help)
	c.want(c.say("good morning"), help)
	c.want(c.say("login nowhere"), "There is no such connection.\n"+help)
}

func TestInvokes(t *testing.T) {
	c := newChat(t)
	answer, err := c.user.Invoke(t.Context(), "composeExtension/query", "", struct{}{})
	const empty = `{"composeExtension":{"type":"result","attachmentLayout":"list","attachments":[]}}`
	if err != nil || answer.Status != http.StatusOK || strings.TrimSpace(string(answer.Body)) != empty {
		t.Errorf("compose: %d %s, %v", answer.Status, answer.Body, err)
	}
	answer, err = c.user.Invoke(t.Context(), "task/fetch", "", struct{}{})
	if err != nil || answer.Status != http.StatusNotImplemented {
		t.Errorf("unknown invoke: %d, %v", answer.Status, err)
	}
}
