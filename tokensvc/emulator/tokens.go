package emulator

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// heldToken is a user's token that the service holds: at most one for each user,
// connection and channel.
type heldToken struct {
	user, connection, channel string
	token                     string
	others                    []string // tokens that end with it: of GetAadTokens, on behalf of, and those it replaced
	expires                   time.Time
}

// fits reports whether the token is of a connection and a channel. An empty
// connection or channel fits every token.
func (t *heldToken) fits(connection, channel string) bool {
	return (connection == "" || strings.EqualFold(t.connection, connection)) && (channel == "" || t.channel == channel)
}

// code is a verification code that the server has issued.
type code struct {
	uc      tokensvc.UserConnection
	expires time.Time
	spent   bool
}

type tokenAnswer struct {
	ChannelID      string            `json:"channelId"`
	ConnectionName string            `json:"connectionName"`
	Token          string            `json:"token"`
	Expiration     time.Time         `json:"expiration"`
	Properties     map[string]string `json:"properties"`
}

func (t *heldToken) answer(in *incoming) *tokenAnswer {
	a := &tokenAnswer{
		ChannelID: t.channel, ConnectionName: t.connection, Token: t.token,
		Expiration: t.expires, Properties: map[string]string{},
	}
	if !in.expiration.IsZero() {
		a.Expiration = in.expiration
	}
	return a
}

// replacedTokens bounds how many replaced tokens of a user stay valid.
const replacedTokens = 32

// store makes a new token and holds it. A token that it replaces is no longer
// returned, but stays valid until it expires or the user signs out, as with a real
// provider. s.mu is held.
func (s *Server) store(uc tokensvc.UserConnection) *heldToken {
	held := &heldToken{
		user: uc.UserID, connection: s.connection(uc.Connection).Name, channel: uc.ChannelID,
		token: "user-token-" + s.ids.hex(16), expires: s.cfg.Now().Add(s.cfg.TokenLifetime).UTC().Truncate(time.Second),
	}
	if audience := s.connection(uc.Connection).Audience; audience != "" {
		held.token = s.userJWT(s.user(uc.UserID), audience, "", s.cfg.ClientID, held.expires)
	}
	kept := slices.DeleteFunc(s.tokens[uc.UserID], func(t *heldToken) bool {
		replaced := t.fits(uc.Connection, uc.ChannelID)
		if replaced {
			held.others = append(append(held.others, t.others...), t.token)
		}
		return replaced
	})
	if surplus := len(held.others) - replacedTokens; surplus > 0 {
		for _, token := range held.others[:surplus] {
			delete(s.issued, token)
		}
		held.others = slices.Clone(held.others[surplus:])
	}
	s.tokens[uc.UserID] = append(kept, held)
	s.issued[held.token] = held
	return held
}

// held returns the token that the service holds, or nil if there is none or it has
// expired. s.mu is held.
func (s *Server) held(uc tokensvc.UserConnection) *heldToken {
	for _, t := range s.tokens[uc.UserID] {
		if t.fits(uc.Connection, uc.ChannelID) && s.cfg.Now().Before(t.expires) {
			return t
		}
	}
	return nil
}

// forget drops every token that fits, and the tokens that end with it. s.mu is held.
func (s *Server) forget(uc tokensvc.UserConnection) {
	kept := slices.DeleteFunc(s.tokens[uc.UserID], func(t *heldToken) bool {
		gone := t.fits(uc.Connection, uc.ChannelID)
		if gone {
			delete(s.issued, t.token)
			for _, token := range t.others {
				delete(s.issued, token)
			}
		}
		return gone
	})
	if len(kept) == 0 {
		delete(s.tokens, uc.UserID)
		return
	}
	s.tokens[uc.UserID] = kept
}

// connection returns the connection setting with a name, or the zero Connection if
// there is none. If the configuration has no connections, every name is one.
func (s *Server) connection(name string) Connection {
	for _, c := range s.cfg.Connections {
		if strings.EqualFold(c.Name, name) {
			c.DisplayName = cmp.Or(c.DisplayName, c.Name)
			return c
		}
	}
	if len(s.cfg.Connections) == 0 {
		return Connection{Name: name, DisplayName: name}
	}
	return Connection{}
}

// PutToken makes the service hold a token as if the user had signed in, and returns
// the token.
func (s *Server) PutToken(uc tokensvc.UserConnection) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store(uc).token
}

// HasToken reports whether the service holds a token that has not expired.
func (s *Server) HasToken(uc tokensvc.UserConnection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held(uc) != nil
}

// DropToken makes the service forget a user's tokens. An empty Connection or
// ChannelID stands for all of them.
func (s *Server) DropToken(uc tokensvc.UserConnection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(uc)
}

// IssueCode makes a verification code, as the sign-in page does.
func (s *Server) IssueCode(uc tokensvc.UserConnection) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issueCode(uc)
}

func (s *Server) issueCode(uc tokensvc.UserConnection) string {
	digits := s.ids.code()
	for {
		c, taken := s.codes.get(digits)
		if !taken || c.spent || !s.cfg.Now().Before(c.expires) {
			break
		}
		digits = s.ids.code()
	}
	s.codes.put(digits, &code{uc: uc, expires: s.cfg.Now().Add(s.cfg.CodeLifetime)})
	return digits
}

// redeem spends a code and returns the new token. It returns nil if the code is not
// valid for the user and the connection; see also [Switches]. s.mu is held.
func (s *Server) redeem(uc tokensvc.UserConnection, digits string) *heldToken {
	c, ok := s.codes.get(digits)
	if ok && !c.spent && c.uc.UserID == uc.UserID && s.cfg.Now().Before(c.expires) {
		if strings.EqualFold(c.uc.Connection, uc.Connection) {
			c.spent = true
			return s.store(tokensvc.UserConnection{
				UserID: uc.UserID, Connection: uc.Connection, ChannelID: cmp.Or(uc.ChannelID, c.uc.ChannelID),
			})
		}
		c.spent = s.switches.WrongConnectionSpendsCode
	}
	if s.switches.WrongCodeReturnsStored {
		return s.held(uc)
	}
	return nil
}

// lookup carries a GetToken out, with or without a code.
func (s *Server) lookup(in *incoming, uc tokensvc.UserConnection) *heldToken {
	s.mu.Lock()
	defer s.mu.Unlock()
	if digits := in.query["code"]; digits != "" {
		return s.redeem(uc, digits)
	}
	return s.held(uc)
}

// userConnection reads the query. If a member is missing, it answers the request with
// 400 and returns false.
func userConnection(w http.ResponseWriter, in *incoming) (tokensvc.UserConnection, bool) {
	uc := tokensvc.UserConnection{
		UserID: in.query["userid"], Connection: in.query["connectionname"], ChannelID: in.query["channelid"],
	}
	switch {
	case uc.UserID == "":
		refuse(w, http.StatusBadRequest, "BadArgument", "userId is required")
	case uc.Connection == "":
		refuse(w, http.StatusBadRequest, "BadArgument", "connectionName is required")
	default:
		return uc, true
	}
	return uc, false
}

// noToken answers 404. Its body is empty, because one published client takes any JSON
// for a token.
func noToken(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }

func (s *Server) getToken(w http.ResponseWriter, in *incoming) {
	uc, ok := userConnection(w, in)
	if !ok {
		return
	}
	if held := s.lookup(in, uc); held != nil {
		answerJSON(w, statusOK, held.answer(in))
		return
	}
	noToken(w)
}

func (s *Server) exchange(w http.ResponseWriter, in *incoming) {
	uc, ok := userConnection(w, in)
	if !ok {
		return
	}
	if held := s.exchangeToken(w, uc, in.body); held != nil {
		answerJSON(w, statusOK, held.answer(in))
	}
}

// exchangeToken carries a token exchange out. If it fails, it answers the request
// with an error and returns nil.
func (s *Server) exchangeToken(w http.ResponseWriter, uc tokensvc.UserConnection, body []byte) *heldToken {
	sso, ok := exchangeRequest(body)
	if !ok {
		refuse(w, http.StatusBadRequest, "BadArgument", `the body must be {"token":"…"} or {"uri":"…"}`)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	setting := s.connection(uc.Connection)
	if setting.Name == "" {
		refuse(w, http.StatusNotFound, "NotFound", "no such connection")
		return nil
	}
	if !setting.SSO && len(s.cfg.Connections) > 0 {
		refuse(w, http.StatusBadRequest, "BadRequest", "the connection has no token exchange URL")
		return nil
	}
	switch status := s.switches.exchangeStatus(uc.Connection, sso); status {
	case statusOK:
		return s.store(uc)
	case http.StatusPreconditionFailed, http.StatusBadRequest:
		refuse(w, status, "ConsentRequired", "the token cannot be exchanged")
	default:
		refuse(w, status, strings.ReplaceAll(http.StatusText(status), " ", ""), "the token cannot be exchanged")
	}
	return nil
}

// exchangeRequest reads the body of a token exchange: an object with the one member
// token or uri.
func exchangeRequest(body []byte) (string, bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil || len(members) != 1 {
		return "", false
	}
	for name, raw := range members {
		var value string
		if (name == "token" || name == "uri") && json.Unmarshal(raw, &value) == nil && value != "" {
			return value, true
		}
	}
	return "", false
}

func (s *Server) signOut(w http.ResponseWriter, in *incoming) {
	user := in.query["userid"]
	if user == "" {
		refuse(w, http.StatusBadRequest, "BadArgument", "userId is required")
		return
	}
	s.DropToken(tokensvc.UserConnection{
		UserID: user, Connection: in.query["connectionname"], ChannelID: in.query["channelid"],
	})
	w.WriteHeader(statusOK)
}

type statusAnswer struct {
	ChannelID                  string `json:"channelId"`
	ConnectionName             string `json:"connectionName"`
	HasToken                   bool   `json:"hasToken"`
	ServiceProviderDisplayName string `json:"serviceProviderDisplayName"`
}

func (s *Server) getTokenStatus(w http.ResponseWriter, in *incoming) {
	user, channel := in.query["userid"], in.query["channelid"]
	if user == "" {
		refuse(w, http.StatusBadRequest, "BadArgument", "userId is required")
		return
	}
	include := cmp.Or(in.query["include"], in.query["includefilter"])
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := []statusAnswer{}
	for _, c := range s.connectionsOf(user) {
		if include != "" && !listed(include, c.Name) {
			continue
		}
		has := s.held(tokensvc.UserConnection{UserID: user, Connection: c.Name, ChannelID: channel}) != nil
		answer = append(answer, statusAnswer{channel, c.Name, has, c.DisplayName})
	}
	answerJSON(w, statusOK, answer)
}

// connectionsOf returns the connection settings. If the configuration has none, it
// returns the connections for which the user has a token.
func (s *Server) connectionsOf(user string) []Connection {
	var all []Connection
	for _, c := range s.cfg.Connections {
		all = append(all, s.connection(c.Name))
	}
	if len(s.cfg.Connections) > 0 {
		return all
	}
	for _, t := range s.tokens[user] {
		if !slices.ContainsFunc(all, func(c Connection) bool { return c.Name == t.connection }) {
			all = append(all, s.connection(t.connection))
		}
	}
	return all
}

func listed(list, name string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.TrimSpace(item), name) {
			return true
		}
	}
	return false
}

func (s *Server) getAadTokens(w http.ResponseWriter, in *incoming) {
	uc, ok := userConnection(w, in)
	if !ok {
		return
	}
	var asked struct {
		ResourceURLs []string `json:"resourceUrls"`
	}
	if json.Unmarshal(in.body, &asked) != nil || len(asked.ResourceURLs) == 0 {
		refuse(w, http.StatusBadRequest, "BadArgument", "resourceUrls is required")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held(uc)
	if held == nil {
		noToken(w)
		return
	}
	answer := make(map[string]*tokenAnswer, len(asked.ResourceURLs))
	for _, resource := range asked.ResourceURLs {
		a := held.answer(in)
		a.Token = "aad-token-" + s.ids.hex(16)
		held.others = append(held.others, a.Token)
		s.issued[a.Token] = held
		answer[resource] = a
	}
	answerJSON(w, statusOK, answer)
}
