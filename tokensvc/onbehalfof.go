package tokensvc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// OpOnBehalfOf is [Error.Op] if a user's token could not be exchanged for one with
// other scopes.
const OpOnBehalfOf = "OnBehalfOf"

// ErrAudience says that a user's token cannot be exchanged for other scopes: it was not
// made for this app, or is no token of Entra.
var ErrAudience = errors.New("the token cannot be exchanged: it was not made for this app")

// OnBehalfOf exchanges a user's token for one with other scopes: the OAuth 2.0
// on-behalf-of flow of Entra, at the token's own tenant. Its error matches
// [ErrAudience], or is an [*Error] with the Op [OpOnBehalfOf] and Entra's own code
// ("AADSTS65001"). Consent says that the user has not consented to the scopes.
func (c *ClientCredentials) OnBehalfOf(ctx context.Context, assertion Secret, scopes []string) (Token, error) {
	tenant, err := AssertionTenant(assertion)
	if err != nil {
		return Token{}, err
	}
	secret, err := c.secret()
	if err != nil {
		return Token{}, &Error{Op: OpOnBehalfOf, Err: fmt.Errorf("client secret: %w", err)}
	}
	form := maps.Clone(c.form)
	form.Set("client_secret", secret.Reveal())
	form.Set("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
	form.Set("requested_token_use", "on_behalf_of")
	form.Set("assertion", assertion.Reveal())
	form.Set("scope", strings.Join(scopes, " "))
	answer, fail := c.post(ctx, tenant, form)
	if fail != nil {
		return Token{}, fail
	}
	token, expires, err := readAccessToken(answer, OpOnBehalfOf)
	return Token{Token: token, Expiration: expires}, err
}

// post is one request to the token endpoint of a tenant.
func (c *ClientCredentials) post(ctx context.Context, tenant string, form url.Values) ([]byte, *Error) {
	ctx, cancel := bounded(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint(tenant), nil)
	if err != nil {
		return nil, &Error{Op: OpOnBehalfOf, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	setBody(req, []byte(form.Encode()))
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, noAnswer(OpOnBehalfOf, err)
	}
	answer, err := readBody(resp)
	switch {
	case resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusMultipleChoices:
		return nil, NewOnBehalfOfError(resp.StatusCode, resp.Header, answer)
	case err != nil:
		return nil, &Error{Op: OpOnBehalfOf, Err: withoutURL(err)}
	}
	return answer, nil
}

// AssertionTenant is the tenant at which a user's token can be exchanged. Its error
// matches [ErrAudience]: the token is not from Entra.
func AssertionTenant(assertion Secret) (string, error) {
	claims, ok := ReadClaims(assertion)
	if !ok || !IsTenantID(claims.Tenant) {
		return "", fmt.Errorf("on behalf of: %w: it names no tenant of Entra", ErrAudience)
	}
	return claims.Tenant, nil
}

// IsTenantID reports whether s has the form of a tenant's id, a GUID. A domain also
// names a tenant, but is in no token.
func IsTenantID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		default:
			return false
		}
	}
	return true
}

// Entra's codes for a token that was made for another app (a token for Graph fails
// on its signature, which only Graph can check), and for want of consent.
const (
	codeAudience   = 500131
	codeSignature  = 50013
	codeNoIDTokens = 240002
	codeConsent    = 65001
)

// NewOnBehalfOfFailure is the error of an exchange without an answer, for other
// implementations of credentials.
func NewOnBehalfOfFailure(err error) *Error { return noAnswer(OpOnBehalfOf, err) }

// NewOnBehalfOfError is the error of an exchange whose answer is no success, for other
// implementations of credentials. Of the body it keeps only Entra's code.
func NewOnBehalfOfError(status int, header http.Header, body []byte) *Error {
	e := &Error{
		Op: OpOnBehalfOf, Status: status, Code: errorCode(body), RetryAfter: retryAfter(header.Get("Retry-After"), time.Now()),
	}
	var answer struct {
		Codes []int64 `json:"error_codes"`
	}
	if json.Unmarshal(body, &answer) != nil || len(answer.Codes) == 0 {
		return e
	}
	e.Code = "AADSTS" + strconv.FormatInt(answer.Codes[0], 10)
	switch answer.Codes[0] {
	case codeAudience, codeSignature, codeNoIDTokens:
		e.Err = ErrAudience
	case codeConsent:
		e.Consent = true
	}
	return e
}
