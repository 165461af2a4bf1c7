package emulator

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// postResourceLifetime is the lifetime of a SAS URL (docs/protocol.md §3).
const postResourceLifetime = 60 * time.Second

// link is a sign-in link that the server has issued.
type link struct{ state tokensvc.State }

func (l *link) userConnection() tokensvc.UserConnection {
	return tokensvc.UserConnection{UserID: l.state.UserID, Connection: l.state.Connection, ChannelID: l.state.ChannelID}
}

type resourceAnswer struct {
	SignInLink            string                          `json:"signInLink"`
	TokenExchangeResource *tokensvc.TokenExchangeResource `json:"tokenExchangeResource,omitempty"`
	TokenPostResource     postResource                    `json:"tokenPostResource"`
}

type postResource struct {
	SasURL string `json:"sasUrl"`
}

func (s *Server) getSignInResource(w http.ResponseWriter, in *incoming) {
	if answer := s.signInResource(w, in); answer != nil {
		answerJSON(w, statusOK, answer)
	}
}

// signInResource makes a sign-in link. If it cannot, it answers the request with an
// error and returns nil.
func (s *Server) signInResource(w http.ResponseWriter, in *incoming) *resourceAnswer {
	if in.state == nil || in.state.UserID == "" || in.state.Connection == "" {
		refuse(w, http.StatusBadRequest, "BadArgument", "state is missing or cannot be read")
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	setting := s.connection(in.state.Connection)
	if setting.Name == "" {
		refuse(w, http.StatusNotFound, "NotFound", "no such connection")
		return nil
	}
	id := s.ids.hex(16)
	s.links.put(id, &link{state: *in.state})
	expiry := strconv.FormatInt(s.cfg.Now().Add(postResourceLifetime).Unix(), 10)
	answer := &resourceAnswer{
		SignInLink: in.base + "/api/oauth/signin?signin=" + id,
		TokenPostResource: postResource{
			SasURL: in.base + "/api/sas/postToken?expiry=" + expiry + "&id=key2&state=" + id + "&hmac=" + s.sign(expiry, id),
		},
	}
	// Without MsAppId there is no SSO [S 004].
	if setting.SSO && in.state.MsAppID != "" {
		answer.TokenExchangeResource = &tokensvc.TokenExchangeResource{
			ID:         s.ids.uuid(),
			URI:        cmp.Or(setting.URI, "api://botid-"+in.state.MsAppID),
			ProviderID: cmp.Or(setting.ProviderID, entraProvider),
		}
	}
	return answer
}

func (s *Server) getTokenOrSignInResource(w http.ResponseWriter, in *incoming) {
	// The state names a connection too; that of the query counts.
	uc, ok := userConnection(w, in)
	if !ok {
		return
	}
	type both struct {
		TokenResponse  *tokenAnswer    `json:"tokenResponse,omitempty"`
		SignInResource *resourceAnswer `json:"signInResource,omitempty"`
	}
	if held := s.lookup(in, uc); held != nil {
		answerJSON(w, statusOK, both{TokenResponse: held.answer(in)})
		return
	}
	if answer := s.signInResource(w, in); answer != nil {
		answerJSON(w, statusOK, both{SignInResource: answer})
	}
}

func (s *Server) sign(expiry, id string) string {
	mac := hmac.New(sha256.New, s.hmacKey)
	mac.Write([]byte(expiry + "\n" + id))
	return hex.EncodeToString(mac.Sum(nil))
}

// postToken handles the SAS URL, to which a client that has a token posts it instead
// of signing the user in.
func (s *Server) postToken(w http.ResponseWriter, in *incoming) {
	expiry, id := in.query["expiry"], in.query["state"]
	until, err := strconv.ParseInt(expiry, 10, 64)
	if err != nil || !hmac.Equal([]byte(in.query["hmac"]), []byte(s.sign(expiry, id))) || s.cfg.Now().Unix() > until {
		refuse(w, http.StatusForbidden, "Forbidden", "the URL is not valid or has expired")
		return
	}
	l := s.link(id)
	if l == nil {
		refuse(w, http.StatusNotFound, "NotFound", "no such sign-in")
		return
	}
	if s.exchangeToken(w, l.userConnection(), in.body) != nil {
		w.WriteHeader(statusOK)
	}
}

func (s *Server) link(id string) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, _ := s.links.get(id)
	return l
}
