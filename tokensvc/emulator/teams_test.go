package emulator_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// listen is a bot that records the activities and answers 202 with a body.
func listen(t *testing.T, cfg emulator.Config) (*emulator.Teams, func() map[string]any) {
	t.Helper()
	heard := make(chan []byte, 10)
	bot := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		heard <- body
		w.Header().Set("X-Bot", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusAccepted)
		if _, err := io.WriteString(w, "ok"); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(bot.Close)
	emu := emulator.New(cfg)
	return emu.Teams(bot.URL), func() map[string]any {
		var activity map[string]any
		if err := json.Unmarshal(<-heard, &activity); err != nil {
			t.Fatal(err)
		}
		return activity
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTeamsActivities(t *testing.T) {
	teams, heard := listen(t, emulator.Config{
		BaseURL: "http://emulator", ClientID: "app", Seed: 1,
		Users: []emulator.User{{ID: userID, Name: "Kim", AADObjectID: "aad"}},
	})
	teams.Conversation = emulator.Conversation{ID: "a:1", Type: "personal", TenantID: "tenant"}
	teams.Authorize = func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer x")
		return nil
	}
	ctx := t.Context()
	check := func(got emulator.Answer, err error, want map[string]string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got.Status != http.StatusAccepted || string(got.Body) != "ok" || got.Header.Get("X-Bot") != "Bearer x" {
			t.Errorf("answer %+v", got)
		}
		activity := heard()
		for _, member := range []string{"timestamp", "channelData"} {
			if activity[member] == nil {
				t.Errorf("no %s", member)
			}
		}
		want["channelId"] = `"msteams"`
		want["serviceUrl"] = `"http://emulator/"`
		want["from"] = `{"aadObjectId":"aad","id":"29:1cg","name":"Kim"}`
		want["recipient"] = `{"id":"28:app","name":"bot"}`
		want["conversation"] = `{"conversationType":"personal","id":"a:1","tenantId":"tenant"}`
		for member, value := range want {
			if got := asJSON(t, activity[member]); got != value {
				t.Errorf("%s is %s, want %s", member, got, value)
			}
		}
	}

	got, err := teams.SendMessage(ctx, "login graph")
	check(got, err, map[string]string{
		"type": `"message"`, "id": `"1776827520099"`, "text": `"login graph"`, "textFormat": `"plain"`,
		"entities":    `[{"country":"US","locale":"en-US","platform":"Web","timezone":"America/Los_Angeles","type":"clientInfo"}]`,
		"channelData": `{"tenant":{"id":"tenant"}}`,
	})
	repeated, err := teams.Send(ctx, got.Sent)
	check(repeated, err, map[string]string{"id": `"1776827520099"`})

	got, err = teams.On("iOS").TokenExchange(ctx, "x1", graph, "jwt")
	check(got, err, map[string]string{
		"type": `"invoke"`, "name": `"signin/tokenExchange"`, "value": `{"connectionName":"graph","id":"x1","token":"jwt"}`,
		"entities": `[{"country":"US","locale":"en-US","platform":"iOS","timezone":"America/Los_Angeles","type":"clientInfo"}]`,
	})
	if !strings.HasPrefix(got.Sent.ID, "f:") {
		t.Errorf("id %s", got.Sent.ID)
	}
	got, err = teams.VerifyState(ctx, "745254", "1776827524158")
	check(got, err, map[string]string{
		"name": `"signin/verifyState"`, "value": `{"state":"745254"}`, "replyToId": `"1776827524158"`,
	})
	if data := asJSON(t, got.Sent.ChannelData); !strings.Contains(data, `"source":{"name":"message"},"legacy":{"replyToId":"1:`) {
		t.Errorf("channelData %s", data)
	}
	got, err = teams.Failure(ctx, "resourcematchfailed", "Resource match failed")
	check(got, err, map[string]string{
		"name": `"signin/failure"`, "value": `{"code":"resourcematchfailed","message":"Resource match failed"}`,
	})
	got, err = teams.Invoke(ctx, "composeExtension/query", "", json.RawMessage(`{"commandId":"c"}`))
	check(got, err, map[string]string{"name": `"composeExtension/query"`, "value": `{"commandId":"c"}`})
	got, err = teams.Invoke(ctx, "signin/verifyState", "", nil)
	check(got, err, map[string]string{"value": `null`})
}

func TestTeamsInAGroup(t *testing.T) {
	teams, heard := listen(t, emulator.Config{})
	teams.Conversation = emulator.Conversation{ID: "19:g", Type: "groupChat", IsGroup: true}
	if _, err := teams.SendMessage(t.Context(), "help"); err != nil {
		t.Fatal(err)
	}
	activity := heard()
	if activity["text"] != "<at>bot</at> help" || !strings.Contains(asJSON(t, activity["entities"]), `"type":"mention"`) {
		t.Errorf("%v", activity)
	}
	if got := asJSON(t, activity["conversation"]); got != `{"conversationType":"groupChat","id":"19:g","isGroup":true}` {
		t.Errorf("conversation %s", got)
	}
}

// A message can be changed before it is sent, to look like that of another client.
func TestTeamsMessage(t *testing.T) {
	teams, heard := listen(t, emulator.Config{})
	teams.Bot.Name = "R&D <Helper>"
	teams.Conversation = emulator.Conversation{ID: "19:c@thread.tacv2", Type: "channel"}
	message := teams.Message("login graph")
	if message.Text != "<at>R&amp;D &lt;Helper&gt;</at> login graph" || message.Entities[1].Text != "<at>R&amp;D &lt;Helper&gt;</at>" ||
		message.Entities[1].Mentioned.Name != teams.Bot.Name {
		t.Errorf("%+v", message)
	}
	message.Conversation.Type, message.Entities[1].Text = "", ""
	if _, err := teams.Send(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	activity := heard()
	if got := asJSON(t, activity["conversation"]); got != `{"id":"19:c@thread.tacv2"}` || strings.Contains(asJSON(t, activity["entities"]), `"text"`) {
		t.Errorf("%v", activity)
	}
}

func TestTeamsErrors(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	teams := emulator.NewTeams(gone.URL+"/?s3cret", "http://emulator/", 0)
	if _, err := teams.SendMessage(t.Context(), "x"); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("nobody listens: %v", err)
	}
	cause := errors.New("no key")
	teams.Authorize = func(context.Context, *http.Request) error { return cause }
	if _, err := teams.SendMessage(t.Context(), "x"); !errors.Is(err, cause) {
		t.Error(err)
	}
	if _, err := teams.Invoke(t.Context(), "x", "", make(chan int)); err == nil {
		t.Error("a channel was sent")
	}
}
