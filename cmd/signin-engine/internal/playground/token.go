package playground

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// tokenGood is an SSO token as Teams makes it. The Token Service refuses the
// other kinds, and the engine reports what was wrong with them.
const tokenGood = "good"

// tokenKinds are the kinds of SSO tokens, with their labels on the page.
var tokenKinds = []choice{
	{tokenGood, "valid"},
	{"v1", "version 1.0"},
	{"audience", "for another audience"},
	{"user", "another user's"},
	{"client", "another client's"},
	{"expired", "expired"},
}

// choice is an option of a list.
type choice struct{ Value, Label string }

// ssoToken makes a token of a kind. Nothing checks its signature.
func ssoToken(kind string, t *emulator.Teams, card emulator.Card) string {
	now := time.Now()
	claims := map[string]any{
		"aud": "", "ver": "2.0", "tid": t.Conversation.TenantID, "oid": t.User.AADObjectID,
		"azp": "5e3ce6c0-2b1f-4285-8d4b-75ee78787346", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
	}
	if card.TokenExchangeResource != nil {
		claims["aud"] = card.TokenExchangeResource.URI
	}
	switch kind {
	case "v1":
		claims["ver"], claims["appid"] = "1.0", claims["azp"]
		delete(claims, "azp")
	case "audience":
		claims["aud"] = "api://somebody-else"
	case "user":
		claims["oid"] = "ffffffff-0000-4000-8000-000000000000"
	case "client":
		claims["azp"] = "ffffffff-0000-4000-8000-00000000c11e"
	case "expired":
		claims["exp"] = now.Add(-time.Hour).Unix()
	}
	enc := base64.RawURLEncoding
	body, err := json.Marshal(claims)
	if err != nil {
		return ""
	}
	return enc.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc.EncodeToString(body) + "." + enc.EncodeToString([]byte(rand.Text()))
}
