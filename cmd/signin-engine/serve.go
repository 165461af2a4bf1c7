package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

func (c *cli) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the reference bot on POST /api/messages",
		Long: `Serves the reference bot with durable sign-in on the configured connections.

It also opens an operator endpoint. For a bbolt file this is a unix socket
beside the file (signin.db.sock), which the other commands find by themselves.
On Postgres any number of processes can serve one bot. The schema is migrated at
the start unless auto_migrate is false.

SIGTERM stops it in order: it takes no new activities, finishes those in flight,
and leaves every attempt consistent.`,
		Example: `  signin-engine serve --config bot.yaml
  signin-engine serve --config bot.yaml --store postgres://bot@db/bots`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.checkedSettings(cmd)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, c.logger(cfg.Log))
		},
	}
	botFlags(cmd)
	return cmd
}

// botFlags adds a flag for each setting that a single value can express.
func botFlags(cmd *cobra.Command) {
	d := config.Default()
	f := cmd.Flags()
	f.String("app-id", "", "the bot's app `id`")
	f.String("tenant-id", "", "tenant of a single-tenant bot")
	f.String("cloud", d.Cloud, "public, gcc, gcc_high, dod or china: presets every URL, issuer and host that is not set")
	f.String("client-secret-file", "", "`file` with the bot's client secret")
	f.String("outbound-auth", d.OutboundAuth, "credentials, or none beside an emulator")
	f.String("listen", d.Listen, "`host:port` of the bot")
	f.String("token-service-url", d.TokenServiceURL, "`URL` of the Token Service")
	f.String("login-url", d.LoginURL, "`URL` of Entra")
	f.Duration("wait-for-store", d.WaitForStore, "how long to wait for a store that takes no commit yet")
	f.Bool("auto-migrate", d.AutoMigrate, "bring an older Postgres schema up to date at the start")
	f.String("inbound-auth", d.InboundAuth, "jwt, or none on a loopback listener")
	f.StringSlice("service-url", nil, "`host` that activities may come from, beside Microsoft's")
}

// serve runs the bot until ctx is done.
func serve(ctx context.Context, cfg config.Config, log zerolog.Logger) error {
	listener, err := listenTCP(ctx, cfg.Listen)
	if err != nil {
		return err
	}
	s, err := newService(ctx, cfg, listener.Addr().String(), log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	about, err := s.store.Info(ctx)
	if err != nil {
		return errors.Join(err, listener.Close(), s.close())
	}
	doors, err := s.bot.Doors(ctx)
	if err != nil {
		return errors.Join(err, listener.Close(), s.close())
	}
	if cfg.Metrics != "" {
		l, err := listenTCP(ctx, cfg.Metrics)
		if err != nil {
			for _, d := range doors {
				err = errors.Join(err, d.Listener.Close())
			}
			return errors.Join(err, listener.Close(), s.close())
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", s.metrics.Handler())
		doors = append(doors, teamsbot.Door{Listener: l, Handler: mux})
		log.Info().Str("metrics", "http://"+l.Addr().String()+"/metrics").Msg("metrics")
	}
	log.Info().Str("store", about.Backend+":"+about.Where).Msg("store open")
	return s.run(ctx, listener, doors...)
}

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
