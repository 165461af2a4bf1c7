package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// tokenExchange runs rows B of the table: signin/tokenExchange arrived.
func (e *Engine) tokenExchange(ctx context.Context, act *Activity) Answer {
	var value struct {
		ID             string          `json:"id"`
		ConnectionName string          `json:"connectionName"`
		Token          tokensvc.Secret `json:"token"`
	}
	turn := e.Turn(act)
	if err := json.Unmarshal(act.Value, &value); err != nil || value.Token.Empty() {
		return e.refuse(ctx, turn, "B0", http.StatusBadRequest, "signin/tokenExchange without a token")
	}
	flow, err := e.Flow(value.ConnectionName)
	if err != nil && len(e.flows) == 1 {
		flow, err = e.flows[0], nil // a single connection takes any name
	}
	if err != nil {
		return e.refuse(ctx, turn, "B0", http.StatusBadRequest, "signin/tokenExchange for a connection that is not registered")
	}
	c := e.call(turn, flow)
	defer c.release()
	c.ssoToken = value.Token
	ev := c.invoked(TokenExchange)
	ev.ExchangeID = value.ID
	ev.TokenMark = e.mark("token", c.key.UserKey(), value.Token)
	c.locate = (*call).byExchange
	c.received(act.Name)
	out, err := c.drive(ctx)
	if err != nil {
		return c.broken(ctx, out.attempt, err)
	}
	body := ExchangeResponse{ID: value.ID, ConnectionName: value.ConnectionName}
	return c.answer(ctx, out, e.exchangeAnswer(out, ev, body))
}

// exchangeAnswer is the table's reply as an invoke answer.
func (e *Engine) exchangeAnswer(out outcome, last *Event, body ExchangeResponse) Answer {
	switch out.rule.Reply {
	case ReplyBody:
		return e.exchanged(http.StatusPreconditionFailed, last.Detail, body)
	case ReplyRecord:
		return e.exchanged(out.attempt.AnswerStatus, out.attempt.AnswerDetail, body)
	case ReplyStatus:
		return e.exchanged(statusOr412(last.Status), last.Detail, body)
	case ReplyBad:
		body.FailureDetail = out.rule.Note
		return Answer{Status: http.StatusBadRequest, Body: body}
	default:
		return e.exchanged(http.StatusOK, "", body)
	}
}

// exchanged is the answer for a status: 412 has a body with the detail, 200
// has one if the policy says so, the others have none [S 004 §17].
func (e *Engine) exchanged(status int, detail string, body ExchangeResponse) Answer {
	switch {
	case status == http.StatusPreconditionFailed:
		body.FailureDetail = detail
		return Answer{Status: status, Body: body}
	case status == http.StatusOK && e.policy.SuccessBody == Echo:
		return Answer{Status: status, Body: body}
	default:
		return Answer{Status: status}
	}
}

// byExchange attributes an exchange: by the card's exchange id, which is exact
// (through the chain to its newest attempt), else by what is pending for the
// key (B1, B13, B16–B18).
func (c *call) byExchange(ctx context.Context) (sighting, error) {
	ev := &c.in.Event
	if h, ok := c.eng.hints.take(ev.ExchangeID, c.key, c.begun); ok {
		c.seen, c.seenAt = h.seen, h.seenAt
		return sighting{attempt: h.attempt, hint: true}, nil
	}
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey(), Connection: c.key.Connection, ExchangeID: ev.ExchangeID})
	if err != nil {
		return sighting{}, err
	}
	var newest *store.Attempt
	if len(snap.Attempts) > 0 {
		newest = &snap.Attempts[0]
	}
	pending := newest != nil && !newest.State.Terminal()
	owner := snap.ByExchangeID
	foreign := owner != nil && owner.Key.UserKey() != c.key.UserKey()
	if foreign {
		c.foreign(owner)
		owner = nil
	}
	if owner != nil && !owner.Key.Same(c.key) {
		// The id names the card; the connection's name in the value does not.
		if err := c.rekey(owner.Key); err != nil {
			owner = nil
		} else {
			return c.byExchange(ctx)
		}
	}
	if owner != nil {
		head, err := c.head(ctx, owner)
		if err != nil {
			return sighting{}, err
		}
		here := sighting{attempt: head, oldCard: head.ID != owner.ID}
		if pending && newest.ID != head.ID && goesOn(head, ev) {
			return sighting{attempt: newest, oldCard: true}, nil
		}
		return here, nil
	}
	// An id that is missing or another user's says nothing: the token does (B17, B18).
	nameless := ev.ExchangeID == "" || foreign
	if pending || newest != nil && nameless && bytes.Equal(newest.TokenMark, ev.TokenMark) {
		return sighting{attempt: newest, foreign: foreign}, nil
	}
	return sighting{foreign: foreign}, nil
}

// goesOn reports whether an exchange for an attempt that ended is handed to
// the one that is pending: all that would open a linked attempt.
func goesOn(head *store.Attempt, ev *Event) bool {
	switch {
	case head.State != store.Failed, head.Reason == store.ReasonSignedOut:
		return false
	case head.Reason == store.ReasonUpstreamRejected, head.Reason == store.ReasonUpstreamUnavailable:
		return head.AnswerStatus == 0 || !bytes.Equal(head.TokenMark, ev.TokenMark)
	default:
		return true
	}
}

// rekey turns the call to another connection of the same user.
func (c *call) rekey(k store.Key) error {
	f, err := c.eng.Flow(k.Connection)
	if err != nil {
		return err
	}
	c.flow, c.key = f, k
	return nil
}

// foreign notes an exchange id that belongs to another user (B18). That
// attempt is never touched.
func (c *call) foreign(owner *store.Attempt) {
	for _, l := range c.lines {
		if l.Kind == store.EventSecurity {
			return
		}
	}
	c.note(store.Event{Kind: store.EventSecurity, Row: "B18", Invoke: InvokeTokenExchange, Detail: "exchange id of another user"})
	c.eng.log.Warn().Str("user", c.key.User).Str("attempt", owner.ID).
		Msg("signin/tokenExchange with the exchange id of another user")
}

// invoked makes the invoke that came the event.
func (c *call) invoked(k Kind) *Event {
	ev := &c.in.Event
	ev.Kind, ev.Invoke, ev.Activity, ev.Platform = k, c.act.Name, c.act.ID, c.act.Platform
	return ev
}

// refuse answers an invoke that says nothing (B0, C0, C13 …): an orphan line
// and no upstream call.
func (e *Engine) refuse(ctx context.Context, turn *Turn, row string, status int, why string) Answer {
	c := e.call(turn, &Flow{eng: e})
	c.note(store.Event{
		Kind: store.EventNote, Row: row, Invoke: turn.act.Name, Activity: turn.act.ID,
		Platform: turn.act.Platform, Status: status, Detail: why,
	})
	e.log.Warn().Str("user", c.key.User).Str("conversation", turn.to.ID).Str("row", row).Int("status", status).Msg(why)
	if err := e.Ready(ctx); err != nil {
		return c.broken(ctx, nil, err)
	}
	c.finish(ctx, nil)
	return Answer{Status: status}
}

// answer writes the audit line of an invoke's answer and hands everything that
// is left to the next group of commits.
func (c *call) answer(ctx context.Context, out outcome, a Answer) Answer {
	line := store.Event{
		Kind: store.EventAnswer, Row: out.rule.Row, Status: a.Status, Duration: c.eng.clock().Sub(c.begun),
		Invoke: c.in.Event.Invoke, Activity: c.in.Event.Activity,
	}
	if out.attempt != nil {
		line.Attempt = out.attempt.ID
	}
	c.note(line)
	c.finish(ctx, out.attempt)
	return a
}

// broken is the answer to an invoke when the store does not do its part (S).
func (c *call) broken(ctx context.Context, a *store.Attempt, err error) Answer {
	c.eng.log.Error().Str("user", c.key.User).Str("connection", c.key.Connection).Err(err).Msg("store unavailable: invoke answered 503")
	c.eng.report(ctx, c.act, err)
	c.finish(ctx, a)
	return unavailable()
}
