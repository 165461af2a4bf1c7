package emulator_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// TestConnectorToken checks the signature the way a bot does: metadata, keys,
// token.
func TestConnectorToken(t *testing.T) {
	emu, _, base := start(t, emulator.Config{})
	var metadata struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	fetch(t, base+"/v1/.well-known/openidconfiguration", &metadata)
	if metadata.Issuer != "https://api.botframework.com" || !strings.HasPrefix(metadata.Keys, base) {
		t.Errorf("metadata %+v", metadata)
	}
	var keys struct {
		Keys []struct {
			KID, N, E    string
			Endorsements []string
		}
	}
	fetch(t, metadata.Keys, &keys)
	if len(keys.Keys) != 1 || keys.Keys[0].Endorsements[0] != "msteams" {
		t.Fatalf("keys %+v", keys)
	}
	public := &rsa.PublicKey{
		N: new(big.Int).SetBytes(decode(t, keys.Keys[0].N)),
		E: int(new(big.Int).SetBytes(decode(t, keys.Keys[0].E)).Int64()),
	}

	authorize := emu.Authorize("app")
	var shown [2]string
	for i := range shown {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := authorize(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		shown[i] = strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	}
	if shown[0] != shown[1] {
		t.Error("a new token for every request")
	}
	parts := strings.Split(shown[0], ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], decode(t, parts[2])); err != nil {
		t.Error(err)
	}
	var header struct{ Alg, KID string }
	if err := json.Unmarshal(decode(t, parts[0]), &header); err != nil || header.Alg != "RS256" || header.KID != keys.Keys[0].KID {
		t.Errorf("header %+v, %v", header, err)
	}
	var claims struct {
		Iss, Aud, ServiceURL string
		Nbf, Exp             int64
	}
	if err := json.Unmarshal(decode(t, parts[1]), &claims); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	if claims.Iss != metadata.Issuer || claims.Aud != "app" || claims.ServiceURL != base+"/" || claims.Nbf > now || claims.Exp <= now {
		t.Errorf("claims %+v", claims)
	}
}

func fetch(t *testing.T, link string, into any) {
	t.Helper()
	status, body, _ := request(t, http.MethodGet, link, "", "")
	if status != http.StatusOK {
		t.Fatalf("%s: %d", link, status)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatal(err)
	}
}

func decode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
