package credentials

import (
	"context"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/signin-engine/signin-engine/machine"
)

// User gives the turn's user's token of a connection to the clients of Azure's SDK
// and of Graph's. The scopes that such a client asks for do not count: the
// connection's own are what the token has. Who is not signed in has no token: the
// error matches ErrNoToken of package tokensvc.
func User(flow *machine.Flow, turn *machine.Turn) azcore.TokenCredential {
	return &user{flow: flow, turn: turn}
}

// UserOnBehalfOf is [User] with the scopes that the client asks for: the
// connection's token is exchanged for them, see [machine.WithScopes].
func UserOnBehalfOf(flow *machine.Flow, turn *machine.Turn) azcore.TokenCredential {
	return &user{flow: flow, turn: turn, exchange: true}
}

type user struct {
	flow     *machine.Flow
	turn     *machine.Turn
	exchange bool
}

// GetToken is [azcore.TokenCredential].
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
