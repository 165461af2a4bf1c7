package credentials_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/credentials"
)

// userTenant differs from the bot's own tenant.
const userTenant = "11111111-0000-4000-8000-00000000007e"

// userToken is a token that can be exchanged.
var userToken = tokensvc.NewSecret(jwtOf(userTenant))

func jwtOf(tenant string) string {
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(`{"aud":"`+appID+`","tid":"`+tenant+`"}`)) + ".s"
}

// behalves returns sources that can exchange users' tokens.
func behalves(t *testing.T, e *entra) map[string]*credentials.Source {
	t.Helper()
	dir := t.TempDir()
	newCertificate(t, filepath.Join(dir, "cert.pem"))
	if err := os.WriteFile(filepath.Join(dir, "assertion"), []byte("of the cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, err := credentials.Certificate(e.bot(), filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	federated, err := credentials.FederatedFile(e.bot(), filepath.Join(dir, "assertion"))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*credentials.Source{"certificate": cert, "federated": federated}
}

func TestOnBehalfOf(t *testing.T) {
	for _, name := range []string{"certificate", "federated"} {
		t.Run(name, func(t *testing.T) {
			e := newEntra(t)
			s := behalves(t, e)[name]
			tok, err := s.OnBehalfOf(t.Context(), userToken, []string{"https://graph.microsoft.com/User.Read"})
			if err != nil || tok.Token.Empty() || time.Until(tok.Expiration) < 50*time.Minute {
				t.Fatalf("%+v, %v", tok, err)
			}
			form := e.asked()[0]
			for key, want := range map[string]string{
				"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "requested_token_use": "on_behalf_of",
				"assertion": userToken.Reveal(), "client_id": appID,
			} {
				if got := form.Get(key); got != want {
					t.Errorf("%s is %q, want %q", key, got, want)
				}
			}
			if form.Get("client_assertion") == "" || !strings.Contains(form.Get("scope"), "https://graph.microsoft.com/User.Read") {
				t.Errorf("form %v", form)
			}
			if path := e.paths[0]; !strings.HasPrefix(path, "/"+userTenant+"/") {
				t.Errorf("asked at %s, want the user's tenant", path)
			}
		})
	}
}

func TestOnBehalfOfRefused(t *testing.T) {
	for _, name := range []string{"certificate", "federated"} {
		t.Run(name, func(t *testing.T) {
			e := newEntra(t)
			s := behalves(t, e)[name]
			e.fail(http.StatusBadRequest, `{"error":"invalid_grant","error_description":"secret","error_codes":[500131]}`)
			_, err := s.OnBehalfOf(t.Context(), userToken, []string{"a/.default"})
			var refused *tokensvc.Error
			if !errors.Is(err, tokensvc.ErrAudience) || !errors.As(err, &refused) || refused.Code != "AADSTS500131" ||
				refused.Op != tokensvc.OpOnBehalfOf || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
			if _, ok := tokensvc.CredentialsFailure(err); ok {
				t.Error("it counts as a failure of the bot's own credentials")
			}
			// The token comes from the client, and its tenant becomes part of a
			// URL.
			asked := len(e.asked())
			for what, forged := range map[string]string{"opaque": "opaque", "parent": jwtOf(".."), "name": jwtOf("contoso.example"), "path": jwtOf(tenant + "/x")} {
				if _, err := s.OnBehalfOf(t.Context(), tokensvc.NewSecret(forged), []string{"a/.default"}); !errors.Is(err, tokensvc.ErrAudience) {
					t.Errorf("%s: %v, want ErrAudience", what, err)
				}
			}
			if len(e.asked()) != asked {
				t.Error("Entra was asked")
			}
			e.Close()
			_, err = s.OnBehalfOf(t.Context(), userToken, []string{"a/.default"})
			if !errors.As(err, &refused) || refused.Op != tokensvc.OpOnBehalfOf || refused.Status != 0 || strings.Contains(err.Error(), "http") {
				t.Errorf("nobody answers: %v", err)
			}
		})
	}
}

func TestManagedIdentityExchangesNothing(t *testing.T) {
	s, err := credentials.ManagedIdentity(newEntra(t).bot(), credentials.SystemAssigned)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OnBehalfOf(t.Context(), userToken, []string{"a/.default"}); err == nil || !strings.Contains(err.Error(), "federated credential") {
		t.Errorf("%v, want what to do instead", err)
	}
}

// TestUser checks that User gives the connection's own token, whatever scopes a
// client asks for, and that UserOnBehalfOf exchanges it for those scopes.
func TestUser(t *testing.T) {
	e := newEntra(t)
	graph, turn := alice(t, fixed{}, behalves(t, e)["certificate"])
	asked := policy.TokenRequestOptions{Scopes: []string{"https://graph.microsoft.com/.default"}}
	own, err := credentials.User(graph, turn).GetToken(t.Context(), asked)
	if err != nil || own.Token != userToken.Reveal() || len(e.asked()) != 0 {
		t.Errorf("own: %v, and Entra was asked %d times", err, len(e.asked()))
	}
	other, err := credentials.UserOnBehalfOf(graph, turn).GetToken(t.Context(), asked)
	if err != nil || other.Token != "t1" || other.ExpiresOn.IsZero() {
		t.Errorf("on behalf of: %q, %v", other.Token, err)
	}
}

// Without a sign-in a client gets an error and no empty token.
func TestUserWhoIsNotSignedIn(t *testing.T) {
	graph, turn := alice(t, machinetest.NewTokenService(func(string, ...any) {}), nil)
	if got, err := credentials.User(graph, turn).GetToken(t.Context(), policy.TokenRequestOptions{}); !errors.Is(err, tokensvc.ErrNoToken) || got.Token != "" {
		t.Errorf("%q, %v; want ErrNoToken", got.Token, err)
	}
}

// alice returns a turn of a user, and the flow of the connection graph.
func alice(t *testing.T, tokens machine.TokenService, behalf machine.OnBehalfOf) (*machine.Flow, *machine.Turn) {
	t.Helper()
	eng, err := machine.New(machine.Config{
		AppID: appID, Store: memstore.New(time.Now), Tokens: tokens, OnBehalfOf: behalf,
		Messenger: machinetest.NewConnector(func(string, ...any) {}), Log: zerolog.Nop(),
		Connections: []machine.Connection{{Name: "graph"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	graph, err := eng.Flow("graph")
	if err != nil {
		t.Fatal(err)
	}
	return graph, eng.Turn(&machine.Activity{Conversation: store.Conversation{Channel: "msteams", UserID: "29:alice", UserAAD: "aad"}})
}

// fixed always returns the same token.
type fixed struct{ machine.TokenService }

func (fixed) GetToken(context.Context, tokensvc.UserConnection, tokensvc.Secret) (tokensvc.Token, error) {
	return tokensvc.Token{Token: userToken}, nil
}
