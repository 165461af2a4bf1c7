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

// CancelledByUser is the state that signin/verifyState has if the user closed the
// popup.
const CancelledByUser = "CancelledByUser"

// Teams calls a bot as one Teams user on one device. Make it with [Server.Teams] or
// [NewTeams], and change its fields before the first use. Then it may be used from
// many goroutines.
type Teams struct {
	BotURL       string       // the bot's messaging endpoint
	HTTP         *http.Client // nil = http.DefaultClient
	ServiceURL   string       // the connector, to which the bot sends its activities
	User         Account
	Bot          Account
	ChannelID    string // "msteams", or with a sub-channel such as "msteams:COPILOT"
	Conversation Conversation
	Locale       string
	Country      string
	Timezone     string
	Platform     string // Web, Windows, Mac, iOS, Android
	// DeliveryMode "expectReplies" makes the bot return its activities in the answer
	// ([Answer.Replies]). "" = the bot sends them to the connector.
	DeliveryMode string
	// Authorize adds credentials to each request, such as a bearer token
	// ([Server.Authorize]); nil = none.
	Authorize func(ctx context.Context, r *http.Request) error

	ids *ids
}

// Answer is the bot's answer to an activity.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Sent   Incoming // the activity; [Teams.Send] sends it again, as a duplicated delivery
}

// Replies returns the activities in the answer. It returns an error if there are
// none; see [Teams.DeliveryMode].
func (a Answer) Replies() ([]json.RawMessage, error) {
	var wire struct {
		Activities []json.RawMessage `json:"activities"`
	}
	if err := json.Unmarshal(a.Body, &wire); err != nil || wire.Activities == nil {
		return nil, fmt.Errorf("emulator: no replies in the answer (%d)", a.Status)
	}
	return wire.Activities, nil
}

// NewTeams returns a client of [DefaultUser] in a personal chat with the bot at
// botURL. A seed other than 0 makes its ids repeatable.
func NewTeams(botURL, serviceURL string, seed uint64) *Teams {
	return newTeams(botURL, serviceURL, newIDs(seed))
}

// Teams is [NewTeams] with this server as the connector, with the server's ids, and
// with the first user of the configuration if there is one.
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

// On returns a client of the same user in the same conversation on another device.
func (t *Teams) On(platform string) *Teams {
	other := *t
	other.Platform = platform
	return &other
}

// SendMessage sends a text. In a group chat or a team it mentions the bot, as Teams
// requires there.
func (t *Teams) SendMessage(ctx context.Context, text string) (Answer, error) {
	return t.Send(ctx, t.Message(text))
}

// Message returns the activity that SendMessage sends. A test can change it first,
// for example because clients write mentions in different ways.
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

// Invoke sends an invoke with any value: a nil value becomes null, and a
// json.RawMessage is sent unchanged. replyToID is the activity id of the card that
// caused the invoke, or "".
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

// TokenExchange sends signin/tokenExchange with the client's SSO token.
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

// Failure sends signin/failure, with which a client reports that its SSO has failed.
func (t *Teams) Failure(ctx context.Context, code, message string) (Answer, error) {
	return t.Invoke(ctx, "signin/failure", "", struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{code, message})
}

// activity makes an activity with the members that all activities of this device
// have.
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

// Send posts an activity unchanged. It returns an error if the activity could not be
// delivered. Any status of the bot is an answer and no error.
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

// SignInWithPage does what a user in a browser does with the sign-in link of a card:
// it opens the page and presses the button. It returns the code on the next page.
func (t *Teams) SignInWithPage(ctx context.Context, signInLink string) (string, error) {
	return SignInWithPage(ctx, t.client(), signInLink)
}

// SignInWithPage is [Teams.SignInWithPage] without a Teams client. A nil client is
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

// attribute returns the text between a prefix and the next quote.
func attribute(page, prefix string) (string, bool) {
	_, rest, ok := strings.Cut(page, prefix)
	if !ok {
		return "", false
	}
	value, _, ok := strings.Cut(rest, `"`)
	return strings.ReplaceAll(value, "&amp;", "&"), ok
}

// do sends a request and reads the whole body.
func do(client *http.Client, req *http.Request) (Answer, error) {
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, withoutURL(err)
	}
	defer resp.Body.Close() //nolint:errcheck // the body was read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return Answer{}, withoutURL(err)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// withoutURL removes the URL from an error, because a sign-in link is a secret.
func withoutURL(err error) error {
	var located *url.Error
	if errors.As(err, &located) {
		return located.Err
	}
	return err
}
