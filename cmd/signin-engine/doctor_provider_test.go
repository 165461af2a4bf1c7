package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// TestDoctorAndTheProvider covers what doctor reports about the provider of a
// message extension.
func TestDoctorAndTheProvider(t *testing.T) {
	t.Parallel()
	provider := emulator.NewProvider(emulator.ProviderConfig{ClientID: "bot", ClientSecret: tokensvc.NewSecret("right")})
	services := emulator.New(emulator.Config{Provider: provider})
	upstream := httptest.NewServer(services)
	t.Cleanup(upstream.Close)
	services.SetBaseURL(upstream.URL)
	issuer := upstream.URL + "/provider"
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": "https://somebody-else.example"})
			return
		}
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(broken.Close)
	gone := httptest.NewServer(nil)
	gone.Close()

	good := config.Provider{Issuer: issuer, ClientID: "bot", ClientSecret: tokensvc.NewSecret("right")}
	plain := func(base string) config.Provider {
		return config.Provider{AuthorizeURL: base + "/authorize", TokenURL: base + "/token", ClientID: "bot", ClientSecret: tokensvc.NewSecret("right")}
	}
	wrong := good
	wrong.ClientSecret = tokensvc.NewSecret("wrong")
	other, away, noToken := good, good, plain(upstream.URL+"/v1.0")
	other.Issuer, away.Issuer = broken.URL, gone.URL
	for _, c := range []struct {
		name     string
		provider config.Provider
		want     [3]string // results of provider, client, public url
		say      [2]string // in their details
	}{
		{"as it should be", good, [3]string{healthOK, healthOK, healthWarn}, [2]string{"same issuer; sign-outs are told", "knows the client"}},
		{"plain OAuth 2.0", plain(issuer), [3]string{healthOK, healthOK, healthWarn}, [2]string{"nothing to discover; it cannot be told", "knows the client"}},
		{"a wrong secret", wrong, [3]string{healthOK, healthFail, healthWarn}, [2]string{"", "check client_id, client_secret and token_endpoint_auth_method"}},
		{"another issuer", other, [3]string{healthFail, healthSkipped, healthWarn}, [2]string{"must be exactly", "was not found"}},
		{"nobody there", away, [3]string{healthFail, healthSkipped, healthWarn}, [2]string{"discovery", "was not found"}},
		{"no token endpoint", noToken, [3]string{healthOK, healthWarn, healthWarn}, [2]string{"", "is it the token endpoint?"}},
		{"a token endpoint that is down", plain(broken.URL), [3]string{healthOK, healthFail, healthWarn}, [2]string{"", "502"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := config.Default()
			cfg.MessageExtension = &config.MessageExtension{
				Connection: "wiki", PublicURL: "http://127.0.0.1:9", Provider: c.provider, EncryptionKey: tokensvc.NewSecret(randomKey()),
			}
			got := providerHealth(t.Context(), cfg)
			for i, h := range got {
				if h.Result != c.want[i] || i < 2 && !strings.Contains(h.Detail, c.say[i]) {
					t.Errorf("%+v, want %s", h, c.want[i])
				}
				if strings.Contains(h.Detail, "right") || strings.Contains(h.Detail, "signin-engine-probe") {
					t.Errorf("a secret in %+v", h)
				}
			}
		})
	}
	cfg := config.Default()
	for _, h := range providerHealth(t.Context(), cfg) {
		if h.Result != healthSkipped {
			t.Errorf("without a message extension: %+v", h)
		}
	}
}

// TestDoctorAndThePublicURL covers what doctor reports about the address to which
// users come back.
func TestDoctorAndThePublicURL(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/auth/page.css" {
			w.Header().Set("Content-Type", "text/css; charset=utf-8")
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	client := server.Client()
	for address, want := range map[string]string{
		"http://localhost:1":            healthWarn,
		"http://[::1]:1":                healthWarn,
		"https://192.0.2.1":             healthWarn,
		"https://bot":                   healthWarn,
		"https://example.com":           healthOK, // the test server's certificate is for it
		"https://example.com/elsewhere": healthFail,
		"https://gone.example.com":      healthFail,
	} {
		c := *client
		c.Transport = to{server.URL, client.Transport}
		if h := publicHealth(t.Context(), address, &c); h.Result != want {
			t.Errorf("%s: %+v, want %s", address, h, want)
		}
	}
}

// to sends every request to one server, whatever host it names.
type to struct {
	base string
	next http.RoundTripper
}

func (t to) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasPrefix(r.URL.Host, "gone.") {
		return nil, &net.DNSError{Err: "no such host", Name: r.URL.Host, IsNotFound: true}
	}
	there := r.Clone(r.Context())
	there.URL.Host = strings.TrimPrefix(t.base, "https://")
	return t.next.RoundTrip(there)
}
