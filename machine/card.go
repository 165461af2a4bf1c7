package machine

import (
	"context"

	"github.com/signin-engine/signin-engine/store"
)

// retire replaces the card of a completed sign-in by the connection's DoneText, if
// it has one. This is best effort: nothing waits for it, and if it fails the card
// stays.
func (e *Engine) retire(ctx context.Context, a *store.Attempt) {
	f := e.registered(a.Key.Connection)
	if f == nil || f.conn.DoneText == "" || a.CardActivityID == "" {
		return
	}
	to, m := a.Conversation, Message{Text: f.conn.DoneText, Targeted: e.targets(a.Conversation)}
	if a.CardConversation != "" { // the user's own chat
		to.ID, to.Type, to.IsGroup, m.Targeted = a.CardConversation, "personal", false, false
	}
	id := a.CardActivityID
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.timeouts.Upstream)
	e.outbox.Go(func() {
		defer cancel()
		if err := e.out.Update(ctx, to, id, m); err != nil {
			e.logger(ctx).Warn().Str("attempt", a.ID).Err(err).Msg("the card of a completed sign-in could not be updated")
		}
	})
}

// targets reports whether only the user who asked sees a card in this
// conversation.
func (e *Engine) targets(to store.Conversation) bool {
	return isGroup(to) && e.policy.GroupCard != Everyone
}
