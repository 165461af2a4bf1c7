package composeext_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
)

// ask sends a request for a page from an address.
func (w *world) ask(page, from, forwarded string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, w.public+"/auth/"+page, nil)
	r.RemoteAddr = from
	if forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	rec := httptest.NewRecorder()
	w.instances[0].popup.ServeHTTP(rec, r)
	return rec
}

// until sends requests until one is refused, and returns the number before that.
func (w *world) until(most int, ask func(i int) *httptest.ResponseRecorder) (int, *httptest.ResponseRecorder) {
	for i := range most {
		if got := ask(i); got.Code == http.StatusTooManyRequests {
			return i, got
		}
	}
	return most, nil
}

// There is a limit for each address and one for all addresses together.
func TestPageLimits(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	refused := map[string]int{}
	w := newWorld(t, func(w *world) {
		w.configure = func(c *popup.Config) {
			c.Limits = popup.Limits{PerClient: 30, Overall: 120}
			c.OnRefused = func(why string) {
				mu.Lock()
				defer mu.Unlock()
				refused[why]++
			}
		}
	})
	clock := time.Now()
	w.freeze(clock)
	one := func(int) *httptest.ResponseRecorder { return w.ask("callback?state=x", "192.0.2.1:1000", "") }
	n, got := w.until(100, one)
	if n != 10 || got == nil {
		t.Fatalf("%d requests of one address were answered, want 10", n)
	}
	if after, err := strconv.Atoi(got.Header().Get("Retry-After")); err != nil || after != 2 {
		t.Errorf("Retry-After %q, want 2", got.Header().Get("Retry-After"))
	}
	for range 20 { // a refused request does not use up later ones
		if again := w.ask("callback?state=x", "192.0.2.1:1000", ""); again.Header().Get("Retry-After") != "2" {
			t.Fatalf("Retry-After %q, want 2", again.Header().Get("Retry-After"))
		}
	}
	for _, want := range []string{"Wait a minute", `data-reason="too_many"`, "</html>"} {
		if !strings.Contains(got.Body.String(), want) {
			t.Errorf("the page lacks %s:\n%s", want, got.Body)
		}
	}
	if again := w.ask("page.css", "192.0.2.1:1000", ""); again.Code != http.StatusOK {
		t.Errorf("the style of the page is answered %d", again.Code)
	}
	if other := w.ask("callback?state=x", "192.0.2.2:1000", ""); other.Code != http.StatusBadRequest {
		t.Errorf("another address is answered %d", other.Code)
	}
	// An IPv6 /64 is one client. An IPv4 address mapped to IPv6 is a client of its own.
	n, _ = w.until(100, func(i int) *httptest.ResponseRecorder {
		return w.ask("callback?state=x", fmt.Sprintf("[2001:db8::%x]:9", i), "")
	})
	if n != 10 {
		t.Errorf("%d requests of one network were answered, want 10", n)
	}
	if mapped := w.ask("callback?state=x", "[::ffff:192.0.2.1]:9", ""); mapped.Code != http.StatusTooManyRequests {
		t.Errorf("the same address in another form is answered %d", mapped.Code)
	}
	n, _ = w.until(100, func(i int) *httptest.ResponseRecorder {
		return w.ask("callback?state=x", fmt.Sprintf("198.51.100.%d:9", i), "")
	})
	if n >= 40 {
		t.Errorf("%d requests of many addresses were answered, want fewer than 40", n)
	}
	mu.Lock()
	if refused[popup.WhyClient] != 23 || refused[popup.WhyOverall] != 1 {
		t.Errorf("refused: %v", refused)
	}
	mu.Unlock()
	w.freeze(clock.Add(time.Minute))
	if later := one(0); later.Code != http.StatusBadRequest {
		t.Errorf("a minute later: %d", later.Code)
	}
}

// A callback over the limit does nothing, so it works later.
func TestLimitedCallbackWorksLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.configure = func(c *popup.Config) { c.Limits = popup.Limits{PerClient: 3} }
	})
	w.freeze(time.Now())
	w.instances = w.instances[:1] // every instance has its own limits
	user, b := w.user(""), emulator.NewBrowser()
	asked, answer := w.query(user, "lakers")
	at, err := b.Authorize(t.Context(), answer.URL)
	if err != nil || at.Callback == "" {
		t.Fatalf("%+v, %v", at, err)
	}
	if got, err := b.Open(t.Context(), at.Callback); err != nil || got.Status != http.StatusTooManyRequests || got.Reason != "too_many" {
		t.Fatalf("%d %s, %v", got.Status, got.Reason, err)
	}
	w.freeze(time.Now().Add(time.Minute))
	ended, err := b.Open(t.Context(), at.Callback)
	if err != nil || ended.Code == "" {
		t.Fatalf("%d %s, %v", ended.Status, ended.Reason, err)
	}
	w.want(w.reissue(user, asked, ended.Code), "result")
}

// Behind a proxy the last address of its header is the client's. The client itself can
// send those before it.
func TestPageLimitsBehindAProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.configure = func(c *popup.Config) { c.Limits = popup.Limits{PerClient: 30, ClientHeader: "X-Forwarded-For"} }
	})
	w.freeze(time.Now())
	n, _ := w.until(100, func(i int) *httptest.ResponseRecorder {
		return w.ask("callback?state=x", "10.0.0.1:9", fmt.Sprintf("203.0.113.%d, 192.0.2.1", i))
	})
	if n != 10 {
		t.Errorf("%d requests of one client were answered, want 10", n)
	}
	if other := w.ask("callback?state=x", "10.0.0.1:9", "192.0.2.1, 192.0.2.7:4711"); other.Code != http.StatusBadRequest {
		t.Errorf("another client behind the proxy is answered %d", other.Code)
	}
}

// The number of remembered addresses is bounded.
func TestPageLimitsMemory(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.configure = func(c *popup.Config) { c.Limits = popup.Limits{Overall: 1 << 30} }
	})
	w.freeze(time.Now())
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	many := func(from int) {
		for i := from; i < from+20_000; i++ {
			w.ask("callback", fmt.Sprintf("10.%d.%d.%d:9", i>>16, i>>8&0xff, i&0xff), "")
		}
	}
	many(0)
	before := heap()
	many(20_000)
	if after := heap(); after > before+2<<20 {
		t.Errorf("20000 more addresses take %d KB", (after-before)>>10)
	}
}
