package composeext

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// Response is the body of an invoke's answer.
type Response struct{ body any }

// MarshalJSON writes the body, with the & of an address as it is.
func (r Response) MarshalJSON() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(r.body)
	return bytes.TrimSpace(buf.Bytes()), err
}

// Raw is a body as it is.
func Raw(body any) Response { return Response{body} }

// Attachment is one result: a card, and what the list shows of it.
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

// List is a list of results; none is an empty one.
func List(results ...Attachment) Response { return result("list", results) }

// Grid is List in a grid.
func Grid(results ...Attachment) Response { return result("grid", results) }

func result(layout string, all []Attachment) Response {
	if all == nil {
		all = []Attachment{}
	}
	return Response{composeJSON{composeBody{Type: "result", AttachmentLayout: layout, Attachments: &all}}}
}

// Text is a sentence in place of results.
func Text(text string) Response {
	return Response{composeJSON{composeBody{Type: "message", Text: text}}}
}

// Task is the answer to a fetchTask or submitAction that opens a dialog: "continue"
// with its card or page, "message" with a text.
func Task(kind string, value any) Response {
	return Response{map[string]any{"task": map[string]any{"type": kind, "value": value}}}
}

// Thumbnail is a small card.
func Thumbnail(title, text string) Attachment {
	return Attachment{ContentType: "application/vnd.microsoft.card.thumbnail", Content: thumbnail{title, text}}
}

type thumbnail struct {
	Title string `json:"title"`
	Text  string `json:"text,omitempty"`
}

// authAction asks the client to open the sign-in page, silently first where there
// is SSO.
func authAction(words Words, res tokensvc.SignInResource) Response {
	kind := "auth"
	if res.TokenExchangeResource != nil {
		kind = "silentAuth"
	}
	return Response{composeJSON{composeBody{Type: kind, SuggestedActions: &actionsJSON{[]actionJSON{
		{Type: "openUrl", Value: res.SignInLink.Reveal(), Title: words.SignIn},
	}}}}}
}

// The types of what an Adaptive Card's action is answered with.
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

// Card is an Adaptive Card that takes the place of the one that was used.
func Card(card any) Response { return Response{cardJSON{200, typeCard, card}} }

// CardMessage is a sentence that the client shows at the card.
func CardMessage(text string) Response { return Response{cardJSON{200, typeMessage, text}} }

func cardError(status int, kind, text string) Response {
	out := cardJSON{Status: status, Type: kind}
	if text != "" {
		out.Value = errorJSON{strconv.Itoa(status), text}
	}
	return Response{out}
}

// loginRequest asks the client to sign its user in, silently first where there is
// SSO (M8). The status is one of the body: the invoke itself is answered 200.
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
