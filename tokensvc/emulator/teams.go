package emulator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// CancelledByUser is the state of a signin/verifyState whose popup was closed.
const CancelledByUser = "CancelledByUser"

// Teams speaks to a bot as one Teams user on one device. Make it with
// [Server.Teams] or [NewTeams], then change its fields before use; afterwards
// it may be used from many goroutines.
type Teams struct {
	BotURL       string       // the bot's messaging endpoint
	HTTP         *http.Client // nil = http.DefaultClient
	ServiceURL   string       // where the bot is to send its answers
	User         Account
	Bot          Account
	ChannelID    string // "msteams", or with a sub-channel "msteams:COPILOT"
	Conversation Conversation
	Locale       string
	Country      string
	Timezone     string
	Platform     string // Web, Windows, Mac, iOS, Android
	// DeliveryMode "expectReplies" asks for what the bot says in the answer to each
	// activity: [Answer.Replies]. "" = at the connector.
	DeliveryMode string
	// Authorize adds what the bot wants to see, a bearer token; nil = nothing.
	Authorize func(ctx context.Context, r *http.Request) error

	ids *ids
}

// Answer is what the bot answered, and to what.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Sent   Incoming // may be sent again with [Teams.Send]: a duplicated delivery
}

// Replies are the activities in an answer, where expectReplies has asked for them.
func (a Answer) Replies() ([]json.RawMessage, error) {
	var wire struct {
		Activities []json.RawMessage `json:"activities"`
	}
	if err := json.Unmarshal(a.Body, &wire); err != nil || wire.Activities == nil {
		return nil, fmt.Errorf("emulator: no replies in the answer (%d)", a.Status)
	}
	return wire.Activities, nil
}

// NewTeams is the user "Robin" in a personal chat with a bot. A seed other
// than 0 makes its ids repeatable.
func NewTeams(botURL, serviceURL string, seed uint64) *Teams {
	return newTeams(botURL, serviceURL, newIDs(seed))
}

// Teams is NewTeams with this server as the connector, the server's ids, and
// the first user of the configuration, if there is one.
func (s *Server) Teams(botURL string) *Teams {
	t := newTeams(botURL, s.ServiceURL(), s.ids)
	if len(s.cfg.Users) > 0 {
		u := s.user(s.cfg.Users[0].ID)
		t.User = Account{ID: u.ID, Name: u.Name, AADObjectID: u.AADObjectID}
	}
	if s.cfg.ClientID != "" {
		t.Bot.ID = "28:" + s.cfg.ClientID
	}
	return t
}

func newTeams(botURL, serviceURL string, ids *ids) *Teams {
	u := DefaultUser()
	return &Teams{
		BotURL:     botURL,
		ServiceURL: serviceURL,
		User:       Account{ID: u.ID, Name: u.Name, AADObjectID: u.AADObjectID},
		Bot:        Account{ID: "28:00000000-0000-4000-8000-0000000000b0", Name: "bot"},
		ChannelID:  "msteams",
		Conversation: Conversation{
			ID:       "a:1" + ids.hex(32),
			Type:     "personal",
			TenantID: "00000000-0000-4000-8000-00000000007e",
		},
		Locale:   "en-US",
		Country:  "US",
		Timezone: "America/Los_Angeles",
		Platform: "Web",
		ids:      ids,
	}
}

// On returns the same user in the same conversation on another device.
func (t *Teams) On(platform string) *Teams {
	other := *t
	other.Platform = platform
	return &other
}

// SendMessage sends a text. In a group or team it mentions the bot, as it must
// there.
func (t *Teams) SendMessage(ctx context.Context, text string) (Answer, error) {
	return t.Send(ctx, t.Message(text))
}

// Message is what SendMessage sends, for a test to change first: clients differ
// in how they write a mention.
func (t *Teams) Message(text string) Incoming {
	a := t.activity("message")
	a.ID = t.ids.timestamp(time.Now())
	a.Text, a.TextFormat = text, "plain"
	if t.Conversation.Type != "personal" {
		mention := "<at>" + html.EscapeString(t.Bot.Name) + "</at>"
		bot := t.Bot
		a.Text = mention + " " + text
		a.Entities = append(a.Entities, Entity{Type: "mention", Mentioned: &bot, Text: mention})
	}
	return a
}

// Invoke sends an invoke with any value: a nil value is sent as null, a
// json.RawMessage as it is. A replyToID that is not empty says which card
// caused it.
func (t *Teams) Invoke(ctx context.Context, name, replyToID string, value any) (Answer, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return Answer{}, fmt.Errorf("emulator: invoke value: %w", err)
	}
	a := t.activity("invoke")
	a.ID = "f:" + t.ids.uuid()
	a.Name, a.ReplyToID, a.Value = name, replyToID, raw
	if replyToID != "" {
		a.ChannelData.ofCard("1:" + t.ids.hex(16))
	}
	return t.Send(ctx, a)
}

// TokenExchange sends signin/tokenExchange: the silent half of SSO.
func (t *Teams) TokenExchange(ctx context.Context, exchangeID, connection, ssoToken string) (Answer, error) {
	return t.Invoke(ctx, "signin/tokenExchange", "", struct {
		ID             string `json:"id"`
		ConnectionName string `json:"connectionName"`
		Token          string `json:"token"`
	}{exchangeID, connection, ssoToken})
}

// VerifyState sends signin/verifyState with the code of a popup, or with
// [CancelledByUser]. replyToID is the card's activity id, or "".
func (t *Teams) VerifyState(ctx context.Context, code, replyToID string) (Answer, error) {
	return t.Invoke(ctx, "signin/verifyState", replyToID, struct {
		State string `json:"state"`
	}{code})
}

// Failure sends signin/failure: SSO did not work on the client's side.
func (t *Teams) Failure(ctx context.Context, code, message string) (Answer, error) {
	return t.Invoke(ctx, "signin/failure", "", struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{code, message})
}

// activity is what every activity of this device has.
func (t *Teams) activity(kind string) Incoming {
	return Incoming{
		Type:         kind,
		Timestamp:    time.Now().UTC(),
		ChannelID:    t.ChannelID,
		ServiceURL:   t.ServiceURL,
		From:         t.User,
		Recipient:    t.Bot,
		Conversation: t.Conversation,
		Locale:       t.Locale,
		DeliveryMode: t.DeliveryMode,
		Entities: []Entity{{
			Type: "clientInfo", Locale: t.Locale, Country: t.Country, Platform: t.Platform, Timezone: t.Timezone,
		}},
		ChannelData: channelData(t.Conversation.TenantID),
	}
}

// Send posts an activity as it is. The error is about the delivery; what the
// bot thinks of it is the status.
func (t *Teams) Send(ctx context.Context, a Incoming) (Answer, error) {
	body, err := json.Marshal(a)
	if err != nil {
		return Answer{}, fmt.Errorf("emulator: activity: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.BotURL, bytes.NewReader(body))
	if err != nil {
		return Answer{}, fmt.Errorf("emulator: activity: %w", withoutURL(err))
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	if t.Authorize != nil {
		if err := t.Authorize(ctx, req); err != nil {
			return Answer{}, fmt.Errorf("emulator: authorize: %w", err)
		}
	}
	got, err := do(t.client(), req)
	if err != nil {
		return Answer{}, fmt.Errorf("emulator: deliver %s %s: %w", a.Type, a.Name, err)
	}
	got.Sent = a
	return got, nil
}

func (t *Teams) client() *http.Client {
	if t.HTTP != nil {
		return t.HTTP
	}
	return http.DefaultClient
}

// SignInWithPage does what a user in a browser does with a card's sign-in
// link: opens the page, presses the button, and returns the code.
func (t *Teams) SignInWithPage(ctx context.Context, signInLink string) (string, error) {
	return SignInWithPage(ctx, t.client(), signInLink)
}

// SignInWithPage is [Teams.SignInWithPage] without a Teams client; nil =
// http.DefaultClient.
func SignInWithPage(ctx context.Context, client *http.Client, signInLink string) (string, error) {
	if client == nil {
		client = http.DefaultClient
	}
	page, err := fetchPage(ctx, client, http.MethodGet, signInLink, "")
	if err != nil {
		return "", fmt.Errorf("emulator: sign-in page: %w", err)
	}
	action, ok := attribute(page, `<form method="post" action="`)
	if !ok {
		return "", errors.New("emulator: sign-in page: no form on it")
	}
	link, err := url.Parse(signInLink)
	if err != nil {
		return "", errors.New("emulator: sign-in page: malformed link")
	}
	target, err := link.Parse(action)
	if err != nil {
		return "", errors.New("emulator: sign-in page: malformed form")
	}
	page, err = fetchPage(ctx, client, http.MethodPost, target.String(), "answer=signin")
	if err != nil {
		return "", fmt.Errorf("emulator: sign-in button: %w", err)
	}
	code, ok := attribute(page, `data-code="`)
	if !ok {
		return "", errors.New("emulator: sign-in button: no code on the page")
	}
	return code, nil
}

func fetchPage(ctx context.Context, client *http.Client, method, link, form string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, link, strings.NewReader(form))
	if err != nil {
		return "", withoutURL(err)
	}
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	page, err := do(client, req)
	if err != nil {
		return "", err
	}
	if page.Status != statusOK {
		return "", fmt.Errorf("status %d", page.Status)
	}
	return string(page.Body), nil
}

// attribute returns what stands between a prefix and the next quote.
func attribute(page, prefix string) (string, bool) {
	_, rest, ok := strings.Cut(page, prefix)
	if !ok {
		return "", false
	}
	value, _, ok := strings.Cut(rest, `"`)
	return strings.ReplaceAll(value, "&amp;", "&"), ok
}

// do reads the body to its end.
func do(client *http.Client, req *http.Request) (Answer, error) {
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, withoutURL(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return Answer{}, withoutURL(err)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// withoutURL: a sign-in link is a secret.
func withoutURL(err error) error {
	var located *url.Error
	if errors.As(err, &located) {
		return located.Err
	}
	return err
}
