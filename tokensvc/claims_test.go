package tokensvc_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// jwt is a token with the given claims.
func jwt(claims string) tokensvc.Secret {
	return tokensvc.NewSecret("e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln")
}

func TestReadClaims(t *testing.T) {
	t.Parallel()
	for claims, want := range map[string]tokensvc.Claims{
		`{"aud":"api://bot","iss":"i","sub":"s","tid":"t","oid":"o","azp":"a","appid":"b","ver":"2.0","name":"Ada","scp":"x y","exp":1776827524}`: {
			Audience: "api://bot", Issuer: "i", Subject: "s", Tenant: "t", ObjectID: "o", Client: "a", Version: "2.0", Name: "Ada",
			Scopes: []string{"x", "y"}, Expires: time.Unix(1776827524, 0).UTC(),
		},
		`{"aud":["first","second"],"appid":"b","exp":1776827524.9}`: {
			Audience: "first", Client: "b", Expires: time.Unix(1776827524, 0).UTC(),
		},
		`{"aud":[],"exp":"0"}`:                         {},
		`{"aud":7,"upn":"u","email":"e"}`:              {Username: "u"},
		`{"preferred_username":"p","unique_name":"n"}`: {Username: "p"},
		`{"unique_name":"n","email":"e"}`:              {Username: "n"},
		`{"email":"e"}`:                                {Username: "e"},
	} {
		got, ok := tokensvc.ReadClaims(jwt(claims))
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(tokensvc.Claims{}), cmpopts.EquateEmpty()); !ok || diff != "" {
			t.Errorf("%s: %t (-want +got):\n%s", claims, ok, diff)
		}
	}
	for _, token := range []string{"", "opaque", "a.b", "a.b.c.d", "e30.!.c2ln", "e30." + base64.RawURLEncoding.EncodeToString([]byte("7")) + ".c2ln"} {
		if got, ok := tokensvc.ReadClaims(tokensvc.NewSecret(token)); ok {
			t.Errorf("%q: %+v", token, got)
		}
	}
	padded := tokensvc.NewSecret("e30." + base64.URLEncoding.EncodeToString([]byte(`{"sub":"ab"}`)) + ".c2ln")
	if got, ok := tokensvc.ReadClaims(padded); !ok || got.Subject != "ab" {
		t.Errorf("padded: %+v, %t", got, ok)
	}
}

func TestOnBehalfOf(t *testing.T) {
	const tenant = "3f3d1f6e-2f8a-4b55-9c1a-0a4f5b6c7d8e"
	for name, tc := range map[string]struct {
		assertion tokensvc.Secret
		status    int
		body      string
		want      string // the token, "" after an error
		code      string
		asked     int
	}{
		"a token":        {jwt(`{"tid":"` + tenant + `"}`), 200, `{"access_token":"other","expires_in":3599}`, "other", "", 1},
		"no consent":     {jwt(`{"tid":"` + tenant + `"}`), 400, `{"error":"invalid_grant","error_codes":[65001],"error_description":"AADSTS65001: x"}`, "", "AADSTS65001", 1},
		"not from Entra": {jwt(`{"iss":"https://accounts.example.com"}`), 200, `{"access_token":"other"}`, "", "", 0},
		"opaque":         {tokensvc.NewSecret("opaque"), 200, `{"access_token":"other"}`, "", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, e := credentials(t, func(_ int, r *http.Request) (*http.Response, error) {
				if err := r.ParseForm(); err != nil {
					t.Error(err)
				}
				if r.URL.Path != "/"+tenant+"/oauth2/v2.0/token" || r.PostForm.Get("assertion") != tc.assertion.Reveal() || r.PostForm.Get("scope") != "Mail.Read offline_access" {
					t.Errorf("%s %v", r.URL.Path, r.PostForm)
				}
				return answer(tc.status, tc.body)
			})
			got, err := c.OnBehalfOf(t.Context(), tc.assertion, []string{"Mail.Read", "offline_access"})
			if got.Token.Reveal() != tc.want || (err == nil) != (tc.want != "") || e.n != tc.asked {
				t.Errorf("%q, %v after %d requests", got.Token.Reveal(), err, e.n)
			}
			var fail *tokensvc.Error
			switch {
			case tc.code != "":
				if !errors.As(err, &fail) || fail.Op != tokensvc.OpOnBehalfOf || fail.Code != tc.code || fail.Status != tc.status {
					t.Errorf("%+v", err)
				}
			case err != nil && !errors.Is(err, tokensvc.ErrAudience):
				t.Errorf("%v, want ErrAudience", err)
			}
		})
	}
}

// own is an error of a transport that did not make the request.
type own struct{ error }

func (own) ErrorCode() string         { return "circuit_open" }
func (own) RetryDelay() time.Duration { return 7 * time.Second }

// A transport that made no request says why, and when to try again.
func TestTheTransportsOwnError(t *testing.T) {
	c, _ := credentials(t, func(int, *http.Request) (*http.Response, error) { return nil, own{errors.New("not now")} })
	_, err := c.OnBehalfOf(t.Context(), jwt(`{"tid":"3f3d1f6e-2f8a-4b55-9c1a-0a4f5b6c7d8e"}`), nil)
	var fail *tokensvc.Error
	if !errors.As(err, &fail) || fail.Code != "circuit_open" || fail.RetryAfter != 7*time.Second || fail.Status != 0 {
		t.Errorf("%+v", err)
	}
}
