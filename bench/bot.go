package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// The bots under test.
const (
	kindBare     = "bare" // makes the same calls without an engine
	kindMemory   = "memory"
	kindBolt     = "bolt"
	kindPostgres = "postgres"

	// withCache is the suffix of a kind of bot that has a token cache.
	withCache = "-cache"
)

const (
	appID      = "00000000-0000-0000-0000-0000000000b0"
	connection = "graph"
)

// stats is what a bot measures of its own process.
type stats struct {
	CPU     time.Duration // user and system
	MaxRSS  int64         // bytes
	Anon    int64         // bytes of the process's own, without the file that bbolt maps
	Commits int64
	Groups  int64 // calls to the backend that wrote
	Written int64 // bytes written to the block layer
}

// runBot is the child process. It prints its address and serves until it is
// stopped.
func runBot(ctx context.Context, kind, upstream, where string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	bearer := tokensvc.Static(tokensvc.NewSecret("bot"))
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: upstream, Credentials: bearer})
	if err != nil {
		return err
	}
	hosts, err := teams.NewAllowList(nil, true)
	if err != nil {
		return err
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{Tokens: bearer, ServiceURLs: hosts})
	if err != nil {
		return err
	}
	auth, err := teams.NewAuthenticator(teams.AuthConfig{
		AppID: appID, OpenIDMetadataURL: upstream + "/v1/.well-known/openidconfiguration", ServiceURLs: hosts, Log: zerolog.Nop(),
	})
	if err != nil {
		return err
	}
	var open, checked http.Handler
	counted := &countingStore{}
	finish := func() error { return nil }
	if kind == kindBare {
		open = &bare{tokens: tokens, out: connector}
		checked = auth.Middleware(open)
	} else {
		backend, cached := strings.CutSuffix(kind, withCache)
		if counted.Store, err = openStore(ctx, backend, where); err != nil {
			return err
		}
		eng, bot, err := engineBot(counted, tokens, connector, cached)
		if err != nil {
			return err
		}
		cfg := teams.Config{InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:0", ServiceURLs: hosts, Log: zerolog.Nop()}
		if open, err = teams.NewHandler(eng, cfg, bot); err != nil {
			return err
		}
		cfg.InboundAuth, cfg.Authenticator = teams.InboundAuthJWT, auth
		if checked, err = teams.NewHandler(eng, cfg, bot); err != nil {
			return err
		}
		running, stopped := context.WithCancel(context.WithoutCancel(ctx)) // the engine runs longer than the listener
		defer stopped()
		ran := make(chan error, 1)
		go func() { ran <- eng.Run(running) }()
		finish = func() error {
			stopped()
			return errors.Join(<-ran, counted.Close())
		}
	}
	mux := http.NewServeMux()
	mux.Handle(pathOpen, open)
	mux.Handle(pathJWT, checked)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.Handle("/debug/pprof/allocs", pprof.Handler("allocs"))
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		s, err := ownStats()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.Commits, s.Groups = counted.commits.Load(), counted.groups.Load()
		_ = json.NewEncoder(w).Encode(s)
	})
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(os.Stdout, "http://%s\n", l.Addr()); err != nil {
		return err
	}
	srv := teams.NewServer("", mux)
	go func() {
		<-ctx.Done()
		_ = srv.Close()
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return finish()
}

func openStore(ctx context.Context, kind, where string) (store.Store, error) {
	switch kind {
	case kindMemory:
		return memstore.New(time.Now), nil
	case kindBolt:
		return boltstore.Open(where)
	case kindPostgres:
		return pgstore.Open(ctx, where)
	default:
		return nil, fmt.Errorf("unknown kind of bot %q", kind)
	}
}

// countingStore counts the commits that were applied.
type countingStore struct {
	store.Store
	commits atomic.Int64
	groups  atomic.Int64
}

func (s *countingStore) Apply(ctx context.Context, commits []store.Commit) []error {
	s.groups.Add(1)
	errs := s.Store.Apply(ctx, commits)
	for i, err := range errs {
		if err == nil && len(commits[i].Put) > 0 {
			s.commits.Add(1)
		}
	}
	return errs
}

func engineBot(st store.Store, tokens *tokensvc.Client, connector *teams.Connector, cached bool) (*machine.Engine, teams.Bot, error) {
	policy := machine.DefaultPolicy()
	if cached {
		policy.TokenCache = 5 * time.Minute
	}
	eng, err := machine.New(machine.Config{
		AppID: appID, Store: st, Tokens: tokens, Messenger: connector, Policy: &policy,
		Connections: []machine.Connection{{Name: connection}}, Log: zerolog.Nop(),
	})
	if err != nil {
		return nil, nil, err
	}
	flow, err := eng.Flow(connection)
	if err != nil {
		return nil, nil, err
	}
	flow.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		return turn.Send(ctx, "Connected!")
	})
	return eng, teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := flow.SignIn(ctx, turn)
		return nil, err
	}), nil
}

// bare is the ceiling: it makes the same calls and stores nothing.
type bare struct {
	tokens *tokensvc.Client
	out    *teams.Connector
}

func (b *bare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Type, Name, ID, ServiceURL, ChannelID string
		From, Recipient                       struct{ ID, Name string }
		Conversation                          struct{ ID, ConversationType, TenantID string }
		Value                                 struct{ Token, State string }
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, teams.MaxBody)).Decode(&in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	ctx := r.Context()
	uc := tokensvc.UserConnection{UserID: in.From.ID, Connection: connection, ChannelID: in.ChannelID}
	to := store.Conversation{
		ServiceURL: in.ServiceURL, Channel: in.ChannelID, ID: in.Conversation.ID, Type: in.Conversation.ConversationType,
		Tenant: in.Conversation.TenantID, BotID: in.Recipient.ID, BotName: in.Recipient.Name, UserID: in.From.ID, UserName: in.From.Name,
	}
	var err error
	switch {
	case in.Type == "message":
		err = b.signIn(ctx, uc, to, in.ID)
	case strings.HasSuffix(in.Name, "tokenExchange"):
		if _, err = b.tokens.Exchange(ctx, uc, tokensvc.NewSecret(in.Value.Token)); err == nil {
			_, err = b.out.Send(ctx, to, machine.Message{ReplyTo: in.ID, Text: "Connected!"})
		}
	default:
		if _, err = b.tokens.GetToken(ctx, uc, tokensvc.NewSecret(in.Value.State)); err == nil {
			_, err = b.out.Send(ctx, to, machine.Message{ReplyTo: in.ID, Text: "Connected!"})
		}
	}
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

func (b *bare) signIn(ctx context.Context, uc tokensvc.UserConnection, to store.Conversation, id string) error {
	_, err := b.tokens.GetToken(ctx, uc, tokensvc.Secret{})
	if !errors.Is(err, tokensvc.ErrNoToken) {
		return err
	}
	res, err := b.tokens.GetSignInResource(ctx, tokensvc.State{
		Connection: uc.Connection, ActivityID: id, BotID: to.BotID, ChannelID: uc.ChannelID,
		ConversationID: to.ID, ServiceURL: to.ServiceURL, UserID: uc.UserID, MsAppID: appID,
	})
	if err != nil {
		return err
	}
	_, err = b.out.Send(ctx, to, machine.Message{ReplyTo: id, Card: &machine.OAuthCard{
		Text: "Please Sign In", Connection: uc.Connection, Button: "Sign In", Resource: res,
	}})
	return err
}

func ownStats() (stats, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return stats{}, err
	}
	s := stats{
		CPU:    time.Duration(u.Utime.Nano() + u.Stime.Nano()),
		MaxRSS: u.Maxrss * 1024,
	}
	s.Written = procNumber("/proc/self/io", "write_bytes:")
	s.Anon = procNumber("/proc/self/status", "RssAnon:") * 1024
	return s, nil
}

// procNumber reads a number from a file of the kernel, 0 if there is none.
func procNumber(file, name string) int64 {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if v, ok := strings.CutPrefix(line, name); ok {
			var n int64
			_, _ = fmt.Sscan(v, &n)
			return n
		}
	}
	return 0
}
