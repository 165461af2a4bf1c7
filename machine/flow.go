package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// Flow is one connection as the bot's own code sees it.
type Flow struct {
	eng  *Engine
	conn Connection

	handlers handlers
}

// Name is the connection's name as registered.
func (f *Flow) Name() string { return f.conn.Name }

// OnSignInComplete adds a handler for completed sign-ins. After an error or a panic the
// user is still signed in, and the outbox calls all handlers of this callback again.
func (f *Flow) OnSignInComplete(h CompleteHandler) { f.handlers.complete.add(h) }

// OnSignInFailure adds a handler for failed tries.
func (f *Flow) OnSignInFailure(h FailureHandler) { f.handlers.failure.add(h) }

// SignIn is [Turn.SignIn] for this connection.
func (f *Flow) SignIn(ctx context.Context, turn *Turn, opts ...SignInOption) (SignInResult, error) {
	o := chosen(signInOptions{text: f.conn.CardText, button: f.conn.ButtonText}, opts)
	return f.eng.signIn(ctx, turn, f, o)
}

// Token is [Turn.Token] for this connection.
func (f *Flow) Token(ctx context.Context, turn *Turn, opts ...TokenOption) (tokensvc.Token, error) {
	tok, ok := turn.fetched[f]
	if !ok {
		var err error
		if tok, err = f.eng.userToken(ctx, userConnection(turn.key(f.conn.Name))); err != nil {
			return tokensvc.Token{}, fmt.Errorf("token of %s: %w", f.conn.Name, err)
		}
	}
	if len(opts) == 0 {
		return tok, nil
	}
	var o tokenOptions
	for _, set := range opts {
		set(&o)
	}
	if len(o.scopes) == 0 {
		return tok, nil
	}
	return f.exchanged(ctx, turn, tok, o.scopes)
}

// SignedIn is [Turn.SignedIn] for this connection.
func (f *Flow) SignedIn(ctx context.Context, turn *Turn) (bool, error) {
	_, err := f.Token(ctx, turn)
	if errors.Is(err, tokensvc.ErrNoToken) {
		return false, nil
	}
	return err == nil, err
}

// SignOut is [Turn.SignOut] for this connection.
func (f *Flow) SignOut(ctx context.Context, turn *Turn) error {
	delete(turn.fetched, f)
	return f.eng.signOut(ctx, turn, f)
}

// TokenRejected is [Turn.TokenRejected] for this connection.
func (f *Flow) TokenRejected(ctx context.Context, turn *Turn) {
	delete(turn.fetched, f)
	f.eng.forgetTokens(ctx, turn.key(f.conn.Name).UserKey())
}

// ConnectionStatus is [Turn.ConnectionStatus].
func (f *Flow) ConnectionStatus(ctx context.Context, turn *Turn) ([]tokensvc.TokenStatus, error) {
	return turn.ConnectionStatus(ctx)
}
