package bot_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/bot"
	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// field is the reference bot with one connection for SSO and one for the popup,
// the emulator around it, and what an operator sees.
type field struct {
	*chat
	engine *machine.Engine
	seen   *operator.Direct
	botURL string
}

// newField makes a field. The bot gets its own token from the emulator's Entra.
func newField(t *testing.T, change func(*machine.Policy)) *field {
	t.Helper()
	services := emulator.New(emulator.Config{Connections: []emulator.Connection{
		{Name: "graph", DisplayName: "Microsoft Graph", SSO: true}, {Name: "github", DisplayName: "GitHub"},
	}})
	upstream := httptest.NewServer(services)
	t.Cleanup(upstream.Close)
	services.SetBaseURL(upstream.URL)

	credentials, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: upstream.URL, ClientID: "bot", ClientSecret: tokensvc.NewSecret("secret"),
	})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: upstream.URL, Credentials: credentials})
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := teams.NewAllowList([]string{strings.TrimPrefix(upstream.URL, "http://")}, false)
	if err != nil {
		t.Fatal(err)
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: credentials, ServiceURLs: allowed})
	if err != nil {
		t.Fatal(err)
	}
	policy := machine.DefaultPolicy()
	change(&policy)
	st := memstore.New(time.Now)
	eng, err := machine.New(machine.Config{
		AppID: "bot", Store: st, Tokens: tokens, Messenger: connector, Policy: &policy, Log: zerolog.Nop(),
		Connections: []machine.Connection{{Name: "graph"}, {Name: "github"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bot.New(eng, []config.Connection{
		{Name: "graph", DisplayName: "Microsoft Graph"}, {Name: "github", DisplayName: "GitHub"},
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
	return &field{
		chat:   &chat{t, services, services.Teams(listener.URL)},
		engine: eng,
		seen:   operator.NewDirect(st, operator.DefaultRules(), operator.Info{}),
		botURL: listener.URL,
	}
}

func asItIs(*machine.Policy) {}

// stuck writes the pending audit lines, and returns what the operator is told
// then.
func (f *field) stuck() []operator.Finding {
	f.t.Helper()
	if err := f.engine.Drain(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	o, err := f.seen.Overview(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return o.Stuck
}

// rules returns the names of the rules that found something stuck.
func (f *field) rules() string {
	f.t.Helper()
	var names []string
	for _, one := range f.stuck() {
		names = append(names, one.Rule+" "+one.Level)
	}
	return strings.Join(names, ", ")
}

// newest returns the newest attempt that matches.
func (f *field) newest(q operator.Query) operator.View {
	f.t.Helper()
	f.stuck()
	page, err := f.seen.List(f.t.Context(), q)
	if err != nil || len(page.Attempts) == 0 {
		f.t.Fatalf("no attempt: %v", err)
	}
	return page.Attempts[0]
}

// TestFieldLookups: a lookup that the bot itself asks for is not reported as an
// invoke without an attempt, and a Token Service that does not answer is named
// (field report 2).
func TestFieldLookups(t *testing.T) {
	f := newField(t, asItIs)
	for range 7 {
		f.want(f.say("logout graph"), "Signed out from Microsoft Graph.")
	}
	if got := f.rules(); got != "" {
		t.Errorf("after seven logouts: %s", got)
	}
	for name, before := range map[string][]string{
		"nobody ever signed in": nil,
		"a card is out":         {"login github"},
		"an attempt has ended":  {"login github", "logout github"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newField(t, asItIs)
			for _, text := range before {
				f.say(text)
			}
			f.services.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Status: http.StatusInternalServerError})
			for range 7 {
				f.want(f.say("login github"), "Sign-in is not available right now.")
			}
			found := f.stuck()
			if len(found) != 1 || found[0].Rule != operator.RuleLookupsFailing || !found[0].Serious() {
				t.Fatalf("stuck: %+v", found)
			}
			if found[0].Detail != "GetToken: 500 InternalServerError (7 times)" {
				t.Errorf("it says %q", found[0].Detail)
			}
		})
	}
}

// TestFieldBotDisabled: a bot that is blocked for a tenant shows under the
// connector's own code, which can be searched for and explained (field report
// 13).
func TestFieldBotDisabled(t *testing.T) {
	f := newField(t, asItIs)
	f.services.AddFault(emulator.Fault{
		Operation: emulator.OpPostActivity, Activity: emulator.CardActivity, Status: http.StatusForbidden, Code: "BotDisabledByAdmin",
	})
	for n := range 8 {
		user := f.services.Teams(f.botURL)
		user.User.ID, user.Conversation.ID = fmt.Sprint("29:", n), fmt.Sprint("a:", n)
		if _, err := user.SendMessage(t.Context(), "login graph"); err != nil {
			t.Fatal(err)
		}
	}
	found := f.stuck()
	if len(found) != 1 || found[0].Rule != operator.RuleFailureBurst || found[0].Subject != "BotDisabledByAdmin" ||
		found[0].Command != "signin-engine explain BotDisabledByAdmin" {
		t.Errorf("stuck: %+v", found)
	}
	page, err := f.seen.List(t.Context(), operator.Query{FailureCode: "BotDisabledByAdmin"})
	if err != nil || len(page.Attempts) != 8 {
		t.Fatalf("list --failure-code: %d attempts, %v", len(page.Attempts), err)
	}
	for _, a := range page.Attempts {
		if a.Reason != store.ReasonCardRejected || a.Failure.Source != store.SourceConnector || a.Failure.HTTPStatus != http.StatusForbidden {
			t.Errorf("%s: %s, %+v", a.ID, a.Reason, a.Failure)
		}
	}
	if _, ok := operator.Explain("BotDisabledByAdmin"); !ok {
		t.Error("explain does not know it")
	}
}

// TestFieldBlockedByUser: a user who has blocked the bot cannot be told, and an
// operator has nothing to repair (field report 14).
func TestFieldBlockedByUser(t *testing.T) {
	f := newField(t, asItIs)
	f.say("login graph")
	f.services.AddFault(emulator.Fault{
		Operation: emulator.OpPostActivity, Activity: emulator.TextActivity, Status: http.StatusForbidden, Code: "ConversationBlockedByUser",
	})
	card, _ := f.services.LastCard(f.user.Conversation.ID)
	answer, err := f.user.TokenExchange(t.Context(), card.ExchangeID(), "graph", "jwt")
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("tokenExchange: %d, %v", answer.Status, err)
	}
	if got := f.rules(); got != "" {
		t.Errorf("stuck: %s", got)
	}
	a := f.newest(operator.Query{})
	if a.State != store.Complete || a.Callback != (operator.CallbackView{Status: "undeliverable", Tries: 1}) {
		t.Errorf("%s, callback %+v", a.State, a.Callback)
	}
	for range 3 { // the callback is not tried again
		if err := f.engine.DeliverDue(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if a := f.newest(operator.Query{}); a.Callback.Tries != 1 {
		t.Errorf("callback %+v", a.Callback)
	}
	o, err := f.seen.Overview(t.Context())
	if err != nil || o.Undeliverable != 1 || o.Owed+o.Dead != 0 {
		t.Errorf("overview: %d undeliverable, %d pending, %d dead, %v", o.Undeliverable, o.Owed, o.Dead, err)
	}
}

// TestFieldNoOwnChat: if the user's personal chat with the bot cannot be opened,
// the connector is named as what refused, and the user is told where they asked
// (field report 15).
func TestFieldNoOwnChat(t *testing.T) {
	f := newField(t, func(p *machine.Policy) { p.GroupChat = machine.OneToOne })
	f.user.Conversation = emulator.Conversation{ID: "19:group@thread.v2", Type: "groupChat", IsGroup: true, TenantID: "tenant"}
	f.services.AddFault(emulator.Fault{Operation: emulator.OpCreateConversation, Status: http.StatusForbidden, Code: "BotNotInConversationRoster"})
	f.want(f.say("login graph"), "Sign-in is not available right now.")
	a := f.newest(operator.Query{})
	if a.State != store.Failed || a.Reason != store.ReasonCardRejected || a.Failure == nil {
		t.Fatalf("%s %s, %+v", a.State, a.Reason, a.Failure)
	}
	got := *a.Failure
	got.Message = ""
	want := operator.FailureView{
		Source: "connector", Operation: "CreateConversation", HTTPStatus: http.StatusForbidden, Code: "BotNotInConversationRoster",
	}
	if got != want {
		t.Errorf("failure %+v, want %+v", got, want)
	}
}

// TestFieldCredentials: when Entra stops accepting the bot's secret, the first
// sign-in that fails for it is reported under that name, until a sign-in works
// again (field report 16).
func TestFieldCredentials(t *testing.T) {
	f := newField(t, asItIs)
	f.services.AddFault(emulator.Fault{Operation: emulator.OpAccessToken, Status: http.StatusUnauthorized, Code: "invalid_client"})
	f.want(f.say("login graph")) // without a token the bot cannot even say that sign-in is not available
	found := f.stuck()
	if len(found) != 1 || found[0].Rule != operator.RuleCredentials || !found[0].Serious() || found[0].Subject != "invalid_client" ||
		found[0].Detail != "AccessToken: 401 invalid_client (1 time)" || found[0].Command != "signin-engine explain invalid_client" {
		t.Fatalf("after the first: %+v", found)
	}
	for range 7 {
		f.say("login graph")
	}
	if found = f.stuck(); len(found) != 1 || found[0].Rule != operator.RuleCredentials {
		t.Errorf("such look-ups count here, and not as look-ups that fail: %+v", found)
	}
	if e, ok := operator.Explain("invalid_client"); !ok || !strings.Contains(e.Advice, "secret") {
		t.Errorf("explain invalid_client: %+v", e)
	}
	f.services.ClearFaults()
	f.want(f.say("login graph"), "[card graph]")
	if got := f.rules(); got != "" {
		t.Errorf("after the first that works: %s", got)
	}
}

// TestFieldFailureOfNobody: a signin/failure for a connection that the user never
// asked for is answered, but no message is sent (field report 17).
func TestFieldFailureOfNobody(t *testing.T) {
	f := newField(t, asItIs)
	f.want(f.say("login github"), "[card github]")
	before := len(f.services.Activities(f.user.Conversation.ID))
	for range 3 {
		answer, err := f.user.Failure(t.Context(), "tokenmissing", "No token")
		if err != nil || answer.Status != http.StatusOK {
			t.Fatalf("%d, %v", answer.Status, err)
		}
	}
	f.want(f.written(before))
	if a := f.newest(operator.Query{}); a.State != store.CardSent || a.Failure != nil {
		t.Errorf("%s, %+v", a.State, a.Failure)
	}
	if found := f.stuck(); slices.ContainsFunc(found, operator.Finding.Serious) {
		t.Errorf("stuck: %+v", found)
	}
}

// TestFieldStrangerInAGroup: an invoke of a group member who never asked for a
// sign-in is answered, but the group gets no message (field report 18).
func TestFieldStrangerInAGroup(t *testing.T) {
	f := newField(t, asItIs)
	group := emulator.Conversation{ID: "19:group@thread.v2", Type: "groupChat", IsGroup: true, TenantID: "tenant"}
	f.user.Conversation = group
	f.want(f.say("login graph"), "[card graph]")
	before := len(f.services.Activities(group.ID))
	stranger := f.services.Teams(f.botURL)
	stranger.User, stranger.Conversation = emulator.Account{ID: "29:stranger", AADObjectID: "stranger"}, group
	answer, err := stranger.Failure(t.Context(), "invokeerror", "")
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("%d, %v", answer.Status, err)
	}
	f.want(f.written(before))
	if a := f.newest(operator.Query{}); a.Key.User != f.user.User.ID || a.State != store.CardSent {
		t.Errorf("%s is %s", a.Key.User, a.State)
	}
}

// TestFieldFourLogins: a user who succeeded at the fourth try is not reported to
// an operator (field report 19).
func TestFieldFourLogins(t *testing.T) {
	f := newField(t, asItIs)
	for range 4 {
		f.want(f.say("login github"), "[card github]")
	}
	found := f.stuck()
	if len(found) != 1 || found[0].Rule != operator.RuleFlapping || found[0].Serious() {
		t.Errorf("before the end: %+v", found)
	}
	f.want(f.popup(), "Connected to GitHub (github)!")
	if got := f.rules(); got != "" {
		t.Errorf("after the end: %s", got)
	}
}
