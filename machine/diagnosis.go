package machine

import (
	"context"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// The two clients that Teams asks for SSO tokens with: web, and desktop and
// mobile (https://learn.microsoft.com/microsoftteams/platform/bots/how-to/authentication/bot-sso-register-aad).
const (
	teamsWebClient    = "5e3ce6c0-2b1f-4285-8d4b-75ee78787346"
	teamsNativeClient = "1fec8e78-bce4-4aaf-ab1b-5451cc387264"
)

// diagnose describes the SSO token of a refused exchange
// (docs/state-machine.md §9). Nothing of the token itself is kept.
func diagnose(token tokensvc.Secret, a *store.Attempt, now time.Time) store.Diagnosis {
	c, ok := tokensvc.ReadClaims(token) // the signature is not checked: the Token Service decides
	if !ok || a == nil {
		return store.Diagnosis{}
	}
	d := store.Diagnosis{
		Version: verdict(c.Version != "", c.Version == "2.0"),
		Tenant:  same(c.Tenant, a.Conversation.Tenant),
		User:    same(c.ObjectID, a.Conversation.UserAAD),
		Client:  verdict(c.Client != "", strings.EqualFold(c.Client, teamsWebClient) || strings.EqualFold(c.Client, teamsNativeClient)),
	}
	if uri := a.ResourceURI; uri != "" {
		// A v2.0 token names the client id that ends the URI.
		id := uri[strings.LastIndexByte(uri, '/')+1:]
		id = strings.TrimPrefix(id, "botid-")
		d.Audience = verdict(c.Audience != "", strings.EqualFold(c.Audience, uri) || strings.EqualFold(c.Audience, id))
	}
	d.Fresh = verdict(!c.Expires.IsZero(), now.Before(c.Expires))
	return d
}

func verdict(known, holds bool) store.Verdict {
	switch {
	case !known:
		return store.Unknown
	case holds:
		return store.Holds
	default:
		return store.Fails
	}
}

// same compares a claim of a token with the activity's value.
func same(said, is string) store.Verdict {
	return verdict(said != "" && is != "", strings.EqualFold(said, is))
}

// mismatch reports whether a token belongs to another user than the sender, and if
// so writes a security line. The tenant alone proves nothing: guests and shared
// channels have other tenants.
func (c *call) mismatch(ctx context.Context, token tokensvc.Secret) bool {
	said, ok := tokensvc.ReadClaims(token)
	if !ok || same(said.ObjectID, c.turn.to.UserAAD) != store.Fails {
		return false
	}
	c.note(store.Event{
		Kind: store.EventSecurity, Row: "§9", Invoke: c.turn.act.Name, Activity: c.turn.act.ID,
		Detail: "the SSO token is another user's",
	})
	c.eng.logger(ctx).Warn().Str("user", c.key.User).Str("connection", c.key.Connection).
		Msg("signin/tokenExchange with a token of another user than its sender")
	return true
}

// rejects reports whether another user's token is refused. The Token Service stores a
// token for the user that it names. A connection with its own Tokens would store it
// for the sender.
func (c *call) rejects() bool {
	f := c.flow()
	return c.eng.policy.IdentityMismatch == Reject || f != nil && f.conn.Tokens != nil
}
