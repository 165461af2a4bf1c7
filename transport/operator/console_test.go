package operator_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func fakeJWT(claims string) string {
	enc := base64.RawURLEncoding
	return enc.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc.EncodeToString([]byte(claims)) + "." + enc.EncodeToString([]byte("signature"))
}

// ask sends a request and follows no redirect.
func ask(t *testing.T, method, url, body string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must(t, err)
	req.Header = header
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	must(t, err)
	defer res.Body.Close() //nolint:errcheck // it was read
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return res, string(b)
}

// A person can look at the staged situations: go test -run TestLook -console.look=127.0.0.1:9980.
func TestLook(t *testing.T) {
	if *lookAt == "" {
		t.Skip("only with -console.look")
	}
	s := newStage(t)
	s.play(t)
	for name, id := range s.ids {
		t.Logf("%-18s /attempts/%s", name, id)
	}
	t.Logf("http://%s/login?token=%s", *lookAt, actToken)
	time.Sleep(10 * time.Minute)
}
