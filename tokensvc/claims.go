package tokensvc

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Claims are what a token says about itself and its user. The signature is not checked:
// use them for display only, not for decisions.
type Claims struct {
	Audience string    // aud, the first of several
	Issuer   string    // iss
	Subject  string    // sub
	Tenant   string    // tid
	ObjectID string    // oid, the user's in Entra
	Client   string    // azp or appid: the app that the token was given to
	Version  string    // ver
	Name     string    // name
	Username string    // preferred_username, upn, unique_name or email
	Scopes   []string  // scp
	Expires  time.Time // exp, zero if it does not say

	raw []byte
}

// Claims reads the token as a JSON Web Token; false if it is none, as with many
// providers.
func (t Token) Claims() (Claims, bool) { return ReadClaims(t.Token) }

// ReadClaims is [Token.Claims] for any token.
func ReadClaims(token Secret) (Claims, bool) {
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return Claims{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return Claims{}, false
	}
	var w struct {
		Audience          json.RawMessage `json:"aud"`
		Issuer            string          `json:"iss"`
		Subject           string          `json:"sub"`
		Tenant            string          `json:"tid"`
		Object            string          `json:"oid"`
		AZP               string          `json:"azp"`
		AppID             string          `json:"appid"`
		Version           string          `json:"ver"`
		Name              string          `json:"name"`
		PreferredUsername string          `json:"preferred_username"`
		UPN               string          `json:"upn"`
		UniqueName        string          `json:"unique_name"`
		Email             string          `json:"email"`
		Scopes            string          `json:"scp"`
		Expires           json.Number     `json:"exp"`
	}
	if json.Unmarshal(raw, &w) != nil {
		return Claims{}, false
	}
	c := Claims{
		Audience: firstText(w.Audience), Issuer: w.Issuer, Subject: w.Subject, Tenant: w.Tenant, ObjectID: w.Object,
		Client: w.AZP, Version: w.Version, Name: w.Name, Scopes: strings.Fields(w.Scopes), raw: raw,
	}
	if c.Client == "" {
		c.Client = w.AppID
	}
	for _, name := range []string{w.PreferredUsername, w.UPN, w.UniqueName, w.Email} {
		if c.Username == "" {
			c.Username = name
		}
	}
	if exp, err := w.Expires.Float64(); err == nil && exp > 0 {
		c.Expires = time.Unix(int64(exp), 0).UTC()
	}
	return c, true
}

// firstText is a JSON text, or the first of a list of them.
func firstText(raw json.RawMessage) string {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one
	}
	var many []string
	if json.Unmarshal(raw, &many) == nil && len(many) > 0 {
		return many[0]
	}
	return ""
}

// Decode reads all claims into v, as [json.Unmarshal] does.
func (c Claims) Decode(v any) error {
	if err := json.Unmarshal(c.raw, v); err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	return nil
}

// Account is the user's account for display: the name, and the sign-in name; "" if the
// token has neither.
func (c Claims) Account() string {
	switch {
	case c.Name == "":
		return c.Username
	case c.Username == "":
		return c.Name
	default:
		return c.Name + " (" + c.Username + ")"
	}
}
