package bot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/transport/composeext"
)

// Handlers adds the reference bot's answers to a message extension and to
// Adaptive Cards. The answers name the user who has signed in
// (docs/configuration.md). The chat commands then know the connection of the
// popup, too.
func (b *Bot) Handlers(cfg *composeext.Config) error {
	if cfg.Popup != nil {
		name := cfg.Popup.Connection()
		flow, err := b.eng.Flow(name)
		if err != nil {
			return fmt.Errorf("reference bot: %w", err)
		}
		b.connections = append(b.connections, connection{
			Connection: config.Connection{Name: name, Alias: name, DisplayName: name}, flow: flow, search: true,
		})
	}
	cfg.OnQuery = func(ctx context.Context, r *composeext.Request, _ composeext.Query) (composeext.Response, error) {
		return b.card(ctx, r)
	}
	cfg.OnQueryLink = func(ctx context.Context, r *composeext.Request, _ string) (composeext.Response, error) {
		return b.card(ctx, r)
	}
	cfg.OnSelectItem = func(ctx context.Context, r *composeext.Request, _ composeext.Item) (composeext.Response, error) {
		return b.card(ctx, r)
	}
	cfg.OnSubmitAction = func(ctx context.Context, r *composeext.Request, _ composeext.Action) (composeext.Response, error) {
		return b.card(ctx, r)
	}
	cfg.OnFetchTask = func(ctx context.Context, r *composeext.Request, _ composeext.Action) (composeext.Response, error) {
		name, err := b.userName(ctx, r)
		return composeext.Task("message", signedInAs(name)), err
	}
	cfg.OnCardAction = func(ctx context.Context, r *composeext.Request, _ composeext.CardAction) (composeext.Response, error) {
		name, err := b.userName(ctx, r)
		return composeext.CardMessage(signedInAs(name)), err
	}
	return nil
}

// elsewhere tells the user where to sign in. A chat cannot begin this sign-in,
// because the popup's code comes back with a query.
func (c *connection) elsewhere(ctx context.Context, turn *machine.Turn) error {
	in, err := c.flow.SignedIn(ctx, turn)
	switch {
	case err != nil:
		return sorry(ctx, turn, err)
	case in:
		return turn.Send(ctx, fmt.Sprintf("Already signed in to %s.", c.DisplayName))
	default:
		return turn.Send(ctx, fmt.Sprintf("Search with the message extension to sign in to %s.", c.DisplayName))
	}
}

func signedInAs(name string) string { return "Signed in as " + name + "." }

// card returns a list with one card.
func (b *Bot) card(ctx context.Context, r *composeext.Request) (composeext.Response, error) {
	name, err := b.userName(ctx, r)
	return composeext.List(composeext.Thumbnail(name, "Signed in to "+r.Connection)), err
}

// userName returns the provider's name for the user. The popup has asked the
// provider for it; for a connection of the Token Service, the profile URL is
// asked. If both give no name, it is the name that Teams sent.
func (b *Bot) userName(ctx context.Context, r *composeext.Request) (string, error) {
	if name := r.Token.Properties["name"]; name != "" {
		return name, nil
	}
	teams := r.Turn.Conversation()
	known := cmp.Or(teams.UserName, r.Token.Properties["subject"], teams.UserID)
	for i := range b.connections {
		c := &b.connections[i]
		if c.Profile == nil || !strings.EqualFold(c.Name, r.Connection) {
			continue
		}
		body, err := b.fetch(ctx, c.Profile.URL, r.Token.Token)
		if errors.Is(err, errTokenRefused) {
			return "", composeext.ErrTokenRefused
		}
		var profile struct{ DisplayName, Name string }
		if err != nil || json.Unmarshal([]byte(body), &profile) != nil {
			return known, nil //nolint:nilerr // only the name on the card is missing
		}
		return cmp.Or(profile.DisplayName, profile.Name, known), nil
	}
	return known, nil
}
