package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// CompleteHandler is told that the user is signed in. The token is empty when
// a redelivery found that it is gone by now.
type CompleteHandler func(ctx context.Context, turn *Turn, token tokensvc.Token) error

// FailureHandler is told that a try failed. The failure is nil when it
// happened on the server side; the card's button may still work.
type FailureHandler func(ctx context.Context, turn *Turn, failure *Failure) error

// Flow is one connection as the bot's own code sees it.
type Flow struct {
	eng  *Engine
	conn Connection

	mu         sync.RWMutex
	onComplete CompleteHandler
	onFailure  FailureHandler
}

// Name is the connection's name as registered.
func (f *Flow) Name() string { return f.conn.Name }

// OnSignInComplete sets the handler of completed sign-ins. An error or a panic
// in it leaves the user signed in and is tried again from the outbox.
func (f *Flow) OnSignInComplete(h CompleteHandler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onComplete = h
}

// OnSignInFailure sets the handler of failed tries.
func (f *Flow) OnSignInFailure(h FailureHandler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onFailure = h
}

func (f *Flow) handlers() (CompleteHandler, FailureHandler) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.onComplete, f.onFailure
}

// SignIn is [Turn.SignIn] for this connection.
func (f *Flow) SignIn(ctx context.Context, turn *Turn, opts ...SignInOption) (tokensvc.Token, error) {
	o := chosen(signInOptions{text: f.conn.CardText, button: f.conn.ButtonText}, opts)
	return f.eng.signIn(ctx, turn, f, o)
}

// Token is [Turn.Token] for this connection.
func (f *Flow) Token(ctx context.Context, turn *Turn) (tokensvc.Token, error) {
	if tok, ok := turn.fetched[f]; ok {
		return tok, nil
	}
	tok, err := f.eng.tokens.GetToken(ctx, tokensvc.UserConnection{
		UserID: turn.to.UserID, Connection: f.conn.Name, ChannelID: store.BaseChannel(turn.to.Channel),
	}, tokensvc.Secret{})
	if err != nil {
		return tokensvc.Token{}, fmt.Errorf("token of %s: %w", f.conn.Name, err)
	}
	return tok, nil
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

// ConnectionStatus is [Turn.ConnectionStatus].
func (f *Flow) ConnectionStatus(ctx context.Context, turn *Turn) ([]tokensvc.TokenStatus, error) {
	return turn.ConnectionStatus(ctx)
}
