package upstream

import (
	"errors"
	"net/http"
	"testing"
	"time"
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
