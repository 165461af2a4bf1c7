package teams

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/signin-engine/signin-engine/machine"
)

// looseString is a string that some clients send as a number. A value of any
// other type is ignored, as encoding/json ignores a wrong type.
type looseString string

// UnmarshalJSON accepts a string, and a number as its decimal text.
func (s *looseString) UnmarshalJSON(b []byte) error {
	switch {
	case b[0] == '"' && bytes.IndexByte(b, '\\') < 0 && utf8.Valid(b):
		*s = looseString(b[1 : len(b)-1]) // the common case
	case b[0] == '"':
		return json.Unmarshal(b, (*string)(s))
	case isNumber(b):
		*s = looseString(decimal(b))
	}
	return nil
}

// isNumber reports whether valid JSON is a number.
func isNumber(b []byte) bool {
	return len(b) > 0 && (b[0] == '-' || b[0] >= '0' && b[0] <= '9')
}

// decimal writes a number without an exponent. It keeps digits as they are, since
// ids have more digits than a float64 holds exactly.
func decimal(number []byte) string {
	text := string(number)
	if !strings.ContainsAny(text, "eE") {
		return text
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return ""
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// invokes maps the lower case of each known name to its usual spelling.
var invokes = byLowerCase(
	machine.InvokeTokenExchange, machine.InvokeVerifyState, machine.InvokeFailure,
	"adaptiveCard/action", "task/fetch", "task/submit",
	"composeExtension/query", "composeExtension/queryLink", "composeExtension/anonymousQueryLink",
	"composeExtension/querySettingUrl", "composeExtension/setting", "composeExtension/selectItem",
	"composeExtension/fetchTask", "composeExtension/submitAction", "composeExtension/onCardButtonClicked",
)

func byLowerCase(names ...string) map[string]string {
	m := make(map[string]string, len(names))
	for _, name := range names {
		m[strings.ToLower(name)] = name
	}
	return m
}

// invokeName returns the usual spelling of a known name. For an unknown name
// below composeExtension/ or task/, it corrects only that prefix.
func invokeName(name string) string {
	if known, ok := invokes[strings.ToLower(name)]; ok {
		return known
	}
	for _, folder := range [...]string{composePrefix, "task/"} {
		if len(name) > len(folder) && strings.EqualFold(name[:len(folder)], folder) {
			return folder + name[len(folder):]
		}
	}
	return name
}

// readValue returns the value of an activity, nil for null. Mobile clients send
// an object as JSON inside a string; readValue unwraps it.
func readValue(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if raw[0] == '"' {
		var inner string
		if json.Unmarshal(raw, &inner) == nil && strings.HasPrefix(strings.TrimSpace(inner), "{") && json.Valid([]byte(inner)) {
			raw = json.RawMessage(strings.TrimSpace(inner))
		}
	}
	return raw
}

// conversationType returns the type, or infers it if the activity gives none.
// Only an activity in a team has a team or a channel, and the id of a Teams
// conversation shows its kind of thread.
func (w *activityJSON) conversationType() string {
	id := string(w.Conversation.ID)
	switch {
	case w.Conversation.ConversationType != "":
		return w.Conversation.ConversationType
	case w.ChannelData.Team.ID != "", w.ChannelData.Channel.ID != "",
		strings.Contains(id, "@thread.tacv2"), strings.Contains(id, "@thread.skype"):
		return "channel"
	case strings.Contains(id, "@thread.v2"):
		return "groupChat"
	default:
		return ""
	}
}
