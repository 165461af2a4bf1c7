package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// SignInError says that a sign-in has ended without a token.
type SignInError struct {
	Attempt string
	Reason  store.Reason   // why it ended
	Failure *store.Failure // what went wrong last, nil for nothing
}

// Error names the reason, and the failure's code if there is one.
func (e *SignInError) Error() string {
	if e.Failure != nil && e.Failure.Code != "" {
		return fmt.Sprintf("the sign-in has ended: %s (%s)", e.Reason, e.Failure.Code)
	}
	return fmt.Sprintf("the sign-in has ended: %s", e.Reason)
}

// waitLook is how often Wait polls, in case the store's notification is lost.
const waitLook = 5 * time.Second

// Wait returns the user's token once the sign-in has ended: attempt is
// [SignInResult].Attempt. It works on any instance and across restarts. From
// a superseded attempt it goes on to the successor. If the sign-in ends without a
// token, the error is a [*SignInError]. If its token is gone again, the error is
// ErrNoToken of package tokensvc. ctx limits the wait; an attempt ends by itself after
// [Timeouts].Attempt.
func (f *Flow) Wait(ctx context.Context, attempt string) (tokensvc.Token, error) {
	e := f.eng
	c := e.background(store.Key{Connection: f.conn.Name})
	for id := attempt; ; {
		a, err := c.get(ctx, id)
		if err == nil {
			a, err = c.head(ctx, a)
		}
		if err != nil {
			return tokensvc.Token{}, fmt.Errorf("wait for the sign-in: %w", err)
		}
		switch a.State {
		case store.Complete:
			return e.getToken(ctx, userConnection(a.Key), tokensvc.Secret{})
		case store.Failed:
			return tokensvc.Token{}, &SignInError{Attempt: a.ID, Reason: a.Reason, Failure: a.Failure}
		default:
		}
		id = a.ID
		look, stop := context.WithTimeout(ctx, waitLook)
		_ = e.store.Changed(look, id, a.Version) // a hint: the attempt is read again
		stop()
		if err := ctx.Err(); err != nil {
			return tokensvc.Token{}, fmt.Errorf("wait for the sign-in: %w", err)
		}
	}
}
