package docs_test

// The code of docs/embedding.md, compiled and run. TestEmbedding holds the two
// together.

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/directsso"
	"github.com/signin-engine/signin-engine/transport/metrics"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/traces"
)

// TestEmbedding: every Go block of docs/embedding.md is in the sources of this
// package or in an example, apart from its indentation.
func TestEmbedding(t *testing.T) {
	var code strings.Builder
	for _, pattern := range []string{"docs/embedding*_test.go", "examples/*/*.go"} {
		sources, err := filepath.Glob("../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range sources {
			code.WriteString(flush(read(t, strings.TrimPrefix(name, "../"))))
		}
	}
	blocks := 0
	for block := range strings.SplitSeq(read(t, "docs/embedding.md"), "```go\n") {
		if blocks++; blocks == 1 {
			continue // what comes before the first
		}
		block, _, _ = strings.Cut(block, "```")
		if !strings.Contains(code.String(), flush(block)) {
			t.Errorf("docs/embedding.md has code that no test compiles:\n%s", block)
		}
	}
	if blocks < 8 {
		t.Errorf("docs/embedding.md has only %d blocks of Go", blocks-1)
	}
}

// flush is text without indentation.
func flush(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimLeft(line, "\t "))
	}
	return b.String()
}

type parts struct {
	store     store.Store
	engine    *machine.Engine
	hosts     *teams.AllowList
	connector *teams.Connector
}

// wire is the production wiring. What the emulator needs beside it comes in as
// arguments.
func wire(path, tokenServiceURL, loginURL, appID, tenantID string, secret tokensvc.Secret, serviceHosts []string, log zerolog.Logger) (*parts, error) {
	st, err := boltstore.Open(path) // several instances: pgstore.Open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	credentials, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: loginURL, Tenant: tenantID, ClientID: appID, ClientSecret: secret,
	})
	if err != nil {
		return nil, err
	}
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: tokenServiceURL, Credentials: credentials})
	if err != nil {
		return nil, err
	}
	hosts, err := teams.NewAllowList(serviceHosts, false) // nil: Microsoft's own
	if err != nil {
		return nil, err
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: credentials, ServiceURLs: hosts})
	if err != nil {
		return nil, err
	}
	eng, err := machine.New(machine.Config{
		AppID: appID, Store: st, Tokens: tokens, Messenger: connector, Log: log,
		Connections: []machine.Connection{
			{Name: "graph", DisplayName: "Microsoft Graph"},
			{Name: "github", DisplayName: "GitHub", NoSSO: true},
		},
	})
	if err != nil {
		return nil, err
	}
	return &parts{store: st, engine: eng, hosts: hosts, connector: connector}, nil
}

func directly(appID string, st store.Store, credentials machine.OnBehalfOf, keys func() ([]store.SecretKey, error)) ([]machine.Connection, error) {
	direct, err := directsso.New(directsso.Config{
		AppID: appID, Connection: "calendar", Scopes: []string{"https://graph.microsoft.com/Calendars.Read"},
		SignInLink: "https://bot.example.com/consent", OnBehalfOf: credentials,
		Store: st, Keys: keys, // of 32 bytes, kept outside of the store
	})
	if err != nil {
		return nil, err
	}
	calendar := machine.Connection{Name: "calendar", Tokens: direct}
	return []machine.Connection{{Name: "graph"}, calendar}, nil
}

func endpoint(appID string, eng *machine.Engine, hosts *teams.AllowList, bot teams.Bot, log zerolog.Logger) (http.Handler, error) {
	auth, err := teams.NewAuthenticator(teams.AuthConfig{AppID: appID, ServiceURLs: hosts, Log: log})
	if err != nil {
		return nil, err
	}
	return teams.NewHandler(eng, teams.Config{
		InboundAuth: teams.InboundAuthJWT, Authenticator: auth, ServiceURLs: hosts, Log: log,
	}, bot)
}

func ownEndpoint(eng *machine.Engine, hosts *teams.AllowList, bot teams.Bot, gateway func(http.Handler) http.Handler) (http.Handler, error) {
	return teams.NewHandler(eng, teams.Config{
		InboundAuth: teams.InboundAuthCustom, Authenticate: gateway, ServiceURLs: hosts,
	}, bot)
}

// ledger stands for what the bot itself does when a user has signed in.
type ledger struct{ entries []string }

func (l *ledger) Record(_ context.Context, user, connection string) error {
	l.entries = append(l.entries, user+" "+connection)
	return nil
}

func handlers(eng *machine.Engine, book *ledger, log zerolog.Logger) error {
	graph, err := eng.Flow("graph")
	if err != nil {
		return err
	}
	graph.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		return turn.Send(ctx, "You are signed in.")
	})
	graph.OnSignInFailure(func(ctx context.Context, turn *machine.Turn, failure *machine.Failure) error {
		if failure != nil { // the user's Teams client said so
			return turn.Send(ctx, "Sign-in failed: "+failure.Code)
		}
		if r := turn.Refusal(); r != nil && !r.Ended { // the card's button still works
			return turn.Send(ctx, "Use the Sign In button to continue.")
		}
		return turn.Send(ctx, "Sign-in failed.")
	})

	eng.OnSignIn(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		return eng.Once(ctx, turn.DeliveryKey()+"/ledger", func(ctx context.Context) error {
			return book.Record(ctx, turn.Conversation().UserID, turn.Connection())
		})
	})
	eng.OnSignInFailure(func(_ context.Context, turn *machine.Turn, failure *machine.Failure) error {
		log.Info().Str("connection", turn.Connection()).Str("attempt", turn.Attempt()).Bool("client", failure != nil).Msg("sign-in failed")
		return nil // failure is nil for what happened on the server side
	})
	tracer := noop.NewTracerProvider().Tracer("bot")
	eng.AroundSignIn(func(next machine.CompleteHandler) machine.CompleteHandler {
		return func(ctx context.Context, turn *machine.Turn, token tokensvc.Token) error {
			ctx, span := tracer.Start(ctx, "signed in to "+turn.Connection())
			defer span.End()
			return next(ctx, turn, token)
		}
	})
	return nil
}

var errNoLicence = errors.New("this user has no licence")

func permanently(graph *machine.Flow, licensed func(user string) bool) {
	graph.OnSignInComplete(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		if !licensed(turn.Conversation().UserID) {
			return machine.Permanent(errNoLicence) // closed as undeliverable, not repeated, not stuck
		}
		return nil
	})
}

func transactionally(graph *machine.Flow) {
	graph.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		tx, ok := turn.Tx().(pgx.Tx)
		if !ok {
			return machine.Permanent(errors.New("the store has no transactions"))
		}
		_, err := tx.Exec(ctx, `insert into app.sign_ins (delivery, user_id) values ($1, $2)`,
			turn.DeliveryKey(), turn.Conversation().UserID)
		return err // nil commits this row together with the acknowledgement
	})
}

// assistant is the bot's own code.
func assistant(graph *machine.Flow, answer func(ctx context.Context, turn *machine.Turn, token tokensvc.Token) error) teams.Bot {
	return teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		if turn.Activity().Type != "message" {
			return nil, nil // an invoke that nobody knows is answered 501
		}
		result, err := graph.SignIn(ctx, turn)
		if err != nil {
			return nil, turn.Send(ctx, "Sign-in is not available right now.")
		}
		switch result.Pending {
		case machine.NotPending:
			return nil, answer(ctx, turn, result.Token)
		case machine.CardSent:
			return nil, nil // the card says it
		case machine.CardOut:
			return nil, turn.Send(ctx, "Please use the Sign In button of the card above.")
		case machine.UnderWay:
			return nil, turn.Send(ctx, "You are being signed in on another device.")
		default:
			return nil, nil
		}
	})
}

// serve runs the bot until ctx is done, and ends in order.
func serve(ctx context.Context, eng *machine.Engine, st store.Store, srv *http.Server, l net.Listener) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx: it ends at step 2
	defer stop()
	engine := make(chan error, 1)
	go func() { engine <- eng.Run(running) }()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()

	var err error
	select {
	case <-ctx.Done(): // SIGTERM
	case err = <-served:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = errors.Join(err, srv.Shutdown(grace)) // 1. no new activities; those in flight are answered
	stop()                                      // 2. the engine claims nothing more,
	err = errors.Join(err, <-engine)            // 3. finishes its callbacks and writes what it owes
	return errors.Join(err, st.Close())         // 4. nobody uses the store any more
}

func operators(ctx context.Context, path string, eng *machine.Engine, st store.Store, log zerolog.Logger) error {
	reader := operator.NewDirect(st, operator.DefaultRules(), operator.Info{Live: true})
	door := operator.HandlerConfig{
		Reader: reader, Actor: operator.NewDirectActor(reader, eng), Ready: eng.Ready, Log: log,
	}
	if snapshotter, ok := st.(operator.Snapshotter); ok {
		door.Snapshot = snapshotter
	}
	socket, err := operator.SocketBeside(path).Listen(ctx) // mode 0600; over TCP set door.Token
	if err != nil {
		return err
	}
	return operator.Serve(ctx, socket, operator.NewHandler(door))
}

func measured(st store.Store, cfg *machine.Config, mux *http.ServeMux, version string, log zerolog.Logger) {
	shown := metrics.New(metrics.Config{Store: st, Version: version, Log: log})
	cfg.Hooks = shown.Hooks(cfg.Hooks)
	cfg.Store = shown.Store(st)
	mux.Handle("GET /metrics", shown.Handler())
}

func traced(provider trace.TracerProvider, cfg *machine.Config, bot http.Handler) http.Handler {
	spans := traces.New(provider)
	cfg.Hooks = spans.Hooks(cfg.Hooks)
	bot = spans.Handler(bot)
	return bot
}

func ready(eng *machine.Engine) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := eng.Ready(r.Context()); err != nil {
			http.Error(w, "store unavailable", http.StatusServiceUnavailable)
		}
	})
	return mux
}

func several(ctx context.Context, turn *machine.Turn, github *machine.Flow) error {
	if _, err := turn.SignIn(ctx, machine.WithConnection("github"), machine.WithCardText("Connect GitHub")); err != nil {
		return err
	}
	if err := turn.SignOut(ctx, "graph", "github"); err != nil { // both, whatever happens to one
		return err
	}
	statuses, err := turn.ConnectionStatus(ctx)
	if err != nil {
		return err
	}
	for _, s := range statuses {
		if s.Connection == github.Name() && s.HasToken {
			return turn.Send(ctx, "GitHub is connected.")
		}
	}
	return turn.SignOutAll(ctx)
}

func TestSignIn(t *testing.T) {
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}, {Name: "github"}}})
	azure := httptest.NewServer(emu) // Token Service, Entra, connector and Graph
	defer azure.Close()
	emu.SetBaseURL(azure.URL)

	bot := startBot(t, azure.URL) // your wiring, pointed at azure.URL
	user := emu.Teams(bot + "/api/messages")

	if answer, err := user.SendMessage(t.Context(), "hello"); err != nil || answer.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", answer, err)
	}
	card, err := emu.WaitForCard(t.Context(), user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := user.TokenExchange(t.Context(), card.ExchangeID(), "graph", "sso-token")
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("tokenExchange: %+v, %v", answer, err)
	}
	if _, err := emu.WaitForText(t.Context(), user.Conversation.ID, "You are signed in."); err != nil {
		t.Fatal(err)
	}
}

// TestDirectly: the connection of that section is one that an engine takes.
func TestDirectly(t *testing.T) {
	st, err := boltstore.Open(filepath.Join(t.TempDir(), "signin.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	credentials, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: "https://login.example", ClientID: "app", ClientSecret: tokensvc.NewSecret("secret"),
	})
	if err != nil {
		t.Fatal(err)
	}
	connections, err := directly("app", st, credentials, func() ([]store.SecretKey, error) {
		return []store.SecretKey{store.NewSecretKey(time.Now())}, nil
	})
	if err != nil || len(connections) != 2 || connections[1].Tokens == nil {
		t.Errorf("%+v, %v", connections, err)
	}
}

// startBot wires and serves a bot, and stops it when the test ends.
func startBot(t *testing.T, azure string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "signin.db")
	p, err := wire(path, azure, azure, "00000000-0000-4000-8000-0000000000b0", "", tokensvc.NewSecret("secret"),
		[]string{strings.TrimPrefix(azure, "http://")}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	book := &ledger{}
	if err := handlers(p.engine, book, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	graph, err := p.engine.Flow("graph")
	if err != nil {
		t.Fatal(err)
	}
	permanently(graph, func(string) bool { return true })
	h, err := teams.NewHandler(p.engine, teams.Config{
		InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: p.hosts,
	}, assistant(graph, func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error { return turn.Send(ctx, "hello") }))
	if err != nil {
		t.Fatal(err)
	}
	mux := ready(p.engine)
	mux.Handle("/api/messages", traced(noop.NewTracerProvider(), new(machine.Config), h))
	measured(p.store, new(machine.Config), mux, "v1", zerolog.Nop())

	ctx, stop := context.WithCancel(t.Context())
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	looking := make(chan error, 1)
	go func() { looking <- operators(ctx, path, p.engine, p.store, zerolog.Nop()) }()
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, p.engine, p.store, teams.NewServer(l.Addr().String(), mux), l) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-looking, ignoreClosed(<-ended)); err != nil {
			t.Error(err)
		}
		if len(book.entries) != 1 {
			t.Errorf("the ledger has %v", book.entries)
		}
		if _, err := os.Stat(path + ".log0"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a log is left behind: %v", err)
		}
	})
	waitFor(t, "http://"+l.Addr().String()+"/readyz")
	waitFor(t, "http://"+l.Addr().String()+"/metrics")
	return "http://" + l.Addr().String()
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// waitFor waits until a page is 200.
func waitFor(t *testing.T, page string) {
	t.Helper()
	for range 100 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, page, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s is not ready", page)
}

// Compiled, and not run: they need a database, or a turn.
var (
	_ = transactionally
	_ = several
	_ = endpoint
	_ = ownEndpoint
)
