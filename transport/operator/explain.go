package operator

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/signin-engine/signin-engine/machine/diagram"
)

// Explanation says what a word of this product means and what to do about it.
type Explanation struct {
	Code    string `json:"code"`    // the word
	Kind    string `json:"kind"`    // what sort of word it is, such as "reason" or "stuck rule"
	Meaning string `json:"meaning"` // one or more sentences
	Advice  string `json:"advice"`  // what to do; "Nothing to do." if all is well
}

// The kinds of words.
const (
	kindClient     = "failure code"   // of signin/failure [S 004 §16]
	kindService    = "service code"   // of the Token Service
	kindConnector  = "connector code" // of the Bot Connector
	kindOAuth      = "OAuth code"     // of Entra, when the bot asks for its own token
	kindExchange   = "exchange code"  // of Entra, when a direct connection exchanges a user's token
	kindCircuit    = "upstream code"  // of the bot itself, about any upstream
	kindSource     = "source"
	kindReason     = "reason"
	kindMethod     = "method"
	kindState      = "state"
	kindOrigin     = "origin"
	kindCallback   = "callback status"
	kindRule       = "stuck rule"
	kindRow        = "row"
	kindHTTPStatus = "status"
	kindNote       = "note" // of the timeline
	kindLine       = "timeline line"
	kindCall       = "call" // to an upstream, or into the engine
	kindCard       = "card"
	kindSSO        = "SSO outcome"
	kindResult     = "check result" // of doctor, and the levels of a rule
	kindRefused    = "refused request"
	kindPopup      = "popup reason" // that the popup of a message extension sends to Teams
)

// Explain returns the explanation of a word: a code, a reason, a state, a stuck
// rule, a row of the transition table, an HTTP status. Upper and lower case are the
// same. If a word has several meanings, it returns the first; see [ExplainAll].
func Explain(word string) (Explanation, bool) {
	word = strings.TrimSpace(word)
	for _, e := range Explanations() {
		if strings.EqualFold(e.Code, word) {
			return e, true
		}
	}
	if row, _, late := strings.Cut(word, "/"); late { // B2/late
		if e, ok := Explain(row); ok && e.Kind == kindRow {
			e.Code = word
			e.Meaning += " Here it came late: others had changed the attempt meanwhile."
			return e, true
		}
	}
	if outcome, code, ok := strings.Cut(word, ":"); ok { // client_failed:tokenmissing
		if e, known := Explain(outcome); known && e.Kind == kindSSO {
			e.Code, e.Advice = word, "Explain "+code+"."
			return e, true
		}
	}
	if e, ok := explainEntra(word); ok {
		return e, true
	}
	return explainStatus(word)
}

// explainEntra explains an Entra code (AADSTS…) that the table does not have.
func explainEntra(word string) (Explanation, bool) {
	code := strings.ToUpper(word)
	number, ok := strings.CutPrefix(code, "AADSTS")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return Explanation{}, false
	}
	return Explanation{
		Code: code, Kind: kindExchange, Meaning: "Entra refused to exchange the user's token.",
		Advice: "https://login.microsoftonline.com/error?code=" + number + " says what the code means.",
	}, true
}

// explainStatus explains an HTTP status that the table does not have.
func explainStatus(word string) (Explanation, bool) {
	n, err := strconv.Atoi(word)
	if err != nil || http.StatusText(n) == "" {
		return Explanation{}, false
	}
	e := Explanation{
		Code: word, Kind: kindHTTPStatus, Meaning: http.StatusText(n) + ": ",
		Advice: "Look at the upstream line of the attempt's timeline: operation, status, code.",
	}
	switch {
	case n < http.StatusOK, n >= http.StatusMultipleChoices && n < http.StatusBadRequest:
		return Explanation{}, false
	case n < http.StatusMultipleChoices:
		e.Meaning, e.Advice = e.Meaning+"the call worked.", nothingToDo
	case n < http.StatusInternalServerError:
		e.Meaning += "the upstream refused the call."
	default:
		e.Meaning += "the upstream could not do its work."
	}
	return e, true
}

// ExplainAll returns every meaning of a word: the first is [Explain]'s.
func ExplainAll(word string) []Explanation {
	first, ok := Explain(word)
	if !ok {
		return nil
	}
	all := []Explanation{first}
	for _, e := range Explanations() {
		if strings.EqualFold(e.Code, first.Code) && e.Kind != first.Kind {
			all = append(all, e)
		}
	}
	return all
}

// nothingToDo is the advice for a word that says that all is well.
const nothingToDo = "Nothing to do."

// Suggest returns the words that [Explain] knows and that are spelt like word.
func Suggest(word string) []string {
	word = strings.TrimSpace(word)
	var words []string
	for _, e := range Explanations() {
		switch {
		case e.Kind == kindRow && (word == "" || !strings.EqualFold(e.Code[:1], word[:1])):
			continue // the names of all rows are alike
		case e.Kind == kindNote && !strings.Contains(word, " "):
			continue // a note is a sentence and would match many words
		}
		words = append(words, e.Code)
	}
	return SpeltLike(word, words)
}

// SpeltLike returns those of the known words that contain word or are spelt like
// it. Upper and lower case are the same.
func SpeltLike(word string, known []string) []string {
	if word = strings.ToLower(strings.TrimSpace(word)); word == "" {
		return nil
	}
	most := max(1, len(word)/4)
	var near []string
	for _, k := range known {
		low := strings.ToLower(k)
		if len(word) > 3 && strings.Contains(low, word) || distance(word, low, most) <= most {
			near = append(near, k)
		}
	}
	return near
}

// distance is the edit distance of two words in bytes, where a swap of two
// neighbours counts as one edit. A distance above most may be returned as most+1.
func distance(a, b string, most int) int {
	if d := len(a) - len(b); d > most || -d > most {
		return most + 1
	}
	var before []int // the row before last
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// Explanations lists everything that [Explain] knows by name.
func Explanations() []Explanation {
	rules := make([]Explanation, len(ruleTexts))
	for i, t := range ruleTexts {
		rules[i] = Explanation{t.rule, kindRule, t.meaning, t.advice}
	}
	var rows, notes []Explanation
	noted := map[string]bool{} // several rows have the same note
	for _, r := range diagram.Rows() {
		meaning, advice := r.When+". "+r.Then, rowAdvice(r.Name)
		rows = append(rows, Explanation{r.Name, kindRow, meaning, advice})
		for _, note := range r.Notes {
			if !noted[note] {
				noted[note] = true
				notes = append(notes, Explanation{note, kindNote, "Row " + r.Name + ". " + meaning, advice})
			}
		}
	}
	return slices.Concat(words[:], rules, rows, notes)
}

// rowAdvice is the advice for a row of the transition table.
func rowAdvice(name string) string {
	switch name {
	case "A4":
		return "Look at status and code. See the rule lookups-failing."
	case "A5", "A7":
		return "Look at the failure of the attempt, and explain its code. A wrong connection name answers 400 or 404."
	case "A8":
		return "If the user sees no card, the next message starts again."
	case "B0":
		return "Check that the connection is registered with this bot."
	case "B3", "B4":
		return "Look at the failure and the diagnosis of the attempt."
	case "B16":
		return "If there are many: do all instances share one store? Was it lost?"
	case "B18":
		return "If it happens often, somebody tries other people's cards."
	case "C0":
		return "Check what is between Teams and the bot."
	case "C8", "E5":
		return "Look at status and code."
	case "D0", "D1", "D2", "D7":
		return "Explain the failure code."
	default:
		return "Nothing to do."
	}
}

var words = [...]Explanation{
	{"installappfailed", kindClient, "Teams could not install the app for the user, so it could not ask for an SSO token.", "Check that the tenant's app policies allow the app. The card's button still works."},
	{"authrequestfailed", kindClient, "The client's request for an SSO token failed.", "Usually temporary: the user presses the button. If many users have it, check the Entra app's sign-in logs."},
	{"installedappnotfound", kindClient, "Teams does not find the app installed where the card was shown.", "Install the app for the user or the chat, then sign in again."},
	{"invokeerror", kindClient, "The client could not deliver its token to the bot.", "Check the bot's endpoint: is POST /api/messages reachable and answered in time?"},
	{"resourcematchfailed", kindClient, "The token exchange resource of the card does not match the Entra app. The user's cards of the next 24 hours come without SSO, only with the button.", "In the Entra app under Expose an API, the Application ID URI must equal the connection's Token Exchange URL (api://botid-… or api://HOST/botid-…)."},
	{"oauthcardnotvalid", kindClient, "Teams refused the OAuth card.", "The card must not carry null members, and must be addressed to the user. The engine's cards are; look for middleware that rewrites them."},
	{"tokenmissing", kindClient, "The client got no SSO token to send.", "Check webApplicationInfo in the manifest (id and resource), and that the Teams client ids are pre-authorized in the Entra app."},
	{"userconsentrequired", kindClient, "The user has not consented to the scopes.", "The user presses the card's button and consents, or an administrator grants consent for the tenant."},
	{"interactionrequired", kindClient, "The user has to do something: consent, multi-factor, a new password.", "The user presses the card's button. Conditional access can make this the rule."},

	{"consent_required", kindService, "The user, or the tenant's administrator, has not consented to the connection's scopes.", "The user presses the card's button and consents, or an administrator grants consent for the tenant. Nothing has to be repaired."},
	{"interaction_required", kindService, "Entra needs the user on a page: multi-factor, a new password, a policy.", "The user presses the card's button. Conditional access can make this the rule."},
	{"ServiceError", kindService, "The service failed, and says no more. For a card it can also mean that its form is not accepted.", "If it passes, nothing. If it stays: on the Token Service check the region (token_service_url); on a card look for middleware that rewrites it."},
	{"BadArgument", kindService, "The service did not understand the call.", "Most often a connection name that the bot does not have, in Azure under Configuration, OAuth connection settings."},
	{"NotFound", kindService, "The service does not know the object of the call.", "On GetToken it only means: not signed in. On the others check connection name and region."},

	{"circuit_open", kindCircuit, "The upstream did not answer the requests before this one, so this one was refused at once, without asking. Every few seconds one request goes through.", "Find out why the upstream does not answer: network, proxy, firewall, an outage. doctor names it under upstreams. The code goes as soon as it answers."},

	{"BotDisabledByAdmin", kindConnector, "An administrator has blocked the bot in the user's tenant, so nothing can be sent.", "The tenant's administrator has to allow the app in the Teams admin center. Until then no sign-in is possible there."},
	{"BotNotInConversationRoster", kindConnector, "The bot is no member of the conversation: it was removed, or never added.", "Install the app in that chat or team, or for that user. The user's next message starts again."},
	{"ConversationBlockedByUser", kindConnector, "The user has blocked the chat with the bot.", "Nothing to repair: only the user can unblock it. A callback with this code is closed as undeliverable."},
	{"MessageWritesBlocked", kindConnector, "The bot may not write into this conversation: it was blocked, muted or archived.", "Nothing to repair on the bot's side. A callback with this code is closed as undeliverable."},
	{"ConversationNotFound", kindConnector, "The conversation is gone, or belongs to another bot or region.", "The user's next message starts again. If many have it, check that the service URL is not rewritten on the way."},
	{"BotNotRegistered", kindConnector, "The connector knows no bot with this app id.", "Check app_id and that the bot resource has the Teams channel."},
	{"ForbiddenOperationException", kindConnector, "The bot is not installed for this user.", "Install the app for the user; setup policies can do it for everybody."},
	{"ActivityNotFoundInConversation", kindConnector, "The message to change or to answer does not exist.", "Nothing to do; the user's next message starts again."},
	{"MessageSizeTooBig", kindConnector, "The message is longer than Teams accepts.", "Shorten what the bot's own code sends."},

	{"invalid_client", kindOAuth, "Entra refuses the bot's credentials: the secret is wrong or has expired, the certificate is not the app's, or the app does not exist in this tenant.", "Make a new client secret for the app (Entra, App registrations, Certificates & secrets) and set client_secret or client_secret_file; check app_id and tenant_id."},
	{"unauthorized_client", kindOAuth, "Entra does not let this app ask for a token in this way: it is disabled, or does not exist in the tenant.", "Check tenant_id: a single-tenant bot needs its own tenant, a multi-tenant bot none. Check that the app's service principal is enabled."},
	{"invalid_grant", kindOAuth, "Entra refuses the assertion or the refresh token: it has expired, or a policy no longer allows it.", "With federated credentials check issuer, subject and audience of the assertion, and the machine's clock. For a user it means to sign in again."},
	{"invalid_request", kindOAuth, "Entra did not understand the request: a parameter is missing or wrong.", "Check app_id, tenant_id and login_url."},
	{"invalid_scope", kindOAuth, "Entra does not know the scope of the request.", "The scope belongs to the cloud: check cloud and login_url."},
	{"invalid_resource", kindOAuth, "The resource is not known in this tenant.", "The scope belongs to the cloud: check cloud, login_url and tenant_id."},
	{"unsupported_grant_type", kindOAuth, "The requested address is no token endpoint of Entra.", "Check login_url."},
	{"access_denied", kindOAuth, "The user, or a policy, refused.", "The user signs in again and consents. If a policy refuses it, its administrator decides."},
	{"temporarily_unavailable", kindOAuth, "Entra is overloaded or down.", "Nothing to repair: it is tried again by itself."},
	{"server_error", kindOAuth, "Entra could not do its work.", "Nothing to repair: it is tried again by itself."},

	{"AADSTS65001", kindExchange, "The user, or the tenant's administrator, has not consented to the connection's scopes.", "The user presses the card's button and consents, or an administrator grants consent for the tenant. Nothing has to be repaired."},
	{"AADSTS50076", kindExchange, "Entra needs the user on a page, for multi-factor authentication.", "The user presses the card's button. Conditional access can make this the rule."},
	{"Audience", kindExchange, "The SSO token was made for another app, so it cannot be exchanged.", "The Application ID URI of the Entra app must equal webApplicationInfo.resource of the app manifest, and connections[].direct.resource where that is set."},

	{"client", kindSource, "The user's Teams client reported it, with signin/failure.", "Explain the failure code that stands beside it."},
	{"token_service", kindSource, "The Bot Framework Token Service refused the call, or did not answer.", "See operation, status and code beside it."},
	{"connector", kindSource, "The Bot Connector refused a message, or did not answer.", "See operation, status and code beside it."},

	{"card_rejected", kindReason, "The sign-in card could not be made or was refused, so nothing was shown.", "Look at the failure: source, operation and code say what was refused. A wrong connection name answers 400 or 404."},
	{"upstream_rejected", kindReason, "The Token Service refused the exchange for good.", "401 and 403: the bot's own credentials or the connection's secret. 409: the connection's settings. The client's repeat, or the user's next message, starts again."},
	{"upstream_unavailable", kindReason, "The Token Service gave no usable answer until the attempt was over.", "Check its health and the network. The client's repeat, or the user's next message, starts again."},
	{"client_failure", kindReason, "The user's Teams client reported that SSO cannot work here.", "Explain the failure code that stands beside it."},
	{"code_rejected", kindReason, "The user sent more wrong codes than max_code_tries allows.", "The user signs in again. If it happens often, look for two bots sharing one connection name."},
	{"user_cancelled", kindReason, "The user closed the popup, and popup_closed is set to fail.", "Nothing to do; the user may sign in again."},
	{"expired", kindReason, "Nobody finished the sign-in within its time.", "Nothing to do; the user's next message starts again. Many of these with SSO offered: see the rule waiting."},
	{"superseded", kindReason, "The user asked again, and a new card took the old one's place.", "Look at superseded_by: the sign-in goes on there."},
	{"signed_out", kindReason, "The user signed out while the sign-in was under way.", "Nothing to do."},
	{"operator", kindReason, "An operator ended the attempt.", "The audit trail names the actor and the reason."},
	{"abandoned", kindReason, "The instance that was sending the card died, so nobody knows whether it was shown.", "Nothing to do; the user's next message starts again."},

	{"silent", kindMethod, "A token was there already when the bot asked again. As a callback status: no callback is made, since the caller has the token.", "Nothing to do."},
	{"tokenExchange", kindMethod, "Silent sign-in: the client's SSO token was exchanged.", "Nothing to do."},
	{"verifyState", kindMethod, "The user signed in in the popup, and its code was redeemed.", "Nothing to do."},
	{"composeExtension", kindMethod, "The user signed in through a message extension.", "Nothing to do."},
	{"adaptiveCard", kindMethod, "The user signed in through an Adaptive Card action.", "Nothing to do."},
	{"recovered", kindMethod, "The instance died during the call. Afterwards the Token Service had the token.", "Nothing to do."},

	{"Idle", kindState, "The attempt is stored, its card is not acknowledged yet. This should last only a moment.", "If it stays, see the rule idle-old."},
	{"CardSent", kindState, "The card is sent. The user's client, or the user, acts next.", "Nothing to do until it expires. See the rules waiting and consent-pending."},
	{"Exchanging", kindState, "An SSO token is at the Token Service.", "If it stays, see the rule lease-expired."},
	{"Verifying", kindState, "A verification code is at the Token Service.", "If it stays, see the rule lease-expired."},
	{"Complete", kindState, "The Token Service holds the user's token. The attempt has ended.", "Nothing to do."},
	{"Failed", kindState, "The attempt has ended without a token; its reason says why.", "Explain the reason."},

	{"signin", kindOrigin, "The bot asked for the sign-in.", "Nothing to do."},
	{"adopted", kindOrigin, "An invoke came for a card that this store does not know, or after the end of its attempt. It was accepted anyway.", "Many of these: do all instances share one store? Was it lost?"},
	{"compose", kindOrigin, "A message extension asked for the sign-in.", "Nothing to do."},
	{"card_action", kindOrigin, "An Adaptive Card action asked for the sign-in.", "Nothing to do."},

	{"pending", kindCallback, "The bot's own code is not called yet, or will be called again.", "Nothing to do unless the rule callback-lag applies."},
	{"delivered", kindCallback, "The bot's own code was called, without an error.", "Nothing to do."},
	{"dropped", kindCallback, "The user signed out before the bot's own code was called, so it is not called any more.", "Nothing to do."},
	{"undeliverable", kindCallback, "No repeat can change the refusal: the user has blocked the bot, or it was removed. It is closed after one try, and nothing is stuck.", "Nothing to do. Once the cause is gone, signin-engine redeliver makes it due again."},
	{"dead", kindCallback, "The callback failed ten times and was given up.", "Repair its cause, then run signin-engine redeliver for the attempt."},
	{"none", kindCallback, "There is no callback.", nothingToDo},

	{"received", kindLine, "Something arrived: an invoke of Teams, a message, or a call of the bot's own code.", nothingToDo},
	{"upstream", kindLine, "A call to the Token Service or the connector, with what it answered and how long it took.", "A status of 400 or more: explain it, and the code beside it."},
	{"transition", kindLine, "The attempt changed: the row of the table, from which state to which.", "Explain the row."},
	{"answer", kindLine, "The answer to the invoke.", nothingToDo},
	{"callback", kindLine, "The bot's own code was called, with the result.", "If it was not delivered, see the last error of the callback."},
	{"note", kindLine, "Information that changed nothing.", "Explain the row beside it."},
	{"operator", kindLine, "An operator acted: the line names who, and why.", nothingToDo},
	{"reconcile", kindLine, "An operator had the attempt updated with the Token Service's answer.", nothingToDo},
	{"cancel", kindLine, "An operator ended the attempt.", nothingToDo},
	{"redeliver", kindLine, "An operator made pending or failed callbacks due.", nothingToDo},
	{"rotate-key", kindLine, "An operator gave the store a new key for HMACs and sealed data. The line has its id. Every instance uses it after three sweeps.", nothingToDo},
	{"security", kindLine, "Somebody used what belongs to another user.", "A single one is usually a forwarded card. Many from one user: find out who it is."},

	{"SignIn", kindCall, "The bot's own code asked for a sign-in.", nothingToDo},
	{"signin/tokenExchange", kindCall, "The user's Teams client sent an SSO token.", nothingToDo},
	{"signin/verifyState", kindCall, "The user's Teams client sent the code of the popup.", nothingToDo},
	{"signin/failure", kindCall, "The user's Teams client reports that SSO failed, and why.", "Explain the failure code that stands beside it."},
	{"GetToken", kindCall, "The Token Service was asked for the user's token. 404 only means: not signed in.", nothingToDo},
	{"GetToken with code", kindCall, "The code of the popup was redeemed at the Token Service.", "404 means that the code is wrong, spent or too old: the user signs in again."},
	{"GetToken again", kindCall, "The Token Service was asked for the outcome of a sign-in: an instance died during its call, the channel reported that the user has signed in, or an operator asked.", nothingToDo},
	{"spend code", kindCall, "A code that came too late was redeemed, so that nobody else can.", nothingToDo},
	{"GetSignInResource", kindCall, "The Token Service was asked for the parts of a sign-in card.", "400 and 404: the connection name, or the region."},
	{"exchange", kindCall, "The Token Service was asked to exchange the client's SSO token.", "400, 404 and 412: usually consent is missing. See the attempt's last failure."},
	{"POST card", kindCall, "The sign-in card was sent through the connector.", "If it was refused: explain the code beside it."},
	{"SignOut", kindCall, "The Token Service was told to delete the user's token.", nothingToDo},
	{"SignOut again", kindCall, "A sign-in ended after a sign-out, so its token was deleted too.", nothingToDo},

	{"rejected", kindSSO, "The card offered SSO, and the Token Service refused the exchange.", "See the last failure and the diagnosis of the attempt."},
	{"client_failed", kindSSO, "The card offered SSO, and the user's Teams client failed; its code is after the colon.", "Explain that code."},

	{"SSO offered", kindCard, "The card has a token exchange resource, so the user's Teams client tries silent sign-in first.", nothingToDo},
	{"no SSO", kindCard, "The card has only its button: the connection has no SSO, the chat offers none, or an earlier card's resource did not match.", "If SSO is wanted: does the connection have a Token Exchange URL? Explain resourcematchfailed."},
	{"delivery unknown", kindCard, "The connector gave no clear answer to the card, so nobody knows whether it is shown. It is not sent twice.", "If the user sees no card, the next message starts again."},
	{"popup closed", kindCard, "The user closed the popup before the end. The card still works.", "The user presses the button again."},

	{"ok", kindResult, "It was checked, and is right.", nothingToDo},
	{"warn", kindResult, "It may be right: usually a user has to do something.", "Read the detail."},
	{"fail", kindResult, "It keeps users from signing in, or will.", "Do what the detail says."},
	{"error", kindResult, "The level of a stuck rule that needs an operator.", "Explain the rule."},
	{"skipped", kindResult, "It could not be checked; the detail says what is missing.", "Give doctor what is missing."},

	{"token_missing", kindRefused, "A request to the bot had no bearer token.", "Scanners do this all the time. If Teams traffic has it, a proxy drops the Authorization header."},
	{"token_malformed", kindRefused, "The Authorization header is not of the form Bearer JWT.", "As token_missing."},
	{"algorithm", kindRefused, "The token is not signed with RS256, so not by the connector.", "Nothing, if it comes from scanners. If all traffic has it, openid_metadata_url belongs to another cloud."},
	{"kid_missing", kindRefused, "The token names no key.", "As algorithm."},
	{"kid_unknown", kindRefused, "The token names a key that its issuer does not have.", "As algorithm."},
	{"signature", kindRefused, "The token's signature does not fit its key.", "As algorithm."},
	{"issuer", kindRefused, "A token of another cloud, or of Entra.", "Check cloud. Agent 365 sends Entra tokens: agentic accepts them."},
	{"audience", kindRefused, "The token was made for another bot.", "Check app_id, and the messaging endpoint of the bot that sends here."},
	{"exp_missing", kindRefused, "The token never expires.", "Nothing: the connector's tokens do."},
	{"expired", kindRefused, "The token of a request had expired, with 5 min of tolerance.", "Check this machine's clock."},
	{"not_yet_valid", kindRefused, "The token of a request is not valid yet.", "Check this machine's clock."},
	{"tenant", kindRefused, "An agentic token of another tenant than tenant_id.", "Check tenant_id."},
	{"caller", kindRefused, "An agentic token of an app that agentic_callers does not list.", "Add the app's id to agentic_callers if it is your agent. doctor names it."},
	{"endorsement", kindRefused, "The key is not endorsed for the activity's channel.", "Check that the bot resource has that channel."},
	{"serviceurl_claim", kindRefused, "Activity and token name different service URLs.", "A proxy rewrites bodies, or a token is replayed."},
	{"service_host", kindRefused, "The host of the activity's service URL is not on the allow-list. Nothing was stored or sent.", "Add the host to service_urls if it is yours."},
	{"origin", kindRefused, "A web page of another origin sent it through a browser.", nothingToDo},
	{"keys_unavailable", kindRefused, "No signing keys were ever fetched, so no token can be checked.", "Let the bot reach openid_metadata_url."},
	{"body_too_long", kindRefused, "The activity is longer than limits.body.", "Raise it only if Teams sends such activities."},
	{"wrong_token", kindRefused, "The operator endpoint got a token that it does not know.", "Give the script the token of the settings. If you do not know the address in the log, somebody is guessing."},
	{"too_many_tries", kindRefused, "The operator endpoint got so many wrong tokens that it checks no more for some seconds.", "Find out who can reach the endpoint. Nothing has to be undone."},
	{"body_too_slow", kindRefused, "The body took longer than limits.body_timeout.", nothingToDo},
	{"body_too_deep", kindRefused, "The JSON is nested deeper than limits.depth.", nothingToDo},
	{"body_malformed", kindRefused, "The body is no activity.", nothingToDo},
	{"user_rate", kindRefused, "One user is over limits.sign_ins_per_minute.", "Find out who it is. Raise the limit for a load test."},
	{"link_over", kindPopup, "The link to the popup's start page is older than 15 min, or damaged.", "Search again: the answer has a new one."},
	{"state_unknown", kindPopup, "The popup has expired, was used, or its state was tampered with.", "Search again."},
	{"other_browser", kindPopup, "The popup began in another browser.", "Nothing, if a link was passed on. If all users have it, something removes the bot's cookies."},
	{"other_user", kindPopup, "Another user of Teams began the popup.", "Nothing: that user's link was opened by somebody else."},
	{"provider_error", kindPopup, "The provider refuses, and the page shows its text.", "Read the text. The log has the provider's code; doctor asks its token endpoint."},
	{"provider_unavailable", kindPopup, "The provider does not answer.", "Run doctor: it asks the provider."},
	{"not_available", kindPopup, "The store does not answer.", "Check the store: doctor, and /readyz."},
	{"too_many", kindPopup, "Too many requests came to the popup's pages. Nothing was done, and the state stays valid.", "See popup_rate and popup_busy."},

	{"popup_rate", kindRefused, "One address asks for the popup's pages more often than message_extension.pages_per_minute.", "Behind a proxy all users have one address: name the header with the real one in message_extension.client_header. A company behind one address needs a higher limit."},
	{"popup_busy", kindRefused, "All addresses together ask for the popup's pages more often than message_extension.pages_per_minute_overall.", "Find out who can reach the pages. Raise the limit if they are your users."},
	{"busy", kindRefused, "All places and the queue are full. Nothing was done, and Teams sends again.", "Find out what is slow: the store, the Token Service or the bot's own code."},

	{"400", kindHTTPStatus, "Bad Request: the Token Service did not understand the call.", "On GetSignInResource: a connection name that does not exist on the bot. On exchange: a token that is no JWT for this app, or consent that is missing."},
	{"401", kindHTTPStatus, "Unauthorized: the bot's own token was refused.", "Check app_id, tenant_id and the client secret: has it expired?"},
	{"403", kindHTTPStatus, "Forbidden: the bot may not use this connection or conversation.", "Check that the connection belongs to this bot and the bot is installed in the conversation; the code beside it says more."},
	{"404", kindHTTPStatus, "Not Found: no token for this user, or no such conversation.", "On GetToken it only means: not signed in."},
	{"409", kindHTTPStatus, "Conflict: the connection's settings and the request contradict each other.", "Check the connection in the Azure Bot resource."},
	{"412", kindHTTPStatus, "Precondition Failed: the user has to consent or to sign in interactively.", "The user presses the card's button."},
	{"429", kindHTTPStatus, "Too Many Requests: the service throttles.", "Retry-After is honoured within the deadline. If it stays, ask less often."},
	{"503", kindHTTPStatus, "Service Unavailable: an upstream is down, or, as the bot's own answer, the store is.", "Teams sends the invoke again. Check readiness: GET /readyz."},
}

// Explain returns an explanation for every check of the diagnosis that failed. A
// nil diagnosis has none.
func (d *DiagnosisView) Explain() []Explanation {
	if d == nil {
		return nil
	}
	const kind = "diagnosis"
	var out []Explanation
	for _, v := range []struct {
		holds *bool
		says  Explanation
	}{
		{d.Audience, Explanation{"audience", kind, "The SSO token was issued for another audience than the card's resource.", "webApplicationInfo.resource of the app manifest, the Application ID URI of the Entra app and the connection's Token Exchange URL must be the same."}},
		{d.Version, Explanation{"version", kind, "The app still issues v1 tokens, and the Token Service needs v2.0.", "Set requestedAccessTokenVersion to 2 in the app manifest (Entra, App registrations, Manifest)."}},
		{d.Tenant, Explanation{"tenant", kind, "The SSO token was issued by another tenant than the conversation's.", "For guests and shared channels another tenant is normal. If nobody here is a guest, check that the Entra app is multi-tenant."}},
		{d.User, Explanation{"user", kind, "The SSO token belongs to another user than its sender.", "The client is signed in with several accounts, or somebody sent a token that is not their own. The user signs in to Teams with the right account; policy identity_mismatch: reject refuses such tokens."}},
		{d.Client, Explanation{"client", kind, "The SSO token was issued to another client than Teams.", "Pre-authorize the two Teams clients under Expose an API of the Entra app: 1fec8e78-bce4-4aaf-ab1b-5451cc387264 and 5e3ce6c0-2b1f-4285-8d4b-75ee78787346."}},
		{d.Fresh, Explanation{"fresh", kind, "The SSO token had expired when it arrived.", "Check the clocks of the user's device and of this machine, and whether something delays invokes on their way."}},
	} {
		if v.holds != nil && !*v.holds {
			out = append(out, v.says)
		}
	}
	return out
}
