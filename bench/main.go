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

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

type options struct {
	rounds   int
	duration time.Duration
	users    []int
	kinds    []string
	flows    []string
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
	kinds := flag.String("kinds", "bare,memory,bolt,postgres", "bots; bare is the ceiling and always runs")
	names := flag.String("flows", "sso,sso x3,popup,silent", "flows")
	flag.StringVar(&o.dsn, "postgres", os.Getenv("SIGNIN_TEST_POSTGRES"), "DSN; empty starts a throw-away cluster")
	flag.StringVar(&o.out, "o", "", "directory for RESULTS.md and its plots; empty prints only")
	flag.Parse()
	if *asBot != "" {
		return runBot(ctx, *asBot, *upstream, *where)
	}
	o.kinds, o.flows = strings.Split(*kinds, ","), strings.Split(*names, ",")
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

// measure runs every bot on every flow, in turn, so that a drift of the
// machine's speed falls on all of them alike.
func measure(ctx context.Context, o options) error {
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: connection, SSO: true}}})
	emu.SetRecording(false)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	base := "http://" + l.Addr().String()
	emu.SetBaseURL(base)
	srv := &http.Server{Handler: emu, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }()
	defer func() { _ = srv.Close() }()

	dir, err := os.MkdirTemp("", "signin-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	dsn := o.dsn
	if dsn == "" && slices.Contains(o.kinds, kindPostgres) {
		pg, stop, err := throwawayPostgres(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = stop() }()
		dsn = pg
	}
	bots := map[string]*bot{}
	defer func() {
		for _, b := range bots {
			_ = b.stop()
		}
	}()
	for _, kind := range o.kinds {
		where := filepath.Join(dir, "signin.db")
		if kind == kindPostgres {
			where = dsn
		}
		if bots[kind], err = startBot(ctx, kind, base, where); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "bench: %s at %s (profiles under /debug/pprof/)\n", kind, bots[kind].url)
	}
	t := &table{}
	for _, f := range flows() {
		if !slices.Contains(o.flows, f.name) {
			continue
		}
		for _, n := range o.users {
			for round := -1; round < o.rounds; round++ { // the first one warms up
				for _, kind := range o.kinds {
					d := o.duration
					if round < 0 {
						d = min(d, time.Second)
					}
					r, err := load(ctx, emu, []*bot{bots[kind]}, f, n, d)
					if err != nil {
						return fmt.Errorf("%s on %s: %w", f.name, kind, err)
					}
					emu.Reset()
					if round >= 0 {
						t.add(cell{flow: f.name, users: n, kind: kind}, r)
					}
					if ctx.Err() != nil {
						return errors.New("interrupted")
					}
				}
			}
			t.print(os.Stdout, f.name, n, o.kinds)
		}
	}
	if o.out == "" {
		return nil
	}
	return t.write(o.out, o)
}
