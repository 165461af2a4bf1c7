package emulator

import (
	"crypto/subtle"
	"net/http"
	"net/url"
	"time"
)

// botTokenLifetime is what Entra says, in seconds.
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

// accessToken is the client credentials grant (docs/protocol.md §2).
func (s *Server) accessToken(w http.ResponseWriter, in *incoming) {
	form, err := url.ParseQuery(string(in.body))
	if err != nil {
		answerJSON(w, http.StatusBadRequest, oauthError{"invalid_request", "the form cannot be read"})
		return
	}
	if form.Get("grant_type") != "client_credentials" {
		answerJSON(w, http.StatusBadRequest, oauthError{"unsupported_grant_type", "only client_credentials"})
		return
	}
	secret := s.cfg.ClientSecret.Reveal()
	if id := form.Get("client_id"); id == "" || s.cfg.ClientID != "" && id != s.cfg.ClientID ||
		secret != "" && subtle.ConstantTimeCompare([]byte(form.Get("client_secret")), []byte(secret)) != 1 {
		answerJSON(w, http.StatusUnauthorized, oauthError{"invalid_client", "client id or secret is wrong"})
		return
	}
	token := "bot-token-" + s.ids.hex(16)
	s.mu.Lock()
	s.bearers.put(token, s.cfg.Now().Add(botTokenLifetime*time.Second))
	s.mu.Unlock()
	answerJSON(w, statusOK, oauthToken{"Bearer", botTokenLifetime, token})
}
