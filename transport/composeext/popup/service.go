package popup

import (
	"context"
	"crypto/hmac"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/internal/vault"
)

const (
	// opRefresh is the operation in errors about a refresh token.
	opRefresh = "Refresh"
	// refreshEarly is how long before its expiry an access token is refreshed.
	refreshEarly = 30 * time.Second
	// refreshHold is how long an instance locks a user's refresh token. It is longer
	// than the request may take, so that a refresh token is never used twice.
	refreshHold = providerTimeout + 5*time.Second
	// rewriteAfter is the age at which credentials in use are written again, so that
	// they do not end with the retention of the store, which is at least a day.
	rewriteAfter = 12 * time.Hour
	// refreshLook is the pause between two looks whether the lock is free.
	refreshLook = 50 * time.Millisecond
)

// callerKey is the context key of the caller's Entra object id.
type callerKey struct{}

// WithCaller returns a context with the Entra object id of the user who sends a code.
// [Popup.Redeem] compares it with that of the user who began the popup. It compares the
// user's MRI in any case.
func WithCaller(ctx context.Context, aadObjectID string) context.Context {
	return context.WithValue(ctx, callerKey{}, aadObjectID)
}

// kept are the credentials of a user in the store.
type kept struct {
	credentials
	AAD  string    `json:"aad,omitempty"`
	At   time.Time `json:"at"` // when they were written
	slot int
}

// slots are the two records that may have a user's credentials. Each change writes the
// credentials to the other slot: the store deletes a mark when the retention after its
// first version is over, so a mark that is only updated would not live long enough.
var slots = [...]string{"a", "b"}

func (p *Popup) slotName(user string, slot int) string {
	return p.name("credentials", user, slots[slot])
}

// load finds a user's credentials. The error matches store.ErrNotFound if there are
// none. It matches vault.ErrSeal as well if there are some that no key decrypts; then
// the slot in the result is theirs.
func (p *Popup) load(ctx context.Context, user string) (kept, error) {
	for slot := range slots {
		got := kept{slot: slot}
		_, err := p.read(ctx, p.slotName(user, slot), &got)
		if err == nil {
			return got, nil
		}
		if !errors.Is(err, store.ErrNotFound) || errors.Is(err, vault.ErrSeal) {
			return kept{slot: slot}, fmt.Errorf("read credentials: %w", err)
		}
	}
	return kept{}, fmt.Errorf("read credentials: %w", store.ErrNotFound)
}

// replaced returns the marks that replace a user's credentials. old is nil if the user
// has none yet.
func (p *Popup) replaced(user string, old *kept, c kept) ([]store.Mark, error) {
	slot := 0
	var marks []store.Mark
	if old != nil {
		slot = 1 - old.slot
		marks = append(marks, store.Mark{Name: p.slotName(user, old.slot), Version: 2, Gone: true})
	}
	c.At = p.clock().UTC()
	m, err := p.sealed(p.slotName(user, slot), 1, time.Time{}, c)
	return append(marks, m), err
}

// existing returns the credentials that new ones replace, or nil if there are none. Of
// credentials that cannot be decrypted it returns the slot only.
func (p *Popup) existing(ctx context.Context, user string) (*kept, error) {
	got, err := p.load(ctx, user)
	switch {
	case errors.Is(err, vault.ErrSeal):
		return &got, nil
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	default:
		return &got, err
	}
}

// GetToken returns the user's access token and refreshes it if necessary. With a code it
// checks the code without spending it; see [Popup.Redeem]. The error matches
// tokensvc.ErrNoToken if the user is not signed in.
func (p *Popup) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	if !code.Empty() {
		tok, _, err := p.Redeem(ctx, uc, code)
		return tok, err
	}
	c, err := p.fresh(ctx, uc.UserID)
	if err != nil {
		return tokensvc.Token{}, err
	}
	return p.asToken(uc, c.credentials), nil
}

func (p *Popup) asToken(uc tokensvc.UserConnection, c credentials) tokensvc.Token {
	tok := tokensvc.Token{
		ChannelID: uc.ChannelID, Connection: p.connection, Token: tokensvc.NewSecret(c.Access), Expiration: c.Expires,
	}
	if c.Name != "" || c.Subject != "" {
		tok.Properties = map[string]string{"name": c.Name, "subject": c.Subject}
	}
	return tok
}

// Redeem checks a security code (M3): it must be known, unused, not expired, and the
// user's own, and the user must not have signed out since the popup began. It returns
// the token, and the marks that spend the code once they are committed. The error
// matches tokensvc.ErrNoToken if the code is not valid.
func (p *Popup) Redeem(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, []store.Mark, error) {
	var got issued
	m, err := p.read(ctx, p.codeName(code.Reveal()), &got)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return tokensvc.Token{}, nil, fmt.Errorf("redeem: %w", tokensvc.ErrNoToken)
	case err != nil:
		return tokensvc.Token{}, nil, fmt.Errorf("redeem: %w", err)
	}
	over, err := p.signedOutSince(ctx, uc.UserID, got.Began)
	if err != nil {
		return tokensvc.Token{}, nil, fmt.Errorf("redeem: %w", err)
	}
	mine := p.belongs(ctx, &got, uc, code)
	switch {
	case m.Version != 1 || len(m.Value) == 0: // used
	case !p.clock().Before(got.Expires), over:
	case got.Credentials.Refresh == "" && !got.Credentials.good(p.clock()): // the access token has expired
	case !mine:
		p.log.Warn().Str("user", uc.UserID).Str("attempt", got.Attempt).Msg("security code of another user")
	default:
		marks, err := p.spend(ctx, m, uc.UserID, &got)
		if err != nil {
			return tokensvc.Token{}, nil, fmt.Errorf("redeem: %w", err)
		}
		return p.asToken(uc, got.Credentials), marks, nil
	}
	return tokensvc.Token{}, nil, fmt.Errorf("redeem: %w", tokensvc.ErrNoToken)
}

func (p *Popup) codeName(code string) string { return p.name("code", code) }

func (p *Popup) codeCheck(code string) []byte { return vault.MAC(p.macs, "check", code) }

// belongs reports whether a code is right and belongs to the user. It compares in
// constant time.
func (p *Popup) belongs(ctx context.Context, got *issued, uc tokensvc.UserConnection, code tokensvc.Secret) bool {
	same := subtle.ConstantTimeCompare([]byte(got.MRI), []byte(uc.UserID))
	if aad, known := ctx.Value(callerKey{}).(string); known {
		same &= subtle.ConstantTimeCompare([]byte(strings.ToLower(got.AAD)), []byte(strings.ToLower(aad)))
	}
	return hmac.Equal(got.Check, p.codeCheck(code.Reveal())) && same == 1
}

// spend returns the marks that spend a code and make its credentials the user's. The
// mark of a spent code keeps no value; it stays until the code would have expired.
func (p *Popup) spend(ctx context.Context, code store.Mark, user string, got *issued) ([]store.Mark, error) {
	old, err := p.existing(ctx, user)
	if err != nil {
		return nil, err
	}
	marks, err := p.replaced(user, old, kept{credentials: got.Credentials, AAD: got.AAD})
	if err != nil {
		return nil, err
	}
	return append(marks, store.Mark{Name: code.Name, Version: code.Version + 1, Expires: code.Expires}), nil
}

// fresh returns credentials with a valid access token. Only one instance at a time
// uses a user's refresh token, because a provider that rotates refresh tokens treats a
// second use as theft.
func (p *Popup) fresh(ctx context.Context, user string) (kept, error) {
	for {
		c, err := p.load(ctx, user)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return kept{}, tokensvc.ErrNoToken
		case err != nil:
			return kept{}, &tokensvc.Error{Op: tokensvc.OpGetToken, Err: err}
		case c.good(p.clock()):
			p.keepAlive(ctx, user, &c)
			return c, nil
		case c.Refresh == "":
			return kept{}, tokensvc.ErrNoToken
		}
		hold := store.Mark{Name: p.name("refresh", user), Version: 1, Expires: p.clock().Add(refreshHold)}
		err = p.write(ctx, hold)
		switch {
		case err == nil:
			hold.Version, hold.Gone = 2, true
			if c, done, err := p.renew(ctx, user, hold); done {
				return c, err
			}
		case errors.Is(err, store.ErrDuplicate):
			if pause(ctx, refreshLook) != nil {
				return kept{}, &tokensvc.Error{Op: opRefresh, Err: errors.New("another instance is at it")}
			}
		default:
			return kept{}, &tokensvc.Error{Op: opRefresh, Err: err}
		}
	}
}

// keepAlive writes credentials again that were written long ago; see rewriteAfter. It
// ignores errors, because the next call tries again.
func (p *Popup) keepAlive(ctx context.Context, user string, c *kept) {
	if p.clock().Sub(c.At) < rewriteAfter {
		return
	}
	if marks, err := p.replaced(user, c, *c); err == nil {
		_ = p.write(ctx, marks...)
	}
}

// good reports whether the access token can be used. If there is a refresh token, it
// returns false a little before the expiry.
func (c *credentials) good(now time.Time) bool {
	if c.Expires.IsZero() {
		return true
	}
	if c.Refresh != "" {
		now = now.Add(refreshEarly)
	}
	return now.Before(c.Expires)
}

// renew uses the refresh token and commits the new credentials together with release,
// the mark that ends the lock. It returns done = false if the credentials have changed
// meanwhile and the caller has to look again.
func (p *Popup) renew(ctx context.Context, user string, release store.Mark) (got kept, done bool, err error) {
	ctx = context.WithoutCancel(ctx) // a refresh token that was used must not be lost
	old, err := p.load(ctx, user)
	if err != nil {
		_ = p.write(ctx, release) // if it fails, the lock expires soon
		return kept{}, errors.Is(err, store.ErrUnavailable), err
	}
	if old.good(p.clock()) {
		_ = p.write(ctx, release)
		return old, true, nil
	}
	next, err := p.provider.refresh(ctx, old.credentials)
	if err != nil {
		return p.notRenewed(ctx, user, old, release, err)
	}
	got = kept{credentials: next, AAD: old.AAD}
	marks, err := p.replaced(user, &old, got)
	if err == nil {
		err = p.persist(ctx, append(marks, release)...)
	}
	switch {
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrDuplicate):
		// The user has signed out or in again, so nobody needs the new tokens.
		p.forgetAtProvider(ctx, got.credentials)
		return kept{}, false, nil
	case err != nil:
		return kept{}, true, &tokensvc.Error{Op: opRefresh, Err: err}
	default:
		return got, true, nil
	}
}

// persist writes marks whose content would be lost otherwise: it retries for a few
// seconds while the store is unavailable.
func (p *Popup) persist(ctx context.Context, marks ...store.Mark) error {
	for wait := refreshLook; ; wait *= 2 {
		err := p.write(ctx, marks...)
		if !errors.Is(err, store.ErrUnavailable) || wait > 2*time.Second || pause(ctx, wait) != nil {
			return err
		}
	}
}

// notRenewed handles a failed refresh. If the provider refuses the refresh token, it
// deletes the credentials. After any other error they stay.
func (p *Popup) notRenewed(ctx context.Context, user string, old kept, release store.Mark, err error) (kept, bool, error) {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.ErrorCode == "invalid_grant" {
		p.log.Info().Str("user", user).Str("connection", p.connection).Msg("popup: the provider refuses the refresh token: the user has to sign in again")
		gone := store.Mark{Name: p.slotName(user, old.slot), Version: 2, Gone: true}
		if err := p.write(ctx, gone, release); err != nil {
			return kept{}, true, &tokensvc.Error{Op: opRefresh, Err: err}
		}
		return kept{}, true, tokensvc.ErrNoToken
	}
	_ = p.write(ctx, release)
	if old.Expires.After(p.clock()) {
		return old, true, nil // the access token is valid for a moment yet
	}
	told := &tokensvc.Error{Op: opRefresh, Err: errors.New("the provider does not answer")}
	if refused != nil {
		told = &tokensvc.Error{Op: opRefresh, Status: refused.Response.StatusCode, Code: bounded(refused.ErrorCode)}
	}
	return kept{}, true, told
}

// Exchange always returns an error: an SSO token can be exchanged by the Token Service
// only.
func (p *Popup) Exchange(context.Context, tokensvc.UserConnection, tokensvc.Secret) (tokensvc.Token, error) {
	return tokensvc.Token{}, &tokensvc.Error{Op: tokensvc.OpExchange, Status: http.StatusBadRequest, Code: "NotOffered"}
}

// GetSignInResource returns a link to the start page. The link names no attempt; see
// [Popup.Link].
func (p *Popup) GetSignInResource(_ context.Context, s tokensvc.State) (tokensvc.SignInResource, error) {
	link, err := p.link(who{MRI: s.UserID}, "")
	return tokensvc.SignInResource{SignInLink: tokensvc.NewSecret(link)}, err
}

// GetTokenOrSignInResource returns the result of [Popup.GetToken], or, if there is no
// token, that of [Popup.GetSignInResource].
func (p *Popup) GetTokenOrSignInResource(ctx context.Context, uc tokensvc.UserConnection, s tokensvc.State, code tokensvc.Secret) (*tokensvc.Token, *tokensvc.SignInResource, error) {
	tok, err := p.GetToken(ctx, uc, code)
	switch {
	case err == nil:
		return &tok, nil, nil
	case !errors.Is(err, tokensvc.ErrNoToken):
		return nil, nil, err
	}
	res, err := p.GetSignInResource(ctx, s)
	return nil, &res, err
}

// GetTokenStatus returns whether the store has credentials of the user.
func (p *Popup) GetTokenStatus(ctx context.Context, userID, channelID string, _ ...string) ([]tokensvc.TokenStatus, error) {
	_, err := p.load(ctx, userID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	return []tokensvc.TokenStatus{{ChannelID: channelID, Connection: p.connection, HasToken: err == nil, DisplayName: p.connection}}, nil
}

// Credentials returns a token source of the turn's user, for a client of the provider's
// API. The source always returns a valid access token. Its error matches
// tokensvc.ErrNoToken after the user has signed out.
func (p *Popup) Credentials(ctx context.Context, turn *machine.Turn) oauth2.TokenSource {
	return &source{ctx, p, turn.Conversation().UserID}
}

type source struct {
	ctx  context.Context //nolint:containedctx // oauth2.TokenSource.Token takes no context
	p    *Popup
	user string
}

// Token returns the access token, never the refresh token.
func (s *source) Token() (*oauth2.Token, error) {
	c, err := s.p.fresh(s.ctx, s.user)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return c.token(), nil
}

// SignOut deletes the user's credentials and makes the popups that are still open
// invalid. Then it revokes the credentials at the provider; an error of that is only
// logged.
func (p *Popup) SignOut(ctx context.Context, uc tokensvc.UserConnection) error {
	for {
		old, err := p.existing(ctx, uc.UserID)
		if err != nil {
			return fmt.Errorf("sign out: %w", err)
		}
		marks, err := p.signedOut(ctx, uc.UserID)
		if err != nil {
			return fmt.Errorf("sign out: %w", err)
		}
		if old != nil {
			marks = append(marks, store.Mark{Name: p.slotName(uc.UserID, old.slot), Version: 2, Gone: true})
		}
		err = p.write(ctx, marks...)
		switch {
		case err == nil:
			if old != nil {
				p.forgetAtProvider(ctx, old.credentials)
			}
			return nil
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrDuplicate):
			if err := pause(ctx, refreshLook); err != nil {
				return fmt.Errorf("sign out: %w", err)
			}
		default:
			return fmt.Errorf("sign out: %w", err)
		}
	}
}

// signedOut returns the mark that records the sign-out. It stays as long as a popup that
// began before the sign-out can still produce a code.
func (p *Popup) signedOut(ctx context.Context, user string) ([]store.Mark, error) {
	name := p.name("signed out", user)
	m, err := p.store.Mark(ctx, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	next, err := p.sealed(name, m.Version+1, p.clock().Add(p.popupLife+p.codeLife), p.clock())
	return []store.Mark{next}, err
}

// signedOutSince reports whether the user has signed out since began.
func (p *Popup) signedOutSince(ctx context.Context, user string, began time.Time) (bool, error) {
	var at time.Time
	_, err := p.read(ctx, p.name("signed out", user), &at)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && !began.After(at), err
}

func (p *Popup) forgetAtProvider(ctx context.Context, c credentials) {
	if err := p.provider.revoke(ctx, c); err != nil {
		p.log.Warn().Err(err).Str("connection", p.connection).Msg("popup: the provider was not told of a sign-out")
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
