package tokensvc

import (
	"errors"
	"fmt"
	"time"
)

// UserConnection identifies a user's token.
type UserConnection struct {
	UserID     string // the user's MRI, "29:…"
	Connection string // OAuth connection setting of the bot
	ChannelID  string // base channel, "msteams"
}

// Token is a user's token from the Token Service.
type Token struct {
	ChannelID  string
	Connection string
	Token      Secret
	Expiration time.Time // zero when the service does not say
	Properties map[string]string
}

// State is sent base64-encoded in GetSignInResource's query. Without MsAppID the
// service returns no tokenExchangeResource [S 004].
type State struct {
	Connection     string
	ActivityID     string
	BotID          string
	ChannelID      string
	ConversationID string
	ServiceURL     string
	UserID         string
	MsAppID        string
}

// SignInResource has the parts of an OAuth card.
type SignInResource struct {
	SignInLink            Secret
	TokenExchangeResource *TokenExchangeResource // nil: no SSO
	TokenPostResource     *TokenPostResource
}

// TokenExchangeResource offers SSO; its ID comes back as value.id of
// signin/tokenExchange.
type TokenExchangeResource struct {
	ID         string `json:"id,omitempty"`
	URI        string `json:"uri,omitempty"`
	ProviderID string `json:"providerId,omitempty"`
}

// TokenPostResource is where a client may post a token; its URL is signed and
// lives about 60 s.
type TokenPostResource struct {
	SasURL Secret
}

// TokenStatus says whether the service has a token.
type TokenStatus struct {
	ChannelID   string
	Connection  string
	HasToken    bool
	DisplayName string // serviceProviderDisplayName
}

// ErrNoToken says that the service has no token for the user and connection
// (404, 204 or an empty body on GetToken).
var ErrNoToken = errors.New("no token")

// Error is a failed call: an answer without success, or no answer.
type Error struct {
	Op         string        // GetToken, Exchange …
	Status     int           // HTTP status; 0: no answer (network, deadline)
	Code       string        // error.code of the body, or of the HTTP client's error; "" if none
	RetryAfter time.Duration // of 429 and 503, or of the HTTP client's error; 0 if absent
	// Consent says that the service refused because consent is missing: its code says
	// so, or, with a 400, its message, which is not kept.
	Consent bool
	Err     error // the cause when Status is 0 or the body was unreadable
}

// Error names operation, status and code.
func (e *Error) Error() string {
	switch {
	case e.Status == 0 && e.Err != nil:
		return fmt.Sprintf("token service: %s: no answer: %v", e.Op, e.Err)
	case e.Code != "":
		return fmt.Sprintf("token service: %s: status %d, code %s", e.Op, e.Status, e.Code)
	case e.Err != nil:
		return fmt.Sprintf("token service: %s: status %d: %v", e.Op, e.Status, e.Err)
	default:
		return fmt.Sprintf("token service: %s: status %d", e.Op, e.Status)
	}
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
