package tokensvc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Names of the operations, as in [Error.Op].
const (
	OpGetToken                 = "GetToken"
	OpGetSignInResource        = "GetSignInResource"
	OpExchange                 = "Exchange"
	OpSignOut                  = "SignOut"
	OpGetTokenStatus           = "GetTokenStatus"
	OpGetTokenOrSignInResource = "GetTokenOrSignInResource"
	OpGetAadTokens             = "GetAadTokens"
)

// Folders of the operations. The service compares userAPI+Ops without regard to
// case; they are written here as the published clients write them.
const (
	signInAPI = "/api/botsignin/"
	userAPI   = "/api/usertoken/"
	exchange  = "exchange"
)

var (
	errWithoutToken    = errors.New("answer without a token")
	errWithoutLink     = errors.New("answer without a sign-in link")
	errWithoutResource = errors.New("answer without a token or a sign-in resource")
)

// GetToken returns the token that the service holds for uc. A non-empty code
// is the verification code of a popup, which the service spends. The error
// matches [ErrNoToken] if there is no token: status 404 or 204, an empty body,
// or a 200 without a token.
func (c *Client) GetToken(ctx context.Context, uc UserConnection, code Secret) (Token, error) {
	query := userQuery(uc)
	if !code.Empty() {
		query += "&code=" + url.QueryEscape(code.Reveal())
	}
	answer, fail := c.call(ctx, OpGetToken, http.MethodGet, userAPI+OpGetToken, query, nil)
	switch {
	case fail != nil && fail.Status == http.StatusNotFound:
		fail.Err = ErrNoToken
		return Token{}, fail
	case fail != nil:
		return Token{}, fail
	case blank(answer):
		return Token{}, &Error{Op: OpGetToken, Status: http.StatusNoContent, Err: ErrNoToken}
	}
	return readToken(OpGetToken, answer, uc, ErrNoToken)
}

// GetSignInResource returns the parts of an OAuth card.
func (c *Client) GetSignInResource(ctx context.Context, state State) (SignInResource, error) {
	query := "state=" + url.QueryEscape(state.Encode())
	answer, fail := c.call(ctx, OpGetSignInResource, http.MethodGet, signInAPI+OpGetSignInResource, query, nil)
	if fail != nil {
		return SignInResource{}, fail
	}
	var wire signInResourceJSON
	if !blank(answer) && json.Unmarshal(answer, &wire) != nil {
		return SignInResource{}, unreadable(OpGetSignInResource, errMalformed)
	}
	if wire.SignInLink.Empty() {
		return SignInResource{}, unreadable(OpGetSignInResource, errWithoutLink)
	}
	return wire.resource(), nil
}

// Exchange sends the client's SSO token to the service, which exchanges it for a token
// of uc and keeps that. A 200 without a token is an error with status 200.
func (c *Client) Exchange(ctx context.Context, uc UserConnection, ssoToken Secret) (Token, error) {
	body, err := json.Marshal(struct {
		Token string `json:"token"`
	}{ssoToken.Reveal()})
	if err != nil {
		return Token{}, &Error{Op: OpExchange, Err: err}
	}
	answer, fail := c.call(ctx, OpExchange, http.MethodPost, userAPI+exchange, userQuery(uc), body)
	if fail != nil {
		return Token{}, fail
	}
	if blank(answer) {
		return Token{}, unreadable(OpExchange, errWithoutToken)
	}
	return readToken(OpExchange, answer, uc, errWithoutToken)
}

// SignOut makes the service delete the user's token of the connection. An empty
// Connection means all connections, an empty ChannelID all channels.
func (c *Client) SignOut(ctx context.Context, uc UserConnection) error {
	query := "userid=" + url.QueryEscape(uc.UserID)
	if uc.Connection != "" {
		query += "&connectionName=" + url.QueryEscape(uc.Connection)
	}
	if uc.ChannelID != "" {
		query += "&channelId=" + url.QueryEscape(uc.ChannelID)
	}
	if _, fail := c.call(ctx, OpSignOut, http.MethodDelete, userAPI+OpSignOut, query, nil); fail != nil {
		return fail
	}
	return nil
}

// GetTokenStatus says for every connection of the bot, or for those in include, whether
// the service has a token of the user.
func (c *Client) GetTokenStatus(ctx context.Context, userID, channelID string, include ...string) ([]TokenStatus, error) {
	query := "userid=" + url.QueryEscape(userID) + "&channelId=" + url.QueryEscape(channelID)
	if len(include) > 0 {
		query += "&include=" + url.QueryEscape(strings.Join(include, ","))
	}
	answer, fail := c.call(ctx, OpGetTokenStatus, http.MethodGet, userAPI+OpGetTokenStatus, query, nil)
	if fail != nil {
		return nil, fail
	}
	var wire []tokenStatusJSON
	if !blank(answer) && json.Unmarshal(answer, &wire) != nil {
		return nil, unreadable(OpGetTokenStatus, errMalformed)
	}
	statuses := make([]TokenStatus, len(wire))
	for i, w := range wire {
		statuses[i] = TokenStatus{
			ChannelID:   w.ChannelID,
			Connection:  w.ConnectionName,
			HasToken:    w.HasToken,
			DisplayName: w.ServiceProviderDisplayName,
		}
	}
	return statuses, nil
}

// GetTokenOrSignInResource is GetToken and, if there is no token, GetSignInResource, in
// one round trip. Without an error exactly one of the results is not nil.
func (c *Client) GetTokenOrSignInResource(ctx context.Context, uc UserConnection, state State, code Secret) (*Token, *SignInResource, error) {
	query := userQuery(uc) + "&state=" + url.QueryEscape(state.Encode())
	if !code.Empty() {
		query += "&code=" + url.QueryEscape(code.Reveal())
	}
	answer, fail := c.call(ctx, OpGetTokenOrSignInResource, http.MethodGet, userAPI+OpGetTokenOrSignInResource, query, nil)
	if fail != nil {
		return nil, nil, fail
	}
	var wire struct {
		TokenResponse  *tokenJSON          `json:"tokenResponse"`
		SignInResource *signInResourceJSON `json:"signInResource"`
	}
	if !blank(answer) && json.Unmarshal(answer, &wire) != nil {
		return nil, nil, unreadable(OpGetTokenOrSignInResource, errMalformed)
	}
	if wire.TokenResponse != nil && !wire.TokenResponse.Token.Empty() {
		tok := wire.TokenResponse.token(uc)
		return &tok, nil, nil
	}
	if wire.SignInResource != nil && !wire.SignInResource.SignInLink.Empty() {
		res := wire.SignInResource.resource()
		return nil, &res, nil
	}
	return nil, nil, unreadable(OpGetTokenOrSignInResource, errWithoutResource)
}

// GetAadTokens returns, by resource URL, the tokens that the service got for
// these resources on the Entra connection uc. A resource without a token is
// left out.
func (c *Client) GetAadTokens(ctx context.Context, uc UserConnection, resourceURLs []string) (map[string]Token, error) {
	body, err := json.Marshal(struct {
		ResourceURLs []string `json:"resourceUrls"`
	}{resourceURLs})
	if err != nil {
		return nil, &Error{Op: OpGetAadTokens, Err: err}
	}
	answer, fail := c.call(ctx, OpGetAadTokens, http.MethodPost, userAPI+OpGetAadTokens, userQuery(uc), body)
	if fail != nil {
		return nil, fail
	}
	var wire map[string]*tokenJSON
	if !blank(answer) && json.Unmarshal(answer, &wire) != nil {
		return nil, unreadable(OpGetAadTokens, errMalformed)
	}
	tokens := make(map[string]Token, len(wire))
	for resource, w := range wire {
		if w != nil && !w.Token.Empty() {
			tokens[resource] = w.token(uc)
		}
	}
	return tokens, nil
}

func userQuery(uc UserConnection) string {
	return "userid=" + url.QueryEscape(uc.UserID) +
		"&connectionName=" + url.QueryEscape(uc.Connection) +
		"&channelId=" + url.QueryEscape(uc.ChannelID)
}

func readToken(op string, answer []byte, uc UserConnection, without error) (Token, error) {
	var wire tokenJSON
	if json.Unmarshal(answer, &wire) != nil {
		return Token{}, unreadable(op, errMalformed)
	}
	if wire.Token.Empty() {
		return Token{}, unreadable(op, without)
	}
	return wire.token(uc), nil
}

// blank: nothing, white space, or null.
func blank(answer []byte) bool {
	trimmed := bytes.TrimSpace(answer)
	return len(trimmed) == 0 || string(trimmed) == "null"
}

// unreadable is a success without its content. The decoder's own words are
// left out: they quote the body.
func unreadable(op string, why error) *Error {
	return &Error{Op: op, Status: http.StatusOK, Err: why}
}
