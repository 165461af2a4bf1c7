package teams_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // for RS384 and RS512
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/transport/teams"
)

const (
	appID       = "e3cb1c84-14e3-419c-b39c-1c06097b55fd"
	botIssuer   = "https://api.botframework.com"
	goodKey     = "key-1"
	otherKey    = "key-2"
	openKey     = "key-without-endorsements"
	blueprintID = "0b1e0001-0000-4000-8000-000000000001"
)

// rsaKey makes each key only once, since that takes a moment.
var rsaKey = func() func(tb testing.TB, n int) *rsa.PrivateKey {
	var mu sync.Mutex
	var made []*rsa.PrivateKey
	return func(tb testing.TB, n int) *rsa.PrivateKey {
		tb.Helper()
		mu.Lock()
		defer mu.Unlock()
		for len(made) <= n {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				tb.Fatal(err)
			}
			made = append(made, key)
		}
		return made[n]
	}
}()

// jwks is a fake issuer that serves OpenID metadata and keys over HTTP.
type jwks struct {
	*httptest.Server
	mu       sync.Mutex
	keys     map[string]map[string]any // by id
	metadata string                    // "" = the right one
	set      string                    // "" = of keys
	status   int                       // 0 = 200
	hold     chan struct{}             // answers wait until it is closed; nil = they do not wait
	fetches  int                       // of the key set
	asked    int                       // of the metadata
}

func newJWKS(tb testing.TB) *jwks {
	tb.Helper()
	s := &jwks{keys: map[string]map[string]any{}}
	s.put(goodKey, publicJWK(&rsaKey(tb, 0).PublicKey, "msteams", "webchat"))
	s.put(openKey, publicJWK(&rsaKey(tb, 1).PublicKey))
	s.Server = httptest.NewServer(s)
	tb.Cleanup(s.Close)
	return s
}

func publicJWK(key *rsa.PublicKey, endorsements ...string) map[string]any {
	jwk := map[string]any{
		"kty": "RSA", "use": "sig",
		"n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes()),
	}
	if endorsements != nil {
		jwk["endorsements"] = endorsements
	}
	return jwk
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (s *jwks) put(id string, jwk map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	jwk = maps.Clone(jwk)
	if id != "" {
		jwk["kid"] = id
	}
	s.keys[id] = jwk
}

func (s *jwks) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, id)
}

func (s *jwks) change(f func(*jwks)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *jwks) counts() (metadata, keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.fetches
}

func (s *jwks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	hold, status := s.hold, s.status
	var body any
	var raw string
	switch r.URL.Path {
	case "/keys":
		s.fetches++
		raw = s.set
		all := slices.Collect(maps.Values(s.keys))
		body = map[string]any{"keys": all}
	default:
		s.asked++
		raw = s.metadata
		body = map[string]any{"issuer": botIssuer, "jwks_uri": s.URL + "/keys"}
	}
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}
	if status != 0 {
		w.WriteHeader(status)
		return
	}
	if raw != "" {
		_, _ = w.Write([]byte(raw))
		return
	}
	_ = json.NewEncoder(w).Encode(body)
}

// jwt is a token to be signed.
type jwt struct {
	header, claims map[string]any
	key            any // *rsa.PrivateKey, []byte, *ecdsa.PrivateKey, nil
	raw            string
}

// goodToken is a token of the connector for the recorded conversation.
func goodToken(tb testing.TB, now time.Time) *jwt {
	tb.Helper()
	return &jwt{
		header: map[string]any{"alg": "RS256", "typ": "JWT", "kid": goodKey},
		claims: map[string]any{
			"iss": botIssuer, "aud": appID, "serviceurl": seedServiceURL,
			"nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
		},
		key: rsaKey(tb, 0),
	}
}

func (j *jwt) sign(tb testing.TB) string {
	tb.Helper()
	if j.raw != "" {
		return j.raw
	}
	part := func(m map[string]any) string {
		b, err := json.Marshal(m)
		if err != nil {
			tb.Fatal(err)
		}
		return b64(b)
	}
	signed := part(j.header) + "." + part(j.claims)
	return signed + "." + b64(signature(tb, j.header["alg"], j.key, []byte(signed)))
}

func signature(tb testing.TB, alg, key any, signed []byte) []byte {
	tb.Helper()
	var out []byte
	var err error
	switch key := key.(type) {
	case *rsa.PrivateKey:
		hash := map[any]crypto.Hash{"RS384": crypto.SHA384, "RS512": crypto.SHA512}[alg]
		if hash == 0 {
			hash = crypto.SHA256
		}
		h := hash.New()
		h.Write(signed)
		if alg == "PS256" {
			out, err = rsa.SignPSS(rand.Reader, key, hash, h.Sum(nil), nil)
		} else {
			out, err = rsa.SignPKCS1v15(nil, key, hash, h.Sum(nil))
		}
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(signed)
		r, s, e := ecdsa.Sign(rand.Reader, key, sum[:])
		if err = e; err == nil {
			out = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write(signed)
		out = mac.Sum(nil)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func publicPEM(tb testing.TB, key *rsa.PublicKey) []byte {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func ecKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// clock is a time that the test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newAuthenticator(tb testing.TB, keys *jwks, change ...func(*teams.AuthConfig)) *teams.Authenticator {
	tb.Helper()
	cfg := teams.AuthConfig{AppID: appID, OpenIDMetadataURL: keys.URL + "/metadata", Log: zerolog.Nop()}
	for _, c := range change {
		c(&cfg)
	}
	a, err := teams.NewAuthenticator(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(a.CloseIdleConnections)
	return a
}

// authenticated is a handler that requires tokens.
func authenticated(tb testing.TB, a *teams.Authenticator, eng teams.Engine, change ...func(*teams.Config)) http.Handler {
	tb.Helper()
	return newHandler(tb, eng, silent, append([]func(*teams.Config){func(c *teams.Config) {
		c.InboundAuth, c.Authenticator, c.Listener = teams.InboundAuthJWT, a, "0.0.0.0:3978"
	}}, change...)...)
}

// postAs posts a body with the given Authorization headers.
func postAs(tb testing.TB, h http.Handler, body []byte, authorization ...string) *httptest.ResponseRecorder {
	tb.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/api/messages", bytes.NewReader(body))
	for _, a := range authorization {
		r.Header.Add("Authorization", a)
	}
	h.ServeHTTP(w, r)
	return w
}

// silentEngine accepts everything, from many goroutines.
type silentEngine struct{}

func (silentEngine) HandleInvoke(context.Context, *machine.Activity) (machine.Answer, bool) {
	return machine.Answer{Status: http.StatusOK}, true
}

func (silentEngine) Turn(*machine.Activity) *machine.Turn { return new(machine.Turn) }

func (silentEngine) Before(context.Context, *machine.Turn) bool { return false }
