package machine

import (
	"context"

	"github.com/signin-engine/signin-engine/store"
)

// retire replaces the card of a completed sign-in by the connection's
// DoneText, if it has one. It is a courtesy: nobody waits for it, and when it
// fails the card just stays.
func (e *Engine) retire(ctx context.Context, a *store.Attempt, f *Flow) {
	if f == nil || f.conn.DoneText == "" || a.CardActivityID == "" {
		return
	}
	to := a.Conversation
	if a.CardConversation != "" {
		to.ID = a.CardConversation
	}
	id := a.CardActivityID
	ctx, cancel := context.WithTimeout(detach(ctx), e.timeouts.Upstream)
	e.detached.Go(func() {
		defer cancel()
		if err := e.out.Update(ctx, to, id, Message{Text: f.conn.DoneText}); err != nil {
			e.log.Warn().Str("attempt", a.ID).Err(err).Msg("the card of a completed sign-in could not be updated")
		}
	})
}
