package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

type options struct {
	rounds   int
	duration time.Duration
	users    []int
	kinds    []string
	flows    []string
	parts    []string
	dsn      string
	out      string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	asBot := flag.String("bot", "", "be the bot under test (the program starts itself so)")
	upstream := flag.String("upstream", "", "base URL of the upstreams, for -bot")
	where := flag.String("store", "", "file or DSN, for -bot")
	flag.IntVar(&o.rounds, "rounds", 5, "paired rounds; the figures are their medians")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "of one measurement")
	users := flag.String("users", "16,64", "concurrent users")
	kinds := flag.String("kinds", "bare,memory,bolt,postgres,bolt-cache,postgres-cache", "bots; bare is the ceiling and always runs, -cache has policy.token_cache")
	names := flag.String("flows", "sso,sso jwt,sso x3,popup,silent,silent x10", "flows")
	parts := flag.String("parts", "flows,growth,instances", "what to measure")
	flag.StringVar(&o.dsn, "postgres", os.Getenv("SIGNIN_TEST_POSTGRES"), "DSN; empty starts a throw-away cluster")
	flag.StringVar(&o.out, "o", "", "directory for RESULTS.md and its plots; empty prints only")
	flag.Parse()
	if *asBot != "" {
		return runBot(ctx, *asBot, *upstream, *where)
	}
	o.kinds, o.flows, o.parts = strings.Split(*kinds, ","), strings.Split(*names, ","), strings.Split(*parts, ",")
	for s := range strings.SplitSeq(*users, ",") {
		var n int
		if _, err := fmt.Sscan(s, &n); err != nil {
			return fmt.Errorf("-users %q: %w", s, err)
		}
		o.users = append(o.users, n)
	}
	if !slices.Contains(o.kinds, kindBare) {
		o.kinds = append([]string{kindBare}, o.kinds...)
	}
	return measure(ctx, o)
}

// bench is one run, with its upstreams, directory and database.
type bench struct {
	options
	emu  *emulator.Server
	base string // URL of the upstreams
	dir  string
	dsn  string
}

func measure(ctx context.Context, o options) error {
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: connection, SSO: true}}})
	emu.SetRecording(false)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b := &bench{options: o, emu: emu, base: "http://" + l.Addr().String(), dsn: o.dsn}
	emu.SetBaseURL(b.base)
	srv := &http.Server{Handler: emu, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }()
	defer func() { _ = srv.Close() }()
	if b.dir, err = os.MkdirTemp("", "signin-bench-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	if b.dsn == "" && slices.ContainsFunc(o.kinds, func(k string) bool { return strings.HasPrefix(k, kindPostgres) }) {
		dsn, stop, err := pgtest.Throwaway() //nolint:contextcheck // Throwaway has its own timeout
		if err != nil {
			return err
		}
		defer func() { _ = stop() }()
		b.dsn = dsn
	}
	r := &report{options: o}
	for _, part := range []struct {
		name string
		run  func(context.Context, *report) error
	}{{"flows", b.flowsPart}, {"growth", b.growthPart}, {"instances", b.instancesPart}} {
		if !slices.Contains(o.parts, part.name) {
			continue
		}
		if err := part.run(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if o.out == "" {
		return nil
	}
	return r.write(o.out)
}

// where returns the file or the DSN of a store.
func (b *bench) where(kind, name string) string {
	if strings.HasPrefix(kind, kindPostgres) {
		return pgtest.WithParam(b.dsn, "schema", "bench_"+name)
	}
	return filepath.Join(b.dir, name+".db")
}

// start starts a bot of a kind. The name distinguishes its store from others.
func (b *bench) start(ctx context.Context, kind, name string) (*bot, error) {
	one, err := startBot(ctx, kind, b.base, b.where(kind, name))
	if err == nil {
		fmt.Fprintf(os.Stderr, "bench: %s at %s (profiles under /debug/pprof/)\n", kind, one.url)
	}
	return one, err
}

// flowsPart runs every bot on every flow. The bots take turns, so that a change
// in the machine's speed affects all of them.
func (b *bench) flowsPart(ctx context.Context, r *report) error {
	bots := map[string]*bot{}
	defer func() {
		for _, one := range bots {
			_ = one.stop()
		}
	}()
	for _, kind := range b.kinds {
		one, err := b.start(ctx, kind, "flows_"+strings.ReplaceAll(kind, "-", "_"))
		if err != nil {
			return err
		}
		bots[kind] = one
	}
	for _, f := range flows() {
		if !slices.Contains(b.flows, f.name) {
			continue
		}
		for _, n := range f.levels(b.users) {
			for round := -1; round < b.rounds; round++ { // round -1 warms up
				for _, kind := range kindsOf(b.kinds, f) {
					d := b.duration
					if round < 0 {
						d = min(d, time.Second)
					}
					got, err := load(ctx, b.emu, []*bot{bots[kind]}, f, n, d)
					if err != nil {
						return fmt.Errorf("%s on %s: %w", f.name, kind, err)
					}
					b.emu.Reset()
					if round >= 0 {
						r.table.add(cell{flow: f.name, users: n, kind: kind}, got)
					}
					if ctx.Err() != nil {
						return errors.New("interrupted")
					}
				}
			}
			r.table.show(os.Stdout, f.name, n, kindsOf(b.kinds, f))
		}
	}
	return nil
}

// kindsOf leaves out bots with a token cache if the flow would not use it.
func kindsOf(kinds []string, f flow) []string {
	if f.asksAgain {
		return kinds
	}
	return slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return strings.HasSuffix(k, withCache) })
}
