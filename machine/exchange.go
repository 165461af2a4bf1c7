package machine

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

const notRegistered = "signin/tokenExchange for a connection that is not registered"

// maxExchangeID bounds the id of an exchange, in bytes. Those of the Token Service
// have 36; the id is stored with the attempt.
const maxExchangeID = 1024

// tokenExchange runs rows B of the table: signin/tokenExchange arrived.
func (e *Engine) tokenExchange(ctx context.Context, turn *Turn) Answer {
	var value struct {
		ID             flexible        `json:"id"`
		ConnectionName string          `json:"connectionName"`
		Token          tokensvc.Secret `json:"token"`
	}
	c := e.call(turn, "")
	if err := readValue(turn.act.Value, &value); err != nil || value.Token.Empty() {
		return c.refuse(ctx, "B0", http.StatusBadRequest, "signin/tokenExchange without a token", nil)
	}
	if len(value.ID) > maxExchangeID {
		return c.refuse(ctx, "B0", http.StatusBadRequest, "signin/tokenExchange with an id that is too long", nil)
	}
	connection, known, err := c.connectionOf(ctx, string(value.ID), value.ConnectionName)
	switch {
	case err != nil:
		return c.broken(ctx, outcome{}, err)
	case !known:
		return c.refuse(ctx, "B0", http.StatusBadRequest, notRegistered, nil)
	}
	c.key.Connection = connection
	c.received(turn.act.Name)
	if c.mismatch(ctx, value.Token) && c.rejects() {
		return c.refuse(ctx, "§9", http.StatusForbidden, "signin/tokenExchange with another user's token", nil)
	}
	c.ssoToken = value.Token
	ev := c.event(table.TokenExchange)
	ev.ExchangeID = string(value.ID)
	ev.TokenMarks = e.mark("token", c.key.UserKey(), value.Token)
	out, err := c.drive(ctx, byExchange{}, ev)
	switch {
	case errors.Is(err, errUnregistered):
		return c.refuse(ctx, "B0", http.StatusBadRequest, notRegistered, nil)
	case err != nil:
		return c.broken(ctx, out, err)
	}
	body := ExchangeResponse{ID: string(value.ID), ConnectionName: value.ConnectionName}
	return c.answer(ctx, out, e.exchangeAnswer(out, body))
}

// connectionOf returns the connection of an exchange. The exchange id identifies it
// exactly, whatever the value's name. A connection that is no longer registered is
// unknown. If only one is registered, any name is accepted.
func (c *call) connectionOf(ctx context.Context, id, name string) (connection string, known bool, err error) {
	e := c.eng
	if f := e.registered(name); f != nil && f.exchanges() {
		return f.conn.Name, true, nil // byExchange then follows the id
	}
	if only := e.onlyChat(); only != nil {
		return only.conn.Name, true, nil
	}
	if id == "" {
		return "", false, nil
	}
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey(), Connection: name, ExchangeID: id})
	if err != nil {
		return "", false, err
	}
	owner := snap.ByExchangeID
	if owner == nil || owner.Key.UserKey() != c.key.UserKey() {
		return "", false, nil
	}
	f := e.registered(owner.Key.Connection)
	if f == nil {
		return "", false, nil
	}
	return f.conn.Name, true, nil
}

// exchanges reports whether clients send SSO tokens for the connection. They do not
// if its popup is the bot's own.
func (f *Flow) exchanges() bool {
	_, popup := f.conn.Tokens.(Redeemer)
	return !popup
}

// onlyChat returns the connection of all exchanges, if there is only one.
func (e *Engine) onlyChat() *Flow {
	var only *Flow
	for _, f := range e.flows {
		switch {
		case !f.exchanges():
		case only != nil:
			return nil
		default:
			only = f
		}
	}
	return only
}

// exchangeAnswer converts the table's reply to an invoke answer.
func (e *Engine) exchangeAnswer(out outcome, body ExchangeResponse) Answer {
	switch out.reply {
	case table.ReplyBody:
		return e.exchanged(http.StatusPreconditionFailed, out.event.Detail, body)
	case table.ReplyRecord:
		return e.exchanged(out.attempt.AnswerStatus, out.attempt.AnswerDetail, body)
	case table.ReplyStatus:
		return e.exchanged(statusOr412(out.event.Status), out.event.Detail, body)
	case table.ReplyBad:
		body.FailureDetail = out.note
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

// flexible is a string that may be sent as a number.
type flexible string

// UnmarshalJSON takes a string, a number, or nothing.
func (f *flexible) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*f = flexible(s)
		return nil
	}
	var n json.Number
	if json.Unmarshal(b, &n) == nil {
		*f = flexible(n.String())
	}
	return nil
}
