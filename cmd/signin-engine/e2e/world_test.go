package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

const (
	appID        = "e3cb1c84-14e3-419c-b39c-1c06097b55fd"
	connection   = "teamsgraph"
	clientSecret = "canary-client-secret-5f2a"
	channel      = "msteams"
)

// world is everything that the bot talks to. It records the requests as they were
// on the wire, which the emulator itself does not.
type world struct {
	*emulator.Server
	url      string
	provider *emulator.Provider // of a message extension; nil if there is none

	mu       sync.Mutex
	wire     []exchange
	begun    map[string]int    // requests that have arrived, by path
	codes    map[string]string // the code that the bot is given → the code that the emulator issued
	arrivals chan struct{}     // closed at the next arrival
}

// exchange is one request of the bot and its answer.
type exchange struct {
	method, target string // as sent, with its percent-encoding
	body           []byte
	bearer         string
	traceparent    string
	status         int
	answer         []byte
}

// path is the target without its query, as it was sent.
func (e *exchange) path() string {
	path, _, _ := strings.Cut(e.target, "?")
	return path
}

// newWorld makes a world with one connection, with or without SSO.
func newWorld(t *testing.T, sso bool) *world {
	t.Helper()
	return newWorldOf(t, emulator.Connection{Name: connection, DisplayName: "Azure AD v2", SSO: sso})
}

func newWorldOf(t *testing.T, connections ...emulator.Connection) *world {
	t.Helper()
	w := &world{
		Server: emulator.New(emulator.Config{
			Connections: connections,
			Users: []emulator.User{{
				ID: seedUser, Name: "Rido", AADObjectID: seedAAD,
				Mail: "rido@teamssdk.onmicrosoft.com", JobTitle: "Not an architect",
			}},
			ClientID: appID, ClientSecret: tokensvc.NewSecret(clientSecret),
			Bearer: emulator.BearerIssued,
			Record: 1 << 20,
		}),
		begun:    map[string]int{},
		codes:    map[string]string{},
		arrivals: make(chan struct{}),
	}
	web := httptest.NewServer(w)
	t.Cleanup(web.Close)
	w.url = web.URL
	w.SetBaseURL(web.URL)
	return w
}

func (w *world) host() string { return strings.TrimPrefix(w.url, "http://") }

// ServeHTTP records the request and passes it to the emulator.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the bot was killed while it sent the request
	}
	e := exchange{
		method: r.Method, target: r.RequestURI, body: body,
		bearer:      strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "),
		traceparent: r.Header.Get("Traceparent"),
	}
	w.mu.Lock()
	w.begun[strings.ToLower(r.URL.Path)]++
	close(w.arrivals)
	w.arrivals = make(chan struct{})
	q := r.URL.Query()
	if real, ok := w.codes[q.Get("code")]; ok {
		q.Set("code", real)
		r.URL.RawQuery = q.Encode()
	}
	w.mu.Unlock()

	r.Body = io.NopCloser(bytes.NewReader(body))
	out := &tee{ResponseWriter: rw, status: http.StatusOK}
	if w.provider != nil && strings.HasPrefix(r.URL.Path, "/provider/") {
		w.provider.ServeHTTP(out, r)
	} else {
		w.Server.ServeHTTP(out, r)
	}

	e.status, e.answer = out.status, out.body.Bytes()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wire = append(w.wire, e)
}

// tee keeps a copy of an answer.
type tee struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (t *tee) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

func (t *tee) Write(p []byte) (int, error) {
	t.body.Write(p)
	return t.ResponseWriter.Write(p)
}

func (t *tee) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// requests returns the requests of the bot, in the order in which they were
// answered, without those of browsers.
func (w *world) requests() []exchange {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.wire), func(e exchange) bool {
		return strings.HasPrefix(strings.ToLower(e.path()), "/api/oauth/")
	})
}

// count counts the requests for path that concern the user and were answered with
// status.
func (w *world) count(path string, user *emulator.Teams, status int) int {
	n := 0
	for _, e := range w.requests() {
		q, err := e.query()
		if err == nil && e.path() == path && q["userid"] == user.User.ID && e.status == status {
			n++
		}
	}
	return n
}

// arrived waits until n requests for path have come in, answered or not.
func (w *world) arrived(ctx context.Context, path string, n int) error {
	for {
		w.mu.Lock()
		have, next := w.begun[strings.ToLower(path)], w.arrivals
		w.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// code signs the user in on the page behind a card. It returns alias, which the
// bot sends and the emulator accepts in place of the code that the page showed.
func (w *world) code(ctx context.Context, card *emulator.Card, alias string) (string, error) {
	shown, err := emulator.SignInWithPage(ctx, nil, card.SignInLink)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.codes[alias] = shown
	return alias, nil
}

// user makes a Teams user of the bot with one device.
func (w *world) user(client *http.Client, id string) *emulator.Teams {
	teams := w.Teams(botURL)
	teams.HTTP = client
	teams.User = emulator.Account{ID: "29:" + id, Name: id, AADObjectID: "aad-" + id}
	teams.Bot = emulator.Account{ID: "28:" + appID, Name: "my-bot-sso"}
	teams.Conversation.ID = "a:1" + id
	return teams
}

// signedIn reports whether the Token Service holds the user's token.
func (w *world) signedIn(user *emulator.Teams) bool {
	return w.HasToken(tokensvc.UserConnection{UserID: user.User.ID, Connection: connection, ChannelID: channel})
}

// connected counts how often the user was told of a completion.
func (w *world) connected(user *emulator.Teams) int { return w.told(user, connectedText) }

func (w *world) told(user *emulator.Teams, text string) int {
	n := 0
	for _, a := range w.Activities(user.Conversation.ID) {
		if a.Text == text {
			n++
		}
	}
	return n
}

// The bot's messages (docs/configuration.md).
const (
	connectedText   = "Connected to Microsoft Graph (" + connection + ")!"
	failedText      = "Sign-in to Microsoft Graph failed."
	useButtonText   = "Use the Sign In button to continue."
	unavailableText = "Sign-in is not available right now."
)

// query returns the members of a target's query, as they were sent.
func (e *exchange) query() (map[string]string, error) {
	_, raw, _ := strings.Cut(e.target, "?")
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, err
	}
	q := map[string]string{}
	for key, v := range values {
		if len(v) != 1 {
			return nil, fmt.Errorf("%s comes %d times", key, len(v))
		}
		q[key] = v[0]
	}
	return q, nil
}
