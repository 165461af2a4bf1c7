package machine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
)

// Rows M: message extensions and Adaptive Cards. The extension and its popup are
// the real ones; the provider and the browsers are the world's.

// own is the connection that the bot signs its users in to by itself.
const own = "Wiki"

const (
	simPublic   = "http://127.0.0.1:9"
	simProvider = "http://127.0.0.2:9"
)

// extension is what a world knows of message extensions. The maps are read and
// written under w.mu.
type extension struct {
	service string            // connection of the Token Service that the other extension uses
	links   map[string]string // user -> link to the start page that a query was answered with last
	popups  []*popupRun       // in the order in which they were begun
	grants  map[string]string // provider's code -> user
	granted int               // codes of the provider so far
	codes   map[string]*secCode
	offers  map[string]string    // user -> exchange id of the latest login request
	outs    map[string]time.Time // user -> when a sign-out was at work last
	said    []string             // states and security codes: secrets all
}

// popupRun is a popup in a user's browser.
type popupRun struct {
	user     string
	began    time.Time
	state    string
	cookies  []*http.Cookie
	callback string // where the provider sends the browser; "" until the start page has answered
	code     string // with which it ended; "" until then
	name     string // of the code's mark
	tries    int    // of its callback, in the right form
}

// secCode is a security code as it lies in the store.
type secCode struct {
	user     string
	from, to time.Time // good until from, for certain, and from to on no more
	used     bool
}

func newExtension(w *world) *extension {
	return &extension{
		service: w.connections[w.rng.IntN(len(w.connections))], links: map[string]string{}, grants: map[string]string{},
		codes: map[string]*secCode{}, offers: map[string]string{}, outs: map[string]time.Time{},
	}
}

// extend builds the extensions of an instance. They need its engine, which needs
// the popup.
func (n *node) extend() machine.Redeemer {
	n.popup = n.popupWith(func(*popup.Config) {})
	var tokens machine.Redeemer = n.popup
	if n.w.mut != nil && n.w.mut.popup != nil {
		tokens = n.w.mut.popup(n)
	}
	return &ownTokens{tokens, n}
}

func (n *node) popupWith(change func(*popup.Config)) *popup.Popup {
	cfg := popup.Config{
		AppID: "app", Connection: own, PublicURL: simPublic, Store: &popupStore{n: n}, Keys: [][]byte{bytes.Repeat([]byte{7}, 32)},
		Provider: popup.Provider{
			AuthorizeURL: simProvider + "/authorize", TokenURL: simProvider + "/token", RevokeURL: simProvider + "/revoke",
			ClientID: "bot", ClientSecret: tokensvc.NewSecret(canary + "-client"),
		},
		HTTPClient: &http.Client{Transport: &gateProvider{n}}, Log: zerolog.New(logWriter{n}),
	}
	change(&cfg)
	p, err := popup.New(cfg)
	if err != nil {
		panic(err)
	}
	return p
}

// attach makes the extensions. They answer whoever is signed in.
func (n *node) attach() {
	answers := func(cfg composeext.Config) *composeext.Extension {
		cfg.Engine, cfg.Log = n.eng, zerolog.New(logWriter{n})
		cfg.OnQuery = func(ctx context.Context, r *composeext.Request, _ composeext.Query) (composeext.Response, error) {
			n.w.served(ctx, r)
			return composeext.List(), nil
		}
		cfg.OnCardAction = func(ctx context.Context, r *composeext.Request, _ composeext.CardAction) (composeext.Response, error) {
			n.w.served(ctx, r)
			return composeext.CardMessage("done"), nil
		}
		x, err := composeext.New(cfg)
		if err != nil {
			panic(err)
		}
		return x
	}
	n.ofPopup = answers(composeext.Config{Popup: n.popup})
	n.ofService = answers(composeext.Config{TokenService: n.w.ext.service})
}

// ownTokens is the popup as the engine reaches it.
type ownTokens struct {
	machine.Redeemer
	n *node
}

// SignOut notes that the credentials were forgotten.
func (o *ownTokens) SignOut(ctx context.Context, uc tokensvc.UserConnection) error {
	w := o.n.w
	out := func() { w.ext.outs[uc.UserID] = time.Now() }
	w.mu.Lock()
	out()
	w.mu.Unlock()
	err := o.Redeemer.SignOut(ctx, uc)
	w.mu.Lock()
	defer w.mu.Unlock()
	out()
	t := w.task(ctx)
	if err != nil {
		t.tried = true
		return err
	}
	t.deletes++
	w.twin.deletes[owner(uc.UserID, own)]++
	return nil
}

// popupStore is the shared store as a popup reaches it.
type popupStore struct{ n *node }

// Secret is the same in each run of a seed.
func (*popupStore) Secret() []byte { return bytes.Repeat([]byte{9}, 32) }

// kindOf is what the name of a popup's mark says. The rest is an HMAC: of the user,
// where credentials are kept, else of something that is random.
func kindOf(name string) string {
	if strings.HasPrefix(name, "popup credentials ") {
		return name
	}
	return name[:strings.LastIndex(name, " ")]
}

// Mark passes the gate.
func (s *popupStore) Mark(ctx context.Context, name string) (store.Mark, error) {
	gate := gateStore{Store: s.n.w.mem, n: s.n}
	if err := gate.read(ctx, "Mark", kindOf(name)+errand()); err != nil {
		return store.Mark{}, err
	}
	return s.n.w.mem.Mark(context.WithoutCancel(ctx), name)
}

// Apply passes the gate.
func (s *popupStore) Apply(ctx context.Context, commits []store.Commit) []error {
	w := s.n.w
	v := s.n.enter(ctx, atWrite, "Apply", taskOf(ctx)+" "+kindOf(commits[0].Marks[0].Name)+errand())
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := make([]error, len(commits))
	if v.fault != failed {
		errs = w.mem.Apply(context.WithoutCancel(ctx), commits)
		for i := range commits {
			if errs[i] == nil {
				w.issued(ctx, &commits[i])
				w.model.observe(s.n, &commits[i])
			}
		}
	}
	if v.fault != sound {
		s.n.storeFaults++
		for i := range errs {
			errs[i] = fmt.Errorf("simulated: %w", store.ErrUnavailable)
		}
	}
	return errs
}

const codePrefix = "popup code "

// issued notes a security code that is new. w.mu is held.
func (w *world) issued(ctx context.Context, c *store.Commit) {
	t := w.task(ctx)
	for i := range c.Marks {
		m := &c.Marks[i]
		if !strings.HasPrefix(m.Name, codePrefix) || m.Version != 1 {
			continue
		}
		if t.popup != nil && t.popup.name == m.Name {
			continue // written once more, for nobody heard of the first time
		}
		if t.popup == nil || !t.mayIssue || t.popup.name != "" {
			w.violate("M2", "t%d %s issues a code, and has no right to one", t.id, t.what)
			continue
		}
		w.ext.codes[m.Name] = &secCode{
			user: t.popup.user, from: t.began.Add(min(popup.DefaultCodeLifetime, t.life)), to: time.Now().Add(popup.DefaultCodeLifetime),
		}
		t.popup.name = m.Name
	}
}

// spends is M3: a code is used up in the transaction that completes a sign-in of
// its own user, once, while it is good; and no code is redeemed that is not.
// w.mu is held.
func (m *model) spends(c *store.Commit) {
	w := m.w
	var completed *store.Attempt
	by := ""
	for i := range c.Put {
		if a := &c.Put[i]; a.Key.Connection == own && a.State == store.Complete {
			for j := range c.Events {
				if e := &c.Events[j]; e.Kind == store.EventTransition && e.Attempt == a.ID && e.To == store.Complete && e.From != store.Complete {
					completed, by = a, e.Row
				}
			}
		}
	}
	spent := false
	for i := range c.Marks {
		k := &c.Marks[i]
		if !strings.HasPrefix(k.Name, codePrefix) || k.Version == 1 {
			continue
		}
		code := w.ext.codes[k.Name]
		switch {
		case code == nil:
			w.violate("M3", "a code that was never issued is used up")
			continue
		case completed == nil:
			w.violate("M3", "a code of %s is used up in another transaction than its sign-in", code.user)
		case completed.Key.User != code.user:
			w.violate("M3", "the code of %s completes %s of %s", code.user, m.name(completed.ID), completed.Key.User)
		case code.used:
			w.violate("M3", "the code of %s is used twice", code.user)
		case !time.Now().Before(code.to):
			w.violate("M3", "a code of %s is used that is over since %s", code.user, time.Since(code.to))
		}
		code.used, spent = true, true
	}
	if strings.HasPrefix(by, "C3") && !spent {
		w.violate("M3", "%s is complete by a code, and none is used up with it", m.name(completed.ID))
	}
}

// gateProvider is the third-party provider as one instance reaches it.
type gateProvider struct{ n *node }

// RoundTrip grants a token for a code, once.
func (g *gateProvider) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, w := r.Context(), g.n.w
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	t := w.task(ctx)
	v := g.n.enter(ctx, atTokens, "provider"+r.URL.Path, taskOf(ctx)+errand())
	w.mu.Lock()
	defer w.mu.Unlock()
	answer := func(status int, body string) *http.Response {
		return &http.Response{
			StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}
	}
	if v.fault != sound {
		t.faults++
	}
	if v.fault == failed && v.status != 0 {
		return answer(v.status, `{"error":"temporarily_unavailable"}`), nil
	}
	if v.fault == failed {
		return nil, errors.New("simulated: no answer")
	}
	out := answer(http.StatusOK, "{}")
	if r.URL.Path == "/token" {
		user, ok := w.ext.grants[form.Get("code")]
		delete(w.ext.grants, form.Get("code"))
		if out = answer(http.StatusBadRequest, `{"error":"invalid_grant"}`); ok {
			t.life = []time.Duration{time.Hour, time.Hour, time.Minute}[w.ext.granted%3]
			out = answer(http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, tokenOf(owner(user, own)), int(t.life.Seconds())))
		}
	}
	if v.fault == lost {
		return nil, errors.New("simulated: the answer is lost")
	}
	return out, nil
}

// served notes that a handler of an extension runs, and with whose token.
func (w *world) served(ctx context.Context, r *composeext.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.task(ctx)
	t.served = true
	switch token := r.Token.Token.Reveal(); {
	case strings.HasPrefix(token, staleToken), !r.Token.Expiration.IsZero() && r.Token.Expiration.Before(t.began):
		w.violate("token", "t%d %s runs with a token that has expired", t.id, t.what)
	case token != tokenOf(owner(t.user, r.Connection)):
		w.violate("10", "t%d %s runs with another's token", t.id, t.what)
	}
}

// clientExtension is a user at a message extension or an Adaptive Card.
func (w *world) clientExtension(user string) {
	r := w.rng
	if r.IntN(4) == 0 {
		w.serviceExtension(user)
		return
	}
	var mine, others []*popupRun // with a code
	var begun *popupRun
	w.mu.Lock()
	for _, p := range w.ext.popups {
		switch {
		case p.code != "" && p.user == user:
			mine = append(mine, p)
		case p.code != "":
			others = append(others, p)
		case p.callback != "" && p.user == user && p.tries < 3:
			begun = p
		}
	}
	link := w.ext.links[user]
	w.mu.Unlock()
	switch dice := r.IntN(20); {
	case dice < 8 && len(mine) > 0:
		p := mine[len(mine)-1]
		if r.IntN(6) == 0 { // an old one
			p = mine[r.IntN(len(mine))]
		}
		w.bring(user, p, r.IntN(3) == 0)
	case dice < 11 && len(others) > 0: // stolen
		w.bring(user, others[r.IntN(len(others))], false)
	case dice == 11:
		w.compose(user, false, &task{}, map[string]any{"state": "guess-" + strconv.Itoa(r.IntN(100))})
	case dice == 12:
		w.compose(user, false, &task{cancels: true}, map[string]any{"state": "CancelledByUser"})
	case dice < 18 && begun != nil:
		w.popupCallback(begun)
	case dice < 19 && link != "":
		w.popupStart(user, link)
	default:
		w.compose(user, false, &task{}, nil)
		if r.IntN(3) == 0 { // the next keystroke
			w.mailbox = append(w.mailbox, func(w *world) { w.compose(user, false, &task{}, nil) })
		}
	}
}

// bring reissues a query with a security code, perhaps more than once.
func (w *world) bring(user string, p *popupRun, again bool) {
	send := func(w *world) {
		w.compose(user, false, &task{brings: p}, map[string]any{"state": p.code})
	}
	send(w)
	if again {
		w.mailbox = append(w.mailbox, send)
	}
}

// serviceExtension asks the extension whose connection is the Token Service's (M4,
// M5, M8).
func (w *world) serviceExtension(user string) {
	r := w.rng
	t := &task{asks: true, name: w.ext.service}
	switch dice := r.IntN(6); {
	case dice == 0:
		w.compose(user, true, &task{cancels: true}, map[string]any{"state": "CancelledByUser"})
	case dice < 3:
		t.code = strconv.Itoa(100_000 + r.IntN(900_000))
		if r.IntN(3) > 0 {
			w.mu.Lock()
			w.twin.codes[t.code] = owner(user, w.ext.service)
			w.mu.Unlock()
		}
		w.compose(user, true, t, map[string]any{"state": t.code})
	case dice < 5:
		w.mu.Lock()
		t.exchange = w.ext.offers[user]
		w.mu.Unlock()
		t.user = user
		token := w.tokenFor(nil, t)
		value := map[string]any{"authentication": map[string]string{"id": t.exchange, "token": token}}
		send := func(w *world) {
			t := *t
			w.compose(user, true, &t, value)
		}
		send(w)
		if r.IntN(3) == 0 {
			w.mailbox = append(w.mailbox, send)
		}
	default:
		w.compose(user, true, &task{}, nil)
	}
}

// compose sends a query or a card's action to an instance.
func (w *world) compose(user string, service bool, t *task, value map[string]any) {
	n, name := w.anyNode(), "composeExtension/query"
	t.card = w.rng.IntN(3) == 0
	if t.card {
		name = "adaptiveCard/action"
	}
	full := map[string]any{"commandId": "search", "action": map[string]string{"type": "Action.Execute", "verb": "go"}}
	for k, v := range value {
		full[k] = v
	}
	raw, err := json.Marshal(full)
	if err != nil {
		panic(err)
	}
	t.user, t.from, t.asks, t.mayCommit = user, w.anyChat(user), true, 5
	t.what = fmt.Sprintf("%s %s service=%t", name, user, service)
	switch {
	case t.cancels:
		t.what += " cancelled"
	case t.brings != nil:
		t.what += " code of " + t.brings.user
	case value != nil:
		t.what += " brings something"
	}
	t.activity = &machine.Activity{Type: "invoke", Name: name, Conversation: t.from, Value: raw, Platform: "Web"}
	w.start(n, t, func(ctx context.Context, t *task) {
		x := n.ofPopup
		if service {
			x = n.ofService
		}
		w.mu.Lock()
		t.sure = w.goodCode(t)
		w.mu.Unlock()
		answer, err := x.OnActivity(ctx, n.eng.Turn(t.activity))
		if t.err = err; answer != nil {
			t.answer = *answer
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.learn(t, service)
	})
}

// learn keeps what the answer offers the user. w.mu is held.
func (w *world) learn(t *task, service bool) {
	body := readCompose(t.answer.Body)
	switch {
	case service && body.Value.Resource.ID != "":
		w.ext.offers[t.user] = body.Value.Resource.ID
	case service:
	case body.link() != "":
		w.ext.links[t.user] = body.link()
	}
}

// composed is the answer to either kind of invoke.
type composed struct {
	Compose struct {
		Type      string
		Suggested struct {
			Actions []struct{ Value string }
		} `json:"suggestedActions"`
	} `json:"composeExtension"`
	Status int `json:"statusCode"`
	Type   string
	Value  struct {
		Buttons  []struct{ Value string }
		Resource struct{ ID string } `json:"tokenExchangeResource"`
	}
}

func (c *composed) link() string {
	switch {
	case len(c.Compose.Suggested.Actions) == 1:
		return c.Compose.Suggested.Actions[0].Value
	case len(c.Value.Buttons) == 1:
		return c.Value.Buttons[0].Value
	default:
		return ""
	}
}

func readCompose(answer any) (c composed) {
	if raw, err := json.Marshal(answer); err == nil {
		_ = json.Unmarshal(raw, &c) // a value that is a text has no members
	}
	return c
}

// goodCode reports whether a code has to be taken. w.mu is held.
func (w *world) goodCode(t *task) bool {
	p := t.brings
	if p == nil || p.user != t.user {
		return false
	}
	code := w.ext.codes[p.name]
	return code != nil && !code.used && w.ext.outs[t.user].Before(p.began) && !w.model.newestComplete(owner(t.user, own))
}

// popupStart opens the start page in a browser.
func (w *world) popupStart(user, link string) {
	n, p := w.anyNode(), &popupRun{user: user, began: time.Now()}
	w.ext.popups = append(w.ext.popups, p)
	w.start(n, &task{what: "popup start " + user, user: user}, func(ctx context.Context, t *task) {
		page := n.open(ctx, link)
		w.mu.Lock()
		defer w.mu.Unlock()
		t.answer.Status = page.Code
		to, err := url.Parse(page.Header().Get("Location"))
		if page.Code != http.StatusFound || err != nil {
			return
		}
		p.state, p.cookies = to.Query().Get("state"), page.Result().Cookies()
		w.ext.said = append(w.ext.said, p.state)
		p.callback = simPublic + "/auth/callback?"
	})
}

// popupCallback presses a button of the provider's page, and opens the callback;
// now and then in another browser, with another state, or once more.
func (w *world) popupCallback(p *popupRun) {
	r := w.rng
	n := w.anyNode()
	t := &task{what: "popup callback " + p.user, user: p.user, popup: p}
	query := url.Values{"state": {p.state}}
	cookies := p.cookies
	switch dice := r.IntN(12); dice {
	case 0:
		query.Set("error", "access_denied")
		t.what += " denied"
	default:
		w.mu.Lock()
		w.ext.granted++
		code := canary + "-grant-" + strconv.Itoa(w.ext.granted)
		w.ext.grants[code] = p.user
		w.mu.Unlock()
		query.Set("code", code)
		t.mayIssue = true
		switch dice {
		case 1:
			cookies, t.mayIssue = nil, false
			t.what += " in another browser"
		case 2:
			query.Set("state", p.state[:len(p.state)-1]+"_")
			t.what, t.mayIssue = t.what+" with another state", false
		}
	}
	if t.mayIssue || query.Get("error") != "" {
		p.tries++
	}
	w.start(n, t, func(ctx context.Context, t *task) {
		page := n.open(ctx, p.callback+query.Encode(), cookies...)
		w.mu.Lock()
		defer w.mu.Unlock()
		t.answer.Status = page.Code
		if found := dataCode.FindStringSubmatch(page.Body.String()); found[1] != "" {
			p.code = html.UnescapeString(found[1])
			t.issued = true
			w.ext.said = append(w.ext.said, p.code)
		}
	})
}

var dataCode = regexp.MustCompile(`data-code="([^"]*)"`)

// open is a browser's request.
func (n *node) open(ctx context.Context, address string, cookies ...*http.Cookie) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	page := httptest.NewRecorder()
	n.popup.ServeHTTP(page, r)
	return page
}

// judgeAsk looks at the answer to a message extension or a card. w.mu is held.
func (w *world) judgeAsk(t *task) {
	raw, err := json.Marshal(t.answer.Body)
	if err != nil || bytes.Contains(raw, []byte(canary+"-token")) || bytes.Contains(raw, []byte(canary+"-jwt")) {
		w.violate("8", "t%d %s: a secret in an answer", t.id, t.what)
	}
	troubled := t.faults > 0 || w.storeTrouble(t) || time.Since(t.began) >= w.slow()
	if t.err != nil {
		if !troubled {
			w.violate("9", "t%d %s fails though nothing was wrong: %v", t.id, t.what, t.err)
		}
		return
	}
	got := readCompose(t.answer.Body)
	said := got.Compose.Type
	if t.card {
		said = strings.TrimPrefix(got.Type, "application/vnd.microsoft.")
	}
	about := fmt.Sprintf("t%d %s is answered %d %s %d", t.id, t.what, t.answer.Status, said, got.Status)
	switch said {
	case "result", "activity.message":
		if !t.served && !t.cancels {
			w.violate("M1", "%s, and nobody is signed in", about)
		}
	case "auth", "silentAuth", "activity.loginRequest":
		if got.link() == "" {
			w.violate("M1", "%s: without a link", about)
		}
	case "message", "error": // a sentence: another device is at it, or an upstream does not answer
	case "error.preconditionFailed", "error.invalidAuthCode", "":
		if t.exchange == "" && t.code == "" && t.brings == nil && !strings.Contains(t.what, "something") {
			w.violate("M8", "%s: it has brought nothing", about)
		}
	default:
		w.violate("9", "%s", about)
	}
	switch {
	case t.cancels && (t.served || said != "result" && said != "activity.message"):
		w.violate("M6", "%s", about)
	case t.served && said != "result" && said != "activity.message":
		w.violate("9", "%s, but was served", about)
	case t.sure && !t.served && !troubled && said != "message" && said != "error" && w.stillGood(t):
		w.violate("M3", "%s: its code was good", about)
	}
}

// stillGood reports whether nothing has happened to the code meanwhile that makes
// it worth nothing, and nobody else was at it, whose answer this may be (C9). w.mu
// is held.
func (w *world) stillGood(t *task) bool {
	return len(t.waited) == 0 && time.Now().Before(w.ext.codes[t.brings.name].from) && w.ext.outs[t.user].Before(t.brings.began)
}

// judgePopup looks at how a page ended. w.mu is held.
func (w *world) judgePopup(t *task) {
	troubled := t.faults > 0 || w.storeTrouble(t) || time.Since(t.began) >= w.slow()
	p := t.popup
	switch {
	case p == nil:
	case t.issued && !t.mayIssue:
		w.violate("M2", "t%d %s gets a code", t.id, t.what)
	case !t.issued && t.mayIssue && !troubled && p.tries == 1 && time.Since(p.began) < popup.DefaultPopupLifetime:
		w.violate("M2", "t%d %s gets no code (%d)", t.id, t.what, t.answer.Status)
	}
}

// The faults of a popup (M3).

// spendsFirst uses a code up, and then lets the engine complete the sign-in.
type spendsFirst struct {
	machine.Redeemer
	n *node
}

func (s *spendsFirst) Redeem(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, []store.Mark, error) {
	tok, marks, err := s.Redeemer.Redeem(ctx, uc, code)
	if err != nil {
		return tok, nil, err
	}
	return tok, nil, (&popupStore{s.n}).Apply(ctx, []store.Commit{{Marks: marks}})[0]
}

// bearer takes whoever brings a code for the user for whom it was made.
type bearer struct {
	*popup.Popup
	n *node
}

func (b *bearer) Redeem(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, []store.Mark, error) {
	b.n.w.mu.Lock()
	for _, p := range b.n.w.ext.popups {
		if p.code == code.Reveal() {
			uc.UserID = p.user
		}
	}
	b.n.w.mu.Unlock()
	return b.Popup.Redeem(popup.WithCaller(ctx, "aad-"+uc.UserID), uc, code)
}

// ageless is a popup whose codes are kept, and whose clock stands still when it
// looks at one.
func ageless(n *node) machine.Redeemer {
	n.popup = n.popupWith(func(c *popup.Config) { c.Store = &keeping{popupStore{n}} })
	redeems := n.popupWith(func(c *popup.Config) { c.Clock = func() time.Time { return epoch } })
	return &frozen{n.popup, redeems}
}

type frozen struct {
	*popup.Popup
	redeems *popup.Popup
}

func (f *frozen) Redeem(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, []store.Mark, error) {
	return f.redeems.Redeem(ctx, uc, code)
}

// keeping keeps codes for a day.
type keeping struct{ popupStore }

func (k *keeping) Apply(ctx context.Context, commits []store.Commit) []error {
	for i := range commits {
		for j := range commits[i].Marks {
			if m := &commits[i].Marks[j]; strings.HasPrefix(m.Name, codePrefix) {
				m.Expires = time.Now().Add(24 * time.Hour)
			}
		}
	}
	return k.popupStore.Apply(ctx, commits)
}
