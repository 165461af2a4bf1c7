package tokensvc_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc"
)

func TestStateEncode(t *testing.T) {
	full := tokensvc.State{
		Connection: "teamsgraph", ActivityID: "1776827520098", BotID: "28:bot", ChannelID: "msteams",
		ConversationID: "a:1xH", ServiceURL: "https://smba.example/amer/?a=1&b=<2>", UserID: "29:1cg", MsAppID: "app",
	}
	bare := full
	bare.ActivityID, bare.MsAppID = "", ""
	for _, tc := range []struct {
		state tokensvc.State
		want  string
	}{
		{full, `{"ConnectionName":"teamsgraph","Conversation":{"ActivityId":"1776827520098","Bot":{"Id":"28:bot"},` +
			`"ChannelId":"msteams","Conversation":{"Id":"a:1xH"},"ServiceUrl":"https://smba.example/amer/?a=1&b=<2>",` +
			`"User":{"Id":"29:1cg"}},"MsAppId":"app"}`},
		{bare, `{"ConnectionName":"teamsgraph","Conversation":{"Bot":{"Id":"28:bot"},` +
			`"ChannelId":"msteams","Conversation":{"Id":"a:1xH"},"ServiceUrl":"https://smba.example/amer/?a=1&b=<2>",` +
			`"User":{"Id":"29:1cg"}}}`},
	} {
		raw, err := base64.StdEncoding.DecodeString(tc.state.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if string(raw) != tc.want {
			t.Errorf("\n got %s\nwant %s", raw, tc.want)
		}
		back, err := tokensvc.ParseState(tc.state.Encode())
		if err != nil || back != tc.state {
			t.Errorf("back: %+v, %v", back, err)
		}
	}
}

func TestParseState(t *testing.T) {
	const name = "graph ???>>>~~~" // has both characters in which the alphabets differ
	camel := `{"connectionName":"` + name + `","conversation":{"user":{"id":"u"},"extra":1}}`
	if url := base64.URLEncoding.EncodeToString([]byte(camel)); !strings.Contains(url, "-") || !strings.Contains(url, "_") {
		t.Fatalf("%s is the same in both alphabets", url)
	}
	for form, encoded := range map[string]string{
		"standard": base64.StdEncoding.EncodeToString([]byte(camel)),
		"unpadded": base64.RawStdEncoding.EncodeToString([]byte(camel)),
		"URL":      base64.URLEncoding.EncodeToString([]byte(camel)),
	} {
		if s, err := tokensvc.ParseState(encoded); err != nil || s.Connection != name || s.UserID != "u" {
			t.Errorf("%s: %+v, %v", form, s, err)
		}
	}
	for _, bad := range []string{"§", base64.StdEncoding.EncodeToString([]byte("no JSON"))} {
		if _, err := tokensvc.ParseState(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
