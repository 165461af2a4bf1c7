package composeext

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// Response is the body of the answer to an invoke.
type Response struct{ body any }

// MarshalJSON writes the body. It does not escape the & in addresses.
func (r Response) MarshalJSON() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(r.body)
	return bytes.TrimSpace(buf.Bytes()), err
}

// Raw returns a response with this body. The body is encoded as JSON.
func Raw(body any) Response { return Response{body} }

// Attachment is one result: a card, and a smaller card with which the list shows it.
type Attachment struct {
	ContentType string `json:"contentType"`
	Content     any    `json:"content"`
	Preview     any    `json:"preview,omitempty"`
}

type (
	composeJSON struct {
		Compose composeBody `json:"composeExtension"`
	}

	composeBody struct {
		Type             string        `json:"type"`
		AttachmentLayout string        `json:"attachmentLayout,omitempty"`
		Attachments      *[]Attachment `json:"attachments,omitempty"`
		Text             string        `json:"text,omitempty"`
		SuggestedActions *actionsJSON  `json:"suggestedActions,omitempty"`
	}

	actionsJSON struct {
		Actions []actionJSON `json:"actions"`
	}

	actionJSON struct {
		Type  string `json:"type"`
		Value string `json:"value"`
		Title string `json:"title"`
	}
)

// List returns a response that shows the results as a list. The list may be empty.
func List(results ...Attachment) Response { return result("list", results) }

// Grid returns a response that shows the results as a grid.
func Grid(results ...Attachment) Response { return result("grid", results) }

func result(layout string, all []Attachment) Response {
	if all == nil {
		all = []Attachment{}
	}
	return Response{composeJSON{composeBody{Type: "result", AttachmentLayout: layout, Attachments: &all}}}
}

// Text returns a response that shows a sentence instead of results.
func Text(text string) Response {
	return Response{composeJSON{composeBody{Type: "message", Text: text}}}
}

// Task returns the response to a fetchTask or submitAction. The kind "continue" opens
// a dialog with the card or page in value; the kind "message" shows the text in value.
func Task(kind string, value any) Response {
	return Response{map[string]any{"task": map[string]any{"type": kind, "value": value}}}
}

// Thumbnail returns a thumbnail card.
func Thumbnail(title, text string) Attachment {
	return Attachment{ContentType: "application/vnd.microsoft.card.thumbnail", Content: thumbnail{title, text}}
}

type thumbnail struct {
	Title string `json:"title"`
	Text  string `json:"text,omitempty"`
}

// authAction asks the client to open the sign-in page. If there is SSO, the client
// first tries to sign the user in silently.
func authAction(words Words, res tokensvc.SignInResource) Response {
	kind := "auth"
	if res.TokenExchangeResource != nil {
		kind = "silentAuth"
	}
	return Response{composeJSON{composeBody{Type: kind, SuggestedActions: &actionsJSON{[]actionJSON{
		{Type: "openUrl", Value: res.SignInLink.Reveal(), Title: words.SignIn},
	}}}}}
}

// The types of the answer to an Adaptive Card's action.
const (
	typeCard         = "application/vnd.microsoft.card.adaptive"
	typeMessage      = "application/vnd.microsoft.activity.message"
	typeLogin        = "application/vnd.microsoft.activity.loginRequest"
	typeError        = "application/vnd.microsoft.error"
	typePrecondition = "application/vnd.microsoft.error.preconditionFailed"
	typeInvalidCode  = "application/vnd.microsoft.error.invalidAuthCode"
)

type (
	cardJSON struct {
		Status int    `json:"statusCode"`
		Type   string `json:"type"`
		Value  any    `json:"value,omitempty"`
	}

	errorJSON struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}

	loginJSON struct {
		Text       string                          `json:"text"`
		Connection string                          `json:"connectionName"`
		Resource   *tokensvc.TokenExchangeResource `json:"tokenExchangeResource,omitempty"`
		Post       *postJSON                       `json:"tokenPostResource,omitempty"`
		Buttons    []actionJSON                    `json:"buttons"`
	}

	postJSON struct {
		SasURL string `json:"sasUrl"`
	}
)

// Card returns a response with an Adaptive Card that replaces the card of the action.
func Card(card any) Response { return Response{cardJSON{200, typeCard, card}} }

// CardMessage returns a response with a sentence that the client shows at the card.
func CardMessage(text string) Response { return Response{cardJSON{200, typeMessage, text}} }

func cardError(status int, kind, text string) Response {
	out := cardJSON{Status: status, Type: kind}
	if text != "" {
		out.Value = errorJSON{strconv.Itoa(status), text}
	}
	return Response{out}
}

// loginRequest asks the client to sign its user in (M8). If there is SSO, the client
// first tries it silently. The status 401 is in the body only: the invoke itself is
// answered 200.
func loginRequest(words Words, connection string, res tokensvc.SignInResource) Response {
	login := loginJSON{
		Text: words.CardText, Connection: connection, Resource: res.TokenExchangeResource,
		Buttons: []actionJSON{{Type: "signin", Value: res.SignInLink.Reveal(), Title: words.SignIn}},
	}
	if res.TokenPostResource != nil {
		login.Post = &postJSON{res.TokenPostResource.SasURL.Reveal()}
	}
	return Response{cardJSON{401, typeLogin, login}}
}
