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
		Type:       "channel",
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
		{"the older envelope", `{"type":"invoke","address":{"channelId":"msteams:COPILOT","serviceUrl":"https://smba.trafficmanager.net/amer/",
			"user":{"id":"29:u"},"bot":{"id":"28:b"},"conversation":{"id":"a:1","conversationType":"groupChat","isGroup":true,"tenantId":"t"}}}`},
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

func TestDecodeActivityReadsNumbersAsText(t *testing.T) {
	t.Parallel()
	got, err := teams.DecodeActivity([]byte(`{"type":"message","id":1776827520098,"replyToId":1776827524158,"text":482913,
		"channelId":"msteams","serviceUrl":"https://smba.trafficmanager.net/amer/","from":{"id":29},"recipient":{"id":28},
		"conversation":{"id":12345678901234567890}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := machine.Activity{
		Type: "message", ID: "1776827520098", ReplyToID: "1776827524158", Text: "482913",
		Conversation: store.Conversation{
			Channel: "msteams", ServiceURL: "https://smba.trafficmanager.net/amer/", ID: "12345678901234567890", UserID: "29", BotID: "28",
		},
		Raw: got.Raw,
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	got, err = teams.DecodeActivity([]byte(`{"type":"invoke","address":{"id":7,"user":{"id":1.5e3}}}`))
	if err != nil || got.ID != "7" || got.Conversation.UserID != "1500" {
		t.Errorf("older envelope: %+v, %v", got, err)
	}
}

func TestDecodeActivityReadsTheValue(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, invoke, value, want string }{
		{"object", "signin/verifyState", `{ "state": "745254" }`, `{ "state": "745254" }`},
		{"JSON in a string", "signin/verifyState", `"{\"state\":\"745254\"}"`, `{"state":"745254"}`},
		{"JSON in a string of another invoke", "task/fetch", `" {\"data\":{\"n\":1}}"`, `{"data":{"n":1}}`},
		{"another string", "signin/verifyState", `"745254"`, `"745254"`},
		{"half an object in a string", "signin/verifyState", `"{\"state\":"`, `"{\"state\":"`},
		{"an array in a string", "signin/verifyState", `"[1]"`, `"[1]"`},
		{"null", "signin/failure", `null`, ``},
		{"a number in a string", "signin/verifyState", `"{\"state\":482913}"`, `{"state":482913}`},
		{"members stay for who knows them", "signin/verifyState", `{"state":{"code":482913}}`, `{"state":{"code":482913}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := teams.DecodeActivity([]byte(`{"type":"invoke","name":"` + tt.invoke + `","value":` + tt.value + `}`))
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Value) != tt.want {
				t.Errorf("Value = %s, want %s", got.Value, tt.want)
			}
		})
	}
}

func TestDecodeActivityReadsInvokeNamesInAnyCase(t *testing.T) {
	t.Parallel()
	for came, want := range map[string]string{
		"signin/tokenExchange":                "signin/tokenExchange",
		"signin/tokenexchange":                "signin/tokenExchange",
		"signin/verifystate":                  "signin/verifyState",
		"SignIn/VerifyState":                  "signin/verifyState",
		"SIGNIN/FAILURE":                      "signin/failure",
		"composeextension/query":              "composeExtension/query",
		"composeextension/querylink":          "composeExtension/queryLink",
		"composeextension/fetchtask":          "composeExtension/fetchTask",
		"ComposeExtension/anonymousqueryLink": "composeExtension/anonymousQueryLink",
		"composeextension/New":                "composeExtension/New",
		"adaptivecard/action":                 "adaptiveCard/action",
		"Task/Fetch":                          "task/fetch",
		"task/SUBMIT":                         "task/submit",
		"fileConsent/Invoke":                  "fileConsent/Invoke",
		"composeExtension":                    "composeExtension",
		"":                                    "",
	} {
		got, err := teams.DecodeActivity([]byte(`{"type":"invoke","name":"` + came + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != want {
			t.Errorf("%q is read as %q, want %q", came, got.Name, want)
		}
	}
	got, err := teams.DecodeActivity([]byte(`{"type":"event","name":"Task/Fetch"}`))
	if err != nil || got.Name != "Task/Fetch" {
		t.Errorf("an event's name: %q, %v", got.Name, err)
	}
}

func TestDecodeActivityKnowsAChannel(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, conversation, channelData, want string }{
		{"as it says", `{"id":"19:a@thread.tacv2","conversationType":"groupChat"}`, `{"team":{"id":"19:t"}}`, "groupChat"},
		{"by its id", `{"id":"19:a@thread.tacv2"}`, `null`, "channel"},
		{"by the id of a reply chain", `{"id":"19:a@thread.tacv2;messageid=17"}`, `{}`, "channel"},
		{"by an id of the old form", `{"id":"19:a@thread.skype"}`, `{}`, "channel"},
		{"by the team", `{"id":"x"}`, `{"team":{"id":"19:t"}}`, "channel"},
		{"by the channel", `{"id":"x"}`, `{"channel":{"id":"19:c"}}`, "channel"},
		{"by the team, whatever the id", `{"id":"19:a@thread.v2"}`, `{"team":{"id":"19:t"}}`, "channel"},
		{"a group", `{"id":"19:a@thread.v2"}`, `{}`, "groupChat"},
		{"a meeting", `{"id":"19:meeting_a@thread.v2"}`, `{"meeting":{"id":"m"}}`, "groupChat"},
		{"neither", `{"id":"a:1x"}`, `{"tenant":{"id":"t"}}`, ""},
		{"members of another form", `{"id":"a:1x"}`, `{"team":"19:t","channel":{"name":"General"}}`, ""},
		{"members of another form beside good ones", `{"id":"a:1x"}`, `{"team":7,"channel":{"id":"19:c"}}`, "channel"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := teams.DecodeActivity([]byte(`{"type":"message","conversation":` + tt.conversation + `,"channelData":` + tt.channelData + `}`))
			if err != nil {
				t.Fatal(err)
			}
			if got.Conversation.Type != tt.want {
				t.Errorf("Type = %q, want %q", got.Conversation.Type, tt.want)
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
		{"no mention, invisible characters", `\u200blogin\u200b graph\ufeff`, ``, `login graph`},
		{"escaped in the text only", `<at>R&amp;D Bot</at> login`, `{"type":"mention","mentioned":{"id":"28:b","name":"R&D Bot"}}`, `login`},
		{"escaped in the entity only", `hey <at>R&D Bot</at> login`, `{"type":"mention","text":"<at>R&amp;D Bot</at>","mentioned":{"id":"28:b","name":"R&amp;D Bot"}}`, `hey login`},
		{"another case", `hey <AT>my bot</AT> login`, bot, `hey login`},
		{"attributes", `hey <at id=\"0\">My Bot</at>&nbsp;login&nbsp;graph`, bot, `hey login graph`},
		{"invisible characters", `hey <at>My\u200b Bot</at>\u200b login\u200b graph`, bot, `hey login graph`},
		{"a no-break space in the name", `hey <at>My&nbsp;Bot</at> login`, bot, `hey login`},
		{"markup in the mention", `hey <at><b>My</b> Bot</at> login`, bot, `hey login`},
		{"by the bot's own name", `<at>Alice</at> <at>Botty</at> login`, alice, `<at>Alice</at> login`},
		{"under another name", `<at>Old Name</at> tell <at>Alice</at>`, alice + `,` + bot, `tell <at>Alice</at>`},
		{"somebody else first, under another name", `<at>Alice</at> <at>Old Name</at>`, alice + `,` + bot, `<at>Alice</at>`},
		{"entity without an id", `<at>My Bot</at> login`, `{"type":"mention","text":"<at>My Bot</at>"}`, `login`},
		{"entity with a plain name for a text", `hey <at>Short</at> login`, `{"type":"mention","text":"Short","mentioned":{"id":"28:b","name":"My Bot"}}`, `hey login`},
		{"entity with a plain name beside somebody else", `<at>Alice</at> and <at>Short</at> login`, alice + `,{"type":"mention","text":"Short","mentioned":{"id":"28:b","name":"My Bot"}}`, `<at>Alice</at> and login`},
		{"two entities with plain names", `<at>Al</at> and <at>Short</at> login`, `{"type":"mention","text":"Al","mentioned":{"id":"29:a","name":"Alice"}},{"type":"mention","text":"Short","mentioned":{"id":"28:b","name":"My Bot"}}`, `<at>Al</at> and login`},
		{"other markup stays", `<at>My Bot</at> a <b>c &amp; d`, bot, `a <b>c &amp; d`},
		{"entity with a text that is no mention", `<at>My Bot</at> log in`, `{"type":"mention","text":" ","mentioned":{"id":"28:b","name":"My Bot"}}`, `log in`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := teams.DecodeActivity([]byte(`{"type":"message","recipient":{"id":"28:b","name":"Botty"},"text":"` + tt.text +
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
	f.Add([]byte(`{"type":"message","text":"<AT id=\"0\">B&amp;C</at>&nbsp;x\u200b","id":1e3,"conversation":{"id":"19:a@thread.tacv2"}}`))
	f.Add([]byte(`{"type":"invoke","name":"signin/verifystate","value":"{\"state\":482913}"}`))
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
