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
			e.Meaning += " Here it came late: the attempt had changed in the meantime."
			return e, true
		}
	}
	if outcome, code, ok := strings.Cut(word, ":"); ok { // client_failed:tokenmissing
		if e, known := Explain(outcome); known && e.Kind == kindSSO {
			e.Code, e.Advice = word, "Run signin-engine explain "+code+"."
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
		Code: code, Kind: kindExchange, Meaning: "An error code of Entra.",
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
		Advice: "Find the call in the attempt's timeline: the line names the operation, the status and the code.",
	}
	switch {
	case n < http.StatusOK, n >= http.StatusMultipleChoices && n < http.StatusBadRequest:
		return Explanation{}, false
	case n < http.StatusMultipleChoices:
		e.Meaning, e.Advice = e.Meaning+"the call worked.", nothingToDo
	case n < http.StatusInternalServerError:
		e.Meaning += "the upstream refused the call."
	default:
		e.Meaning += "the upstream had an error."
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
		return "Look at the status and the code. If there are many, run signin-engine explain lookups-failing."
	case "A5", "A7":
		return "Look at the attempt's failure, and run signin-engine explain with its code. A wrong connection name gives 400 or 404."
	case "A8":
		return "If the user sees no card, the user's next message starts a new sign-in."
	case "B0":
		return "Check that the bot registers the connection."
	case "B3", "B4":
		return "Look at the attempt's failure and diagnosis."
	case "B16":
		return "If there are many, check that all instances of the bot share one store, and that the store was not lost."
	case "B18":
		return "If it happens often, somebody tries other users' cards."
	case "C0":
		return "Check whether a proxy between Teams and the bot changes requests."
	case "C8", "E5":
		return "Look at the status and the code."
	case "D0", "D1", "D2", "D7":
		return "Run signin-engine explain with the failure code."
	default:
		return nothingToDo
	}
}

var words = [...]Explanation{
	{"installappfailed", kindClient, "In a group chat, Teams could not install the app for the user. SSO needs the app in the user's personal scope.", "In the Teams admin center, check that app policies let the user install the app, and that the manifest's bot has the personal scope. The card's button still works."},
	{"authrequestfailed", kindClient, "Teams asked Entra for an SSO token and got an error.", "The user presses the card's button. If many users see it, check the sign-in logs of the Entra app, and whether the app may be used from the users' tenant (Supported account types)."},
	{"installedappnotfound", kindClient, "The app is not installed for the user, or not in this chat.", "Install the app for the user or in the chat. Then the user signs in again."},
	{"invokeerror", kindClient, "Teams reported a general error during SSO.", "Check that Teams can reach POST /api/messages and gets its answer in time. The attempt's timeline shows which invokes arrived."},
	{"resourcematchfailed", kindClient, "The resource on the card does not match the Application ID URI of the Entra app. For the next 24 hours this user's cards have a button only, no SSO.", "In the Entra app, open Expose an API. The Application ID URI there must equal the Token Exchange URL of the OAuth connection in the Azure Bot (api://botid-… or api://HOST/botid-…), and webApplicationInfo.resource of the Teams manifest."},
	{"oauthcardnotvalid", kindClient, "Teams could not read the OAuth card.", "Look for middleware that changes the card. Its optional members must be left out, not null, and it must be addressed to the user."},
	{"tokenmissing", kindClient, "Teams got no SSO token from Entra.", "In the Teams manifest, check webApplicationInfo (id and resource). In the Entra app under Expose an API, check that the Teams clients are authorized client applications."},
	{"userconsentrequired", kindClient, "The user has not consented to the scopes.", "The user presses the card's button and consents. An administrator can consent for the whole tenant: Entra app, API permissions, Grant admin consent."},
	{"interactionrequired", kindClient, "Entra wants the user to do something, such as multi-factor authentication or a new password.", "The user presses the card's button. If it happens every time, a Conditional Access policy asks for it."},

	{"consent_required", kindService, "Nobody has consented to the connection's scopes, neither the user nor an administrator.", "The user presses the card's button and consents. An administrator can consent for the whole tenant: Entra app, API permissions, Grant admin consent."},
	{"interaction_required", kindService, "Entra wants the user to do something, such as multi-factor authentication or a new password.", "The user presses the card's button. If it happens every time, a Conditional Access policy asks for it."},
	{"ServiceError", kindService, "The service failed and gives no details. For a card it can also mean that the card is malformed.", "If it was temporary, do nothing. If it stays on calls to the Token Service, check its region (token_service_url). If it stays on cards, look for middleware that changes them."},
	{"BadArgument", kindService, "The service rejected the request as invalid.", "Usually the bot has no OAuth connection of that name. In the Azure Bot, open Configuration, OAuth connection settings, and compare the names with connections in the settings."},
	{"NotFound", kindService, "The service does not know what the call asked for.", "On GetToken it only means that the user is not signed in. On other calls check the connection name and the region (token_service_url)."},

	{"circuit_open", kindCircuit, "The upstream has not answered recent requests, so the bot refuses new ones at once. Every few seconds one request goes through as a test.", "Run signin-engine doctor: it names the upstream. Then look for the cause: network, proxy, firewall, an outage. Requests go through again after the first answer."},

	{"BotDisabledByAdmin", kindConnector, "An administrator of the user's tenant has blocked the app, so the bot cannot send anything there.", "An administrator allows the app in the Teams admin center under Teams apps, Manage apps. Until then nobody in that tenant can sign in."},
	{"BotNotInConversationRoster", kindConnector, "The bot is not a member of the conversation. It was removed, or never added.", "Install the app in that chat or team, or for that user. The user's next message starts a new sign-in."},
	{"ConversationBlockedByUser", kindConnector, "The user has blocked the bot.", "There is nothing to fix. Only the user can unblock the bot. A callback with this code is closed as undeliverable."},
	{"MessageWritesBlocked", kindConnector, "The bot may not write in this conversation. The user has blocked, muted or removed the bot, or the conversation is archived.", "There is nothing to fix on the bot's side. A callback with this code is closed as undeliverable."},
	{"ConversationNotFound", kindConnector, "The conversation no longer exists, or belongs to another bot or region.", "The user's next message starts a new sign-in. If many users are affected, check that no proxy changes the service URL of activities."},
	{"BotNotRegistered", kindConnector, "The connector does not know a bot with this app id.", "Compare app_id with the Microsoft App ID of the Azure Bot, and check that the Azure Bot has the Teams channel."},
	{"ForbiddenOperationException", kindConnector, "The bot is not installed for this user.", "Install the app for the user. An app setup policy in the Teams admin center installs it for everybody."},
	{"ActivityNotFoundInConversation", kindConnector, "The message that the bot wanted to change or reply to no longer exists.", "Do nothing. The user's next message starts a new sign-in."},
	{"MessageSizeTooBig", kindConnector, "The message is larger than Teams accepts.", "Shorten the messages that the bot's own code sends."},

	{"invalid_client", kindOAuth, "Entra rejected the bot's credentials. The secret is wrong or has expired, the certificate belongs to another app, or the app has no service principal in this tenant.", "In Entra, open App registrations, the bot's app, Certificates & secrets. If the secret has expired, create a new one and set client_secret or client_secret_file. Also check app_id and tenant_id."},
	{"unauthorized_client", kindOAuth, "Entra does not let this app get a token. The app is disabled, or does not exist in the tenant.", "Check tenant_id: a single-tenant bot needs its tenant's id, a multi-tenant bot has none. In Entra, Enterprise applications, check that the app is enabled for sign-in."},
	{"invalid_grant", kindOAuth, "Entra rejected the assertion or the refresh token. It has expired, was revoked, or a policy no longer allows it.", "For a user's token: the user signs in again. For federated credentials: check issuer, subject and audience of the assertion, and this machine's clock."},
	{"invalid_request", kindOAuth, "Entra rejected the request: a parameter is missing or wrong.", "Check app_id, tenant_id and login_url."},
	{"invalid_scope", kindOAuth, "Entra does not know the scope of the request.", "Each cloud has its own scope. Check cloud and login_url."},
	{"invalid_resource", kindOAuth, "The tenant does not know the resource of the request.", "Each cloud has its own resource. Check cloud, login_url and tenant_id."},
	{"unsupported_grant_type", kindOAuth, "The URL is not a token endpoint of Entra.", "Check login_url."},
	{"access_denied", kindOAuth, "The user declined, or a policy forbids the sign-in.", "The user signs in again and consents. If a policy forbids it, ask the tenant's administrator."},
	{"temporarily_unavailable", kindOAuth, "Entra is overloaded or down.", "Do nothing. The bot tries again by itself."},
	{"server_error", kindOAuth, "Entra had an internal error.", "Do nothing. The bot tries again by itself."},

	{"AADSTS65001", kindExchange, "Nobody has consented to the connection's scopes, neither the user nor an administrator.", "The user presses the card's button and consents. An administrator can consent for the whole tenant: Entra app, API permissions, Grant admin consent."},
	{"AADSTS50076", kindExchange, "Entra requires multi-factor authentication, which needs a page.", "The user presses the card's button. If it happens every time, a Conditional Access policy asks for it."},
	{"AADSTS50013", kindExchange, "Entra could not verify the signature of the SSO token. Most often the token was issued for another app, such as Microsoft Graph.", "webApplicationInfo.resource of the Teams manifest must equal the Application ID URI of the bot's Entra app."},
	{"AADSTS500011", kindExchange, "The tenant does not know the resource that the scopes name.", "Check the scopes of the connection (direct.scopes) for typing errors. If they belong to another app, an administrator of the tenant has to consent to that app first."},
	{"AADSTS700016", kindExchange, "Entra does not find the bot's app in this tenant.", "Check app_id and tenant_id. For users of other tenants, the Entra app has to be multi-tenant (Authentication, Supported account types)."},
	{"AADSTS7000215", kindExchange, "Entra rejected the bot's client secret.", "client_secret must be the value of the secret, not its id (Entra, App registrations, Certificates & secrets)."},
	{"AADSTS7000222", kindExchange, "The bot's client secret has expired.", "Create a new secret (Entra, App registrations, Certificates & secrets) and set client_secret or client_secret_file."},
	{"Audience", kindExchange, "The SSO token was issued for another app, so it cannot be exchanged.", "webApplicationInfo.resource of the Teams manifest must equal the Application ID URI of the Entra app. If connections[].direct.resource is set, it must be the same."},

	{"client", kindSource, "The user's Teams client reported the failure, with signin/failure.", "Run signin-engine explain with the failure code beside it."},
	{"token_service", kindSource, "The Bot Framework Token Service refused the call, or did not answer.", "Look at the operation, status and code beside it."},
	{"connector", kindSource, "The Bot Connector refused a message, or did not answer.", "Look at the operation, status and code beside it."},

	{"card_rejected", kindReason, "The bot could not create or send the sign-in card, so the user saw none.", "Look at the attempt's failure: source, operation and code say what was refused. A wrong connection name gives 400 or 404."},
	{"upstream_rejected", kindReason, "The Token Service refused the exchange for good.", "For 401 and 403 check the bot's credentials and the secret of the OAuth connection. For 409 check the settings of the OAuth connection. The user's next message starts a new sign-in."},
	{"upstream_unavailable", kindReason, "The Token Service gave no usable answer before the attempt ended.", "Run signin-engine doctor, and check the network. The user's next message starts a new sign-in."},
	{"client_failure", kindReason, "The user's Teams client reported that SSO cannot work here.", "Run signin-engine explain with the failure code beside it."},
	{"code_rejected", kindReason, "The user entered more wrong codes than max_code_tries allows.", "The user signs in again. If it happens often, check whether two bots use one connection name."},
	{"user_cancelled", kindReason, "The user closed the popup, and popup_closed is set to fail.", "Do nothing. The user can sign in again."},
	{"expired", kindReason, "Nobody finished the sign-in in time.", "Do nothing. The user's next message starts a new sign-in. If many attempts that offered SSO expire, run signin-engine explain waiting."},
	{"superseded", kindReason, "The user asked again, and a new card replaced this one.", "Look at superseded_by: the sign-in continues there."},
	{"signed_out", kindReason, "The user signed out before the sign-in was finished.", nothingToDo},
	{"operator", kindReason, "An operator ended the attempt.", "The timeline names the operator and the reason."},
	{"abandoned", kindReason, "The instance stopped while it sent the card. Nobody knows whether the user saw the card.", "Do nothing. The user's next message starts a new sign-in."},

	{"silent", kindMethod, "The Token Service had a token when the bot asked again. As a callback status: there was no callback, because the caller got the token.", nothingToDo},
	{"tokenExchange", kindMethod, "The user was signed in silently: the Token Service exchanged the client's SSO token.", nothingToDo},
	{"verifyState", kindMethod, "The user signed in in the popup, and the bot redeemed its code.", nothingToDo},
	{"composeExtension", kindMethod, "The user signed in through a message extension.", nothingToDo},
	{"adaptiveCard", kindMethod, "The user signed in through an Adaptive Card action.", nothingToDo},
	{"recovered", kindMethod, "The instance stopped during the call. Afterwards the Token Service had the token.", nothingToDo},

	{"Idle", kindState, "The attempt is stored, and its card is being sent. This lasts a moment.", "If it stays, run signin-engine explain idle-old."},
	{"CardSent", kindState, "The card was sent. The next step is the user's or the Teams client's.", "Do nothing until the card expires. If many attempts stay here, run signin-engine explain waiting."},
	{"Exchanging", kindState, "The Token Service is exchanging an SSO token.", "If it stays, run signin-engine explain lease-expired."},
	{"Verifying", kindState, "The Token Service is checking a verification code.", "If it stays, run signin-engine explain lease-expired."},
	{"Complete", kindState, "The attempt succeeded: the Token Service has the user's token.", nothingToDo},
	{"Failed", kindState, "The attempt ended without a token. Its reason says why.", "Run signin-engine explain with the reason."},

	{"signin", kindOrigin, "The bot asked for the sign-in.", nothingToDo},
	{"adopted", kindOrigin, "An invoke came for a card that this store does not know, or whose attempt had ended. The bot accepted it anyway.", "If there are many, check that all instances of the bot share one store, and that the store was not lost."},
	{"compose", kindOrigin, "A message extension asked for the sign-in.", nothingToDo},
	{"card_action", kindOrigin, "An Adaptive Card action asked for the sign-in.", nothingToDo},

	{"pending", kindCallback, "The engine has not called the bot's own code yet, or will call it again.", "Do nothing, unless inspect lists the attempt under the rule callback-lag."},
	{"delivered", kindCallback, "The engine called the bot's own code, and it returned no error.", nothingToDo},
	{"dropped", kindCallback, "The user signed out before the engine called the bot's own code, so it is not called.", nothingToDo},
	{"undeliverable", kindCallback, "The bot cannot reach the user, who has blocked or removed it. The callback is closed after one try, because a retry cannot help.", "Do nothing. Once the bot can reach the user, signin-engine redeliver calls the bot's own code again."},
	{"dead", kindCallback, "The callback failed ten times, and the engine gave up.", "Fix the error that the callback shows. Then run signin-engine redeliver for the attempt."},
	{"none", kindCallback, "There is no callback.", nothingToDo},

	{"received", kindLine, "Something arrived: an invoke or a message from Teams, or a call of the bot's own code.", nothingToDo},
	{"upstream", kindLine, "A call to the Token Service or the connector, with its answer and duration.", "For a status of 400 or more, run signin-engine explain with the code or the status."},
	{"transition", kindLine, "The attempt changed its state. The line names the row of the table and both states.", "Run signin-engine explain with the row."},
	{"answer", kindLine, "The bot's answer to the invoke.", nothingToDo},
	{"callback", kindLine, "The engine called the bot's own code with the result.", "If it was not delivered, look at the callback's last error."},
	{"note", kindLine, "Something that did not change the attempt.", "Run signin-engine explain with the row beside it."},
	{"operator", kindLine, "An operator did something. The line says who, and why.", nothingToDo},
	{"reconcile", kindLine, "An operator asked the Token Service for the outcome, and the attempt follows its answer.", nothingToDo},
	{"cancel", kindLine, "An operator ended the attempt.", nothingToDo},
	{"redeliver", kindLine, "An operator made the engine call the bot's own code again.", nothingToDo},
	{"rotate-key", kindLine, "An operator gave the store a new key for HMACs and sealed data. The line has the key's id. Every instance uses it after three sweeps.", nothingToDo},
	{"security", kindLine, "A user sent something that belongs to another user.", "A single case is usually a forwarded card. If one user causes many, find out who it is."},

	{"SignIn", kindCall, "The bot's own code asked for a sign-in.", nothingToDo},
	{"signin/tokenExchange", kindCall, "The user's Teams client sent an SSO token.", nothingToDo},
	{"signin/verifyState", kindCall, "The user's Teams client sent the code of the popup.", nothingToDo},
	{"signin/failure", kindCall, "The user's Teams client reported that SSO failed, and why.", "Run signin-engine explain with the failure code beside it."},
	{"GetToken", kindCall, "The engine asked the Token Service for the user's token. 404 only means that the user is not signed in.", nothingToDo},
	{"GetToken with code", kindCall, "The engine redeemed the popup's code at the Token Service.", "404 means that the code is wrong, used or too old. The user signs in again."},
	{"GetToken again", kindCall, "The engine asked the Token Service how a sign-in ended. It does so after an instance stopped during its call, when the channel reports a sign-in, or for an operator.", nothingToDo},
	{"spend code", kindCall, "The engine redeemed a code that came too late, so that nobody else can use it.", nothingToDo},
	{"GetSignInResource", kindCall, "The engine asked the Token Service for the content of a sign-in card.", "For 400 and 404 check the connection name and the region (token_service_url)."},
	{"exchange", kindCall, "The engine asked the Token Service to exchange the client's SSO token.", "For 400, 404 and 412 the user's consent is usually missing. Look at the attempt's last failure."},
	{"POST card", kindCall, "The engine sent the sign-in card through the connector.", "If the connector refused it, run signin-engine explain with the code beside it."},
	{"SignOut", kindCall, "The engine asked the Token Service to delete the user's token.", nothingToDo},
	{"SignOut again", kindCall, "A sign-in succeeded after the user had signed out, so the engine deleted its token too.", nothingToDo},

	{"rejected", kindSSO, "The card offered SSO, and the Token Service refused the exchange.", "Look at the attempt's last failure and diagnosis."},
	{"client_failed", kindSSO, "The card offered SSO, and the user's Teams client failed. The failure code is after the colon.", "Run signin-engine explain with that code."},

	{"SSO offered", kindCard, "The card has a token exchange resource, so the Teams client tries to sign the user in silently first.", nothingToDo},
	{"no SSO", kindCard, "The card has only a button. The connection has no SSO, this kind of chat offers none, or the resource of an earlier card did not match.", "If you want SSO, check that the OAuth connection in the Azure Bot has a Token Exchange URL. Also run signin-engine explain resourcematchfailed."},
	{"delivery unknown", kindCard, "The connector gave no clear answer, so nobody knows whether the user sees the card. The engine does not send it twice.", "If the user sees no card, the user's next message starts a new sign-in."},
	{"popup closed", kindCard, "The user closed the popup before the sign-in was finished. The card still works.", "The user presses the button again."},

	{"ok", kindResult, "The check passed.", nothingToDo},
	{"warn", kindResult, "Something may be wrong. Often a user has to act.", "Read the detail."},
	{"fail", kindResult, "Something keeps users from signing in, or soon will.", "Do what the detail says."},
	{"error", kindResult, "An operator has to act on this stuck rule.", "Run signin-engine explain with the rule."},
	{"skipped", kindResult, "The check could not run. The detail says what it needs.", "Run signin-engine doctor again with what the detail names."},

	{"token_missing", kindRefused, "A request to the bot had no bearer token.", "Scanners cause this all the time. If requests from Teams are refused so, a proxy removes the Authorization header."},
	{"token_malformed", kindRefused, "The Authorization header of a request is not “Bearer” and a JWT.", "Scanners cause this all the time. If requests from Teams are refused so, a proxy changes the Authorization header."},
	{"algorithm", kindRefused, "The token is not signed with RS256, so it does not come from the Bot Connector.", "From scanners, ignore it. If all requests are refused so, openid_metadata_url belongs to another cloud."},
	{"kid_missing", kindRefused, "The token does not name its signing key, so it does not come from the Bot Connector.", "From scanners, ignore it. If all requests are refused so, openid_metadata_url belongs to another cloud."},
	{"kid_unknown", kindRefused, "The token names a signing key that its issuer does not publish.", "From scanners, ignore it. If all requests are refused so, openid_metadata_url belongs to another cloud."},
	{"signature", kindRefused, "The token's signature is wrong.", "From scanners, ignore it. If all requests are refused so, openid_metadata_url belongs to another cloud."},
	{"issuer", kindRefused, "The token was issued by another cloud, or by Entra.", "Check cloud. Agent 365 sends tokens of Entra: set agentic to accept them."},
	{"audience", kindRefused, "The token was issued for another bot.", "Compare app_id with the Microsoft App ID of the Azure Bot whose messaging endpoint is this bot."},
	{"exp_missing", kindRefused, "The token has no expiry, so it does not come from the Bot Connector.", nothingToDo},
	{"expired", kindRefused, "The token of a request expired more than 5 min ago.", "Check this machine's clock."},
	{"not_yet_valid", kindRefused, "The token of a request is not valid yet.", "Check this machine's clock."},
	{"tenant", kindRefused, "The token of an agentic request is from another tenant than tenant_id.", "Check tenant_id."},
	{"caller", kindRefused, "The token of an agentic request is from an app that agentic_callers does not list.", "Run signin-engine doctor: it names the app. If it is your agent, add its id to agentic_callers."},
	{"endorsement", kindRefused, "The signing key is not endorsed for the activity's channel.", "Check that the Azure Bot has that channel."},
	{"serviceurl_claim", kindRefused, "The activity and its token name different service URLs.", "Check whether a proxy changes the body of requests. If none does, somebody replays a token."},
	{"service_host", kindRefused, "The host of the activity's service URL is not on the allow-list. The bot stored and sent nothing.", "If the host is yours, add it to service_urls."},
	{"origin", kindRefused, "A web page of another site sent the request through a browser.", nothingToDo},
	{"keys_unavailable", kindRefused, "The bot has never been able to fetch the signing keys, so it cannot check any token.", "Let the bot reach openid_metadata_url."},
	{"body_too_long", kindRefused, "The activity is larger than limits.body.", "Raise the limit only if Teams sends such activities."},
	{"wrong_token", kindRefused, "Somebody used a wrong token at the operator endpoint.", "If it is your script, give it operator_token or operator_read_token. If you do not know the address in the log, somebody is guessing."},
	{"too_many_tries", kindRefused, "The operator endpoint got so many wrong tokens that it checks none for some seconds.", "Find out who can reach the endpoint. It works again by itself."},
	{"body_too_slow", kindRefused, "The body of a request took longer than limits.body_timeout.", nothingToDo},
	{"body_too_deep", kindRefused, "The JSON of a request is nested deeper than limits.depth.", nothingToDo},
	{"body_malformed", kindRefused, "The body of a request is not an activity.", nothingToDo},
	{"user_rate", kindRefused, "One user sends more than limits.sign_ins_per_minute allows.", "Find out who it is. For a load test, raise the limit."},
	{"link_over", kindPopup, "The link to the popup is older than 15 min, or damaged.", "The user searches again and gets a new link."},
	{"state_unknown", kindPopup, "The popup has expired, was used already, or its state was changed.", "The user searches again."},
	{"other_browser", kindPopup, "The popup was opened in another browser.", "If somebody passed on a link, ignore it. If all users see it, something removes the bot's cookies."},
	{"other_user", kindPopup, "The popup was opened for another Teams user.", "Ignore it: somebody opened another user's link."},
	{"provider_error", kindPopup, "The identity provider refused the sign-in. The page shows its message.", "Read the message. The bot's log has the provider's code. Run signin-engine doctor: it checks the provider."},
	{"provider_unavailable", kindPopup, "The identity provider does not answer.", "Run signin-engine doctor: it checks the provider."},
	{"not_available", kindPopup, "The store does not answer.", "Run signin-engine doctor, or ask /readyz."},
	{"too_many", kindPopup, "The popup's pages got too many requests. This one changed nothing, and can be repeated.", "Run signin-engine explain popup_rate and signin-engine explain popup_busy."},

	{"popup_rate", kindRefused, "One address requests the popup's pages more often than message_extension.pages_per_minute allows.", "Behind a proxy all users seem to have one address: name the header with the real one in message_extension.client_header. For a company behind one address, raise the limit."},
	{"popup_busy", kindRefused, "All addresses together request the popup's pages more often than message_extension.pages_per_minute_overall allows.", "Find out who sends the requests. If they are your users, raise the limit."},
	{"busy", kindRefused, "The bot handles as many requests as it can, and its queue is full. It refused this one, and Teams sends it again.", "Find out what is slow: the store, the Token Service or the bot's own code."},

	{"400", kindHTTPStatus, "Bad Request: the service rejected the request as invalid.", "On GetSignInResource the bot has no OAuth connection of that name. On exchange the token is not a JWT for this app, or consent is missing."},
	{"401", kindHTTPStatus, "Unauthorized: the service rejected the bot's own token.", "Check app_id, tenant_id and the client secret. Has the secret expired?"},
	{"403", kindHTTPStatus, "Forbidden: the bot may not use this connection or conversation.", "Check that the connection belongs to this bot, and that the app is installed in the conversation. The code beside it says more."},
	{"404", kindHTTPStatus, "Not Found: there is no token for this user, or no such connection or conversation.", "On GetToken it only means that the user is not signed in. On other calls check the connection name and the region (token_service_url)."},
	{"409", kindHTTPStatus, "Conflict: the request contradicts the connection's settings.", "Check the connection in the Azure Bot: Configuration, OAuth connection settings."},
	{"412", kindHTTPStatus, "Precondition Failed: the user has to consent, or to sign in in the popup.", "The user presses the card's button."},
	{"429", kindHTTPStatus, "Too Many Requests: the service limits how often the bot may call.", "The bot waits as long as Retry-After says, if there is time. If it stays, send fewer requests."},
	{"503", kindHTTPStatus, "Service Unavailable: an upstream is down. As the bot's own answer: the store is down.", "Run signin-engine healthcheck: it asks /readyz. Teams sends the invoke again."},
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
		{d.Audience, Explanation{"audience", kind, "The SSO token was issued for another audience than the card's resource.", "Three values must be the same: webApplicationInfo.resource of the Teams manifest, the Application ID URI of the Entra app, and the Token Exchange URL of the OAuth connection in the Azure Bot."}},
		{d.Version, Explanation{"version", kind, "The Entra app issues v1.0 tokens, and the Token Service needs v2.0.", "In Entra, App registrations, Manifest, set requestedAccessTokenVersion to 2."}},
		{d.Tenant, Explanation{"tenant", kind, "The SSO token was issued by another tenant than the conversation's.", "For guests and shared channels this is normal. If nobody here is a guest, check that the Entra app is multi-tenant."}},
		{d.User, Explanation{"user", kind, "The SSO token belongs to another user than the sender.", "The user may have several accounts: sign in to Teams with the right one. If not, somebody sent another user's token. The policy identity_mismatch: reject refuses such tokens."}},
		{d.Client, Explanation{"client", kind, "The SSO token was issued to another client than Teams.", "In the Entra app under Expose an API, add the two Teams clients as authorized client applications: 1fec8e78-bce4-4aaf-ab1b-5451cc387264 and 5e3ce6c0-2b1f-4285-8d4b-75ee78787346."}},
		{d.Fresh, Explanation{"fresh", kind, "The SSO token had expired when it arrived.", "Check the clocks of the user's device and of this machine. If they are right, something delays requests on their way to the bot."}},
	} {
		if v.holds != nil && !*v.holds {
			out = append(out, v.says)
		}
	}
	return out
}
