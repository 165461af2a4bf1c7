package credentials_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/credentials"
)

const (
	appID  = "00000000-0000-4000-8000-0000000000b0"
	tenant = "00000000-0000-4000-8000-00000000007e"
)

// entra is a token endpoint and a managed identity endpoint.
type entra struct {
	*httptest.Server
	mu     sync.Mutex
	forms  []url.Values
	paths  []string
	life   int
	status int
	body   string
	delay  time.Duration
}

func newEntra(t *testing.T) *entra {
	t.Helper()
	e := &entra{life: 3600}
	e.Server = httptest.NewTLSServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *entra) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") {
		base := "https://" + r.Host + strings.TrimSuffix(r.URL.Path, "/v2.0/.well-known/openid-configuration")
		_, _ = fmt.Fprintf(w, `{"token_endpoint":"%[1]s/oauth2/v2.0/token","authorization_endpoint":"%[1]s/a","issuer":"%[1]s/v2.0"}`, base)
		return
	}
	if err := r.ParseForm(); err != nil {
		panic(err)
	}
	e.mu.Lock()
	e.forms = append(e.forms, r.Form)
	e.paths = append(e.paths, r.URL.Path)
	n, status, body, life, delay := len(e.forms), e.status, e.body, e.life, e.delay
	e.mu.Unlock()
	time.Sleep(delay)
	if status != 0 {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return
	}
	expiry := fmt.Sprintf(`"expires_in":%d`, life)
	if r.Header.Get("X-Identity-Header") != "" {
		expiry = fmt.Sprintf(`"expires_on":"%d"`, time.Now().Add(time.Duration(life)*time.Second).Unix())
	}
	_, _ = fmt.Fprintf(w, `{"token_type":"Bearer","access_token":"t%d",%s}`, n, expiry)
}

func (e *entra) fail(status int, body string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status, e.body = status, body
}

func (e *entra) asked() []url.Values {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.forms
}

func (e *entra) bot() credentials.Bot {
	return credentials.Bot{ClientID: appID, Tenant: tenant, LoginURL: e.URL, HTTPClient: e.Client()}
}

// newCertificate writes a certificate and its key as PEM.
func newCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "bot"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for kind, content := range map[string][]byte{"CERTIFICATE": der, "PRIVATE KEY": private} {
		if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: content}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func token(t *testing.T, s tokensvc.TokenSource, want string) tokensvc.Secret {
	t.Helper()
	got, err := s.Token(t.Context())
	if err != nil || got.Reveal() != want {
		t.Fatalf("token %q, %v; want %s", got.Reveal(), err, want)
	}
	return got
}

// signedBy reports whether an assertion is a JWT signed by the certificate's key.
func signedBy(t *testing.T, assertion string, cert *x509.Certificate) bool {
	t.Helper()
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		t.Fatalf("assertion of %d parts", len(parts))
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	head, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	var header struct{ Alg string }
	if err := json.Unmarshal(head, &header); err != nil {
		t.Fatal(err)
	}
	algorithm := x509.SHA256WithRSA
	if header.Alg == "PS256" {
		algorithm = x509.SHA256WithRSAPSS
	}
	return cert.CheckSignature(algorithm, []byte(parts[0]+"."+parts[1]), signature) == nil
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	file := filepath.Join(t.TempDir(), "bot.pem")
	cert := newCertificate(t, file)
	s, err := credentials.Certificate(e.bot(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.CloseIdleConnections)
	first := token(t, s, "t1")
	token(t, s, "t1") // cached
	form := e.asked()[0]
	if form.Get("grant_type") != "client_credentials" || form.Get("client_id") != appID ||
		!strings.Contains(form.Get("scope"), "https://api.botframework.com/.default") || form.Get("client_secret") != "" {
		t.Errorf("%v", form)
	}
	if e.paths[0] != "/"+tenant+"/oauth2/v2.0/token" {
		t.Errorf("path %q", e.paths[0])
	}
	if !signedBy(t, form.Get("client_assertion"), cert) {
		t.Error("the assertion is not signed with the certificate's key")
	}
	// The certificate is replaced, and Entra refuses the token of the old one.
	cert = newCertificate(t, file)
	s.DropToken(first)
	token(t, s, "t2")
	if !signedBy(t, e.asked()[1].Get("client_assertion"), cert) {
		t.Error("the old certificate is used")
	}
}

func TestCertificateOfAMultiTenantBot(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	file := filepath.Join(t.TempDir(), "bot.pem")
	newCertificate(t, file)
	china, _ := tokensvc.CloudNamed("china")
	for tenant, cloud := range map[string]tokensvc.Cloud{"botframework.com": {}, china.LoginTenant: china} {
		bot := e.bot()
		bot.Tenant, bot.Cloud = "", cloud
		s, err := credentials.Certificate(bot, file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		if path := e.paths[len(e.paths)-1]; path != "/"+tenant+"/oauth2/v2.0/token" {
			t.Errorf("path %q", path)
		}
	}
	if scope := e.asked()[0].Get("scope") + e.asked()[1].Get("scope"); !strings.Contains(scope, china.Scope) {
		t.Errorf("scopes %q", scope)
	}
}

func TestFederated(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("assertion-1\n")
	s, err := credentials.FederatedFile(e.bot(), file)
	if err != nil {
		t.Fatal(err)
	}
	first := token(t, s, "t1")
	write("assertion-2\n")
	s.DropToken(first)
	second := token(t, s, "t2")
	if a, b := e.asked()[0].Get("client_assertion"), e.asked()[1].Get("client_assertion"); a != "assertion-1" || b != "assertion-2" {
		t.Errorf("assertions %q, %q", a, b)
	}
	// If the file is missing, that is reported as a failure of the credentials.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.DropToken(second)
	_, err = s.Token(t.Context())
	if fail, ok := tokensvc.CredentialsFailure(err); !ok || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, %+v", err, fail)
	}
}

// identityEndpoint makes this process look as if it ran in Azure App Service.
func identityEndpoint(t *testing.T) *entra {
	t.Helper()
	e := &entra{life: 3600}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	t.Setenv("IDENTITY_ENDPOINT", e.URL+"/msi")
	t.Setenv("IDENTITY_HEADER", "header")
	return e
}

func TestManagedIdentity(t *testing.T) {
	e := identityEndpoint(t)
	for identity, id := range map[string]string{credentials.SystemAssigned: "", "user-assigned-id": "user-assigned-id"} {
		before := len(e.asked())
		s, err := credentials.ManagedIdentity(credentials.Bot{}, identity)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.CloseIdleConnections)
		first, err := s.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if asked := e.asked()[before]; asked.Get("client_id") != id || asked.Get("resource") != "https://api.botframework.com" {
			t.Errorf("%s: %v", identity, asked)
		}
		// The SDK has its own cache of such tokens. A new token must not come
		// from there after the old one was dropped.
		s.DropToken(first)
		if second, err := s.Token(t.Context()); err != nil || second.Reveal() == first.Reveal() {
			t.Errorf("%s: %q after %q, %v", identity, second.Reveal(), first.Reveal(), err)
		}
	}
	if _, err := credentials.ManagedIdentity(credentials.Bot{}, ""); err == nil {
		t.Error("accepted without a name")
	}
}

func TestFederatedByManagedIdentity(t *testing.T) {
	identity, e := identityEndpoint(t), newEntra(t)
	s, err := credentials.FederatedIdentity(e.bot(), "user-assigned-2")
	if err != nil {
		t.Fatal(err)
	}
	token(t, s, "t1")
	if asked := identity.asked()[0]; asked.Get("resource") != "api://AzureADTokenExchange" || asked.Get("client_id") != "user-assigned-2" {
		t.Errorf("%v", asked)
	}
	if got := e.asked()[0].Get("client_assertion"); got != "t1" {
		t.Errorf("assertion %q", got)
	}
	if _, err := credentials.FederatedIdentity(e.bot(), ""); err == nil {
		t.Error("accepted without a name")
	}
}

// TestErrors checks that a refusal becomes a *tokensvc.Error that does not quote
// the body.
func TestErrors(t *testing.T) {
	const secret = "s3cret-in-the-body"
	e, identity := newEntra(t), identityEndpoint(t)
	file := filepath.Join(t.TempDir(), "bot.pem")
	newCertificate(t, file)
	byCertificate, err := credentials.Certificate(e.bot(), file)
	if err != nil {
		t.Fatal(err)
	}
	byIdentity, err := credentials.ManagedIdentity(credentials.Bot{}, "user-assigned-3")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		source         tokensvc.TokenSource
		endpoint       *entra
		status, expect int
		body, code     string
	}{
		"bad certificate": {byCertificate, e, 401, 401, `{"error":"invalid_client","error_description":"` + secret + `"}`, "invalid_client"},
		"no tenant":       {byCertificate, e, 400, 400, `{"error":"unauthorized_client","error_description":"` + secret + `"}`, "unauthorized_client"},
		"not assigned":    {byIdentity, identity, 400, 400, `{"error":"invalid_request","error_description":"` + secret + `"}`, "invalid_request"},
		"no token in it":  {byCertificate, e, 200, 200, `{"x":"` + secret + `"}`, ""},
		"no JSON":         {byCertificate, e, 200, 200, secret, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tc.endpoint.fail(tc.status, tc.body)
			_, err := tc.source.Token(t.Context())
			fail, ok := tokensvc.CredentialsFailure(fmt.Errorf("sign in: %w", err))
			if !ok || fail.HTTPStatus() != tc.expect || fail.ErrorCode() != tc.code {
				t.Errorf("%v, %+v", err, fail)
			}
			if text := fmt.Sprintf("%v %+v %#v", err, err, fail); strings.Contains(text, secret) {
				t.Errorf("the body is in %s", text)
			}
		})
	}
	t.Run("down", func(t *testing.T) {
		e.Close()
		_, err := byCertificate.Token(t.Context())
		if fail, ok := tokensvc.CredentialsFailure(err); !ok || fail.Status != 0 || strings.Contains(err.Error(), "http") {
			t.Errorf("%v", err)
		}
	})
}

// TestOneFetchInFlightAndATimeout checks that concurrent callers share one fetch,
// and that Bot.Timeout bounds it.
func TestOneFetchInFlightAndATimeout(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	e.delay = 100 * time.Millisecond
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("assertion"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := credentials.FederatedFile(e.bot(), file)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := s.Token(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(e.asked()); n != 1 {
		t.Errorf("%d fetches", n)
	}
	bot := e.bot()
	bot.Timeout = 20 * time.Millisecond
	if s, err = credentials.FederatedFile(bot, file); err != nil {
		t.Fatal(err)
	}
	_, err = s.Token(context.Background())
	if _, ok := tokensvc.CredentialsFailure(err); !ok || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, err = s.OnBehalfOf(context.Background(), userToken, []string{"a/.default"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("on behalf of: %v", err)
	}
}

func TestMistakesAreFoundAtOnce(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	dir := t.TempDir()
	good, empty, odd := filepath.Join(dir, "good.pem"), filepath.Join(dir, "empty"), filepath.Join(dir, "odd.pem")
	newCertificate(t, good)
	for path, content := range map[string]string{empty: "\n", odd: "no PEM"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain := e.bot()
	plain.LoginURL = "http://127.0.0.1:1"
	strange := e.bot()
	strange.Tenant = "../x"
	for name, make := range map[string]func() (*credentials.Source, error){
		"no file": func() (*credentials.Source, error) {
			return credentials.Certificate(e.bot(), filepath.Join(dir, "gone"))
		},
		"no certificate": func() (*credentials.Source, error) { return credentials.Certificate(e.bot(), odd) },
		"plain http":     func() (*credentials.Source, error) { return credentials.Certificate(plain, good) },
		"odd tenant":     func() (*credentials.Source, error) { return credentials.Certificate(strange, good) },
		"no assertion": func() (*credentials.Source, error) {
			return credentials.FederatedFile(e.bot(), filepath.Join(dir, "gone"))
		},
		"empty assertion":  func() (*credentials.Source, error) { return credentials.FederatedFile(e.bot(), empty) },
		"federated, plain": func() (*credentials.Source, error) { return credentials.FederatedFile(plain, odd) },
	} {
		if s, err := make(); err == nil || s != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
