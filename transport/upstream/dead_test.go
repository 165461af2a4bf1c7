package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"
)

type broken struct{}

func (broken) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("no network") }

// TestNobodyAsks checks that an upstream which was dead, and gets no more
// requests, does not count as dead for ever.
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

// next is a network whose answers the test makes.
type next func(*http.Request) (*http.Response, error)

func (n next) RoundTrip(r *http.Request) (*http.Response, error) { return n(r) }

// ask makes a request that is not repeated.
func ask(t *testing.T, tr *Transport, method, url string, header http.Header) (err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Method, req.Header = method, header
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

// TestOwnMistakes checks that a request which cannot be sent does not count
// against the upstream.
func TestOwnMistakes(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer service.Close()
	for name, mistake := range map[string]struct {
		method, scheme string
		header         http.Header
	}{
		"value of a header": {http.MethodPost, "http", http.Header{"Authorization": {"Bearer a\nb"}}},
		"name of a header":  {http.MethodPost, "http", http.Header{"a b": {"c"}}},
		"scheme":            {http.MethodPost, "htp", http.Header{}},
		"method":            {"A B", "http", http.Header{}},
	} {
		tr := New(Config{Name: Provider, Next: Pooled()})
		defer tr.CloseIdleConnections()
		for range 3 * DefaultFailures {
			if err := ask(t, tr, mistake.method, mistake.scheme+strings.TrimPrefix(service.URL, "http"), mistake.header); err == nil {
				t.Fatalf("%s: the request was sent", name)
			}
		}
		if err := ask(t, tr, http.MethodPost, service.URL, http.Header{}); err != nil {
			t.Errorf("%s: the next request: %v", name, err)
		}
	}
}

// TestPanicBelow checks that if the probe of a dead upstream panics, the next
// request is let through in its place.
func TestPanicBelow(t *testing.T) {
	t.Parallel()
	answer := func(*http.Request) (*http.Response, error) { return nil, errors.New("no network") }
	tr := New(Config{Name: Provider, OpenFor: time.Millisecond, Next: next(func(r *http.Request) (*http.Response, error) { return answer(r) })})
	const url = "http://provider.example/"
	for range DefaultFailures {
		_ = ask(t, tr, http.MethodPost, url, nil)
	}
	answer = func(*http.Request) (*http.Response, error) { panic("in a middleware") }
	for tr.circuit("provider.example").State() != gobreaker.StateHalfOpen {
		time.Sleep(time.Millisecond)
	}
	if err := ask(t, tr, http.MethodPost, url, nil); err == nil || err.Error() != "panic: in a middleware" {
		t.Fatalf("the panic is not the caller's: %v", err)
	}
	answer = func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}
	for tr.circuit("provider.example").State() == gobreaker.StateOpen {
		time.Sleep(time.Millisecond)
	}
	if err := ask(t, tr, http.MethodPost, url, nil); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

// TestGivenUpWithACause checks that a request which its caller cancels with a
// cause, before or during the answer, does not count against the upstream.
func TestGivenUpWithACause(t *testing.T) {
	t.Parallel()
	shutdown := errors.New("shutting down")
	arrived := make(chan context.CancelCauseFunc, 1)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			_, _ = w.Write([]byte("half of"))
			_ = http.NewResponseController(w).Flush()
		}
		(<-arrived)(shutdown)
		<-r.Context().Done()
	}))
	defer service.Close()
	for _, path := range []string{"/none", "/half"} {
		tr := New(Config{Name: Provider, Next: Pooled()})
		for range 3 * DefaultFailures {
			ctx, cancel := context.WithCancelCause(t.Context())
			arrived <- cancel
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, service.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := tr.RoundTrip(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			cancel(nil)
			if !errors.Is(err, shutdown) {
				t.Fatalf("%s: %v", path, err)
			}
		}
		if got := tr.Circuits()[0]; got.Opened != 0 {
			t.Errorf("%s: the breaker opened", path)
		}
		tr.CloseIdleConnections()
	}
}
