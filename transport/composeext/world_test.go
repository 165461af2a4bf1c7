package composeext_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/teams"
)

const (
	wiki  = "wiki"
	graph = "graph"
)

// world has a bot with several instances on one store, a provider, the Token Service and
// a browser.
type world struct {
	t        *testing.T
	store    store.Store
	emu      *emulator.Server
	provider *emulator.Provider
	issuer   string
	public   string
	azure    string
	logs     syncBuffer

	skew      atomic.Int64
	frozen    atomic.Pointer[time.Time]
	instances []*instance
	next      atomic.Int64 // the instance that answers

	oidc          bool
	bareIDToken   bool
	tokenLifetime time.Duration
	service       string
	noRefresh     bool
	noIssuer      bool
	publicClient  bool
	front         func(http.Handler) http.Handler // middleware in front of the emulator
	configure     func(*popup.Config)
	extend        func(*composeext.Config)
}

// instance is one process of the bot.
type instance struct {
	eng   *machine.Engine
	popup *popup.Popup
	http  http.Handler
}

func (w *world) now() time.Time {
	if at := w.frozen.Load(); at != nil {
		return *at
	}
	return time.Now().Add(time.Duration(w.skew.Load()))
}

// freeze stops the clock.
func (w *world) freeze(at time.Time) { w.frozen.Store(&at) }

func (w *world) advance(d time.Duration) { w.skew.Add(int64(d)) }

func (w *world) clientSecret() tokensvc.Secret {
	if w.publicClient {
		return tokensvc.Secret{}
	}
	return tokensvc.NewSecret("canary-client-secret")
}

// with changes a world before it starts.
type with func(*world)

func newWorld(t *testing.T, opts ...with) *world {
	t.Helper()
	w := &world{t: t}
	for _, set := range opts {
		set(w)
	}
	if w.store == nil {
		w.store = memstore.New(w.now)
	}
	w.provider = emulator.NewProvider(emulator.ProviderConfig{
		ClientID: "bot-client", ClientSecret: w.clientSecret(), Now: w.now,
		TokenLifetime: w.tokenLifetime, NoRefresh: w.noRefresh, BareIDToken: w.bareIDToken, NoIssuer: w.noIssuer,
	})
	w.emu = emulator.New(emulator.Config{
		Connections: []emulator.Connection{{Name: graph, SSO: true}}, Provider: w.provider, Now: w.now,
	})
	upstream := http.Handler(w.emu)
	if w.front != nil {
		upstream = w.front(upstream)
	}
	azure := httptest.NewServer(upstream)
	t.Cleanup(azure.Close)
	w.emu.SetBaseURL(azure.URL)
	w.azure, w.issuer = azure.URL, azure.URL+"/provider"

	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		// Each request reaches the next instance.
		at := w.next.Add(1) % int64(len(w.instances))
		w.instances[at].http.ServeHTTP(rw, r)
	}))
	t.Cleanup(web.Close)
	w.public = web.URL
	w.provider.SetRedirectURL(web.URL + "/auth/callback")
	for range 3 {
		w.instances = append(w.instances, w.start())
	}
	return w
}

// start adds an instance.
func (w *world) start() *instance {
	w.t.Helper()
	cfg := popup.Config{
		AppID: "app", Connection: wiki, PublicURL: w.public, Store: w.store, Clock: w.now,
		Keys: [][]byte{bytes.Repeat([]byte{7}, 32)}, Log: zerolog.New(&w.logs),
		Provider: popup.Provider{
			AuthorizeURL: w.issuer + "/authorize", TokenURL: w.issuer + "/token", ProfileURL: w.issuer + "/profile",
			RevokeURL: w.issuer + "/revoke", ClientID: "bot-client", ClientSecret: w.clientSecret(),
		},
	}
	if w.oidc {
		cfg.Provider = popup.Provider{
			Issuer: w.issuer, ClientID: "bot-client", ClientSecret: w.clientSecret(),
			Scopes: []string{"profile"},
		}
	}
	if w.configure != nil {
		w.configure(&cfg)
	}
	p, err := popup.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	bearer := tokensvc.Static(tokensvc.NewSecret("canary-bot-token"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: w.azure, Credentials: bearer})
	if err != nil {
		w.t.Fatal(err)
	}
	hosts, err := teams.NewAllowList(nil, true)
	if err != nil {
		w.t.Fatal(err)
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: bearer, ServiceURLs: hosts})
	if err != nil {
		w.t.Fatal(err)
	}
	eng, err := machine.New(machine.Config{
		AppID: "app", Store: w.store, Tokens: tokens, Messenger: connector, Log: zerolog.New(&w.logs),
		Connections: []machine.Connection{{Name: wiki, Tokens: p}, {Name: graph}}, Clock: w.now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ext := composeext.Config{Engine: eng, Popup: p, TokenService: w.service, Log: zerolog.New(&w.logs), OnQuery: answerQuery}
	if w.extend != nil {
		w.extend(&ext)
	}
	x, err := composeext.New(ext)
	if err != nil {
		w.t.Fatal(err)
	}
	h, err := teams.NewHandler(eng, teams.Config{
		InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: hosts, Log: zerolog.New(&w.logs),
	}, x)
	if err != nil {
		w.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/messages", h)
	mux.Handle("/auth/", p)
	return &instance{eng: eng, popup: p, http: mux}
}

// answerQuery answers with the user's name and the text of the query.
func answerQuery(_ context.Context, r *composeext.Request, q composeext.Query) (composeext.Response, error) {
	return composeext.List(composeext.Thumbnail(r.Token.Properties["name"], q.CommandID+" "+q.Param("searchKeyword"))), nil
}

// user returns a Teams client. The first one is that of the emulator's user.
func (w *world) user(name string) *emulator.Teams {
	t := w.emu.Teams(w.public + "/api/messages")
	if name != "" {
		t.User = emulator.Account{ID: "29:" + name, Name: name, AADObjectID: "aad-" + name}
	}
	return t
}

// query sends a query and decodes the answer.
func (w *world) query(user *emulator.Teams, text string) (emulator.Answer, emulator.Compose) {
	w.t.Helper()
	a, err := user.Query(w.t.Context(), "insertWiki", text)
	return a, w.compose(a, err)
}

func (w *world) compose(a emulator.Answer, err error) emulator.Compose {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := a.Compose()
	if err != nil {
		w.t.Fatalf("%v: %s", err, a.Body)
	}
	return c
}

// popup opens the popup of an answer.
func (w *world) open(b *emulator.Browser, address string) emulator.PopupResult {
	w.t.Helper()
	got, err := b.Popup(w.t.Context(), address)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// reissue sends a query again with a state.
func (w *world) reissue(user *emulator.Teams, before emulator.Answer, state string) emulator.Compose {
	w.t.Helper()
	return w.compose(user.Reissue(w.t.Context(), before.Sent, state))
}

// signIn does a whole sign-in.
func (w *world) signIn(user *emulator.Teams) {
	w.t.Helper()
	a, err := user.Search(w.t.Context(), emulator.NewBrowser(), "insertWiki", "lakers")
	if c := w.compose(a, err); c.Type != "result" || len(c.Attachments) != 1 {
		w.t.Fatalf("%s", a.Body)
	}
}

func (w *world) want(c emulator.Compose, kind string) {
	w.t.Helper()
	if c.Type != kind {
		w.t.Errorf("answer of type %q, want %q: %+v", c.Type, kind, c)
	}
}

// newest returns the newest attempt of the store.
func (w *world) newest() store.Attempt {
	w.t.Helper()
	page, err := w.store.List(w.t.Context(), store.Filter{Limit: 1})
	if err != nil || len(page.Attempts) == 0 {
		w.t.Fatalf("no attempt: %v", err)
	}
	return page.Attempts[0]
}

// details returns the details of an attempt's audit lines.
func (w *world) details(id string) string {
	w.t.Helper()
	events, err := w.store.Events(w.t.Context(), store.EventFilter{Attempt: id})
	if err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, e := range events {
		all = append(all, e.Row+" "+e.Detail)
	}
	return strings.Join(all, "; ")
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// value returns a JSON text as the value of an invoke.
func value(t *testing.T, text string) json.RawMessage {
	t.Helper()
	if !json.Valid([]byte(text)) {
		t.Fatalf("no JSON: %s", text)
	}
	return json.RawMessage(text)
}

// turn returns a turn of a user on the first instance.
func (w *world) turn(user *emulator.Teams) *machine.Turn {
	return w.instances[0].eng.Turn(&machine.Activity{Type: "message", ID: "1", Conversation: store.Conversation{
		Channel: "msteams", ID: user.Conversation.ID, Type: "personal", ServiceURL: user.ServiceURL,
		UserID: user.User.ID, UserAAD: user.User.AADObjectID, BotID: user.Bot.ID,
	}})
}

func (w *world) signOut(user *emulator.Teams) {
	w.t.Helper()
	if err := w.turn(user).SignOut(w.t.Context(), wiki); err != nil {
		w.t.Fatal(err)
	}
}

// link returns a link to the start page.
func (w *world) link(user *emulator.Teams) string {
	w.t.Helper()
	link, err := w.instances[0].popup.Link(w.turn(user), "")
	if err != nil {
		w.t.Fatal(err)
	}
	return link
}

// brokenStore is a store that can be unavailable.
type brokenStore struct {
	store.Store
	down      atomic.Bool
	reads     bool         // it can be read while it is down
	conflicts atomic.Int64 // so many commits of marks are refused
	// before is called ahead of every commit that completes an attempt.
	before func()
}

func (b *brokenStore) around(now func() time.Time) store.Store {
	b.Store = memstore.New(now)
	return b
}

func (b *brokenStore) set(down bool) { b.down.Store(down) }

func (b *brokenStore) Apply(ctx context.Context, commits []store.Commit) []error {
	if !b.down.Load() {
		for _, c := range commits {
			if len(c.Marks) > 0 && b.conflicts.Add(-1) >= 0 {
				return []error{store.ErrConflict}
			}
			if b.before != nil && slices.ContainsFunc(c.Put, func(a store.Attempt) bool { return a.State == store.Complete }) {
				b.before()
			}
		}
		return b.Store.Apply(ctx, commits)
	}
	errs := make([]error, len(commits))
	for i := range errs {
		errs[i] = store.ErrUnavailable
	}
	return errs
}

func (b *brokenStore) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	if b.down.Load() && !b.reads {
		return store.Snapshot{}, store.ErrUnavailable
	}
	return b.Store.Find(ctx, q)
}

func (b *brokenStore) Mark(ctx context.Context, name string) (store.Mark, error) {
	if b.down.Load() && !b.reads {
		return store.Mark{}, store.ErrUnavailable
	}
	return b.Store.Mark(ctx, name)
}
