// Package usertoken gives a user's token to the clients of other APIs, as an
// [oauth2.TokenSource] or as an [http.Client]. For clients of Azure's SDK,
// package transport/credentials has an azcore.TokenCredential.
//
// The engine is asked for the token each time a client needs it, so the token is
// always a valid one. If the user is not signed in, the error matches ErrNoToken
// of package tokensvc. The bot should then call SignIn.
package usertoken

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/oauth2"

	"github.com/signin-engine/signin-engine/machine"
)

// Source returns a source of the token that the turn's user has on the flow's
// connection. With [machine.WithScopes], that token is exchanged for one with
// other scopes. ctx bounds each call of Token.
func Source(ctx context.Context, flow *machine.Flow, turn *machine.Turn, opts ...machine.TokenOption) oauth2.TokenSource {
	return &source{ctx, flow, turn, opts}
}

type source struct {
	ctx  context.Context //nolint:containedctx // oauth2.TokenSource has none of its own
	flow *machine.Flow
	turn *machine.Turn
	opts []machine.TokenOption
}

// Token implements [oauth2.TokenSource].
func (s *source) Token() (*oauth2.Token, error) {
	tok, err := s.flow.Token(s.ctx, s.turn, s.opts...)
	if err != nil {
		return nil, fmt.Errorf("user token: %w", err)
	}
	return &oauth2.Token{AccessToken: tok.Token.Reveal(), TokenType: "Bearer", Expiry: tok.Expiration}, nil
}

// Client returns an HTTP client whose requests carry the user's token. An answer
// 401 drops the token from the engine's cache ([machine.Flow.TokenRejected]); the
// caller still gets the answer. ctx is used as in [Source]. As with
// [oauth2.NewClient], its value [oauth2.HTTPClient] is the client that makes the
// requests.
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

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.bearer.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		t.flow.TokenRejected(r.Context(), t.turn)
	}
	return resp, err
}
