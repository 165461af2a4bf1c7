package emulator

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// Operation is the operation that a request is for. The operations of the Token
// Service have the names of package tokensvc.
type Operation string

// The operations.
const (
	OpGetToken                 Operation = tokensvc.OpGetToken
	OpGetSignInResource        Operation = tokensvc.OpGetSignInResource
	OpExchange                 Operation = tokensvc.OpExchange
	OpSignOut                  Operation = tokensvc.OpSignOut
	OpGetTokenStatus           Operation = tokensvc.OpGetTokenStatus
	OpGetTokenOrSignInResource Operation = tokensvc.OpGetTokenOrSignInResource
	OpGetAadTokens             Operation = tokensvc.OpGetAadTokens
	OpAccessToken              Operation = tokensvc.OpAccessToken // Entra
	OpSignInPage               Operation = "SignInPage"           // the page behind a sign-in link
	OpSignIn                   Operation = "SignIn"               // a button of that page
	OpPostToken                Operation = "PostToken"            // the URL of tokenPostResource
	OpPostActivity             Operation = "PostActivity"         // connector: send or reply
	OpUpdateActivity           Operation = "UpdateActivity"       // connector
	OpDeleteActivity           Operation = "DeleteActivity"       // connector
	OpCreateConversation       Operation = "CreateConversation"   // connector
	OpMe                       Operation = "Me"                   // Graph
	OpTenant                   Operation = "Tenant"               // OpenID metadata of a tenant, which Azure's SDK asks for before a token
	OpMetadata                 Operation = "Metadata"             // OpenID metadata of the connector's tokens
	OpKeys                     Operation = "Keys"                 // public keys of the connector's tokens
	OpUnknown                  Operation = "Unknown"              // every other request; answered 404
)

// Operations returns every operation.
func Operations() []Operation {
	return []Operation{
		OpGetToken, OpGetSignInResource, OpExchange, OpSignOut, OpGetTokenStatus, OpGetTokenOrSignInResource, OpGetAadTokens,
		OpAccessToken, OpSignInPage, OpSignIn, OpPostToken,
		OpPostActivity, OpUpdateActivity, OpDeleteActivity, OpCreateConversation,
		OpMe, OpMetadata, OpTenant, OpKeys, OpUnknown,
	}
}

// target is the meaning of a method and a path.
type target struct {
	op             Operation
	conversationID string
	activityID     string
}

// route finds the target of a method and a URL. Like the service it ignores the case
// of paths. It finds the connector behind any prefix, because service URLs have one
// (/amer/{tenant}/).
func route(method string, u *url.URL) target {
	path := strings.ToLower(strings.TrimRight(u.Path, "/"))
	if strings.HasSuffix(path, "/oauth2/v2.0/token") {
		return only(method, http.MethodPost, OpAccessToken)
	}
	if strings.HasSuffix(path, tenantMetadata) {
		return only(method, http.MethodGet, OpTenant)
	}
	switch path {
	case "/api/usertoken/gettoken":
		return only(method, http.MethodGet, OpGetToken)
	case "/api/botsignin/getsigninresource":
		return only(method, http.MethodGet, OpGetSignInResource)
	case "/api/usertoken/exchange":
		return only(method, http.MethodPost, OpExchange)
	case "/api/usertoken/signout":
		return only(method, http.MethodDelete, OpSignOut)
	case "/api/usertoken/gettokenstatus":
		return only(method, http.MethodGet, OpGetTokenStatus)
	case "/api/usertoken/gettokenorsigninresource":
		return only(method, http.MethodGet, OpGetTokenOrSignInResource)
	case "/api/usertoken/getaadtokens":
		return only(method, http.MethodPost, OpGetAadTokens)
	case "/api/sas/posttoken":
		return only(method, http.MethodPost, OpPostToken)
	case "/v1.0/me":
		return only(method, http.MethodGet, OpMe)
	case "/v1/.well-known/openidconfiguration":
		return only(method, http.MethodGet, OpMetadata)
	case "/v1/.well-known/keys":
		return only(method, http.MethodGet, OpKeys)
	case "/api/oauth/signin":
		if method == http.MethodPost {
			return target{op: OpSignIn}
		}
		return only(method, http.MethodGet, OpSignInPage)
	}
	return connectorTarget(method, u)
}

func only(method, wanted string, op Operation) target {
	if method != wanted {
		op = OpUnknown
	}
	return target{op: op}
}

// connectorTarget finds the target of a request to the connector. It splits the
// escaped path, because a conversation id may contain a slash.
func connectorTarget(method string, u *url.URL) target {
	segments := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	at := slices.IndexFunc(segments, func(s string) bool { return strings.EqualFold(s, "conversations") })
	if at < 1 || !strings.EqualFold(segments[at-1], "v3") {
		return target{op: OpUnknown}
	}
	rest := segments[at+1:]
	for i, segment := range rest {
		plain, err := url.PathUnescape(segment)
		if err != nil {
			return target{op: OpUnknown}
		}
		rest[i] = plain
	}
	if len(rest) == 0 {
		return only(method, http.MethodPost, OpCreateConversation)
	}
	if len(rest) < 2 || len(rest) > 3 || !strings.EqualFold(rest[1], "activities") {
		return target{op: OpUnknown}
	}
	t := target{op: OpUnknown, conversationID: rest[0]}
	if len(rest) == 3 {
		t.activityID = rest[2]
	}
	switch {
	case method == http.MethodPost:
		t.op = OpPostActivity
	case method == http.MethodPut && t.activityID != "":
		t.op = OpUpdateActivity
	case method == http.MethodDelete && t.activityID != "":
		t.op = OpDeleteActivity
	}
	return t
}
