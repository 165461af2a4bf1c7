// Package bot is the reference bot: the chat commands of docs/configuration.md,
// with the messages of the seed trace.
package bot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext"
)

const (
	// unavailable is what users are told when the engine returns an error.
	unavailable = "Sign-in is not available right now."
	// useButton is what users are told when a try was refused but the card still
	// works, because silent sign-in needs consent or a code was wrong. The
	// attempt has not failed.
	useButton = "Use the Sign In button to continue."
)

// Bot answers chat commands.
type Bot struct {
	eng         *machine.Engine
	connections []connection
	client      *http.Client
}

// connection is a flow together with the names by which users know it.
type connection struct {
	config.Connection
	flow *machine.Flow
	// search means that users sign in to it where they search, by a popup, and
	// not in a chat.
	search bool
}

// New registers the callbacks of every connection with eng. It calls the profile
// URLs by client.
func New(eng *machine.Engine, connections []config.Connection, client *http.Client) (*Bot, error) {
	b := &Bot{eng: eng, client: client}
	for _, conn := range connections {
		flow, err := eng.Flow(conn.Name)
		if err != nil {
			return nil, fmt.Errorf("reference bot: %w", err)
		}
		conn.Alias = cmp.Or(conn.Alias, conn.Name)
		conn.DisplayName = cmp.Or(conn.DisplayName, conn.Name)
		c := connection{Connection: conn, flow: flow}
		flow.OnSignInComplete(c.complete)
		flow.OnSignInFailure(c.failure)
		b.connections = append(b.connections, c)
	}
	return b, nil
}

// complete tells the user that the sign-in succeeded. It says nothing if there is
// no token, since then the user has signed out in the meantime. It also says
// nothing after a message extension or a card action: their answer is on the
// screen, and the bot may not be able to write there.
func (c *connection) complete(ctx context.Context, turn *machine.Turn, token tokensvc.Token) error {
	if onScreen(turn) || token.Token.Empty() {
		return nil
	}
	text := fmt.Sprintf("Connected to %s (%s)!", c.DisplayName, c.Name)
	// In a popup, users may pick another account than they think.
	if claims, ok := token.Claims(); ok && turn.Method() == store.MethodVerifyState && claims.Account() != "" {
		text += " The account is " + claims.Account() + "."
	}
	return turn.Send(ctx, text)
}

// onScreen reports whether the answer to an invoke has told the user already.
func onScreen(turn *machine.Turn) bool {
	return turn.Origin() == store.OriginCompose || turn.Origin() == store.OriginCardAction
}

func (c *connection) failure(ctx context.Context, turn *machine.Turn, f *machine.Failure) error {
	refused := turn.Refusal()
	switch {
	case onScreen(turn):
		return nil
	case f == nil && refused != nil && !refused.Ended:
		return turn.Send(ctx, useButton)
	case f == nil || f.Code == "":
		return turn.Send(ctx, fmt.Sprintf("Sign-in to %s failed.", c.DisplayName))
	case f.Message == "":
		return turn.Send(ctx, fmt.Sprintf("Sign-in to %s failed: %s", c.DisplayName, f.Code))
	default:
		return turn.Send(ctx, fmt.Sprintf("Sign-in to %s failed: %s — %s", c.DisplayName, f.Code, f.Message))
	}
}

// OnActivity answers messages. It answers an invoke of a message extension, which
// nothing before it handled, with an empty result. It ignores all other
// activities.
func (b *Bot) OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	act := turn.Activity()
	switch {
	case act.Type == "message":
		return nil, b.message(ctx, turn, strings.Join(strings.Fields(act.Text), " "))
	case act.Type == "invoke" && strings.HasPrefix(act.Name, "composeExtension/"):
		return &machine.Answer{Status: http.StatusOK, Body: composeext.List()}, nil
	}
	return nil, nil //nolint:nilnil // nil means that the bot does not know this invoke
}

func (b *Bot) message(ctx context.Context, turn *machine.Turn, text string) error {
	word, rest, _ := strings.Cut(text, " ")
	switch word = strings.ToLower(word); {
	case word == "login" && rest == "":
		return b.each(func(c *connection) error {
			if c.search {
				return nil
			}
			return c.login(ctx, turn)
		})
	case word == "login":
		return b.named(ctx, turn, rest, func(c *connection) error { return c.login(ctx, turn) })
	case word == "logout" && rest == "":
		return b.logout(ctx, turn)
	case word == "logout":
		return b.named(ctx, turn, rest, func(c *connection) error { return c.logout(ctx, turn) })
	case word == "status" && rest == "":
		return b.status(ctx, turn)
	}
	for i := range b.connections {
		c := &b.connections[i]
		if c.Profile != nil && hasPrefixFold(text, c.Profile.Command) {
			return b.profile(ctx, turn, c)
		}
	}
	return turn.Send(ctx, b.help())
}

// hasPrefixFold matches as the seed's route (?i)^my ad user does.
func hasPrefixFold(text, prefix string) bool {
	return len(text) >= len(prefix) && strings.EqualFold(text[:len(prefix)], prefix)
}

// each calls do for every connection, even after an error.
func (b *Bot) each(do func(*connection) error) error {
	var all error
	for i := range b.connections {
		all = errors.Join(all, do(&b.connections[i]))
	}
	return all
}

// named calls do for the connection whose alias or name is alias.
func (b *Bot) named(ctx context.Context, turn *machine.Turn, alias string, do func(*connection) error) error {
	for i := range b.connections {
		if c := &b.connections[i]; strings.EqualFold(alias, c.Alias) || strings.EqualFold(alias, c.Name) {
			return do(c)
		}
	}
	return turn.Send(ctx, "There is no such connection.\n"+b.help())
}

func (c *connection) login(ctx context.Context, turn *machine.Turn) error {
	if c.search {
		return c.elsewhere(ctx, turn)
	}
	result, err := c.flow.SignIn(ctx, turn)
	if err != nil {
		return sorry(ctx, turn, err)
	}
	if result.SignedIn() {
		return turn.Send(ctx, fmt.Sprintf("Already signed in to %s.", c.DisplayName))
	}
	return c.pending(ctx, turn, result.Pending)
}

// pending tells the user that another device is signing in. Otherwise it is
// silent, since a card is in the chat, or Teams has only repeated a message.
func (c *connection) pending(ctx context.Context, turn *machine.Turn, p machine.Pending) error {
	if p != machine.UnderWay {
		return nil
	}
	return turn.Send(ctx, fmt.Sprintf("Sign-in to %s is already under way on another device.", c.DisplayName))
}

func (c *connection) logout(ctx context.Context, turn *machine.Turn) error {
	if err := c.flow.SignOut(ctx, turn); err != nil {
		return sorry(ctx, turn, err)
	}
	return turn.Send(ctx, fmt.Sprintf("Signed out from %s.", c.DisplayName))
}

func (b *Bot) logout(ctx context.Context, turn *machine.Turn) error {
	if err := turn.SignOutAll(ctx); err != nil {
		return sorry(ctx, turn, err)
	}
	return turn.Send(ctx, "Signed out from all connections.")
}

// sorry tells the user that sign-in is not available. It also returns err, so
// that it is logged.
func sorry(ctx context.Context, turn *machine.Turn, err error) error {
	return errors.Join(err, turn.Send(ctx, unavailable))
}

// status formats its text as the sample in [S 004] does.
func (b *Bot) status(ctx context.Context, turn *machine.Turn) error {
	statuses, err := turn.ConnectionStatus(ctx)
	if err != nil {
		return sorry(ctx, turn, err)
	}
	text := "OAuth connections:"
	for i := range b.connections {
		c := &b.connections[i]
		word := "not connected"
		for _, s := range statuses {
			if strings.EqualFold(s.Connection, c.Name) && s.HasToken {
				word = "connected"
			}
		}
		text += fmt.Sprintf("\n- **%s** (%s): %s", c.Name, c.DisplayName, word)
	}
	return turn.Send(ctx, text)
}

func (b *Bot) help() string {
	lines := []string{"You can say:", "- help", "- login", "- status", "- logout"}
	for i := range b.connections {
		c := &b.connections[i]
		if !c.search {
			lines = append(lines, "- login "+c.Alias)
		}
		lines = append(lines, "- logout "+c.Alias)
		if c.Profile != nil {
			lines = append(lines, "- "+c.Profile.Command)
		}
	}
	return strings.Join(lines, "\n")
}
