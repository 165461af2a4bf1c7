package teams_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
)

// BenchmarkCheckToken measures one request: the handler with a token and without,
// and the RSA operation alone, which every check needs. Its metric is checks per
// second and core.
func BenchmarkCheckToken(b *testing.B) {
	keys := newJWKS(b)
	a := newAuthenticator(b, keys)
	token := goodToken(b, time.Now()).sign(b)
	body := recorded(b, "step5_verifystate.json")
	run := func(h http.Handler) func(*testing.B) {
		return func(b *testing.B) {
			b.Helper()
			reader := bytes.NewReader(body)
			r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/api/messages", reader)
			r.Header.Set("Authorization", "Bearer "+token)
			w := &statusOnly{discard: discard{header: http.Header{}}}
			b.ReportAllocs()
			for b.Loop() {
				reader.Reset(body)
				h.ServeHTTP(w, r)
				if w.status != http.StatusOK {
					b.Fatal(w.status)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "checks/s")
		}
	}
	eng := &bareEngine{}
	eng.handle = answering(machine.Answer{Status: 200})
	b.Run("none", run(newHandler(b, eng, silent)))
	b.Run("jwt", run(authenticated(b, a, eng)))
	b.Run("middleware", run(a.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))))
	b.Run("rsa", func(b *testing.B) {
		end := strings.LastIndexByte(token, '.')
		signature, err := base64.RawURLEncoding.DecodeString(token[end+1:])
		if err != nil {
			b.Fatal(err)
		}
		sum := sha256.Sum256([]byte(token[:end]))
		public := &rsaKey(b, 0).PublicKey
		for b.Loop() {
			if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "checks/s")
	})
}
