package tokensvc

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// Reading is tolerant (docs/protocol.md): encoding/json matches camelCase and
// PascalCase alike, and the types below take whatever shape a side issue has.

type tokenJSON struct {
	ChannelID      string     `json:"channelId"`
	ConnectionName string     `json:"connectionName"`
	Token          Secret     `json:"token"`
	Expiration     timestamp  `json:"expiration"`
	Properties     properties `json:"properties"`
}

// token falls back on what was asked for where the answer does not say.
func (t *tokenJSON) token(asked UserConnection) Token {
	tok := Token{
		ChannelID:  t.ChannelID,
		Connection: t.ConnectionName,
		Token:      t.Token,
		Expiration: time.Time(t.Expiration),
		Properties: t.Properties,
	}
	if tok.ChannelID == "" {
		tok.ChannelID = asked.ChannelID
	}
	if tok.Connection == "" {
		tok.Connection = asked.Connection
	}
	return tok
}

type signInResourceJSON struct {
	SignInLink            Secret                 `json:"signInLink"`
	TokenExchangeResource *TokenExchangeResource `json:"tokenExchangeResource"`
	TokenPostResource     *struct {
		SasURL Secret `json:"sasUrl"`
	} `json:"tokenPostResource"`
}

func (r *signInResourceJSON) resource() SignInResource {
	res := SignInResource{SignInLink: r.SignInLink}
	if r.TokenExchangeResource != nil && r.TokenExchangeResource.ID != "" {
		res.TokenExchangeResource = r.TokenExchangeResource
	}
	if r.TokenPostResource != nil && !r.TokenPostResource.SasURL.Empty() {
		res.TokenPostResource = &TokenPostResource{SasURL: r.TokenPostResource.SasURL}
	}
	return res
}

type tokenStatusJSON struct {
	ChannelID                  string `json:"channelId"`
	ConnectionName             string `json:"connectionName"`
	HasToken                   bool   `json:"hasToken"`
	ServiceProviderDisplayName string `json:"serviceProviderDisplayName"`
}

// timestamp is the zero time for anything that is no time: an expiry nobody
// can read must not cost the user the token.
type timestamp time.Time

func (t *timestamp) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.RFC1123} {
		if parsed, err := time.Parse(layout, s); err == nil {
			*t = timestamp(parsed.UTC())
			break
		}
	}
	return nil
}

// properties keeps the members that are strings.
type properties map[string]string

func (p *properties) UnmarshalJSON(b []byte) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(b, &members) == nil && len(members) > 0 {
		*p = make(properties, len(members))
	}
	for name, raw := range members {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			(*p)[name] = s
		}
	}
	return nil
}

// errorCode reads error.code of an error body, or error itself where that is
// the code (Entra). What does not look like a code is dropped: the body may
// echo what was sent.
func errorCode(body []byte) string {
	var answer struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	var code string
	if json.Unmarshal(answer.Error, &code) != nil {
		var nested struct {
			Code string `json:"code"`
		}
		if json.Unmarshal(answer.Error, &nested) != nil {
			return ""
		}
		code = nested.Code
	}
	const longest = 64
	if len(code) > longest || strings.ContainsFunc(code, notOfCode) {
		return ""
	}
	return code
}

// wantsConsent reports whether an error answer is about consent. The service
// answers 400 with "Consent Required" in its message, or Entra's code.
func wantsConsent(status int, body []byte) bool {
	switch code := strings.ToLower(errorCode(body)); {
	case strings.Contains(code, "consent"):
		return true
	case status != http.StatusBadRequest:
		return false
	}
	var answer struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return false
	}
	message := strings.ToLower(answer.Error.Message)
	return strings.Contains(message, "consent required") || strings.Contains(message, "aadsts65001")
}

func notOfCode(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
		return false
	default:
		return true
	}
}
