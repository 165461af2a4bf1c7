// Package browsertest_test runs the popup of a message extension in a real browser,
// with the published library of the Teams client and a published provider: see
// popup.test.mjs.
package browsertest_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/teams"
)

const clientSecret = "canary-client-secret"

func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("the inner loop runs without a browser")
	}
	if out, err := exec.CommandContext(t.Context(), "../../.ci/chromium").CombinedOutput(); err != nil {
		t.Fatalf("The browser test cannot run: %v\n%s", err, out)
	}
	issuer := "http://" + freeAddress(t)
	st := memstore.New(nil)
	var logs bytes.Buffer
	log := zerolog.New(zerolog.SyncWriter(&logs))
	good := startBot(t, st, issuer, log, popup.DefaultCodeLifetime)
	hasty := startBot(t, st, issuer, log, time.Second)

	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--test", "--test-reporter=spec", "popup.test.mjs")
	cmd.Env = append(os.Environ(), "BOT_URL="+good, "HASTY_BOT_URL="+hasty, "ISSUER_URL="+issuer, "CLIENT_SECRET="+clientSecret)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%v", err)
	}
	if strings.Contains(logs.String(), clientSecret) {
		t.Error("the client secret is in the log")
	}
}

// freeAddress is one that nobody listens on. The provider's own process listens
// there in a moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// startBot is a bot with a message extension; the result is its URL.
func startBot(t *testing.T, st store.Store, issuer string, log zerolog.Logger, codeLifetime time.Duration) string {
	t.Helper()
	var handler atomic.Pointer[http.ServeMux]
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.Load().ServeHTTP(w, r) }))
	t.Cleanup(web.Close)
	p, err := popup.New(popup.Config{
		AppID: "app", Connection: "wiki", PublicURL: web.URL, Store: st, Keys: [][]byte{bytes.Repeat([]byte{7}, 32)}, Log: log,
		Provider: popup.Provider{
			Issuer: issuer, ClientID: "bot-client", ClientSecret: tokensvc.NewSecret(clientSecret),
			Scopes: []string{"profile", "offline_access"},
		},
		CodeLifetime: codeLifetime,
	})
	if err != nil {
		t.Fatal(err)
	}
	bearer := tokensvc.Static(tokensvc.NewSecret("bot"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: issuer, Credentials: bearer})
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := teams.NewAllowList(nil, true)
	if err != nil {
		t.Fatal(err)
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: bearer, ServiceURLs: hosts})
	if err != nil {
		t.Fatal(err)
	}
	eng, err := machine.New(machine.Config{
		AppID: "app", Store: st, Tokens: tokens, Messenger: connector, Log: log,
		Connections: []machine.Connection{{Name: "wiki", Tokens: p}},
	})
	if err != nil {
		t.Fatal(err)
	}
	x, err := composeext.New(composeext.Config{
		Engine: eng, Popup: p, Log: log,
		OnQuery: func(_ context.Context, r *composeext.Request, q composeext.Query) (composeext.Response, error) {
			return composeext.List(composeext.Thumbnail(r.Token.Properties["name"], q.Param("searchKeyword"))), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := teams.NewHandler(eng, teams.Config{
		InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: hosts, Log: log,
	}, x)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/messages", messages)
	mux.Handle("/auth/", p)
	handler.Store(mux)
	return web.URL
}
