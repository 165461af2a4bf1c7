package composeext_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/composeext"
)

// varies matches the parts of a body that differ in every run.
var varies = regexp.MustCompile(`"(http://127\.0\.0\.1:\d+/[^"]*|[0-9a-f]{8}-[0-9a-f-]{27})"`)

// form returns the body of an answer without the parts that vary.
func form(t *testing.T, body []byte) string {
	t.Helper()
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return varies.ReplaceAllString(compact.String(), `"…"`)
}

// The exact bodies of the answers (docs/protocol.md §6). Members without a value are
// left out, because Teams refuses null.
func TestForms(t *testing.T) {
	t.Parallel()
	const (
		auth       = `{"composeExtension":{"type":"auth","suggestedActions":{"actions":[{"type":"openUrl","value":"…","title":"Sign In"}]}}}`
		silentAuth = `{"composeExtension":{"type":"silentAuth","suggestedActions":{"actions":[{"type":"openUrl","value":"…","title":"Sign In"}]}}}`
		nothing    = `{"composeExtension":{"type":"result","attachmentLayout":"list","attachments":[]}}`
		link       = `{"composeExtension":{"type":"result","attachmentLayout":"list","attachments":[{"contentType":"application/vnd.microsoft.card.thumbnail","content":{"title":"link","text":"https://wiki.example/x"}}]}}`
		down       = `{"composeExtension":{"type":"message","text":"Sign-in is not available right now."}}`
		refused    = `{"id":"x","connectionName":"graph","failureDetail":"the token cannot be exchanged"}`

		loginOwn     = `{"statusCode":401,"type":"application/vnd.microsoft.activity.loginRequest","value":{"text":"Please Sign In","connectionName":"wiki","buttons":[{"type":"signin","value":"…","title":"Sign In"}]}}`
		loginSSO     = `{"statusCode":401,"type":"application/vnd.microsoft.activity.loginRequest","value":{"text":"Please Sign In","connectionName":"graph","tokenExchangeResource":{"id":"…","uri":"api://RESOURCE"},"tokenPostResource":{"sasUrl":"…"},"buttons":[{"type":"signin","value":"…","title":"Sign In"}]}}`
		cardRefused  = `{"statusCode":412,"type":"application/vnd.microsoft.error.preconditionFailed","value":{"code":"412","message":"the token cannot be exchanged"}}`
		cardWrong    = `{"statusCode":401,"type":"application/vnd.microsoft.error.invalidAuthCode"}`
		cardCanceled = `{"statusCode":200,"type":"application/vnd.microsoft.activity.message","value":"You are not signed in."}`
		cardDone     = `{"statusCode":200,"type":"application/vnd.microsoft.card.adaptive","value":{"for":"29:alice","type":"AdaptiveCard","verb":"refresh"}}`
		cardDown     = `{"statusCode":503,"type":"application/vnd.microsoft.error","value":{"code":"503","message":"Sign-in is not available right now."}}`
	)
	query, queryLink := `{"commandId":"insertWiki"}`, `{"url":"https://wiki.example/x"}`
	resource := regexp.MustCompile(`"uri":"api://[^"]*"(,"providerId":"[^"]*")?`)
	same := func(t *testing.T, what string, a emulator.Answer, err error, status int, want string) emulator.Answer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		got := resource.ReplaceAllString(form(t, a.Body), `"uri":"api://RESOURCE"`)
		if a.Status != status || got != want {
			t.Errorf("%s: %d\n%s\nwant %d\n%s", what, a.Status, got, status, want)
		}
		return a
	}
	t.Run("popup", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(w *world) { w.extend = everything })
		user, ctx := w.user("alice"), t.Context()
		a, err := user.Invoke(ctx, "composeExtension/query", "", value(t, query))
		same(t, "query", a, err, 200, auth)
		a, err = user.Invoke(ctx, "composeExtension/fetchTask", "", value(t, query))
		same(t, "fetchTask", a, err, 200, auth)
		a, err = user.Invoke(ctx, "composeExtension/queryLink", "", value(t, queryLink))
		asked := same(t, "queryLink", a, err, 200, auth)
		a, err = user.Reissue(ctx, asked.Sent, "wrong")
		same(t, "a wrong code", a, err, 200, auth)
		a, err = user.Reissue(ctx, asked.Sent, emulator.CancelledByUser)
		same(t, "closed", a, err, 200, nothing)
		a, err = user.Invoke(ctx, "adaptiveCard/action", "", value(t, execute))
		card := same(t, "card", a, err, 200, loginOwn)
		a, err = user.Reissue(ctx, card.Sent, "wrong")
		same(t, "card, a wrong code", a, err, 200, cardWrong)
		a, err = user.Reissue(ctx, card.Sent, emulator.CancelledByUser)
		same(t, "card, closed", a, err, 200, cardCanceled)
		ended := w.open(emulator.NewBrowser(), w.compose(asked, nil).URL)
		a, err = user.Reissue(ctx, asked.Sent, ended.Code)
		same(t, "queryLink with the code", a, err, 200, link)
		a, err = user.Reissue(ctx, card.Sent, "")
		same(t, "card, signed in", a, err, 200, cardDone)
	})
	t.Run("token service", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, viaTokenService)
		user, ctx := w.user("alice"), t.Context()
		a, err := user.Invoke(ctx, "composeExtension/query", "", value(t, query))
		same(t, "query", a, err, 200, silentAuth)
		a, err = user.Invoke(ctx, "composeExtension/queryLink", "", value(t, queryLink))
		asked := same(t, "queryLink", a, err, 200, silentAuth)
		a, err = user.Invoke(ctx, "adaptiveCard/action", "", value(t, execute))
		card := same(t, "card", a, err, 200, loginSSO)
		w.emu.SetSSO(graph, http.StatusPreconditionFailed)
		a, err = user.ReissueWithToken(ctx, asked.Sent, "x", graph, "sso-token")
		same(t, "a refused token", a, err, 412, refused)
		a, err = user.Invoke(ctx, "composeExtension/queryLink", "", value(t, queryLink))
		same(t, "queryLink after a refusal", a, err, 200, auth)
		a, err = user.ReissueWithToken(ctx, card.Sent, "", graph, "sso-token")
		same(t, "card, a refused token", a, err, 200, cardRefused)
		a, err = user.Reissue(ctx, card.Sent, "000000")
		same(t, "card, a wrong code", a, err, 200, cardWrong)
		w.emu.SetSSO(graph, http.StatusOK)
		a, err = user.ReissueWithToken(ctx, asked.Sent, "", graph, "another-sso-token")
		same(t, "queryLink with a token", a, err, 200, link)
		w.emu.SetDown(true)
		other := w.user("bob")
		a, err = other.Invoke(ctx, "composeExtension/queryLink", "", value(t, queryLink))
		same(t, "down", a, err, 200, down)
		a, err = other.Invoke(ctx, "adaptiveCard/action", "", value(t, execute))
		same(t, "card, down", a, err, 200, cardDown)
	})
	if raw, err := json.Marshal(composeext.List()); err != nil || form(t, raw) != nothing {
		t.Errorf("%s, %v", raw, err)
	}
}

// TestResponses checks that the responses of handlers have the form that Teams reads.
func TestResponses(t *testing.T) {
	card := composeext.Attachment{ContentType: "application/vnd.microsoft.card.hero", Content: "c"}
	const attachment = `{"contentType":"application/vnd.microsoft.card.hero","content":"c"}`
	for want, r := range map[string]composeext.Response{
		`{"composeExtension":{"type":"result","attachmentLayout":"list","attachments":[` + attachment + `]}}`: composeext.List(card),
		`{"composeExtension":{"type":"result","attachmentLayout":"grid","attachments":[` + attachment + `]}}`: composeext.Grid(card),
		`{"composeExtension":{"type":"result","attachmentLayout":"grid","attachments":[]}}`:                   composeext.Grid(),
		`{"composeExtension":{"type":"message","text":"none <b>"}}`:                                           composeext.Text("none <b>"),
		`{"task":{"type":"message","value":"done"}}`:                                                          composeext.Task("message", "done"),
		`{"url":"https://bot.example/?a=1&b=2"}`:                                                              composeext.Raw(map[string]string{"url": "https://bot.example/?a=1&b=2"}),
	} {
		if got, err := r.MarshalJSON(); err != nil || string(got) != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
}
