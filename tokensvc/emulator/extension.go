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

// This file has the part of a Teams client that message extensions and Adaptive
// Cards need.

// Compose is the answer to an invoke of a message extension.
type Compose struct {
	Type        string // result, auth, silentAuth, message
	Layout      string
	Attachments []json.RawMessage
	Text        string
	URL         string // of the openUrl action; auth and silentAuth have one
	Title       string // of that action
}

// Compose decodes the answer of a message extension. It returns an error if the
// status is not 200, or if Teams could not use the answer.
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

// Query sends composeExtension/query with text as its one parameter.
func (t *Teams) Query(ctx context.Context, command, text string) (Answer, error) {
	return t.Invoke(ctx, "composeExtension/query", "", map[string]any{
		"commandId":    command,
		"parameters":   []map[string]string{{"name": "searchKeyword", "value": text}},
		"queryOptions": map[string]int{"skip": 0, "count": 25},
	})
}

// Type sends the queries that a client sends while the user types a text: one after
// every character. It returns the answers so far, and the first error.
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

// Reissue sends an invoke again with a state in value.state, as Teams does with the
// result of its popup.
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

// with makes a new invoke of this user and device with the name and value of before.
// It adds a member to the value, in place of an earlier state or authentication.
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

// Search does a whole sign-in: it sends a query, goes through the popup that the
// answer asks for, and sends the query again. If the first answer asks for no popup,
// Search returns it.
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

// Browser is the browser in which a Teams client opens popups. It keeps cookies and
// runs no scripts.
type Browser struct {
	HTTP *http.Client // has a cookie jar
	Deny bool         // presses Deny on the provider's page, not Allow
}

// NewBrowser returns a browser without cookies. Its requests time out after 30 s.
func NewBrowser() *Browser {
	jar, _ := cookiejar.New(nil) // never fails without options
	return &Browser{HTTP: &http.Client{Jar: jar, Timeout: 30 * time.Second}}
}

// PopupResult is the result of a popup: a code if it succeeded, else a reason.
type PopupResult struct {
	Code   string      // what the last page passes to notifySuccess
	Reason string      // what the last page passes to notifyFailure
	Status int         // status of the last page
	Page   string      // source of the last page
	Header http.Header // header of the last page
}

// Popup opens an address, goes through the provider's page, and returns the result
// that the last page reports to Teams.
func (b *Browser) Popup(ctx context.Context, address string) (PopupResult, error) {
	at, err := b.Authorize(ctx, address)
	if err != nil || at.Callback == "" {
		return at.PopupResult, err
	}
	return b.Open(ctx, at.Callback)
}

// Authorized is a popup that has left the provider and has not opened its callback
// yet.
type Authorized struct {
	PopupResult             // the result, if the popup ended before its callback
	Start       http.Header // header of the start page
	Provider    string      // address to which the start page redirected
	Callback    string      // address to which the provider redirected; "" = the popup has ended
}

// Authorize opens an address and presses the button of the provider's page. It does
// not follow the redirect back to the bot.
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
		return out, nil // the provider redirected without a page
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

// Open opens one page and returns the result that its script would report to Teams.
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

// once sends one request without following redirects.
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
