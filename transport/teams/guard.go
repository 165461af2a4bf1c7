package teams

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Guard stands in front of a bot and lets an activity through once the user is
// signed in to all of its connections. See [RequireSignIn].
type Guard struct {
	eng   *machine.Engine
	flows []*machine.Flow
	needs func(*machine.Activity) bool
	bot   Bot
}

// GuardOption changes a [Guard].
type GuardOption func(*Guard)

// GuardWhen says which activities need the sign-in; the others go through as they
// are. The default is messages.
func GuardWhen(needs func(*machine.Activity) bool) GuardOption {
	return func(g *Guard) { g.needs = needs }
}

// RequireSignIn puts a guard in front of a bot. An activity that needs the
// sign-in reaches the bot when the user has a token of every connection, with the
// tokens in its context ([TokenOf]). Until then the user is asked for one
// connection after the other.
//
// The activity with which the user came is kept, sealed, with the attempt that it
// opened ([machine.Policy].KeepRequest, which is on unless it is turned off). When
// that sign-in completes, the activity goes through the guard again: the next
// connection is asked for, or the bot gets it. This works over restarts and on any
// instance, and the bot gets the activity effectively once.
//
// Without connections all that are registered with the engine are required. An
// unknown name is an error.
func RequireSignIn(eng *machine.Engine, bot Bot, connections []string, opts ...GuardOption) (*Guard, error) {
	g := &Guard{eng: eng, bot: bot, needs: func(a *machine.Activity) bool { return a.Type == typeMessage }}
	for _, set := range opts {
		set(g)
	}
	if len(connections) == 0 {
		for _, c := range eng.Connections() {
			connections = append(connections, c.Name)
		}
	}
	for _, name := range connections {
		f, err := eng.Flow(name)
		if err != nil {
			return nil, fmt.Errorf("require sign-in: %w", err)
		}
		g.flows = append(g.flows, f)
	}
	for _, f := range g.flows {
		f.OnSignInComplete(g.resume)
	}
	return g, nil
}

// OnActivity lets the activity through, or asks the user to sign in.
func (g *Guard) OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	if !g.needs(turn.Activity()) {
		return g.bot.OnActivity(ctx, turn)
	}
	tokens, err := g.ask(ctx, turn)
	if tokens == nil || err != nil {
		return nil, err
	}
	return g.bot.OnActivity(context.WithValue(ctx, tokensKey{}, tokens), turn)
}

// ask returns the tokens of all connections by their names. When one is missing it
// asks for that one and returns nil: the activity waits for its user.
func (g *Guard) ask(ctx context.Context, turn *machine.Turn) (map[string]tokensvc.Token, error) {
	tokens := map[string]tokensvc.Token{}
	for _, f := range g.flows {
		got, err := f.SignIn(ctx, turn)
		if err != nil {
			return nil, err
		}
		if !got.SignedIn() {
			return nil, nil //nolint:nilnil // as it says
		}
		tokens[strings.ToLower(f.Name())] = got.Token
	}
	return tokens, nil
}

// resume takes up the activity with which the user came. Every sign-in that it has
// led to kept it, and the callback of each may be made again after a crash, so what
// runs once is the bot's own code for that activity.
func (g *Guard) resume(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
	kept := turn.Request()
	if kept == nil {
		return nil
	}
	act, err := DecodeActivity(kept)
	if err != nil {
		return machine.Permanent(fmt.Errorf("resume what the user asked: %w", err))
	}
	if !g.needs(act) {
		return nil
	}
	// Where the user can be reached may have moved meanwhile.
	act.Conversation.ServiceURL = turn.Conversation().ServiceURL
	resumed := g.eng.Turn(act)
	tokens, err := g.ask(ctx, resumed)
	if tokens == nil || err != nil {
		return err
	}
	key := turn.DeliveryKey()
	if act.ID != "" {
		// Behind another guard an activity is resumed once by each.
		parts := []string{act.Conversation.Channel, act.Conversation.ID, act.ID}
		for _, f := range g.flows {
			parts = append(parts, strings.ToLower(f.Name()))
		}
		key = fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(parts, "\x00"))))
	}
	return g.eng.Once(ctx, "resume "+key, func(ctx context.Context) error {
		_, err := g.bot.OnActivity(context.WithValue(ctx, tokensKey{}, tokens), resumed)
		return err
	})
}

type tokensKey struct{}

// TokenOf is the user's token of a connection, in the context of an activity that
// went through a [Guard]; false if the guard does not require that connection.
func TokenOf(ctx context.Context, connection string) (tokensvc.Token, bool) {
	tokens, _ := ctx.Value(tokensKey{}).(map[string]tokensvc.Token)
	tok, ok := tokens[strings.ToLower(connection)]
	return tok, ok
}
