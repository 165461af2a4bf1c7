package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestTurnsAreFollowed checks that the caller's traceparent reaches every
// upstream, and that every log line about a turn has the ids by which Teams knows
// the turn. It also checks that the metrics have a listener of their own, which
// serves nothing else.
func TestTurnsAreFollowed(t *testing.T) {
	t.Parallel()
	const (
		trace = "4bf92f3577b34da6a3ce929d0e0e4736"
		cv    = "kEIQTLpLOkGcdHZL9JmRCw.1.2"
	)
	w := newWorld(t, true)
	at := freePort(t)
	b := newBot(t, w, program(t, released), "metrics: "+at+"\n")
	p := b.start(t)
	user := w.user(b.client(t), "followed")
	user.Authorize = func(_ context.Context, r *http.Request) error {
		r.Header.Set("Traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
		r.Header.Set("MS-CV", cv)
		return nil
	}
	w.signsIn(t, user)
	for _, one := range w.requests() {
		if !strings.HasPrefix(one.traceparent, "00-"+trace+"-") {
			t.Errorf("%s %s: traceparent %q", one.method, one.path(), one.traceparent)
		}
	}
	user.Authorize = nil
	if _, err := user.SendMessage(t.Context(), "status"); err != nil {
		t.Fatal(err)
	}
	if all := w.requests(); all[len(all)-1].traceparent != "" {
		t.Errorf("a traceparent of nobody: %q", all[len(all)-1].traceparent)
	}

	for path, want := range map[string]int{"/metrics": http.StatusOK, "/info": http.StatusNotFound, "/": http.StatusNotFound} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, resp.StatusCode, want)
		}
		if want == http.StatusOK && !strings.Contains(body.String(), `signin_completed_total{method="tokenExchange"} 1`) {
			t.Errorf("GET %s: %s", path, body.String())
		}
	}
	p.stopped(t)

	seen := map[string]int{}
	for line := range bytes.Lines(b.log()) {
		var said struct {
			Message, Activity, Attempt string
			CV                         string `json:"ms_cv"`
		}
		if json.Unmarshal(line, &said) != nil || !slices.Contains([]string{"activity", "transition", "upstream"}, said.Message) {
			continue
		}
		seen[said.Message]++
		if said.Activity == "" || said.CV != cv && !bytes.Contains(line, []byte("GetTokenStatus")) && said.CV != "" {
			t.Errorf("a line of a turn without its ids: %s", line)
		}
		if said.CV == cv {
			seen["with ms_cv"]++
		}
	}
	if seen["activity"] != 3 || seen["transition"] < 4 || seen["upstream"] < 4 || seen["with ms_cv"] < 10 {
		t.Errorf("lines: %v", seen)
	}
}
