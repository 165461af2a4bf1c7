package teams_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// attempt is one request of the matrix.
type attempt struct {
	name    string
	change  func(t *jwt)
	headers func(token string) []string // nil = one header with the token
	body    string                      // "" = the recorded message
	why     teams.Why                   // "" = it is accepted
	status  int                         // 0 = 200 or 401
}

// matrix covers every rule of docs/protocol.md §1, kept and broken.
func matrix(t *testing.T, now time.Time) []attempt {
	t.Helper()
	claim := func(name string, value any) func(*jwt) {
		return func(j *jwt) {
			if value == nil {
				delete(j.claims, name)
				return
			}
			j.claims[name] = value
		}
	}
	head := func(name string, value any) func(*jwt) {
		return func(j *jwt) {
			if value == nil {
				delete(j.header, name)
				return
			}
			j.header[name] = value
		}
	}
	sent := func(headers ...string) func(string) []string {
		return func(token string) []string {
			out := make([]string, len(headers))
			for i, h := range headers {
				out[i] = strings.ReplaceAll(h, "JWT", token)
			}
			return out
		}
	}
	raw := func(f func(token string) string) func(*jwt) {
		return func(j *jwt) { j.raw = f(j.sign(t)) }
	}
	signedWith := func(alg string, key any) func(*jwt) {
		return func(j *jwt) { j.header["alg"], j.key = alg, key }
	}
	public := &rsaKey(t, 0).PublicKey
	message := func(member string, value any) string { return change(t, "step1_message.json", member, value) }
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }

	return []attempt{
		{name: "good"},

		// Rule 1.
		{name: "no header", headers: sent(), why: teams.WhyTokenMissing},
		{name: "scheme in lower case", headers: sent("bearer JWT")},
		{name: "scheme in upper case", headers: sent("BEARER JWT")},
		{name: "empty header", headers: sent(""), why: teams.WhyTokenMalformed},
		{name: "scheme alone", headers: sent("Bearer"), why: teams.WhyTokenMalformed},
		{name: "scheme and a blank", headers: sent("Bearer "), why: teams.WhyTokenMalformed},
		{name: "token alone", headers: sent("JWT"), why: teams.WhyTokenMalformed},
		{name: "other scheme", headers: sent("Basic JWT"), why: teams.WhyTokenMalformed},
		{name: "two blanks", headers: sent("Bearer  JWT"), why: teams.WhyTokenMalformed},
		{name: "tab", headers: sent("Bearer\tJWT"), why: teams.WhyTokenMalformed},
		{name: "three parts", headers: sent("Bearer JWT x"), why: teams.WhyTokenMalformed},
		{name: "blank behind", headers: sent("Bearer JWT "), why: teams.WhyTokenMalformed},
		{name: "blank in front", headers: sent(" Bearer JWT"), why: teams.WhyTokenMalformed},
		{name: "two tokens", headers: sent("Bearer JWT,JWT"), why: teams.WhyTokenMalformed},
		{name: "two headers", headers: sent("Bearer JWT", "Bearer JWT"), why: teams.WhyTokenMalformed},
		{name: "two headers, one empty", headers: sent("Bearer JWT", ""), why: teams.WhyTokenMalformed},
		{name: "quoted", headers: sent(`Bearer "JWT"`), why: teams.WhyTokenMalformed},
		{name: "line break", headers: sent("Bearer JWT\r\nX-Admin: 1"), why: teams.WhyTokenMalformed},
		{name: "two dots missing", change: raw(func(s string) string { return strings.ReplaceAll(s, ".", "") }), why: teams.WhyTokenMalformed},
		{name: "one dot missing", change: raw(func(s string) string { return strings.Replace(s, ".", "", 1) }), why: teams.WhyTokenMalformed},
		{name: "a fourth part", change: raw(func(s string) string { return s + ".x" }), why: teams.WhyTokenMalformed},
		{name: "padded", change: raw(func(s string) string { return s + "=" }), why: teams.WhyTokenMalformed},
		{name: "JSON serialization", change: raw(func(s string) string {
			p := strings.Split(s, ".")
			return `{"protected":"` + p[0] + `","payload":"` + p[1] + `","signature":"` + p[2] + `"}`
		}), why: teams.WhyTokenMalformed},
		{name: "too long", change: raw(func(s string) string { return s + strings.Repeat("A", 16<<10) }), why: teams.WhyTokenMalformed},
		{name: "dots only", change: raw(func(string) string { return ".." }), why: teams.WhyTokenMalformed},
		{name: "header is no JSON", change: raw(func(s string) string { return b64([]byte("x")) + s[strings.Index(s, "."):] }), why: teams.WhyTokenMalformed},
		{name: "claims are a list", change: raw(func(s string) string {
			p := strings.Split(s, ".")
			return p[0] + "." + b64([]byte(`["x"]`)) + "." + p[2]
		}), why: teams.WhyTokenMalformed},
		{name: "claims are nested beyond sense", change: raw(func(s string) string {
			p := strings.Split(s, ".")
			return p[0] + "." + b64([]byte(strings.Repeat("[", 8000))) + "." + p[2]
		}), why: teams.WhyTokenMalformed},

		// Rule 4, and the known ways around it.
		{name: "no algorithm", change: head("alg", nil), why: teams.WhyAlgorithm},
		{name: "none", change: signedWith("none", nil), why: teams.WhyAlgorithm},
		{name: "None", change: signedWith("None", nil), why: teams.WhyAlgorithm},
		{name: "none, signature kept", change: raw(func(s string) string {
			p := strings.Split(s, ".")
			return b64([]byte(`{"alg":"none","kid":"`+goodKey+`"}`)) + "." + p[1] + "." + p[2]
		}), why: teams.WhyAlgorithm},
		{name: "RS256 said, nothing signed", change: func(j *jwt) { j.key = nil }, why: teams.WhySignature},
		{name: "HS256 with the public key as PEM", change: signedWith("HS256", publicPEM(t, public)), why: teams.WhyAlgorithm},
		{name: "HS256 with the modulus", change: signedWith("HS256", public.N.Bytes()), why: teams.WhyAlgorithm},
		{name: "HS256 with nothing", change: signedWith("HS256", []byte{}), why: teams.WhyAlgorithm},
		{name: "HS256 under the name RS256", change: func(j *jwt) { j.key = publicPEM(t, public) }, why: teams.WhySignature},
		{name: "RS384", change: signedWith("RS384", rsaKey(t, 0)), why: teams.WhyAlgorithm},
		{name: "RS512", change: signedWith("RS512", rsaKey(t, 0)), why: teams.WhyAlgorithm},
		{name: "PS256", change: signedWith("PS256", rsaKey(t, 0)), why: teams.WhyAlgorithm},
		{name: "ES256", change: signedWith("ES256", ecKey(t)), why: teams.WhyAlgorithm},
		{name: "algorithm twice", change: raw(func(s string) string {
			p := strings.Split(s, ".")
			return b64([]byte(`{"alg":"RS256","alg":"none","kid":"`+goodKey+`"}`)) + "." + p[1] + "." + p[2]
		}), why: teams.WhyAlgorithm},
		{name: "algorithm twice, the other way round", change: raw(func(s string) string {
			p := strings.Split(s, ".")
			return b64([]byte(`{"alg":"none","alg":"RS256","kid":"`+goodKey+`"}`)) + "." + p[1] + "." + p[2]
		}), why: teams.WhySignature},
		{name: "algorithm under another spelling", change: func(j *jwt) {
			delete(j.header, "alg")
			j.header["ALG"] = "RS256"
		}, why: teams.WhySignature},
		{name: "algorithm in lower case", change: head("alg", "rs256"), why: teams.WhyAlgorithm},
		{name: "algorithm is a number", change: head("alg", 256), why: teams.WhyTokenMalformed},
		{name: "own key in the header", change: func(j *jwt) {
			j.header["jwk"] = publicJWK(&rsaKey(t, 2).PublicKey)
			j.key = rsaKey(t, 2)
		}, why: teams.WhySignature},
		{name: "address of a key in the header", change: func(j *jwt) {
			j.header["jku"], j.header["x5u"] = "http://127.0.0.1:1/keys", "http://127.0.0.1:1/cert"
			j.key = rsaKey(t, 2)
		}, why: teams.WhySignature},
		{name: "critical header", change: func(j *jwt) { j.header["crit"], j.header["exp"] = []string{"exp"}, 1 }, why: teams.WhySignature},
		{name: "unencoded payload", change: func(j *jwt) { j.header["b64"] = false }, why: teams.WhySignature},

		// Rule 6.
		{name: "no kid", change: head("kid", nil), why: teams.WhyKeyMissing},
		{name: "empty kid", change: head("kid", ""), why: teams.WhyKeyMissing},
		{name: "kid is null", change: head("kid", json.RawMessage("null")), why: teams.WhyKeyMissing},
		{name: "kid is a list", change: head("kid", []string{goodKey}), why: teams.WhyTokenMalformed},
		{name: "unknown kid", change: head("kid", "key-9"), why: teams.WhyKeyUnknown},
		{name: "kid of another key", change: head("kid", openKey), why: teams.WhySignature},
		{name: "kid in another case", change: head("kid", strings.ToUpper(goodKey)), why: teams.WhyKeyUnknown},
		{name: "kid with a blank", change: head("kid", goodKey+" "), why: teams.WhyKeyUnknown},
		{name: "kid as a path", change: head("kid", "../../etc/passwd"), why: teams.WhyKeyUnknown},
		{name: "kid as a URL", change: head("kid", "http://127.0.0.1:1/"), why: teams.WhyKeyUnknown},
		{name: "kid with a zero byte", change: head("kid", goodKey+"\x00"), why: teams.WhyKeyUnknown},
		{name: "kid with a line break", change: head("kid", "x\r\nSet-Cookie: a=b"), why: teams.WhyKeyUnknown},
		{name: "kid as SQL", change: head("kid", "' or 1=1 --"), why: teams.WhyKeyUnknown},
		{name: "kid of 8,000 bytes", change: head("kid", strings.Repeat("k", 8000)), why: teams.WhyKeyUnknown},
		{name: "signature of another key", change: func(j *jwt) { j.key = rsaKey(t, 2) }, why: teams.WhySignature},
		{name: "signature cut off", change: raw(func(s string) string { return s[:len(s)-8] }), why: teams.WhySignature},
		{name: "no signature", change: raw(func(s string) string { return s[:strings.LastIndex(s, ".")+1] }), why: teams.WhySignature},
		{name: "claims changed", change: raw(func(s string) string {
			p := strings.Split(s, ".")
			return p[0] + "." + b64([]byte(`{"iss":"`+botIssuer+`","aud":"`+appID+`","exp":9999999999,"serviceurl":"`+seedServiceURL+`"}`)) + "." + p[2]
		}), why: teams.WhySignature},

		// Rule 2.
		{name: "no issuer", change: claim("iss", nil), why: teams.WhyIssuer},
		{name: "issuer under another spelling", change: func(j *jwt) {
			delete(j.claims, "iss")
			j.claims["ISS"] = botIssuer
		}, why: teams.WhyIssuer},
		{name: "issuer is a list", change: claim("iss", []string{botIssuer}), why: teams.WhyTokenMalformed},
		{name: "issuer with a slash", change: claim("iss", botIssuer+"/"), why: teams.WhyIssuer},
		{name: "issuer in another case", change: claim("iss", strings.ToUpper(botIssuer)), why: teams.WhyIssuer},
		{name: "issuer of another cloud", change: claim("iss", "https://api.botframework.us"), why: teams.WhyIssuer},
		{name: "emulator's issuer", change: claim("iss", "https://sts.windows.net/d6d49420-f39b-4df7-a1dc-d59a935871db/"), why: teams.WhyIssuer},
		{name: "Entra's issuer", change: claim("iss", "https://login.microsoftonline.com/"+seedTenant+"/v2.0"), why: teams.WhyIssuer},

		// Rule 3.
		{name: "aud as api://", change: claim("aud", "api://"+appID)},
		{name: "aud as api://botid-", change: claim("aud", "api://botid-"+appID)},
		{name: "aud in upper case", change: claim("aud", strings.ToUpper(appID))},
		{name: "aud in a list", change: claim("aud", []string{"x", appID})},
		{name: "no aud", change: claim("aud", nil), why: teams.WhyAudience},
		{name: "empty aud", change: claim("aud", ""), why: teams.WhyAudience},
		{name: "empty list of aud", change: claim("aud", []string{}), why: teams.WhyAudience},
		{name: "aud of another bot", change: claim("aud", blueprintID), why: teams.WhyAudience},
		{name: "aud with more behind", change: claim("aud", appID+"x"), why: teams.WhyAudience},
		{name: "aud as a path", change: claim("aud", "api://"+appID+"/.default"), why: teams.WhyAudience},
		{name: "aud as https", change: claim("aud", "https://"+appID), why: teams.WhyAudience},
		{name: "aud as botid- alone", change: claim("aud", "botid-"+appID), why: teams.WhyAudience},
		{name: "the connector's own aud", change: claim("aud", "https://api.botframework.com"), why: teams.WhyAudience},
		{name: "aud is a number", change: claim("aud", 1), why: teams.WhyTokenMalformed},

		// Rule 5, to the second.
		{name: "no exp", change: claim("exp", nil), why: teams.WhyExpiryMissing},
		{name: "exp is null", change: claim("exp", json.RawMessage("null")), why: teams.WhyTokenMalformed},
		{name: "exp is a word", change: claim("exp", "never"), why: teams.WhyTokenMalformed},
		{name: "exp is zero", change: claim("exp", 0), why: teams.WhyExpired},
		{name: "exp is negative", change: claim("exp", -1), why: teams.WhyExpired},
		{name: "exp now", change: claim("exp", at(0))},
		{name: "exp 299 s ago", change: claim("exp", at(-299*time.Second))},
		{name: "exp 300 s ago", change: claim("exp", at(-300*time.Second)), why: teams.WhyExpired},
		{name: "exp 301 s ago", change: claim("exp", at(-301*time.Second)), why: teams.WhyExpired},
		{name: "no nbf", change: claim("nbf", nil)},
		{name: "nbf now", change: claim("nbf", at(0))},
		{name: "nbf in 299 s", change: claim("nbf", at(299*time.Second))},
		{name: "nbf in 300 s", change: claim("nbf", at(300*time.Second))},
		{name: "nbf in 301 s", change: claim("nbf", at(301*time.Second)), why: teams.WhyNotYetValid},
		{name: "iat tomorrow", change: claim("iat", at(24*time.Hour))},

		// Rule 7.
		{name: "endorsed channel", body: message("channelId", "webchat")},
		{name: "endorsed base channel", body: message("channelId", "msteams:COPILOT")},
		{name: "channel without endorsement", body: message("channelId", "slack"), why: teams.WhyEndorsement},
		{name: "channel in another case", body: message("channelId", "MSTEAMS"), why: teams.WhyEndorsement},
		{name: "channel behind a colon", body: message("channelId", "x:msteams"), why: teams.WhyEndorsement},
		{name: "no channel", body: message("channelId", nil), why: teams.WhyEndorsement},
		{name: "channel twice", body: strings.Replace(string(recorded(t, "step1_message.json")), `{`, `{"channelId":"slack",`, 1)},
		{name: "channel twice, the last counts", body: strings.Replace(message("zz", "y"), `"zz"`, `"CHANNELID":"slack","zz"`, 1), why: teams.WhyEndorsement},
		{name: "key without endorsements", change: func(j *jwt) { j.header["kid"], j.key = openKey, rsaKey(t, 1) }, body: message("channelId", "slack")},

		// Rule 8.
		{name: "claim without slash", change: claim("serviceurl", strings.TrimRight(seedServiceURL, "/"))},
		{name: "claim with two slashes", change: claim("serviceurl", seedServiceURL+"/")},
		{name: "activity without slash", body: message("serviceUrl", strings.TrimRight(seedServiceURL, "/"))},
		{name: "no claim", change: claim("serviceurl", nil), why: teams.WhyServiceURLClaim},
		{name: "empty claim", change: claim("serviceurl", ""), why: teams.WhyServiceURLClaim},
		{name: "claim is a slash", change: claim("serviceurl", "/"), body: message("serviceUrl", "/"), why: teams.WhyServiceURLClaim},
		{name: "claim in another spelling", change: func(j *jwt) {
			j.claims["serviceUrl"] = seedServiceURL
			delete(j.claims, "serviceurl")
		}, why: teams.WhyServiceURLClaim},
		{name: "claim is a list", change: claim("serviceurl", []string{seedServiceURL}), why: teams.WhyServiceURLClaim},
		{name: "claim of another region", change: claim("serviceurl", strings.Replace(seedServiceURL, "amer", "emea", 1)), why: teams.WhyServiceURLClaim},
		{name: "claim in another case", change: claim("serviceurl", strings.ToUpper(seedServiceURL)), why: teams.WhyServiceURLClaim},
		{name: "activity of another host", body: message("serviceUrl", "https://evil.example/"), why: teams.WhyServiceURLClaim},
		{name: "activity with more behind", body: message("serviceUrl", seedServiceURL+"x"), why: teams.WhyServiceURLClaim},
		{name: "activity without service URL", body: message("serviceUrl", nil), why: teams.WhyServiceURLClaim},
		{name: "service URL twice, the last counts", body: strings.Replace(message("zz", "y"), `"zz"`, `"SERVICEURL":"https://evil.example/","zz"`, 1), why: teams.WhyServiceURLClaim},
		{name: "query of an older SDK without service URL", body: `{"type":"invoke","name":"composeExtension/query","channelId":"msteams","from":{"id":"29:u"}}`, why: teams.WhyServiceURLClaim},

		// The allow-list, which applies besides rule 8.
		{
			name: "host that is not listed", change: claim("serviceurl", "https://evil.example/"),
			body: message("serviceUrl", "https://evil.example/"), why: teams.WhyServiceHost, status: 403,
		},
		{
			name: "plain http", change: claim("serviceurl", "http://smba.trafficmanager.net/amer/"),
			body: message("serviceUrl", "http://smba.trafficmanager.net/amer/"), why: teams.WhyServiceHost, status: 403,
		},

		// Bodies that are no activity, with a valid token and without.
		{name: "no JSON", body: "x", why: teams.WhyBodyMalformed, status: 400},
		{name: "no activity", body: "{}", why: teams.WhyBodyMalformed, status: 400},
		{name: "no JSON, no token", headers: sent(), body: "x", why: teams.WhyTokenMissing},
		{name: "too long, no token", headers: sent(), body: strings.Repeat("x", teams.MaxBody+1), why: teams.WhyTokenMissing},
		{name: "too long", body: strings.Repeat("x", teams.MaxBody+1), why: teams.WhyBodyTooLong, status: 413},
		{name: "too deep", body: message("value", json.RawMessage(strings.Repeat("[", 64)+strings.Repeat("]", 64))), why: teams.WhyBodyTooDeep, status: 400},
		{name: "deep enough", body: message("value", json.RawMessage(strings.Repeat("[", 63)+strings.Repeat("]", 63)))},
	}
}

// TestTokenMatrix plays the matrix in front of a plain handler and inside the
// bot's.
func TestTokenMatrix(t *testing.T) {
	t.Parallel()
	now := newClock()
	for _, tc := range matrix(t, now.Now()) {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			keys := newJWKS(t)
			token := goodToken(t, now.Now())
			if tc.change != nil {
				tc.change(token)
			}
			headers := []string{"Bearer " + token.sign(t)}
			if tc.headers != nil {
				headers = tc.headers(token.sign(t))
			}
			body := []byte(tc.body)
			if tc.body == "" {
				body = recorded(t, "step1_message.json")
			}
			status := tc.status
			switch {
			case status != 0:
			case tc.why != "":
				status = http.StatusUnauthorized
			default:
				status = http.StatusOK
			}

			check := func(how string, a *teams.Authenticator, h http.Handler, seen func() int) {
				w := postAs(t, h, body, headers...)
				if w.Code != status || w.Body.Len() != 0 {
					t.Errorf("%s: %d %q, want %d", how, w.Code, w.Body, status)
				}
				if challenge := w.Header().Get("WWW-Authenticate"); (challenge == "Bearer") != (status == 401) {
					t.Errorf("%s: challenge %q", how, challenge)
				}
				if got := seen(); (got == 1) != (status == 200) || got > 1 {
					t.Errorf("%s: %d got through", how, got)
				}
				if tc.why != "" && a.Refusals().Count(tc.why) != 1 {
					t.Errorf("%s: refused for %+v, want %s", how, a.Refusals().Snapshot(), tc.why)
				}
			}
			atNow := func(c *teams.AuthConfig) { c.Clock = now.Now }
			a, eng := newAuthenticator(t, keys, atNow), &fakeEngine{}
			check("handler", a, authenticated(t, a, eng), func() int { return len(eng.turns) })

			a = newAuthenticator(t, keys, atNow)
			through := 0
			check("middleware", a, a.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				through++
				if got, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(got, body) || r.ContentLength != int64(len(body)) {
					t.Errorf("the body is %d bytes, %v", len(got), err)
				}
				if c, ok := teams.CallerOf(r.Context()); !ok || c.Agentic || strings.TrimRight(c.ServiceURL, "/") != strings.TrimRight(seedServiceURL, "/") {
					t.Errorf("caller %+v, %v", c, ok)
				}
			})), func() int { return through })
		})
	}
}

// TestIssuersOfTheClouds checks that each cloud accepts only its own issuer.
func TestIssuersOfTheClouds(t *testing.T) {
	t.Parallel()
	keys := newJWKS(t)
	for _, own := range tokensvc.CloudNames() {
		cloud, _ := tokensvc.CloudNamed(own)
		h := authenticated(t, newAuthenticator(t, keys, func(c *teams.AuthConfig) { c.Cloud = cloud }), &fakeEngine{})
		for _, other := range tokensvc.CloudNames() {
			of, _ := tokensvc.CloudNamed(other)
			token := goodToken(t, time.Now())
			token.claims["iss"] = of.Issuer
			want := http.StatusUnauthorized
			if of.Issuer == cloud.Issuer {
				want = http.StatusOK
			}
			if w := postAs(t, h, recorded(t, "step1_message.json"), "Bearer "+token.sign(t)); w.Code != want {
				t.Errorf("cloud %s, token of %s: %d, want %d", own, other, w.Code, want)
			}
		}
	}
}

// TestReplay checks that a valid token can be used again, but only for what it
// was issued for.
func TestReplay(t *testing.T) {
	t.Parallel()
	now := newClock()
	keys := newJWKS(t)
	a := newAuthenticator(t, keys, func(c *teams.AuthConfig) { c.Clock = now.Now })
	eng := &fakeEngine{}
	h := authenticated(t, a, eng)
	token := "Bearer " + goodToken(t, now.Now()).sign(t)
	play := func(want int, body string) {
		t.Helper()
		if w := postAs(t, h, []byte(body), token); w.Code != want {
			t.Errorf("%d, want %d", w.Code, want)
		}
	}
	message := string(recorded(t, "step1_message.json"))
	play(200, message)
	play(200, message) // the connector uses one token for many activities
	play(401, change(t, "step1_message.json", "serviceUrl", "https://evil.example/"))
	play(401, change(t, "step1_message.json", "serviceUrl", "https://smba.trafficmanager.net/emea/"))
	play(401, change(t, "step1_message.json", "channelId", "directline"))
	now.add(time.Hour + 299*time.Second)
	play(200, message)
	now.add(time.Second)
	play(401, message)
	if len(eng.turns) != 3 {
		t.Errorf("%d got through", len(eng.turns))
	}
	other := newAuthenticator(t, keys, func(c *teams.AuthConfig) { c.AppID = blueprintID })
	if w := postAs(t, authenticated(t, other, eng), []byte(message), token); w.Code != 401 {
		t.Errorf("another bot: %d", w.Code)
	}
}

func agenticConfig(login string) func(*teams.AuthConfig) {
	return func(c *teams.AuthConfig) {
		c.Agentic = &teams.Agentic{Tenant: strings.ToUpper(seedTenant), BlueprintID: blueprintID, LoginURL: login}
	}
}

// agenticToken is Entra's token for an agent, which contains no service URL.
func agenticToken(tb testing.TB, now time.Time) *jwt {
	tb.Helper()
	token := goodToken(tb, now)
	delete(token.claims, "serviceurl")
	token.header["kid"], token.key = otherKey, rsaKey(tb, 2)
	token.claims["iss"], token.claims["tid"] = "https://login.microsoftonline.com/"+seedTenant+"/v2.0", seedTenant
	return token
}

// agentID is the app id of an agent.
const agentID = "5f0a6e3c-0f57-4f4f-9d0e-1f0c5d1f7a11"

// TestRefusedCallers checks that the apps whose agentic tokens were refused are
// recorded, even if no agents are accepted.
func TestRefusedCallers(t *testing.T) {
	t.Parallel()
	keys, entra := newJWKS(t), newJWKS(t)
	entra.change(func(s *jwks) { clear(s.keys) })
	entra.put(otherKey, publicJWK(&rsaKey(t, 2).PublicKey))
	token := agenticToken(t, time.Now())
	token.claims["azp"] = agentID
	for name, configure := range map[string]func(*teams.AuthConfig){
		"no agent is let in": func(*teams.AuthConfig) {},
		"another one is": func(c *teams.AuthConfig) {
			agenticConfig(entra.URL)(c)
			c.Agentic.Callers = []string{blueprintID}
		},
	} {
		a := newAuthenticator(t, keys, configure)
		for range 2 {
			if w := postAs(t, authenticated(t, a, &fakeEngine{}), recorded(t, "step1_message.json"), "Bearer "+token.sign(t)); w.Code != 401 {
				t.Errorf("%s: %d", name, w.Code)
			}
		}
		if got := a.Refusals().Snapshot().Callers; len(got) != 1 || got[0].What != agentID || got[0].Count != 2 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAgenticTokens(t *testing.T) {
	t.Parallel()
	const message = "step1_message.json"
	for _, tc := range []struct {
		name    string
		off     bool
		callers []string
		change  func(*jwt)
		body    string
		why     teams.Why
		status  int
	}{
		{name: "good", status: 200},
		{name: "v1 issuer", change: func(j *jwt) { j.claims["iss"] = "https://sts.windows.net/" + seedTenant + "/" }, status: 200},
		{name: "blueprint", change: func(j *jwt) { j.claims["aud"] = blueprintID }, status: 200},
		{name: "api://", change: func(j *jwt) { j.claims["aud"] = "api://" + appID }, status: 200},
		{name: "off", off: true, why: teams.WhyIssuer, status: 401},
		{name: "aud of another", change: func(j *jwt) { j.claims["aud"] = "x" }, why: teams.WhyAudience, status: 401},
		{name: "issuer of another tenant", change: func(j *jwt) {
			j.claims["iss"] = "https://login.microsoftonline.com/" + blueprintID + "/v2.0"
		}, why: teams.WhyIssuer, status: 401},
		{name: "tid of another tenant", change: func(j *jwt) { j.claims["tid"] = blueprintID }, why: teams.WhyTenant, status: 401},
		{name: "a user's own SSO token", change: func(j *jwt) { j.claims["scp"] = "access_as_user" }, why: teams.WhyTenant, status: 401},
		{name: "no tid", change: func(j *jwt) { delete(j.claims, "tid") }, why: teams.WhyTenant, status: 401},
		{name: "tid is a list", change: func(j *jwt) { j.claims["tid"] = []string{seedTenant} }, why: teams.WhyTenant, status: 401},
		{name: "listed caller", callers: []string{"x", agentID}, change: func(j *jwt) { j.claims["azp"] = strings.ToUpper(agentID) }, status: 200},
		{name: "listed caller, version 1", callers: []string{agentID}, change: func(j *jwt) { j.claims["appid"] = agentID }, status: 200},
		{name: "another caller", callers: []string{agentID}, change: func(j *jwt) { j.claims["azp"] = blueprintID }, why: teams.WhyCaller, status: 401},
		{name: "no caller", callers: []string{agentID, ""}, why: teams.WhyCaller, status: 401},
		{name: "nobody is listed", callers: []string{}, change: func(j *jwt) { j.claims["azp"] = agentID }, status: 200},
		{name: "expired", change: func(j *jwt) { j.claims["exp"] = 1 }, why: teams.WhyExpired, status: 401},
		{name: "no exp", change: func(j *jwt) { delete(j.claims, "exp") }, why: teams.WhyExpiryMissing, status: 401},
		{name: "key of the connector", change: func(j *jwt) { j.header["kid"], j.key = goodKey, rsaKey(t, 0) }, why: teams.WhyKeyUnknown, status: 401},
		{name: "key of Entra, issuer of the connector", change: func(j *jwt) {
			j.claims["iss"], j.claims["serviceurl"] = botIssuer, seedServiceURL
		}, why: teams.WhyKeyUnknown, status: 401},
		{name: "issuer of the connector, no service URL", change: func(j *jwt) {
			j.claims["iss"] = botIssuer
			j.header["kid"], j.key = goodKey, rsaKey(t, 0)
		}, why: teams.WhyServiceURLClaim, status: 401},
		{name: "host that is not listed", body: change(t, message, "serviceUrl", "https://evil.example/"), why: teams.WhyServiceHost, status: 403},
		{name: "no service URL", body: change(t, message, "serviceUrl", nil), why: teams.WhyServiceHost, status: 403},
		{name: "query without service URL", body: `{"type":"invoke","name":"composeExtension/query","channelId":"msteams","from":{"id":"29:u"}}`, why: teams.WhyServiceHost, status: 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			keys, entra := newJWKS(t), newJWKS(t)
			entra.change(func(s *jwks) { clear(s.keys) })
			entra.put(otherKey, publicJWK(&rsaKey(t, 2).PublicKey))
			token := agenticToken(t, time.Now())
			if tc.change != nil {
				tc.change(token)
			}
			body := []byte(tc.body)
			if tc.body == "" {
				body = recorded(t, message)
			}
			configure := func(c *teams.AuthConfig) {
				agenticConfig(entra.URL)(c)
				c.Agentic.Callers = tc.callers
			}
			if tc.off {
				configure = func(*teams.AuthConfig) {}
			}
			a := newAuthenticator(t, keys, configure)
			var caller teams.Caller
			eng := &fakeEngine{}
			var seen teams.Caller // as the bot sees it
			bot := func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
				seen, _ = teams.CallerOf(ctx)
				return silent(ctx, turn)
			}
			h := newHandler(t, eng, bot, func(c *teams.Config) { c.InboundAuth, c.Authenticator = teams.InboundAuthJWT, a })
			w := postAs(t, h, body, "Bearer "+token.sign(t))
			through := a.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { caller, _ = teams.CallerOf(r.Context()) }))
			w2 := postAs(t, through, body, "Bearer "+token.sign(t))
			if w.Code != tc.status || w2.Code != tc.status {
				t.Errorf("%d and %d, want %d: %+v", w.Code, w2.Code, tc.status, a.Refusals().Snapshot())
			}
			if tc.why != "" && a.Refusals().Count(tc.why) != 2 {
				t.Errorf("refused for %+v, want %s", a.Refusals().Snapshot(), tc.why)
			}
			if tc.status == 200 && (len(eng.turns) != 1 || !eng.turns[0].Agentic || seen != caller || !caller.Agentic || caller.Tenant != seedTenant || caller.Channel != "msteams") {
				t.Errorf("%d turns, caller %+v", len(eng.turns), caller)
			}
		})
	}
}

// TestNoKeysYet checks that requests are answered 503, and the bot is not ready,
// until there are signing keys.
func TestNoKeysYet(t *testing.T) {
	t.Parallel()
	now := newClock()
	keys := newJWKS(t)
	keys.change(func(s *jwks) { s.status = http.StatusBadGateway })
	a := newAuthenticator(t, keys, func(c *teams.AuthConfig) { c.Clock = now.Now })
	h := authenticated(t, a, &fakeEngine{})
	token := "Bearer " + goodToken(t, now.Now()).sign(t)
	if err := a.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("ready: %v", err)
	}
	for range 20 {
		w := postAs(t, h, recorded(t, "step1_message.json"), token)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Body.Len() != 0 {
			t.Fatalf("%d %v %q", w.Code, w.Header(), w.Body)
		}
	}
	if metadata, fetched := keys.counts(); metadata != 1 || fetched != 0 {
		t.Errorf("%d and %d fetches: a flood must not reach the issuer", metadata, fetched)
	}
	// A malformed token is refused even without keys.
	if w := postAs(t, h, recorded(t, "step1_message.json"), "Bearer x"); w.Code != http.StatusUnauthorized {
		t.Errorf("%d", w.Code)
	}
	keys.change(func(s *jwks) { s.status = 0 })
	now.add(time.Second)
	if err := a.Ready(t.Context()); err != nil {
		t.Errorf("ready: %v", err)
	}
	if w := postAs(t, h, recorded(t, "step1_message.json"), token); w.Code != http.StatusOK {
		t.Errorf("%d", w.Code)
	}
}

// TestRefusalsAreToldOnce checks that there is one warning for each reason and
// each host, that no warning quotes an activity, and that all refusals are
// counted.
func TestRefusalsAreToldOnce(t *testing.T) {
	t.Parallel()
	keys := newJWKS(t)
	var log bytes.Buffer
	a := newAuthenticator(t, keys, func(c *teams.AuthConfig) { c.Log = zerolog.New(&log).Level(zerolog.InfoLevel) })
	h := authenticated(t, a, &fakeEngine{})
	message := recorded(t, "step1_message.json")
	for range 5 {
		postAs(t, h, message)
		postAs(t, h, message, "Bearer x")
		for _, host := range []string{"a.example", "b.example"} {
			token := goodToken(t, time.Now())
			token.claims["serviceurl"] = "https://" + host + "/x"
			postAs(t, h, []byte(change(t, "step1_message.json", "serviceUrl", "https://"+host+"/x")), "Bearer "+token.sign(t))
		}
	}
	text := log.String()
	for _, once := range []string{`"why":"token_missing"`, `"why":"token_malformed"`, `"host":"a.example"`, `"host":"b.example"`} {
		if strings.Count(text, once) != 1 {
			t.Errorf("%s %d times in\n%s", once, strings.Count(text, once), text)
		}
	}
	if strings.Count(text, `"level":"warn"`) != 4 || strings.Count(text, "service_urls") < 2 || strings.Contains(text, seedUser) {
		t.Errorf("log:\n%s", text)
	}
	s := a.Refusals().Snapshot()
	if len(s.Hosts) != 2 || s.Hosts[0].What != "a.example" || s.Hosts[0].Count != 5 || s.Hosts[1].What != "b.example" || s.OtherHosts != 0 ||
		s.Hosts[0].Last.Before(s.Hosts[0].First) {
		t.Errorf("%+v", s)
	}
	want := map[string]int64{"token_missing": 5, "token_malformed": 5, "service_host": 10}
	for _, r := range s.Reasons {
		if want[r.What] != r.Count {
			t.Errorf("%+v", r)
		}
		delete(want, r.What)
	}
	if len(want) != 0 {
		t.Errorf("not counted: %v", want)
	}
}

// TestRefusedHostsAreBounded checks that memory stays bounded although an
// activity may name any host.
func TestRefusedHostsAreBounded(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	refusals := teams.NewRefusals(zerolog.New(&log))
	h := newHandler(t, &fakeEngine{}, silent, func(c *teams.Config) { c.Refusals = refusals })
	for i := range 500 {
		post(t, h, change(t, "step1_message.json", "serviceUrl", "https://h"+strings.Repeat("x", i%200)+string(rune('a'+i/200))+".example/"))
	}
	s := refusals.Snapshot()
	if len(s.Hosts) != 64 || s.OtherHosts != 500-64 || refusals.Count(teams.WhyServiceHost) != 500 {
		t.Errorf("%d hosts, %d others", len(s.Hosts), s.OtherHosts)
	}
	if n := strings.Count(log.String(), `"level":"warn"`); n != 65 {
		t.Errorf("%d warnings", n)
	}
}

// TestCustomAuthentication covers a bot's own authentication, which has to be
// configured expressly.
func TestCustomAuthentication(t *testing.T) {
	t.Parallel()
	own := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Own") != "yes" {
				w.WriteHeader(http.StatusTeapot)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	eng := &fakeEngine{}
	h := newHandler(t, eng, silent, func(c *teams.Config) {
		c.InboundAuth, c.Authenticate, c.Listener = teams.InboundAuthCustom, own, ":3978"
	})
	if w := post(t, h, string(recorded(t, "step1_message.json"))); w.Code != http.StatusTeapot || len(eng.turns) != 0 {
		t.Errorf("%d, %d turns", w.Code, len(eng.turns))
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(recorded(t, "step1_message.json")))
	r.Header.Set("X-Own", "yes")
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK || len(eng.turns) != 1 {
		t.Errorf("%d, %d turns", w.Code, len(eng.turns))
	}
	// GET and HEAD need no authentication, and do nothing.
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodHead, "/", nil))
	if w.Code != http.StatusOK {
		t.Errorf("HEAD: %d", w.Code)
	}
	// The package's own middleware can be used in that place, too.
	keys := newJWKS(t)
	h = newHandler(t, eng, silent, func(c *teams.Config) {
		c.InboundAuth, c.Authenticate = teams.InboundAuthCustom, newAuthenticator(t, keys).Middleware
	})
	if w := postAs(t, h, recorded(t, "step1_message.json"), "Bearer "+goodToken(t, time.Now()).sign(t)); w.Code != http.StatusOK || len(eng.turns) != 2 {
		t.Errorf("%d, %d turns", w.Code, len(eng.turns))
	}
}

// TestEmulatorsTokens checks that the emulator's tokens pass as those of a
// connector.
func TestEmulatorsTokens(t *testing.T) {
	t.Parallel()
	emu := emulator.New(emulator.Config{ClientID: appID})
	web := httptest.NewServer(emu)
	t.Cleanup(web.Close)
	emu.SetBaseURL(web.URL)
	a, err := teams.NewAuthenticator(teams.AuthConfig{
		AppID: appID, OpenIDMetadataURL: web.URL + "/v1/.well-known/openidconfiguration", Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.CloseIdleConnections)
	eng := &fakeEngine{handle: answering(machine.Answer{Status: 200})}
	user := emu.Teams(serve(t, authenticated(t, a, eng, func(c *teams.Config) { c.ServiceURLs = loopback(t) })))
	if said, err := user.SendMessage(t.Context(), "hello"); err != nil || said.Status != http.StatusUnauthorized {
		t.Errorf("without a token: %d, %v", said.Status, err)
	}
	user.Authorize = emu.Authorize(appID)
	if said, err := user.SendMessage(t.Context(), "hello"); err != nil || said.Status != http.StatusOK {
		t.Errorf("%d, %v", said.Status, err)
	}
}

func TestNewAuthenticatorRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*teams.AuthConfig)
		says   string
	}{
		"no app id":                {func(c *teams.AuthConfig) { c.AppID = "" }, "app id"},
		"metadata over plain http": {func(c *teams.AuthConfig) { c.OpenIDMetadataURL = "http://login.example/x" }, "https"},
		"metadata of no kind":      {func(c *teams.AuthConfig) { c.OpenIDMetadataURL = "file:///etc/passwd" }, "URL"},
		"metadata without host":    {func(c *teams.AuthConfig) { c.OpenIDMetadataURL = "https:///x" }, "URL"},
		"agentic without tenant":   {func(c *teams.AuthConfig) { c.Agentic = &teams.Agentic{} }, "tenant"},
		"agentic for a domain":     {func(c *teams.AuthConfig) { c.Agentic = &teams.Agentic{Tenant: "contoso.example"} }, "tenant"},
		"agentic, plain http": {func(c *teams.AuthConfig) {
			c.Agentic = &teams.Agentic{Tenant: seedTenant, LoginURL: "http://login.example"}
		}, "https"},
		"odd limits": {func(c *teams.AuthConfig) { c.Limits.Depth = -1 }, "depth"},
	} {
		cfg := teams.AuthConfig{AppID: appID}
		tc.change(&cfg)
		if a, err := teams.NewAuthenticator(cfg); err == nil || a != nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := teams.NewAuthenticator(teams.AuthConfig{AppID: appID}); err != nil {
		t.Error(err)
	}
}
