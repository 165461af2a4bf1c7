package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// Ids of the user who signs in.
const (
	seedUser = "29:1cgsv1oFLAoTflZ-AxCZ_erWK6f4AqDSzZGpJOS7FuyfB8gn-g9bWmVM8usvvrv2e0atWV6wxZOQCn-xntjVrrQ"
	seedAAD  = "03500558-e554-416c-90c3-a061cdcd012b"
)

// trace is a file of testdata: what Teams sends, and each request that the bot
// makes in response. A name in braces stands for a value that stays the same
// throughout, or that the bot learns on the way.
type trace struct {
	Source string
	SSO    bool
	Names  map[string]string
	Steps  []step
}

type step struct {
	Step int
	// Of a step that Teams sends.
	In        json.RawMessage
	Completes bool     // the first step of the completion: by now the card is in the chat
	Code      string   // the page behind the card shows this code
	Devices   []string // send it at once, each as {device}
	// Of a step that the bot sends: method and path, as percent-encoded on the
	// wire.
	Out    string
	Query  map[string]string // all of it
	State  json.RawMessage   // the query consists of state alone, which decodes to this
	Body   json.RawMessage   // nil: an empty body
	Bearer string            // "": the bot's own token
	Learn  map[string]string // name → member of the answer
	// The answer. Answers to Teams have no body.
	Status int
}

func TestTrace(t *testing.T) {
	for _, name := range []string{"popup", "sso"} {
		t.Run(name, func(t *testing.T) { replay(t, name, false) })
		t.Run(name+" killed", func(t *testing.T) { replay(t, name, true) })
	}
}

// replay sends what Teams sent in the trace, and compares everything that the bot
// does with it. With kill, the bot is killed between the card and its completion,
// and another process goes on with the file.
func replay(t *testing.T, file string, kill bool) {
	t.Helper()
	t.Parallel()
	tr := readTrace(t, file)
	w := newWorld(t, tr.SSO)
	b := newBot(t, w, program(t, released), "")
	p := b.start(t)
	tr.Names["base"] = w.url
	processes := 1

	r := &replayer{trace: tr, w: w, client: b.client(t)}
	for i := range tr.Steps {
		s := &tr.Steps[i]
		if s.In == nil {
			continue
		}
		if s.Completes && kill {
			p.kill()
			p = b.start(t)
			processes++
		}
		r.send(t, s)
		for i++; i < len(tr.Steps) && tr.Steps[i].In == nil; i++ {
			r.compare(t, &tr.Steps[i])
		}
	}
	p.stopped(t)
	r.nothingElse(t, processes)

	s := b.open(t)
	page, err := s.List(t.Context(), store.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Attempts) != 1 || page.Attempts[0].State != store.Complete {
		t.Errorf("the store holds %+v, want one complete attempt", page.Attempts)
	}
	if len(page.Deliveries) != 1 || page.Deliveries[0].Status != store.DeliveryDone || page.Deliveries[0].Tries != 1 {
		t.Errorf("the outbox holds %+v, want one row delivered at the first try", page.Deliveries)
	}
}

func readTrace(t *testing.T, name string) *trace {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	tr := &trace{}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(tr); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return tr
}

// replayer holds how far a replay has come.
type replayer struct {
	trace  *trace
	w      *world
	client *http.Client
	seen   int // requests of the bot that were compared
}

// fill replaces names in braces by their values.
func (r *replayer) fill(s string) string {
	pairs := make([]string, 0, 2*len(r.trace.Names))
	for name, value := range r.trace.Names {
		pairs = append(pairs, "{"+name+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// send sends an activity as Teams does. It returns when the bot has answered.
func (r *replayer) send(t *testing.T, s *step) {
	t.Helper()
	if s.Code != "" {
		card := &emulator.Card{SignInLink: r.trace.Names["link"]}
		if _, err := r.w.code(t.Context(), card, s.Code); err != nil {
			t.Fatal(err)
		}
	}
	body := r.fill(string(s.In))
	devices := s.Devices
	if devices == nil {
		devices = []string{""}
	}
	var wg sync.WaitGroup
	for _, device := range devices {
		wg.Go(func() {
			a := strings.ReplaceAll(body, "{device}", device)
			status, answer, err := post(t.Context(), r.client, []byte(a))
			if err != nil || status != s.Status || len(answer) != 0 {
				t.Errorf("step %d %s: answered %d with body %q, %v; want %d and no body", s.Step, device, status, answer, err, s.Status)
			}
		})
	}
	wg.Wait()
	for _, e := range r.w.requests() {
		for _, device := range s.Devices {
			if strings.Contains(e.path(), "f%3A"+device) {
				r.trace.Names["winner"] = device
			}
		}
	}
}

// compare checks the bot's next request against the trace.
func (r *replayer) compare(t *testing.T, s *step) {
	t.Helper()
	sent := r.ofTrace()
	if r.seen == len(sent) {
		t.Fatalf("step %d: the bot sent nothing, want %s", s.Step, s.Out)
	}
	e := sent[r.seen]
	r.seen++
	if got, want := e.method+" "+e.path(), r.fill(s.Out); got != want {
		t.Fatalf("step %d: the bot sent %s, want %s", s.Step, got, want)
	}
	if e.status != s.Status {
		t.Errorf("step %d: answered %d, want %d", s.Step, e.status, s.Status)
	}
	r.compareQuery(t, s, &e)
	if diff := cmp.Diff(r.document(t, s.Body), document(t, e.body)); diff != "" {
		t.Errorf("step %d: body (-want +got):\n%s", s.Step, diff)
	}
	if bearer := r.fill(s.Bearer); bearer != "" && e.bearer != bearer {
		t.Errorf("step %d: the bearer is not %s", s.Step, s.Bearer)
	}
	for name, path := range s.Learn {
		v := document(t, e.answer)
		for member := range strings.SplitSeq(path, ".") {
			object, _ := v.(map[string]any)
			v = object[member]
		}
		text, ok := v.(string)
		if !ok {
			t.Fatalf("step %d: the answer has no %s", s.Step, path)
		}
		r.trace.Names[name] = text
	}
}

func (r *replayer) compareQuery(t *testing.T, s *step, e *exchange) {
	t.Helper()
	got, err := e.query()
	if err != nil {
		t.Fatalf("step %d: %v", s.Step, err)
	}
	if s.State != nil {
		raw, err := base64.StdEncoding.DecodeString(got["state"])
		if err != nil {
			t.Fatalf("step %d: state: %v", s.Step, err)
		}
		if diff := cmp.Diff(r.document(t, s.State), document(t, raw)); diff != "" {
			t.Errorf("step %d: state (-want +got):\n%s", s.Step, diff)
		}
		delete(got, "state")
	}
	want := map[string]string{}
	for key, value := range s.Query {
		want[key] = r.fill(value)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("step %d: query (-want +got):\n%s", s.Step, diff)
	}
}

// entraPath is where a bot without a tenant of its own gets its token.
const entraPath = "/botframework.com/oauth2/v2.0/token"

// ofTrace returns the bot's requests without those for its own token, which the
// trace mentions only in passing.
func (r *replayer) ofTrace() []exchange {
	var sent []exchange
	for _, e := range r.w.requests() {
		if e.path() != entraPath {
			sent = append(sent, e)
		}
	}
	return sent
}

// nothingElse checks that the bot sent only what is in the trace, and that each
// process asked for its own token once.
func (r *replayer) nothingElse(t *testing.T, processes int) {
	t.Helper()
	for _, e := range r.ofTrace()[r.seen:] {
		t.Errorf("the bot also sent %s %s", e.method, e.path())
	}
	for _, e := range r.w.requests() {
		if e.path() != entraPath {
			continue
		}
		processes--
		form, err := url.ParseQuery(string(e.body))
		want := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {appID}, "client_secret": {clientSecret},
			"scope": {"https://api.botframework.com/.default"},
		}
		if diff := cmp.Diff(want, form); err != nil || diff != "" {
			t.Errorf("the bot's own token (-want +got):\n%s %v", diff, err)
		}
	}
	if processes != 0 {
		t.Errorf("%d processes too few asked for the bot's own token", processes)
	}
}

// document decodes JSON of the trace, with names replaced by values.
func (r *replayer) document(t *testing.T, raw json.RawMessage) any {
	t.Helper()
	// The values go into JSON strings, so they have to be escaped.
	pairs := make([]string, 0, 2*len(r.trace.Names))
	for name, value := range r.trace.Names {
		quoted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, "{"+name+"}", string(quoted[1:len(quoted)-1]))
	}
	return document(t, []byte(strings.NewReplacer(pairs...).Replace(string(raw))))
}

// document decodes JSON. Without any bytes it returns nil.
func document(t *testing.T, raw []byte) any {
	t.Helper()
	if len(raw) == 0 {
		return nil
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return v
}
