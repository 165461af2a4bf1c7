package teams_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// realActivities returns the recorded activities, and those that the same client
// sends for invokes which were not recorded.
func realActivities(tb testing.TB) map[string][]byte {
	tb.Helper()
	all := map[string][]byte{}
	for _, file := range []string{"step1_message.json", "step5_verifystate.json", "legacy_query.json"} {
		all[file] = recorded(tb, file)
	}
	invoke := func(name string, value any) []byte {
		var activity map[string]any
		if err := json.Unmarshal(recorded(tb, "step5_verifystate.json"), &activity); err != nil {
			tb.Fatal(err)
		}
		activity["name"], activity["value"] = name, value
		b, err := json.Marshal(activity)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	all["tokenExchange"] = invoke("signin/tokenExchange", map[string]string{"id": "exchange-1", "connectionName": "graph", "token": "eyJ.x.y"})
	all["failure"] = invoke("signin/failure", map[string]string{"code": "resourcematchfailed", "message": "no"})
	return all
}

// pieces are inserted by mutations. Parsers and stores may trip over them.
var pieces = []string{
	`null`, `true`, `[]`, `{}`, `""`, `-0`, `1e999`, `-1e-999`, `123456789012345678901234567890`, `"\u0000"`, `"\ud800"`, `"\udfff\ud800"`,
	`"` + "\xff\xfe" + `"`, "\x00", "\x1f", "\x7f", `\`, `\u`, `"`, `{`, `}`, `[`, `]`, `:`, `,`, `"id":`, `"value":`, `"type":"invoke",`,
	`{"id":{"id":{"id":1}}}`, `"../../x"`, `"a:1\r\nX: y"`, `"%2e%2e%2f"`, `"' or 1=1 --"`, `"<script>"`, `"https://evil.example/"`,
	strings.Repeat(`[`, 40), strings.Repeat(`{"a":`, 40), `"` + strings.Repeat("x", 2000) + `"`, `"` + strings.Repeat("é", 600) + `"`,
	`"__proto__":1,`, `"\u202e"`, `"29:\u200b"`, `NaN`, `Infinity`, `'x'`, `/*x*/`, "\ufeff",
}

// mutate changes a body in one to four places.
func mutate(r *rand.Rand, body []byte) []byte {
	out := slices.Clone(body)
	at := func() int { return r.IntN(len(out) + 1) }
	for range 1 + r.IntN(4) {
		if len(out) == 0 {
			return out
		}
		from := r.IntN(len(out))
		to := min(len(out), from+1+r.IntN(40))
		switch r.IntN(9) {
		case 0: // flip a bit
			out[from] ^= 1 << r.IntN(8)
		case 1: // change a byte
			out[from] = byte(r.IntN(256))
		case 2: // remove a part
			out = slices.Delete(out, from, to)
		case 3: // repeat a part
			out = slices.Insert(out, at(), slices.Clone(out[from:to])...)
		case 4: // insert something
			out = slices.Insert(out, at(), []byte(pieces[r.IntN(len(pieces))])...)
		case 5: // cut off the end
			out = out[:from]
		case 6, 7: // change a value
			out = otherValue(r, out)
		case 8: // change the case
			for i := from; i < to; i++ {
				if c := out[i] | 0x20; c >= 'a' && c <= 'z' {
					out[i] ^= 0x20
				}
			}
		}
	}
	return out
}

// otherValue replaces the value after one of the colons.
func otherValue(r *rand.Rand, body []byte) []byte {
	var colons []int
	for i, c := range body {
		if c == ':' && i > 0 && body[i-1] == '"' {
			colons = append(colons, i+1)
		}
	}
	if len(colons) == 0 {
		return body
	}
	from := colons[r.IntN(len(colons))]
	to := from
	for depth := 0; to < len(body); to++ {
		c := body[to]
		if c == '{' || c == '[' {
			depth++
		}
		if depth == 0 && (c == ',' || c == '}' || c == ']') {
			break
		}
		if c == '}' || c == ']' {
			depth--
		}
	}
	return slices.Concat(body[:from], []byte(pieces[r.IntN(len(pieces))]), body[to:])
}

// lockedUpstream is an instantUpstream for many goroutines.
type lockedUpstream struct {
	mu sync.Mutex
	instantUpstream
}

func (u *lockedUpstream) GetSignInResource(ctx context.Context, s tokensvc.State) (tokensvc.SignInResource, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.instantUpstream.GetSignInResource(ctx, s)
}

// realBot is a real engine behind the handler, without a network.
func realBot(tb testing.TB, log zerolog.Logger, change ...func(*teams.Config)) http.Handler {
	tb.Helper()
	up := &lockedUpstream{}
	eng, err := machine.New(machine.Config{
		AppID: appID, Store: memstore.New(nil), Tokens: up, Messenger: up,
		Connections: []machine.Connection{{Name: "graph"}, {Name: "github"}}, Log: zerolog.Nop(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	flow, err := eng.Flow("graph")
	if err != nil {
		tb.Fatal(err)
	}
	change = append([]func(*teams.Config){func(c *teams.Config) { c.Log = log }}, change...)
	return newHandler(tb, eng, func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		if turn.Activity().Type != "message" {
			return &machine.Answer{Status: http.StatusOK}, nil
		}
		_, err := flow.SignIn(ctx, turn)
		return nil, err
	}, change...)
}

// TestMutations sends mutations of every real activity through the handler to a
// real engine. None may cause a panic or a 5xx.
func TestMutations(t *testing.T) {
	t.Parallel()
	each := 10_000
	if testing.Short() {
		each = 1000
	}
	var log bytes.Buffer
	failures := zerolog.New(zerolog.SyncWriter(&log)).Level(zerolog.ErrorLevel)
	keys := newJWKS(t)
	a := newAuthenticator(t, keys)
	good := goodToken(t, time.Now())
	for how, auth := range map[string]func(*teams.Config){
		"open": func(*teams.Config) {},
		"jwt":  func(c *teams.Config) { c.InboundAuth, c.Authenticator = teams.InboundAuthJWT, a },
	} {
		for name, body := range realActivities(t) {
			a, err := teams.DecodeActivity(body)
			if err != nil {
				t.Fatal(err)
			}
			good.claims["serviceurl"] = a.Conversation.ServiceURL
			token := "Bearer " + good.sign(t)
			t.Run(how+"/"+name, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, uint64(len(name))))
				seen := map[int]int{}
				n := each
				if how == "jwt" {
					n /= 10 // only the checks in front differ; the engine is the same
				}
				var h http.Handler
				for i := range n {
					if i%250 == 0 { // so that one user's attempts do not pile up
						h = realBot(t, failures, auth)
					}
					mutated := mutate(r, body)
					w := postAs(t, h, mutated, token)
					seen[w.Code]++
					if w.Code >= 500 || w.Code < 200 {
						t.Fatalf("mutation %d: %d\n%q\n%s", i, w.Code, mutated, log.String())
					}
				}
				if n >= 1000 && (seen[200] == 0 || seen[400] == 0) {
					t.Errorf("answers %v: the mutations are all of one kind", seen)
				}
				t.Log(seen)
			})
		}
	}
}

// TestHostileConnections opens a thousand hostile connections of every kind. All
// honest invokes must be answered, and memory must stay bounded. The test logs
// how fast they are, compared with a quiet run. It fails only if they stall,
// since attackers, server and other programs share the machine.
func TestHostileConnections(t *testing.T) {
	hostile, honest := 1000, 2000
	if testing.Short() {
		hostile, honest = 200, 300
	}
	keys := newJWKS(t)
	a := newAuthenticator(t, keys)
	limits := teams.DefaultLimits()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := limits.Server(l.Addr().String(), realBot(t, zerolog.Nop(), func(c *teams.Config) {
		c.InboundAuth, c.Authenticator, c.Limits = teams.InboundAuthJWT, a, limits
	}))
	served := make(chan error, 1)
	go func() { served <- srv.Serve(netutil.LimitListener(l, limits.Connections)) }()
	defer func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	url := "http://" + l.Addr().String()
	token := "Bearer " + goodToken(t, time.Now()).sign(t)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()

	run := func() time.Duration {
		enough := time.Now().Add(5 * time.Second)
		var mu sync.Mutex
		var took []time.Duration
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for n := range honest / 4 {
					if time.Now().After(enough) {
						return
					}
					body := change(t, "step1_message.json", "from", map[string]string{"id": fmt.Sprintf("29:%d-%d", worker, n)})
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					req.Header.Set("Authorization", token)
					begin := time.Now()
					resp, err := client.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					_ = resp.Body.Close()
					mu.Lock()
					took = append(took, time.Since(begin))
					mu.Unlock()
					if resp.StatusCode != http.StatusOK {
						t.Errorf("honest request: %d", resp.StatusCode)
						return
					}
				}
			})
		}
		wg.Wait()
		slices.Sort(took)
		if len(took) == 0 {
			return 0
		}
		return took[len(took)*99/100]
	}
	quiet := run()

	ctx, stop := context.WithCancel(t.Context())
	var attackers sync.WaitGroup
	var connections, refused atomic.Int64
	for n := range hostile {
		attackers.Go(func() { attack(ctx, l.Addr().String(), n, token, &connections, &refused) })
	}
	for connections.Load() < int64(hostile) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	under := run()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	stop()
	attackers.Wait()
	t.Logf("%d hostile connections, %d refused: p99 %s, quiet %s; heap %d MB, from the system %d MB (attackers and server in one process)",
		hostile, refused.Load(), under, quiet, m.HeapAlloc>>20, m.Sys>>20)
	if m.HeapAlloc > 256<<20 {
		t.Errorf("heap %d MB", m.HeapAlloc>>20)
	}
}

// attack keeps one hostile connection busy until ctx is done.
func attack(ctx context.Context, addr string, n int, token string, connections, refused *atomic.Int64) {
	const head = "POST / HTTP/1.1\r\nHost: bot\r\n"
	first := true
	for ctx.Err() == nil {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return
		}
		if first {
			connections.Add(1)
			first = false
		}
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		go func() { // read answers
			if k, _ := io.Copy(io.Discard, c); k > 0 {
				refused.Add(1)
			}
		}()
		slowly := func(text string) {
			for i := range len(text) {
				if _, err := c.Write([]byte{text[i]}); err != nil {
					return
				}
				wait(ctx, 500*time.Millisecond)
			}
		}
		switch n % 6 {
		case 0: // silence
			wait(ctx, 30*time.Second)
		case 1: // headers, one byte at a time
			slowly(head + "X: " + strings.Repeat("x", 1000))
		case 2: // garbage
			_, _ = c.Write(bytes.Repeat([]byte{0x16, 0x03, 0xff, '\n'}, 1000))
			wait(ctx, time.Second)
		case 3: // an invalid token, and a body that never comes
			_, _ = io.WriteString(c, head+"Authorization: Bearer a.b.c\r\nContent-Length: 1000000\r\n\r\n{")
			wait(ctx, time.Second)
		case 4: // a stolen token, and a large body that comes slowly
			_, _ = io.WriteString(c, head+"Authorization: "+token+"\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("[", 60<<10))
			slowly(strings.Repeat("[", 1000))
		case 5: // a signature that has to be checked
			_, _ = io.WriteString(c, head+"Authorization: "+token[:len(token)-4]+"AAAA\r\nContent-Length: 2\r\n\r\n{}")
			wait(ctx, 200*time.Millisecond)
		}
		stop()
		_ = c.Close()
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// FuzzToken checks that nobody gets in without a valid signature, whatever the
// header contains.
func FuzzToken(f *testing.F) {
	keys := newJWKS(f)
	a := newAuthenticator(f, keys)
	through := a.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	good := "Bearer " + goodToken(f, time.Now()).sign(f)
	bad := goodToken(f, time.Now())
	bad.key = rsaKey(f, 2)
	f.Add("Bearer " + bad.sign(f))
	f.Add("Bearer " + b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(`{"iss":"x"}`)) + ".")
	f.Add("Bearer a.b.c")
	f.Add("")
	body := recorded(f, "step1_message.json")
	f.Fuzz(func(t *testing.T, header string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
		r.Header["Authorization"] = []string{header}
		through.ServeHTTP(w, r)
		if w.Code != http.StatusUnauthorized && !strings.EqualFold(header, good) {
			t.Errorf("%d for %q", w.Code, header)
		}
	})
}
