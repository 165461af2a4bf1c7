package machine

import (
	"net/http"
	"strconv"
	"strings"
)

// Explanation says what a code means and what to do about it.
type Explanation struct {
	Code    string
	Kind    string // failure code, reason, status
	Meaning string
	Advice  string
}

// Explain looks up a failure code of signin/failure, a reason of a failed
// attempt, or an HTTP status of the Token Service or the connector.
func Explain(code string) (Explanation, bool) {
	code = strings.ToLower(strings.TrimSpace(code))
	for _, e := range Explanations() {
		if e.Code == code {
			return e, true
		}
	}
	if n, err := strconv.Atoi(code); err == nil && http.StatusText(n) != "" && n >= http.StatusBadRequest {
		kind := "the upstream refused the call"
		if n >= http.StatusInternalServerError {
			kind = "the upstream could not do its work"
		}
		return Explanation{Code: code, Kind: "status", Meaning: http.StatusText(n) + ": " + kind + ".", Advice: "Look at the upstream line of the attempt's timeline: operation, status, code."}, true
	}
	return Explanation{}, false
}

// Explanations lists everything that [Explain] knows by name: the nine
// failure codes [S 004 §16], the reasons, and the statuses that matter.
func Explanations() []Explanation {
	const code, reason, status = "failure code", "reason", "status"
	return []Explanation{
		{"installappfailed", code, "Teams could not install the app for the user, so it could not ask for an SSO token.", "Check that the tenant's app policies allow the app. The card's button still works."},
		{"authrequestfailed", code, "The client's request for an SSO token failed.", "Usually passing: the user presses the button. If many users have it, check the Entra app's sign-in logs."},
		{"installedappnotfound", code, "Teams does not find the app installed where the card was shown.", "Install the app for the user or the chat, then sign in again."},
		{"invokeerror", code, "The client could not deliver its token to the bot.", "Check the bot's endpoint: is POST /api/messages reachable and answered in time?"},
		{"resourcematchfailed", code, "The token exchange resource of the card does not match the Entra app.", "In the Entra app under Expose an API, the Application ID URI must equal the connection's Token Exchange URL (api://botid-… or api://HOST/botid-…)."},
		{"oauthcardnotvalid", code, "Teams refused the OAuth card.", "The card must not carry null members, and must be addressed to the user. The engine's cards are; look for middleware that rewrites them."},
		{"tokenmissing", code, "The client got no SSO token to hand over.", "Check webApplicationInfo in the manifest (id and resource), and that the Teams client ids are pre-authorized in the Entra app."},
		{"userconsentrequired", code, "The user has not consented to the scopes.", "The user presses the card's button and consents, or an administrator grants consent for the tenant."},
		{"interactionrequired", code, "The user has to do something: consent, multi-factor, a new password.", "The user presses the card's button. Conditional access can make this the rule."},
		{"card_rejected", reason, "The sign-in card could not be made or was refused, so nothing was shown.", "Look at the timeline: GetSignInResource or the card's POST, and its status. A wrong connection name answers 400 or 404."},
		{"upstream_rejected", reason, "The Token Service refused the exchange for good.", "401 and 403: the bot's own credentials or the connection's secret. 409: the connection's settings. The user's next message starts again."},
		{"upstream_unavailable", reason, "The Token Service gave no usable answer until the attempt was over.", "Check its health and the network. The user's next message starts again."},
		{"client_failure", reason, "The user's Teams client reported that SSO cannot work here.", "Explain the failure code that stands beside it."},
		{"code_rejected", reason, "The user sent more wrong codes than max_code_tries allows.", "The user signs in again. If it happens often, look for two bots sharing one connection name."},
		{"user_cancelled", reason, "The user closed the popup, and popup_closed is set to fail.", "Nothing to do; the user may sign in again."},
		{"expired", reason, "Nobody finished the sign-in within its time.", "Nothing to do; the user's next message starts again. Many of these with SSO offered: see the rule waiting."},
		{"superseded", reason, "The user asked again, and a new card took the old one's place.", "Look at superseded_by: the sign-in goes on there."},
		{"signed_out", reason, "The user signed out while the sign-in was under way.", "Nothing to do."},
		{"operator", reason, "An operator ended the attempt.", "The audit trail names the actor and the reason."},
		{"abandoned", reason, "The instance that was sending the card died, so nobody knows whether it was shown.", "Nothing to do; the user's next message starts again."},
		{"400", status, "Bad Request: the Token Service did not understand the call.", "On GetSignInResource: a connection name that does not exist on the bot. On exchange: a token that is no JWT for this app."},
		{"401", status, "Unauthorized: the bot's own token was refused.", "Check app_id, tenant_id and the client secret: has it expired?"},
		{"403", status, "Forbidden: the bot may not use this connection or conversation.", "Check that the connection belongs to this bot and the bot is installed in the conversation."},
		{"404", status, "Not Found: no token for this user, or no such conversation.", "On GetToken it only means: not signed in."},
		{"409", status, "Conflict: the connection's settings and the request contradict each other.", "Check the connection in the Azure Bot resource."},
		{"412", status, "Precondition Failed: the user has to consent or to sign in interactively.", "The user presses the card's button."},
		{"429", status, "Too Many Requests: the service throttles.", "Retry-After is honoured within the deadline. If it stays, ask less often."},
		{"503", status, "Service Unavailable: an upstream is down, or, as the bot's own answer, the store is.", "Teams sends the invoke again. Check readiness: GET /readyz."},
	}
}
