package credentials

import (
	"context"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/signin-engine/signin-engine/machine"
)

// User returns a credential for clients of Azure's SDK or of Graph's. It gives
// the token that the turn's user has on the flow's connection. The scopes that a
// client asks for are ignored: the token has those of the connection. If the user
// is not signed in, the error matches ErrNoToken of package tokensvc.
func User(flow *machine.Flow, turn *machine.Turn) azcore.TokenCredential {
	return &user{flow: flow, turn: turn}
}

// UserOnBehalfOf is like [User], but exchanges the connection's token for one
// with the scopes that the client asks for; see [machine.WithScopes].
func UserOnBehalfOf(flow *machine.Flow, turn *machine.Turn) azcore.TokenCredential {
	return &user{flow: flow, turn: turn, exchange: true}
}

type user struct {
	flow     *machine.Flow
	turn     *machine.Turn
	exchange bool
}

// GetToken implements [azcore.TokenCredential].
func (u *user) GetToken(ctx context.Context, asked policy.TokenRequestOptions) (azcore.AccessToken, error) {
	var opts []machine.TokenOption
	if u.exchange {
		opts = append(opts, machine.WithScopes(asked.Scopes...))
	}
	tok, err := u.flow.Token(ctx, u.turn, opts...)
	if err != nil {
		return azcore.AccessToken{}, fmt.Errorf("user token: %w", err)
	}
	return azcore.AccessToken{Token: tok.Token.Reveal(), ExpiresOn: tok.Expiration}, nil
}
