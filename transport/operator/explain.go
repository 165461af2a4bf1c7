package operator

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/signin-engine/signin-engine/machine/diagram"
)

// Explanation says what a word means and what to do about it.
type Explanation struct {
	Code    string `json:"code"`
	Kind    string `json:"kind"` // what sort of word it is, see the kinds
	Meaning string `json:"meaning"`
	Advice  string `json:"advice"`
}

// The kinds of words.
const (
	kindClient     = "failure code"   // of signin/failure [S 004 §16]
	kindService    = "service code"   // of the Token Service
	kindConnector  = "connector code" // of the Bot Connector
	kindOAuth      = "OAuth code"     // of Entra, as the bot asks for its own token
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
	kindPopup      = "popup reason" // as the popup of a message extension tells Teams
)

// Explain looks a word up, in any case: a code, a reason, a state, a stuck rule,
// a row of the transition table, an HTTP status.
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
	return explainStatus(word)
}

// explainStatus explains an HTTP status that has no text of its own.
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

// nothing is what to do about a word that says that all is well.
const nothingToDo = "Nothing to do."

// Suggest returns the known words that are spelt much like word.
func Suggest(word string) []string {
	var words []string
	for _, e := range Explanations() {
		if e.Kind == kindRow && (word == "" || !strings.EqualFold(e.Code[:1], word[:1])) {
			continue // all rows are much alike
		}
		words = append(words, e.Code)
	}
	return SpeltLike(word, words)
}

// SpeltLike returns those of the known words that are spelt much like word, or
// have it inside them; capitals do not count.
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

// distance is the number of letters by which two words differ, or more than most.
// Two neighbours that changed places count as one.
func distance(a, b string, most int) int {
	if d := len(a) - len(b); d > most || -d > most {
		return most + 1
	}
	var before []int // the row before the last
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

// rowAdvice is what to do about a row that says that something is wrong.
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
		return "If it happens often, somebody plays with other people's cards."
	case "C0":
		return "Check what stands between Teams and the bot."
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
	{"authrequestfailed", kindClient, "The client's request for an SSO token failed.", "Usually passing: the user presses the button. If many users have it, check the Entra app's sign-in logs."},
	{"installedappnotfound", kindClient, "Teams does not find the app installed where the card was shown.", "Install the app for the user or the chat, then sign in again."},
	{"invokeerror", kindClient, "The client could not deliver its token to the bot.", "Check the bot's endpoint: is POST /api/messages reachable and answered in time?"},
	{"resourcematchfailed", kindClient, "The token exchange resource of the card does not match the Entra app. The user's cards of the next 24 hours come without SSO, with the button alone.", "In the Entra app under Expose an API, the Application ID URI must equal the connection's Token Exchange URL (api://botid-… or api://HOST/botid-…)."},
	{"oauthcardnotvalid", kindClient, "Teams refused the OAuth card.", "The card must not carry null members, and must be addressed to the user. The engine's cards are; look for middleware that rewrites them."},
	{"tokenmissing", kindClient, "The client got no SSO token to hand over.", "Check webApplicationInfo in the manifest (id and resource), and that the Teams client ids are pre-authorized in the Entra app."},
	{"userconsentrequired", kindClient, "The user has not consented to the scopes.", "The user presses the card's button and consents, or an administrator grants consent for the tenant."},
	{"interactionrequired", kindClient, "The user has to do something: consent, multi-factor, a new password.", "The user presses the card's button. Conditional access can make this the rule."},

	{"consent_required", kindService, "The user, or the tenant's administrator, has not consented to the connection's scopes.", "The user presses the card's button and consents, or an administrator grants consent for the tenant. Nothing has to be repaired."},
	{"interaction_required", kindService, "Entra wants the user in front of a page: multi-factor, a new password, a policy.", "The user presses the card's button. Conditional access can make this the rule."},
	{"ServiceError", kindService, "The service could not do its work, and says no more. For a card it can also mean that its form is not accepted.", "If it passes, nothing. If it stays: on the Token Service check the region (token_service_url); on a card look for middleware that rewrites it."},
	{"BadArgument", kindService, "The service did not understand the call.", "Most often a connection name that the bot does not have, in Azure under Configuration, OAuth connection settings."},
	{"NotFound", kindService, "The service does not know what the call is about.", "On GetToken it only means: not signed in. On the others check connection name and region."},

	{"circuit_open", kindCircuit, "The upstream did not answer the requests before this one, so this one was refused at once, without asking. Every few seconds one request is let through.", "Find out why the upstream does not answer: network, proxy, firewall, an outage. doctor names it under upstreams. As soon as it answers the code is gone."},

	{"BotDisabledByAdmin", kindConnector, "An administrator has blocked the bot in the user's tenant, so nothing can be sent.", "The tenant's administrator has to allow the app in the Teams admin center. Until then no sign-in is possible there."},
	{"BotNotInConversationRoster", kindConnector, "The bot is no member of the conversation: it was removed, or never added.", "Install the app in that chat or team, or for that user. The user's next message starts again."},
	{"ConversationBlockedByUser", kindConnector, "The user has blocked the chat with the bot.", "Nothing to repair: only the user can unblock it. A callback that meets it is closed as undeliverable."},
	{"MessageWritesBlocked", kindConnector, "The bot may not write into this conversation: it was blocked, muted or archived.", "Nothing to repair on the bot's side. A callback that meets it is closed as undeliverable."},
	{"ConversationNotFound", kindConnector, "The conversation is gone, or belongs to another bot or region.", "The user's next message starts again. If many have it, check that the service URL is not rewritten on the way."},
	{"BotNotRegistered", kindConnector, "The connector knows no bot with this app id.", "Check app_id and that the bot resource has the Teams channel."},
	{"ForbiddenOperationException", kindConnector, "The bot is not installed for this user.", "Install the app for the user; setup policies can do it for everybody."},
	{"ActivityNotFoundInConversation", kindConnector, "The message that was to be changed or answered is not there.", "Nothing to do; the user's next message starts again."},
	{"MessageSizeTooBig", kindConnector, "The message is longer than Teams takes.", "Shorten what the bot's own code sends."},

	{"invalid_client", kindOAuth, "Entra refuses the bot's credentials: the secret is wrong or has expired, the certificate is not the app's, or the app does not exist in this tenant.", "Make a new client secret for the app (Entra, App registrations, Certificates & secrets) and set client_secret or client_secret_file; check app_id and tenant_id."},
	{"unauthorized_client", kindOAuth, "Entra does not let this app ask for a token in this way: it is disabled, or does not exist in the tenant.", "Check tenant_id: a single-tenant bot needs its own tenant, a multi-tenant bot none. Check that the app's service principal is enabled."},
	{"invalid_grant", kindOAuth, "Entra does not take what was presented: an assertion or a refresh token that is over, or that a policy no longer allows.", "With federated credentials check issuer, subject and audience of the assertion, and the machine's clock. For a user it means: sign in again."},
	{"invalid_request", kindOAuth, "Entra did not understand the request: a parameter is missing or wrong.", "Check app_id, tenant_id and login_url."},
	{"invalid_scope", kindOAuth, "Entra does not know the scope that the token was asked for.", "The scope belongs to the cloud: check cloud and login_url."},
	{"invalid_resource", kindOAuth, "The resource is not known in this tenant.", "The scope belongs to the cloud: check cloud, login_url and tenant_id."},
	{"unsupported_grant_type", kindOAuth, "The address that was asked is no token endpoint of Entra.", "Check login_url."},
	{"access_denied", kindOAuth, "The user, or a policy, said no.", "The user signs in again and consents. If a policy stands against it, its administrator decides."},
	{"temporarily_unavailable", kindOAuth, "Entra is overloaded or down.", "Nothing to repair: it is tried again by itself."},
	{"server_error", kindOAuth, "Entra could not do its work.", "Nothing to repair: it is tried again by itself."},

	{"client", kindSource, "The user's Teams client said so, by signin/failure.", "Explain the failure code that stands beside it."},
	{"token_service", kindSource, "The Bot Framework Token Service refused the call, or did not answer.", "See operation, status and code beside it."},
	{"connector", kindSource, "The Bot Connector refused a message, or did not answer.", "See operation, status and code beside it."},

	{"card_rejected", kindReason, "The sign-in card could not be made or was refused, so nothing was shown.", "Look at the failure: source, operation and code say who refused what. A wrong connection name answers 400 or 404."},
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

	{"silent", kindMethod, "A token was there already when the bot asked again. As a callback status: nobody is told, for the caller holds the token.", "Nothing to do."},
	{"tokenExchange", kindMethod, "Silent sign-in: the client's SSO token was exchanged.", "Nothing to do."},
	{"verifyState", kindMethod, "The user signed in in the popup, and its code was redeemed.", "Nothing to do."},
	{"composeExtension", kindMethod, "The user signed in by way of a message extension.", "Nothing to do."},
	{"adaptiveCard", kindMethod, "The user signed in by way of an Adaptive Card action.", "Nothing to do."},
	{"recovered", kindMethod, "The instance died in mid-call; asked afterwards, the Token Service had the token.", "Nothing to do."},

	{"Idle", kindState, "The attempt is written down, its card is not acknowledged yet. It should last no longer than a moment.", "If it stays, see the rule idle-old."},
	{"CardSent", kindState, "The card is out. The user's client, or the user, has the next move.", "Nothing to do until it expires. See the rules waiting and consent-pending."},
	{"Exchanging", kindState, "An SSO token is at the Token Service.", "If it stays, see the rule lease-expired."},
	{"Verifying", kindState, "A verification code is at the Token Service.", "If it stays, see the rule lease-expired."},
	{"Complete", kindState, "The Token Service holds the user's token. The attempt has ended.", "Nothing to do."},
	{"Failed", kindState, "The attempt has ended without a token; its reason says why.", "Explain the reason."},

	{"signin", kindOrigin, "The bot asked for the sign-in.", "Nothing to do."},
	{"adopted", kindOrigin, "An invoke came for a card that this store does not know, or after the end of its attempt; it was taken all the same.", "Many of these: do all instances share one store? Was it lost?"},
	{"compose", kindOrigin, "A message extension asked for the sign-in.", "Nothing to do."},
	{"card_action", kindOrigin, "An Adaptive Card action asked for the sign-in.", "Nothing to do."},

	{"pending", kindCallback, "The bot's own code is still to be told, or told again.", "Nothing to do unless the rule callback-lag hits."},
	{"delivered", kindCallback, "The bot's own code was told, and took it.", "Nothing to do."},
	{"dropped", kindCallback, "The user signed out before the bot's own code was told, so nobody is told any more.", "Nothing to do."},
	{"undeliverable", kindCallback, "No repeat can change the refusal: the user has blocked the bot, or it was removed. It is closed after one try, and nothing is stuck.", "Nothing to do. Once the cause is gone, signin-engine redeliver makes it due again."},
	{"dead", kindCallback, "The callback failed ten times and was given up.", "Repair its cause, then run signin-engine redeliver for the attempt."},
	{"none", kindCallback, "No callback is owed.", nothingToDo},

	{"received", kindLine, "Something arrived: an invoke of Teams, a message, or a call of the bot's own code.", nothingToDo},
	{"upstream", kindLine, "A call to the Token Service or the connector, with what it answered and how long it took.", "A status of 400 or more: explain it, and the code beside it."},
	{"transition", kindLine, "The attempt changed: the row of the table, from which state to which.", "Explain the row."},
	{"answer", kindLine, "What the invoke was answered.", nothingToDo},
	{"callback", kindLine, "The bot's own code was told, and how that went.", "If it was not delivered, see the last error of the callback."},
	{"note", kindLine, "Something worth knowing that changed nothing.", "Explain the row beside it."},
	{"operator", kindLine, "An operator acted: the line names who, and why.", nothingToDo},
	{"reconcile", kindLine, "An operator had the attempt settled by what the Token Service says.", nothingToDo},
	{"cancel", kindLine, "An operator ended the attempt.", nothingToDo},
	{"redeliver", kindLine, "An operator made callbacks due that had not got through.", nothingToDo},
	{"rotate-key", kindLine, "An operator gave the store a new key for marks and seals; the line has its id. Every instance uses it after three sweeps.", nothingToDo},
	{"security", kindLine, "Somebody used what belongs to another user.", "One is most often a forwarded card. Many from one user: look who it is."},

	{"SignIn", kindCall, "The bot's own code asked for a sign-in.", nothingToDo},
	{"signin/tokenExchange", kindCall, "The user's Teams client brought an SSO token.", nothingToDo},
	{"signin/verifyState", kindCall, "The user's Teams client brought the code of the popup.", nothingToDo},
	{"signin/failure", kindCall, "The user's Teams client says that SSO failed, and why.", "Explain the failure code that stands beside it."},
	{"GetToken", kindCall, "The Token Service was asked for the user's token. 404 only means: not signed in.", nothingToDo},
	{"GetToken with code", kindCall, "The code of the popup was redeemed at the Token Service.", "404 means that the code is wrong, spent or too old: the user signs in again."},
	{"GetToken again", kindCall, "The Token Service was asked what became of a sign-in: an instance died in mid-call, the channel said that the user has signed in, or an operator wants to know.", nothingToDo},
	{"spend code", kindCall, "A code that came too late was redeemed, so that nobody else can.", nothingToDo},
	{"GetSignInResource", kindCall, "The Token Service was asked what a sign-in card is made of.", "400 and 404: the connection name, or the region."},
	{"exchange", kindCall, "The Token Service was asked to exchange the client's SSO token.", "400, 404 and 412: most often consent is missing. See the attempt's last failure."},
	{"POST card", kindCall, "The sign-in card was sent by way of the connector.", "If it was refused: explain the code beside it."},
	{"SignOut", kindCall, "The Token Service was told to forget the user's token.", nothingToDo},
	{"SignOut again", kindCall, "A sign-in came to its end behind a sign-out, so its token was deleted too.", nothingToDo},

	{"rejected", kindSSO, "The card offered SSO, and the Token Service refused the exchange.", "See the last failure and the diagnosis of the attempt."},
	{"client_failed", kindSSO, "The card offered SSO, and the user's Teams client could not do it; its code stands behind the colon.", "Explain that code."},

	{"SSO offered", kindCard, "The card has a token exchange resource, so the user's Teams client tries silent sign-in first.", nothingToDo},
	{"no SSO", kindCard, "The card has its button alone: the connection is set so, its place offers no SSO, or an earlier card's resource did not match.", "If SSO is wanted: does the connection have a Token Exchange URL? Explain resourcematchfailed."},
	{"delivery unknown", kindCard, "The connector gave no clear answer to the card, so nobody knows whether it is shown. It is not sent twice.", "If the user sees no card, the next message starts again."},
	{"popup closed", kindCard, "The user closed the popup before the end. The card still works.", "The user presses the button again."},

	{"ok", kindResult, "It was looked at, and is as it should be.", nothingToDo},
	{"warn", kindResult, "It may be right: most often a user has to do something.", "Read the detail."},
	{"fail", kindResult, "It keeps users from signing in, or will.", "Do what the detail says."},
	{"error", kindResult, "The level of a stuck rule that needs somebody.", "Explain the rule."},
	{"skipped", kindResult, "It could not be looked at; the detail says what is missing.", "Give doctor what is missing."},

	{"token_missing", kindRefused, "A request to the bot had no bearer token.", "Scanners do this all day. If Teams traffic has it, a proxy drops the Authorization header."},
	{"token_malformed", kindRefused, "The Authorization header is not of the form Bearer JWT.", "As token_missing."},
	{"algorithm", kindRefused, "The token is not signed with RS256, so not by the connector.", "Nothing, if it comes from scanners. If all traffic has it, openid_metadata_url is of another cloud."},
	{"kid_missing", kindRefused, "The token names no key.", "As algorithm."},
	{"kid_unknown", kindRefused, "The token names a key that its issuer does not have.", "As algorithm."},
	{"signature", kindRefused, "The token's signature does not fit its key.", "As algorithm."},
	{"issuer", kindRefused, "A token of another cloud, or of Entra.", "Check cloud. Agent 365 sends Entra tokens: agentic lets them in."},
	{"audience", kindRefused, "The token was made for another bot.", "Check app_id, and the messaging endpoint of the bot that does send here."},
	{"exp_missing", kindRefused, "The token never expires.", "Nothing: the connector's do."},
	{"expired", kindRefused, "The token of a request had expired, with 5 min of tolerance.", "Check this machine's clock."},
	{"not_yet_valid", kindRefused, "The token of a request is of the future.", "Check this machine's clock."},
	{"tenant", kindRefused, "An agentic token of another tenant than tenant_id.", "Check tenant_id."},
	{"caller", kindRefused, "An agentic token of an app that agentic_callers does not list.", "Add the app's id to agentic_callers if it is your agent. doctor names it."},
	{"endorsement", kindRefused, "The key may not speak for the activity's channel.", "Check that the bot resource has that channel."},
	{"serviceurl_claim", kindRefused, "Activity and token name different service URLs.", "A proxy rewrites bodies, or somebody replays a token."},
	{"service_host", kindRefused, "The host of the activity's service URL is not on the allow-list. Nothing was stored or sent.", "Add the host to service_urls if it is yours."},
	{"origin", kindRefused, "A web page of another origin made a browser send it.", nothingToDo},
	{"keys_unavailable", kindRefused, "No signing keys were ever fetched, so nobody can be judged.", "Let the bot reach openid_metadata_url."},
	{"body_too_long", kindRefused, "The activity is longer than limits.body.", "Raise it only if Teams sends such."},
	{"wrong_token", kindRefused, "The operator endpoint was asked with a token that is none of its own.", "Give the script the token of the settings. If you do not know the address in the log, somebody guesses."},
	{"too_many_tries", kindRefused, "So many wrong tokens came to the operator endpoint that no more are looked at for some seconds.", "See who can reach the endpoint. Nothing is to be undone."},
	{"body_too_slow", kindRefused, "The body came more slowly than limits.body_timeout.", nothingToDo},
	{"body_too_deep", kindRefused, "The JSON is nested deeper than limits.depth.", nothingToDo},
	{"body_malformed", kindRefused, "The body is no activity.", nothingToDo},
	{"user_rate", kindRefused, "One user is over limits.sign_ins_per_minute.", "Look who it is. Raise the limit if a load test does it."},
	{"link_over", kindPopup, "The link to the popup's start page is older than 15 min, or damaged.", "Search again: the answer has a new one."},
	{"state_unknown", kindPopup, "The popup is over, was used, or its state was tampered with.", "Search again."},
	{"other_browser", kindPopup, "The popup was begun in another browser.", "Nothing, if a link was passed on. If all users have it, something takes the bot's cookies away."},
	{"other_user", kindPopup, "The popup was begun by another user of Teams.", "Nothing: that user's link was opened by somebody else."},
	{"provider_error", kindPopup, "The provider refuses, and the page shows its text.", "Read the text. The log has the provider's code; doctor asks its token endpoint."},
	{"provider_unavailable", kindPopup, "The provider does not answer.", "doctor looks for the provider."},
	{"not_available", kindPopup, "The store does not answer.", "Look at the store: doctor, and /readyz."},
	{"too_many", kindPopup, "Too many requests came to the popup's pages. Nothing was done, and the state stays good.", "See popup_rate and popup_busy."},

	{"popup_rate", kindRefused, "One address asks for the popup's pages more often than message_extension.pages_per_minute.", "Behind a proxy all users have one address: name the header with the real one in message_extension.client_header. A company behind one address wants a higher limit."},
	{"popup_busy", kindRefused, "All addresses together ask for the popup's pages more often than message_extension.pages_per_minute_overall.", "See who can reach the pages. Raise the limit if they are your users."},
	{"busy", kindRefused, "All places and the queue are taken. Nothing was done, and Teams sends again.", "Find out what is slow: the store, the Token Service or the bot's own code."},

	{"400", kindHTTPStatus, "Bad Request: the Token Service did not understand the call.", "On GetSignInResource: a connection name that does not exist on the bot. On exchange: a token that is no JWT for this app, or consent that is missing."},
	{"401", kindHTTPStatus, "Unauthorized: the bot's own token was refused.", "Check app_id, tenant_id and the client secret: has it expired?"},
	{"403", kindHTTPStatus, "Forbidden: the bot may not use this connection or conversation.", "Check that the connection belongs to this bot and the bot is installed in the conversation; the code beside it says more."},
	{"404", kindHTTPStatus, "Not Found: no token for this user, or no such conversation.", "On GetToken it only means: not signed in."},
	{"409", kindHTTPStatus, "Conflict: the connection's settings and the request contradict each other.", "Check the connection in the Azure Bot resource."},
	{"412", kindHTTPStatus, "Precondition Failed: the user has to consent or to sign in interactively.", "The user presses the card's button."},
	{"429", kindHTTPStatus, "Too Many Requests: the service throttles.", "Retry-After is honoured within the deadline. If it stays, ask less often."},
	{"503", kindHTTPStatus, "Service Unavailable: an upstream is down, or, as the bot's own answer, the store is.", "Teams sends the invoke again. Check readiness: GET /readyz."},
}

// Explain says what in a diagnosis was not as it should be, and what to do.
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
		{d.Audience, Explanation{"audience", kind, "The SSO token was issued for another audience than the card's resource.", "Let webApplicationInfo.resource of the app manifest, the Application ID URI of the Entra app and the connection's Token Exchange URL be the same."}},
		{d.Version, Explanation{"version", kind, "The app still issues v1 tokens, and the Token Service wants v2.0.", "Set requestedAccessTokenVersion to 2 in the app manifest (Entra, App registrations, Manifest)."}},
		{d.Tenant, Explanation{"tenant", kind, "The SSO token was issued by another tenant than the conversation's.", "Guests and shared channels have other tenants, and that is no fault. If nobody here is a guest, check that the Entra app is multi-tenant."}},
		{d.User, Explanation{"user", kind, "The SSO token is of another user than the one who sent it.", "The client is signed in with several accounts, or somebody sent a token that is not their own. The user signs in to Teams with the right account; policy identity_mismatch: reject refuses such tokens."}},
		{d.Client, Explanation{"client", kind, "The SSO token was issued to another client than Teams.", "Pre-authorize the two Teams clients under Expose an API of the Entra app: 1fec8e78-bce4-4aaf-ab1b-5451cc387264 and 5e3ce6c0-2b1f-4285-8d4b-75ee78787346."}},
		{d.Fresh, Explanation{"fresh", kind, "The SSO token had expired when it arrived.", "Check the clocks of the user's device and of this machine, and whether invokes lie about on the way."}},
	} {
		if v.holds != nil && !*v.holds {
			out = append(out, v.says)
		}
	}
	return out
}
