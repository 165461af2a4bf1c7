package machine

import (
	"context"
	"net/http"
	"regexp"
	"sync"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// sixDigits is a verification code as a user types it.
var sixDigits = regexp.MustCompile(`^\d{6}$`)

// Before handles an activity before the bot's own code sees it. It redeems a typed code
// ([Policy.TypedCodes]), ends the sign-in of a registered connection at the event
// tokens/response, and fetches tokens ([Config.Prefetch]). It reports true after such
// an event: the bot does not see the activity. Adapters call it for every activity that
// [Engine.HandleInvoke] did not answer.
func (e *Engine) Before(ctx context.Context, turn *Turn) bool {
	if turn.act.Type == "event" && turn.act.Name == EventTokensResponse && e.tokenAnnounced(context.WithoutCancel(ctx), turn) {
		return true
	}
	if e.policy.TypedCodes && turn.act.Type == "message" && sixDigits.MatchString(turn.act.Text) && e.typedCode(ctx, turn) {
		return true
	}
	if len(e.prefetch) > 0 {
		e.fetch(ctx, turn)
	}
	return false
}

// typedCode redeems a code that was typed while a popup is pending.
func (e *Engine) typedCode(ctx context.Context, turn *Turn) bool {
	snap, err := e.store.Find(ctx, store.Query{User: turn.key("").UserKey()})
	if err != nil || len(snap.Attempts) == 0 || snap.Attempts[0].State.Terminal() {
		return false
	}
	answer := e.redeemCode(context.WithoutCancel(ctx), turn, tokensvc.NewSecret(turn.act.Text))
	return answer.Status != http.StatusServiceUnavailable
}

// tokenAnnounced runs row C16: an event of the channel says that the user has signed
// in. The token in it is not read; the Token Service is asked instead. It reports
// whether the connection is registered.
func (e *Engine) tokenAnnounced(ctx context.Context, turn *Turn) bool {
	var value struct {
		ConnectionName flexible `json:"connectionName"`
	}
	if readValue(turn.act.Value, &value) != nil {
		return false
	}
	f, err := e.Flow(string(value.ConnectionName))
	if err != nil {
		return false
	}
	c := e.call(turn, f.conn.Name)
	c.received(turn.act.Name)
	out, err := c.drive(ctx, byKey{}, c.event(table.TokenAnnounced))
	c.finish(ctx, out.attempt)
	if err != nil {
		e.logger(ctx).Error().Str("user", c.key.User).Str("connection", c.key.Connection).Err(err).Msg("tokens/response")
		e.report(ctx, turn.act, err)
	}
	return true
}

// fetch prefetches the tokens of Config.Prefetch. A failure leaves the token out; the
// bot's own call will report why.
func (e *Engine) fetch(ctx context.Context, turn *Turn) {
	ctx, cancel := context.WithTimeout(ctx, e.timeouts.Upstream)
	defer cancel()
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	found := map[*Flow]tokensvc.Token{}
	for _, f := range e.prefetch {
		wg.Go(func() {
			if tok, err := f.Token(ctx, turn); err == nil {
				mu.Lock()
				defer mu.Unlock()
				found[f] = tok
			}
		})
	}
	wg.Wait()
	turn.fetched = found
}
