package teams

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Guard is a [Bot] in front of another one. It passes an activity on when the user is
// signed in to all of its connections. See [RequireSignIn].
type Guard struct {
	eng   *machine.Engine
	name  string
	flows []*machine.Flow
	needs func(*machine.Activity) bool
	bot   Bot
}

// GuardOption changes a [Guard].
type GuardOption func(*Guard)

// GuardWhen says which activities need the sign-in. The others pass unchanged. The
// default is messages.
func GuardWhen(needs func(*machine.Activity) bool) GuardOption {
	return func(g *Guard) { g.needs = needs }
}

// GuardName tells guards of the same connections apart. A sign-in belongs to the guard
// of this name, also after a restart, so do not change it. The default is the names of
// the connections.
func GuardName(name string) GuardOption {
	return func(g *Guard) { g.name = name }
}

// RequireSignIn puts a guard in front of a bot. An activity that needs the
// sign-in reaches the bot when the user has a token of every connection, with the
// tokens in its context ([TokenOf]). Until then the user is asked for one
// connection after the other.
//
// The user's activity is kept, sealed, with the attempt that it began
// ([machine.Policy.KeepRequest], which is on by default). When that sign-in completes,
// the activity goes through the guard again: the guard asks for the next connection, or
// the bot gets the activity. What the user says while a card is out is kept as well,
// and follows in order. This works across restarts and on any instance, and the bot
// gets each activity effectively once.
//
// Each route of a bot may have a guard, and guards may be nested. An activity returns
// to the guard that asked its user first. Sign-ins that the bot asks for by itself go
// through no guard.
//
// Without connections, all registered ones are required. An unknown name is an error.
// So is a second guard of the same name on one engine; see [GuardName].
func RequireSignIn(eng *machine.Engine, bot Bot, connections []string, opts ...GuardOption) (*Guard, error) {
	g := &Guard{eng: eng, bot: bot, needs: func(a *machine.Activity) bool { return a.Type == typeMessage }}
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
	g.name = strings.ToLower(strings.Join(connections, " "))
	for _, set := range opts {
		set(g)
	}
	if err := eng.OnSignInFor(purposeOf(g.name), g.resume); err != nil {
		return nil, fmt.Errorf("require sign-in: another guard is named %q: give one of them a name with GuardName", g.name)
	}
	return g, nil
}

// purposeOf returns the purpose of a guard's sign-ins.
func purposeOf(name string) string { return "guard " + name }

// passage is what an activity carries through nested guards.
type passage struct {
	purpose string                    // of the first guard, to which the activity returns after a sign-in
	tokens  map[string]tokensvc.Token // by the connections' names in lower case
	asks    *bool                     // set by a guard that holds the activity back
	again   bool                      // the activity has returned after a sign-in
}

type passageKey struct{}

// OnActivity passes the activity on, or asks the user to sign in.
func (g *Guard) OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	if !g.needs(turn.Activity()) {
		return g.bot.OnActivity(ctx, turn)
	}
	p, ok := ctx.Value(passageKey{}).(passage)
	if !ok {
		p = passage{purpose: purposeOf(g.name), asks: new(bool)}
	}
	through, err := g.ask(ctx, turn, &p)
	if !through || err != nil {
		return nil, err
	}
	return g.bot.OnActivity(context.WithValue(ctx, passageKey{}, p), turn)
}

// ask adds the tokens of the guard's connections. If one is missing, it asks the
// user to sign in to that connection and returns false: the activity has to wait.
func (g *Guard) ask(ctx context.Context, turn *machine.Turn, p *passage) (through bool, err error) {
	tokens := maps.Clone(p.tokens)
	if tokens == nil {
		tokens = map[string]tokensvc.Token{}
	}
	for _, f := range g.flows {
		got, err := f.SignIn(ctx, turn, machine.WithPurpose(p.purpose))
		if err == nil && p.again && got.Pending == machine.CardOut {
			// The callback of another connection sent a card for this activity.
			// The user may have signed in after SignIn looked for a token.
			got.Token, err = f.Token(ctx, turn)
			if errors.Is(err, tokensvc.ErrNoToken) {
				err = nil
			}
		}
		if err != nil {
			return false, err
		}
		if got.Token.Token.Empty() {
			*p.asks = true
			return false, nil
		}
		tokens[strings.ToLower(f.Name())] = got.Token
	}
	p.tokens = tokens
	return true, nil
}

// errAsks means that a guard holds the activity back again, so that the bot has
// not received it.
var errAsks = errors.New("another sign-in is asked for")

// resume is the callback of a sign-in. It takes up the activity for which the
// user was asked to sign in.
//
// Several sign-ins may have kept the same activity, and the callback of each may
// be repeated after a crash. Therefore Once records that the bot's own code has
// run for that activity.
func (g *Guard) resume(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
	act, err := DecodeActivity(turn.Request())
	if err != nil {
		return machine.Permanent(fmt.Errorf("resume what the user asked: %w", err))
	}
	// The service URL of the conversation may have changed in the meantime.
	act.Conversation.ServiceURL = turn.Conversation().ServiceURL
	key := "resume " + turn.DeliveryKey()
	if act.ID != "" {
		parts := []string{g.name, act.Conversation.Channel, act.Conversation.ID, act.ID}
		key = fmt.Sprintf("resume %x", sha256.Sum256([]byte(strings.Join(parts, "\x00"))))
	}
	if ran, err := g.eng.Ran(ctx, key); ran || err != nil {
		return err
	}
	resumed := g.eng.Turn(act)
	p := passage{purpose: purposeOf(g.name), asks: new(bool), again: true}
	through, err := g.ask(ctx, resumed, &p)
	if !through || err != nil {
		return err
	}
	err = g.eng.Once(ctx, key, func(ctx context.Context) error {
		_, err := g.bot.OnActivity(context.WithValue(ctx, passageKey{}, p), resumed)
		if err == nil && *p.asks {
			return errAsks
		}
		return err
	})
	if errors.Is(err, errAsks) {
		return nil
	}
	return err
}

// TokenOf is the user's token of a connection, in the context of an activity that went
// through a [Guard]; false if no guard required that connection.
func TokenOf(ctx context.Context, connection string) (tokensvc.Token, bool) {
	p, _ := ctx.Value(passageKey{}).(passage)
	tok, ok := p.tokens[strings.ToLower(connection)]
	return tok, ok
}
