package emulator

import (
	"crypto/subtle"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// botTokenLifetime is the lifetime of the bot's own token, in seconds, as in Entra.
const botTokenLifetime = 3599

type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

type oauthToken struct {
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"`
	AccessToken string `json:"access_token"`
}

// SetClientSecrets replaces the client secrets that the Entra endpoint accepts. A
// bot that rotates its secret has two for a while.
func (s *Server) SetClientSecrets(secrets ...tokensvc.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = nil
	for _, one := range secrets {
		s.secrets = append(s.secrets, one.Reveal())
	}
}

// DropBearers makes all tokens of the bot itself invalid, as if they had expired.
// That matters with [BearerIssued] only.
func (s *Server) DropBearers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bearers = newBounded[time.Time](remembered)
}

func (s *Server) takesSecret(given string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.secrets, func(secret string) bool {
		return subtle.ConstantTimeCompare([]byte(given), []byte(secret)) == 1
	})
}

// accessToken handles the client credentials grant (docs/protocol.md §2) and the
// on-behalf-of grant.
func (s *Server) accessToken(w http.ResponseWriter, in *incoming) {
	form, err := url.ParseQuery(string(in.body))
	if err != nil {
		answerJSON(w, http.StatusBadRequest, oauthError{"invalid_request", "the form cannot be read"})
		return
	}
	grant := form.Get("grant_type")
	if grant != "client_credentials" && grant != grantJWT {
		answerJSON(w, http.StatusBadRequest, oauthError{"unsupported_grant_type", "only client_credentials and on behalf of"})
		return
	}
	if id := form.Get("client_id"); id == "" || s.cfg.ClientID != "" && id != s.cfg.ClientID ||
		s.cfg.ClientSecret.Reveal() != "" && !s.takesSecret(form.Get("client_secret")) {
		answerJSON(w, http.StatusUnauthorized, oauthError{"invalid_client", "client id or secret is wrong"})
		return
	}
	if grant == grantJWT {
		s.onBehalfOf(w, form)
		return
	}
	token := "bot-token-" + s.ids.hex(16)
	s.mu.Lock()
	s.bearers.put(token, s.cfg.Now().Add(botTokenLifetime*time.Second))
	s.mu.Unlock()
	answerJSON(w, statusOK, oauthToken{"Bearer", botTokenLifetime, token})
}

// tenantMetadata is the end of the path of a tenant's OpenID metadata.
const tenantMetadata = "/v2.0/.well-known/openid-configuration"

// tenant answers with the OpenID metadata of a tenant, which has the address of its
// token endpoint. Azure's SDK asks for it before the first token, and only over TLS:
// a bot with a certificate or federated credentials needs a TLS listener, with a
// certificate that the bot trusts, in front of the emulator.
func (s *Server) tenant(w http.ResponseWriter, in *incoming) {
	scheme := "http://"
	if in.request.TLS != nil {
		scheme = "https://"
	}
	base := scheme + in.request.Host + in.request.URL.Path[:len(in.request.URL.Path)-len(tenantMetadata)]
	answerJSON(w, statusOK, map[string]string{
		"issuer": base + "/v2.0", "authorization_endpoint": base + "/oauth2/v2.0/authorize", "token_endpoint": base + "/oauth2/v2.0/token",
	})
}
