package emulator

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// grantJWT is the grant type of the on-behalf-of flow.
const grantJWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// entraTenant is the tenant of the emulated users.
const entraTenant = "00000000-0000-4000-8000-00000000007e"

// userClaims are the claims of a user's token. The emulator does not check its
// signature, so the token has none that is valid.
type userClaims struct {
	Audience string `json:"aud"`
	Issuer   string `json:"iss"`
	Tenant   string `json:"tid"`
	Object   string `json:"oid"`
	Subject  string `json:"sub"`
	Name     string `json:"name"`
	Username string `json:"preferred_username"`
	Version  string `json:"ver"`
	Scopes   string `json:"scp,omitempty"`
	Client   string `json:"azp,omitempty"`
	Expires  int64  `json:"exp"`
}

func encodeSegment(v any) string {
	raw, _ := json.Marshal(v) // cannot fail: texts and numbers only
	return base64.RawURLEncoding.EncodeToString(raw)
}

// userJWT makes a user's token for an audience.
func (s *Server) userJWT(u User, audience, scopes, client string, expires time.Time) string {
	return strings.Join([]string{
		encodeSegment(jwtHeader{"RS256", "JWT", "emulated"}),
		encodeSegment(userClaims{
			Audience: audience, Issuer: "https://login.microsoftonline.com/" + entraTenant + "/v2.0", Tenant: entraTenant,
			Object: u.AADObjectID, Subject: u.AADObjectID, Name: u.Name, Username: u.Mail, Version: "2.0",
			Scopes: scopes, Client: client, Expires: expires.Unix(),
		}),
		s.ids.hex(16),
	}, ".")
}

// SSOToken makes the token that a Teams client gets from Entra by single sign-on and
// sends to the bot with signin/tokenExchange. The user is one of the configuration,
// or [DefaultUser] with this id.
func (s *Server) SSOToken(userID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.userJWT(s.user(userID), s.cfg.ClientID, "access_as_user", teamsWebClient, s.cfg.Now().Add(s.cfg.TokenLifetime))
}

// teamsWebClient is the app id of Teams on the web.
const teamsWebClient = "5e3ce6c0-2b1f-4285-8d4b-75ee78787346"

type behalfError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	Codes       []int  `json:"error_codes"`
	SubError    string `json:"suberror,omitempty"`
}

type behalfToken struct {
	oauthToken
	Scope string `json:"scope"`
}

// onBehalfOf handles the on-behalf-of grant: it exchanges a user's token for the
// bot's app for a token for the API of the scopes. It refuses with the codes of
// Entra.
func (s *Server) onBehalfOf(w http.ResponseWriter, form url.Values) {
	no := func(code int, why, sub string) {
		answerJSON(w, http.StatusBadRequest, behalfError{"invalid_grant", why, []int{code}, sub})
	}
	if form.Get("requested_token_use") != "on_behalf_of" {
		answerJSON(w, http.StatusBadRequest, oauthError{"invalid_request", "requested_token_use must be on_behalf_of"})
		return
	}
	scope := form.Get("scope")
	if scope == "" {
		answerJSON(w, http.StatusBadRequest, behalfError{"invalid_request", "AADSTS900144: scope is required", []int{900144}, ""})
		return
	}
	assertion := form.Get("assertion")
	claims, ok := tokensvc.ReadClaims(tokensvc.NewSecret(assertion))
	s.mu.Lock()
	defer s.mu.Unlock()
	client := cmp.Or(s.cfg.ClientID, form.Get("client_id"))
	switch {
	case !ok:
		no(50027, "AADSTS50027: JWT token is invalid or malformed.", "")
		return
	case !madeFor(claims.Audience, client):
		no(500131, "AADSTS500131: Assertion audience does not match the Client app presenting the assertion.", "")
		return
	case !s.cfg.Now().Before(claims.Expires):
		no(500133, "AADSTS500133: Assertion is not within its valid time range.", "")
		return
	case s.switches.NoConsent:
		no(65001, "AADSTS65001: The user or administrator has not consented to use the application.", "consent_required")
		return
	}
	from := s.issued[assertion]
	held := &heldToken{user: s.userOf(claims.ObjectID), expires: s.cfg.Now().Add(s.cfg.TokenLifetime).UTC().Truncate(time.Second)}
	held.token = s.userJWT(s.user(held.user), audienceOf(scope), scope, client, held.expires)
	if from != nil { // the new token becomes invalid with the sign-out, too
		from.others = append(from.others, held.token)
	}
	s.issued[held.token] = held
	answerJSON(w, statusOK, behalfToken{oauthToken{"Bearer", int(s.cfg.TokenLifetime / time.Second), held.token}, scope})
}

// madeFor reports whether an audience stands for an app: it is the app's client id,
// or an Application ID URI that ends with it.
func madeFor(audience, client string) bool {
	id := audience[strings.LastIndexByte(audience, '/')+1:]
	return client != "" && strings.EqualFold(strings.TrimPrefix(id, "botid-"), client)
}

// audienceOf is the API of a list of scopes: https://graph.microsoft.com for
// "https://graph.microsoft.com/User.Read", and for scopes without an API.
func audienceOf(scope string) string {
	first, _, _ := strings.Cut(scope, " ")
	if i := strings.LastIndexByte(first, '/'); i > 0 && strings.Contains(first, "://") {
		return first[:i]
	}
	return "https://graph.microsoft.com"
}

// userOf is the id of the user with an Entra object id.
func (s *Server) userOf(object string) string {
	for _, u := range s.cfg.Users {
		if strings.EqualFold(s.user(u.ID).AADObjectID, object) {
			return u.ID
		}
	}
	return DefaultUser().ID
}
