package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// The secrets of this test, and the prefixes of those that the emulator makes:
// user tokens, bot tokens, sign-in links, SAS URLs.
const (
	canaryJWT     = "eyJhbGciOiJub25lIn0.canary-sso-jwt-91c4.x"
	canaryCode    = "canary-code-77d1"
	canaryUser    = "user-token-"
	canaryBot     = "bot-token-"
	canaryLink    = "/api/oauth/signin?signin="
	canarySAS     = "/api/sas/postToken?expiry="
	canaryRefused = canaryJWT + "-refused"
)

// The secrets of the bot's operator.
const (
	canaryOperator = "canary-operator-token-44d0"
	canaryReader   = "canary-reading-token-9a7e"
	canaryDSN      = "canary-dsn-password-3b1e"
	canaryMarks    = "Y2FuYXJ5LW1hcmtzLWFuZC1zZWFscy1vZi0zMi1ieXQ=" // in encryption_key_file
)

// TestSecretsStayInside sends secrets through every flow, failures included. Then
// it searches every place where a person can look, on both backends, while the
// bot runs and after it has stopped. The function places lists those places.
// Traces are searched in transport/traces.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	t.Run("bolt", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, true)
		secretsStayInside(t, w, newCanaryBot(t, w), nil)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, true)
		secretsStayInside(t, w, newCanaryBot(t, w), pgtest.NewCluster(t))
	})
}

// newCanaryBot makes a bot that uses every setting which holds a secret.
func newCanaryBot(t *testing.T, w *world) *bot {
	t.Helper()
	w.provided(t)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(canaryMarks+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return newBot(t, w, program(t, released), strings.Replace(quick, "{duplicate_wait", "{keep_request: true, duplicate_wait", 1)+w.extension()+
		"operator: "+freePort(t)+"\noperator_token: "+canaryOperator+"\noperator_read_token: "+canaryReader+
		"\nencryption_key_file: "+keys+"\n")
}

// freePort returns a loopback address where nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// search looks for secrets, and records where it has looked.
type search struct {
	secrets []string
	forms   map[string]string // each encoding of a secret → the secret
	places  map[string]int    // bytes searched in each place
}

func newSearch() *search { return &search{forms: map[string]string{}, places: map[string]int{}} }

// also adds secrets, in every encoding in which they could be written down.
func (s *search) also(secrets ...string) {
	for _, one := range secrets {
		s.secrets = append(s.secrets, one)
		for _, form := range []string{
			one, hex.EncodeToString([]byte(one)), url.QueryEscape(one),
			base64.RawStdEncoding.EncodeToString([]byte(one)), base64.RawURLEncoding.EncodeToString([]byte(one)),
		} {
			s.forms[form] = one
		}
	}
}

// in fails the test if content, which was found at a place, contains a secret.
// The secrets in but may be there.
func (s *search) in(t *testing.T, place string, content []byte, but ...string) {
	t.Helper()
	s.places[place] += len(content)
	for form, secret := range s.forms {
		if i := bytes.Index(content, []byte(form)); i >= 0 && !slices.Contains(but, secret) {
			t.Errorf("%s: %q is in it: …%q…", place, secret, content[max(0, i-80):min(len(content), i+80)])
		}
	}
}

// files searches every file below a directory, except the paths in but.
func (s *search) files(t *testing.T, place, dir string, but ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || slices.Contains(but, path) {
			return nil //nolint:nilerr // a running server creates and removes files
		}
		content, err := os.ReadFile(path)
		if err == nil {
			s.in(t, place, content)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// pages records the bot's answers to a browser.
type pages struct {
	http.RoundTripper
	mu  sync.Mutex
	all bytes.Buffer
}

func (p *pages) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.Write(body)
	return resp, err
}

func secretsStayInside(t *testing.T, w *world, b *bot, cluster *pgtest.Cluster) {
	t.Helper()
	address := "bolt:" + b.db
	var env []string
	if cluster != nil {
		address = strings.Replace(pgtest.WithParam(cluster.DSN(), "schema", "bot"), "postgres@", "postgres:"+canaryDSN+"@", 1)
		env = append(env, "SIGNIN_ENGINE_STORE="+address)
	}
	p := b.start(t, append(env, "SIGNIN_ENGINE_LOG_LEVEL=trace")...)
	client := b.client(t)
	ctx := t.Context()
	s := newSearch()
	s.also(secrets()...)
	s.also(canaryOperator, canaryReader, canaryDSN, canaryMarks, string(decoded(t, canaryMarks)), string(decoded(t, canaryKey)))

	card := func(user *emulator.Teams) *emulator.Card {
		t.Helper()
		if _, err := user.SendMessage(ctx, "login graph"); err != nil {
			t.Fatal(err)
		}
		c, err := w.WaitForCard(ctx, user.Conversation.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	answered := func(what string, want int) func(emulator.Answer, error) {
		return func(a emulator.Answer, err error) {
			t.Helper()
			if err != nil || a.Status != want {
				t.Errorf("%s: answered %d %s, %v; want %d", what, a.Status, a.Body, err, want)
			}
			s.in(t, "answers to invokes", a.Body)
		}
	}
	verify := func(user *emulator.Teams, c *emulator.Card, alias string) (emulator.Answer, error) {
		code, err := w.code(ctx, c, alias)
		if err != nil {
			return emulator.Answer{}, err
		}
		return user.VerifyState(ctx, code, c.ActivityID)
	}

	silent := w.user(client, "silent")
	answered("a silent sign-in", http.StatusOK)(silent.TokenExchange(ctx, card(silent).ExchangeID(), connection, canaryJWT))
	answered("the profile", http.StatusOK)(silent.SendMessage(ctx, "my ad user"))

	popup := w.user(client, "popup")
	c := card(popup)
	answered("a wrong code", http.StatusPreconditionFailed)(popup.VerifyState(ctx, canaryCode+"-wrong", c.ActivityID))
	w.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Times: 2, Drop: true}) // the error that Go returns for such a request contains its URL
	answered("a code on a broken line", http.StatusPreconditionFailed)(popup.VerifyState(ctx, canaryCode+"-dropped", c.ActivityID))
	w.ClearFaults()
	answered("a code", http.StatusOK)(verify(popup, c, canaryCode))

	refused := w.user(client, "refused")
	c = card(refused)
	w.AddFault(emulator.Fault{
		Operation: emulator.OpExchange, Times: 1, Status: http.StatusBadRequest,
		Body: `{"error":{"code":"BadArgument","message":"bad token ` + canaryRefused + `"}}`,
	})
	answered("a refused exchange", http.StatusPreconditionFailed)(refused.TokenExchange(ctx, c.ExchangeID(), connection, canaryRefused))
	w.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Status: http.StatusOK, Body: `{"token":`})
	answered("a garbled exchange", http.StatusPreconditionFailed)(refused.TokenExchange(ctx, c.ExchangeID(), connection, canaryRefused+"-2"))
	w.AddFault(emulator.Fault{Operation: emulator.OpExchange, Times: 1, Status: http.StatusInternalServerError})
	answered("a failed exchange", http.StatusInternalServerError)(refused.TokenExchange(ctx, c.ExchangeID(), connection, canaryRefused+"-3"))

	for _, status := range []int{http.StatusBadRequest, http.StatusInternalServerError, 0} {
		w.AddFault(emulator.Fault{Operation: emulator.OpPostActivity, Times: 1, Status: status, Drop: status == 0})
		answered("a card that does not arrive", http.StatusOK)(w.user(client, "cardless").SendMessage(ctx, "login graph"))
	}
	w.ClearFaults()
	odd := w.user(client, "odd")
	answered("an odd value", http.StatusBadRequest)(odd.Invoke(ctx, "signin/tokenExchange", "", []string{canaryJWT}))
	answered("an odd code", http.StatusNotFound)(odd.Invoke(ctx, "signin/verifyState", "", []string{canaryCode}))
	answered("a foreign connection", http.StatusOK)(odd.TokenExchange(ctx, "foreign", "elsewhere", canaryJWT))
	if status, answer, err := post(ctx, client, []byte(`{"type":"invoke","value":{"token":"`+canaryJWT+`"}`)); err != nil || status != http.StatusBadRequest {
		t.Errorf("malformed JSON: answered %d %s, %v", status, answer, err)
	}
	wiki, browsed := w.user(client, "wiki"), &pages{RoundTripper: client.Transport}
	popupSecrets := loop(t, wiki, browser(t, browsed), func() {})
	s.also(popupSecrets...)
	s.also(w.provider.Secrets()...)
	s.also(w.verifiers()...)
	answered("a query with a wrong code", http.StatusOK)(wiki.Invoke(ctx, "composeExtension/query", "", map[string]any{"commandId": "insertWiki", "state": canaryCode}))
	onTheWire(t, w, s)
	// The code, the state and the nonce belong to this browser.
	s.in(t, "popup pages", browsed.all.Bytes(), popupSecrets[:3]...)

	for _, path := range []string{"/auth/start?ticket=" + canaryCode, "/auth/callback?state=" + canaryCode + "&code=" + canaryJWT, "/nowhere", "/readyz"} {
		_, body := b.ask(t, path)
		s.in(t, "error pages of the bot", []byte(body))
	}

	// What operators see of all this, while the bot runs and after it has
	// stopped.
	op := operatorOf(t, b)
	op.settled(t)
	id := op.attempt(t, "29:refused")
	s.look(t, b, id, "--config", b.config)
	for _, path := range []string{"/info", "/overview", "/attempts?limit=200", "/attempts/" + id, "/events?limit=1000", "/metrics", "/healthz", "/nowhere"} {
		s.in(t, "operator API: "+path[:min(9, len(path))], op.get(t, path, "application/json"))
	}
	for _, path := range []string{
		"/", "/attempts", "/attempts/" + id, "/users/29:refused", "/connections/" + connection, "/connections/wiki", "/diagram",
		"/search?q=refused", "/attempts/act?state=CardSent&action=cancel", "/nowhere",
	} {
		s.in(t, "console pages", op.get(t, path, "text/html"))
	}
	if cluster == nil {
		s.in(t, "snapshot", op.get(t, "/snapshot", "*/*"))
		s.files(t, "files of a running bolt store", filepath.Dir(b.db), b.config)
	}
	p.stopped(t)
	s.look(t, b, id, "--store", address)
	s.in(t, "log at level trace", b.log())
	if cluster == nil {
		s.files(t, "files of a stopped bolt store", filepath.Dir(b.db), b.config)
	} else {
		s.database(t, cluster)
	}

	var searched []string
	for _, place := range slices.Sorted(maps.Keys(s.places)) {
		searched = append(searched, fmt.Sprintf("%s (%d bytes)", place, s.places[place]))
		if s.places[place] == 0 {
			t.Errorf("nothing was found at %s, so nothing was searched", place)
		}
	}
	t.Logf("%d secrets were searched for, and not found, in:\n%s", len(s.secrets), strings.Join(searched, "\n"))
	for _, place := range places(cluster != nil) {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(s.places)), func(p string) bool { return strings.HasPrefix(p, place) }) {
			t.Errorf("%s: not searched", place)
		}
	}
}

// places lists where a person can look.
func places(postgres bool) []string {
	all := []string{
		"answers to invokes", "popup pages", "error pages of the bot", "operator API: /info", "operator API: /metrics", "operator API: /events",
		"console pages", "log at level trace", "inspect", "list", "watch", "export", "diagram", "doctor", "config", "explain",
	}
	if postgres {
		return append(all, "table", "pg_dump", "data directory of the server")
	}
	return append(all, "snapshot", "files of a running bolt store", "files of a stopped bolt store")
}

// database searches every table as text, a dump, and the files of the server: its
// log, heap and write-ahead log.
func (s *search) database(t *testing.T, cluster *pgtest.Cluster) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), cluster.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), `set bytea_output = 'escape'`); err != nil { // show readable bytes unescaped
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), `select quote_ident(schemaname) || '.' || quote_ident(tablename) from pg_tables where schemaname = 'bot'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 5 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	var all int
	for _, table := range tables {
		var text bytes.Buffer
		if _, err := conn.PgConn().CopyTo(t.Context(), &text, "copy (select * from "+table+") to stdout"); err != nil {
			t.Fatal(err)
		}
		all += text.Len()
		s.in(t, "tables", text.Bytes())
	}
	if all < 1000 {
		t.Errorf("the tables %v hold %d bytes", tables, all)
	}
	dump := exec.CommandContext(t.Context(), filepath.Join(cluster.Binaries(), "pg_dump"), "--inserts", cluster.DSN())
	text, err := dump.Output()
	if err != nil {
		t.Errorf("pg_dump: %v", err)
	}
	s.in(t, "pg_dump", text)
	dir, err := url.Parse(cluster.DSN())
	if err != nil {
		t.Fatal(err)
	}
	s.files(t, "data directory of the server", dir.Query().Get("host"))
}

func decoded(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// endpoint is the bot's operator endpoint on TCP.
type endpoint struct {
	base   string
	client *operator.Client
}

func operatorOf(t *testing.T, b *bot) *endpoint {
	t.Helper()
	config, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(config), "\noperator: ")
	at, _, _ := strings.Cut(rest, "\n")
	c := operator.NewClient(operator.Endpoint{Network: "tcp", Address: at}, tokensvc.NewSecret(canaryOperator))
	t.Cleanup(func() { _ = c.Close() })
	return &endpoint{"http://" + at, c}
}

func (e *endpoint) settled(t *testing.T) {
	t.Helper()
	eventually(t, "no callback is owed", func() bool {
		o, err := e.client.Overview(t.Context())
		return err == nil && o.Owed == 0
	})
}

// attempt returns the id of a user's first attempt.
func (e *endpoint) attempt(t *testing.T, user string) string {
	t.Helper()
	page, err := e.client.List(t.Context(), operator.Query{User: user})
	if err != nil || len(page.Attempts) == 0 {
		t.Fatalf("no attempts: %v", err)
	}
	return page.Attempts[len(page.Attempts)-1].ID
}

// get returns the body at a path, whatever the status.
func (e *endpoint) get(t *testing.T, path, accept string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+canaryOperator)
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusUnauthorized {
		t.Errorf("GET %s: %d, %v", path, resp.StatusCode, err)
	}
	return body
}

// onTheWire checks that every secret was really used, since a search for a secret
// that never occurred proves nothing.
func onTheWire(t *testing.T, w *world, s *search) {
	t.Helper()
	var all bytes.Buffer
	for _, e := range w.requests() {
		all.WriteString(e.target + " " + e.bearer + "\n")
		all.Write(e.body)
		all.Write(e.answer)
	}
	for _, secret := range secrets() {
		if !bytes.Contains(all.Bytes(), []byte(secret)) {
			t.Errorf("%s was never on the wire", secret)
		}
	}
	if len(w.verifiers()) == 0 || len(w.provider.Secrets()) < 3 || len(s.secrets) < 20 {
		t.Errorf("the popup had the verifiers %v and the secrets %v", w.verifiers(), w.provider.Secrets())
	}
}

func secrets() []string {
	return []string{
		canaryJWT, canaryRefused, canaryCode, canaryCode + "-wrong", canaryCode + "-dropped",
		canaryUser, canaryBot, canaryLink, canarySAS, clientSecret,
	}
}

// clean fails the test if content contains a secret.
func clean(t *testing.T, where string, content []byte) {
	t.Helper()
	s := newSearch()
	s.also(secrets()...)
	s.in(t, where, content)
}

// look runs the reading commands in all their formats and searches what they
// print.
func (s *search) look(t *testing.T, b *bot, id string, where ...string) {
	t.Helper()
	for _, command := range []string{
		"inspect", "inspect -o json", "inspect --check", "inspect " + id, "inspect " + id + " -o json",
		"inspect " + id + " --diagram", "inspect " + id + " --sequence", "diagram --attempt " + id,
		"list", "list -o wide", "list -o json", "list -o jsonl", "list -o csv",
		"watch --events --since 1h --count 1 --interval 100ms", "watch --events --since 1h --count 1 --interval 100ms -o jsonl",
		"export", "export -o csv", "export --anonymize",
	} {
		stdout, stderr, code := b.run(t, append(strings.Fields(command), where...)...)
		if code != 0 && (command != "inspect --check" || code != 5) {
			t.Errorf("%s: exit %d: %s", command, code, stderr)
		}
		name, _, _ := strings.Cut(command, " ")
		s.in(t, name, []byte(stdout+stderr))
	}
	for _, command := range []string{"doctor", "config", "config -o json", "config check " + b.config, "explain"} {
		args := strings.Fields(command)
		if args[0] != "explain" && len(args) < 3 || command == "config -o json" {
			args = append(args, "--config", b.config)
		}
		stdout, stderr, _ := b.run(t, args...)
		s.in(t, args[0], []byte(stdout+stderr))
	}
}

// operatorJSON returns the body of an answer of the operator endpoint.
func operatorJSON(t *testing.T, b *bot, path string) []byte {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", b.db+".sock")
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://operator"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("GET %s: status %d, %v: %s", path, resp.StatusCode, err, body)
	}
	return body
}

// TestPlaygroundShowsNoToken checks that neither the page of `signin-engine dev`
// nor its terminal shows any of the tokens that were used.
func TestPlaygroundShowsNoToken(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dev := exec.CommandContext(ctx, program(t, released), "dev", "--store", "bolt:"+filepath.Join(t.TempDir(), "dev.db"),
		"--listen", "127.0.0.1:0", "--emulator", "127.0.0.1:0", "--operator", "127.0.0.1:0", "--log-level", "trace")
	dev.Cancel = func() error { return dev.Process.Signal(os.Interrupt) }
	terminal := &written{}
	dev.Stdout, dev.Stderr = terminal, terminal
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = dev.Wait() // it was interrupted
	}()
	link := regexp.MustCompile(`playground +(http://\S+)`)
	eventually(t, "dev says where its playground is", func() bool { return link.MatchString(terminal.String()) })
	base := link.FindStringSubmatch(terminal.String())[1]
	var page []byte
	eventually(t, "the playground shows the sign-ins", func() bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base, nil)
		if err != nil {
			return false
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		page, err = io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK && bytes.Contains(page, []byte("Complete"))
	})
	s := newSearch()
	s.also(canaryUser, canaryBot, "outbound-auth-none", canarySAS)
	s.in(t, "playground", page)
	s.in(t, "terminal", []byte(terminal.String()))
}

// written collects what a process writes.
type written struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.Write(p)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}
