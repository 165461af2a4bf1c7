package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"
)

type broken struct{}

func (broken) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("no network") }

// TestNobodyAsks: an upstream that was dead and is asked no more is not called
// dead for ever.
func TestNobodyAsks(t *testing.T) {
	t.Parallel()
	tr := New(Config{Name: Provider, Next: broken{}, OpenFor: time.Millisecond})
	for range DefaultFailures {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://provider.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := tr.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	c := tr.circuit("provider.example")
	for after, want := range map[time.Duration]bool{0: true, time.Minute: true, 6 * time.Minute: false} {
		if got := c.dead(time.Now().Add(after)); got != want {
			t.Errorf("after %s: dead %t, want %t", after, got, want)
		}
	}
}

// next is a network whose requests the test answers.
type next func(*http.Request) (*http.Response, error)

func (n next) RoundTrip(r *http.Request) (*http.Response, error) { return n(r) }

// ask makes a request that is not repeated.
func ask(t *testing.T, tr *Transport, url string, header http.Header) (err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	resp, err := tr.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	return err
}

// TestOwnMistakes: a request that cannot be sent says nothing about the upstream.
func TestOwnMistakes(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer service.Close()
	for name, mistake := range map[string]struct {
		scheme string
		header http.Header
	}{
		"value of a header": {"http", http.Header{"Authorization": {"Bearer a\nb"}}},
		"name of a header":  {"http", http.Header{"a b": {"c"}}},
		"scheme":            {"htp", http.Header{}},
	} {
		tr := New(Config{Name: Provider, Next: Pooled()})
		defer tr.CloseIdleConnections()
		for range 3 * DefaultFailures {
			if err := ask(t, tr, mistake.scheme+strings.TrimPrefix(service.URL, "http"), mistake.header); err == nil {
				t.Fatalf("%s: the request was sent", name)
			}
		}
		if err := ask(t, tr, service.URL, http.Header{}); err != nil {
			t.Errorf("%s: the next request: %v", name, err)
		}
	}
}

// TestPanicBelow: the request that is let through to a dead upstream panics; the next
// one is let through in its place.
func TestPanicBelow(t *testing.T) {
	t.Parallel()
	answer := func(*http.Request) (*http.Response, error) { return nil, errors.New("no network") }
	tr := New(Config{Name: Provider, OpenFor: time.Millisecond, Next: next(func(r *http.Request) (*http.Response, error) { return answer(r) })})
	const url = "http://provider.example/"
	for range DefaultFailures {
		_ = ask(t, tr, url, nil)
	}
	answer = func(*http.Request) (*http.Response, error) { panic("in a middleware") }
	for tr.circuit("provider.example").State() != gobreaker.StateHalfOpen {
		time.Sleep(time.Millisecond)
	}
	if err := ask(t, tr, url, nil); err == nil || err.Error() != "panic: in a middleware" {
		t.Fatalf("the panic is not the caller's: %v", err)
	}
	answer = func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}
	for tr.circuit("provider.example").State() == gobreaker.StateOpen {
		time.Sleep(time.Millisecond)
	}
	if err := ask(t, tr, url, nil); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}
