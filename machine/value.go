package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// codeDigits is the length of a verification code.
const codeDigits = 6

var errNoObject = errors.New("the value is not an object")

// readValue reads an invoke's value. Mobile clients send it as JSON in a string.
func readValue(value json.RawMessage, into any) error {
	value = unquoted(value)
	if len(value) == 0 || value[0] != '{' {
		return errNoObject
	}
	if err := json.Unmarshal(value, into); err != nil {
		return errNoObject // the JSON error may quote a secret
	}
	return nil
}

// unquoted unwraps JSON from a JSON string. It returns anything else unchanged.
func unquoted(value json.RawMessage) json.RawMessage {
	value = bytes.TrimSpace(value)
	var inner string
	if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, &inner) != nil {
		return value
	}
	if text := strings.TrimSpace(inner); strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
		return json.RawMessage(text)
	}
	return value
}

// readState finds the verification code, or CancelledByUser, in the value of
// signin/verifyState. Clients send it as {"state": "482913"}; as a number; as an
// object with a member code or state; and each of these as JSON in a string
// (C0). If there is neither, form describes the value.
func readState(value json.RawMessage) (code tokensvc.Secret, form string) {
	value = unquoted(value)
	var outer map[string]json.RawMessage
	switch {
	case len(value) == 0, string(value) == "null":
		return code, "no value"
	case json.Unmarshal(value, &outer) != nil || outer == nil:
		return code, "a value that is " + kindOf(value)
	}
	state, ok := member(outer, "state")
	if !ok {
		return code, "a value without a state"
	}
	if code = plain(state); !code.Empty() {
		return code, ""
	}
	state = unquoted(state)
	var inner map[string]json.RawMessage
	if json.Unmarshal(state, &inner) != nil || inner == nil {
		return code, "a state that is " + kindOf(state)
	}
	for _, name := range []string{"code", "state"} {
		if m, ok := member(inner, name); ok {
			if code = plain(m); !code.Empty() {
				return code, ""
			}
		}
	}
	return code, "a state that is an object without a code"
}

// member finds a member without regard to case, like all reads of the wire.
func member(o map[string]json.RawMessage, name string) (json.RawMessage, bool) {
	if v, ok := o[name]; ok {
		return v, true
	}
	for k, v := range o {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return nil, false
}

// plain returns a string, or the digits of a whole number. It is empty for
// anything else and for JSON in a string.
func plain(v json.RawMessage) tokensvc.Secret {
	var s string
	if json.Unmarshal(v, &s) == nil {
		s = strings.TrimSpace(s)
		if strings.HasPrefix(s, "{") || strings.HasPrefix(s, "[") {
			return tokensvc.Secret{}
		}
		return tokensvc.NewSecret(s)
	}
	var n json.Number
	if json.Unmarshal(v, &n) == nil && !strings.ContainsAny(n.String(), ".eE-") {
		// A number has lost the code's leading zeros.
		return tokensvc.NewSecret(strings.Repeat("0", max(0, codeDigits-len(n.String()))) + n.String())
	}
	return tokensvc.Secret{}
}

// kindOf names the kind of a JSON value.
func kindOf(v json.RawMessage) string {
	v = bytes.TrimSpace(v)
	if len(v) == 0 {
		return "empty"
	}
	switch v[0] {
	case '"':
		return "an empty string"
	case '[':
		return "a list"
	case '{':
		return "an object"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	default:
		return "a number that is no code"
	}
}
