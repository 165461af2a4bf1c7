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

// The invokes. Names match in any case, as everywhere.
const (
	invokeQuery        = "composeextension/query"
	invokeQueryLink    = "composeextension/querylink"
	invokeFetchTask    = "composeextension/fetchtask"
	invokeSubmitAction = "composeextension/submitaction"
	invokeSelectItem   = "composeextension/selectitem"
	invokeCardAction   = "adaptivecard/action"
)

// cancelledByUser is the state of a popup that was closed.
const cancelledByUser = "CancelledByUser"

// Query is a search.
type Query struct {
	CommandID  string
	Parameters []Parameter
	Skip       int
	Count      int
}

// Parameter is one of a query's. The first query of a command, before anything is
// typed, has one that is called initialRun.
type Parameter struct {
	Name  string
	Value string
}

// Param is the value of a parameter; "" if there is none.
func (q *Query) Param(name string) string {
	for _, p := range q.Parameters {
		if strings.EqualFold(p.Name, name) {
			return p.Value
		}
	}
	return ""
}

// Action is a command of a message extension that opens or submits a dialog.
type Action struct {
	CommandID string
	Context   string          // compose, commandBox, message
	Data      json.RawMessage // what the dialog submits
	Value     json.RawMessage // all of it, with the members of the sign-in
}

// Item is what a result that was tapped carries: the bot's own object.
type Item = json.RawMessage

// CardAction is an Action.Execute of an Adaptive Card.
type CardAction struct {
	Verb    string
	ID      string
	Trigger string // manual, automatic
	Data    json.RawMessage
}

// invoke is one that there is a handler for.
type invoke struct {
	via        store.Origin
	state      tokensvc.Secret
	exchangeID string
	token      tokensvc.Secret
	run        func(ctx context.Context, r *Request) (Response, error)
}

func (i *invoke) cancelled() bool { return strings.EqualFold(i.state.Reveal(), cancelledByUser) }

// valueJSON is the value of an invoke. encoding/json takes both spellings of its
// names.
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

// loose is a text that may come as a number or as true, and as nothing at all.
type loose string

// UnmarshalJSON never fails: an odd member must not hide the others.
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

// codeText is the popup's result. As a number it is a code of the Token Service that
// has lost the zeros it began with.
type codeText string

// UnmarshalJSON never fails either.
func (c *codeText) UnmarshalJSON(b []byte) error {
	var text loose
	err := text.UnmarshalJSON(b)
	if '0' <= b[0] && b[0] <= '9' {
		text = loose(strings.Repeat("0", max(0, codeDigits-len(text)))) + text
	}
	*c = codeText(text)
	return err
}

// codeDigits is the length of a code of the Token Service.
const codeDigits = 6

// invoke reads an activity; nil = there is no handler for it.
func (x *Extension) invoke(act *machine.Activity) *invoke {
	if act == nil || act.Type != "invoke" {
		return nil
	}
	var v valueJSON
	_ = json.Unmarshal(act.Value, &v) // a member of a wrong type is as good as none
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
		// The value is the bot's own object: a member "state" of it is no code.
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

// whole is a number that is not negative, and 0 for everything else.
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

// empty is the answer to a user who closed the popup (M6).
func (i *invoke) empty(said string) Response {
	if i.via == store.OriginCardAction {
		return CardMessage(said)
	}
	return List()
}

// sentence is an answer in words.
func (i *invoke) sentence(status int, text string) Response {
	if i.via == store.OriginCardAction {
		return cardError(status, typeError, text)
	}
	return Text(text)
}

// tokenRefused is the answer to an SSO token that was not taken (M5, M8). The
// client goes on with the sign-in link.
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
