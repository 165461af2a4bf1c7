package machine

import (
	"context"

	"github.com/signin-engine/signin-engine/store"
)

// retire replaces the cards of a completed sign-in by the connection's DoneText, if it
// has one: its own and those that it superseded. This is best effort: nothing waits for
// it, and if it fails the card stays.
func (e *Engine) retire(ctx context.Context, a *store.Attempt) {
	f := e.registered(a.Key.Connection)
	if f == nil || f.conn.DoneText == "" {
		return
	}
	done, ctx := *a, context.WithoutCancel(ctx)
	e.outbox.Go(func() {
		seen := map[string]bool{"": true} // an attempt that carries on another one's card has its id
		for n := 0; ; n++ {
			if id := done.CardActivityID; !seen[id] {
				seen[id] = true
				e.replaceCard(ctx, &done, f.conn.DoneText)
			}
			if done.Supersedes == "" || n == maxEarlier {
				return
			}
			snap, err := e.store.Get(ctx, done.Supersedes)
			if err != nil {
				return
			}
			done = snap.Attempts[0]
		}
	})
}

// replaceCard replaces the card of an attempt by a text.
func (e *Engine) replaceCard(ctx context.Context, a *store.Attempt, text string) {
	to, m := a.Conversation, Message{Text: text, Targeted: e.targets(a.Conversation)}
	if a.CardConversation != "" { // the user's own chat
		to.ID, to.Type, to.IsGroup, m.Targeted = a.CardConversation, "personal", false, false
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeouts.Upstream)
	defer cancel()
	if err := guarded(func() error { return e.out.Update(ctx, to, a.CardActivityID, m) }); err != nil {
		e.logger(ctx).Warn().Str("attempt", a.ID).Err(err).Msg("the card of a completed sign-in could not be updated")
	}
}

// targets reports whether only the user who asked sees a card in this
// conversation.
func (e *Engine) targets(to store.Conversation) bool {
	return isGroup(to) && e.policy.GroupCard != Everyone
}
