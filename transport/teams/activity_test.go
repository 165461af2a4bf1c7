package teams_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/teams"
)

func TestDecodeActivityOfTheTrace(t *testing.T) {
	t.Parallel()
	message := seedReference()
	message.Locale = "en-US"
	tests := []struct {
		file string
		want machine.Activity
	}{
		{"step1_message.json", machine.Activity{
			Type: "message", ID: seedMessage, Text: "login graph", Platform: "Web", Conversation: message,
		}},
		{"step5_verifystate.json", machine.Activity{
			Type: "invoke", Name: "signin/verifyState", ID: seedInvoke, ReplyToID: seedCard,
			Conversation: seedReference(), Value: json.RawMessage(`{ "state": "745254" }`),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			body := recorded(t, tt.file)
			tt.want.Raw = body
			got, err := teams.DecodeActivity(body)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDecodeActivityOfOlderSDKs(t *testing.T) {
	t.Parallel()
	got, err := teams.DecodeActivity(recorded(t, "legacy_query.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := store.Conversation{
		ServiceURL: "https://smba.trafficmanager.net/amer-client-ss.msg/",
		Channel:    "msteams",
		ID:         "19:7705841b240044b297123ad7f9c99217@thread.skype",
		BotID:      "28:c073afa8-7e77-4f92-b3e7-aa589e952a3e",
		BotName:    "maotestbot2",
		UserID:     "29:1A5TJWHkbOwSyu_L9Ktk9QFI1d_kBOEPeNEeO1INscpKHzHTvWfiau5AX_6y3SuiOby-r73dzHJ17HipUWqGPgw",
		UserAAD:    "fc8ca1c0-d043-4af6-b09f-141536207403",
		Locale:     "en-US",
	}
	if diff := cmp.Diff(want, got.Conversation); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got.ID != "f:7638210432489287768" {
		t.Errorf("ID = %q", got.ID)
	}
}

func TestDecodeActivityIsTolerant(t *testing.T) {
	t.Parallel()
	want := store.Conversation{
		ServiceURL: "https://smba.trafficmanager.net/amer/", Channel: "msteams:COPILOT", ID: "a:1", Type: "groupChat", IsGroup: true,
		Tenant: "t", BotID: "28:b", UserID: "29:u",
	}
	tests := []struct{ name, body string }{
		{"camelCase", `{"type":"invoke","channelId":"msteams:COPILOT","serviceUrl":"https://smba.trafficmanager.net/amer/",
			"from":{"id":"29:u"},"recipient":{"id":"28:b"},
			"conversation":{"id":"a:1","conversationType":"groupChat","isGroup":true,"tenantId":"t"}}`},
		{"PascalCase", `{"Type":"invoke","ChannelId":"msteams:COPILOT","ServiceUrl":"https://smba.trafficmanager.net/amer/",
			"From":{"Id":"29:u"},"Recipient":{"Id":"28:b"},
			"Conversation":{"Id":"a:1","ConversationType":"groupChat","IsGroup":true,"TenantId":"t"}}`},
		{"tenant in channelData", `{"type":"invoke","channelId":"msteams:COPILOT","serviceUrl":"https://smba.trafficmanager.net/amer/",
			"from":{"id":"29:u"},"recipient":{"id":"28:b"},"channelData":{"tenant":{"id":"t"}},
			"conversation":{"id":"a:1","conversationType":"groupChat","isGroup":true}}`},
		{"unknown members and wrong types", `{"type":"invoke","name":7,"id":[],"text":{},"locale":1,"timestamp":0,"unheard":{"of":[1]},
			"channelId":"msteams:COPILOT","serviceUrl":"https://smba.trafficmanager.net/amer/","entities":[null,5,"x",{"type":3}],
			"from":{"name":{},"id":"29:u","aadObjectId":false},"recipient":{"id":"28:b"},"channelData":"none","address":[],"value":null,
			"conversation":{"id":"a:1","conversationType":"groupChat","isGroup":true,"tenantId":"t"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := teams.DecodeActivity([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Conversation); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got.Value != nil {
				t.Errorf("Value = %s", got.Value)
			}
		})
	}
}

func TestDecodeActivityRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body string }{
		{"nothing", ``},
		{"white space", " \n"},
		{"no object", `["type"]`},
		{"a string", `"message"`},
		{"null", `null`},
		{"cut off", `{"type":"message"`},
		{"trailing data", `{"type":"message"}{}`},
		{"no type", `{"id":"1"}`},
		{"a type of another type", `{"type":1}`},
		{"control character in a user id", `{"type":"message","from":{"id":"29:a\u001fb"}}`},
		{"line break in a conversation id", `{"type":"message","conversation":{"id":"a:1\nb"}}`},
		{"endless id", `{"type":"message","from":{"id":"` + strings.Repeat("x", 1025) + `"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := teams.DecodeActivity([]byte(tt.body))
			if !errors.Is(err, teams.ErrMalformed) {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestDecodeActivityTakesTheMentionOut(t *testing.T) {
	t.Parallel()
	const (
		bot   = `{"type":"mention","text":"<at>My Bot</at>","mentioned":{"id":"28:b","name":"My Bot"}}`
		alice = `{"type":"mention","text":"<at>Alice</at>","mentioned":{"id":"29:a","name":"Alice"}}`
	)
	tests := []struct{ name, text, entities, want string }{
		{"no mention", ` login graph `, ``, `login graph`},
		{"leading, no entity", `<at>My Bot</at> login graph`, ``, `login graph`},
		{"leading with attributes", `<at id=\"0\">My Bot</at>&nbsp;login graph`, ``, `login graph`},
		{"only the leading one, no entity", `<at>My Bot</at> tell <at>Alice</at>`, ``, `tell <at>Alice</at>`},
		{"not leading, no entity", `tell <at>Alice</at>`, ``, `tell <at>Alice</at>`},
		{"never closed", `<at>My Bot login`, ``, `<at>My Bot login`},
		{"leading", `<at>My Bot</at>\u00a0login graph\n`, bot, `login graph`},
		{"in the middle", `please <at>My Bot</at> login`, bot, `please login`},
		{"twice", `<at>My Bot</at> login <at>My Bot</at>`, bot, `login`},
		{"nothing else", `<at>My Bot</at>`, bot, ``},
		{"others stay", `<at>Alice</at> login <at>My Bot</at>`, alice + `,` + bot, `<at>Alice</at> login`},
		{"somebody else's alone stays", `<at>Alice</at> login`, alice, `<at>Alice</at> login`},
		{"entity without a text", `<at>My Bot</at> login`, `{"type":"mention","mentioned":{"id":"28:b","name":"My Bot"}}`, `login`},
		{"entity with a text that is no mention", `<at>My Bot</at> log in`, `{"type":"mention","text":" ","mentioned":{"id":"28:b","name":"My Bot"}}`, `log in`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := teams.DecodeActivity([]byte(`{"type":"message","recipient":{"id":"28:b"},"text":"` + tt.text +
				`","entities":[` + tt.entities + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			if got.Text != tt.want {
				t.Errorf("Text = %q, want %q", got.Text, tt.want)
			}
		})
	}
}

func FuzzDecodeActivity(f *testing.F) {
	for _, name := range []string{"step1_message.json", "step5_verifystate.json", "legacy_query.json"} {
		f.Add(recorded(f, name))
	}
	f.Add([]byte(`{"type":"message","text":"<at>B</at> x","recipient":{"id":"b"},"entities":[{"type":"mention","text":"<at>B</at>","mentioned":{"id":"b"}}]}`))
	f.Add([]byte(`{"Type":"invoke","Value":null,"From":7,"entities":[null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		a, err := teams.DecodeActivity(body)
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			if !errors.Is(err, teams.ErrMalformed) || a != nil {
				t.Fatalf("activity %v, err %v", a, err)
			}
			return
		}
		if !json.Valid(body) || !bytes.Equal(a.Raw, body) || a.Type == "" {
			t.Fatalf("accepted %q", body)
		}
		if a.Value != nil && !json.Valid(a.Value) {
			t.Fatalf("value %q", a.Value)
		}
		c := a.Conversation
		for _, id := range []string{a.ID, a.ReplyToID, c.ID, c.Channel, c.UserID, c.UserAAD, c.BotID, c.ServiceURL, c.Tenant} {
			if len(id) > 1024 || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("id %q", id)
			}
		}
		if a.Type == "message" && a.Text != strings.TrimSpace(a.Text) {
			t.Fatalf("text %q", a.Text)
		}
	})
}
