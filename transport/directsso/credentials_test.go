package directsso_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/transport/credentials"
)

// TestEveryCredential checks that users sign in silently with each kind of the
// bot's credentials.
func TestEveryCredential(t *testing.T) {
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"of the machine","token_type":"Bearer","expires_on":"%d"}`, time.Now().Add(time.Hour).Unix())
	}))
	t.Cleanup(imds.Close)
	t.Setenv("IDENTITY_ENDPOINT", imds.URL)
	t.Setenv("IDENTITY_HEADER", "x")
	dir := t.TempDir()
	certificate, assertion := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "assertion")
	writeCertificate(t, certificate)
	if err := os.WriteFile(assertion, []byte("of the cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, prove := range map[string]func(credentials.Bot) (*credentials.Source, error){
		"certificate": func(b credentials.Bot) (*credentials.Source, error) { return credentials.Certificate(b, certificate) },
		"federated by a file": func(b credentials.Bot) (*credentials.Source, error) {
			return credentials.FederatedFile(b, assertion)
		},
		"federated by an identity": func(b credentials.Bot) (*credentials.Source, error) {
			return credentials.FederatedIdentity(b, credentials.SystemAssigned)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBotOf(t, func(login *httptest.Server) (source, error) {
				return prove(credentials.Bot{ClientID: app, Tenant: "contoso", LoginURL: login.URL, HTTPClient: login.Client()})
			})
			b.say(t, "hello", "")
			card := b.card(t, 0)
			if got := b.exchange(t, &card); got != http.StatusOK {
				t.Fatalf("exchange: %d", got)
			}
			b.say(t, "hello", "token")
		})
	}
}

func writeCertificate(t *testing.T, path string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}
