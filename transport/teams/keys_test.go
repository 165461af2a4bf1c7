package teams_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/transport/teams"
)

// door is an authenticated handler whose clock the test sets.
type door struct {
	t    *testing.T
	now  *clock
	keys *jwks
	auth *teams.Authenticator
	h    http.Handler
	log  lockedBuffer
}

// lockedBuffer can be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{t: t, now: newClock(), keys: newJWKS(t)}
	d.auth = newAuthenticator(t, d.keys, func(c *teams.AuthConfig) {
		c.Clock, c.Log = d.now.Now, zerolog.New(&d.log)
	})
	d.h = authenticated(t, d.auth, silentEngine{})
	return d
}

// knock sends a message with a token that is signed by the n-th key under the id
// kid.
func (d *door) knock(kid string, n int) int {
	d.t.Helper()
	token := goodToken(d.t, d.now.Now())
	token.header["kid"], token.key = kid, rsaKey(d.t, n)
	return postAs(d.t, d.h, recorded(d.t, "step1_message.json"), "Bearer "+token.sign(d.t)).Code
}

func (d *door) want(what string, got, want int) {
	d.t.Helper()
	if got != want {
		d.t.Errorf("%s: %d, want %d", what, got, want)
	}
}

func (d *door) wantFetches(what string, want int) {
	d.t.Helper()
	if _, got := d.keys.counts(); got != want {
		d.t.Errorf("%s: %d fetches of keys, want %d", what, got, want)
	}
}

// eventually polls until so returns true, since keys are fetched in the
// background.
func (d *door) eventually(what string, so func() bool) {
	d.t.Helper()
	for range 2000 {
		if so() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	d.t.Errorf("%s: not so after 4 s", what)
}

func TestKeysAreRefreshedDaily(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	for range 10 {
		d.want("good", d.knock(goodKey, 0), 200)
	}
	d.wantFetches("first", 1)
	d.now.add(24*time.Hour - time.Second)
	d.want("a second before", d.knock(goodKey, 0), 200)
	d.wantFetches("a second before", 1)
	// The issuer has withdrawn the key. The last good keys serve while new ones
	// are fetched.
	d.keys.drop(goodKey)
	d.now.add(time.Second)
	d.want("a day later", d.knock(goodKey, 0), 200)
	d.eventually("taken back", func() bool { return d.knock(goodKey, 0) == 401 })
	d.wantFetches("a refresh, and an unknown key", 3)
	d.want("another key", d.knock(openKey, 1), 200)
}

func TestUnknownKeysCauseOneFetchAnHour(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	d.want("good", d.knock(goodKey, 0), 200)
	flood := func() {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 50 {
					if got := d.knock(fmt.Sprintf("made-up-%d-%d", i, n), 0); got != 401 {
						t.Errorf("%d", got)
					}
				}
			})
		}
		wg.Wait()
	}
	flood()
	d.wantFetches("first flood", 2)
	d.now.add(time.Hour - time.Second)
	flood()
	d.wantFetches("59:59 later", 2)
	d.want("good", d.knock(goodKey, 0), 200)
	d.now.add(time.Second)
	flood()
	d.wantFetches("an hour later", 3)
	d.want("good", d.knock(goodKey, 0), 200)

	// The same while the issuer does not answer.
	d.now.add(time.Hour)
	d.keys.change(func(s *jwks) { s.status = http.StatusInternalServerError })
	before, _ := d.keys.counts()
	flood()
	if after, _ := d.keys.counts(); after != before+1 {
		t.Errorf("%d fetches of metadata, want 1", after-before)
	}
	d.want("good", d.knock(goodKey, 0), 200)
}

// TestRotationIsFound checks that a key which the issuer has just begun to use is
// fetched at once, but that unknown keys cause at most one fetch an hour.
func TestRotationIsFound(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	d.want("old", d.knock(goodKey, 0), 200)
	d.keys.put("new", publicJWK(&rsaKey(t, 2).PublicKey, "msteams"))
	d.want("new", d.knock("new", 2), 200)
	d.want("old", d.knock(goodKey, 0), 200)
	d.wantFetches("one for the new key", 2)
	d.keys.put("newer", publicJWK(&rsaKey(t, 3).PublicKey, "msteams"))
	d.want("newer, too soon", d.knock("newer", 3), 401)
	d.now.add(time.Hour)
	d.want("newer", d.knock("newer", 3), 200)
}

// TestRotationUnderLoad rotates keys while honest requests come in. None may
// fail, and one fetch finds the new key for all.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	var phase atomic.Int32
	tokens := []string{}
	for n, kid := range []string{goodKey, "new"} {
		token := goodToken(t, d.now.Now())
		token.header["kid"], token.key = kid, rsaKey(t, 2*n)
		tokens = append(tokens, "Bearer "+token.sign(t))
	}
	message := recorded(t, "step1_message.json")
	var sent, failed atomic.Int32
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				sent.Add(1)
				if w := postAs(t, d.h, message, tokens[phase.Load()]); w.Code != 200 {
					failed.Add(1)
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	d.keys.put("new", publicJWK(&rsaKey(t, 2).PublicKey, "msteams"))
	phase.Store(1)
	time.Sleep(200 * time.Millisecond)
	close(stop)
	wg.Wait()
	if failed.Load() != 0 || sent.Load() < 20 {
		t.Errorf("%d of %d failed", failed.Load(), sent.Load())
	}
	d.wantFetches("two keys", 2)
}

// TestLastGoodKeysServe has an issuer that does not answer for a week. The last
// good keys serve, fetches are tried at decent intervals, and there is one
// warning.
func TestLastGoodKeysServe(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	d.want("good", d.knock(goodKey, 0), 200)
	d.keys.change(func(s *jwks) { s.status = http.StatusServiceUnavailable })
	d.now.add(24 * time.Hour)
	d.want("good", d.knock(goodKey, 0), 200)
	d.eventually("told", func() bool { return strings.Contains(d.log.String(), "cannot be fetched") })
	before, _ := d.keys.counts()
	for range 50 {
		d.want("good", d.knock(goodKey, 0), 200)
	}
	if after, _ := d.keys.counts(); after != before {
		t.Errorf("%d more fetches at once", after-before)
	}
	for hour := range 7 * 24 {
		if got := d.knock(goodKey, 0); got != 200 {
			t.Fatalf("hour %d: %d", hour, got)
		}
		d.now.add(time.Hour)
		time.Sleep(time.Millisecond)
	}
	if err := d.auth.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
	d.keys.change(func(s *jwks) { s.status = 0 })
	_, before = d.keys.counts()
	for range 100 {
		d.now.add(time.Hour)
		d.want("good", d.knock(goodKey, 0), 200)
		if _, n := d.keys.counts(); n > before {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	d.eventually("told once", func() bool {
		text := d.log.String()
		return strings.Count(text, "cannot be fetched") == 1 && strings.Count(text, "can be fetched again") == 1
	})
}

// TestOneFetchInFlight checks that many requests which come before there are keys
// wait for the same fetch.
func TestOneFetchInFlight(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	hold := make(chan struct{})
	d.keys.change(func(s *jwks) { s.hold = hold })
	codes := make(chan int)
	for i := range 50 {
		go func() {
			if i%2 == 0 {
				codes <- d.knock(goodKey, 0)
			} else {
				codes <- d.knock("made-up", 0)
			}
		}()
	}
	d.eventually("a fetch", func() bool { asked, _ := d.keys.counts(); return asked > 0 })
	time.Sleep(50 * time.Millisecond) // time for a second fetch to begin, which must not happen
	if asked, _ := d.keys.counts(); asked != 1 {
		t.Errorf("%d fetches in flight", asked)
	}
	close(hold)
	got := map[int]int{}
	for range 50 {
		got[<-codes]++
	}
	if want := map[int]int{200: 25, 401: 25}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, fetched := d.keys.counts(); fetched > 2 {
		t.Errorf("%d fetches", fetched)
	}
}

// TestIssuerThatHangs checks that an issuer which does not answer delays a
// request by no more than about five seconds, and the requests after it not at
// all.
func TestIssuerThatHangs(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	hold := make(chan struct{})
	d.keys.change(func(s *jwks) { s.hold = hold })
	t.Cleanup(func() { close(hold) })
	begin := time.Now()
	d.want("first", d.knock(goodKey, 0), 503)
	if took := time.Since(begin); took < 4*time.Second || took > 20*time.Second {
		t.Errorf("waited for %s", took)
	}
	begin = time.Now()
	d.want("second", d.knock(goodKey, 0), 503)
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("waited for %s", took)
	}
}

// TestOddKeySets checks that the last good keys serve if an issuer returns keys
// that cannot be used.
func TestOddKeySets(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	public := &rsaKey(t, 2).PublicKey
	with := func(name string, value any) map[string]any {
		jwk := publicJWK(public, "msteams")
		if value == nil {
			delete(jwk, name)
		} else {
			jwk[name] = value
		}
		return jwk
	}
	private := publicJWK(public, "msteams")
	private["d"] = b64(rsaKey(t, 2).D.Bytes())
	for name, jwk := range map[string]map[string]any{
		"for encryption":              with("use", "enc"),
		"for another algorithm":       with("alg", "RS512"),
		"symmetric":                   {"kty": "oct", "k": b64([]byte("secret"))},
		"of an unknown kind":          {"kty": "XYZ"},
		"elliptic":                    {"kty": "EC", "crv": "P-256", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))},
		"small":                       publicJWK(&small.PublicKey, "msteams"),
		"without modulus":             with("n", nil),
		"modulus that is no base64":   with("n", "§"),
		"endorsements are a text":     with("endorsements", "msteams"),
		"endorsements of odd members": with("endorsements", []any{"msteams", 1}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(t)
			d.keys.put("odd", jwk)
			d.want("odd key", d.knock("odd", 2), 401)
			d.want("the others", d.knock(goodKey, 0), 200)
			if n := d.auth.Refusals().Count(teams.WhyKeyUnknown); n != 1 {
				t.Errorf("%+v", d.auth.Refusals().Snapshot())
			}
		})
	}
	for name, jwk := range map[string]map[string]any{
		"null endorsements": {"endorsements": nil}, "no endorsements in the list": {"endorsements": []string{}}, "no use": {"use": "sig"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(t)
			key := publicJWK(public)
			maps.Copy(key, jwk)
			if name == "no use" {
				delete(key, "use")
			}
			d.keys.put("fine", key)
			d.want("key", d.knock("fine", 2), 200)
		})
	}
	for name, change := range map[string]func(*jwks){
		"no JSON":               func(s *jwks) { s.set = "<html>" },
		"empty":                 func(s *jwks) { s.set = " " },
		"no keys":               func(s *jwks) { s.set = `{"keys":[]}` },
		"none of use":           func(s *jwks) { s.set = `{"keys":[{"kty":"oct","k":"AAAA","kid":"` + goodKey + `"}]}` },
		"keys without ids":      func(s *jwks) { s.set = `{"keys":[{"kty":"RSA","n":"` + b64(public.N.Bytes()) + `","e":"AQAB"}]}` },
		"endless":               func(s *jwks) { s.set = strings.Repeat("[", 2<<20) },
		"thousands of keys":     func(s *jwks) { s.set = `{"keys":[` + strings.Repeat(`{"kty":"oct","k":"AAAA"},`, 5000) + `{}]}` },
		"metadata, no JSON":     func(s *jwks) { s.metadata = "x" },
		"metadata without keys": func(s *jwks) { s.metadata = `{"issuer":"x"}` },
		"keys over plain http":  func(s *jwks) { s.metadata = `{"jwks_uri":"http://keys.example/"}` },
		"keys in a file":        func(s *jwks) { s.metadata = `{"jwks_uri":"file:///etc/passwd"}` },
		"keys at a redirect":    func(s *jwks) { s.status = http.StatusFound },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(t)
			d.want("good", d.knock(goodKey, 0), 200)
			d.keys.change(change)
			d.want("unknown", d.knock("made-up", 0), 401)
			d.want("good", d.knock(goodKey, 0), 200)
		})
	}
}

// canned gives fixed answers by host, and records which hosts were asked.
type canned struct {
	mu      sync.Mutex
	answers map[string]string
	asked   []string
}

func (c *canned) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r.URL.String())
	body, ok := c.answers[r.URL.Host]
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	if !ok {
		resp.StatusCode = http.StatusFound
		resp.Header.Set("Location", "https://keys.example/keys")
	}
	return resp, nil
}

// TestWhereKeysComeFrom checks that keys are fetched from the URL in the
// metadata, over https, and that redirects are not followed.
func TestWhereKeysComeFrom(t *testing.T) {
	t.Parallel()
	set, err := json.Marshal(map[string]any{"keys": []any{func() any {
		jwk := publicJWK(&rsaKey(t, 0).PublicKey, "msteams")
		jwk["kid"] = goodKey
		return jwk
	}()}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		keysURL string
		ready   bool
		asked   int
	}{
		"https":      {"https://keys.example/keys", true, 2},
		"plain http": {"http://keys.example/keys", false, 1},
		"redirected": {"https://elsewhere.example/keys", false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire := &canned{answers: map[string]string{
				"login.botframework.com": `{"jwks_uri":"` + tc.keysURL + `"}`, "keys.example": string(set),
			}}
			a, err := teams.NewAuthenticator(teams.AuthConfig{AppID: appID, HTTPClient: &http.Client{Transport: wire}, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Ready(t.Context()); (err == nil) != tc.ready || len(wire.asked) != tc.asked {
				t.Errorf("%v, asked %v", err, wire.asked)
			}
		})
	}
}
