package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// OnBehalfOf exchanges a user's token for one with other scopes, as Entra's
// on-behalf-of flow does: *tokensvc.ClientCredentials does it, and so do the sources of
// transport/credentials except a bare managed identity. An error that matches
// ErrAudience of package tokensvc means that this token cannot be exchanged.
type OnBehalfOf interface {
	OnBehalfOf(ctx context.Context, assertion tokensvc.Secret, scopes []string) (tokensvc.Token, error)
}

// TokenOption changes one [Flow.Token].
type TokenOption func(*tokenOptions)

type tokenOptions struct{ scopes []string }

// WithScopes asks for a token with other scopes than the connection has: the
// connection's token is exchanged on behalf of the user ([Config.OnBehalfOf]). The
// result is kept in memory until it is about to expire, by user and scopes, and as
// long as the connection's own token is the same.
//
// Tokens that are made for another API, such as Graph, cannot be exchanged. The error
// then matches ErrAudience of package tokensvc and names that API. The connection's
// scope must be one of the bot's own app ("api://APP-ID/access_as_user").
func WithScopes(scopes ...string) TokenOption {
	return func(o *tokenOptions) { o.scopes = scopes }
}

// exchangedLife bounds how long an exchanged token is kept, whatever its
// expiration.
const exchangedLife = 24 * time.Hour

var errNoExchange = errors.New("there is nothing to exchange tokens with: Config.OnBehalfOf is not set")

// exchanged is the user's token for other scopes.
func (f *Flow) exchanged(ctx context.Context, turn *Turn, own tokensvc.Token, scopes []string) (tokensvc.Token, error) {
	e, uc := f.eng, userConnection(turn.key(f.conn.Name))
	fail := func(err error) (tokensvc.Token, error) {
		return tokensvc.Token{}, fmt.Errorf("token of %s for %s: %w", f.conn.Name, strings.Join(scopes, " "), err)
	}
	if e.behalf == nil {
		return fail(errNoExchange)
	}
	// The cache key includes the connection's token, so a new token is exchanged anew.
	digest := sha256.Sum256([]byte(own.Token.Reveal()))
	uc.Connection = strings.Join(append([]string{uc.Connection, hex.EncodeToString(digest[:])}, slices.Sorted(slices.Values(scopes))...), "\n")
	tok, drops, ok := e.exchanges.get(uc)
	if ok {
		return tok, nil
	}
	ctx, cancel := context.WithTimeout(ctx, turn.current().left(e.timeouts.Upstream, answerWithin-upstreamUntil))
	defer cancel()
	tok, err := e.behalf.OnBehalfOf(ctx, own.Token, scopes)
	switch {
	case errors.Is(err, tokensvc.ErrAudience):
		aud := "is no JSON Web Token"
		if claims, ok := own.Claims(); ok {
			aud = "was made for " + claims.Audience
		}
		return fail(fmt.Errorf("%w (it %s: give the connection a scope of the bot's own app)", err, aud))
	case err != nil:
		return fail(err)
	}
	tok.ChannelID, tok.Connection = uc.ChannelID, f.conn.Name
	e.exchanges.put(uc, tok, drops)
	return tok, nil
}
