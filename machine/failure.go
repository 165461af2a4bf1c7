package machine

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// lateFailure is how long after an attempt's end a signin/failure counts as a late
// one from another device (D5).
const lateFailure = 5 * time.Minute

// maxFailureText bounds the text stored from a client's failure.
const maxFailureText = 256

// signInFailure runs rows D of the table: the client's SSO failed. The invoke names no
// connection and is always answered 200 [S 000].
func (e *Engine) signInFailure(ctx context.Context, turn *Turn) Answer {
	value := readFailure(turn.act)
	e.warnFailure(ctx, turn, value)

	c := e.call(turn, "")
	ev := c.event(table.ClientFailure)
	ev.Source, ev.Operation = store.SourceClient, turn.act.Name
	ev.Code, ev.Message, ev.Detail = value.Code, value.Message, value.Code
	c.received(turn.act.Name)
	where := &byFailure{}
	out, err := c.drive(ctx, where, ev)
	if err != nil {
		return c.broken(ctx, out, err)
	}
	for _, id := range where.others { // D3: they get a line, and do not move
		c.note(store.Event{
			Kind: store.EventNote, Row: "D3", Attempt: id, Invoke: turn.act.Name, Activity: turn.act.ID,
			Detail: "signin/failure of another sign-in: " + value.Code,
		})
	}
	answer := Answer{Status: http.StatusOK}
	if e.hooks.OnFailureInvoke != nil {
		e.hooked(ctx, func() {
			if own := e.hooks.OnFailureInvoke(ctx, turn, value); own != nil {
				answer = *own
			}
		})
	}
	return c.answer(ctx, out, answer)
}

// readFailure reads the value. A null or odd one is a failure without a code.
func readFailure(act *Activity) Failure {
	var value struct {
		Code    flexible `json:"code"`
		Message flexible `json:"message"`
	}
	_ = readValue(act.Value, &value)
	return Failure{Code: clip(string(value.Code)), Message: clip(string(value.Message))}
}

// byFailure finds the attempt that a signin/failure is about: a pending SSO
// sign-in, by the card that was replied to or else the newest (D3); else a
// pending one without SSO (D6); else one that has just ended (D5); else none.
type byFailure struct {
	others []string // ids of the other pending SSO sign-ins
}

func (b *byFailure) find(ctx context.Context, c *call, ev *table.Event) (*store.Attempt, error) {
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
	if err != nil {
		return nil, err
	}
	b.others = nil
	here := c.turn.to
	ev.Stranger = isGroup(here) && !slices.ContainsFunc(snap.Attempts, func(a store.Attempt) bool {
		return a.Conversation.ID == here.ID || a.CardConversation == here.ID
	})
	if ev.Stranger {
		return nil, nil // it belongs to no sign-in of this bot (D8)
	}
	target := b.attribute(snap, c.turn.act)
	if target != nil {
		c.key = target.Key
	}
	return target, nil
}

func (b *byFailure) attribute(snap store.Snapshot, act *Activity) *store.Attempt {
	var pending, sso []*store.Attempt
	for i := range snap.Attempts {
		a := &snap.Attempts[i]
		if a.State.Terminal() {
			continue
		}
		pending = append(pending, a)
		if a.SSOOffered {
			sso = append(sso, a)
		}
	}
	switch {
	case len(sso) > 0:
		target := sso[0]
		if i := slices.IndexFunc(sso, func(a *store.Attempt) bool { return isCardOf(a, act) }); i >= 0 {
			target = sso[i]
		}
		for _, a := range sso {
			if a != target {
				b.others = append(b.others, a.ID)
			}
		}
		return target
	case len(pending) > 0:
		return pending[0]
	case len(snap.Attempts) > 0 && snap.Now.Sub(snap.Attempts[0].Entered) < lateFailure:
		return &snap.Attempts[0]
	default:
		return nil
	}
}

// warnFailure logs what every SDK used to swallow [S 000].
func (e *Engine) warnFailure(ctx context.Context, turn *Turn, f Failure) {
	line := e.logger(ctx).Warn().Str("user", turn.to.UserID).Str("conversation", turn.to.ID).
		Str("code", f.Code).Str("client_message", f.Message)
	if strings.EqualFold(f.Code, "resourcematchfailed") {
		line = line.Str("hint", "check the Entra app's Expose an API: its Application ID URI must match the connection's Token Exchange URL")
	}
	line.Msg("signin/failure: the client could not sign in silently")
	e.report(ctx, turn.act, fmt.Errorf("signin/failure: %s: %s", f.Code, f.Message))
}

func clip(s string) string {
	if len(s) > maxFailureText {
		return strings.ToValidUTF8(s[:maxFailureText], "")
	}
	return s
}
