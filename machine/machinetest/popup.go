package machinetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// popup is a connection whose users the bot signs in itself. Its codes and
// credentials are marks in the store. It implements machine.Redeemer.
type popup struct {
	w     *world
	store store.Store
}

func codeName(code string) string { return "code " + code }
func credentials(user, conn string) string {
	return "credentials " + owner(user, conn)
}

// issue makes the code that a popup ends with: issue CODE for=wiki as=alice.
func (w *world) issue(ctx context.Context, c command) string {
	m := store.Mark{
		Name: codeName(c.word(0)), Version: 1, Value: []byte(owner(user(c), c.opt("for", w.own[0]))),
		Expires: time.Now().Add(5 * time.Minute),
	}
	if err := w.mem.Apply(ctx, []store.Commit{{Marks: []store.Mark{m}}})[0]; err != nil {
		w.fail("scenario: %v", err)
	}
	return ""
}

// GetToken looks for credentials. Codes come to Redeem.
func (p *popup) GetToken(ctx context.Context, uc tokensvc.UserConnection, _ tokensvc.Secret) (tokensvc.Token, error) {
	_, err := p.store.Mark(ctx, credentials(uc.UserID, uc.Connection))
	if errors.Is(err, store.ErrNotFound) {
		p.w.say("credentials %s: none", uc.Connection)
		return tokensvc.Token{}, tokensvc.ErrNoToken
	}
	if err != nil {
		return tokensvc.Token{}, err
	}
	p.w.say("credentials %s: there", uc.Connection)
	return p.w.tokens.token(uc), nil
}

// Redeem checks a code.
func (p *popup) Redeem(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, []store.Mark, error) {
	m, err := p.store.Mark(ctx, codeName(code.Reveal()))
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return tokensvc.Token{}, nil, err
	case err != nil, m.Version != 1, string(m.Value) != owner(uc.UserID, uc.Connection):
		p.w.say("redeem %s: no such code", uc.Connection)
		return tokensvc.Token{}, nil, fmt.Errorf("redeem: %w", tokensvc.ErrNoToken)
	}
	p.w.say("redeem %s: good", uc.Connection)
	m.Version = 2
	return p.w.tokens.token(uc), []store.Mark{m, {Name: credentials(uc.UserID, uc.Connection), Version: 1}}, nil
}

// GetSignInResource needs none: the popup is known by its attempt.
func (p *popup) GetSignInResource(context.Context, tokensvc.State) (tokensvc.SignInResource, error) {
	return tokensvc.SignInResource{SignInLink: tokensvc.NewSecret("https://bot.example/auth/start")}, nil
}

// GetTokenOrSignInResource is not offered.
func (p *popup) GetTokenOrSignInResource(context.Context, tokensvc.UserConnection, tokensvc.State, tokensvc.Secret) (*tokensvc.Token, *tokensvc.SignInResource, error) {
	return nil, nil, errors.New("not offered")
}

// Exchange is not offered.
func (p *popup) Exchange(context.Context, tokensvc.UserConnection, tokensvc.Secret) (tokensvc.Token, error) {
	return tokensvc.Token{}, &tokensvc.Error{Op: tokensvc.OpExchange, Status: 400}
}

// SignOut forgets the credentials.
func (p *popup) SignOut(ctx context.Context, uc tokensvc.UserConnection) error {
	p.w.say("forget credentials %s", uc.Connection)
	gone := store.Mark{Name: credentials(uc.UserID, uc.Connection), Version: 2, Gone: true}
	err := p.store.Apply(ctx, []store.Commit{{Marks: []store.Mark{gone}}})[0]
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// GetTokenStatus lists nothing.
func (p *popup) GetTokenStatus(context.Context, string, string, ...string) ([]tokensvc.TokenStatus, error) {
	return nil, nil
}

// ask is an invoke of a message extension, or with via=card of an Adaptive Card:
// ask wiki, ask wiki state=CODE, ask graph id=x-1 token=jwt.
func (w *world) ask(ctx context.Context, c command) string {
	via, name := store.OriginCompose, "composeExtension/query"
	if c.opt("via", "") == "card" {
		via, name = store.OriginCardAction, "adaptiveCard/action"
	}
	e := w.on(c.opt("on", "a"))
	got, err := e.Authorize(ctx, e.Turn(w.activity(c, "invoke", name, nil)), machine.Ask{
		Connection: c.word(0), Via: via, State: tokensvc.NewSecret(c.opt("state", "")),
		ExchangeID: c.opt("id", ""), Token: tokensvc.NewSecret(c.opt("token", "")),
	})
	if err != nil {
		return "error: " + w.renumber(err.Error())
	}
	var said []string
	if got.Cancelled {
		said = append(said, "cancelled")
	}
	if got.Refused != 0 {
		said = append(said, "refused "+strconv.Itoa(got.Refused))
	}
	switch {
	case !got.Token.Token.Empty():
		said = append(said, "token")
	case got.Pending != machine.NotPending:
		line := "pending: " + string(got.Pending)
		if got.Attempt != "" {
			line += fmt.Sprintf(" (#%d)", w.number(got.Attempt))
		}
		if r := got.Resource.TokenExchangeResource; r != nil {
			line += ", SSO " + r.ID
		}
		said = append(said, line)
	}
	return strings.Join(said, "; ")
}

// direct is a connection whose SSO tokens the bot exchanges itself. Like
// transport/directsso it has no codes.
type direct struct{ machine.TokenService }

// GetToken knows no codes.
func (d direct) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	if !code.Empty() {
		return tokensvc.Token{}, tokensvc.ErrNoToken
	}
	return d.TokenService.GetToken(ctx, uc, code)
}
