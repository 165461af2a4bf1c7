package bot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
)

const (
	profileTimeout = 10 * time.Second
	maxProfile     = 64 << 10
)

// errTokenRefused means that the profile URL did not accept the user's token.
var errTokenRefused = errors.New("profile: the token was refused")

// profile calls the connection's profile URL with the user's token. Without a
// token it starts the sign-in [S 001, steps 8 to 11]. It signs the user out if
// the token is refused, since the Token Service would return the same token until
// it expires.
func (b *Bot) profile(ctx context.Context, turn *machine.Turn, c *connection) error {
	result, err := c.flow.SignIn(ctx, turn)
	if err != nil {
		return sorry(ctx, turn, err)
	}
	if !result.SignedIn() {
		return c.pending(ctx, turn, result.Pending)
	}
	body, err := b.fetch(ctx, c.Profile.URL, result.Token.Token)
	if errors.Is(err, errTokenRefused) {
		if err = c.flow.SignOut(ctx, turn); err != nil {
			return sorry(ctx, turn, err)
		}
		return c.login(ctx, turn)
	}
	if err != nil {
		return errors.Join(err, turn.Send(ctx, "The profile is not available right now."))
	}
	return turn.Send(ctx, "Your Azure AD user :\n```json\n"+body+"\n```")
}

// fetch gets a JSON document and returns it in one line.
func (b *Bot) fetch(ctx context.Context, address string, token tokensvc.Secret) (body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, profileTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", errors.New("profile: malformed URL")
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	req.Header.Set("Accept", "application/json")
	res, err := b.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return "", fmt.Errorf("profile: %w", err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxProfile))
	if err != nil {
		return "", fmt.Errorf("profile: %w", err)
	}
	if res.StatusCode == http.StatusUnauthorized {
		return "", errTokenRefused
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("profile: status %d", res.StatusCode)
	}
	var out bytes.Buffer
	if err = json.Compact(&out, raw); err != nil {
		return "", errors.New("profile: no JSON")
	}
	return out.String(), nil
}
