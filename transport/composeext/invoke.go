package composeext

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// The names of the invokes, in lower case. They match in any case.
const (
	invokeQuery        = "composeextension/query"
	invokeQueryLink    = "composeextension/querylink"
	invokeFetchTask    = "composeextension/fetchtask"
	invokeSubmitAction = "composeextension/submitaction"
	invokeSelectItem   = "composeextension/selectitem"
	invokeCardAction   = "adaptivecard/action"
)

// cancelledByUser is the value of state after the user closed the popup.
const cancelledByUser = "CancelledByUser"

// Query is a search of the user (composeExtension/query).
type Query struct {
	CommandID  string
	Parameters []Parameter
	Skip       int // results to skip, for paging
	Count      int // results to return; 0 = the client does not say
}

// Parameter is a parameter of a query. The first query of a command, before the user
// has typed anything, has the parameter initialRun.
type Parameter struct {
	Name  string
	Value string
}

// Param returns the value of a parameter, or "" if there is none. The case of the
// name is ignored.
func (q *Query) Param(name string) string {
	for _, p := range q.Parameters {
		if strings.EqualFold(p.Name, name) {
			return p.Value
		}
	}
	return ""
}

// Action is a command of a message extension that opens a dialog
// (composeExtension/fetchTask) or submits it (composeExtension/submitAction).
type Action struct {
	CommandID string
	Context   string          // compose, commandBox, message
	Data      json.RawMessage // the data that the dialog submits
	Value     json.RawMessage // the whole value, including the state of a sign-in
}

// Item is the value of the result that the user tapped: an object of the bot's own
// (composeExtension/selectItem).
type Item = json.RawMessage

// CardAction is an Action.Execute of an Adaptive Card (adaptiveCard/action).
type CardAction struct {
	Verb    string
	ID      string
	Trigger string // manual, automatic
	Data    json.RawMessage
}

// invoke is an invoke that has a handler.
type invoke struct {
	via        store.Origin
	state      tokensvc.Secret
	exchangeID string
	token      tokensvc.Secret
	run        func(ctx context.Context, r *Request) (Response, error)
}

func (i *invoke) cancelled() bool { return strings.EqualFold(i.state.Reveal(), cancelledByUser) }

// valueJSON is the value of an invoke. encoding/json ignores the case of names, so
// it reads both spellings.
type valueJSON struct {
	CommandID      loose           `json:"commandId"`
	CommandContext loose           `json:"commandContext"`
	Parameters     []parameterJSON `json:"parameters"`
	QueryOptions   struct {
		Skip  loose `json:"skip"`
		Count loose `json:"count"`
	} `json:"queryOptions"`
	URL            loose           `json:"url"`
	Data           json.RawMessage `json:"data"`
	State          codeText        `json:"state"`
	Authentication struct {
		ID    loose `json:"id"`
		Token loose `json:"token"`
	} `json:"authentication"`
	Action struct {
		ID   loose           `json:"id"`
		Verb loose           `json:"verb"`
		Data json.RawMessage `json:"data"`
	} `json:"action"`
	Trigger loose `json:"trigger"`
}

type parameterJSON struct {
	Name  loose `json:"name"`
	Value loose `json:"value"`
}

// loose is a text that clients may also send as a number or a boolean. Any other
// value is "".
type loose string

// UnmarshalJSON never fails: a member of an unexpected type must not make the others
// unreadable.
func (l *loose) UnmarshalJSON(b []byte) error {
	var s string
	switch text := string(b); {
	case json.Unmarshal(b, &s) == nil:
		*l = loose(s)
	case text == "true", text == "false", text != "" && strings.ContainsRune("-0123456789", rune(text[0])):
		*l = loose(text)
	}
	return nil
}

// codeText is the result of a popup. If it is a number, it is a code of the Token
// Service without its leading zeros.
type codeText string

// UnmarshalJSON never fails. It restores the leading zeros of a number.
func (c *codeText) UnmarshalJSON(b []byte) error {
	var text loose
	err := text.UnmarshalJSON(b)
	if '0' <= b[0] && b[0] <= '9' {
		text = loose(strings.Repeat("0", max(0, codeDigits-len(text)))) + text
	}
	*c = codeText(text)
	return err
}

// codeDigits is the number of digits of a code of the Token Service.
const codeDigits = 6

// invoke reads an activity. It returns nil if there is no handler for it.
func (x *Extension) invoke(act *machine.Activity) *invoke {
	if act == nil || act.Type != "invoke" {
		return nil
	}
	var v valueJSON
	_ = json.Unmarshal(act.Value, &v) // a member of a wrong type counts as missing
	inv := &invoke{
		via: store.OriginCompose, state: tokensvc.NewSecret(string(v.State)),
		exchangeID: string(v.Authentication.ID), token: tokensvc.NewSecret(string(v.Authentication.Token)),
	}
	cfg := &x.cfg
	switch name := strings.ToLower(act.Name); {
	case name == invokeQuery && cfg.OnQuery != nil:
		inv.run = func(ctx context.Context, r *Request) (Response, error) { return cfg.OnQuery(ctx, r, v.query()) }
	case name == invokeQueryLink && cfg.OnQueryLink != nil:
		inv.run = func(ctx context.Context, r *Request) (Response, error) { return cfg.OnQueryLink(ctx, r, string(v.URL)) }
	case name == invokeFetchTask && cfg.OnFetchTask != nil:
		inv.run = func(ctx context.Context, r *Request) (Response, error) {
			return cfg.OnFetchTask(ctx, r, v.act(act.Value))
		}
	case name == invokeSubmitAction && cfg.OnSubmitAction != nil:
		inv.run = func(ctx context.Context, r *Request) (Response, error) {
			return cfg.OnSubmitAction(ctx, r, v.act(act.Value))
		}
	case name == invokeSelectItem && cfg.OnSelectItem != nil:
		// The value is the bot's own object, so its members "state" and "authentication"
		// do not belong to a sign-in.
		inv.state, inv.token, inv.exchangeID = tokensvc.Secret{}, tokensvc.Secret{}, ""
		inv.run = func(ctx context.Context, r *Request) (Response, error) { return cfg.OnSelectItem(ctx, r, act.Value) }
	case name == invokeCardAction && cfg.OnCardAction != nil:
		inv.via = store.OriginCardAction
		inv.run = func(ctx context.Context, r *Request) (Response, error) {
			return cfg.OnCardAction(ctx, r, CardAction{
				Verb: string(v.Action.Verb), ID: string(v.Action.ID), Trigger: string(v.Trigger), Data: v.Action.Data,
			})
		}
	default:
		return nil
	}
	return inv
}

func (v *valueJSON) query() Query {
	q := Query{CommandID: string(v.CommandID)}
	for _, p := range v.Parameters {
		q.Parameters = append(q.Parameters, Parameter{string(p.Name), string(p.Value)})
	}
	q.Skip, q.Count = whole(v.QueryOptions.Skip), whole(v.QueryOptions.Count)
	return q
}

// whole returns n as a number, or 0 if it is not a number or is negative.
func whole(n loose) int {
	i, err := strconv.Atoi(string(n))
	if err != nil || i < 0 {
		return 0
	}
	return i
}

func (v *valueJSON) act(all json.RawMessage) Action {
	return Action{CommandID: string(v.CommandID), Context: string(v.CommandContext), Data: v.Data, Value: all}
}

// empty returns the answer for a user who closed the popup (M6).
func (i *invoke) empty(said string) Response {
	if i.via == store.OriginCardAction {
		return CardMessage(said)
	}
	return List()
}

// sentence returns an answer that shows a text to the user.
func (i *invoke) sentence(status int, text string) Response {
	if i.via == store.OriginCardAction {
		return cardError(status, typeError, text)
	}
	return Text(text)
}

// tokenRefused returns the answer to an SSO token that was refused (M5, M8). The
// client then offers the sign-in link.
func (i *invoke) tokenRefused(ask *machine.Ask, status int) *machine.Answer {
	const said = "the token cannot be exchanged"
	switch {
	case i.via != store.OriginCardAction && status == http.StatusPreconditionFailed:
		return &machine.Answer{Status: status, Body: machine.ExchangeResponse{
			ID: ask.ExchangeID, ConnectionName: ask.Connection, FailureDetail: said,
		}}
	case i.via != store.OriginCardAction:
		return &machine.Answer{Status: status}
	case status == http.StatusPreconditionFailed:
		return ok(cardError(status, typePrecondition, said))
	default:
		return ok(cardError(status, typeError, said))
	}
}
