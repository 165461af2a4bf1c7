package machine

import (
	"context"
	"encoding/json"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Messenger sends activities to a conversation; transport/teams has one for the Bot
// Connector. An error with the HTTP status of a clear answer has a method HTTPStatus()
// int. Without it, or with 0 or 5xx, the delivery is unknown (A8) and nothing is sent
// again, unless a method NotSent() bool reports that the message certainly was not
// sent.
type Messenger interface {
	// Send posts a message and returns the new activity's id ("" if the connector gave
	// none).
	Send(ctx context.Context, to store.Conversation, m Message) (activityID string, err error)
	// Update replaces an activity that was sent before.
	Update(ctx context.Context, to store.Conversation, activityID string, m Message) error
	// CreateConversation opens the 1:1 chat with to's user and returns its id.
	CreateConversation(ctx context.Context, to store.Conversation) (conversationID string, err error)
}

// Message is one outgoing message: a text, an OAuth card, or any activity.
type Message struct {
	ReplyTo string          // activity id; "" sends proactively
	Text    string          // plain text
	Card    *OAuthCard      // application/vnd.microsoft.card.oauth
	Raw     json.RawMessage // members of an activity object, for everything else

	Targeted bool // to its recipient alone, in a group chat or channel
}

// OAuthCard is the card that starts a sign-in (docs/protocol.md §4).
type OAuthCard struct {
	Text       string
	Connection string
	Button     string // its title
	Resource   tokensvc.SignInResource
}

// Redeemer is a [TokenService] of the bot's own ([Connection].Tokens) whose codes
// are spent in the store: in the transaction that completes the attempt, so that
// a code is used once or not at all.
type Redeemer interface {
	TokenService
	// Redeem checks a code without spending it. The marks spend it. An error that
	// matches ErrNoToken of package tokensvc means that the code is wrong, another
	// user's, used, or expired.
	Redeem(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, []store.Mark, error)
}

// TokenService is the part of the Token Service that the machine uses; *tokensvc.Client
// implements it.
type TokenService interface {
	GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error)
	GetSignInResource(ctx context.Context, s tokensvc.State) (tokensvc.SignInResource, error)
	GetTokenOrSignInResource(ctx context.Context, uc tokensvc.UserConnection, s tokensvc.State, code tokensvc.Secret) (*tokensvc.Token, *tokensvc.SignInResource, error)
	Exchange(ctx context.Context, uc tokensvc.UserConnection, ssoToken tokensvc.Secret) (tokensvc.Token, error)
	SignOut(ctx context.Context, uc tokensvc.UserConnection) error
	GetTokenStatus(ctx context.Context, userID, channelID string, include ...string) ([]tokensvc.TokenStatus, error)
}
