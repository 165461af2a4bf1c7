package metrics

import (
	"strings"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// other stands for every word that is not among those known.
const other = "other"

// words are the values that a label may have, by their lower case.
type words map[string]string

func list[S ~string](of ...S) words {
	w := words{}
	for _, s := range of {
		w[strings.ToLower(string(s))] = string(s)
	}
	return w
}

// known returns the value for a word, whatever its case, or "other".
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

	// operations are what the engine calls, as its audit lines name it, and what
	// may have to come first.
	operations = list("GetToken", "GetToken with code", "GetToken again", "spend code", "GetSignInResource",
		"POST card", "exchange", "SignOut", "SignOut again",
		"CreateConversation", tokensvc.OpGetTokenOrSignInResource, tokensvc.OpAccessToken)

	outcomes = list(string(store.DeliveryDone), string(store.DeliveryUndeliverable), string(store.DeliveryDead), failed)

	hows = list(waited, complete, recorded)

	failureCodes = list(append(explained("failure code"), other)...)
	stuckRules   = explained("stuck rule")
)

// failed is the outcome of a callback that is tried again, or that was to be
// tried only once.
const failed = "failed"

// How a repeat was answered without a call upstream.
const (
	waited   = "waited"   // as whoever was at it
	complete = "complete" // the sign-in is over
	recorded = "recorded" // as the same token was before
)

// repeats are the rows of docs/state-machine.md §4 that answer an invoke
// without a call upstream, by how.
var repeats = map[string]string{
	"B6": waited, "C9": waited,
	"B7": complete, "B11": complete, "B12": complete, "C11": complete,
	"B9": recorded,
}

// explained are the words of a kind that operator.Explain knows.
func explained(kind string) []string {
	var codes []string
	for _, e := range operator.Explanations() {
		if e.Kind == kind {
			codes = append(codes, e.Code)
		}
	}
	return codes
}
