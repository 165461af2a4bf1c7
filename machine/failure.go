package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// lateFailure is how long after the end of an attempt a signin/failure is
// taken for a late one of another device (D5).
const lateFailure = 5 * time.Minute

// maxFailureText bounds what a client can make us store.
const maxFailureText = 256

// signInFailure runs rows D of the table: the client's SSO failed. It names no
// connection, and its answer is 200 whatever it says [S 000].
func (e *Engine) signInFailure(ctx context.Context, act *Activity) Answer {
	var value Failure
	_ = json.Unmarshal(act.Value, &value) // a null or odd payload is a failure without a code
	value.Code, value.Message = clip(value.Code), clip(value.Message)
	turn := e.Turn(act)
	e.warnFailure(ctx, turn, value)

	c := e.call(turn, e.flows[0])
	ev := c.invoked(ClientFailure)
	ev.Code, ev.Message, ev.Detail = value.Code, value.Message, value.Code
	var others []store.Attempt
	c.locate = func(c *call, ctx context.Context) (sighting, error) {
		snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
		if err != nil {
			return sighting{}, err
		}
		var here sighting
		here.attempt, others = attributeFailure(snap, act)
		if here.attempt != nil {
			c.key, c.flow = here.attempt.Key, e.byName[strings.ToLower(here.attempt.Key.Connection)]
		}
		return here, nil
	}
	c.received(act.Name)
	out, err := c.drive(ctx)
	if err != nil {
		return c.broken(ctx, out.attempt, err)
	}
	for _, o := range others { // D3: they are told, not moved
		c.note(store.Event{Kind: store.EventNote, Row: "D3", Attempt: o.ID, Invoke: act.Name, Activity: act.ID, Detail: "signin/failure of another sign-in: " + value.Code})
	}
	answer := Answer{Status: http.StatusOK}
	if e.hooks.OnFailureInvoke != nil {
		if own := e.hooks.OnFailureInvoke(ctx, turn, value); own != nil {
			answer = *own
		}
	}
	return c.answer(ctx, out, answer)
}

// attributeFailure picks the attempt that a signin/failure is about: a pending
// SSO sign-in, by the card that was replied to or else the newest (D3); else a
// pending one without SSO (D6); else one that has just ended (D5); else none.
func attributeFailure(snap store.Snapshot, act *Activity) (target *store.Attempt, others []store.Attempt) {
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
		target = sso[0]
		if i := slices.IndexFunc(sso, func(a *store.Attempt) bool { return isCardOf(a, act) }); i >= 0 {
			target = sso[i]
		}
		for _, a := range sso {
			if a != target {
				others = append(others, *a)
			}
		}
	case len(pending) > 0:
		target = pending[0]
	case len(snap.Attempts) > 0 && snap.Now.Sub(snap.Attempts[0].Entered) < lateFailure:
		target = &snap.Attempts[0]
	}
	return target, others
}

// warnFailure logs what every SDK used to swallow [S 000].
func (e *Engine) warnFailure(ctx context.Context, turn *Turn, f Failure) {
	line := e.log.Warn().Str("user", turn.to.UserID).Str("conversation", turn.to.ID).
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
