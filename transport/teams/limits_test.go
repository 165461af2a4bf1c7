package teams_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// slowEngine reports when it is entered, and returns when the test says so.
func slowEngine() (eng teams.Engine, entered, leave chan struct{}) {
	entered, leave = make(chan struct{}), make(chan struct{})
	return invokeEngine{func(context.Context, *machine.Activity) (machine.Answer, bool) {
		entered <- struct{}{}
		<-leave
		return machine.Answer{Status: http.StatusOK}, true
	}}, entered, leave
}

// TestBusy checks that a limited number of requests is handled at a time, that a
// limited number waits, and that all others are refused at once.
func TestBusy(t *testing.T) {
	t.Parallel()
	eng, entered, leave := slowEngine()
	refusals := teams.NewRefusals(zerolog.Nop())
	h := newHandler(t, eng, silent, func(c *teams.Config) {
		c.Limits, c.Refusals = teams.Limits{Concurrent: 2, Queue: 3, QueueWait: time.Hour}, refusals
	})
	answers := make(chan *httptest.ResponseRecorder)
	send := func() { answers <- post(t, h, string(recorded(t, "step5_verifystate.json"))) }
	go send()
	go send()
	<-entered
	<-entered
	for range 10 { // three of them will wait
		go send()
	}
	for range 7 {
		if w := <-answers; w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || w.Body.Len() != 0 {
			t.Errorf("%d %v", w.Code, w.Header())
		}
	}
	for range 3 {
		leave <- struct{}{}
		<-entered
	}
	leave <- struct{}{}
	leave <- struct{}{}
	for range 5 {
		if w := <-answers; w.Code != http.StatusOK {
			t.Errorf("%d", w.Code)
		}
	}
	if n := refusals.Count(teams.WhyBusy); n != 7 {
		t.Errorf("%d counted", n)
	}
}

// TestQueueWait checks that a request waits no longer than QueueWait.
func TestQueueWait(t *testing.T) {
	t.Parallel()
	eng, entered, leave := slowEngine()
	h := newHandler(t, eng, silent, func(c *teams.Config) {
		c.Limits = teams.Limits{Concurrent: 1, Queue: 1, QueueWait: 20 * time.Millisecond}
	})
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- post(t, h, string(recorded(t, "step5_verifystate.json"))) }()
	<-entered
	if w := post(t, h, string(recorded(t, "step5_verifystate.json"))); w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d", w.Code)
	}
	leave <- struct{}{}
	if w := <-first; w.Code != http.StatusOK {
		t.Errorf("%d", w.Code)
	}
}

// TestWhatAnInvokeHasWaited checks that the engine learns how long a request took
// to reach it. That includes the check of its token and the queue.
func TestWhatAnInvokeHasWaited(t *testing.T) {
	t.Parallel()
	const slow = 200 * time.Millisecond
	waited := make(chan time.Duration, 1)
	eng := invokeEngine{func(_ context.Context, a *machine.Activity) (machine.Answer, bool) {
		waited <- a.Waited
		return machine.Answer{Status: http.StatusOK}, true
	}}
	h := newHandler(t, eng, silent)
	body := &late{strings.NewReader(string(recorded(t, "step5_verifystate.json"))), slow}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/messages", body)
	req.Header.Set("Content-Type", "application/json")
	h.ServeHTTP(httptest.NewRecorder(), req)
	if got := <-waited; got < slow {
		t.Errorf("it waited for %s, want %s at least", got, slow)
	}
}

// late is a body whose first byte comes late.
type late struct {
	io.Reader
	wait time.Duration
}

func (l *late) Read(p []byte) (int, error) {
	time.Sleep(l.wait)
	l.wait = 0
	return l.Reader.Read(p)
}

// invokeEngine answers invokes, from many goroutines.
type invokeEngine struct {
	handle func(context.Context, *machine.Activity) (machine.Answer, bool)
}

func (e invokeEngine) HandleInvoke(ctx context.Context, a *machine.Activity) (machine.Answer, bool) {
	return e.handle(ctx, a)
}

func (invokeEngine) Turn(*machine.Activity) *machine.Turn { return new(machine.Turn) }

func (invokeEngine) Before(context.Context, *machine.Turn) bool { return false }

func TestSignInsPerUser(t *testing.T) {
	t.Parallel()
	refusals := teams.NewRefusals(zerolog.Nop())
	h := newHandler(t, silentEngine{}, silent, func(c *teams.Config) {
		c.Limits.SignInsPerMinute, c.Refusals = 3, refusals
	})
	of := func(file, user string) string { return change(t, file, "from", map[string]string{"id": user}) }
	want := func(what, body string, status int) *httptest.ResponseRecorder {
		t.Helper()
		w := post(t, h, body)
		if w.Code != status {
			t.Errorf("%s: %d, want %d", what, w.Code, status)
		}
		return w
	}
	message, invoke := "step1_message.json", "step5_verifystate.json"
	want("message", of(message, "29:a"), 200)
	want("invoke", of(invoke, "29:a"), 200)
	want("message", of(message, "29:a"), 200)
	for _, file := range []string{message, invoke} {
		w := want("over the limit", of(file, "29:a"), http.StatusTooManyRequests)
		seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
		if err != nil || seconds < 1 || seconds > 20 || w.Body.Len() != 0 {
			t.Errorf("Retry-After %q, body %q", w.Header().Get("Retry-After"), w.Body)
		}
	}
	want("another user", of(message, "29:b"), 200)
	// An activity that cannot begin a sign-in is not counted.
	typing := strings.Replace(of(message, "29:a"), `"type":"message"`, `"type":"typing"`, 1)
	want("typing", typing, 200)
	want("query", `{"type":"invoke","name":"composeExtension/query","from":{"id":"29:a"}}`, 200)
	// Invokes are counted whatever the case of their names.
	want("verifystate", strings.Replace(of(invoke, "29:a"), "signin/verifyState", "SignIn/VERIFYSTATE", 1), http.StatusTooManyRequests)
	// An event that causes a call to the Token Service is counted; other events
	// are not.
	event := `{"type":"event","name":"NAME","from":{"id":"29:a"},"conversation":{"id":"a:1"},"serviceUrl":"https://smba.trafficmanager.net/amer/"}`
	want("tokens/response", strings.Replace(event, "NAME", machine.EventTokensResponse, 1), http.StatusTooManyRequests)
	want("another event", strings.Replace(event, "NAME", "application/vnd.microsoft.meetingStart", 1), 200)
	if n := refusals.Count(teams.WhyTooManyOfOneUser); n != 4 {
		t.Errorf("%d counted", n)
	}
}

// TestUsersAreBounded checks that a new user replaces the one that was inactive
// for the longest time, so that a flood of invented users costs a bounded amount
// of memory.
func TestUsersAreBounded(t *testing.T) {
	t.Parallel()
	h := newHandler(t, silentEngine{}, silent, func(c *teams.Config) { c.Limits.SignInsPerMinute = 1 })
	body := change(t, "step1_message.json", "from", map[string]string{"id": "29:USER"})
	say := func(user int) int {
		return post(t, h, strings.Replace(body, "29:USER", fmt.Sprint("29:", user), 1)).Code
	}
	const remembered = 1 << 14
	for user := range remembered {
		say(user)
	}
	if say(0) != http.StatusTooManyRequests {
		t.Error("forgotten too soon")
	}
	for user := range remembered {
		say(remembered + user)
	}
	if say(0) != http.StatusOK {
		t.Error("remembered for ever")
	}
}

// start serves h on a loopback listener, as serve does, with other limits.
func start(tb testing.TB, h http.Handler, limits teams.Limits) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	srv := limits.Server(l.Addr().String(), h)
	srv.ErrorLog = nil
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	tb.Cleanup(func() {
		_ = srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			tb.Error(err)
		}
	})
	return l.Addr().String()
}

// dial opens a connection and writes to it.
func dial(tb testing.TB, addr, text string) net.Conn {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		tb.Fatal(err)
	}
	return c
}

// status reads the status of an answer, 0 if the connection was cut.
func status(tb testing.TB, c net.Conn, patience time.Duration) int {
	tb.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	var netErr net.Error
	switch {
	case errors.As(err, &netErr) && netErr.Timeout():
		tb.Fatalf("no answer within %s", patience)
	case err != nil:
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestSlowSenders(t *testing.T) {
	t.Parallel()
	quick := teams.Limits{HeaderTimeout: 100 * time.Millisecond, BodyTimeout: 300 * time.Millisecond}
	h := newHandler(t, silentEngine{}, silent, func(c *teams.Config) { c.Limits = quick })
	addr := start(t, h, quick)
	const head = "POST / HTTP/1.1\r\nHost: bot\r\nContent-Length: 1000\r\n"
	for name, tc := range map[string]struct {
		text string
		want int
	}{
		"nothing":         {"", 0},
		"half a line":     {"POST /", http.StatusBadRequest},
		"half the header": {head, 0},
		"half the body":   {head + "\r\n{", http.StatusRequestTimeout},
		"no body":         {head + "\r\n", http.StatusRequestTimeout},
		"half a chunk":    {"POST / HTTP/1.1\r\nHost: bot\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{", http.StatusRequestTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			if got := status(t, dial(t, addr, tc.text), 5*time.Second); got != tc.want {
				t.Errorf("%d, want %d", got, tc.want)
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
	// On a server of the caller's own without timeouts, the handler bounds the
	// time of reading the body.
	t.Run("other server", func(t *testing.T) {
		t.Parallel()
		addr := strings.TrimPrefix(serve(t, h), "http://")
		if got := status(t, dial(t, addr, head+"\r\n{"), 5*time.Second); got != http.StatusRequestTimeout {
			t.Errorf("%d", got)
		}
	})
}

// TestRefusedBeforeTheBody checks that a refused request is answered before its
// body arrives, and that its connection is closed.
func TestRefusedBeforeTheBody(t *testing.T) {
	t.Parallel()
	keys := newJWKS(t)
	addr := start(t, authenticated(t, newAuthenticator(t, keys), silentEngine{}), teams.Limits{})
	begin := time.Now()
	c := dial(t, addr, "POST / HTTP/1.1\r\nHost: bot\r\nAuthorization: Bearer a.b.c\r\nContent-Length: 100000\r\n\r\n{")
	if got := status(t, c, 5*time.Second); got != http.StatusUnauthorized {
		t.Errorf("%d", got)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) || time.Since(begin) > 3*time.Second {
		t.Errorf("%d bytes, %v after %s", n, err, time.Since(begin))
	}
}

// TestHeaderInjection checks that headers cannot be oversized, folded or smuggled
// into one another.
func TestHeaderInjection(t *testing.T) {
	t.Parallel()
	keys := newJWKS(t)
	addr := start(t, authenticated(t, newAuthenticator(t, keys), silentEngine{}), teams.Limits{})
	token := goodToken(t, time.Now()).sign(t)
	body := string(recorded(t, "step1_message.json"))
	request := func(header string) string {
		return "POST / HTTP/1.1\r\nHost: bot\r\nConnection: close\r\n" + header + "\r\n\r\n" + body
	}
	length := fmt.Sprintf("Content-Length: %d", len(body))
	for name, tc := range map[string]struct {
		header string
		want   int
	}{
		"good":                   {"Authorization: Bearer " + token + "\r\n" + length, 200},
		"twice":                  {"Authorization: Bearer x\r\nAuthorization: Bearer " + token + "\r\n" + length, 401},
		"folded":                 {"Authorization: Bearer\r\n " + token + "\r\n" + length, 200}, // net/http unfolds it
		"blank before the colon": {"Authorization : Bearer " + token + "\r\n" + length, 400},
		"underscore":             {"Authorization_: Bearer " + token + "\r\n" + length, 401},
		"behind a proxy's name":  {"X-Forwarded-Authorization: Bearer " + token + "\r\n" + length, 401},
		"bare line feed":         {"X: y\nAuthorization: Bearer " + token + "\r\n" + length, 200}, // net/http accepts it as the end of a line
		"zero byte":              {"Authorization: Bearer " + token + "\x00\r\n" + length, 400},
		"two lengths":            {"Authorization: Bearer " + token + "\r\nContent-Length: 1\r\n" + length, 400},
		"length and chunks":      {"Authorization: Bearer " + token + "\r\nTransfer-Encoding: chunked\r\n" + length, 400},
		"odd encoding":           {"Authorization: Bearer " + token + "\r\nTransfer-Encoding: gzip\r\n" + length, 501},
		"large":                  {"X: " + strings.Repeat("x", 64<<10) + "\r\n" + length, 431},
		"many":                   {strings.Repeat("X: y\r\n", 10_000) + length, 431},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			go func() { _, _ = io.WriteString(c, request(tc.header)) }()
			if got := status(t, c, 5*time.Second); got != tc.want {
				t.Errorf("%d, want %d", got, tc.want)
			}
		})
	}
}

// TestRefusedSenderGetsTheAnswer checks that a sender who is refused before the
// whole body has arrived gets the answer. The connection must not be reset.
func TestRefusedSenderGetsTheAnswer(t *testing.T) {
	t.Parallel()
	addr := strings.TrimPrefix(serve(t, newHandler(t, &fakeEngine{}, silent)), "http://")
	const size = 100 << 10
	c := dial(t, addr, "POST / HTTP/1.1\r\nHost: bot\r\nOrigin: https://evil.example\r\nContent-Type: application/json\r\nContent-Length: "+strconv.Itoa(size)+"\r\n\r\n")
	for range 4 {
		time.Sleep(50 * time.Millisecond) // time for a reset to arrive
		if _, err := io.WriteString(c, strings.Repeat("x", size/4)); err != nil {
			t.Error(err)
		}
	}
	if got := status(t, c, 5*time.Second); got != http.StatusForbidden {
		t.Errorf("answered %d", got)
	}
}

// TestLargeBodiesShareTheirMemory checks that large bodies share a fixed amount
// of memory, and that small ones are still accepted when it is used up.
func TestLargeBodiesShareTheirMemory(t *testing.T) {
	t.Parallel()
	addr := start(t, newHandler(t, silentEngine{}, silent), teams.Limits{})
	head := fmt.Sprintf("POST / HTTP/1.1\r\nHost: bot\r\nContent-Length: %d\r\n\r\n", teams.MaxBody)
	large := head + `{"type":"` + strings.Repeat("x", 70<<10)
	var open []net.Conn
	refused := make(chan int, 64)
	for range 40 { // eight more than fit into that memory
		c := dial(t, addr, large)
		open = append(open, c)
		go func() {
			if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
				_ = resp.Body.Close()
				refused <- resp.StatusCode
			}
		}()
	}
	for range 8 {
		if got := <-refused; got != http.StatusServiceUnavailable {
			t.Errorf("%d", got)
		}
	}
	if w := postTo(t, addr, string(recorded(t, "step1_message.json"))); w != http.StatusOK {
		t.Errorf("small: %d", w)
	}
	for _, c := range open {
		_ = c.Close()
	}
	ok := false
	for range 500 {
		if ok = postTo(t, addr, change(t, "step1_message.json", "text", strings.Repeat("x", 70<<10))) == http.StatusOK; ok {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !ok {
		t.Error("the memory was not given back")
	}
}

func postTo(tb testing.TB, addr, body string) int {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://"+addr, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestDepth(t *testing.T) {
	t.Parallel()
	h := newHandler(t, silentEngine{}, silent, func(c *teams.Config) { c.Limits.Depth = 8 })
	for value, want := range map[string]int{
		strings.Repeat(`[`, 7) + strings.Repeat(`]`, 7):                                           200,
		strings.Repeat(`[`, 8) + strings.Repeat(`]`, 8):                                           400,
		strings.Repeat(`{"a":`, 7) + `1` + strings.Repeat(`}`, 7):                                 200,
		strings.Repeat(`{"a":`, 8) + `1` + strings.Repeat(`}`, 8):                                 400,
		`"` + strings.Repeat(`[{`, 100) + `"`:                                                     200,
		`"\"` + strings.Repeat(`[{`, 100) + `\\"`:                                                 200,
		`[` + strings.Repeat(`[],`, 100) + `[]]`:                                                  200,
		`"\\",` + `"x":` + strings.Repeat(`[`, 9) + strings.Repeat(`]`, 9):                        400,
		`"\"",` + `"x":` + strings.Repeat(`[{"a":`, 4) + `1` + strings.Repeat(`}]`, 4) + `,"y":1`: 400,
	} {
		body := strings.Replace(change(t, "step1_message.json", "value", "VALUE"), `"VALUE"`, value, 1)
		if w := post(t, h, body); w.Code != want {
			t.Errorf("%.60s…: %d, want %d", value, w.Code, want)
		}
	}
}

func TestLimitsValidate(t *testing.T) {
	t.Parallel()
	if err := teams.DefaultLimits().Validate(); err != nil {
		t.Error(err)
	}
	for key, l := range map[string]teams.Limits{
		"body": {Body: -1}, "depth": {Depth: -1}, "header_timeout": {HeaderTimeout: -1}, "body_timeout": {BodyTimeout: -1},
		"concurrent": {Concurrent: -1}, "queue": {Queue: -1}, "queue_wait": {QueueWait: -1},
		"sign_ins_per_minute": {SignInsPerMinute: -1}, "connections": {Connections: -1},
	} {
		if err := l.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestBodyLimit checks that the limit of a body can be lowered and raised.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	for limit, sizes := range map[int]map[int]int{
		1 << 10: {900: 200, 1 << 10: 200, 1<<10 + 1: 413, 1 << 20: 413},
		2 << 20: {1 << 20: 200, 2 << 20: 200, 2<<20 + 1: 413},
	} {
		var worked atomic.Int32
		eng := invokeEngine{func(context.Context, *machine.Activity) (machine.Answer, bool) {
			worked.Add(1)
			return machine.Answer{Status: 200}, true
		}}
		h := newHandler(t, eng, silent, func(c *teams.Config) { c.Limits.Body = limit })
		for size, want := range sizes {
			body := []byte(`{"type":"invoke","name":"composeExtension/query","from":{"id":"29:a"},"x":""}`)
			body = bytes.Replace(body, []byte(`""`), []byte(`"`+strings.Repeat("x", size-len(body))+`"`), 1)
			for _, chunked := range []bool{false, true} {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
				if chunked {
					r.ContentLength = -1
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != want {
					t.Errorf("limit %d, %d bytes, chunked %v: %d, want %d", limit, len(body), chunked, w.Code, want)
				}
			}
		}
	}
}
