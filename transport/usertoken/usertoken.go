// Package usertoken hands a user's token to the clients of other APIs, as an
// [oauth2.TokenSource] or as an [http.Client]. For clients of Azure's SDK package
// transport/credentials has an azcore.TokenCredential.
//
// The token is asked for whenever the client wants one, so it is the one that is
// good now. Who is not signed in has none: the error matches ErrNoToken of package
// tokensvc, and the bot's code calls SignIn.
package usertoken

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/oauth2"

	"github.com/signin-engine/signin-engine/machine"
)

// Source gives the token that the turn's user has on a connection, or with
// [machine.WithScopes] one that was exchanged for it. ctx bounds each call of
// Token.
func Source(ctx context.Context, flow *machine.Flow, turn *machine.Turn, opts ...machine.TokenOption) oauth2.TokenSource {
	return &source{ctx, flow, turn, opts}
}

type source struct {
	ctx  context.Context //nolint:containedctx // oauth2.TokenSource has none of its own
	flow *machine.Flow
	turn *machine.Turn
	opts []machine.TokenOption
}

// Token is [oauth2.TokenSource].
func (s *source) Token() (*oauth2.Token, error) {
	tok, err := s.flow.Token(s.ctx, s.turn, s.opts...)
	if err != nil {
		return nil, fmt.Errorf("user token: %w", err)
	}
	return &oauth2.Token{AccessToken: tok.Token.Reveal(), TokenType: "Bearer", Expiry: tok.Expiration}, nil
}

// Client is an HTTP client whose requests bear the user's token. An answer 401
// drops the token from the engine's cache ([machine.Flow.TokenRejected]); the
// answer is the caller's all the same. ctx is that of [Source], and as with
// [oauth2.NewClient] its value [oauth2.HTTPClient] is the client beneath.
func Client(ctx context.Context, flow *machine.Flow, turn *machine.Turn, opts ...machine.TokenOption) *http.Client {
	own := http.DefaultClient
	if c, ok := ctx.Value(oauth2.HTTPClient).(*http.Client); ok {
		own = c
	}
	client := *own
	client.Transport = &transport{
		bearer: &oauth2.Transport{Base: own.Transport, Source: Source(ctx, flow, turn, opts...)},
		flow:   flow, turn: turn,
	}
	return &client
}

type transport struct {
	bearer *oauth2.Transport
	flow   *machine.Flow
	turn   *machine.Turn
}

// RoundTrip is [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.bearer.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		t.flow.TokenRejected(r.Context(), t.turn)
	}
	return resp, err
}
