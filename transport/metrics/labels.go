package metrics

import (
	"strings"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// other stands for every word that is not a known value.
const other = "other"

// words holds the values that a label may have, by their lower case.
type words map[string]string

func list[S ~string](of ...S) words {
	w := words{}
	for _, s := range of {
		w[strings.ToLower(string(s))] = string(s)
	}
	return w
}

// known returns the value that a word stands for in any case, or "other".
func known(w words, word string) string {
	if s, ok := w[strings.ToLower(word)]; ok {
		return s
	}
	return other
}

var (
	methods = list(store.MethodSilent, store.MethodTokenExchange, store.MethodVerifyState,
		store.MethodCompose, store.MethodAdaptiveCard, store.MethodRecovered)

	reasons = list(store.ReasonCardRejected, store.ReasonUpstreamRejected, store.ReasonUpstreamUnavailable,
		store.ReasonClientFailure, store.ReasonCodeRejected, store.ReasonUserCancelled, store.ReasonExpired,
		store.ReasonSuperseded, store.ReasonSignedOut, store.ReasonOperator, store.ReasonAbandoned)

	invokes = list(machine.InvokeTokenExchange, machine.InvokeVerifyState, machine.InvokeFailure,
		"adaptiveCard/action", "composeExtension/query", "composeExtension/queryLink",
		"composeExtension/anonymousQueryLink", "composeExtension/fetchTask", "composeExtension/submitAction",
		"composeExtension/selectItem", "composeExtension/setting", "composeExtension/querySettingUrl")

	// operations are the names of upstream calls in audit lines, including the
	// calls that must sometimes precede them.
	operations = list("GetToken", "GetToken with code", "GetToken again", "spend code", "GetSignInResource",
		"POST card", "exchange", "SignOut", "SignOut again",
		"CreateConversation", tokensvc.OpGetTokenOrSignInResource, tokensvc.OpAccessToken)

	outcomes = list(string(store.DeliveryDone), string(store.DeliveryUndeliverable), string(store.DeliveryDead), failed)

	hows = list(waited, complete, recorded)

	failureCodes = list(append(explained("failure code"), other)...)
	stuckRules   = explained("stuck rule")
)

// failed is the outcome of a try that will be repeated, or that was the only one
// allowed.
const failed = "failed"

// The ways to answer a repeat without a call upstream.
const (
	waited   = "waited"   // by the result of the device that was exchanging
	complete = "complete" // because the sign-in has completed
	recorded = "recorded" // by the recorded answer for the same token
)

// repeats maps the rows of docs/state-machine.md §4 that answer an invoke without
// a call upstream to the way in which they do so.
var repeats = map[string]string{
	"B6": waited, "C9": waited,
	"B7": complete, "B11": complete, "B12": complete, "C11": complete,
	"B9": recorded,
}

// explained lists the words of a kind that operator.Explain knows.
func explained(kind string) []string {
	var codes []string
	for _, e := range operator.Explanations() {
		if e.Kind == kind {
			codes = append(codes, e.Code)
		}
	}
	return codes
}
