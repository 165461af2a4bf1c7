package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"
)

// The part of a Teams client that message extensions and Adaptive Cards need.

// Compose is the answer to an invoke of a message extension.
type Compose struct {
	Type        string // result, auth, silentAuth, message
	Layout      string
	Attachments []json.RawMessage
	Text        string
	URL         string // of the action of auth and silentAuth
	Title       string
}

// Compose reads an answer; the error says in what it is none.
func (a Answer) Compose() (Compose, error) {
	if a.Status != http.StatusOK {
		return Compose{}, fmt.Errorf("emulator: status %d", a.Status)
	}
	var wire struct {
		Compose *struct {
			Type        string
			Layout      string            `json:"attachmentLayout"`
			Attachments []json.RawMessage `json:"attachments"`
			Text        string
			Suggested   struct {
				Actions []struct{ Type, Value, Title string }
			} `json:"suggestedActions"`
		} `json:"composeExtension"`
	}
	if err := json.Unmarshal(a.Body, &wire); err != nil {
		return Compose{}, fmt.Errorf("emulator: answer: %w", err)
	}
	if wire.Compose == nil {
		return Compose{}, errors.New("emulator: the answer has no composeExtension")
	}
	c := Compose{
		Type: wire.Compose.Type, Layout: wire.Compose.Layout, Attachments: wire.Compose.Attachments, Text: wire.Compose.Text,
	}
	if actions := wire.Compose.Suggested.Actions; len(actions) == 1 && actions[0].Type == "openUrl" {
		c.URL, c.Title = actions[0].Value, actions[0].Title
	}
	if strings.HasSuffix(strings.ToLower(c.Type), "auth") && c.URL == "" {
		return Compose{}, fmt.Errorf("emulator: an answer of type %s has to have one action openUrl", c.Type)
	}
	return c, nil
}

// Query sends composeExtension/query with one parameter, as while a user types.
func (t *Teams) Query(ctx context.Context, command, text string) (Answer, error) {
	return t.Invoke(ctx, "composeExtension/query", "", map[string]any{
		"commandId":    command,
		"parameters":   []map[string]string{{"name": "searchKeyword", "value": text}},
		"queryOptions": map[string]int{"skip": 0, "count": 25},
	})
}

// Type sends a query for every keystroke of a text, and returns the answers.
func (t *Teams) Type(ctx context.Context, command, text string) ([]Answer, error) {
	var all []Answer
	for i := range []rune(text) {
		a, err := t.Query(ctx, command, string([]rune(text)[:i+1]))
		if err != nil {
			return all, err
		}
		all = append(all, a)
	}
	return all, nil
}

// Reissue sends an invoke again, as Teams does when its popup has ended: with the
// popup's result in value.state and the rest as it was.
func (t *Teams) Reissue(ctx context.Context, before Incoming, state string) (Answer, error) {
	again, err := t.with(before, "state", state)
	if err != nil {
		return Answer{}, err
	}
	return t.Send(ctx, again)
}

// ReissueWithToken sends an invoke again with the client's SSO token in
// value.authentication.
func (t *Teams) ReissueWithToken(ctx context.Context, before Incoming, exchangeID, connection, ssoToken string) (Answer, error) {
	again, err := t.with(before, "authentication", map[string]string{
		"id": exchangeID, "connectionName": connection, "token": ssoToken,
	})
	if err != nil {
		return Answer{}, err
	}
	return t.Send(ctx, again)
}

// with is an invoke once more, by this user and on this device, with one more
// member in its value.
func (t *Teams) with(before Incoming, member string, v any) (Incoming, error) {
	value := map[string]json.RawMessage{}
	if err := json.Unmarshal(before.Value, &value); err != nil {
		return Incoming{}, fmt.Errorf("emulator: reissue: %w", err)
	}
	delete(value, "state")
	delete(value, "authentication")
	raw, err := json.Marshal(v)
	if err != nil {
		return Incoming{}, fmt.Errorf("emulator: reissue: %w", err)
	}
	value[member] = raw
	again := t.activity("invoke")
	again.ID, again.Name = "f:"+t.ids.uuid(), before.Name
	if again.Value, err = json.Marshal(value); err != nil {
		return Incoming{}, fmt.Errorf("emulator: reissue: %w", err)
	}
	return again, nil
}

// Search is a whole sign-in: a query, the popup that its answer asks for, and the
// query once more. A user who is signed in gets the first answer.
func (t *Teams) Search(ctx context.Context, b *Browser, command, text string) (Answer, error) {
	asked, err := t.Query(ctx, command, text)
	if err != nil {
		return asked, err
	}
	c, err := asked.Compose()
	if err != nil || c.URL == "" {
		return asked, err
	}
	ended, err := b.Popup(ctx, c.URL)
	if err != nil {
		return asked, err
	}
	if ended.Code == "" {
		return asked, fmt.Errorf("emulator: the popup failed: %s", ended.Reason)
	}
	return t.Reissue(ctx, asked.Sent, ended.Code)
}

// Browser is what a Teams client opens its popups in. It has cookies and runs no
// script.
type Browser struct {
	HTTP *http.Client // with a cookie jar
	Deny bool         // the provider's button to press
}

// NewBrowser has no cookies yet.
func NewBrowser() *Browser {
	jar, _ := cookiejar.New(nil) // never fails without options
	return &Browser{HTTP: &http.Client{Jar: jar, Timeout: 30 * time.Second}}
}

// PopupResult is how a popup ended: with a code, or with a reason.
type PopupResult struct {
	Code   string // of notifySuccess
	Reason string // of notifyFailure
	Status int    // of the last page
	Page   string // its source
	Header http.Header
}

// Popup opens an address and goes through the provider's page to the page that
// tells Teams the result.
func (b *Browser) Popup(ctx context.Context, address string) (PopupResult, error) {
	at, err := b.Authorize(ctx, address)
	if err != nil || at.Callback == "" {
		return at.PopupResult, err
	}
	return b.Open(ctx, at.Callback)
}

// Authorized is a popup that stands before its callback.
type Authorized struct {
	PopupResult // of a start page that did not go to the provider
	Start       http.Header
	Provider    string // where the start page sent the browser
	Callback    string // where the provider sends it
}

// Authorize opens an address and presses the button of the provider's page,
// without following it back to the bot.
func (b *Browser) Authorize(ctx context.Context, address string) (Authorized, error) {
	start, err := b.once(ctx, http.MethodGet, address, "")
	if err != nil {
		return Authorized{}, err
	}
	to := start.Header.Get("Location")
	if to == "" {
		return Authorized{PopupResult: result(start)}, nil
	}
	out := Authorized{Start: start.Header, Provider: to}
	page, err := b.once(ctx, http.MethodGet, to, "")
	if err != nil {
		return out, err
	}
	if out.Callback = page.Header.Get("Location"); out.Callback != "" {
		return out, nil // the provider had nothing to ask
	}
	action, ok := attribute(string(page.Body), `<form method="post" action="`)
	if !ok {
		out.PopupResult = result(page)
		return out, nil
	}
	base, err := url.Parse(to)
	if err != nil {
		return out, fmt.Errorf("emulator: popup: %w", withoutURL(err))
	}
	target, err := base.Parse(html.UnescapeString(action))
	if err != nil {
		return out, fmt.Errorf("emulator: popup: %w", withoutURL(err))
	}
	answer := "answer=allow"
	if b.Deny {
		answer = "answer=deny"
	}
	pressed, err := b.once(ctx, http.MethodPost, target.String(), answer)
	if err != nil {
		return out, err
	}
	if out.Callback = pressed.Header.Get("Location"); out.Callback == "" {
		out.PopupResult = result(pressed)
	}
	return out, nil
}

// Open opens one page, and reads from it what its script would tell Teams.
func (b *Browser) Open(ctx context.Context, address string) (PopupResult, error) {
	page, err := b.once(ctx, http.MethodGet, address, "")
	if err != nil {
		return PopupResult{}, err
	}
	return result(page), nil
}

func result(page Answer) PopupResult {
	r := PopupResult{Status: page.Status, Page: string(page.Body), Header: page.Header}
	r.Code, _ = attribute(r.Page, `data-code="`)
	r.Reason, _ = attribute(r.Page, `data-reason="`)
	return r
}

// once follows no redirect.
func (b *Browser) once(ctx context.Context, method, address, form string) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form))
	if err != nil {
		return Answer{}, fmt.Errorf("emulator: popup: %w", withoutURL(err))
	}
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	client := *b.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	page, err := do(&client, req)
	if err != nil {
		return Answer{}, fmt.Errorf("emulator: popup: %w", err)
	}
	return page, nil
}
