package tokensvc_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// canned answers without a network, so that what is measured is the client.
type canned []byte

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: int64(len(c)),
		Body: io.NopCloser(bytes.NewReader(c)), Request: r,
	}, nil
}

func benchmarkClient(b *testing.B) *tokensvc.Client {
	b.Helper()
	body := `{"channelId":"msteams","connectionName":"graph","token":"` + strings.Repeat("x", 2000) + `","expiration":"2026-04-22T04:12:00Z"}`
	c, err := tokensvc.New(tokensvc.Config{
		BaseURL: tokensvc.PublicURL, Credentials: tokensvc.Static(tokensvc.NewSecret(botJWT)),
		HTTPClient: &http.Client{Transport: canned(body)},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	return c
}

func BenchmarkGetToken(b *testing.B) {
	c := benchmarkClient(b)
	for b.Loop() {
		if _, err := c.GetToken(b.Context(), user, tokensvc.Secret{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	c := benchmarkClient(b)
	sso := tokensvc.NewSecret(strings.Repeat("j", 1500))
	for b.Loop() {
		if _, err := c.Exchange(b.Context(), user, sso); err != nil {
			b.Fatal(err)
		}
	}
}
